//! For tests: a GGUF writer that also writes what no honest writer would, and a small valid model.

use std::sync::Arc;

use super::error::InvalidModel;
use super::gguf::Gguf;
use super::{Bytes, Mapping, Model};

/// A metadata value to write.
#[derive(Clone)]
pub(crate) enum V<'a> {
    U32(u32),
    F32(f32),
    Bool(bool),
    Str(&'a str),
    Strs(&'a [String]),
    I32s(&'a [i32]),
    /// Type id and bytes, as they go into the file.
    Raw(u32, Vec<u8>),
}

/// A tensor to write.
#[derive(Clone)]
pub(crate) struct Tensor {
    pub name: String,
    /// Contiguous first.
    pub dims: Vec<u64>,
    pub encoding: u32,
    pub data: Vec<u8>,
    /// Where the directory says it is, instead of where it is.
    pub offset: Option<u64>,
}

/// A file under construction.
#[derive(Clone)]
pub(crate) struct Writer {
    pub version: u32,
    pub keys: Vec<(String, Vec<u8>)>,
    pub tensors: Vec<Tensor>,
    /// Instead of the real counts of tensors and keys.
    pub counts: Option<(u64, u64)>,
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

impl Writer {
    /// Sets a key, replacing it where it is.
    pub fn set(&mut self, key: &str, value: V) -> &mut Self {
        let (id, bytes) = match value {
            V::U32(v) => (4, v.to_le_bytes().to_vec()),
            V::F32(v) => (6, v.to_le_bytes().to_vec()),
            V::Bool(v) => (7, vec![u8::from(v)]),
            V::Str(v) => (8, string(v)),
            V::Strs(v) => (9, array(8, v.iter().map(|s| string(s)))),
            V::I32s(v) => (9, array(5, v.iter().map(|i| i.to_le_bytes().to_vec()))),
            V::Raw(id, bytes) => (id, bytes),
        };
        let value = [u32::to_le_bytes(id).to_vec(), bytes].concat();
        match self.keys.iter_mut().find(|(k, _)| k == key) {
            Some(entry) => entry.1 = value,
            None => self.keys.push((key.to_owned(), value)),
        }
        self
    }

    pub fn remove(&mut self, key: &str) -> &mut Self {
        self.keys.retain(|(k, _)| k != key);
        self
    }

    pub fn tensor(&mut self, name: &str) -> &mut Tensor {
        self.tensors
            .iter_mut()
            .find(|t| t.name == name)
            .expect("a tensor of the small model")
    }

    /// The file, and the length of its header.
    pub fn build(&self) -> (Vec<u8>, usize) {
        let (n_tensors, n_keys) = self
            .counts
            .unwrap_or((self.tensors.len() as u64, self.keys.len() as u64));
        let mut file = [b"GGUF".as_slice(), &self.version.to_le_bytes()].concat();
        file.extend([n_tensors, n_keys].iter().flat_map(|n| n.to_le_bytes()));
        for (key, value) in &self.keys {
            file.extend([string(key), value.clone()].concat());
        }
        let mut offset = 0;
        for t in &self.tensors {
            file.extend(string(&t.name));
            file.extend((t.dims.len() as u32).to_le_bytes());
            file.extend(t.dims.iter().flat_map(|d| d.to_le_bytes()));
            file.extend(t.encoding.to_le_bytes());
            file.extend(t.offset.unwrap_or(offset).to_le_bytes());
            offset += (t.data.len() as u64).next_multiple_of(32);
        }
        let header = file.len();
        for t in &self.tensors {
            file.resize(file.len().next_multiple_of(32), 0);
            file.extend(&t.data);
        }
        (file, header)
    }

    /// What the loader makes of the file.
    pub fn load(&self) -> Result<(Model, Gguf), InvalidModel> {
        load(&self.build().0)
    }
}

fn array(id: u32, elements: impl ExactSizeIterator<Item = Vec<u8>>) -> Vec<u8> {
    let mut bytes = [&id.to_le_bytes()[..], &(elements.len() as u64).to_le_bytes()].concat();
    bytes.extend(elements.flatten());
    bytes
}

/// What the loader makes of these bytes.
pub(crate) fn load(bytes: &[u8]) -> Result<(Model, Gguf), InvalidModel> {
    let mapping = Arc::new(Mapping::from_bytes(bytes).expect("memory for a test"));
    let gguf = Gguf::parse(Bytes::whole(mapping.clone()))?;
    Ok((Model::from_gguf(&gguf, mapping, "test")?, gguf))
}

/// A valid model of one layer: hidden and ffn 128, two heads, the 256 bytes, " a" and two control tokens.
pub(crate) fn small_model() -> Writer {
    let mut writer = Writer {
        version: 3,
        keys: Vec::new(),
        tensors: Vec::new(),
        counts: None,
    };
    let mut tokens: Vec<String> = (0..=255).map(byte_char).map(String::from).collect();
    tokens.extend(["Ġa", "<|begin_of_text|>", "<|eot_id|>"].map(str::to_owned));
    let mut types = vec![1; 257];
    types.extend([3, 3]);
    writer
        .set("general.architecture", V::Str("bitnet-b1.58"))
        .set("bitnet-b1.58.context_length", V::U32(64))
        .set("bitnet-b1.58.embedding_length", V::U32(128))
        .set("bitnet-b1.58.block_count", V::U32(1))
        .set("bitnet-b1.58.feed_forward_length", V::U32(128))
        .set("bitnet-b1.58.attention.head_count", V::U32(2))
        .set("bitnet-b1.58.attention.layer_norm_rms_epsilon", V::F32(1e-5))
        .set("tokenizer.ggml.model", V::Str("gpt2"))
        .set("tokenizer.ggml.pre", V::Str("llama-bpe"))
        .set("tokenizer.ggml.tokens", V::Strs(&tokens))
        .set("tokenizer.ggml.token_type", V::I32s(&types))
        .set("tokenizer.ggml.merges", V::Strs(&["Ġ a".to_owned()]))
        .set("tokenizer.ggml.bos_token_id", V::U32(257))
        .set("tokenizer.ggml.eos_token_id", V::U32(258))
        .set(
            "tokenizer.chat_template",
            V::Str("{{ bos_token }}{{ messages[0].content }}"),
        );
    let mut tensor = |name: &str, dims: &[u64], encoding, data: Vec<u8>| {
        writer.tensors.push(Tensor {
            name: name.to_owned(),
            dims: dims.to_vec(),
            encoding,
            data,
            offset: None,
        });
    };
    tensor("token_embd.weight", &[128, 259], 1, vec![0; 2 * 128 * 259]);
    tensor("output_norm.weight", &[128], 0, 1f32.to_le_bytes().repeat(128));
    for norm in ["attn_norm", "attn_sub_norm", "ffn_norm", "ffn_sub_norm"] {
        tensor(
            &format!("blk.0.{norm}.weight"),
            &[128],
            0,
            1f32.to_le_bytes().repeat(128),
        );
    }
    for matrix in [
        "attn_q",
        "attn_k",
        "attn_v",
        "attn_output",
        "ffn_gate",
        "ffn_up",
        "ffn_down",
    ] {
        let mut data = vec![0b00_01_10_00; 128 * 128 / 4];
        data.extend(0.5f32.to_le_bytes());
        data.extend([0; 28]);
        tensor(&format!("blk.0.{matrix}.weight"), &[128, 128], 36, data);
    }
    writer
}

/// The character that stands for a byte in GPT-2's alphabet.
fn byte_char(byte: u8) -> char {
    let printable = |b: &u8| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    match printable(&byte) {
        true => char::from(byte),
        false => char::from_u32(256 + (0..byte).filter(|b| !printable(b)).count() as u32).expect("below U+0144"),
    }
}
