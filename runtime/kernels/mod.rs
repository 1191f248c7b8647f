//! The compiled kernels behind safe wrappers, and the operations of the forward pass built on them.
//!
//! Two kinds of exactness, both tested with `==` (docs/ARCHITECTURE.md): integer kernels equal
//! [`reference`] because i8 x ternary in i32 is exact; float kernels equal it because the order of their
//! additions is part of their definition (32 lanes, then a fixed tree, no fused multiply-add). So every
//! variant gives the same bits, and so do any number of threads and any batch size.

pub mod ops;
pub mod reference;

pub use ops::{AttentionRow, Heads, QuantRows, Variant};
