//! The knobs: how each follows from a level and a target, and why. Where a formula names no cache or line of the target, the value is a
//! constant of the level, because its registers or a measurement say so and no cache does.

use super::Knob;
use crate::kernels::Isa;
use crate::target::{Arch, Cache, TargetSpec};

/// What to assume where the target does not say. A small L2, since a block that is too small costs a few percent and
/// one that is too large costs the cache.
const DEFAULT_L2: u64 = 256 << 10;
const DEFAULT_L1D: u64 = 32 << 10;
const DEFAULT_LINE: u64 = 64;
/// Columns of most matrices of the published 2B model; the longest have 6912.
const TYPICAL_COLS: u64 = 2560;

/// GEMM register tile (weight rows x tokens) of a level: as many i32 accumulators as leave registers for the
/// weights of a step and one activation vector.
fn tile(isa: Isa) -> (u64, u64, &'static str) {
    match isa {
        Isa::Avx512vnni | Isa::Avx512vbmi => (
            4,
            6,
            "24 of 32 zmm accumulate, 4 hold codes, 1 activations, 3 masks and shifts",
        ),
        Isa::Avx512 => (
            4,
            4,
            "16 of 32 zmm accumulate (16 bit), 4 hold codes, 1 activations, 1 products, 4 constants and shifts",
        ),
        Isa::Avxvnni => (2, 6, "12 of 16 ymm accumulate, 2 hold codes, 1 activations, 1 the mask"),
        Isa::Avx2 => (
            2,
            4,
            "8 of 16 ymm accumulate (16 bit), 2 hold codes, 1 activations, 2 constants",
        ),
        Isa::Neon => (
            2,
            4,
            "16 of 32 q registers accumulate (16 and 32 bit), 4 hold codes, 2 activations",
        ),
        Isa::Dotprod => (4, 4, "16 of 32 q registers accumulate, 4 hold codes, 4 activations"),
        Isa::I8mm => (
            8,
            8,
            "16 of 32 q registers accumulate 2 x 2 sums each, 4 hold bytes, 4 codes, 4 activations",
        ),
        Isa::Baseline => (1, 4, "the portable kernel decodes a row once for four tokens"),
    }
}

/// Attention tile of a level: f32 accumulators, beside one vector or row of vectors of keys or values, and one broadcast.
fn attention_knobs(isa: Isa) -> [Knob; 2] {
    let (heads, panel) = match isa.f32_lanes() {
        16 => (4, 64),
        4 if isa == Isa::Baseline => (2, 16),
        _ => (4, 16),
    };
    [
        Knob {
            name: "heads_tile",
            value: heads,
            formula: format!("{heads} query heads, from the registers of {}", isa.name()),
            reason: "heads that share a KV head take their products from one conversion of a key or value",
        },
        Knob {
            name: "kv_panel",
            value: panel,
            formula: format!("{panel} columns, from the registers of {}", isa.name()),
            reason: "columns of cached keys and values that lie together: as wide as the attention's tile, so that it reads one \
                     linear stream. Measured on Zen 4: a tile of a quarter of the panel halves the speed",
        },
    ]
}

