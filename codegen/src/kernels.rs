//! THE table: one row a kernel. Bindings, differential tests, the plan and `inspect` all come from it.
//!
//! A symbol reads `sterna_<role>__<isa>`: `sterna_i2s_gemv__avx512vnni` is the decode GEMV over I2_S weights
//! for AVX-512 with VNNI. A new kernel is one template and one row; a new role is one more [`Role`] whose
//! signature is stated once, here, for C and Rust alike.

use serde::Serialize;

pub use crate::abi::Type;
use crate::target::{Arch, Feature};

/// An instruction-set level that kernels are compiled for. An image for one target holds one level, a universal
/// image all levels of its architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Isa {
    /// Any x86-64: SSE2.
    Baseline,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX2, FMA, F16C and AVX-VNNI: `vpdpbusd` in 256 bits, on CPUs without AVX-512.
    Avxvnni,
    /// AVX-512 F, BW and VL, without VNNI.
    Avx512,
    /// AVX-512 F, BW, VL and VNNI.
    Avx512vnni,
    /// The same with VBMI: byte permutes over whole registers.
    Avx512vbmi,
    /// Any AArch64: Advanced SIMD.
    Neon,
    /// AArch64 with SDOT.
    Dotprod,
    /// AArch64 with SDOT and SMMLA.
    I8mm,
}

impl Isa {
    /// Every level; within an architecture the narrowest first, so that the last that fits is the best.
    pub const ALL: &[Isa] = &[
        Isa::Baseline,
        Isa::Avx2,
        Isa::Avxvnni,
        Isa::Avx512,
        Isa::Avx512vnni,
        Isa::Avx512vbmi,
        Isa::Neon,
        Isa::Dotprod,
        Isa::I8mm,
    ];

    /// As in symbols, image tags and `BITNET_KERNEL`.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Baseline => "baseline",
            Isa::Avx2 => "avx2",
            Isa::Avxvnni => "avxvnni",
            Isa::Avx512 => "avx512",
            Isa::Avx512vnni => "avx512vnni",
            Isa::Avx512vbmi => "avx512vbmi",
            Isa::Neon => "neon",
            Isa::Dotprod => "dotprod",
            Isa::I8mm => "i8mm",
        }
    }

    /// The architecture it belongs to.
    pub fn arch(self) -> Arch {
        match self {
            Isa::Baseline | Isa::Avx2 | Isa::Avxvnni | Isa::Avx512 | Isa::Avx512vnni | Isa::Avx512vbmi => Arch::X86_64,
            Isa::Neon | Isa::Dotprod | Isa::I8mm => Arch::Aarch64,
        }
    }

    /// What its code executes, beyond what these imply: the CPU guard asks for exactly this.
    pub fn features(self) -> &'static [Feature] {
        use Feature::*;
        match self {
            Isa::Baseline => &[Sse2],
            Isa::Avx2 => &[F16c, Fma, Avx2],
            Isa::Avxvnni => &[F16c, Fma, Avx2, AvxVnni],
            Isa::Avx512 => &[F16c, Avx2, Avx512f, Avx512bw, Avx512vl],
            Isa::Avx512vnni => &[F16c, Avx2, Avx512f, Avx512bw, Avx512vl, Avx512vnni],
            Isa::Avx512vbmi => &[F16c, Avx2, Avx512f, Avx512bw, Avx512vl, Avx512vnni, Avx512vbmi],
            Isa::Neon => &[Neon],
            Isa::Dotprod => &[Neon, Dotprod],
            Isa::I8mm => &[Neon, Dotprod, I8mm],
        }
    }

    /// Flags that gcc (11 or newer) and clang (12 or newer) both take. Never `-mfma`: a fused multiply-add rounds once where the definition
    /// of a float kernel rounds twice. Kernels fuse by name, and only products that are exact.
    pub fn flags(self) -> &'static [&'static str] {
        match self {
            Isa::Baseline => &[],
            Isa::Avx2 => &["-mavx2", "-mf16c"],
            Isa::Avxvnni => &["-mavx2", "-mf16c", "-mavxvnni"],
            Isa::Avx512 => &["-mavx2", "-mf16c", "-mavx512f", "-mavx512bw", "-mavx512vl"],
            Isa::Avx512vnni => &[
                "-mavx2",
                "-mf16c",
                "-mavx512f",
                "-mavx512bw",
                "-mavx512vl",
                "-mavx512vnni",
            ],
            Isa::Avx512vbmi => &[
                "-mavx2",
                "-mf16c",
                "-mavx512f",
                "-mavx512bw",
                "-mavx512vl",
                "-mavx512vnni",
                "-mavx512vbmi",
            ],
            Isa::Neon => &[],
            Isa::Dotprod => &["-march=armv8.2-a+dotprod"],
            Isa::I8mm => &["-march=armv8.2-a+dotprod+i8mm"],
        }
    }

    /// How its kernels want ternary weights re-packed; `None` where decode consumes I2_S as the file has it.
    ///
    /// 1.6 bits a weight where VBMI looks up 128 bytes at once and VNNI adds, 2.0 elsewhere: unpacking 1.6 otherwise
    /// takes longer than reading 2.0. Not the baseline, which is for old machines and tests. On Arm no speed was measured: what
    /// speaks for it there is the count of instructions, and one linear stream in huge pages.
    pub fn packing(self) -> Option<Packing> {
        let (rows, weights_per_byte) = match self {
            Isa::Avx512vbmi => (16, 5),
            Isa::Avx512vnni | Isa::Avx512 | Isa::Avx2 => (16, 4),
            Isa::Avxvnni | Isa::Neon | Isa::Dotprod | Isa::I8mm => (8, 4),
            Isa::Baseline => return None,
        };
        Some(Packing { rows, weights_per_byte })
    }

    /// How its kernels want a matrix whose inputs are mostly zero: by columns; `None` where no kernel skips.
    pub fn column_packing(self) -> Option<Packing> {
        let (rows, weights_per_byte) = match self {
            Isa::Avx512vbmi => (320, 5),
            Isa::Avx2 | Isa::Avxvnni | Isa::Avx512 | Isa::Avx512vnni => (256, 4),
            Isa::Baseline | Isa::Neon | Isa::Dotprod | Isa::I8mm => return None,
        };
        Some(Packing { rows, weights_per_byte })
    }

    /// Whether int8 products are summed by one instruction.
    pub fn has_vnni(self) -> bool {
        matches!(self, Isa::Avxvnni | Isa::Avx512vnni | Isa::Avx512vbmi)
    }

    /// f32 lanes of one vector register.
    pub fn f32_lanes(self) -> usize {
        match self {
            Isa::Baseline | Isa::Neon | Isa::Dotprod | Isa::I8mm => 4,
            Isa::Avx2 | Isa::Avxvnni => 8,
            Isa::Avx512 | Isa::Avx512vnni | Isa::Avx512vbmi => 16,
        }
    }
}

