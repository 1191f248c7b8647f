//! GGUF, versions 2 and 3, little endian: the container of model files.
//!
//! ```text
//! "GGUF"  u32 version  u64 tensors  u64 keys
//! keys    x (string key, u32 type, value)
//! tensors x (string name, u32 n, u64 dims[n], u32 encoding, u64 offset from the data)
//! padding to general.alignment (32)
//! data
//! ```
//!
//! A string is u64 length and UTF-8 bytes; an array is u32 element type, u64 count and elements; `dims[0]` is the
//! contiguous dimension. The file is hostile until [`Gguf::parse`] returned: every count, length, offset and shape is
//! checked there once, against the file's end and against limits, before anything of its size is allocated.

mod encoding;
mod error;
mod value;

use std::collections::HashMap;

pub use encoding::Encoding;
pub use error::GgufError;
pub use value::{Array, FromValue, Strings, Value, ValueType};

use super::Bytes;

/// Most tensors of a file.
const TENSORS_MAX: u64 = 1 << 16;
/// Most metadata keys of a file.
const KEYS_MAX: u64 = 1 << 16;
/// Longest key or tensor name, in bytes.
const NAME_MAX: u64 = 1 << 10;
/// Longest text value, in bytes: chat templates are the longest.
const TEXT_MAX: u64 = 1 << 20;
/// Most dimensions of a tensor.
const DIMS_MAX: u32 = 4;
/// Least alignment, by the format: elements of every encoding are aligned where their tensor is.
const ALIGNMENT_MIN: u32 = 8;
/// Largest alignment.
const ALIGNMENT_MAX: u32 = 1 << 20;

/// One tensor's place and shape.
#[derive(Debug, Clone)]
pub struct TensorInfo {
    /// The name, as `blk.0.attn_q.weight`.
    pub name: String,
    /// Dimensions, contiguous first: [input features, output features] for a matrix.
    pub dims: Vec<u64>,
    /// How the elements are stored.
    pub encoding: Encoding,
    /// First byte, from the start of the file.
    pub start: u64,
    /// Size; `None` when the encoding's size is not known here.
    pub bytes: Option<u64>,
}

impl TensorInfo {
    /// Number of elements.
    pub fn elements(&self) -> u64 {
        self.dims.iter().product() // parse checked that it does not overflow
    }
}

/// A parsed file: metadata and tensor directory. Cheap to keep; arrays and tensors stay in the file's bytes.
pub struct Gguf {
    bytes: Bytes,
    /// Version of the format: 2 or 3.
    pub version: u32,
    /// `general.alignment`, or 32.
    pub alignment: u32,
    /// First byte of the tensors' data.
    pub data_start: u64,
    keys: Vec<(String, ValueType, Value)>,
    key_index: HashMap<String, usize>,
    tensors: Vec<TensorInfo>,
    tensor_index: HashMap<String, usize>,
}

impl Gguf {
    /// Parses and checks the whole header; tensor data is not touched.
    pub fn parse(bytes: Bytes) -> Result<Gguf, GgufError> {
        let mut reader = Reader { bytes: &bytes, at: 0 };
        let version = reader.magic_and_version()?;
        let n_tensors = reader.count("the number of tensors", TENSORS_MAX)?;
        let n_keys = reader.count("the number of keys", KEYS_MAX)?;

        let (mut keys, mut key_index) = (Vec::new(), HashMap::new());
        for index in 0..n_keys {
            let (key, kind, value) = reader.entry(&bytes)?;
            if key_index.insert(key.clone(), index as usize).is_some() {
                return Err(GgufError::DuplicateKey(key));
            }
            keys.push((key, kind, value));
        }
        let mut gguf = Gguf {
            bytes: bytes.clone(),
            version,
            alignment: 32,
            data_start: 0,
            keys,
            key_index,
            tensors: Vec::new(),
            tensor_index: HashMap::new(),
        };
        if let Some(alignment) = gguf.get::<u32>("general.alignment")? {
            if !alignment.is_power_of_two() || !(ALIGNMENT_MIN..=ALIGNMENT_MAX).contains(&alignment) {
                return Err(GgufError::Alignment(alignment));
            }
            gguf.alignment = alignment;
        }

        let bitnet = gguf.is_bitnet();
        for index in 0..n_tensors {
            let tensor = reader.tensor(bitnet)?;
            if gguf.tensor_index.insert(tensor.name.clone(), index as usize).is_some() {
                return Err(GgufError::DuplicateTensor(tensor.name));
            }
            gguf.tensors.push(tensor);
        }
        gguf.data_start = (reader.at as u64).next_multiple_of(u64::from(gguf.alignment));
        gguf.place_tensors()?;
        Ok(gguf)
    }

