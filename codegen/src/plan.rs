//! TargetSpec -> [`KernelPlan`]: every knob with its formula, the inputs it was computed from, and the reason.

mod knobs;

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
            knobs: knobs::of(isa, target),
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
            "piece_bytes" => (1 << 12..=1 << 24).contains(&value),
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
}
