//! Tiny models made by hand, for tests.

use std::sync::{Arc, OnceLock};

use half::f16;
use rand_pcg::Pcg64Mcg;
use rand_pcg::rand_core::Rng;

use crate::kernels::{Variant, variants};
use crate::machine::cpu::Machine;
use crate::model::zeros::{DOWN, UP};
use crate::model::{
    Architecture, Bytes, Config, Dense, DenseType, Layer, Mapping, Model, Packing, Skipping, Ternary, Zeros,
};

/// Kernels that every CPU of the architecture runs.
pub fn kernels() -> &'static Variant {
    variants().last().expect("a build holds at least one variant")
}

/// Every variant that this CPU runs.
pub fn runnable() -> impl Iterator<Item = &'static Variant> {
    let features = Machine::detect().features;
    variants().iter().filter(move |variant| variant.runs_on(&features))
}

/// Those of them that can skip zeros, with their layouts: where all of a matrix is read, and where something is skipped.
pub fn skipping() -> impl Iterator<Item = (&'static Variant, Packing, Skipping)> {
    let features = Machine::detect().features;
    variants().iter().filter_map(move |variant| {
        let (rows, skipping) = (variant.packing()?, variant.skipping());
        if skipping == Skipping::default() {
            return None;
        }
        assert!(skipping.up.is_some() && skipping.down.is_some());
        if !variant.runs_on(&features) {
            println!("SKIP {}, which this CPU cannot run", variant.name);
            return None;
        }
        Some((variant, rows, skipping))
    })
}

/// Two layers, four heads over two, vocabulary 40.
pub fn config() -> Config {
    Config {
        architecture: Architecture::BitnetB158,
        architecture_name: "bitnet-b1.58".into(),
        name: "by hand".into(),
        layers: 2,
        hidden: 128,
        ffn: 256,
        heads: 4,
        kv_heads: 2,
        head_dim: 32,
        vocab: 40,
        context: 64,
        rms_eps: 1e-5,
        rope_base: 10000.0,
    }
}

/// Random ternary weights, the same every time.
pub fn model() -> Arc<Model> {
    Arc::new(build(config(), 0.05, |_| {}))
}

/// The same with an inner vector so long that those of 64 rows take whole pages.
pub fn model_with_long_inner_vector() -> Arc<Model> {
    let config = Config { ffn: 4096, ..config() };
    Arc::new(build(config, 0.05, |_| {}))
}

/// The same with a context that nobody generates to the end of while a test waits.
pub fn model_with_long_context() -> Arc<Model> {
    let mut model = build(config(), 0.05, |_| {});
    model.config.context = 1 << 16;
    Arc::new(model)
}

/// Token 0 embeds to infinities, token 1 to NaN.
pub fn model_with_broken_embedding() -> Arc<Model> {
    Arc::new(build(config(), 0.05, |embedding| {
        let width = config().hidden;
        embedding[..width].fill(f32::INFINITY);
        embedding[width..2 * width].fill(f32::NAN);
    }))
}

/// All matrices with this scale.
pub fn model_with_scale(scale: f32) -> Arc<Model> {
    Arc::new(build(config(), scale, |_| {}))
}

/// A head of F16 over `vocab` tokens, its rows of f32 changed before they are rounded.
pub fn model_with_f16_head(vocab: usize, change_embedding: impl Fn(&mut [f32])) -> Arc<Model> {
    let config = Config { vocab, ..config() };
    let mut model = build(config, 0.05, change_embedding);
    let rows = model.embedding.data.as_chunks::<4>().0.iter();
    let halves = rows.flat_map(|b| f16::from_f32(f32::from_le_bytes(*b)).to_le_bytes());
    model.embedding.data = bytes(halves.collect());
    model.embedding.kind = DenseType::F16;
    Arc::new(model)
}

/// A matrix with fewer rows than its place asks for, which the loader would refuse.
pub fn model_with_a_short_layer() -> Arc<Model> {
    let mut model = build(config(), 0.05, |_| {});
    model.layers[1].ffn_down.rows -= 1;
    Arc::new(model)
}

fn build(config: Config, scale: f32, change_embedding: impl Fn(&mut [f32])) -> Model {
    let mut rng = Pcg64Mcg::new(1);
    let mut uniform = move || (rng.next_u32() >> 8) as f32 / (1 << 24) as f32 - 0.5;
    let mut embedding: Vec<f32> = (0..config.vocab * config.hidden).map(|_| uniform()).collect();
    change_embedding(&mut embedding);
    let embedding = embedding.iter().flat_map(|x| x.to_le_bytes()).collect();
    let mut ternary = |rows: usize, cols: usize| {
        let mut code = || ((uniform() + 0.5) * 3.0) as u8;
        let packed = (0..rows * cols / 4).map(|_| code() << 6 | code() << 4 | code() << 2 | code());
        Ternary::new(bytes(packed.collect()), rows, cols, scale)
    };
    let (h, f) = (config.hidden, config.ffn);
    let (q, kv) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
    let mut layer = || Layer {
        attn_norm: vec![1.0; h],
        attn_q: ternary(q, h),
        attn_k: ternary(kv, h),
        attn_v: ternary(kv, h),
        attn_sub_norm: vec![1.0; q],
        attn_output: ternary(h, q),
        ffn_norm: vec![1.0; h],
        ffn_gate: ternary(f, h),
        ffn_up: ternary(f, h),
        ffn_sub_norm: vec![1.0; f],
        ffn_down: ternary(h, f),
        gates_closed: Zeros::new(UP),
        down_zeros: Zeros::new(DOWN),
    };
    Model {
        embedding: Dense {
            data: bytes(embedding),
            kind: DenseType::F32,
            rows: config.vocab,
            cols: h,
        },
        output_norm: vec![1.0; h],
        layers: (0..config.layers).map(|_| layer()).collect(),
        config,
        mapping: Arc::new(Mapping::from_bytes(&[]).expect("an empty mapping")),
        coarse: OnceLock::new(),
    }
}

fn bytes(data: Vec<u8>) -> Bytes {
    let len = data.len();
    Bytes::new(Arc::new(data), 0..len).expect("the whole range")
}
