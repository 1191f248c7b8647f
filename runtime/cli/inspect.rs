//! `sterna inspect MODEL`: what is in a model file, whether it can be run, and with what.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Map, Value as Json, json};

use super::common::{CommandError, printable};
use crate::engine::Sampling;
use crate::engine::kv::{CacheType, CacheTypes, KvCache};
use crate::engine::sampling::Sampler;
use crate::engine::session::Session;
use crate::engine::sparsity::{self, Shares};
use crate::kernels::{self, Variant};
use crate::machine::cpu::Machine;
use crate::machine::limits::Limits;
use crate::model::gguf::{Array, Value};
use crate::model::{Config, GgufFile, InvalidModel, MapOptions, Model, ModelError};
use crate::text::{ChatTemplate, Tokenizer};

/// Elements of a long array that are shown.
const ARRAY_SHOWN: usize = 5;
/// Characters of a long text that are shown.
const TEXT_SHOWN: usize = 200;

/// Which model, and how to print what is in it.
#[derive(Clone, Debug, clap::Args)]
pub struct InspectArgs {
    /// GGUF file, or a directory that holds one
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Read every ternary weight as well, and check it
    #[arg(long)]
    check: bool,
    /// Run the model over a few words, and report how much of each layer's feed-forward was zero
    #[arg(long)]
    sparsity: bool,
}

/// What --sparsity reads, token by token, and how many tokens it generates after that.
const SAMPLE: &str = "Terns are seabirds that are found all over the world, normally near the sea, rivers, or wetlands. Most of \
                      them breed in colonies and lay their eggs on bare ground.";
const GENERATED: usize = 32;

/// Runs the command. A GGUF file that cannot be run is shown all the same; then the reason is the error.
pub fn run(args: InspectArgs, machine: &Machine) -> Result<(), CommandError> {
    let file = GgufFile::open(&args.model, MapOptions::default())?;
    let model = file.model().and_then(|model| match args.check {
        true => model.validate_codes_now().map(|()| model),
        false => Ok(model),
    });
    let model = model.map(Arc::new);
    let mut report = Report::new(&file, model.as_ref().map(|m| m.config.clone()), machine);
    let mut measured = Ok(());
    if args.sparsity {
        let shares = match &model {
            Ok(model) => sparsity(Arc::clone(model), &file, machine).map_err(|error| {
                let why = error.to_string();
                measured = Err(error);
                why
            }),
            Err(_) => Err("the model cannot be run".to_owned()),
        };
        report.sparsity = Some(shares);
    }
    let mut out = io::stdout().lock();
    match args.json {
        true => writeln!(out, "{:#}", report.json())?,
        false => write!(out, "{}", printable(&report.text()))?,
    }
    match report.model {
        // What else there is to say has been said.
        Ok(_) => measured,
        Err(reason) => Err(ModelError::Invalid {
            path: file.path.clone(),
            reason: reason.clone(),
        }
        .into()),
    }
}

/// How much of each layer's feed-forward is zero over [`SAMPLE`], and over what the model says after it.
fn sparsity(model: Arc<Model>, file: &GgufFile, machine: &Machine) -> Result<Vec<Shares>, CommandError> {
    let tokenizer = Tokenizer::from_gguf(&file.gguf, None)?;
    let mut tokens = tokenizer.encode(SAMPLE, true, true);
    let sampled = tokens.len();
    let capacity = (sampled + GENERATED).min(model.config.context);
    let kernels = kernels::choose(&machine.features, "auto")?;
    let mut greedy = Sampler::new(Sampling::greedy(), model.config.vocab);
    let mut session = Session::new(model, kernels, Limits::read().threads(), capacity, 1)?;
    for position in 0..capacity {
        let next = session.sample(&[tokens[position]], &mut greedy)?;
        if position + 1 >= sampled {
            tokens.push(next);
        }
    }
    Ok(session.sparsity())
}

struct Report<'a> {
    file: &'a GgufFile,
    model: Result<Config, &'a InvalidModel>,
    tokenizer: Result<Tokenizer, String>,
    template: Result<(), String>,
    kernels: Result<&'static Variant, String>,
    /// Of each layer, or why there is none; `None` where it was not asked for.
    sparsity: Option<Result<Vec<Shares>, String>>,
}

impl<'a> Report<'a> {
    fn new(file: &'a GgufFile, model: Result<Config, &'a InvalidModel>, machine: &Machine) -> Self {
        let tokenizer = Tokenizer::from_gguf(&file.gguf, None);
        let template = match &tokenizer {
            Ok(tokenizer) => ChatTemplate::from_gguf(&file.gguf, tokenizer, None)
                .map(drop)
                .map_err(|e| e.to_string()),
            Err(error) => Err(error.to_string()),
        };
        Report {
            file,
            model,
            tokenizer: tokenizer.map_err(|e| e.to_string()),
            template,
            kernels: kernels::choose(&machine.features, "auto").map_err(|e| e.to_string()),
            sparsity: None,
        }
    }

