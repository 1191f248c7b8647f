//! Sterna's host-side generator: a machine description in, tuned C kernel source out.
//!
//! Everything here is a pure function of committed files: no CPU is inspected, no clock read.
//! The flow is [`target::TargetSpec`] -> [`plan::KernelPlan`] -> [`render::Unit`]s; `build.rs` compiles what comes out.

pub mod abi;
pub mod kernels;
pub mod plan;
pub mod render;
pub mod target;