    /// Turns offsets from the data into offsets from the file, checking alignment, the file's end, and overlaps.
    fn place_tensors(&mut self) -> Result<(), GgufError> {
        let alignment = u64::from(self.alignment);
        let data = (self.bytes.len() as u64).saturating_sub(self.data_start);
        for tensor in &mut self.tensors {
            let offset = tensor.start;
            if !offset.is_multiple_of(alignment) {
                return Err(GgufError::Misaligned {
                    name: tensor.name.clone(),
                    offset,
                    alignment,
                });
            }
            let bytes = tensor.bytes.unwrap_or(0);
            if offset.checked_add(bytes).is_none_or(|end| end > data) {
                return Err(GgufError::OutsideFile {
                    name: tensor.name.clone(),
                    offset,
                    bytes,
                    data,
                });
            }
            tensor.start += self.data_start;
        }
        let mut by_start: Vec<&TensorInfo> = self.tensors.iter().collect();
        by_start.sort_by_key(|t| t.start);
        for pair in by_start.windows(2) {
            if pair[0].start + pair[0].bytes.unwrap_or(0) > pair[1].start {
                return Err(GgufError::Overlap {
                    first: pair[0].name.clone(),
                    second: pair[1].name.clone(),
                });
            }
        }
        Ok(())
    }

    /// True for files that bitnet.cpp wrote, where type 39 means TL2: by architecture, or by `general.file_type`
    /// for its llama models (40 = I2_S, 39 = TL2; llama.cpp gives these numbers to nothing with type 39 in it).
    fn is_bitnet(&self) -> bool {
        self.get::<&str>("general.architecture")
            .ok()
            .flatten()
            .is_some_and(|a| a.starts_with("bitnet"))
            || matches!(self.get::<u32>("general.file_type"), Ok(Some(39 | 40)))
    }

    /// The value of `key`; `None` when the file does not have it, an error when it has another type.
    pub fn get<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<Option<T>, GgufError> {
        let Some(&index) = self.key_index.get(key) else {
            return Ok(None);
        };
        let (_, kind, value) = &self.keys[index];
        match T::from_value(value) {
            Some(value) => Ok(Some(value)),
            None => Err(GgufError::WrongType {
                key: key.to_owned(),
                expected: T::EXPECTED,
                found: describe(*kind, value),
            }),
        }
    }

    /// The value of `key`; its absence is an error.
    pub fn require<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<T, GgufError> {
        self.get(key)?.ok_or_else(|| GgufError::MissingKey(key.to_owned()))
    }

    /// The array at `key` with elements of `kind`.
    pub fn array(&self, key: &str, kind: ValueType) -> Result<Option<&Array>, GgufError> {
        match self.get::<&Array>(key)? {
            Some(array) if array.kind != kind => Err(GgufError::WrongType {
                key: key.to_owned(),
                expected: match kind {
                    ValueType::String => "an array of strings",
                    ValueType::I32 => "an array of i32",
                    _ => "an array of another type",
                },
                found: format!("{array:?}"),
            }),
            array => Ok(array),
        }
    }

    /// Keys with their file types and values, in the file's order.
    pub fn entries(&self) -> impl Iterator<Item = (&str, ValueType, &Value)> {
        self.keys.iter().map(|(key, kind, value)| (key.as_str(), *kind, value))
    }

    /// The tensors, in the file's order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensor_index.get(name).map(|&i| &self.tensors[i])
    }

    /// The bytes of a tensor of this file; `None` when its size is not known.
    pub fn data(&self, tensor: &TensorInfo) -> Option<Bytes> {
        let start = usize::try_from(tensor.start).ok()?;
        let len = usize::try_from(tensor.bytes?).ok()?;
        self.bytes.slice(start..start.checked_add(len)?)
    }
}

/// A value for an error message, shortened.
fn describe(kind: ValueType, value: &Value) -> String {
    let kind = kind.name();
    match value {
        Value::Unsigned(v) => format!("{kind} {v}"),
        Value::Signed(v) => format!("{kind} {v}"),
        Value::F32(v) => format!("{kind} {v}"),
        Value::F64(v) => format!("{kind} {v}"),
        Value::Bool(v) => format!("{kind} {v}"),
        Value::String(v) => format!("{kind} {:?}", v.chars().take(40).collect::<String>()),
        Value::Array(v) => format!("array {v:?}"),
    }
}

