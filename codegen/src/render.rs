//! [`KernelPlan`] -> C source units and the Rust bindings to them.
//!
//! Overflow is excluded here, before anything compiles: a template that accumulates in narrow integers gets the
//! number of steps between widenings from [`Bounds`], and the bindings carry the longest row that fits in i32.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use tera::{Context, Tera};

use crate::kernels::{Isa, Packing, Role};
use crate::plan::{KernelChoice, KernelPlan, VariantPlan};
use crate::target::Arch;

/// One C file to compile.
#[derive(Debug, Clone)]
pub struct Unit {
    /// `avx2/i2s_gemv_avx2.c`
    pub path: PathBuf,
    /// The level, and so the compiler flags.
    pub isa: Isa,
    /// C11 with GNU extensions.
    pub source: String,
}

/// Why nothing could be rendered.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// The folder of templates could not be read.
    #[error("cannot read templates in {path}: {source}")]
    Read {
        /// The folder or file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A template does not parse or render.
    #[error("template {template}: {message}")]
    Template {
        /// Its name.
        template: String,
        /// The engine's message with its causes.
        message: String,
    },
    /// A kernel's accumulators could overflow even when widened at every step.
    #[error("{isa}: one step of {step} exceeds the {bits}-bit accumulator")]
    Overflow {
        /// The level.
        isa: &'static str,
        /// The largest sum of one step.
        step: i64,
        /// Accumulator width.
        bits: u32,
    },
}

/// The largest magnitudes that a kernel can meet, whatever the file holds: a 2-bit code is at most 3, although a
/// valid file has none above 2; an int8 activation is at least -128, although quantisation gives none below -127.
const CODE_MAX: i64 = 3;
/// Re-packing refuses code 3.
const PACKED_CODE_MAX: i64 = 2;
const ACTIVATION_MAX: i64 = 128;

/// i32 sums of one GEMM call that wait for rescaling, at most, 640 KiB: those of `gemm_rows` rows and `token_block` tokens, as planned.
const GEMM_SUMS: u64 = 160 << 10;

/// Rows of a matrix by columns whose sums one call computes, at most, 10 KiB: whole columns of the published model, since leaps in memory
/// are what costs.
const COLUMN_SUMS: usize = 2560;

/// I2_S as a layout: single rows of four weights a byte.
const I2S: Packing = Packing {
    rows: 1,
    weights_per_byte: 4,
};

/// Stack that a kernel takes at most: half of what the runtime's threads have.
const STACK_BYTES: usize = 1 << 20;

/// packed_maddubs.c, few tokens: what an activation counts for at most in a block's 16-bit sum: two fields, used four times too
/// large, 2 products in each of 8 chunks. It just fits, since int8 reaches as much further down as int16.
const SCALED_FIELDS: i64 = 2 * 8 * 2 * 4 * PACKED_CODE_MAX;
const _: () = assert!(-SCALED_FIELDS * ACTIVATION_MAX >= i16::MIN as i64);
const _: () = assert!(SCALED_FIELDS * (ACTIVATION_MAX - 1) <= i16::MAX as i64);

/// What follows from them for one level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Blocks of 128 weights between two widenings of a 16-bit lane (0: the level has no 16-bit lanes).
    pub widen_blocks: i64,
    /// The longest row, in weights: every i32 lane stays below 2^31.
    pub max_cols: i64,
    /// As `widen_blocks`, for re-packed weights, whose codes were checked.
    pub packed_widen_blocks: i64,
    /// As `max_cols`, for re-packed weights (0: the level has none).
    pub packed_max_cols: i64,
    /// The same for a matrix by columns.
    pub columns_max_cols: i64,
}

