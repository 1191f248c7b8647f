//! The command line: what there is to say, and which subcommand says it. One file a subcommand.

use clap::builder::Resettable;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::kernels::TARGET;
use crate::machine::cpu::Machine;
use crate::machine::pipe::end_on_broken_pipe;
use crate::settings::{self, ServeArgs, Settings, VARIABLES};

pub mod bench;
mod chat;
pub mod common;
pub mod detect;
pub mod healthcheck;
pub mod inspect;
pub mod logits;
pub mod perplexity;
pub mod run;
pub mod serve;
pub mod tokenize;
mod warnings;

/// Runs BitNet b1.58 (ternary) language models on CPUs.
///
/// Without a subcommand it serves: `sterna --model model.gguf` is `sterna serve --model model.gguf`.
#[derive(Debug, Parser)]
#[command(name = "sterna", args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeArgs,
}

const EXAMPLES: &str = "\
Examples:
  sterna                                     serve the .gguf file in /models on port 8080
  sterna --model model.gguf --port 9000      serve another file on another port
  MODEL_PATH=/m/model.gguf PORT=9000 sterna  the same, from the environment
  sterna run model.gguf \"Once upon a\"        continue a text
  sterna inspect model.gguf                  show what is in a model, and whether it can be run
  sterna perplexity model.gguf text.txt      measure how well it predicts a text
  sterna detect                              show this machine and the kernels that would run
  sterna healthcheck                         exit 0 when the server on this machine is ready

A flag beats its STERNA_ variable, which beats the other variables in the order listed.
STERNA_CPU_AFFINITY and CPU_AFFINITY hold for every subcommand that computes.
Exit codes: 0 done, 1 failed, 2 wrong usage, 65 not a usable model, 66 no model, 69 address not available,
74 input/output error, 78 this CPU cannot run this image.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve a model over HTTP (the default)
    Serve(Box<ServeArgs>),
    /// Continue a prompt, or chat when there is none and standard input is a terminal
    Run(run::RunArgs),
    /// Show a model's metadata, tensors, and the kernels that would run it
    Inspect(inspect::InspectArgs),
    /// Show the tokens of a text
    Tokenize(tokenize::TokenizeArgs),
    /// Measure how fast this machine runs a model
    Bench(bench::BenchArgs),
    /// Write the raw logits after a sequence of tokens, for conformance tests
    Logits(logits::LogitsArgs),
    /// Measure how well a model predicts a text
    Perplexity(perplexity::PerplexityArgs),
    /// Show this machine, its limits, and the kernels that would run
    Detect(detect::DetectArgs),
    /// Ask the server on this machine whether it is ready: exit 0 or 1
    Healthcheck(healthcheck::HealthcheckArgs),
}