/// A layout of re-packed ternary weights; `runtime/model/packed.rs` defines it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Packing {
    /// Rows of a tile: by rows the i32 lanes of a register (on Arm of two), one row each; by columns those of 64 bytes.
    pub rows: usize,
    /// 4 (2.0 bits a weight) or 5 (1.6).
    pub weights_per_byte: usize,
}

/// What a kernel computes; `runtime/kernels/reference.rs` is the definition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Decode: ternary I2_S matrix times one int8 vector.
    I2sGemv,
    /// Prefill: ternary I2_S matrix times several int8 vectors.
    I2sGemm,
    /// Decode: re-packed ternary matrix times one int8 vector.
    PackedGemv,
    /// Prefill and small batches: re-packed ternary matrix times several int8 vectors.
    PackedGemm,
    /// Decode: ternary matrix by columns times the non-zero part of one int8 vector.
    PackedColumns,
    /// Decode: the rows of a ternary I2_S matrix whose gate is open, times one int8 vector.
    I2sGated,
    /// f32 row to int8 with one scale.
    Quantize,
    /// Integer sums to f32: acc / s * scale.
    Rescale,
    /// The same, added to what is there: the residual stream.
    RescaleAdd,
    /// RMSNorm of one row.
    Rmsnorm,
    /// NeoX rotary embedding of the heads of one token.
    Rope,
    /// relu(gate)^2 * up.
    Relu2Mul,
    /// f32 to f16 bits.
    ToF16,
    /// Attention, a block of positions: queries by keys.
    AttentionScoresF16,
    /// Attention, a block of positions: softmax and mix of the values.
    AttentionValuesF16,
    /// The same over int8 codes with a scale a position, lossy and off by default: queries, in int16, by keys.
    AttentionScoresQ8_0,
    /// Softmax and mix of the values.
    AttentionValuesQ8_0,
    /// Output head over F32 rows.
    HeadF32,
    /// Output head over F16 rows.
    HeadF16,
    /// Output head over Q8_0 rows.
    HeadQ8_0,
    /// Output head over Q6_K rows.
    HeadQ6K,
    /// Coarse output head: 6 bits of the rows' codes times int16 activations.
    HeadCoarse,
    /// One row of it: the other 2 bits.
    HeadFine,
    /// For benchmarks: reads memory.
    ProbeRead,
    /// For benchmarks: dot products on registers.
    ProbeDot,
}

