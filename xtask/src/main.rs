//! `cargo xtask`: Sterna's build commands.

use std::io;
use std::process::ExitCode;

use clap::Parser;
use xtask::{ci, codegen, detect, test};

/// Sterna's build commands: from a description of a machine to a container image made for it.
///
/// The shortest way: `cargo xtask build-image --target native --load podman`.
#[derive(Parser)]
#[command(name = "cargo xtask", version)]
enum Verb {
    /// Run every check that a change must pass
    Ci(ci::Args),
    Codegen(codegen::Args),
    Detect(detect::Args),
    /// Run every test, with debug assertions
    Test,
}

fn main() -> ExitCode {
    let done = match Verb::parse() {
        Verb::Ci(args) => ci::run(&args),
        Verb::Codegen(args) => codegen::run(&args),
        Verb::Detect(args) => detect::run(&args),
        Verb::Test => test::run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read the output has seen enough.
        Err(error)
            if error
                .downcast_ref::<io::Error>()
                .is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe) =>
        {
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