/// What a subcommand can fail with; `main` turns it into an exit code.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting that cannot be used.
    #[error(transparent)]
    Settings(#[from] crate::settings::SettingsError),
    /// CPUs that cannot be had.
    #[error(transparent)]
    Affinity(#[from] crate::machine::limits::AffinityError),
    /// The server could not start or go on.
    #[error(transparent)]
    Serve(#[from] crate::serve::ServeError),
    /// A model could not be run.
    #[error(transparent)]
    Model(#[from] common::CommandError),
    /// The server is not ready, or not there.
    #[error(transparent)]
    Healthcheck(#[from] healthcheck::NotReady),
}

impl Cli {
    /// Parses the command line of this process. On a usage error, `--help` and `--version` it prints and exits.
    pub fn from_process() -> Self {
        let matches = Self::described().get_matches_from(std::env::args_os().map(long_spelling));
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }

    /// The command with the environment variables of every setting in its help.
    fn described() -> clap::Command {
        let describe = |command: clap::Command| {
            VARIABLES.iter().fold(command, |command, row| {
                command.mut_arg(row.field, |arg| {
                    let names: Vec<String> = row.names().collect();
                    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
                    arg.help(format!("{help} [env: {}]", names.join(", ")))
                })
            })
        };
        let version = format!("{} (target {})", env!("CARGO_PKG_VERSION"), TARGET.name);
        describe(Self::command())
            .version(version)
            .mut_subcommand("serve", describe)
            .mut_subcommands(|command| command.mut_args(without_empty))
    }

    /// Runs the subcommand on `machine`, which is this one.
    pub fn run(self, machine: &Machine) -> Result<(), Error> {
        // `sterna inspect model | head` ends quietly; a server outlives whoever read its log.
        if !matches!(self.command, None | Some(Command::Serve(_))) {
            end_on_broken_pipe();
            warnings::show();
        }
        if let Some(
            Command::Run(_) | Command::Inspect(_) | Command::Bench(_) | Command::Logits(_) | Command::Perplexity(_),
        ) = self.command
        {
            // The server has a flag as well. Whatever else computes stays on the CPUs that the environment names.
            let settings = Settings::new(ServeArgs::default(), &settings::process_env_of(&["cpu_affinity"]))?;
            settings.affinity.apply()?;
        }
        match self.command {
            None => serve::run(self.serve, machine),
            Some(Command::Serve(args)) => serve::run(*args, machine),
            Some(Command::Run(args)) => Ok(run::run(args, machine)?),
            Some(Command::Inspect(args)) => Ok(inspect::run(args, machine)?),
            Some(Command::Tokenize(args)) => Ok(tokenize::run(args)?),
            Some(Command::Bench(args)) => Ok(bench::run(args, machine)?),
            Some(Command::Logits(args)) => Ok(logits::run(args, machine)?),
            Some(Command::Perplexity(args)) => Ok(perplexity::run(args, machine)?),
            Some(Command::Detect(args)) => detect::run(args, machine),
            Some(Command::Healthcheck(args)) => healthcheck::run(args),
        }
    }
}

/// An empty variable counts as unset, for the arguments that clap fills as for the server's settings.
fn without_empty(arg: clap::Arg) -> clap::Arg {
    let value = arg.get_env().and_then(std::env::var_os);
    match value {
        Some(value) if value.to_string_lossy().trim().is_empty() => arg.env(Resettable::Reset),
        _ => arg,
    }
}

/// llama-server's short options of two letters, which clap has no notion of, as long ones.
fn long_spelling(arg: std::ffi::OsString) -> std::ffi::OsString {
    match arg.to_str() {
        Some("-np") => "--parallel".into(),
        Some("-ctk") => "--cache-type-k".into(),
        Some("-ctv") => "--cache-type-v".into(),
        _ => arg,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::kv::CacheType;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::described().debug_assert();
    }

    #[test]
    fn help_names_every_variable_of_every_setting() {
        let help = Cli::described().render_long_help().to_string();
        let unwrapped = help.split_whitespace().collect::<Vec<_>>().join(" ");
        for name in VARIABLES.iter().flat_map(crate::settings::Variable::names) {
            assert!(unwrapped.contains(&name), "{name} is not in\n{help}");
        }
    }

    #[test]
    fn serving_is_the_default_and_llama_server_spellings_work() {
        let parse = |line: &str| {
            let args = line.split(' ').map(|arg| long_spelling(arg.into()));
            Cli::from_arg_matches(&Cli::described().try_get_matches_from(args).unwrap()).unwrap()
        };
        let llama =
            "-m m.gguf -c 512 -b 64 -t 2 --host 127.0.0.1 --port 9 -np 3 -ctk q8_0 -ctv f16 -a name --mlock --no-mmap";
        let bare = parse(&format!("sterna {llama}"));
        let Some(Command::Serve(named)) = parse(&format!("sterna serve {llama}")).command else {
            panic!("serve is a subcommand");
        };
        assert!(bare.command.is_none());
        assert_eq!(format!("{:?}", bare.serve), format!("{named:?}"));
        assert_eq!(
            (named.cache_type_k, named.cache_type_v),
            (Some(CacheType::Q8_0), Some(CacheType::F16))
        );
        assert_eq!(
            (named.parallel, named.ctx_size, named.mlock, named.no_mmap),
            (Some(3), Some(512), Some(true), Some(true))
        );
    }
}