/// How a kernel's result is held to the reference. Both are tested with `==`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Exactness {
    /// int8 x ternary in i32: any order gives the same sum; overflow is excluded at render time.
    Integer,
    /// f32 in a defined order (lanes, fixed folds, no inexact product fused): the same bits on every ISA.
    OrderedFloat,
}

impl Role {
    /// Every role: each compiled level has exactly one kernel for each that is [`Role::wanted_by`] it.
    pub const ALL: &[Role] = &[
        Role::I2sGemv,
        Role::I2sGemm,
        Role::PackedGemv,
        Role::PackedGemm,
        Role::PackedColumns,
        Role::I2sGated,
        Role::Quantize,
        Role::Rescale,
        Role::RescaleAdd,
        Role::Rmsnorm,
        Role::Rope,
        Role::Relu2Mul,
        Role::ToF16,
        Role::AttentionScoresF16,
        Role::AttentionValuesF16,
        Role::AttentionScoresQ8_0,
        Role::AttentionValuesQ8_0,
        Role::HeadF32,
        Role::HeadF16,
        Role::HeadQ8_0,
        Role::HeadQ6K,
        Role::HeadCoarse,
        Role::HeadFine,
        Role::ProbeRead,
        Role::ProbeDot,
    ];

    /// Whether only some levels have a kernel for it.
    pub fn is_optional(self) -> bool {
        Isa::ALL.iter().any(|&isa| !self.wanted_by(isa))
    }

    /// Whether a level has a kernel for it: those of re-packed weights only where there is such a layout, those that skip only where
    /// columns are skipped.
    pub fn wanted_by(self, isa: Isa) -> bool {
        match self {
            Role::PackedGemv | Role::PackedGemm => isa.packing().is_some(),
            Role::PackedColumns | Role::I2sGated => isa.column_packing().is_some(),
            _ => true,
        }
    }