impl Bounds {
    /// Derives the bounds of `isa` from how its kernels accumulate.
    pub fn new(isa: Isa) -> Result<Self, RenderError> {
        let product = CODE_MAX * ACTIVATION_MAX;
        // (sum that one block of 128 weights can add to one 16-bit lane, and to one i32 lane)
        let (narrow, wide) = match isa {
            // The scalar sum of a whole block.
            Isa::Baseline => (0, 128 * product),
            // vpmaddubsw adds 2 products a lane, once for each of the 4 fields of a byte; vpmaddwd pairs lanes.
            Isa::Avx2 => (4 * 2 * product, 2 * 4 * 2 * product),
            // The same in 512 bits: a block is spread over two registers, each adds 2 products a lane.
            Isa::Avx512 => (2 * 2 * product, 2 * 2 * 2 * product),
            // vpdpbusd adds 4 products a lane and field pair; the top field is used unshifted, 64 times too large.
            Isa::Avxvnni | Isa::Avx512vnni | Isa::Avx512vbmi => (0, 4 * 64 * product),
            // vmlal_s8 adds 1 product a lane: 4 fields x 2 vectors x 2 halves; vpadalq_s16 pairs lanes.
            Isa::Neon => (16 * product, 2 * 16 * product),
            // sdot adds 4 products a lane: 4 fields x 2 vectors.
            Isa::Dotprod => (0, 8 * 4 * product),
            // smmla adds 8 products a lane, 16 times a block.
            Isa::I8mm => (0, 16 * 8 * product),
        };
        let widen_blocks = widen_blocks(isa, narrow)?;
        // Folding lanes and subtracting the activations' sum must fit as well: bound by the sum of a whole row.
        let row = (128 * product).max(wide) + 128 * ACTIVATION_MAX;
        let max_cols = i64::from(i32::MAX) / row * 128;
        if max_cols == 0 {
            return Err(RenderError::Overflow {
                isa: isa.name(),
                step: row,
                bits: 32,
            });
        }
        let packed_product = PACKED_CODE_MAX * ACTIVATION_MAX;
        // As `narrow`: a block is 4 fields of 8 chunks.
        let packed_narrow = match isa {
            // vpmaddubsw adds 2 products a lane. For few tokens: see SCALED_FIELDS.
            Isa::Avx2 | Isa::Avx512 => 4 * 8 * 2 * packed_product,
            // smlal adds 1.
            Isa::Neon => 4 * 8 * packed_product,
            _ => 0,
        };
        let packed_widen_blocks = self::widen_blocks(isa, packed_narrow)?;
        // A lane holds one row. vpdpbusd and sdot add 4 products, scaled by up to 81, 64 or 16, for each chunk of 4 x
        // weights_per_byte weights (of 2.0 bits: a quarter of the weights at each scale). Whole sums, of 16 products and 16
        // activations a chunk, are no larger.
        let scaled = |scale: i64, weights: i64| i64::from(i32::MAX) / (4 * scale * packed_product) * weights;
        let packed_max_cols = match isa.packing().map(|p| p.weights_per_byte) {
            None => 0,
            Some(5) => scaled(81, 20),
            Some(_) if isa.arch() == Arch::Aarch64 => scaled(16, 16),
            Some(_) => scaled(64, 16),
        };
        // By columns, every column adds a code to the same lane, of five in a byte scaled by 81.
        let columns_max_cols = isa.column_packing().map_or(0, |packing| {
            let scale = if packing.weights_per_byte == 5 { 81 } else { 1 };
            // The activations' sum is subtracted.
            i64::from(i32::MAX) / (3 * scale * ACTIVATION_MAX) / 4 * 4
        });
        Ok(Bounds {
            widen_blocks,
            max_cols,
            packed_widen_blocks,
            packed_max_cols,
            columns_max_cols,
        })
    }
}

/// Blocks between two widenings of a 16-bit lane, to which each adds up to `step`; 0 where there are no such lanes.
fn widen_blocks(isa: Isa, step: i64) -> Result<i64, RenderError> {
    const MAX: i64 = i16::MAX as i64;
    match step {
        0 => Ok(0),
        1..=MAX => Ok(MAX / step),
        _ => Err(RenderError::Overflow {
            isa: isa.name(),
            step,
            bits: 16,
        }),
    }
}

/// The parsed templates.
pub struct Templates {
    tera: Tera,
    files: Vec<PathBuf>,
}

