//! `cargo xtask`: Sterna's build commands, one verb a file.

mod ci;
mod test;

use std::process::ExitCode;

use clap::Parser;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Sterna's build commands", version)]
enum Verb {
    /// Run every check that a change must pass
    Ci(ci::Args),
    /// Run every test, with debug assertions
    Test,
}

fn main() -> ExitCode {
    let done = match Verb::parse() {
        Verb::Ci(args) => ci::run(&args),
        Verb::Test => test::run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
