//! The graph's numbers, from metadata.

use super::error::InvalidModel;
use super::gguf::Gguf;
use super::{Architecture, Config};

/// Most transformer blocks.
const LAYERS_MAX: u32 = 1 << 10;
/// Widest vector of the graph. Sums of int8 x ternary over it stay below 2^24, where f32 still counts by ones.
const WIDTH_MAX: u32 = 1 << 16;
/// Largest vocabulary.
const VOCAB_MAX: usize = 1 << 21;
/// Longest context that a file may claim; the engine allocates what `--ctx-size` asks for, not this.
const CONTEXT_MAX: u32 = 1 << 24;
/// Weights in a block of I2_S.
const TERNARY_BLOCK: usize = 128;

impl Config {
    /// Reads the configuration; `stem` names the model when the file does not.
    pub fn from_gguf(gguf: &Gguf, stem: &str) -> Result<Config, InvalidModel> {
        let name = gguf.require::<&str>("general.architecture")?;
        let architecture = match name {
            "bitnet-b1.58" | "bitnet-25" => Architecture::BitnetB158,
            other => return Err(InvalidModel::Architecture(other.to_owned())),
        };
        if let Some(files @ 2..) = gguf.get::<u32>("split.count")? {
            return Err(InvalidModel::Split(files));
        }
        let keys = Keys { gguf, prefix: name };
        keys.refuse_unsupported()?;

        let hidden = keys.size("embedding_length", None, WIDTH_MAX)?;
        let ffn = keys.size("feed_forward_length", None, WIDTH_MAX)?;
        for (key, width) in [("embedding_length", hidden), ("feed_forward_length", ffn)] {
            keys.check(key, width, width % TERNARY_BLOCK == 0, "a multiple of 128")?;
        }
        let heads = keys.size("attention.head_count", None, hidden as u32)?;
        keys.check(
            "attention.head_count",
            heads,
            hidden % heads == 0,
            "a divisor of embedding_length",
        )?;
        let kv_heads = keys.size("attention.head_count_kv", Some(heads), heads as u32)?;
        keys.check(
            "attention.head_count_kv",
            kv_heads,
            heads % kv_heads == 0,
            "a divisor of head_count",
        )?;
        let head_dim = hidden / heads;
        keys.check(
            "attention.head_count",
            heads,
            head_dim % 2 == 0,
            "such that heads have an even width",
        )?;
        for key in ["rope.dimension_count", "attention.key_length", "attention.value_length"] {
            let width = keys.size(key, Some(head_dim), WIDTH_MAX)?;
            keys.check(key, width, width == head_dim, "the width of a head")?;
        }
        Ok(Config {
            architecture,
            architecture_name: name.to_owned(),
            name: gguf
                .get::<&str>("general.name")?
                .filter(|n| !n.is_empty())
                .unwrap_or(stem)
                .to_owned(),
            layers: keys.size("block_count", None, LAYERS_MAX)?,
            hidden,
            ffn,
            heads,
            kv_heads,
            head_dim,
            vocab: vocabulary(gguf)?,
            context: keys.size("context_length", None, CONTEXT_MAX)?,
            rms_eps: keys.positive("attention.layer_norm_rms_epsilon", None)?,
            rope_base: keys.positive("rope.freq_base", Some(10_000.0))?,
        })
    }
}

/// Tokens in the file's vocabulary: the embedding must have as many rows.
fn vocabulary(gguf: &Gguf) -> Result<usize, InvalidModel> {
    let key = "tokenizer.ggml.tokens";
    let tokens = gguf.require::<&super::gguf::Array>(key)?;
    if (1..=VOCAB_MAX).contains(&tokens.len) {
        return Ok(tokens.len);
    }
    Err(InvalidModel::Value {
        key: key.to_owned(),
        found: format!("an array of {}", tokens.len),
        expected: format!("an array of 1 to {VOCAB_MAX} tokens"),
    })
}

/// The keys of one architecture: `<architecture>.<key>`.
struct Keys<'a> {
    gguf: &'a Gguf,
    prefix: &'a str,
}

impl Keys<'_> {
    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.prefix)
    }

    /// A number from 1 to `max`; without a default its absence is an error.
    fn size(&self, key: &str, default: Option<usize>, max: u32) -> Result<usize, InvalidModel> {
        let value = match (self.gguf.get::<u32>(&self.key(key))?, default) {
            (None, Some(default)) => return Ok(default),
            (None, None) => self.gguf.require::<u32>(&self.key(key))?,
            (Some(value), _) => value,
        };
        self.check(key, value, (1..=max).contains(&value), &format!("1 to {max}"))?;
        Ok(value as usize)
    }

    /// A finite number above 0; without a default its absence is an error.
    fn positive(&self, key: &str, default: Option<f32>) -> Result<f32, InvalidModel> {
        let value = match (self.gguf.get::<f32>(&self.key(key))?, default) {
            (None, Some(default)) => return Ok(default),
            (None, None) => self.gguf.require::<f32>(&self.key(key))?,
            (Some(value), _) => value,
        };
        self.check(key, value, value.is_finite() && value > 0.0, "a finite number above 0")?;
        Ok(value)
    }

    fn check(&self, key: &str, found: impl ToString, ok: bool, expected: &str) -> Result<(), InvalidModel> {
        if ok {
            return Ok(());
        }
        Err(InvalidModel::Value {
            key: self.key(key),
            found: found.to_string(),
            expected: expected.to_owned(),
        })
    }

    /// Properties that change the graph in ways the engine does not compute.
    fn refuse_unsupported(&self) -> Result<(), InvalidModel> {
        let refuse = |key: &str, found: String, what| {
            Err(InvalidModel::Feature {
                key: self.key(key),
                found,
                what,
            })
        };
        const SCALING: &str = "rope scaling";
        match self.gguf.get::<&str>(&self.key("rope.scaling.type"))? {
            None | Some("none" | "linear") => {}
            Some(other) => return refuse("rope.scaling.type", format!("{other:?}"), SCALING),
        }
        for key in ["rope.scaling.factor", "rope.scale_linear", "rope.scaling.attn_factor"] {
            match self.gguf.get::<f32>(&self.key(key))? {
                // 0 says "none" in some writers, as it does in llama.cpp.
                None | Some(0.0 | 1.0) => {}
                Some(factor) => return refuse(key, factor.to_string(), SCALING),
            }
        }
        match self.gguf.get::<u32>(&self.key("expert_count"))? {
            None | Some(0) => Ok(()),
            Some(experts) => refuse("expert_count", experts.to_string(), "a mixture of experts"),
        }
    }
}
