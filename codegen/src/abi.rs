//! The parameter types that kernels have, in C and in Rust.

/// A parameter type of the kernel ABI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// `const uint8_t *`
    ConstU8,
    /// `const int8_t *`
    ConstI8,
    /// `const int16_t *`
    ConstI16,
    /// `const uint16_t *`
    ConstU16,
    /// `const int32_t *`
    ConstI32,
    /// `const float *`
    ConstF32,
    /// `int8_t *`
    MutI8,
    /// `uint16_t *`
    MutU16,
    /// `int32_t *`
    MutI32,
    /// `float *`
    MutF32,
    /// `size_t`
    Size,
    /// `int32_t`
    I32,
    /// `float`
    F32,
}

impl Type {
    /// In C, with `restrict`: no two pointers of a kernel overlap.
    pub fn c(self) -> &'static str {
        match self {
            Type::ConstU8 => "const uint8_t *restrict",
            Type::ConstI8 => "const int8_t *restrict",
            Type::ConstI16 => "const int16_t *restrict",
            Type::ConstU16 => "const uint16_t *restrict",
            Type::ConstI32 => "const int32_t *restrict",
            Type::ConstF32 => "const float *restrict",
            Type::MutI8 => "int8_t *restrict",
            Type::MutU16 => "uint16_t *restrict",
            Type::MutI32 => "int32_t *restrict",
            Type::MutF32 => "float *restrict",
            Type::Size => "size_t",
            Type::I32 => "int32_t",
            Type::F32 => "float",
        }
    }

    /// In Rust.
    pub fn rust(self) -> &'static str {
        match self {
            Type::ConstU8 => "*const u8",
            Type::ConstI8 => "*const i8",
            Type::ConstI16 => "*const i16",
            Type::ConstU16 => "*const u16",
            Type::ConstI32 => "*const i32",
            Type::ConstF32 => "*const f32",
            Type::MutI8 => "*mut i8",
            Type::MutU16 => "*mut u16",
            Type::MutI32 => "*mut i32",
            Type::MutF32 => "*mut f32",
            Type::Size => "usize",
            Type::I32 => "i32",
            Type::F32 => "f32",
        }
    }
}
