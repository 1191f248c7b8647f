//! Settings of the server: one table of flags, the environment variables behind each, and what they mean.
//!
//! A flag beats its canonical variable (`--ctx-size` is `STERNA_CTX_SIZE`), which beats the names that existing
//! BitNet and llama.cpp deployments use, in the order of the row. An empty variable counts as unset, since compose
//! files pass `${X:-}`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::engine::Speculation;
use crate::engine::kv::{CacheType, CacheTypes};
use crate::machine::limits::{Affinity, Threads};

mod parse;
mod preset;

pub use parse::LogFormat;
pub use preset::UseCase;

/// The environment, by name. A value that is not UTF-8 is read lossily: it fails where it is used, by name.
pub type Env = BTreeMap<String, String>;

/// Reads the environment of this process.
pub fn process_env() -> Env {
    let text = |s: std::ffi::OsString| s.to_string_lossy().into_owned();
    std::env::vars_os()
        .map(|(name, value)| (text(name), text(value)))
        .collect()
}

/// What it says about these settings alone, for a command that has no use for the others: whatever is wrong with those, and whatever flags
/// the server was given instead, are no business of it.
pub fn process_env_of(fields: &[&str]) -> Env {
    let mut env = process_env();
    let rows = || VARIABLES.iter().filter(|row| fields.contains(&row.field));
    env.retain(|name, _| rows().any(|row| row.names().any(|n| n == *name)));
    env
}

/// A row of the table: a flag and the variables that set it.
#[derive(Debug)]
pub struct Variable {
    /// The field of [`ServeArgs`]: `ctx_size`.
    pub field: &'static str,
    /// Names in existing deployments, the strongest first.
    pub aliases: &'static [&'static str],
}

impl Variable {
    /// As on the command line, without dashes in front: `ctx-size`.
    pub fn flag(&self) -> String {
        self.field.replace('_', "-")
    }

    /// `STERNA_CTX_SIZE`.
    pub fn canonical(&self) -> String {
        format!("STERNA_{}", self.field.to_ascii_uppercase())
    }

    /// Every variable that sets this flag, the strongest first.
    pub fn names(&self) -> impl Iterator<Item = String> {
        std::iter::once(self.canonical()).chain(self.aliases.iter().map(|&a| a.to_owned()))
    }

    /// The strongest variable that is set, and its value.
    fn find<'e>(&self, env: &'e Env) -> Option<(String, &'e str)> {
        self.names().find_map(|name| {
            let value = env.get(&name)?.trim();
            // Kubernetes injects STERNA_PORT=tcp://10.0.0.1:8080 when a Service has the name `sterna`.
            (!value.is_empty() && !value.starts_with("tcp://")).then_some((name, value))
        })
    }
}

/// A value that cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SettingsError {
    /// In the environment.
    #[error("environment variable {name} is `{value}`: {message}")]
    Variable {
        /// The variable.
        name: String,
        /// Its value.
        value: String,
        /// What is accepted.
        message: String,
    },
}

