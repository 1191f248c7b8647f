//! Everything that can be wrong with a GGUF file, each as a sentence.

/// Why a file cannot be read as GGUF, or why a value in it cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GgufError {
    /// The first four bytes are not `GGUF`.
    #[error("not a GGUF file (it begins with {found:02x?}, not with \"GGUF\"): give a .gguf model")]
    NotGguf {
        /// The first bytes, at most four.
        found: Vec<u8>,
    },
    /// The file is shorter than it says.
    #[error("the file is truncated: {what} needs {wanted} bytes at offset {at}, {had} are left: download it again")]
    Truncated {
        /// What was being read.
        what: &'static str,
        /// Where it begins.
        at: u64,
        /// Bytes needed.
        wanted: u64,
        /// Bytes up to the end of the file.
        had: u64,
    },
    /// A version of the format that this reader does not know.
    #[error("GGUF version {0} is not supported: convert the model to version 3")]
    Version(u32),
    /// The version number only makes sense with its bytes swapped.
    #[error("the file is big-endian GGUF: convert the model to little endian")]
    BigEndian,
    /// A number beyond the reader's limits.
    #[error("{what} is {found}, more than the {max} that are supported: the file is damaged")]
    TooMany {
        /// What was counted.
        what: &'static str,
        /// The file's number.
        found: u64,
        /// The limit.
        max: u64,
    },
    /// A key, a tensor name or a text is not UTF-8.
    #[error("{what} at offset {at} is not UTF-8: the file is damaged")]
    NotUtf8 {
        /// What was being read.
        what: &'static str,
        /// Where it begins.
        at: u64,
    },
    /// A value type id that the format does not define.
    #[error("key {key} has the unknown value type {id}: the file is damaged")]
    UnknownValueType {
        /// The key.
        key: String,
        /// The type's id.
        id: u32,
    },
    /// Arrays of arrays, which no model uses.
    #[error("key {key} is an array of arrays, which is not supported")]
    NestedArray {
        /// The key.
        key: String,
    },
    /// A key twice.
    #[error("key {0} occurs twice: the file is damaged")]
    DuplicateKey(String),
    /// A tensor name twice.
    #[error("tensor {0} occurs twice: the file is damaged")]
    DuplicateTensor(String),
    /// `general.alignment` cannot be an alignment.
    #[error("general.alignment is {0}, not a power of two from 8 to 1048576: the file is damaged")]
    Alignment(u32),
    /// A tensor without dimensions, or with a zero or absurd one.
    #[error("tensor {name} has the impossible shape {dims:?}: the file is damaged")]
    Shape {
        /// The tensor.
        name: String,
        /// Its dimensions, contiguous first.
        dims: Vec<u64>,
    },
    /// A tensor's row is not a whole number of its encoding's blocks.
    #[error("tensor {name}: rows of {cols} elements are not whole blocks of {block} ({encoding})")]
    PartialBlock {
        /// The tensor.
        name: String,
        /// Elements in a row.
        cols: u64,
        /// Elements in a block.
        block: u64,
        /// The tensor's encoding.
        encoding: String,
    },
    /// A tensor offset that is not a multiple of the alignment.
    #[error("tensor {name} begins at {offset}, which is not a multiple of the alignment {alignment}")]
    Misaligned {
        /// The tensor.
        name: String,
        /// Its offset from the start of the data.
        offset: u64,
        /// The file's alignment.
        alignment: u64,
    },
    /// A tensor that reaches past the end of the file.
    #[error(
        "tensor {name} ({bytes} bytes at offset {offset} of the data) reaches past the end of the file \
         ({data} bytes of data): the file is truncated or damaged, download it again"
    )]
    OutsideFile {
        /// The tensor.
        name: String,
        /// Its offset from the start of the data.
        offset: u64,
        /// Its size.
        bytes: u64,
        /// Bytes of data in the file.
        data: u64,
    },
    /// Two tensors share bytes.
    #[error("tensors {first} and {second} overlap: the file is damaged")]
    Overlap {
        /// The one that begins first.
        first: String,
        /// The other.
        second: String,
    },
    /// A key that is needed and absent.
    #[error("the file has no key {0}: it is not a complete model")]
    MissingKey(String),
    /// A key whose value has another type than needed.
    #[error("key {key} must be {expected}, the file has {found}")]
    WrongType {
        /// The key.
        key: String,
        /// What is needed.
        expected: &'static str,
        /// What is there.
        found: String,
    },
}
