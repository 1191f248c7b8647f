//! What the commands that run a model have in common.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::engine::forward::PassError;
use crate::engine::kv::{CacheType, CacheTypes};
use crate::engine::{Failure, StartError, SubmitError};
use crate::kernels::{self, NoVariant, Variant};
use crate::machine::cpu::Machine;
use crate::model::{CacheDir, MapOptions, Model, ModelError, Opened};
use crate::text::{TemplateError, TokenizerError};

/// Options of every command that runs a model.
#[derive(clap::Args, Clone, Debug)]
pub struct ModelArgs {
    /// GGUF file, or a directory that holds one
    #[arg(value_name = "MODEL")]
    pub model: PathBuf,
    /// Kernel variant, or `auto`: the best that this CPU runs
    #[arg(long, value_name = "NAME", default_value = "auto", env = "STERNA_KERNEL")]
    pub kernel: String,
}

impl ModelArgs {
    /// Opens the model, mapped, and reads its weights once: unlike the server, a command has no later moment in which
    /// to find that a weight is none.
    pub fn open(&self) -> Result<Opened, ModelError> {
        let opened = Model::open(&self.model, MapOptions::default())?;
        let invalid = |reason| ModelError::Invalid {
            path: opened.path.clone(),
            reason,
        };
        opened.model.validate_codes_now().map_err(invalid)?;
        Ok(opened)
    }

    /// The kernels to run it with.
    pub fn kernels(&self, machine: &Machine) -> Result<&'static Variant, NoVariant> {
        kernels::choose(&machine.features, &self.kernel)
    }
}

/// How keys and values are cached.
#[derive(clap::Args, Clone, Copy, Debug)]
pub struct CacheArgs {
    /// Type of cached keys, also spelled -ctk: f16, or q8_0 for half of the memory, which changes outputs a little
    #[arg(long, value_name = "TYPE", default_value_t, env = "STERNA_CACHE_TYPE_K")]
    cache_type_k: CacheType,
    /// Type of cached values, also spelled -ctv: likewise
    #[arg(long, value_name = "TYPE", default_value_t, env = "STERNA_CACHE_TYPE_V")]
    cache_type_v: CacheType,
}

impl CacheArgs {
    /// As the engine takes them.
    pub fn types(self) -> CacheTypes {
        CacheTypes {
            k: self.cache_type_k,
            v: self.cache_type_v,
        }
    }
}

/// Where re-packed weights are kept.
#[derive(clap::Args, Clone, Debug)]
pub struct CacheDirArgs {
    /// Folder to keep the re-packed weights in, for faster restarts, as the server does: writable by nobody who is not trusted [default: none]
    #[arg(long, value_name = "PATH", env = "STERNA_CACHE_DIR")]
    cache_dir: Option<PathBuf>,
}

impl CacheDirArgs {
    /// The folder.
    pub fn dir(&self) -> Option<&Path> {
        self.cache_dir.as_deref()
    }

    /// The folder, for this model file.
    pub fn of(&self, model: &Path) -> Option<CacheDir> {
        let of = |dir: &PathBuf| CacheDir {
            dir: dir.clone(),
            model: model.to_owned(),
        };
        self.cache_dir.as_ref().map(of)
    }
}

/// Why a command ended early.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The model cannot be used.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Its tokenizer cannot be used.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The kernels cannot be used.
    #[error(transparent)]
    Kernels(#[from] NoVariant),
    /// The engine did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The request was refused.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// A pass had no result.
    #[error(transparent)]
    Pass(#[from] PassError),
    /// A measurement failed.
    #[error(transparent)]
    Bench(#[from] super::bench::BenchError),
    /// Nothing is left to measure.
    #[error("nothing to measure: {0}")]
    Nothing(String),
    /// The server whose start was to be measured did not serve.
    #[error("cannot measure a server's start: {0}")]
    Server(io::Error),
    /// The generation failed.
    #[error(transparent)]
    Generation(#[from] Failure),
    /// The chat template cannot be used.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The chat template refused the messages; the message is its own.
    #[error("{0}")]
    Render(String),
    /// A text that cannot be worked on.
    #[error("{what} {reason}")]
    Text {
        /// The file, or standard input.
        what: String,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// A combination of options that makes no sense; the message says what does.
    #[error("{0}")]
    Usage(String),
    /// A file could not be written or read.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// `read` or `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Standard input or output failed.
    #[error("standard input or output: {0}")]
    Stdio(#[from] io::Error),
}

/// The text of a file, or of standard input where the path is `-`. What is not UTF-8 is refused: replaced characters
/// would be other tokens.
pub fn read_text(path: &Path) -> Result<String, CommandError> {
    let (what, bytes) = if path == Path::new("-") {
        let mut bytes = Vec::new();
        io::stdin().read_to_end(&mut bytes)?;
        ("standard input".to_owned(), bytes)
    } else {
        let bytes = fs::read(path).map_err(|source| CommandError::File {
            action: "read",
            path: path.to_owned(),
            source,
        })?;
        (path.display().to_string(), bytes)
    };
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let reason = format!("is not UTF-8 at byte {at}: convert it first, for example with iconv -t UTF-8");
        CommandError::Text { what, reason }
    })
}

/// A text with its control characters but line ends escaped. Names in a model file are the file's: none may reach the terminal as a command.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c.is_control() && c != '\n' {
            true => shown.extend(c.escape_debug()),
            false => shown.push(c),
        }
    }
    shown
}

/// A comma-separated list of token ids, as `--tokens` takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenList(pub Vec<u32>);

impl FromStr for TokenList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let id = |part: &str| {
            let id = part.trim().parse();
            id.map_err(|_| {
                format!(
                    "`{}` is not a token id: write numbers separated by commas, such as 1,2,3",
                    part.trim()
                )
            })
        };
        text.split(',').map(id).collect::<Result<_, _>>().map(TokenList)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_printable_is_a_command_to_the_terminal() {
        assert_eq!(printable("a \"b\" \\ é\u{301}\n"), "a \"b\" \\ é\u{301}\n");
        assert_eq!(printable("\x1b]0;x\x07 \r\u{9b}2J"), r"\u{1b}]0;x\u{7} \r\u{9b}2J");
    }

    #[test]
    fn token_lists_are_numbers_and_commas() {
        assert_eq!("1, 2,3".parse(), Ok(TokenList(vec![1, 2, 3])));
        for bad in ["", "1,,2", "-1", "a", "4294967296"] {
            assert!(
                bad.parse::<TokenList>().unwrap_err().contains("is not a token id"),
                "{bad}"
            );
        }
    }
}