/// Declares [`ServeArgs`] and [`VARIABLES`] from one row a setting: help text and extra clap attributes, field, type,
/// the parser that flag and variables share, and the variables' names in existing deployments.
macro_rules! table {
    ($($(#[$meta:meta])* $field:ident: $type:ty, $parse:expr, $aliases:expr;)*) => {
        /// The server's flags, as given. What is absent may still come from the environment.
        #[derive(clap::Args, Clone, Debug, Default)]
        pub struct ServeArgs {
            $($(#[$meta])* #[arg(long, value_parser = $parse)] pub $field: Option<$type>,)*
        }

        /// Every setting of the server.
        pub const VARIABLES: &[Variable] = &[$(Variable { field: stringify!($field), aliases: &$aliases },)*];

        impl ServeArgs {
            /// Fills what the command line left open from the environment.
            fn or_env(self, env: &Env) -> Result<Self, SettingsError> {
                $(let $field = match self.$field {
                    Some(value) => Some(value),
                    None => from_env(stringify!($field), env, $parse)?,
                };)*
                Ok(ServeArgs { $($field,)* })
            }
        }
    };
}

table! {
    /// GGUF file, or a directory that holds one [default: /models]
    #[arg(short, value_name = "PATH")]
    model: PathBuf, parse::path, ["MODEL_PATH", "LLAMA_ARG_MODEL"];
    /// The model's name in the API [default: the file's name without .gguf]
    #[arg(short, value_name = "NAME")]
    alias: String, parse::text, ["LLAMA_ARG_ALIAS"];
    /// Address to listen on [default: 0.0.0.0]
    #[arg(value_name = "ADDRESS")]
    host: IpAddr, parse::host, ["HOST", "LLAMA_ARG_HOST"];
    /// Port to listen on [default: 8080]
    port: u16, parse::port, ["PORT", "LLAMA_ARG_PORT"];
    /// Key that requests must carry, or several, separated by commas; /health stays open [default: none]
    #[arg(value_name = "KEY")]
    api_key: ApiKeys, parse::api_keys, ["BITNET_API_KEY", "LLAMA_API_KEY"];
    /// Browser origins that may call the API, separated by commas, or `*` [default: none]
    #[arg(value_name = "ORIGIN")]
    cors_origin: String, parse::cors_origin, [];
    /// Tokens of context per request; 0 = what the model was trained for [default: 4096, or the model's if less]
    #[arg(short, value_name = "TOKENS")]
    ctx_size: usize, parse::ctx_size, ["BITNET_CTX_SIZE", "LLAMA_ARG_CTX_SIZE"];
    /// Threads of the forward pass, at most one a CPU; or `auto`: the cores that affinity and cgroup grant [default: auto]
    #[arg(short, value_name = "N", allow_hyphen_values = true)]
    threads: Threads, parse::threads, ["BITNET_THREADS", "LLAMA_ARG_THREADS", "OMP_NUM_THREADS"];
    /// Requests that are generated side by side, also spelled -np [default: 4, or as many as fit into memory]
    #[arg(value_name = "N")]
    parallel: usize, parse::parallel, ["LLAMA_ARG_N_PARALLEL", "WORKER_PROCESSES"];
    /// Type of cached keys, also spelled -ctk: f16, or q8_0 for half of the memory, which changes outputs a little [default: f16]
    #[arg(value_name = "TYPE")]
    cache_type_k: CacheType, parse::cache_type, ["LLAMA_ARG_CACHE_TYPE_K"];
    /// Type of cached values, also spelled -ctv: likewise [default: f16]
    #[arg(value_name = "TYPE")]
    cache_type_v: CacheType, parse::cache_type, ["LLAMA_ARG_CACHE_TYPE_V"];
    /// Tokens of prompt per forward pass [default: 256]
    #[arg(short, value_name = "TOKENS")]
    batch_size: usize, parse::batch_size, ["LLAMA_ARG_BATCH"];
    /// Guess tokens from the text so far, and verify them together where that pays: `ngram`, or `none` [default: ngram]
    #[arg(value_name = "TYPE")]
    spec_type: Speculation, parse::spec_type, ["LLAMA_ARG_SPEC_TYPE"];
    /// Requests that may wait beyond those; more get 429 [default: 128]
    #[arg(value_name = "N")]
    queue_size: usize, parse::queue_size, [];
    /// Kernel variant, or `auto`: the best that this CPU runs [default: auto]
    #[arg(value_name = "NAME")]
    kernel: String, parse::text, ["BITNET_KERNEL"];
    /// CPUs to run on, such as 0-3,6, or `auto` [default: auto]
    #[arg(value_name = "CPUS")]
    cpu_affinity: Affinity, parse::affinity, ["CPU_AFFINITY", "CPU_AFFINITY_MASK"];
    /// Keep the model in memory, never swapped or dropped
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    mlock: bool, parse::switch, ["LLAMA_ARG_MLOCK"];
    /// Read the model into memory instead of mapping the file: for network file systems
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    no_mmap: bool, parse::switch, ["LLAMA_ARG_NO_MMAP"];
    /// Keep the weights as the file has them, instead of re-packing them for this CPU: less memory, fewer tokens a second
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    no_repack: bool, parse::switch, ["LLAMA_ARG_NO_REPACK"];
    /// Folder to keep the re-packed weights in, for faster restarts: writable by this server, and by nobody who is not trusted [default: none]
    #[arg(value_name = "PATH")]
    cache_dir: PathBuf, parse::path, [];
    /// Chat template (Jinja), or the path of a file with one [default: the model's]
    #[arg(value_name = "TEMPLATE")]
    chat_template: String, parse::text, ["LLAMA_ARG_CHAT_TEMPLATE"];
    /// Pre-tokenizer, overriding the model's: `llama-bpe`, or `default` for what bitnet.cpp does without one
    #[arg(value_name = "NAME")]
    tokenizer_pre: String, parse::text, [];
    /// Preset: high_performance, balanced or memory_efficient [default: balanced]
    #[arg(value_name = "PRESET")]
    use_case: UseCase, parse::use_case, ["USE_CASE"];
    /// Seconds to wait for a model file that is not there yet [default: 300]
    #[arg(value_name = "SECONDS")]
    model_wait_timeout: Duration, parse::seconds, ["MODEL_WAIT_TIMEOUT"];
    /// Seconds that running requests get to finish after SIGTERM [default: 8]
    #[arg(value_name = "SECONDS")]
    shutdown_grace: Duration, parse::seconds, [];
    /// Log lines as `text` or `json`, on standard error [default: text]
    #[arg(value_name = "FORMAT")]
    log_format: LogFormat, parse::log_format, [];
    /// error, warn, info, debug or trace, also by module (sterna::serve=debug) [default: info]
    #[arg(value_name = "LEVEL")]
    log_level: String, parse::log_level, ["LOG_LEVEL", "RUST_LOG"];
}

fn from_env<T>(field: &str, env: &Env, parse: impl Fn(&str) -> Result<T, String>) -> Result<Option<T>, SettingsError> {
    let row = VARIABLES
        .iter()
        .find(|v| v.field == field)
        .expect("every field has a row");
    let Some((name, value)) = row.find(env) else {
        return Ok(None);
    };
    parse(value).map(Some).map_err(|message| SettingsError::Variable {
        value: if field == "api_key" {
            "(hidden)".to_owned()
        } else {
            value.to_owned()
        },
        name,
        message,
    })
}

/// Variables of existing deployments that have no meaning here, and what to do instead.
const IGNORED: &[(&str, &str)] = &[
    ("BITNET_BINARY", "the engine is part of this program"),
    (
        "BITNET_OPTIMIZATION",
        "kernels are chosen when the image is built; see `sterna detect`",
    ),
    ("CACHE_SIZE", "there is no prompt cache to size"),
    (
        "HF_MODEL_ID",
        "this image downloads nothing: mount the model and set MODEL_PATH",
    ),
    ("KERNEL_TYPE", "use BITNET_KERNEL, or leave the choice to the program"),
    (
        "MAX_MEMORY_MB",
        "lower BITNET_CTX_SIZE or --parallel, or use USE_CASE=memory_efficient",
    ),
    (
        "MODEL_REPO",
        "this image downloads nothing: mount the model and set MODEL_PATH",
    ),
    ("MODEL_SIZE", "the model file says its size"),
    (
        "MODEL_URL",
        "this image downloads nothing: mount the model and set MODEL_PATH",
    ),
    (
        "OPTIMAL_KERNEL",
        "use BITNET_KERNEL, or leave the choice to the program",
    ),
    (
        "OPTIMAL_THREADS",
        "use BITNET_THREADS, or leave the choice to the program",
    ),
    ("QUANTIZATION_TYPE", "the model file says its encoding"),
];

/// The key or keys that open the API. Never shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ApiKeys(Vec<String>);

impl ApiKeys {
    /// True when requests need no key.
    pub fn is_open(&self) -> bool {
        self.0.is_empty()
    }

    /// True when `key` is one of them. Takes the same time wherever a wrong key of the same length differs.
    pub fn accepts(&self, key: &str) -> bool {
        let equal = |known: &String| {
            let differences = known.bytes().zip(key.bytes()).fold(0, |d, (a, b)| d | (a ^ b));
            known.len() == key.len() && std::hint::black_box(differences) == 0
        };
        // No short cut over the keys either.
        self.0.iter().fold(false, |any, known| any | equal(known))
    }
}

impl std::fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} keys", self.0.len())
    }
}

/// How many tokens of context a request has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Context {
    /// As the user said; 0 = what the model was trained for.
    Exactly(usize),
    /// Fewer when the model was trained for fewer.
    AtMost(usize),
}

