//! Sterna's build commands, one verb a file; `main.rs` only parses the command line.
//!
//! ```text
//! detect -> images/targets/NAME.toml -> targets -> compile -> oci -> target/images/TAG -> push
//! ```
//!
//! Nothing here links the runtime: `cpu` is the runtime's machine detection and `stats` its benchmark's, included as
//! source.

pub mod bench;
pub mod build_image;
pub mod ci;
pub mod codegen;
pub mod compile;
pub mod container;
pub mod demo;
pub mod detect;
pub mod inspect;
pub mod machine;
pub mod matrix;
pub mod oci;
pub mod progress;
pub mod push;
pub mod recipe;
pub mod targets;
pub mod test;
pub mod tool;
pub mod toolchain;
pub mod tune;
pub mod verify;
pub mod workspace;

#[path = "../../runtime/machine/cpu/mod.rs"]
pub mod cpu;

#[path = "../../runtime/cli/bench/stats.rs"]
pub mod stats;

/// Writes a command's result to standard output. A reader that has gone (`| head`) is an error like any other,
/// for `main` to end quietly on; `println!` would panic.
pub fn print(text: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}