impl Templates {
    /// Reads every `*.c` and `*.h` in `dir`.
    pub fn read(dir: &Path) -> Result<Self, RenderError> {
        let read = |path: &Path| {
            let path = path.to_owned();
            move |source| RenderError::Read { path, source }
        };
        let mut files = Vec::new();
        for entry in std::fs::read_dir(dir).map_err(read(dir))? {
            let path = entry.map_err(read(dir))?.path();
            if path.extension().is_some_and(|e| e == "c" || e == "h") {
                files.push(path);
            }
        }
        files.sort();
        let mut texts = Vec::new();
        for path in &files {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            texts.push((name, std::fs::read_to_string(path).map_err(read(path))?));
        }
        let mut tera = Tera::default();
        tera.autoescape_on(Vec::<&str>::new());
        tera.add_raw_templates(texts)
            .map_err(|e| template_error("templates", &e))?;
        Ok(Templates { tera, files })
    }

    /// The files that were read: what a build must watch.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Renders every unit of a plan, sorted by path.
    pub fn render(&self, plan: &KernelPlan) -> Result<Vec<Unit>, RenderError> {
        let mut units = Vec::new();
        for variant in &plan.variants {
            for template in templates(variant) {
                // A candidate's kernel that has its level's symbol is its level's kernel.
                let own = |k: &&KernelChoice| k.template == template && k.symbol == symbol(k.role, &variant.name());
                if variant.kernels.iter().any(|k| own(&k)) {
                    units.push(self.unit(variant, template)?);
                }
            }
        }
        units.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(units)
    }

    /// Lets candidates share the kernels of their level that their knobs do not change, so that those compile once.
    pub fn share(&self, mut plan: KernelPlan) -> Result<KernelPlan, RenderError> {
        let planned = plan.variants.clone();
        for candidate in plan.variants.iter_mut().filter(|variant| variant.candidate.is_some()) {
            let level = planned.iter().find(|v| v.isa == candidate.isa && v.candidate.is_none());
            let Some(level) = level else { continue };
            for template in templates(candidate) {
                if self.source(candidate, template)? == self.source(level, template)? {
                    let shared = candidate.kernels.iter_mut().zip(&level.kernels);
                    shared
                        .filter(|(own, _)| own.template == template)
                        .for_each(|(own, level)| own.clone_from(level));
                }
            }
        }
        Ok(plan)
    }

    fn unit(&self, variant: &VariantPlan, template: &str) -> Result<Unit, RenderError> {
        let mut source = self.source(variant, template)?;
        if variant.candidate.is_some() {
            // The templates know the level alone: its symbols become the candidate's.
            let renamed = variant.kernels.iter().filter(|k| k.template == template).map(|k| {
                let (from, to) = (symbol(k.role, variant.isa.name()), &k.symbol);
                format!("#define {from} {to}\n")
            });
            source = renamed.collect::<String>() + &source;
        }
        Ok(Unit {
            path: Path::new(&variant.name()).join(template),
            isa: variant.isa,
            source,
        })
    }

    fn source(&self, variant: &VariantPlan, template: &str) -> Result<String, RenderError> {
        let isa = variant.isa;
        let bounds = Bounds::new(isa)?;
        let mut context = Context::new();
        context.insert("isa", isa.name());
        context.insert("template", template);
        context.insert("stack_bytes", &STACK_BYTES);
        context.insert("lanes", &isa.f32_lanes());
        context.insert("widen_blocks", &bounds.widen_blocks);
        context.insert("packed_widen_blocks", &bounds.packed_widen_blocks);
        if isa.packing().is_some() {
            context.insert("packing_fields", &packing_fields());
            context.insert("vector_bytes", &(4 * isa.f32_lanes()));
        }
        if let Some(packing) = isa.column_packing() {
            context.insert("column_tiles", &(COLUMN_SUMS / packing.rows));
        }
        for knob in &variant.knobs {
            context.insert(knob.name, &knob.value);
        }
        let roles = variant
            .kernels
            .iter()
            .filter(|k| k.template == template)
            .map(|k| k.role);
        context.insert("prototypes", &roles.map(|r| prototype(r, isa)).collect::<Vec<_>>());
        let source = self.tera.render(template, &context);
        source.map_err(|e| template_error(template, &e))
    }
}

