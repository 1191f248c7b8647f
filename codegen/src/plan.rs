//! TargetSpec -> [`KernelPlan`]: every knob with its formula, the inputs it was computed from, and the reason.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::kernels::{Isa, Role, table};
use crate::target::{Arch, Feature, TargetSpec};

/// What an image's kernels will be. Written to `plan.json` and shown by `sterna inspect`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct KernelPlan {
    /// Name of the target.
    pub target: String,
    /// Architecture of the target.
    pub arch: Arch,
    /// Levels to compile, best first. One for a specialised image, all for a universal one.
    pub variants: Vec<VariantPlan>,
    /// Features that every variant needs: what the CPU guard asks for before it chooses.
    pub required: Vec<Feature>,
    /// L1d size that the knobs assume, where the target states it: the runtime warns when the machine differs.
    pub l1d_bytes: Option<u64>,
    /// The same for L2.
    pub l2_bytes: Option<u64>,
}

/// The kernels of one level, and the knobs that they share.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VariantPlan {
    /// The level.
    pub isa: Isa,
    /// Set where it is not the plan's own variant of its level, but one of the target's candidates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub candidate: Option<String>,
    /// Its features.
    pub features: Vec<Feature>,
    /// Role, symbol and template of every kernel.
    pub kernels: Vec<KernelChoice>,
    /// Values and reasons.
    pub knobs: Vec<Knob>,
}

/// One kernel of a plan.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct KernelChoice {
    /// What it computes.
    pub role: Role,
    /// Its symbol.
    pub symbol: String,
    /// The template that it is rendered from.
    pub template: &'static str,
}

/// One number, and why it is what it is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Knob {
    /// Name, as templates and the runtime know it.
    pub name: &'static str,
    /// Value.
    pub value: u64,
    /// How it follows from the target, with the inputs filled in.
    pub formula: String,
    /// Why that formula.
    pub reason: &'static str,
}

/// A target for which nothing can be compiled.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// No level's features are there.
    #[error("target {target} has none of the levels {}: add `{}` to its features", levels.join(", "), needs)]
    NoVariant {
        /// The target.
        target: String,
        /// Those of its architecture.
        levels: Vec<&'static str>,
        /// What the narrowest needs.
        needs: Feature,
    },
    /// A knob that does not exist, or cannot have that value.
    #[error("target {target}: {level} cannot have the knob {knob} = {value}")]
    Knob {
        /// The target.
        target: String,
        /// The level.
        level: &'static str,
        /// The knob.
        knob: String,
        /// The value.
        value: u64,
    },
}

/// What to assume where the target does not say. A small L2, since a block that is too small costs a few percent and
/// one that is too large costs the cache.
const DEFAULT_L2: u64 = 256 << 10;
const DEFAULT_L1D: u64 = 32 << 10;
const DEFAULT_LINE: u64 = 64;
/// Columns of most matrices of the published 2B model; the longest have 6912.
const TYPICAL_COLS: u64 = 2560;

impl KernelPlan {
    /// Plans the kernels of `target`: a pure function of it.
    pub fn new(target: &TargetSpec) -> Result<Self, PlanError> {
        let of_arch = Isa::ALL.iter().copied().filter(|isa| isa.arch() == target.arch);
        let fits = |isa: &Isa| isa.features().iter().all(|f| target.features.contains(f));
        let mut levels: Vec<Isa> = if target.universal {
            of_arch.clone().collect()
        } else {
            of_arch.clone().rfind(fits).into_iter().collect()
        };
        levels.reverse();
        let Some(narrowest) = levels.last().copied() else {
            let levels = of_arch.clone().map(Isa::name).collect();
            let needs = of_arch
                .clone()
                .next()
                .expect("every architecture has a level")
                .features()[0];
            return Err(PlanError::NoVariant {
                target: target.name.clone(),
                levels,
                needs,
            });
        };
        let planned: Result<Vec<_>, _> = levels.iter().map(|&isa| VariantPlan::new(isa, target)).collect();
        let mut variants = planned?;
        for (name, knobs) in &target.candidates {
            let candidate = variants[0].candidate(name, knobs, target)?;
            variants.push(candidate);
        }
        Ok(KernelPlan {
            target: target.name.clone(),
            arch: target.arch,
            variants,
            required: narrowest.features().to_vec(),
            l1d_bytes: target.cache.l1d.as_ref().map(|c| c.bytes),
            l2_bytes: target.cache.l2.as_ref().map(|c| c.bytes),
        })
    }