impl Context {
    /// Tokens to ask the engine for, with a model that was trained for so many.
    pub fn of(self, trained: usize) -> usize {
        match self {
            Context::Exactly(tokens) => tokens,
            Context::AtMost(tokens) => tokens.min(trained),
        }
    }
}

/// How many requests are generated side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parallel {
    /// As the user said, or not at all.
    Exactly(usize),
    /// Fewer when memory is short.
    AtMost(usize),
}

/// Everything the server wants to know before it starts.
#[derive(Debug, Clone)]
pub struct Settings {
    /// GGUF file, or a directory that holds one.
    pub model: PathBuf,
    /// The model's name in the API.
    pub alias: Option<String>,
    /// Address to listen on.
    pub host: IpAddr,
    /// Port to listen on; 0 = any free one.
    pub port: u16,
    /// Keys that open the API.
    pub api_keys: ApiKeys,
    /// Browser origins that may call the API, separated by commas, or `*`.
    pub cors_origin: Option<String>,
    /// Tokens of context per request.
    pub context: Context,
    /// Threads of the forward pass.
    pub threads: Threads,
    /// Requests that are generated side by side.
    pub parallel: Parallel,
    /// How keys and values are cached.
    pub cache: CacheTypes,
    /// Tokens of prompt per forward pass.
    pub batch: usize,
    /// What to do with guesses at the next tokens.
    pub speculation: Speculation,
    /// Requests that may wait.
    pub queue: usize,
    /// Kernel variant by name; `None` = the best that this CPU runs.
    pub kernel: Option<String>,
    /// CPUs to run on.
    pub affinity: Affinity,
    /// Lock the model in memory.
    pub mlock: bool,
    /// Map the model file instead of reading it.
    pub mmap: bool,
    /// Re-pack the weights for this CPU once the model answers.
    pub repack: bool,
    /// Where to keep the re-packed weights.
    pub cache_dir: Option<PathBuf>,
    /// Chat template, or the path of one.
    pub chat_template: Option<String>,
    /// Pre-tokenizer by name.
    pub tokenizer_pre: Option<String>,
    /// How long to wait for the model file.
    pub model_wait_timeout: Duration,
    /// How long running requests may go on after SIGTERM.
    pub shutdown_grace: Duration,
    /// Form of log lines.
    pub log_format: LogFormat,
    /// Filter of log lines, as `tracing_subscriber::EnvFilter` reads it.
    pub log_level: String,
    /// What the environment asked for and did not get; to be logged once.
    pub warnings: Vec<String>,
}