/// Reads little-endian values; nothing is read past the end, nothing is allocated before its bytes are seen.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, what: &'static str, len: u64) -> Result<&'a [u8], GgufError> {
        let left = &self.bytes[self.at..];
        match usize::try_from(len).ok().and_then(|len| left.get(..len)) {
            Some(taken) => {
                self.at += taken.len();
                Ok(taken)
            }
            None => Err(GgufError::Truncated {
                what,
                at: self.at as u64,
                wanted: len,
                had: left.len() as u64,
            }),
        }
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, GgufError> {
        let bytes = self.take(what, 4)?;
        Ok(u32::from_le_bytes(bytes.try_into().expect("took 4 bytes")))
    }

    fn u64(&mut self, what: &'static str) -> Result<u64, GgufError> {
        let bytes = self.take(what, 8)?;
        Ok(u64::from_le_bytes(bytes.try_into().expect("took 8 bytes")))
    }

    fn count(&mut self, what: &'static str, max: u64) -> Result<u64, GgufError> {
        match self.u64(what)? {
            found if found > max => Err(GgufError::TooMany { what, found, max }),
            found => Ok(found),
        }
    }

    /// Checked in a copy: whoever has the mapped file open could make something else of it after a check in place.
    fn string(&mut self, what: &'static str, max: u64) -> Result<String, GgufError> {
        let at = self.at as u64;
        let len = self.count(what, max)?;
        let copy = self.take(what, len)?.to_vec();
        String::from_utf8(copy).map_err(|_| GgufError::NotUtf8 { what, at })
    }

    fn magic_and_version(&mut self) -> Result<u32, GgufError> {
        let begin = &self.bytes[..self.bytes.len().min(4)];
        if begin != b"GGUF" {
            return Err(GgufError::NotGguf { found: begin.to_vec() });
        }
        self.at = 4;
        match self.u32("the version")? {
            version @ (2 | 3) => Ok(version),
            version if matches!(version.swap_bytes(), 1..=3) => Err(GgufError::BigEndian),
            version => Err(GgufError::Version(version)),
        }
    }

    fn entry(&mut self, file: &Bytes) -> Result<(String, ValueType, Value), GgufError> {
        let key = self.string("a key", NAME_MAX)?;
        let kind = self.value_type(&key)?;
        let value = match kind {
            ValueType::String => Value::String(self.string("a text value", TEXT_MAX)?),
            ValueType::Array => Value::Array(self.array(&key, file)?),
            scalar => {
                let size = scalar.size().expect("scalars have a size");
                let bytes = self.take("a value", size as u64)?;
                Value::scalar(scalar, bytes).expect("took a scalar's size")
            }
        };
        Ok((key, kind, value))
    }

    fn value_type(&mut self, key: &str) -> Result<ValueType, GgufError> {
        let id = self.u32("a value type")?;
        ValueType::from_id(id).ok_or_else(|| GgufError::UnknownValueType {
            key: key.to_owned(),
            id,
        })
    }

    fn array(&mut self, key: &str, file: &Bytes) -> Result<Array, GgufError> {
        const WHAT: &str = "an array";
        let kind = self.value_type(key)?;
        let count = self.u64(WHAT)?;
        let start = self.at;
        match kind {
            ValueType::Array => return Err(GgufError::NestedArray { key: key.to_owned() }),
            // The end of the file bounds the loop: every element takes at least its length's 8 bytes.
            ValueType::String => {
                for _ in 0..count {
                    let len = self.u64("a string of an array")?;
                    self.take("a string of an array", len)?;
                }
            }
            scalar => {
                let size = scalar.size().expect("scalars have a size") as u64;
                self.take(WHAT, count.saturating_mul(size))?;
            }
        }
        Ok(Array {
            kind,
            len: count as usize, // at most the file's size
            bytes: file.slice(start..self.at).expect("inside what was read"),
        })
    }

    fn tensor(&mut self, bitnet: bool) -> Result<TensorInfo, GgufError> {
        let name = self.string("a tensor name", NAME_MAX)?;
        let n = self.u32("a tensor")?;
        if n > DIMS_MAX {
            return Err(GgufError::TooMany {
                what: "the number of a tensor's dimensions",
                found: u64::from(n),
                max: u64::from(DIMS_MAX),
            });
        }
        let dims = (0..n).map(|_| self.u64("a tensor")).collect::<Result<Vec<u64>, _>>()?;
        let elements = dims.iter().try_fold(1u64, |product, &d| product.checked_mul(d));
        let encoding = Encoding::from_id(self.u32("a tensor")?, bitnet);
        let offset = self.u64("a tensor")?;
        let (Some(elements @ 1..), [cols, ..]) = (elements, dims.as_slice()) else {
            return Err(GgufError::Shape { name, dims });
        };
        if !cols.is_multiple_of(encoding.block()) {
            return Err(GgufError::PartialBlock {
                name,
                cols: *cols,
                block: encoding.block(),
                encoding: encoding.to_string(),
            });
        }
        Ok(TensorInfo {
            name,
            encoding,
            start: offset,
            bytes: encoding.bytes(elements),
            dims,
        })
    }
}