    /// As in symbols and in the fields of the runtime's `Variant`.
    pub fn name(self) -> &'static str {
        match self {
            Role::I2sGemv => "i2s_gemv",
            Role::I2sGemm => "i2s_gemm",
            Role::PackedGemv => "packed_gemv",
            Role::PackedGemm => "packed_gemm",
            Role::PackedColumns => "packed_columns",
            Role::I2sGated => "i2s_gated",
            Role::Quantize => "quantize",
            Role::Rescale => "rescale",
            Role::RescaleAdd => "rescale_add",
            Role::Rmsnorm => "rmsnorm",
            Role::Rope => "rope",
            Role::Relu2Mul => "relu2_mul",
            Role::ToF16 => "to_f16",
            Role::AttentionScoresF16 => "attention_scores_f16",
            Role::AttentionValuesF16 => "attention_values_f16",
            Role::AttentionScoresQ8_0 => "attention_scores_q8_0",
            Role::AttentionValuesQ8_0 => "attention_values_q8_0",
            Role::HeadF32 => "head_f32",
            Role::HeadF16 => "head_f16",
            Role::HeadQ8_0 => "head_q8_0",
            Role::HeadQ6K => "head_q6_k",
            Role::HeadCoarse => "head_coarse",
            Role::HeadFine => "head_fine",
            Role::ProbeRead => "probe_read",
            Role::ProbeDot => "probe_dot",
        }
    }

    /// The parameters, once for C and Rust. Shapes: w (rows, cols), x (tokens, cols); outputs as named.
    pub fn signature(self) -> &'static [(&'static str, Type)] {
        use Type::*;
        match self {
            // y[r] = sum code(r, c) * x[c] - x_sum
            Role::I2sGemv | Role::PackedGemv => &[
                ("w", ConstU8),
                ("x", ConstI8),
                ("x_sum", I32),
                ("rows", Size),
                ("cols", Size),
                ("y", MutI32),
            ],
            // y[t * y_stride + r] = sum code(r, c) * x[t][c] - x_sums[t]
            Role::I2sGemm | Role::PackedGemm => &[
                ("w", ConstU8),
                ("x", ConstI8),
                ("x_sums", ConstI32),
                ("rows", Size),
                ("cols", Size),
                ("tokens", Size),
                ("y", MutI32),
                ("y_stride", Size),
            ],
            // y[r] = sum code(r, columns[i]) * x[i] - x_sum; x (n), y (tiles, rows of a tile), columns every `stride` bytes of w
            Role::PackedColumns => &[
                ("w", ConstU8),
                ("stride", Size),
                ("columns", ConstI32),
                ("x", ConstI8),
                ("n", Size),
                ("x_sum", I32),
                ("tiles", Size),
                ("y", MutI32),
            ],
            // y[r] = gate[r] <= 0 ? 0 : sum code(r, c) * x[c] - x_sum
            Role::I2sGated => &[
                ("w", ConstU8),
                ("gate", ConstF32),
                ("x", ConstI8),
                ("x_sum", I32),
                ("rows", Size),
                ("cols", Size),
                ("y", MutI32),
            ],
            Role::Quantize => &[
                ("x", ConstF32),
                ("n", Size),
                ("q", MutI8),
                ("scale", MutF32),
                ("sum", MutI32),
            ],
            Role::Rescale | Role::RescaleAdd => &[
                ("acc", ConstI32),
                ("n", Size),
                ("s", F32),
                ("scale", F32),
                ("y", MutF32),
            ],
            Role::Rmsnorm => &[
                ("x", ConstF32),
                ("weight", ConstF32),
                ("eps", F32),
                ("n", Size),
                ("y", MutF32),
            ],
            // x (heads, 2 * half)
            Role::Rope => &[
                ("x", MutF32),
                ("cosine", ConstF32),
                ("sine", ConstF32),
                ("heads", Size),
                ("half", Size),
            ],
            Role::Relu2Mul => &[("gate", ConstF32), ("up", ConstF32), ("n", Size), ("y", MutF32)],
            Role::ToF16 => &[("x", ConstF32), ("n", Size), ("y", MutU16)],
            // q (rows, q_stride), k (block, dim) in panels, scores (rows, group, block); row r sees len + r positions
            Role::AttentionScoresF16 => &[
                ("q", ConstF32),
                ("q_stride", Size),
                ("k", ConstU16),
                ("rows", Size),
                ("group", Size),
                ("dim", Size),
                ("len", Size),
                ("block", Size),
                ("scores", MutF32),
            ],
            // v (block, dim) in panels, max and sum (rows, group), out (rows, group, dim); the scores are used up
            Role::AttentionValuesF16 => &[
                ("scores", MutF32),
                ("v", ConstU16),
                ("rows", Size),
                ("group", Size),
                ("dim", Size),
                ("len", Size),
                ("block", Size),
                ("scale", F32),
                ("max", MutF32),
                ("sum", MutF32),
                ("out", MutF32),
            ],
            // The same; q_scales (rows, q_stride / dim), k_scales (block)
            Role::AttentionScoresQ8_0 => &[
                ("q", ConstI16),
                ("q_stride", Size),
                ("q_scales", ConstF32),
                ("k", ConstI8),
                ("k_scales", ConstF32),
                ("rows", Size),
                ("group", Size),
                ("dim", Size),
                ("len", Size),
                ("block", Size),
                ("scores", MutF32),
            ],
            // v_scales (block)
            Role::AttentionValuesQ8_0 => &[
                ("scores", MutF32),
                ("v", ConstI8),
                ("v_scales", ConstF32),
                ("rows", Size),
                ("group", Size),
                ("dim", Size),
                ("len", Size),
                ("block", Size),
                ("scale", F32),
                ("max", MutF32),
                ("sum", MutF32),
                ("out", MutF32),
            ],
            // y[t * y_stride + r] = w[r] . x[t]
            Role::HeadF32 | Role::HeadF16 | Role::HeadQ8_0 | Role::HeadQ6K => &[
                ("w", ConstU8),
                ("x", ConstF32),
                ("rows", Size),
                ("cols", Size),
                ("tokens", Size),
                ("y", MutF32),
                ("y_stride", Size),
            ],
            // The same in integers.
            Role::HeadCoarse => &[
                ("w", ConstU16),
                ("x", ConstI16),
                ("rows", Size),
                ("cols", Size),
                ("tokens", Size),
                ("y", MutI32),
                ("y_stride", Size),
            ],
            // y[0] = w . x
            Role::HeadFine => &[("w", ConstU16), ("x", ConstI16), ("cols", Size), ("y", MutI32)],
            // y[0] = sum of the 32-bit words of w (n bytes), modulo 2^32
            Role::ProbeRead => &[("w", ConstU8), ("n", Size), ("ahead", Size), ("y", MutI32)],
            // y[0] = multiply-adds made
            Role::ProbeDot => &[("rounds", Size), ("y", MutI32)],
        }
    }
}

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Kernel {
    /// What it computes.
    pub role: Role,
    /// The level it is compiled for.
    pub isa: Isa,
    /// The file in `templates/` that defines it. One template may define the kernels of several roles.
    pub template: &'static str,
    /// How its result is held to the reference.
    pub exactness: Exactness,
}