/// Four base-3 digits -> four 2-bit fields, the lowest digit in the lowest bits; 128 entries, as many as VBMI looks up.
fn packing_fields() -> Vec<u8> {
    (0..128u8)
        .map(|v| match v {
            0..81 => (v % 3) | ((v / 3 % 3) << 2) | ((v / 9 % 3) << 4) | ((v / 27) << 6),
            _ => 0,
        })
        .collect()
}

/// The templates that a variant is rendered from, each once.
fn templates(variant: &VariantPlan) -> Vec<&'static str> {
    let mut templates: Vec<_> = variant.kernels.iter().map(|k| k.template).collect();
    templates.sort_unstable();
    templates.dedup();
    templates
}

fn template_error(template: &str, error: &dyn std::error::Error) -> RenderError {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(c) = cause {
        let _ = write!(message, ": {c}");
        cause = c.source();
    }
    RenderError::Template {
        template: template.to_owned(),
        message,
    }
}

/// Of a level, or of a candidate.
fn symbol(role: Role, variant: &str) -> String {
    format!("sterna_{}__{variant}", role.name())
}

/// The C prototype: it stands before the definition in every unit, so that the compiler compares the two.
fn prototype(role: Role, isa: Isa) -> String {
    let parameters: Vec<_> = role.signature().iter().map(|(n, t)| format!("{} {n}", t.c())).collect();
    format!("void {}({});", symbol(role, isa.name()), parameters.join(", "))
}

