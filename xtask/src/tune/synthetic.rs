//! A model to tune with where none is given: the published 2B model's shapes with random weights, as many layers as no cache
//! holds. What a kernel's speed depends on is there; what it says means nothing.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

const HIDDEN: u64 = 2560;
const FFN: u64 = 6912;
const HEADS: u64 = 20;
const KV_HEADS: u64 = 5;
const HEAD_DIM: u64 = HIDDEN / HEADS;
/// Less than the published one's: a head of 42 MB beside the layers.
const VOCAB: u64 = 8192;
const CONTEXT: u32 = 4096;

/// GGUF's ids of tensor encodings.
const F32: u32 = 0;
const F16: u32 = 1;
const I2_S: u32 = 36;

/// (output, input) features of a layer's matrices.
const MATRICES: [(&str, u64, u64); 7] = [
    ("attn_q", HEADS * HEAD_DIM, HIDDEN),
    ("attn_k", KV_HEADS * HEAD_DIM, HIDDEN),
    ("attn_v", KV_HEADS * HEAD_DIM, HIDDEN),
    ("attn_output", HIDDEN, HEADS * HEAD_DIM),
    ("ffn_gate", FFN, HIDDEN),
    ("ffn_up", FFN, HIDDEN),
    ("ffn_down", HIDDEN, FFN),
];

/// Layers whose ternary matrices are at least eight times the L3, and 256 MB.
pub fn layers(l3_bytes: Option<u64>) -> u32 {
    let layer: u64 = MATRICES.iter().map(|(_, rows, cols)| rows * cols / 4).sum();
    let wanted = (8 * l3_bytes.unwrap_or(0)).clamp(256 << 20, 4 << 30);
    wanted.div_ceil(layer) as u32
}

/// The model in `folder`, written unless it is there.
pub fn model(folder: &Path, layers: u32) -> Result<PathBuf> {
    let path = folder.join(format!("synthetic-{layers}.gguf"));
    if path.exists() {
        return Ok(path);
    }
    let failed = || format!("cannot write {}", path.display());
    fs::create_dir_all(folder).with_context(failed)?;
    let unfinished = path.with_extension("part");
    write(
        &mut BufWriter::new(File::create(&unfinished).with_context(failed)?),
        layers,
    )
    .with_context(failed)?;
    fs::rename(&unfinished, &path).with_context(failed)?;
    Ok(path)
}

struct Tensor {
    name: String,
    /// Contiguous first.
    dims: Vec<u64>,
    encoding: u32,
    bytes: u64,
}

fn tensors(layers: u32) -> Vec<Tensor> {
    let mut all = Vec::new();
    let mut add = |name: String, dims: &[u64], encoding, bytes| {
        let dims = dims.to_vec();
        all.push(Tensor {
            name,
            dims,
            encoding,
            bytes,
        });
    };
    add(
        "token_embd.weight".to_owned(),
        &[HIDDEN, VOCAB],
        F16,
        2 * HIDDEN * VOCAB,
    );
    add("output_norm.weight".to_owned(), &[HIDDEN], F32, 4 * HIDDEN);
    for layer in 0..layers {
        for (norm, n) in [
            ("attn_norm", HIDDEN),
            ("attn_sub_norm", HIDDEN),
            ("ffn_norm", HIDDEN),
            ("ffn_sub_norm", FFN),
        ] {
            add(format!("blk.{layer}.{norm}.weight"), &[n], F32, 4 * n);
        }
        for (matrix, rows, cols) in MATRICES {
            // The codes, and 32 bytes with the scale.
            add(
                format!("blk.{layer}.{matrix}.weight"),
                &[cols, rows],
                I2_S,
                rows * cols / 4 + 32,
            );
        }
    }
    all
}

fn write(out: &mut impl Write, layers: u32) -> std::io::Result<()> {
    let tensors = tensors(layers);
    let keys = keys(layers);
    let mut header = b"GGUF\x03\0\0\0".to_vec();
    header.extend((tensors.len() as u64).to_le_bytes());
    header.extend((keys.len() as u64).to_le_bytes());
    header.extend(keys.concat());
    let mut offset = 0;
    for tensor in &tensors {
        header.extend(string(&tensor.name));
        header.extend((tensor.dims.len() as u32).to_le_bytes());
        header.extend(tensor.dims.iter().flat_map(|d| d.to_le_bytes()));
        header.extend(tensor.encoding.to_le_bytes());
        header.extend(u64::to_le_bytes(offset));
        offset += tensor.bytes.next_multiple_of(ALIGNMENT);
    }
    header.resize(header.len().next_multiple_of(ALIGNMENT as usize), 0);
    out.write_all(&header)?;
    let mut random = Random::new();
    for tensor in &tensors {
        match tensor.encoding {
            I2_S => {
                random.codes(out, tensor.bytes - 32)?;
                out.write_all(&0.02f32.to_le_bytes())?;
                out.write_all(&[0; 28])?;
            }
            F16 => random.halves(out, tensor.bytes)?,
            _ => out.write_all(&1f32.to_le_bytes().repeat(tensor.bytes as usize / 4))?,
        }
        let padding = tensor.bytes.next_multiple_of(ALIGNMENT) - tensor.bytes;
        out.write_all(&vec![0; padding as usize])?;
    }
    out.flush()
}

/// Of the tensors' data, GGUF's own default.
const ALIGNMENT: u64 = 32;