/// One GEMV and one GEMM over I2_S a level: their instructions differ too much to share a text.
const INTEGER: &[(Isa, &str, &str)] = &[
    (Isa::Baseline, "i2s_gemv_portable.c", "i2s_gemm_portable.c"),
    (Isa::Avx2, "i2s_gemv_avx2.c", "i2s_gemm_avx2.c"),
    (Isa::Avxvnni, "i2s_gemv_avxvnni.c", "i2s_gemm_avxvnni.c"),
    (Isa::Avx512, "i2s_gemv_avx512bw.c", "i2s_gemm_avx512bw.c"),
    (Isa::Avx512vnni, "i2s_gemv_avx512.c", "i2s_gemm_avx512.c"),
    (Isa::Avx512vbmi, "i2s_gemv_avx512.c", "i2s_gemm_avx512.c"),
    (Isa::Neon, "i2s_gemv_neon.c", "i2s_gemm_neon.c"),
    (Isa::Dotprod, "i2s_gemv_neon.c", "i2s_gemm_neon.c"),
    (Isa::I8mm, "i2s_gemv_neon.c", "i2s_gemm_i8mm.c"),
];

/// Integer kernels in one text for every level.
const INTEGER_ONCE: &[(Role, &str)] = &[
    (Role::HeadCoarse, "head_coarse.c"),
    (Role::HeadFine, "head_coarse.c"),
    (Role::ProbeRead, "probe.c"),
    (Role::ProbeDot, "probe.c"),
];

/// Float kernels are written once, over 16-lane vectors (`vector.h`), and compiled for every level.
const FLOAT: &[(Role, &str)] = &[
    (Role::Quantize, "elementwise.c"),
    (Role::Rescale, "elementwise.c"),
    (Role::RescaleAdd, "elementwise.c"),
    (Role::Rmsnorm, "elementwise.c"),
    (Role::Rope, "elementwise.c"),
    (Role::Relu2Mul, "elementwise.c"),
    (Role::ToF16, "elementwise.c"),
    (Role::AttentionScoresF16, "attention.c"),
    (Role::AttentionValuesF16, "attention.c"),
    (Role::AttentionScoresQ8_0, "attention.c"),
    (Role::AttentionValuesQ8_0, "attention.c"),
    (Role::HeadF32, "head.c"),
    (Role::HeadF16, "head.c"),
    (Role::HeadQ8_0, "head.c"),
    (Role::HeadQ6K, "head.c"),
];

/// The table: every kernel, by level, then by role.
pub fn table() -> Vec<Kernel> {
    let mut rows = Vec::new();
    for &(isa, gemv, gemm) in INTEGER {
        let kernel = |exactness| {
            move |(role, template)| Kernel {
                role,
                isa,
                template,
                exactness,
            }
        };
        let (integer, float) = (kernel(Exactness::Integer), kernel(Exactness::OrderedFloat));
        rows.extend([(Role::I2sGemv, gemv), (Role::I2sGemm, gemm)].map(integer));
        if isa.packing().is_some() {
            let template = match isa.arch() {
                Arch::X86_64 if isa.has_vnni() => "packed_vnni.c",
                Arch::X86_64 => "packed_maddubs.c",
                Arch::Aarch64 => "packed_neon.c",
            };
            rows.extend([Role::PackedGemv, Role::PackedGemm].map(|role| integer((role, template))));
        }
        if let Some(packing) = isa.column_packing() {
            let columns = match packing.weights_per_byte {
                5 => "packed_columns_vbmi.c",
                _ => "packed_columns_avx2.c",
            };
            rows.extend([(Role::PackedColumns, columns), (Role::I2sGated, gemv)].map(integer));
        }
        rows.extend(FLOAT.iter().copied().map(float));
        rows.extend(INTEGER_ONCE.iter().copied().map(integer));
    }
    rows
}

impl Kernel {
    /// `sterna_<role>__<isa>`
    pub fn symbol(&self) -> String {
        format!("sterna_{}__{}", self.role.name(), self.isa.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_has_one_kernel_for_every_role() {
        for &isa in Isa::ALL {
            for &role in Role::ALL {
                let n = table().iter().filter(|k| k.isa == isa && k.role == role).count();
                let expected = usize::from(role.wanted_by(isa));
                assert_eq!(n, expected, "{role:?} for {isa:?}");
            }
        }
    }

    #[test]
    fn features_belong_to_the_level_s_architecture() {
        for &isa in Isa::ALL {
            assert!(isa.features().iter().all(|f| f.arch() == isa.arch()), "{isa:?}");
        }
    }
}