/// The Rust source that `runtime/kernels` includes: declarations, the variants best first, the target, the tags.
///
/// The tags are the levels, each of which has a target of its name: what the CPU guard proposes follows from the kernel
/// table alone, so that a new file in `images/targets/` changes no image but its own.
pub fn bindings(plan: &KernelPlan) -> Result<String, RenderError> {
    let mut out = String::from("// Generated by build.rs from the kernel table and the target.\n\n");
    out += "unsafe extern \"C\" {\n";
    let mut declared = BTreeSet::new();
    for variant in &plan.variants {
        for kernel in variant.kernels.iter().filter(|kernel| declared.insert(&kernel.symbol)) {
            let parameters: Vec<_> = kernel
                .role
                .signature()
                .iter()
                .map(|(n, t)| format!("{n}: {}", t.rust()))
                .collect();
            let _ = writeln!(out, "    fn {}({});", kernel.symbol, parameters.join(", "));
        }
    }
    out += "}\n\n";
    let _ = writeln!(out, "const GEMM_SUMS: usize = {GEMM_SUMS};");
    let _ = writeln!(out, "const COLUMN_SUMS: usize = {COLUMN_SUMS};");
    let _ = writeln!(out, "const KERNEL_STACK_BYTES: usize = {STACK_BYTES};\n");
    let _ = writeln!(out, "static VARIANTS: [Variant; {}] = [", plan.variants.len());
    for variant in &plan.variants {
        let _ = writeln!(out, "    Variant {{");
        let _ = writeln!(out, "        name: {:?},", variant.name());
        let features: Vec<_> = variant.features.iter().map(|f| f.name()).collect();
        let _ = writeln!(out, "        features: &{features:?},");
        let _ = writeln!(out, "        max_cols: {},", Bounds::new(variant.isa)?.max_cols);
        for knob in [
            "mr",
            "piece_bytes",
            "weight_block_bytes",
            "token_block",
            "gemm_rows",
            "table_tokens",
            "kv_panel",
        ] {
            let _ = writeln!(out, "        {knob}: {},", variant.knob(knob));
        }
        let _ = writeln!(out, "        listing: &[");
        for k in &variant.kernels {
            let _ = writeln!(
                out,
                "            ({:?}, {:?}, {:?}),",
                k.role.name(),
                k.symbol,
                k.template
            );
        }
        let _ = writeln!(out, "        ],");
        let _ = writeln!(out, "        knobs: &[");
        for k in &variant.knobs {
            let _ = writeln!(
                out,
                "            ({:?}, {}, {:?}, {:?}),",
                k.name, k.value, k.formula, k.reason
            );
        }
        let _ = writeln!(out, "        ],");
        for kernel in variant.kernels.iter().filter(|k| !k.role.is_optional()) {
            let _ = writeln!(out, "        {}: {},", kernel.role.name(), kernel.symbol);
        }
        let bounds = Bounds::new(variant.isa)?;
        let packing = |packing: Packing, order: &str, max_cols: i64| {
            let Packing { rows, weights_per_byte } = packing;
            format!(
                "Packing {{ order: crate::model::Order::{order}, rows: {rows}, weights_per_byte: {weights_per_byte}, max_cols: {max_cols} }}"
            )
        };
        let packed = match variant.isa.packing() {
            None => "None".to_owned(),
            Some(rows) => format!(
                "Some(PackedKernels {{ packing: {}, gemv: {}, gemm: {} }})",
                packing(rows, "Rows", bounds.packed_max_cols),
                variant.symbol(Role::PackedGemv),
                variant.symbol(Role::PackedGemm),
            ),
        };
        let skipping = match variant.isa.column_packing() {
            None => "None".to_owned(),
            Some(columns) => format!(
                "Some(SkippingKernels {{ up: {}, gated: {}, down: {}, columns: {} }})",
                packing(I2S, "Rows", bounds.max_cols),
                variant.symbol(Role::I2sGated),
                packing(columns, "Columns", bounds.columns_max_cols),
                variant.symbol(Role::PackedColumns),
            ),
        };
        let _ = writeln!(out, "        packed: {packed},");
        let _ = writeln!(out, "        skipping: {skipping},");
        let _ = writeln!(out, "    }},");
    }
    out += "];\n\n";
    let required: Vec<_> = plan.required.iter().map(|f| f.name()).collect();
    let _ = writeln!(
        out,
        "/// What this binary was built for.\npub const TARGET: TargetInfo = TargetInfo {{ name: {:?}, features: &{required:?}, \
         l1d_bytes: {:?}, l2_bytes: {:?} }};\n",
        plan.target, plan.l1d_bytes, plan.l2_bytes
    );
    out += "/// The image tag of every kernel level, with its architecture and the features that it needs.\n";
    out += "pub const TAGS: &[(&str, &str, &[&str])] = &[\n";
    for isa in Isa::ALL {
        let needs: Vec<_> = isa.features().iter().map(|f| f.name()).collect();
        let _ = writeln!(out, "    ({:?}, {:?}, &{needs:?}),", isa.name(), isa.arch().rust_name());
    }
    out += "];\n\n";
    Ok(out)
}