    /// `plan.json`.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a plan is plain data") + "\n"
    }
}

impl VariantPlan {
    fn new(isa: Isa, target: &TargetSpec) -> Result<Self, PlanError> {
        let kernels = table()
            .iter()
            .filter(|k| k.isa == isa)
            .map(|k| KernelChoice {
                role: k.role,
                symbol: k.symbol(),
                template: k.template,
            })
            .collect();
        let mut plan = VariantPlan {
            isa,
            candidate: None,
            features: isa.features().to_vec(),
            kernels,
            knobs: knobs(isa, target),
        };
        if let Some(tuned) = &target.tuned {
            for (name, new) in tuned.levels.get(isa.name()).into_iter().flatten() {
                let knob = plan.set(name, new.value, target)?;
                knob.formula = format!(
                    "{} {} permille (\u{b1} {}) faster than with {} on {}, {} threads, {}, {}",
                    new.measured,
                    new.gain_permille,
                    new.spread_permille,
                    new.planned,
                    tuned.cpu,
                    tuned.threads,
                    tuned.compiler,
                    tuned.date
                );
                knob.reason = "tuned";
            }
        }
        Ok(plan)
    }

    /// The same level with other knobs: its kernels get symbols of their own.
    fn candidate(&self, name: &str, knobs: &BTreeMap<String, u64>, target: &TargetSpec) -> Result<Self, PlanError> {
        let mut candidate = self.clone();
        for (knob, &value) in knobs {
            let knob = candidate.set(knob, value, target)?;
            (knob.formula, knob.reason) = (format!("candidate {name}"), "to be measured");
        }
        for kernel in &mut candidate.kernels {
            kernel.symbol += &format!("__{name}");
        }
        candidate.candidate = Some(name.to_owned());
        Ok(candidate)
    }

    /// Sets a knob; an error where there is none of that name, none that may be set, or a kernel could not take the value.
    fn set(&mut self, name: &str, value: u64, target: &TargetSpec) -> Result<&mut Knob, PlanError> {
        let level = self.isa.name();
        // What the templates and the runtime's buffers are made for.
        let allowed = match name {
            "mr" => (1..=16).contains(&value),
            "nr" => (1..=64).contains(&value),
            "prefetch_bytes" | "packed_prefetch_bytes" | "kv_prefetch_bytes" => value <= 1 << 20,
            "weight_block_bytes" => (1 << 10..=1 << 30).contains(&value),
            "token_block" => (1..=512).contains(&value),
            "tables" => matches!(value, 8 | 16),
            "packed_tokens" => (1..=32).contains(&value),
            _ => false,
        };
        let knob = self.knobs.iter_mut().find(|knob| knob.name == name);
        let knob = knob.filter(|_| allowed).ok_or_else(|| PlanError::Knob {
            target: target.name.clone(),
            level,
            knob: name.to_owned(),
            value,
        })?;
        knob.value = value;
        Ok(knob)
    }

    /// The symbol of its kernel for a role. Panics where it has none.
    pub fn symbol(&self, role: Role) -> &str {
        let kernel = self.kernels.iter().find(|kernel| kernel.role == role);
        &kernel.unwrap_or_else(|| panic!("no kernel for {}", role.name())).symbol
    }

    /// The name of the variant, and of its folder: that of its level, and the candidate's.
    pub fn name(&self) -> String {
        match &self.candidate {
            None => self.isa.name().to_owned(),
            Some(candidate) => format!("{}__{candidate}", self.isa.name()),
        }
    }

