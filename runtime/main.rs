//! The command line's entry point, and the only place where an error becomes an exit code.

use std::process::ExitCode;

use sterna::cli::bench::BenchError;
use sterna::cli::common::{CommandError, printable};
use sterna::cli::{Cli, Error};
use sterna::engine::{StartError, SubmitError};
use sterna::kernels::{TAGS, TARGET};
use sterna::machine::cpu::Machine;
use sterna::machine::{STACK_BYTES, guard, join, limits};
use sterna::model::ModelError;
use sterna::serve::ServeError;

fn main() -> ExitCode {
    let machine = Machine::detect();
    // Before anything that could reach a kernel. `detect` reaches none, and is how to find the right image.
    let detects = std::env::args_os().nth(1).is_some_and(|arg| arg == "detect");
    if let Err(wrong) = guard::check(TARGET.features, &machine, TAGS)
        && !detects
    {
        return fail(&wrong, sysexits::CONFIG);
    }
    let run = || Cli::from_process().run(&machine);
    // Some commands run kernels on this thread, whose stack is as large as `ulimit -s` says.
    let done = if limits::main_stack_bytes() < STACK_BYTES as u64 {
        join(|| (), run).1
    } else {
        run()
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, exit_code(&error)),
    }
}

fn fail(error: &dyn std::error::Error, code: u8) -> ExitCode {
    eprintln!("sterna: {}", printable(&error.to_string()));
    ExitCode::from(code)
}

/// 1 and 2 as everywhere, the others from sysexits.h; `sterna --help` lists them.
mod sysexits {
    pub const FAILURE: u8 = 1;
    pub const USAGE: u8 = 2;
    pub const DATA_ERROR: u8 = 65;
    pub const NO_INPUT: u8 = 66;
    pub const UNAVAILABLE: u8 = 69;
    pub const IO_ERROR: u8 = 74;
    pub const CONFIG: u8 = 78;
}

fn exit_code(error: &Error) -> u8 {
    match error {
        Error::Settings(_) => sysexits::USAGE,
        Error::Healthcheck(_) => sysexits::FAILURE,
        Error::Model(error) => match error {
            CommandError::Model(ModelError::Invalid { .. })
            | CommandError::Tokenizer(_)
            | CommandError::Template(_) => sysexits::DATA_ERROR,
            CommandError::Usage(_) | CommandError::Submit(SubmitError::Sampling(_)) => sysexits::USAGE,
            CommandError::Model(_) => sysexits::NO_INPUT,
            CommandError::Kernels(_)
            | CommandError::Start(StartError::Memory(_))
            | CommandError::Bench(BenchError::Memory(_)) => sysexits::CONFIG,
            CommandError::File { .. } | CommandError::Stdio(_) => sysexits::IO_ERROR,
            CommandError::Start(_)
            | CommandError::Submit(_)
            | CommandError::Pass(_)
            | CommandError::Text { .. }
            | CommandError::Generation(_)
            | CommandError::Render(_)
            | CommandError::Bench(_)
            | CommandError::Nothing(_)
            | CommandError::Server(_) => sysexits::FAILURE,
        },
        Error::Serve(error) => match error {
            ServeError::InvalidModel(_) => sysexits::DATA_ERROR,
            ServeError::NoModel { .. } => sysexits::NO_INPUT,
            ServeError::Bind { .. } => sysexits::UNAVAILABLE,
            ServeError::System(_) => sysexits::IO_ERROR,
            ServeError::Config(_) => sysexits::CONFIG,
            ServeError::Loader => sysexits::FAILURE,
        },
        Error::Affinity(_) => sysexits::CONFIG,
    }
}