impl Settings {
    /// Flags, then environment, then the preset, then defaults.
    pub fn new(args: ServeArgs, env: &Env) -> Result<Self, SettingsError> {
        let args = args.or_env(env)?;
        let preset = args.use_case.unwrap_or_default().preset();
        let mut warnings = ignored(env);
        Ok(Settings {
            model: args.model.unwrap_or_else(|| Path::new("/models").to_owned()),
            alias: args.alias,
            host: args.host.unwrap_or(Ipv4Addr::UNSPECIFIED.into()),
            port: args.port.unwrap_or(8080),
            api_keys: args.api_key.unwrap_or_default(),
            cors_origin: args.cors_origin,
            context: args.ctx_size.map_or(Context::AtMost(preset.context), Context::Exactly),
            threads: args.threads.unwrap_or_default(),
            parallel: args
                .parallel
                .map_or(Parallel::AtMost(preset.parallel), Parallel::Exactly),
            cache: CacheTypes {
                k: args.cache_type_k.unwrap_or_default(),
                v: args.cache_type_v.unwrap_or_default(),
            },
            batch: args.batch_size.unwrap_or(preset.batch),
            speculation: args.spec_type.unwrap_or_default(),
            queue: args.queue_size.unwrap_or(128),
            kernel: args.kernel.and_then(|name| parse::kernel(name, &mut warnings)),
            affinity: args.cpu_affinity.unwrap_or_default(),
            mlock: args.mlock.unwrap_or(false),
            mmap: !args.no_mmap.unwrap_or(false),
            repack: !args.no_repack.unwrap_or(false),
            cache_dir: args.cache_dir,
            chat_template: args.chat_template,
            tokenizer_pre: args.tokenizer_pre,
            model_wait_timeout: args.model_wait_timeout.unwrap_or(Duration::from_secs(300)),
            // `docker stop` kills after 10 seconds: the last words have to be out by then.
            shutdown_grace: args.shutdown_grace.unwrap_or(Duration::from_secs(8)),
            log_format: args.log_format.unwrap_or_default(),
            log_level: args.log_level.unwrap_or_else(|| "info".to_owned()),
            warnings,
        })
    }
}

/// A sentence for every variable that somebody set for us and that does nothing.
fn ignored(env: &Env) -> Vec<String> {
    let set = |name: &str| env.get(name).is_some_and(|value| !value.trim().is_empty());
    let known = |name: &str| VARIABLES.iter().any(|row| row.names().any(|n| n == name));
    // Variables that Kubernetes injects for a Service named `sterna`.
    let service = |name: &str| name.starts_with("STERNA_PORT_") || name.starts_with("STERNA_SERVICE_");
    let unknown = |name: &str| {
        let ours = name.starts_with("STERNA_") || name.starts_with("LLAMA_ARG_");
        ours && !known(name) && !service(name)
    };
    let documented = IGNORED
        .iter()
        .filter(|(name, _)| set(name))
        .map(|(name, instead)| format!("ignoring environment variable {name}: {instead}"));
    let others = env.keys().filter(|name| unknown(name) && set(name)).map(|name| {
        format!("ignoring environment variable {name}: the server has no such setting, see `sterna serve --help`")
    });
    documented.chain(others).collect()
}

#[cfg(test)]
mod tests;