    /// The value of a knob. Panics on a name that no plan has.
    pub fn knob(&self, name: &str) -> u64 {
        let knob = self.knobs.iter().find(|k| k.name == name);
        knob.unwrap_or_else(|| panic!("no knob named {name}")).value
    }
}

/// Token tables of `token_lut.h`: 81 sums of four activations for 32 tokens.
const TABLE_BYTES: u64 = 81 * 64;

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

fn knobs(isa: Isa, target: &TargetSpec) -> Vec<Knob> {
    // A cache that two hardware threads share counts by half for each of them.
    let l2_share = target
        .cache
        .l2
        .as_ref()
        .map(|c| c.bytes / u64::from(c.sharers.unwrap_or(1).max(1)));
    let (l2, l2_from) = size(l2_share, DEFAULT_L2);
    let (mr, nr, tile_reason) = tile(isa);
    let l1d_share = target
        .cache
        .l1d
        .as_ref()
        .map(|c| c.bytes / u64::from(c.sharers.unwrap_or(1).max(1)));
    let (l1d, l1d_from) = size(l1d_share, DEFAULT_L1D);
    // GEMM by token_lut.h, where nothing multiplies and adds bytes in one instruction.
    let by_tables = matches!(isa, Isa::Avx2 | Isa::Avx512);
    let (token_block, token_block_formula) = if by_tables {
        (128, "4 tiles of 32 tokens".to_owned())
    } else {
        (nr * 4, format!("4 x nr {nr}"))
    };
    let (line, line_from) = size(target.cache.line_bytes.map(u64::from), DEFAULT_LINE);
    // Not measured with AVX-VNNI, whose kernels read as AVX2's do.
    let ahead = if matches!(isa, Isa::Avx2 | Isa::Avxvnni) { 32 } else { 4 };
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
            reason: "decode from the file's pages reads each weight once, as one linear stream a thread that the hardware \
                     prefetcher brings to L2: the software prefetch hides the way from there. Measured on Zen 4 under a \
                     hypervisor: 4 lines ahead gave 1.5 times the speed of none; 8 KiB ahead, over 4 KiB pages, gave none. On \
                     Zen 3 I2_S and an F16 head together took 0.90 of the speed with 4 lines, and 1.02 to 1.04 with 32, that they \
                     had with 16",
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
            reason: "tokens a GEMM call handles: bounds the sums that wait for rescaling, and amortises the call, for tables \
                     the recoding of weights to numbers of entries",
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
        let (l1d, l1d_from) = size(target.cache.l1d.as_ref().map(|c| c.bytes), DEFAULT_L1D);
        let fits = 16 * TABLE_BYTES <= l1d;
        knobs.push(Knob {
            name: "tables",
            value: if fits { 16 } else { 8 },
            formula: format!(
                "16 tables of {TABLE_BYTES} bytes {} in L1d {l1d} ({l1d_from})",
                if fits { "fit" } else { "do not fit" }
            ),
            reason: "token tables at a time: more of them pass the rows' sums through L1d less often. 8 are worth their place \
                     even in 32 KiB. Measured on Zen 3 (32 KiB): 16 cost 12 %",
        });
    }
    if isa.packing().is_some() {
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
            name: "packed_tokens",
            value: (l1d / TYPICAL_COLS).clamp(4, most),
            formula: format!("L1d share {l1d} ({l1d_from}) / {TYPICAL_COLS} columns, 4 to {most} {unit}"),
            reason: "tokens that share an unpacked chunk of weights: their activations stay in L1d while a block of \
                     weights passes, and each has an accumulator",
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

fn size(known: Option<u64>, default: u64) -> (u64, &'static str) {
    match known {
        Some(bytes) => (bytes, "from the target"),
        None => (default, "assumed: the target does not say"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(toml: &str) -> TargetSpec {
        toml::from_str(toml).expect("valid target")
    }

    #[test]
    fn a_target_gets_the_best_level_that_its_features_hold() {
        let avx2 = spec("name='t'\ndescription=''\narch='x86_64'\nfeatures=['sse2','avx2','f16c','fma']");
        let plan = KernelPlan::new(&avx2).expect("a plan");
        assert_eq!(plan.variants.iter().map(|v| v.isa).collect::<Vec<_>>(), [Isa::Avx2]);
        assert_eq!(plan.required, [Feature::F16c, Feature::Fma, Feature::Avx2]);
    }

    #[test]
    fn a_universal_target_gets_every_level_and_needs_only_the_narrowest() {
        let universal = spec("name='u'\ndescription=''\narch='x86_64'\nuniversal=true\nfeatures=['sse2']");
        let plan = KernelPlan::new(&universal).expect("a plan");
        let levels: Vec<_> = plan.variants.iter().map(|v| v.isa).collect();
        assert_eq!(
            levels,
            [
                Isa::Avx512vbmi,
                Isa::Avx512vnni,
                Isa::Avx512,
                Isa::Avxvnni,
                Isa::Avx2,
                Isa::Baseline
            ]
        );
        assert_eq!(plan.required, [Feature::Sse2]);
    }

    #[test]
    fn a_target_without_any_level_is_an_error_that_says_what_to_add() {
        let none = spec("name='n'\ndescription=''\narch='aarch64'\nfeatures=[]");
        assert!(KernelPlan::new(&none).unwrap_err().to_string().contains("neon"));
    }

    #[test]
    fn a_tuned_knob_replaces_the_formula_and_says_so() {
        let text = "name='t'\ndescription=''\narch='x86_64'\nfeatures=['sse2','avx2','f16c','fma']
            [tuned]\ndate='2026-11-21'\ncpu='AMD EPYC'\ncompiler='gcc 12.2.0'\nthreads=2
            [tuned.levels.avx2.KNOB]\nvalue=8192\nplanned=2048\nmeasured='decode'\ngain_permille=31\nspread_permille=6
            [tuned.levels.avx512vnni.mr]\nvalue=2\nplanned=4\nmeasured='prefill'\ngain_permille=31\nspread_permille=6";
        let plan = KernelPlan::new(&spec(&text.replace("KNOB", "prefetch_bytes"))).expect("a plan");
        let [avx2] = &plan.variants[..] else {
            panic!("one level")
        };
        let knob = avx2.knobs.iter().find(|k| k.name == "prefetch_bytes").expect("knob");
        assert_eq!((knob.value, knob.reason), (8192, "tuned"));
        for evidence in ["31", "2048", "2026-11-21", "AMD EPYC", "gcc 12.2.0"] {
            assert!(knob.formula.contains(evidence), "{}", knob.formula);
        }
        assert_eq!(avx2.knob("mr"), 2, "another level's");
        let error = KernelPlan::new(&spec(&text.replace("KNOB", "prefetch_lines"))).unwrap_err();
        assert!(error.to_string().contains("prefetch_lines"), "{error}");
        let error = KernelPlan::new(&spec(&text.replace("KNOB", "mr"))).unwrap_err();
        assert!(error.to_string().contains("mr = 8192"), "{error}");
    }

    #[test]
    fn candidates_stand_behind_the_plan_with_symbols_of_their_own() {
        let text = "name='t'\ndescription=''\narch='x86_64'\nfeatures=['sse2','avx2','f16c','fma']
            [candidates.near]\nprefetch_bytes=128\n[candidates.none]\nprefetch_bytes=0";
        let plan = KernelPlan::new(&spec(text)).expect("a plan");
        let names: Vec<String> = plan.variants.iter().map(VariantPlan::name).collect();
        assert_eq!(names, ["avx2", "avx2__near", "avx2__none"]);
        let values: Vec<u64> = plan.variants.iter().map(|v| v.knob("prefetch_bytes")).collect();
        assert_eq!(values, [2048, 128, 0]);
        let mut symbols: Vec<&str> = plan
            .variants
            .iter()
            .flat_map(|v| &v.kernels)
            .map(|k| &*k.symbol)
            .collect();
        let all = symbols.len();
        symbols.sort_unstable();
        symbols.dedup();
        assert_eq!(symbols.len(), all);
        assert!(KernelPlan::new(&spec(&text.replace("prefetch_bytes=0", "nothing=0"))).is_err());
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