/// Every knob of a level on a target.
pub fn of(isa: Isa, target: &TargetSpec) -> Vec<Knob> {
    // A cache that two hardware threads share counts by half for each of them.
    let share = |cache: &Option<Cache>| {
        let cache = cache.as_ref();
        cache.map(|c| c.bytes / u64::from(c.sharers.unwrap_or(1).max(1)))
    };
    let (l2, l2_from) = size(share(&target.cache.l2), DEFAULT_L2);
    let (l1d, l1d_from) = size(share(&target.cache.l1d), DEFAULT_L1D);
    let (mr, nr, tile_reason) = tile(isa);
    // GEMM by token_lut.h, where nothing multiplies and adds bytes in one instruction.
    let by_tables = matches!(isa, Isa::Avx2 | Isa::Avx512);
    let (token_block, token_block_formula) = if by_tables {
        (128, "4 tiles of 32 tokens".to_owned())
    } else {
        (nr * 4, format!("4 x nr {nr}"))
    };
    let (line, line_from) = size(target.cache.line_bytes.map(u64::from), DEFAULT_LINE);
    let (ahead, ahead_reason) = prefetch_lines(isa);
    let mut knobs = vec![
        Knob {
            name: "mr",
            value: mr,
            formula: format!("{mr} weight rows, from the registers of {}", isa.name()),
            reason: tile_reason,
        },
        Knob {
            name: "nr",
            value: nr,
            formula: format!("{nr} tokens, from the registers of {}", isa.name()),
            reason: tile_reason,
        },
        Knob {
            name: "prefetch_bytes",
            value: ahead * line,
            formula: format!("{ahead} x line {line} ({line_from})"),
            reason: ahead_reason,
        },
        Knob {
            name: "piece_bytes",
            value: 128 << 10,
            formula: "128 KiB: five microseconds or ten of reading, on any target".to_owned(),
            reason: "decode: each thread reads its share of a matrix as one linear stream, in pieces of this size, and then those that \
                     others have not begun, so that a slow core keeps nobody waiting. Long against taking a piece, short against a \
                     product. Of rows that are mostly skipped a piece has four times as many bytes. How many threads there are is no \
                     knob: as many as CPUs may work at the same time, known at the start",
        },
        Knob {
            name: "weight_block_bytes",
            value: l2 / 2,
            formula: format!("L2 share {l2} ({l2_from}) / 2"),
            reason: "prefill passes a block of weight rows once a token tile: half of L2 keeps it there, the other \
                     half holds activations and sums",
        },
        Knob {
            name: "token_block",
            value: token_block,
            formula: token_block_formula,
            reason: if by_tables {
                "tokens a GEMM call handles: bounds the sums that wait for rescaling, and amortises the recoding of weights to numbers \
                 of entries. Tables take 256 columns of a row at a time, as many as the 16 bits of their sums hold"
            } else {
                "tokens a GEMM call handles: bounds the sums that wait for rescaling, and amortises the call. Columns are not cut: a \
                 tile's activations, whole rows of 2.5 or 7 KB a token, stay in L1d or L2 while a block of weights passes"
            },
        },
        Knob {
            name: "gemm_rows",
            value: if by_tables { 1280 } else { 0 },
            formula: if by_tables {
                "1280 rows: numbers of entries, sums and results of 1.5 MiB in all"
            } else {
                "0: weight_block_bytes decides"
            }
            .to_owned(),
            reason: "rows that a GEMM call of table_tokens or more should have even where their weights exceed \
                     weight_block_bytes: a token table costs as much to build as the additions of 110 rows, and is built once \
                     for all of a call. Measured on Zen 3, 320, 640, 1280 and 1728 rows: 158, 172, 194 and 198 GMAC/s",
        },
        Knob {
            name: "table_tokens",
            value: if by_tables { 25 } else { 0 },
            formula: if by_tables {
                "25 of the 32 tokens of a table"
            } else {
                "0: no tables"
            }
            .to_owned(),
            reason: "tokens from which a table pays: it costs the same for fewer. Measured on Zen 3: 1.11 ms of tables take the \
                     place of 0.045 ms a token",
        },
    ];
    if by_tables {
        knobs.push(Knob {
            name: "tables",
            value: 8,
            formula: "8, the fewest that the kernel takes: 41472 bytes; 16 are more than any L1d of x86-64".to_owned(),
            reason: "token tables that all rows pass at a time, adding from each an entry that nothing foresees. More of them pass the \
                     rows' sums through L1d less often, and the entries come from L2 more often. Measured on Zen 3, whose L1d of 32 KiB \
                     holds four fifths of 8: 16 cost 12 %",
        });
    }
    if let Some(packing) = isa.packing() {
        // Accumulators that leave registers for codes, activations and constants: one a token, on Arm more.
        let most = match isa {
            Isa::Avx512vbmi | Isa::Avx512vnni => 16,
            Isa::Avxvnni | Isa::Avx512 => 10,
            // Sums of 16 rows take 2 of 16 ymm registers.
            Isa::Avx2 => 6,
            // Sums of 8 rows in 16 bits take 4 of 32 q registers; in 32 bits two, and those of two tokens by SMMLA four.
            Isa::Neon => 6,
            _ => 8,
        };
        let unit = match isa.arch() {
            Arch::X86_64 => "registers",
            Arch::Aarch64 => "tokens, by registers",
        };
        knobs.push(Knob {
            name: "packing_rows",
            value: packing.rows as u64,
            formula: format!("{} rows, from the registers of {}", packing.rows, isa.name()),
            reason: "rows of a tile of the re-packed layout: one for each i32 lane of a register (of two in AVX2 and on Arm), so that \
                     nothing is added across lanes, and a thread's share of a matrix is one linear stream",
        });
        knobs.push(Knob {
            name: "packing_weights",
            value: packing.weights_per_byte as u64,
            formula: format!("{} weights a byte, from the instructions of {}", packing.weights_per_byte, isa.name()),
            reason: "5 where VBMI looks up 128 bytes at once and VNNI adds, 4 elsewhere: taking 1.6 bits a weight apart otherwise takes \
                     longer than reading 2.0",
        });
        knobs.push(Knob {
            name: "packed_tokens",
            value: (l1d / TYPICAL_COLS).clamp(4, most),
            formula: format!("L1d share {l1d} ({l1d_from}) / {TYPICAL_COLS} columns, 4 to {most} {unit}"),
            reason: "tokens that share an unpacked chunk of weights: their activations, whole rows of them, stay in L1d while a block of \
                     weights passes, and each has an accumulator",
        });
    }
    if let Some(packing) = isa.column_packing() {
        knobs.push(Knob {
            name: "column_rows",
            value: packing.rows as u64,
            formula: format!("{} rows, 64 bytes of {} weights each", packing.rows, packing.weights_per_byte),
            reason: "rows of a tile of a matrix by columns: a cache line, the least that is read of a column that meets no zero",
        });
    }
    knobs.push(Knob {
        name: "packed_prefetch_bytes",
        value: 32 * line,
        formula: format!("32 x line {line} ({line_from})"),
        reason: "re-packed weights and the coarse head lie in huge pages, so that the way may be long. Measured on Zen 3, one token, \
                 GB/s where reading alone reaches 17: 13 with none, 15 with 4 lines, 18.5 with 32 and more. On Zen 4 with 8 \
                 tokens, as parts of the speed from L2: 0.70 with none, 0.83 with 4 lines, 0.99 with 16 and more",
    });
    knobs.extend(attention_knobs(isa));
    knobs.push(Knob {
        name: "kv_prefetch_bytes",
        value: 64 * line,
        formula: format!("64 x line {line} ({line_from})"),
        reason: "attention computes about as long as memory takes to bring its keys and values: unless they are asked for \
                 early, one waits for the other. Measured on Zen 3, 2048 positions: 12.4 ms with none, 9.8 with 32 lines, 9.1 \
                 with 64, 8.1 from L2",
    });
    knobs
}