/// The ABI types that every binding and the `Variant` struct share: one type alias a role.
pub fn abi() -> String {
    let mut out = String::from("// Generated by build.rs from the kernel table.\n\n");
    for role in Role::ALL {
        let parameters: Vec<_> = role
            .signature()
            .iter()
            .map(|(n, t)| format!("{n}: {}", t.rust()))
            .collect();
        let mut name = String::new();
        for part in role.name().split('_') {
            name += &part[..1].to_uppercase();
            name += &part[1..];
        }
        let _ = writeln!(
            out,
            "pub type {name} = unsafe extern \"C\" fn({});",
            parameters.join(", ")
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::TargetSpec;

    #[test]
    fn candidates_render_only_what_their_knobs_change() {
        let text = "name='t'\ndescription=''\narch='x86_64'\nfeatures=['sse2','avx2','f16c','fma']
            [candidates.none]\nprefetch_bytes=0\n[candidates.tall]\nmr=3\n[candidates.block]\nweight_block_bytes=65536";
        let target: TargetSpec = toml::from_str(text).expect("valid target");
        let templates =
            Templates::read(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../templates"))).expect("templates");
        let plan = templates
            .share(KernelPlan::new(&target).expect("a plan"))
            .expect("shared");
        let units = templates.render(&plan).expect("units");
        let path = |folder: &str, file: &str| Path::new(folder).join(file);
        let unit = |path: PathBuf| units.iter().find(|unit| unit.path == path);
        let of = |folder: &str| units.iter().filter(|unit| unit.path.starts_with(folder)).count();
        assert_eq!(
            (of("avx2__block"), of("avx2__tall")),
            (0, 1),
            "blocks are the runtime's business, tiles the GEMM's"
        );
        let none = unit(path("avx2__none", "i2s_gemv_avx2.c")).expect("its own GEMV");
        assert!(
            none.source
                .starts_with("#define sterna_i2s_gemv__avx2 sterna_i2s_gemv__avx2__none\n")
        );
        assert!(none.source.contains("row(w, NULL, x,"));
        assert!(unit(path("avx2__none", "i2s_gemm_avx2.c")).is_none());
        // Without candidates every unit is there, and nothing is renamed.
        let level = unit(path("avx2", "i2s_gemv_avx2.c")).expect("the plan's");
        assert!(!level.source.contains("#define sterna"));
        let bindings = bindings(&plan).expect("bindings");
        let count = |text: &str| bindings.matches(text).count();
        assert_eq!(count("fn sterna_i2s_gemv__avx2("), 1);
        assert_eq!(count("fn sterna_i2s_gemv__avx2__none("), 1);
        assert_eq!(count("i2s_gemv: sterna_i2s_gemv__avx2,"), 3);
        assert_eq!(count("i2s_gemv: sterna_i2s_gemv__avx2__none,"), 1);
        assert!(bindings.contains("name: \"avx2__none\""));
    }

    #[test]
    fn sixteen_bit_lanes_widen_before_they_can_overflow() {
        for &isa in Isa::ALL {
            let bounds = Bounds::new(isa).expect("bounds");
            let per_block = match isa {
                Isa::Avx512 => 2 * 2 * CODE_MAX * ACTIVATION_MAX,
                Isa::Avx2 => 4 * 2 * CODE_MAX * ACTIVATION_MAX,
                Isa::Neon => 16 * CODE_MAX * ACTIVATION_MAX,
                _ => continue,
            };
            assert!(bounds.widen_blocks * per_block <= i64::from(i16::MAX), "{isa:?}");
            assert!(
                (bounds.widen_blocks + 1) * per_block > i64::from(i16::MAX),
                "{isa:?}: widens too often"
            );
        }
        // Re-packed: four lanes of smlal share a row.
        let neon = Bounds::new(Isa::Neon).expect("bounds").packed_widen_blocks;
        let per_block = 128 / 4 * PACKED_CODE_MAX * ACTIVATION_MAX;
        assert!(neon * per_block <= i64::from(i16::MAX) && (neon + 1) * per_block > i64::from(i16::MAX));
    }

    #[test]
    fn sums_have_room_for_what_is_planned() {
        let targets = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../images/targets"));
        for &isa in Isa::ALL {
            let target = TargetSpec::resolve(targets, isa.name()).expect("a target of its name");
            for variant in KernelPlan::new(&target).expect("a plan").variants {
                let sums = variant.knob("gemm_rows") * variant.knob("token_block");
                assert!(sums <= GEMM_SUMS, "{}: {sums}", variant.name());
            }
            let tile = isa.column_packing().map_or(COLUMN_SUMS, |packing| packing.rows);
            assert!(COLUMN_SUMS.is_multiple_of(tile), "{isa:?}");
        }
    }

    #[test]
    fn rows_of_published_models_fit_every_level() {
        for &isa in Isa::ALL {
            let bounds = Bounds::new(isa).expect("bounds");
            assert!(bounds.max_cols >= 1 << 20, "{isa:?}");
            // Whole sums of a row, and of its activations.
            let cols = bounds.packed_max_cols;
            assert_eq!(cols > 0, isa.packing().is_some(), "{isa:?}");
            assert!(cols == 0 || cols >= 1 << 18, "{isa:?}");
            assert!(
                cols * (PACKED_CODE_MAX + 1) * ACTIVATION_MAX <= i64::from(i32::MAX),
                "{isa:?}"
            );
        }
    }
}