    /// (encoding, tensors, elements, bytes) of every encoding in the file.
    fn totals(&self) -> Vec<(String, usize, u64, u64)> {
        let mut totals = BTreeMap::new();
        for tensor in self.file.gguf.tensors() {
            let (n, elements, bytes) = totals.entry(tensor.encoding.to_string()).or_insert((0, 0u64, 0u64));
            *n += 1;
            *elements = elements.saturating_add(tensor.elements());
            *bytes = bytes.saturating_add(tensor.bytes.unwrap_or(0));
        }
        totals
            .into_iter()
            .map(|(encoding, (n, elements, bytes))| (encoding, n, elements, bytes))
            .collect()
    }

    fn json(&self) -> Json {
        let gguf = &self.file.gguf;
        let metadata: Map<String, Json> = gguf
            .entries()
            .map(|(key, _, value)| (key.to_owned(), metadata_json(value)))
            .collect();
        let totals = self.totals().into_iter().map(|(encoding, tensors, elements, bytes)| {
            json!({"encoding": encoding, "tensors": tensors, "elements": elements, "bytes": bytes,
                   "bits_per_weight": bits_per_weight(elements, bytes)})
        });
        let tensors = gguf.tensors().iter().map(|t| {
            json!({"name": t.name, "encoding": t.encoding.to_string(), "shape": t.dims, "bytes": t.bytes, "start": t.start})
        });
        json!({
            "path": self.file.path,
            "bytes": self.file.mapping.as_ref().as_ref().len(),
            "gguf": {"version": gguf.version, "alignment": gguf.alignment, "data_start": gguf.data_start},
            "problem": self.model.as_ref().err().map(ToString::to_string),
            "config": self.model.as_ref().ok().map(|c| Json::Object(
                config_rows(c).into_iter().map(|(name, value)| (name.to_owned(), value)).collect())),
            "tokenizer": match &self.tokenizer {
                Ok(t) => json!({"vocab": t.vocab(), "bos": t.bos(), "eos": t.eos(),
                                "pre": t.pre_tokenizer().0.names[0], "pre_reason": t.pre_tokenizer().1}),
                Err(problem) => json!({"problem": problem}),
            },
            "chat_template": self.template.is_ok(),
            "kernels": match &self.kernels {
                Ok(v) => json!({"variant": v.name, "reason": reason(v),
                                "roles": v.listing.iter().map(|(role, symbol, template)|
                                    json!({"role": role, "symbol": symbol, "template": template})).collect::<Vec<_>>(),
                                "knobs": v.knobs.iter().map(|(name, value, formula, reason)|
                                    json!({"name": name, "value": value, "formula": formula, "reason": reason})).collect::<Vec<_>>()}),
                Err(problem) => json!({"problem": problem}),
            },
            "sparsity": self.sparsity.iter().flatten().flatten().collect::<Vec<_>>(),
            "sparsity_problem": self.sparsity.as_ref().and_then(|sparsity| sparsity.as_ref().err()),
            "metadata": metadata,
            "encodings": totals.collect::<Vec<_>>(),
            "tensors": tensors.collect::<Vec<_>>(),
        })
    }

    fn text(&self) -> String {
        let mut out = String::new();
        self.write(&mut out).expect("writing to a string");
        out
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let gguf = &self.file.gguf;
        writeln!(
            out,
            "{}: GGUF {}, {} bytes",
            self.file.path.display(),
            gguf.version,
            self.file.mapping.as_ref().as_ref().len()
        )?;
        writeln!(out, "\nMetadata")?;
        for (key, kind, value) in gguf.entries() {
            // Names are the file's as well: a line end in one must not make another line.
            let key = key.escape_debug().to_string();
            writeln!(out, "  {key:<44} {:<7} {}", kind.name(), metadata_text(value))?;
        }
        writeln!(out, "\nTensors")?;
        for t in gguf.tensors() {
            let shape = t.dims.iter().map(u64::to_string).collect::<Vec<_>>().join(" x ");
            let bytes = t.bytes.map_or("?".to_owned(), |b| b.to_string());
            writeln!(
                out,
                "  {:<32} {:<8} {shape:>16} {bytes:>12} bytes",
                t.name.escape_debug().to_string(),
                t.encoding.to_string()
            )?;
        }
        writeln!(out, "\nEncodings")?;
        for (encoding, tensors, elements, bytes) in self.totals() {
            let bits = bits_per_weight(elements, bytes).map_or("?".to_owned(), |b| format!("{b:.3}"));
            writeln!(
                out,
                "  {encoding:<8} {tensors:>5} tensors {elements:>12} weights {bytes:>12} bytes {bits:>7} bits/weight"
            )?;
        }
        writeln!(out, "\nModel")?;
        match &self.model {
            Ok(config) => {
                for (name, value) in config_rows(config) {
                    writeln!(out, "  {name:<18} {value}")?;
                }
            }
            Err(problem) => writeln!(out, "  cannot be run: {problem}")?,
        }
        match &self.tokenizer {
            Ok(t) => {
                let (pre, reason) = t.pre_tokenizer();
                writeln!(out, "  {:<18} {} ({reason})", "pre-tokenizer", pre.names[0])?;
            }
            Err(problem) => writeln!(out, "  {:<18} cannot be used: {problem}", "tokenizer")?,
        }
        match &self.template {
            Ok(()) => writeln!(out, "  {:<18} yes", "chat template")?,
            Err(problem) => writeln!(out, "  {:<18} no: {problem}", "chat template")?,
        }
        if let Some(measured) = &self.sparsity {
            writeln!(out, "\nFeed-forward, measured")?;
            match measured {
                Ok(layers) => write_shares(out, layers)?,
                Err(problem) => writeln!(out, "  not measured: {problem}")?,
            }
        }
        writeln!(out, "\nKernels")?;
        match &self.kernels {
            Ok(variant) => {
                writeln!(out, "  {}: {}", variant.name, reason(variant))?;
                for (role, symbol, template) in variant.listing {
                    writeln!(out, "  {role:<10} {symbol:<36} {template}")?;
                }
                writeln!(out, "\nKnobs")?;
                for (name, value, formula, reason) in variant.knobs {
                    writeln!(out, "  {name:<18} {value:>8} = {formula}: {reason}")?;
                }
            }
            Err(problem) => writeln!(out, "  none: {problem}")?,
        }
        Ok(())
    }
}

