//! `cargo xtask`: Sterna's build commands.

use std::io;
use std::process::ExitCode;

use clap::Parser;
use xtask::{bench, build_image, ci, codegen, demo, detect, inspect, matrix, push, targets, test, tune, verify};

/// Sterna's build commands: from a description of a machine to a container image made for it.
///
/// The shortest way: `cargo xtask build-image --target native --load podman`.
#[derive(Parser)]
#[command(name = "cargo xtask", version)]
enum Verb {
    Bench(bench::Args),
    BuildImage(build_image::Args),
    /// Run every check that a change must pass
    Ci(ci::Args),
    Codegen(codegen::Args),
    Demo(demo::Args),
    Detect(detect::Args),
    Inspect(inspect::Args),
    Matrix(matrix::Args),
    Push(push::Args),
    Targets(targets::Args),
    /// Run every test, with debug assertions
    Test,
    Tune(tune::Args),
    Verify(verify::Args),
}

fn main() -> ExitCode {
    let done = match Verb::parse() {
        Verb::Bench(args) => bench::run(&args),
        Verb::BuildImage(args) => build_image::run(&args),
        Verb::Ci(args) => ci::run(&args),
        Verb::Codegen(args) => codegen::run(&args),
        Verb::Demo(args) => demo::run(&args),
        Verb::Detect(args) => detect::run(&args),
        Verb::Inspect(args) => inspect::run(&args),
        Verb::Matrix(args) => matrix::run(&args),
        Verb::Push(args) => push::run(&args),
        Verb::Targets(args) => targets::run(&args),
        Verb::Test => test::run(),
        Verb::Tune(args) => tune::run(&args),
        Verb::Verify(args) => verify::run(&args),
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
