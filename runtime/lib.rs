//! Sterna's runtime: everything that ships in an image.
//!
//! One command's way through it: [`machine`] guards the CPU and sizes the thread pool, [`model`] maps and
//! validates the GGUF file, [`text`] turns text into tokens and back, [`engine`] runs the forward pass over
//! [`kernels`] and schedules requests, [`serve`] answers HTTP
//! as [`settings`] say. `docs/ARCHITECTURE.md` states the invariants.

pub mod cli;
pub mod engine;
pub mod kernels;
pub mod machine;
pub mod model;
pub mod serve;
pub mod settings;
pub mod text;