/// How many cache lines ahead decode from the file's pages asks for weights, and why.
fn prefetch_lines(isa: Isa) -> (u64, &'static str) {
    match isa {
        Isa::Avx512 | Isa::Avx512vnni | Isa::Avx512vbmi => (
            4,
            "decode from the file's pages reads each weight once, as one linear stream a thread that the hardware prefetcher brings to \
             L2: the software prefetch hides the way from there. Measured on Zen 4 under a hypervisor: 4 lines ahead gave 1.5 times the \
             speed of none; 8 KiB ahead, over 4 KiB pages, gave none",
        ),
        Isa::Avx2 => (
            32,
            "decode from the file's pages reads each weight once, as one linear stream a thread. Measured on Zen 3, I2_S and an F16 \
             head together: 4 lines gave 0.90 of the speed of 16, and 32 gave 1.02 to 1.04",
        ),
        Isa::Avxvnni => (
            32,
            "decode from the file's pages reads each weight once, as one linear stream a thread. As far ahead as AVX2's kernels, which \
             read likewise; not measured by itself",
        ),
        Isa::Baseline => (
            4,
            "the output head reads each weight once, as one linear stream a thread; the ternary kernels leave it to the hardware. As far \
             ahead as paid on Zen 4; not measured by itself",
        ),
        Isa::Neon | Isa::Dotprod | Isa::I8mm => (
            4,
            "decode from the file's pages reads each weight once, as one linear stream a thread. A short way, which crosses few pages; no \
             speed was measured on Arm",
        ),
    }
}

