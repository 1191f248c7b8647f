//! The compiled kernels behind safe wrappers, and the operations of the forward pass built on them.
//!
//! Two kinds of exactness, both tested with `==` (docs/ARCHITECTURE.md): integer kernels equal
//! [`mod@reference`] because i8 x ternary in i32 is exact; float kernels equal it because the order of their
//! additions is part of their definition (lanes, then fixed folds; no product is fused unless it is exact). So every
//! variant gives the same bits, and so do any number of threads and any batch size.
//!
//! Declarations, the variants of this build and the image's identity come from `build.rs`.
#![allow(unsafe_code)] // the one room that calls compiled kernels

mod attention;
mod head;
mod kv;
mod lines;
pub mod ops;
mod probe;
pub mod reference;
mod shared;
mod sparse;

pub use attention::{AttentionScratch, Tile};
pub use head::round_for_head;
pub use kv::{Angles, CacheType, CacheTypes, KvCache};
pub use lines::{Lines, give_back};
pub use ops::{Heads, QuantRows};
pub use sparse::Live;

use crate::machine::STACK_BYTES;
use crate::model::{Packing, Skipping};

/// Function types of the kernel ABI, one a role.
mod abi {
    #![allow(missing_docs)] // documented by their role in the kernel table
    include!(concat!(env!("OUT_DIR"), "/abi.rs"));
}

/// The machine that this binary was built for.
#[derive(Debug, Clone, Copy)]
pub struct TargetInfo {
    /// Name of the target, and tag of its image.
    pub name: &'static str,
    /// CPU features without which nothing in this binary may run, spelled as Rust's `target_feature`.
    pub features: &'static [&'static str],
    /// L1d size that the kernels were planned for, if the target states one.
    pub l1d_bytes: Option<u64>,
    /// The same for L2.
    pub l2_bytes: Option<u64>,
}

/// One compiled instruction-set level, with a kernel for every role.
///
/// Its operations (in [`ops`]) execute instructions of that level: take one from [`choose`], or check
/// [`Variant::runs_on`] first.
pub struct Variant {
    /// `avx2`, `avx512vnni`, `neon` ...
    pub name: &'static str,
    /// CPU features that its code uses, spelled as Rust's `target_feature`.
    pub features: &'static [&'static str],
    /// (role, symbol, template) of every kernel, for people.
    pub listing: &'static [(&'static str, &'static str, &'static str)],
    /// (name, value, formula, reason) of every knob of the plan, for people.
    pub knobs: &'static [(&'static str, u64, &'static str, &'static str)],
    /// Longest ternary row that no accumulator can overflow on, in weights.
    pub max_cols: usize,
    /// Rows of a GEMM tile: threads get multiples of it.
    mr: usize,
    /// Bytes of weights that a thread takes at a time where there is one token.
    piece_bytes: usize,
    /// Bytes of weights that one pass over the tokens keeps in L2.
    weight_block_bytes: usize,
    /// Rows that one GEMM call of so many tokens or more should have even where their weights exceed that.
    gemm_rows: usize,
    /// See `gemm_rows`.
    table_tokens: usize,
    /// Tokens of one GEMM call.
    token_block: usize,
    /// Columns of a panel of cached keys or values.
    kv_panel: usize,
    i2s_gemv: abi::I2sGemv,
    i2s_gemm: abi::I2sGemm,
    packed: Option<PackedKernels>,
    skipping: Option<SkippingKernels>,
    quantize: abi::Quantize,
    rescale: abi::Rescale,
    rescale_add: abi::RescaleAdd,
    rmsnorm: abi::Rmsnorm,
    rope: abi::Rope,
    relu2_mul: abi::Relu2Mul,
    to_f16: abi::ToF16,
    attention_scores_f16: abi::AttentionScoresF16,
    attention_values_f16: abi::AttentionValuesF16,
    attention_scores_q8_0: abi::AttentionScoresQ80,
    attention_values_q8_0: abi::AttentionValuesQ80,
    head_f32: abi::HeadF32,
    head_f16: abi::HeadF16,
    head_q8_0: abi::HeadQ80,
    head_q6_k: abi::HeadQ6K,
    head_coarse: abi::HeadCoarse,
    head_fine: abi::HeadFine,
    probe_read: abi::ProbeRead,
    probe_dot: abi::ProbeDot,
}

