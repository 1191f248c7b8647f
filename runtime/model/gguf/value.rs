//! Metadata values: scalars and texts are copied out, arrays stay spans of the file.

use crate::model::Bytes;

/// The type of a metadata value, as the file numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // the names say it all
pub enum ValueType {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64,
}

impl ValueType {
    pub(super) fn from_id(id: u32) -> Option<ValueType> {
        use ValueType::*;
        const TYPES: [ValueType; 13] = [U8, I8, U16, I16, U32, I32, F32, Bool, String, Array, U64, I64, F64];
        TYPES.get(id as usize).copied()
    }

    /// The type's name in error messages and listings.
    pub fn name(self) -> &'static str {
        use ValueType::*;
        match self {
            U8 => "u8",
            I8 => "i8",
            U16 => "u16",
            I16 => "i16",
            U32 => "u32",
            I32 => "i32",
            F32 => "f32",
            Bool => "bool",
            String => "string",
            Array => "array",
            U64 => "u64",
            I64 => "i64",
            F64 => "f64",
        }
    }

    /// Bytes of one value; `None` for strings and arrays.
    pub(super) fn size(self) -> Option<usize> {
        use ValueType::*;
        match self {
            U8 | I8 | Bool => Some(1),
            U16 | I16 => Some(2),
            U32 | I32 | F32 => Some(4),
            U64 | I64 | F64 => Some(8),
            String | Array => None,
        }
    }
}

/// One metadata value. Integers are widened; `kind` of the entry keeps the file's own type.
#[derive(Debug, Clone)]
pub enum Value {
    /// u8, u16, u32, u64.
    Unsigned(u64),
    /// i8, i16, i32, i64.
    Signed(i64),
    /// f32.
    F32(f32),
    /// f64.
    F64(f64),
    /// One byte, zero or not.
    Bool(bool),
    /// UTF-8.
    String(String),
    /// A span of the file.
    Array(Array),
}

impl Value {
    pub(super) fn scalar(kind: ValueType, bytes: &[u8]) -> Option<Value> {
        use ValueType::*;
        Some(match kind {
            U8 => Value::Unsigned(u64::from(*bytes.first()?)),
            I8 => Value::Signed(i64::from(*bytes.first()? as i8)),
            Bool => Value::Bool(*bytes.first()? != 0),
            U16 => Value::Unsigned(u64::from(u16::from_le_bytes(bytes.try_into().ok()?))),
            I16 => Value::Signed(i64::from(i16::from_le_bytes(bytes.try_into().ok()?))),
            U32 => Value::Unsigned(u64::from(u32::from_le_bytes(bytes.try_into().ok()?))),
            I32 => Value::Signed(i64::from(i32::from_le_bytes(bytes.try_into().ok()?))),
            F32 => Value::F32(f32::from_le_bytes(bytes.try_into().ok()?)),
            U64 => Value::Unsigned(u64::from_le_bytes(bytes.try_into().ok()?)),
            I64 => Value::Signed(i64::from_le_bytes(bytes.try_into().ok()?)),
            F64 => Value::F64(f64::from_le_bytes(bytes.try_into().ok()?)),
            String | Array => return None,
        })
    }
}

/// A metadata array: checked when the file was parsed, read again where it is needed.
///
/// The file may change in between (see [`super::super::mmap`]), so reading checks again and ends early rather
/// than trust a length: whoever needs all elements counts them.
#[derive(Clone)]
pub struct Array {
    /// Type of the elements.
    pub kind: ValueType,
    /// Number of elements.
    pub len: usize,
    pub(super) bytes: Bytes,
}

impl std::fmt::Debug for Array {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{}; {}]", self.kind.name(), self.len)
    }
}

impl Array {
    /// The elements of a string array, as bytes; of any other array, nothing.
    pub fn strings(&self) -> Strings<'_> {
        let is_string = self.kind == ValueType::String;
        Strings {
            rest: if is_string { &self.bytes } else { &[] },
            left: if is_string { self.len } else { 0 },
        }
    }

    /// The elements of an array of numbers or booleans; of a string array, nothing.
    pub fn scalars(&self) -> impl Iterator<Item = Value> {
        let size = self.kind.size().unwrap_or(usize::MAX);
        self.bytes.chunks_exact(size).map_while(|b| Value::scalar(self.kind, b))
    }
}

/// Iterator over the elements of a string array.
pub struct Strings<'a> {
    rest: &'a [u8],
    left: usize,
}

impl<'a> Iterator for Strings<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        self.left = self.left.checked_sub(1)?;
        let (len, rest) = self.rest.split_first_chunk::<8>()?;
        let (text, rest) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*len)).ok()?)?;
        self.rest = rest;
        Some(text)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.left))
    }
}

/// Types that metadata getters return. Any integer type is taken where the value fits.
pub trait FromValue<'a>: Sized {
    /// What the getter asks for, in error messages.
    const EXPECTED: &'static str;

    /// The value, if it is of this type and in its range.
    fn from_value(value: &'a Value) -> Option<Self>;
}

impl FromValue<'_> for u32 {
    const EXPECTED: &'static str = "an unsigned 32-bit number";

    fn from_value(value: &Value) -> Option<u32> {
        match *value {
            Value::Unsigned(v) => v.try_into().ok(),
            Value::Signed(v) => v.try_into().ok(),
            _ => None,
        }
    }
}

impl FromValue<'_> for f32 {
    const EXPECTED: &'static str = "a floating-point number";

    fn from_value(value: &Value) -> Option<f32> {
        match *value {
            Value::F32(v) => Some(v),
            Value::F64(v) => Some(v as f32),
            _ => None,
        }
    }
}

impl FromValue<'_> for bool {
    const EXPECTED: &'static str = "a bool";

    fn from_value(value: &Value) -> Option<bool> {
        match *value {
            Value::Bool(v) => Some(v),
            _ => None,
        }
    }
}

impl<'a> FromValue<'a> for &'a str {
    const EXPECTED: &'static str = "a string";

    fn from_value(value: &'a Value) -> Option<&'a str> {
        match value {
            Value::String(v) => Some(v),
            _ => None,
        }
    }
}

impl<'a> FromValue<'a> for &'a Array {
    const EXPECTED: &'static str = "an array";

    fn from_value(value: &'a Value) -> Option<&'a Array> {
        match value {
            Value::Array(v) => Some(v),
            _ => None,
        }
    }
}
