//! What to try: values around those of the plan, one knob at a time.

use std::collections::BTreeMap;

use sterna_codegen::plan::VariantPlan;

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

/// What is timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// A prompt of 128 tokens.
    Prefill,
    /// Prompts of 8 and of 24 tokens: as many rows as sequences or guesses that are computed together, and too few for token tables.
    SmallPrefill,
    /// Generation.
    Decode,
    /// Generation after 1024 tokens.
    LongDecode,
}

impl Work {
    /// As the evidence calls it.
    pub fn name(self) -> &'static str {
        match self {
            Work::Prefill => "prefill",
            Work::SmallPrefill => "small prefill",
            Work::Decode => "decode",
            Work::LongDecode => "decode at 1024",
        }
    }
}

/// Work whose speed a knob decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct Metric {
    /// What is timed.
    pub work: Work,
    /// With the weights as they are after a while, or as the file has them.
    pub repacked: bool,
}

impl Metric {
    /// As the evidence calls it.
    pub fn name(self) -> String {
        match self {
            Metric { work, repacked: true } => work.name().to_owned(),
            Metric { work, .. } => format!("{}, weights as mapped", work.name()),
        }
    }
}

/// Names for `--knob`.
pub const KNOBS: [&str; 9] = [
    "prefetch_bytes",
    "packed_prefetch_bytes",
    "kv_prefetch_bytes",
    "piece_bytes",
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
    let metric = |work, repacked| Metric { work, repacked };
    let (decode, prefill) = (metric(Work::Decode, true), metric(Work::Prefill, true));
    // Generation reads re-packed weights where there are any, and the file's until then.
    for (knob, metric) in [
        ("prefetch_bytes", metric(Work::Decode, !packs)),
        ("packed_prefetch_bytes", decode),
        ("kv_prefetch_bytes", metric(Work::LongDecode, true)),
    ] {
        for value in [0, 2 * line, 4 * line, 8 * line, 16 * line, 32 * line, 4096, 8192] {
            if planned(knob).is_some() {
                add(knob, vec![(knob, value)], metric);
            }
        }
    }
    if let Some(bytes) = planned("piece_bytes") {
        for value in [bytes / 4, bytes / 2, bytes * 2, bytes * 4] {
            add("piece_bytes", vec![("piece_bytes", value)], decode);
        }
    }
    // Where prompts go through tables, tiles take what is too few tokens for them.
    let tiles = match planned("tables") {
        None => Work::Prefill,
        Some(_) => Work::SmallPrefill,
    };
    if let (Some(mr), Some(nr)) = (planned("mr"), planned("nr")) {
        // No more accumulators than the plan has: it fills the registers.
        let shapes = [
            (mr / 2, nr * 2),
            (mr * 2, nr / 2),
            (mr, nr - 1),
            (mr - 1, nr),
            (mr - 1, nr + 1),
            (mr + 1, nr - 2.min(nr)),
        ];
        let fits = |&(rows, tokens): &(u64, u64)| rows > 0 && tokens > 0 && rows * tokens <= mr * nr;
        for (mr, nr) in shapes.into_iter().filter(fits) {
            // Where weights are re-packed, these kernels run until they are.
            add("tile", vec![("mr", mr), ("nr", nr)], metric(tiles, !packs));
        }
    }
    if let Some(tokens) = planned("packed_tokens") {
        for value in [4, 6, 8, 10, 12, 16, tokens - 1, tokens + 1] {
            add("packed_tokens", vec![("packed_tokens", value)], metric(tiles, true));
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
            if target.microarchitecture.is_some() {
                continue; // renders what its level renders, with other distances and blocks
            }
            target.candidates = all.iter().map(|c| (c.name.clone(), c.values.clone())).collect();
            let plan = templates.share(KernelPlan::new(&target).unwrap()).unwrap();
            let candidates = plan.variants.iter().filter(|variant| variant.candidate.is_some());
            assert_eq!(candidates.clone().count(), all.len());
            // Each one changes something: a kernel, or how the runtime cuts the work.
            for (variant, candidate) in candidates.zip(target.candidates.keys()) {
                let own = |k: &&KernelChoice| k.symbol.ends_with(candidate.as_str());
                let cut = ["piece_bytes", "weight_block_bytes", "token_block"];
                assert!(
                    cut.iter().any(|knob| candidate.starts_with(knob)) || variant.kernels.iter().any(|k| own(&k)),
                    "{}: {candidate}",
                    target.name
                );
            }
            for unit in templates.render(&plan).unwrap() {
                let mut defined = BTreeSet::new();
                let functions = unit.source.lines().filter(|line| line.starts_with("static void tile_"));
                for name in functions.filter_map(|line| line.split('(').next()) {
                    assert!(defined.insert(name), "{}: {name} twice", unit.path.display());
                }
            }
        }
    }

    #[test]
    fn every_distance_is_tried_none_included() {
        let target = TargetSpec::resolve(&workspace::targets_dir(), "avx2").unwrap();
        let plan = KernelPlan::new(&target).unwrap().variants.swap_remove(0);
        let all = around(&plan, 64);
        for knob in ["prefetch_bytes", "packed_prefetch_bytes", "kv_prefetch_bytes"] {
            let tried: BTreeSet<u64> = all.iter().filter_map(|c| c.values.get(knob).copied()).collect();
            let mut expected = BTreeSet::from([0, 128, 256, 512, 1024, 2048, 4096, 8192]);
            expected.remove(&plan.knob(knob));
            assert_eq!(tried, expected);
        }
    }

    #[test]
    fn every_knob_is_tried_on_work_that_it_changes() {
        let of = |level: &str| {
            let target = TargetSpec::resolve(&workspace::targets_dir(), level).unwrap();
            around(&KernelPlan::new(&target).unwrap().variants[0], 64)
        };
        let works = |level: &str, knob: &str| {
            let all = of(level);
            let metrics = all.iter().filter(|c| c.knob == knob).map(|c| c.metric);
            metrics.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>()
        };
        for level in ["avx2", "avx512vbmi", "i8mm"] {
            let knobs: BTreeSet<&str> = of(level).iter().map(|candidate| candidate.knob).collect();
            assert!(
                KNOBS.iter().all(|knob| *knob == "tables" || knobs.contains(knob)),
                "{level}: {knobs:?}"
            );
        }
        let metric = |work, repacked| vec![Metric { work, repacked }];
        for level in ["avx2", "avx512vbmi"] {
            assert_eq!(works(level, "kv_prefetch_bytes"), metric(Work::LongDecode, true));
            assert_eq!(works(level, "prefetch_bytes"), metric(Work::Decode, false));
        }
        // Tables take a prompt of 128 tokens whole.
        assert_eq!(works("avx2", "packed_tokens"), metric(Work::SmallPrefill, true));
        assert_eq!(works("avx2", "tile"), metric(Work::SmallPrefill, false));
        assert_eq!(works("avx512vbmi", "packed_tokens"), metric(Work::Prefill, true));
        assert_eq!(works("baseline", "tile"), metric(Work::Prefill, true));
    }
}
