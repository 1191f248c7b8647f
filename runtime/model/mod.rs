//! The model file: mapped, validated once, and turned into types that cannot hold a bad value.

pub mod weights;

pub use weights::{Architecture, Bytes, Config, Dense, DenseType, Layer, Model, Ternary};
