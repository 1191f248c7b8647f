//! What to try: values around those of the plan, one knob at a time.

use std::collections::BTreeMap;

use sterna_codegen::plan::VariantPlan;

use crate::bench::Kind;

/// A plan with other values.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// Part of a symbol: `prefetch_bytes_4096`.
    pub name: String,
    /// What `--knob` calls it: the knob, or `tile` for `mr` and `nr` together.
    pub knob: &'static str,
    /// The other values.
    pub values: BTreeMap<String, u64>,
    /// What it is to make faster.
    pub metric: Metric,
}

/// A kind of work whose speed a knob decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct Metric {
    /// Prompt or generation.
    pub kind: Kind,
    /// With the weights as they are after a while, or as the file has them.
    pub repacked: bool,
}

impl Metric {
    /// As the evidence calls it.
    pub fn name(self) -> String {
        match self {
            Metric { kind, repacked: true } => kind.name().to_owned(),
            Metric { kind, .. } => format!("{}, weights as mapped", kind.name()),
        }
    }
}

/// Names for `--knob`.
pub const KNOBS: [&str; 7] = [
    "prefetch_bytes",
    "packed_prefetch_bytes",
    "tile",
    "packed_tokens",
    "tables",
    "weight_block_bytes",
    "token_block",
];

/// Every candidate of `plan`, for memory in lines of `line` bytes.
pub fn around(plan: &VariantPlan, line: u64) -> Vec<Candidate> {
    let planned = |name: &str| plan.knobs.iter().find(|knob| knob.name == name).map(|knob| knob.value);
    let packs = plan.isa.packing().is_some();
    let mut all: Vec<Candidate> = Vec::new();
    let mut add = |knob: &'static str, values: Vec<(&str, u64)>, metric: Metric| {
        let text = values
            .iter()
            .map(|(_, value)| value.to_string())
            .collect::<Vec<_>>()
            .join("x");
        let candidate = Candidate {
            name: format!("{knob}_{text}"),
            knob,
            values: values
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
            metric,
        };
        if candidate
            .values
            .iter()
            .any(|(name, value)| planned(name) != Some(*value))
            && !all.contains(&candidate)
        {
            all.push(candidate);
        }
    };
    let metric = |kind, repacked| Metric { kind, repacked };
    let (decode, prefill) = (metric(Kind::Decode, true), metric(Kind::Prefill, true));
    // Generation reads re-packed weights where there are any, and the file's until then.
    for (knob, metric) in [
        ("prefetch_bytes", metric(Kind::Decode, !packs)),
        ("packed_prefetch_bytes", decode),
    ] {
        for value in [0, 2 * line, 4 * line, 8 * line, 16 * line, 32 * line, 4096, 8192] {
            if planned(knob).is_some() {
                add(knob, vec![(knob, value)], metric);
            }
        }
    }
    // Where prompts go through tables, tiles take what is too few tokens for them.
    let by_tiles = planned("tables").is_none();
    if let (true, Some(mr), Some(nr)) = (by_tiles, planned("mr"), planned("nr")) {
        // No more accumulators than the plan has: it fills the registers.
        let tiles = [
            (mr / 2, nr * 2),
            (mr * 2, nr / 2),
            (mr, nr - 1),
            (mr - 1, nr),
            (mr - 1, nr + 1),
            (mr + 1, nr - 2.min(nr)),
        ];
        let fits = |&(rows, tokens): &(u64, u64)| rows > 0 && tokens > 0 && rows * tokens <= mr * nr;
        for (mr, nr) in tiles.into_iter().filter(fits) {
            // Where weights are re-packed, these kernels run until they are.
            add("tile", vec![("mr", mr), ("nr", nr)], metric(Kind::Prefill, !packs));
        }
    }
    if let (true, Some(tokens)) = (by_tiles, planned("packed_tokens")) {
        for value in [4, 6, 8, 10, 12, 16, tokens - 1, tokens + 1] {
            add("packed_tokens", vec![("packed_tokens", value)], prefill);
        }
    }
    if planned("tables").is_some() {
        for value in [8, 16] {
            add("tables", vec![("tables", value)], prefill);
        }
    }
    if let Some(bytes) = planned("weight_block_bytes") {
        for value in [bytes / 4, bytes / 2, bytes * 2, bytes * 4] {
            add("weight_block_bytes", vec![("weight_block_bytes", value)], prefill);
        }
    }
    if let Some(tokens) = planned("token_block") {
        for value in [tokens / 2, tokens * 2, tokens * 4, tokens * 8] {
            add("token_block", vec![("token_block", value.clamp(1, 512))], prefill);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use sterna_codegen::plan::{KernelChoice, KernelPlan};
    use sterna_codegen::render::Templates;
    use sterna_codegen::target::TargetSpec;

    use super::*;
    use crate::workspace;

    #[test]
    fn candidates_differ_from_the_plan_and_can_be_planned() {
        let templates = Templates::read(&workspace::root().join("templates")).unwrap();
        for mut target in TargetSpec::all(&workspace::targets_dir()).unwrap() {
            let plan = KernelPlan::new(&target).unwrap().variants.swap_remove(0);
            let all = around(&plan, 64);
            let names: BTreeSet<&str> = all.iter().map(|candidate| candidate.name.as_str()).collect();
            assert_eq!(names.len(), all.len(), "{}: names are unique", target.name);
            for candidate in &all {
                assert!(KNOBS.contains(&candidate.knob));
                assert!(candidate.name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'));
                assert!(
                    candidate.values.iter().any(|(name, value)| plan.knob(name) != *value),
                    "{candidate:?}"
                );
            }
            let tile = |candidate: &Candidate| candidate.values.values().product::<u64>();
            let planned = plan.knob("mr") * plan.knob("nr");
            assert!(all.iter().filter(|c| c.knob == "tile").all(|c| tile(c) <= planned));
            target.candidates = all.iter().map(|c| (c.name.clone(), c.values.clone())).collect();
            let plan = templates.share(KernelPlan::new(&target).unwrap()).unwrap();
            let candidates = plan.variants.iter().filter(|variant| variant.candidate.is_some());
            assert_eq!(candidates.clone().count(), all.len());
            // Each one changes something: a kernel, or how the runtime cuts the work.
            for (variant, candidate) in candidates.zip(target.candidates.keys()) {
                let own = |k: &&KernelChoice| k.symbol.ends_with(candidate.as_str());
                let cut = candidate.starts_with("weight_block") || candidate.starts_with("token_block");
                assert!(
                    cut || variant.kernels.iter().any(|k| own(&k)),
                    "{}: {candidate}",
                    target.name
                );
            }
            templates.render(&plan).unwrap();
        }
    }

    #[test]
    fn every_distance_is_tried_none_included() {
        let target = TargetSpec::resolve(&workspace::targets_dir(), "avx2").unwrap();
        let plan = KernelPlan::new(&target).unwrap().variants.swap_remove(0);
        let all = around(&plan, 64);
        for knob in ["prefetch_bytes", "packed_prefetch_bytes"] {
            let tried: BTreeSet<u64> = all.iter().filter_map(|c| c.values.get(knob).copied()).collect();
            let mut expected = BTreeSet::from([0, 128, 256, 512, 1024, 2048, 4096, 8192]);
            expected.remove(&plan.knob(knob));
            assert_eq!(tried, expected);
        }
    }
}