fn keys(layers: u32) -> Vec<Vec<u8>> {
    let key = |name: &str, id: u32, value: Vec<u8>| [string(name), id.to_le_bytes().to_vec(), value].concat();
    let text = |name: &str, value: &str| key(name, 8, string(value));
    let number = |name: &str, value: u32| key(&format!("bitnet-b1.58.{name}"), 4, value.to_le_bytes().to_vec());
    let real = |name: &str, value: f32| key(&format!("bitnet-b1.58.{name}"), 6, value.to_le_bytes().to_vec());
    let list = |name: &str, id: u32, elements: Vec<Vec<u8>>| {
        let mut value = id.to_le_bytes().to_vec();
        value.extend((elements.len() as u64).to_le_bytes());
        value.extend(elements.concat());
        key(name, 9, value)
    };
    let id = |name: &str, id: u32| key(&format!("tokenizer.ggml.{name}"), 4, id.to_le_bytes().to_vec());
    // Letters of the byte alphabet, and then names that no text holds.
    let token = |i: u64| match i {
        0..94 => char::from(b'!' + i as u8).to_string(),
        i => format!("<{i}>"),
    };
    let kind = |i: u64| if i < 94 { 1i32 } else { 3 };
    vec![
        text("general.architecture", "bitnet-b1.58"),
        text("general.name", "synthetic, shapes of BitNet b1.58 2B 4T"),
        number("context_length", CONTEXT),
        number("embedding_length", HIDDEN as u32),
        number("block_count", layers),
        number("feed_forward_length", FFN as u32),
        number("attention.head_count", HEADS as u32),
        number("attention.head_count_kv", KV_HEADS as u32),
        real("attention.layer_norm_rms_epsilon", 1e-5),
        real("rope.freq_base", 500_000.0),
        text("tokenizer.ggml.model", "gpt2"),
        text("tokenizer.ggml.pre", "llama-bpe"),
        list(
            "tokenizer.ggml.tokens",
            8,
            (0..VOCAB).map(|i| string(&token(i))).collect(),
        ),
        list(
            "tokenizer.ggml.token_type",
            5,
            (0..VOCAB).map(|i| kind(i).to_le_bytes().to_vec()).collect(),
        ),
        list("tokenizer.ggml.merges", 8, Vec::new()),
        id("bos_token_id", VOCAB as u32 - 2),
        id("eos_token_id", VOCAB as u32 - 1),
    ]
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

/// Blocks of random data, written again and again from another place: no kernel's speed depends on more.
struct Random {
    codes: Vec<u8>,
    halves: Vec<u8>,
    at: usize,
}

impl Random {
    fn new() -> Random {
        // A prime, so that rows do not repeat; even for whole halves.
        const BLOCK: usize = 2 * 500_009;
        let mut state = 158u64;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            state >> 33
        };
        let code = |r: u64| ((r % 3) | (r / 3 % 3) << 2 | (r / 9 % 3) << 4 | (r / 27 % 3) << 6) as u8;
        let codes = (0..BLOCK).map(|_| code(next())).collect();
        // Magnitudes between 2^-6 and 2^-2.
        let half = |r: u64| ((r & 1) << 15 | (9 + (r >> 1) % 4) << 10 | (r >> 8 & 0x3ff)) as u16;
        let halves = (0..BLOCK / 2).flat_map(|_| half(next()).to_le_bytes()).collect();
        Random { codes, halves, at: 0 }
    }

    fn codes(&mut self, out: &mut impl Write, bytes: u64) -> std::io::Result<()> {
        pour(out, &self.codes, &mut self.at, bytes)
    }

    fn halves(&mut self, out: &mut impl Write, bytes: u64) -> std::io::Result<()> {
        self.at &= !1;
        pour(out, &self.halves, &mut self.at, bytes)
    }
}

/// `bytes` of `block`, round and round from `at` on.
fn pour(out: &mut impl Write, block: &[u8], at: &mut usize, mut bytes: u64) -> std::io::Result<()> {
    while bytes > 0 {
        let part = (block.len() - *at).min(usize::try_from(bytes).unwrap_or(usize::MAX));
        out.write_all(&block[*at..*at + part])?;
        *at = (*at + part) % block.len();
        bytes -= part as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layers_exceed_the_cache_by_far() {
        assert_eq!(layers(None), layers(Some(1 << 20)));
        assert!(u64::from(layers(Some(384 << 20))) * 17_367_040 >= 8 * (384 << 20));
        assert!(layers(Some(u64::MAX / 16)) < 300, "not without bounds");
    }

    #[test]
    fn the_file_is_as_large_as_its_header_says_and_holds_ternary_codes() {
        let mut file = Vec::new();
        write(&mut file, 1).unwrap();
        let tensors = tensors(1);
        let data: u64 = tensors.iter().map(|t| t.bytes.next_multiple_of(ALIGNMENT)).sum();
        let header = file.len() - data as usize;
        assert_eq!(&file[..8], b"GGUF\x03\0\0\0");
        assert_eq!(file[8..16], (tensors.len() as u64).to_le_bytes());
        assert!(header.is_multiple_of(32) && header < 1 << 20);
        let last = &file[file.len() - (HIDDEN * FFN / 4 + 32) as usize..];
        let (codes, scale) = last.split_at((HIDDEN * FFN / 4) as usize);
        assert!(codes.iter().all(|byte| (0..4).all(|field| byte >> (2 * field) & 3 < 3)));
        assert_eq!(scale[..4], 0.02f32.to_le_bytes());
        let ones = codes.iter().filter(|byte| **byte & 3 == 1).count() as f64 / codes.len() as f64;
        assert!((ones - 1.0 / 3.0).abs() < 0.01, "{ones}");
    }

    #[test]
    fn a_model_is_written_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("synthetic-3.gguf");
        fs::write(&path, "there").unwrap();
        assert_eq!(model(dir.path(), 3).unwrap(), path);
        assert_eq!(fs::read_to_string(&path).unwrap(), "there");
    }
}