fn size(known: Option<u64>, default: u64) -> (u64, &'static str) {
    match known {
        Some(bytes) => (bytes, "from the target"),
        None => (default, "assumed: the target does not say"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::KernelPlan;

    fn spec(toml: &str) -> TargetSpec {
        toml::from_str(toml).expect("valid target")
    }

    /// Of a universal target: every level of an architecture.
    fn universal(arch: &str, feature: &str) -> KernelPlan {
        let text = format!("name='u'\ndescription=''\narch='{arch}'\nuniversal=true\nfeatures=['{feature}']");
        KernelPlan::new(&spec(&text)).expect("a plan")
    }

    #[test]
    fn a_reason_names_no_machine_of_another_level() {
        let (x86, arm) = (universal("x86_64", "sse2"), universal("aarch64", "neon"));
        for variant in x86.variants.iter().chain(&arm.variants) {
            let knob = variant.knobs.iter().find(|k| k.name == "prefetch_bytes").expect("knob");
            let measured = match variant.isa {
                Isa::Avx512 | Isa::Avx512vnni | Isa::Avx512vbmi => ["Measured on Zen 4", "4 lines ahead gave 1.5"],
                Isa::Avx2 => ["Measured on Zen 3", "32 gave 1.02"],
                Isa::Avxvnni | Isa::Baseline => ["not measured by itself", "one linear stream"],
                Isa::Neon | Isa::Dotprod | Isa::I8mm => ["no speed was measured on Arm", "one linear stream"],
            };
            assert!(measured.iter().all(|text| knob.reason.contains(text)), "{:?}", knob);
        }
    }

    #[test]
    fn the_plan_says_how_weights_are_re_packed_and_cut_for_threads() {
        for plan in [universal("x86_64", "sse2"), universal("aarch64", "neon")] {
            let bindings = crate::render::bindings(&plan).expect("bindings");
            assert_eq!(bindings.matches(" piece_bytes: 131072,").count(), plan.variants.len());
            for variant in &plan.variants {
                let planned = |name: &str| {
                    let knob = variant.knobs.iter().find(|knob| knob.name == name);
                    knob.map(|knob| knob.value as usize)
                };
                let packing = variant.isa.packing();
                assert_eq!(planned("packing_rows"), packing.map(|packing| packing.rows));
                assert_eq!(
                    planned("packing_weights"),
                    packing.map(|packing| packing.weights_per_byte)
                );
                assert_eq!(
                    planned("column_rows"),
                    variant.isa.column_packing().map(|packing| packing.rows)
                );
            }
        }
    }

    #[test]
    fn cache_sizes_move_the_blocks_and_unknown_ones_say_so() {
        let known =
            spec("name='k'\ndescription=''\narch='x86_64'\nfeatures=['sse2']\n[cache]\nl2={bytes=1048576,sharers=2}");
        let plan = KernelPlan::new(&known).expect("a plan");
        assert_eq!(plan.variants[0].knob("weight_block_bytes"), 256 << 10);
        let l1d = plan.variants[0]
            .knobs
            .iter()
            .find(|k| k.name == "prefetch_bytes")
            .expect("knob");
        assert!(l1d.formula.contains("assumed"), "{}", l1d.formula);
    }
}
