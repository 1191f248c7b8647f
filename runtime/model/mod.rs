//! The model file: mapped, validated once, and turned into types that cannot hold a bad value.
//!
//! [`Model::open`] is the way in: it finds the file, holds its bytes ([`mmap`]), parses the container ([`gguf`]),
//! and takes the weights out of it. What comes back needs no further checks.

pub mod buffer;
pub mod coarse;
mod config;
mod error;
pub mod gguf;
mod loader;
pub mod mmap;
pub mod packed;
pub mod sidecar;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
pub mod weights;
pub mod zeros;

pub use buffer::{HugeBuffer, Part};
pub use coarse::{CoarseHead, CoarseToken, NoCoarseHead};
pub use error::{InvalidModel, ModelError};
pub use loader::{GgufFile, Opened};
pub use mmap::{MapOptions, Mapping};
pub use packed::{Layout, Order, Packed, Packing, RepackError, Skipping};
pub use sidecar::{CacheDir, Sidecar};
pub use weights::{Architecture, Bytes, Config, Dense, DenseType, Layer, Model, Owner, Ternary};
pub use zeros::Zeros;