/// The kernels of a variant that wants its weights re-packed.
struct PackedKernels {
    packing: Packing,
    gemv: abi::PackedGemv,
    gemm: abi::PackedGemm,
}

/// The kernels of a variant that can skip what a zero in the feed-forward makes needless.
struct SkippingKernels {
    /// The layout of up.
    up: Packing,
    gated: abi::I2sGated,
    /// The layout of down.
    down: Packing,
    columns: abi::PackedColumns,
}

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));

// The other half is for what calls them.
const _: () = assert!(2 * KERNEL_STACK_BYTES <= STACK_BYTES);

/// No compiled variant can be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NoVariant {
    /// The name that was asked for is not in this binary.
    #[error("no kernel variant named `{name}` in this build: use auto, or one of {}", known.join(", "))]
    Unknown {
        /// The name.
        name: String,
        /// What there is.
        known: Vec<&'static str>,
    },
    /// The CPU lacks what the variant needs.
    #[error("kernel variant `{name}` needs {}, which this CPU lacks: use auto", missing.join(", "))]
    Unsupported {
        /// The variant.
        name: &'static str,
        /// The missing features.
        missing: Vec<&'static str>,
    },
}

/// Every variant that this binary holds, best first.
pub fn variants() -> &'static [Variant] {
    &VARIANTS
}

/// The best variant for a CPU with `features`, or the one named by `wanted` (`auto` = the best).
pub fn choose(features: &[&str], wanted: &str) -> Result<&'static Variant, NoVariant> {
    let known = || variants().iter().map(|v| v.name).collect();
    let unsupported = |v: &Variant| NoVariant::Unsupported {
        name: v.name,
        missing: v.missing(features),
    };
    if wanted == "auto" {
        let narrowest = variants().last().expect("a build holds at least one variant");
        return variants()
            .iter()
            .find(|v| v.runs_on(features))
            .ok_or_else(|| unsupported(narrowest));
    }
    let unknown = || NoVariant::Unknown {
        name: wanted.to_owned(),
        known: known(),
    };
    let variant = variants().iter().find(|v| v.name == wanted).ok_or_else(unknown)?;
    if variant.runs_on(features) {
        Ok(variant)
    } else {
        Err(unsupported(variant))
    }
}

impl Variant {
    /// The layout that its kernels are fastest with; `None` where I2_S is as good.
    pub fn packing(&self) -> Option<Packing> {
        self.packed.as_ref().map(|packed| packed.packing)
    }

    /// The layouts of the feed-forward's matrices where it is mostly zero; none where no kernel skips anything.
    pub fn skipping(&self) -> Skipping {
        let kernels = self.skipping.as_ref();
        Skipping {
            up: kernels.map(|kernels| kernels.up),
            down: kernels.map(|kernels| kernels.down),
        }
    }

    /// Whether a CPU with `features` executes all of its instructions.
    pub fn runs_on(&self, features: &[&str]) -> bool {
        self.missing(features).is_empty()
    }

    fn missing(&self, features: &[&str]) -> Vec<&'static str> {
        self.features
            .iter()
            .copied()
            .filter(|f| !features.contains(f))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_variant_that_runs_is_chosen() {
        let all: Vec<&str> = variants().iter().flat_map(|v| v.features).copied().collect();
        assert_eq!(choose(&all, "auto").map(|v| v.name), Ok(variants()[0].name));
        let last = variants().last().expect("at least one");
        assert_eq!(choose(last.features, "auto").map(|v| v.name), Ok(last.name));
    }

    #[test]
    fn a_variant_is_refused_by_name() {
        assert!(matches!(choose(&[], "auto"), Err(NoVariant::Unsupported { .. })));
        assert!(matches!(
            choose(&[], variants()[0].name),
            Err(NoVariant::Unsupported { .. })
        ));
        let unknown = choose(&[], "tl2").err().expect("unknown").to_string();
        assert!(
            unknown.contains("tl2") && unknown.contains(variants()[0].name),
            "{unknown}"
        );
    }
}