fn write_shares(out: &mut String, layers: &[Shares]) -> std::fmt::Result {
    for (layer, shares) in layers.iter().enumerate() {
        let (closed, zero) = (shares.gate_closed * 100.0, shares.down_zero * 100.0);
        writeln!(
            out,
            "  layer {layer:<12} gate closed {closed:5.1} %, input of down zero {zero:5.1} %"
        )?;
    }
    writeln!(out, "  {:<18} {}", "all", sparsity::summary(layers))
}

/// Why this variant was chosen.
fn reason(variant: &Variant) -> String {
    let all: Vec<&str> = kernels::variants().iter().map(|v| v.name).collect();
    match all.as_slice() {
        [_] => "the only one in this build".to_owned(),
        all => format!(
            "the best of {} that this CPU runs; it needs {}",
            all.join(", "),
            match variant.features {
                [] => "nothing beyond the baseline".to_owned(),
                features => features.join(", "),
            }
        ),
    }
}

/// The shortest number that means this f32: 1e-5, not 9.999999747378752e-6.
fn number(value: f32) -> Json {
    json!(value.to_string().parse::<f64>().ok().filter(|v| v.is_finite()))
}

fn bits_per_weight(elements: u64, bytes: u64) -> Option<f64> {
    (elements > 0 && bytes > 0).then(|| bytes as f64 * 8.0 / elements as f64)
}

/// Of the cache, bytes that a token takes.
fn config_rows(c: &Config) -> Vec<(&'static str, Json)> {
    let cache = |kind| json!(KvCache::bytes_per_position(c, CacheTypes { k: kind, v: kind }));
    vec![
        ("name", json!(c.name)),
        ("architecture", json!(c.architecture_name)),
        ("layers", json!(c.layers)),
        ("hidden", json!(c.hidden)),
        ("ffn", json!(c.ffn)),
        ("heads", json!(c.heads)),
        ("kv_heads", json!(c.kv_heads)),
        ("head_dim", json!(c.head_dim)),
        ("vocab", json!(c.vocab)),
        ("context", json!(c.context)),
        ("rms_eps", number(c.rms_eps)),
        ("rope_base", number(c.rope_base)),
        ("kv_f16_bytes", cache(CacheType::F16)),
        ("kv_q8_0_bytes", cache(CacheType::Q8_0)),
    ]
}

fn array_json(array: &Array) -> Vec<Json> {
    let strings = array.strings().map(|s| json!(String::from_utf8_lossy(s)));
    strings
        .chain(array.scalars().map(|v| metadata_json(&v)))
        .take(ARRAY_SHOWN)
        .collect()
}

/// A metadata value; arrays as their type, length and first elements.
fn metadata_json(value: &Value) -> Json {
    match value {
        Value::Unsigned(v) => json!(v),
        Value::Signed(v) => json!(v),
        Value::F32(v) => number(*v),
        Value::F64(v) => json!(v),
        Value::Bool(v) => json!(v),
        Value::String(v) => json!(v),
        Value::Array(v) => json!({"type": v.kind.name(), "len": v.len, "first": array_json(v)}),
    }
}

fn metadata_text(value: &Value) -> String {
    match value {
        Value::String(text) => match text.char_indices().nth(TEXT_SHOWN) {
            Some((end, _)) => format!("{:?}... ({} bytes)", &text[..end], text.len()),
            None => format!("{text:?}"),
        },
        Value::Array(array) => {
            let first: Vec<String> = array_json(array).iter().map(Json::to_string).collect();
            let more = if array.len > first.len() { ", ..." } else { "" };
            format!("{} {}: [{}{more}]", array.len, array.kind.name(), first.join(", "))
        }
        scalar => metadata_json(scalar).to_string(),
    }
}
