//! Kernel variants of this binary against one another, in alternation: what `--against` does.
//!
//! Two variants take turns, slice by slice, so that both see the same moments of the machine; the ratio of a pair of slices means
//! something where its seconds do not. A variant that computes anything else is reported, and not timed.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use super::measure::{BenchError, SLICE};
use super::runner::Runner;
use super::stats::median;
use crate::engine::StartError;
use crate::engine::forward::{Forward, PassError};
use crate::engine::head::Need;
use crate::engine::kv::CacheTypes;
use crate::kernels::{Live, QuantRows, Variant, reference};
use crate::machine::pool::Pool;
use crate::model::{Bytes, Model, Packed, Packing, Ternary};

/// One variant beside the one that was chosen.
#[derive(Debug, Serialize)]
pub struct Against {
    /// The variant.
    pub kernel: String,
    /// Where it differs from the reference, or from the chosen variant: then nothing was timed.
    pub inexact: Option<String>,
    pub pairs: Vec<Pairs>,
}

/// Slices of the same work in alternation.
#[derive(Debug, Serialize)]
pub struct Pairs {
    /// `prefill` or `decode`.
    pub kind: &'static str,
    pub threads: usize,
    /// Of a slice.
    pub tokens: usize,
    pub context: usize,
    /// Seconds of the chosen variant and of this one, a pair of slices each.
    pub seconds: Vec<(f64, f64)>,
}

/// What to time.
pub struct Work<'a> {
    pub threads: usize,
    pub prefills: &'a [usize],
    /// Context, and tokens to generate, in slices.
    pub decodes: &'a [(usize, usize)],
    pub repeats: u32,
    pub cache: CacheTypes,
}

impl Against {
    /// The second against the first, each with a model that is prepared for it. They may be the same, to see how large a
    /// difference this machine makes of none.
    pub fn measure(sides: [(&Arc<Model>, &'static Variant); 2], work: &Work<'_>) -> Result<Against, BenchError> {
        let [_, (model, other)] = sides;
        let capacity = work.decodes.iter().map(|(context, tokens)| context + tokens + 1);
        let capacity = capacity.chain(work.prefills.iter().copied()).max().unwrap_or(1);
        let runner = |(model, kernels): (&Arc<Model>, _)| -> Result<Runner, StartError> {
            let forward = Forward::new(Arc::clone(model), kernels, work.threads);
            Runner::new(forward, work.cache, 1, capacity)
        };
        let mut against = Against {
            kernel: other.name.to_owned(),
            inexact: check(model, other, &Pool::new(work.threads)).err(),
            pairs: Vec::new(),
        };
        if against.inexact.is_some() {
            return Ok(against);
        }
        let mut runners = [runner(sides[0])?, runner(sides[1])?];
        for &tokens in work.prefills {
            let mut pairs = Pairs::new("prefill", work, tokens, 0);
            // The first pair touches all memory, and is compared, not counted.
            for repeat in 0..=work.repeats {
                let prompt = runners[0].prompt(0, tokens);
                let (seconds, outputs) = turns(repeat, &mut runners, |runner| runner.feed(0, 0, &prompt, Need::All))?;
                if outputs[0] != outputs[1] {
                    against.inexact = Some(format!("other logits after a prompt of {tokens} tokens"));
                    return Ok(against);
                }
                if repeat > 0 {
                    pairs.seconds.push(seconds);
                }
            }
            against.pairs.push(pairs);
        }
        for &(context, tokens) in work.decodes {
            let mut pairs = Pairs::new("decode", work, SLICE.min(tokens), context);
            let prompt = runners[0].prompt(0, context + 1);
            if context > 0 {
                turns(0, &mut runners, |runner| {
                    runner.feed(0, 0, &prompt[..context], Need::None)
                })?;
            }
            for repeat in 0..=work.repeats {
                let mut last = prompt[context];
                for first in (0..tokens).step_by(SLICE) {
                    let steps = first..tokens.min(first + SLICE);
                    let turn = repeat + (first / SLICE) as u32;
                    let (seconds, outputs) = turns(turn, &mut runners, |runner| {
                        let (mut token, mut generated) = ([last], Vec::with_capacity(SLICE));
                        for step in steps.clone() {
                            runner.step(context + step, &mut token)?;
                            generated.push(token[0]);
                        }
                        Ok(generated)
                    })?;
                    if outputs[0] != outputs[1] {
                        against.inexact = Some(format!("another token within {tokens} after a context of {context}"));
                        return Ok(against);
                    }
                    last = *outputs[0].last().expect("a slice has a step");
                    if repeat > 0 && steps.len() == pairs.tokens {
                        pairs.seconds.push(seconds);
                    }
                }
                // These come from all keys and values that the tokens left, where a token is a choice that hides much.
                let end = context + tokens;
                let (_, outputs) = turns(repeat, &mut runners, |runner| runner.feed(0, end, &[last], Need::All))?;
                if outputs[0] != outputs[1] {
                    against.inexact = Some(format!("other logits after {tokens} tokens and a context of {context}"));
                    return Ok(against);
                }
            }
            against.pairs.push(pairs);
        }
        Ok(against)
    }

    /// A line a kind of work.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        if let Some(what) = &self.inexact {
            return writeln!(out, "{:32} is not exact: {what}", self.kernel);
        }
        for pairs in &self.pairs {
            let ratios: Vec<f64> = pairs.seconds.iter().map(|(chosen, other)| chosen / other).collect();
            writeln!(
                out,
                "{:32} {:8} {:7} {:7} {:8} {:7.3}  of {} pairs",
                self.kernel,
                pairs.kind,
                pairs.threads,
                pairs.tokens,
                pairs.context,
                median(&ratios),
                ratios.len(),
            )?;
        }
        Ok(())
    }
}

impl Pairs {
    fn new(kind: &'static str, work: &Work<'_>, tokens: usize, context: usize) -> Self {
        Pairs {
            kind,
            threads: work.threads,
            tokens,
            context,
            seconds: Vec::new(),
        }
    }
}

/// Seconds and outputs of both; who begins changes with the turn.
fn turns<T>(
    turn: u32,
    runners: &mut [Runner; 2],
    mut job: impl FnMut(&mut Runner) -> Result<T, PassError>,
) -> Result<((f64, f64), [T; 2]), PassError> {
    let mut timed = |runner: &mut Runner| {
        let began = Instant::now();
        let output = job(runner)?;
        Ok::<_, PassError>((began.elapsed().as_secs_f64(), output))
    };
    let [first, second] = runners;
    let (one, two) = if turn.is_multiple_of(2) {
        let one = timed(first)?;
        (one, timed(second)?)
    } else {
        let two = timed(second)?;
        (timed(first)?, two)
    };
    Ok(((one.0, two.0), [one.1, two.1]))
}

/// Compares the ternary products of `kernels` with the reference, bit for bit: a layer's matrices as the file has them, as
/// they are re-packed, and as they are for skipping, with numbers of tokens around the sizes of tiles; with one token all rows of a
/// matrix, with several, which the reference takes long for, the first rows and the last.
fn check(model: &Model, kernels: &Variant, pool: &Pool) -> Result<(), String> {
    const ROWS: usize = 37;
    for (name, matrix) in model.layers.iter().take(1).flat_map(|layer| layer.matrices()) {
        let row_bytes = matrix.cols / 4;
        let as_mapped = Ternary::new(matrix.packed.clone(), matrix.rows, matrix.cols, matrix.scale);
        let skipping = kernels.skipping();
        let [as_up, as_down] = [skipping.up, skipping.down].map(|packing| laid_out(&as_mapped, packing?));
        for tokens in [1, 2, 3, 5, 8, 16, 33] {
            // Half of them zero, for what is skipped.
            let wave = |i: usize| (i % 2) as f32 * ((i * 7919 % 2003) as f32 - 1001.0) * 0.01;
            let x: Vec<f32> = (0..tokens * matrix.cols).map(wave).collect();
            let mut quant = QuantRows::default();
            kernels.quantize(pool, &x, matrix.cols, &mut quant);
            let checked = match tokens {
                1 => [0..matrix.rows, 0..0],
                _ => [0..ROWS.min(matrix.rows), matrix.rows.saturating_sub(ROWS)..matrix.rows],
            };
            let mut expected = Vec::new();
            let mut q = vec![0; matrix.cols];
            for (t, x) in x.chunks_exact(matrix.cols).enumerate() {
                let (scale, _) = reference::quantize(x, &mut q);
                for rows in checked.clone() {
                    let mut sums = vec![0; rows.len()];
                    reference::i2s_gemv(&matrix.packed[rows.start * row_bytes..], &q, &mut sums);
                    let y = sums.iter().map(|&sum| reference::rescale(sum, scale, matrix.scale));
                    expected.extend(y.zip(rows).map(|(y, row)| (t * matrix.rows + row, y.to_bits())));
                }
            }
            let compare = |y: &[f32], expected: &[(usize, u32)]| match expected
                .iter()
                .find(|(at, bits)| y[*at].to_bits() != *bits)
            {
                None => Ok(()),
                Some((at, _)) => {
                    let (token, row) = (at / matrix.rows, at % matrix.rows);
                    Err(format!(
                        "{name}, row {row} of token {token} of {tokens}: not the reference"
                    ))
                }
            };
            let mut y = vec![f32::NAN; tokens * matrix.rows];
            for form in [matrix, &as_mapped] {
                y.fill(f32::NAN);
                kernels.linear(pool, &quant, &mut [(form, &mut y)]);
                compare(&y, &expected)?;
            }
            if let Some(w) = &as_down {
                // Sums are added to what is there.
                y.fill(0.0);
                kernels.linear_sparse_add(pool, &quant, w, &mut Live::default(), &mut y);
                let added = |&(at, bits)| (at, (0.0 + f32::from_bits(bits)).to_bits());
                compare(&y, &expected.iter().map(added).collect::<Vec<_>>())?;
            }
            if let Some(w) = &as_up {
                // Its own gate.
                let mut gate = y.clone();
                kernels.linear_gated(pool, &quant, (&as_mapped, &mut gate), (w, &mut y));
                let closed = |bits| f32::from_bits(bits) <= 0.0;
                let zero = |t: usize| reference::rescale(0, quant.scales[t], matrix.scale).to_bits();
                let gated = |&(at, bits)| (at, if closed(bits) { zero(at / matrix.rows) } else { bits });
                compare(&y, &expected.iter().map(gated).collect::<Vec<_>>())?;
            }
        }
    }
    Ok(())
}

/// `w` in another layout; `None` where that does not take it.
fn laid_out(w: &Ternary, packing: Packing) -> Option<Ternary> {
    let mut data = vec![0; packing.bytes(w)?];
    packing.pack(w, &mut data).ok()?;
    let (w, data) = (w.clone(), Bytes::whole(Arc::new(data)));
    w.set_repacked(Packed { data, packing });
    Some(w)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::kv::CacheType;
    use crate::engine::testing;
    use crate::kernels::variants;
    use crate::machine::cpu::Machine;

    const WORK: Work<'static> = Work {
        threads: 2,
        prefills: &[5],
        decodes: &[(3, 10)],
        repeats: 2,
        cache: CacheTypes {
            k: CacheType::F16,
            v: CacheType::Q8_0,
        },
    };

    #[test]
    fn every_variant_that_runs_here_is_exact_and_timed() {
        let features = Machine::detect().features;
        for other in variants().iter().filter(|variant| variant.runs_on(&features)) {
            let model = testing::model();
            let against = Against::measure([(&model, testing::kernels()), (&model, other)], &WORK).unwrap();
            assert_eq!(against.inexact, None, "{}", other.name);
            let counts: Vec<_> = against
                .pairs
                .iter()
                .map(|pairs| (pairs.kind, pairs.tokens, pairs.seconds.len()))
                .collect();
            assert_eq!(
                counts,
                [("prefill", 5, 2), ("decode", 8, 2)],
                "a slice of two tokens does not count"
            );
            assert!(
                against
                    .pairs
                    .iter()
                    .flat_map(|p| &p.seconds)
                    .all(|s| s.0 > 0.0 && s.1 > 0.0)
            );
        }
    }

    /// Two models, since no variant is wrong: what differs is one weight of the output head.
    #[test]
    fn a_difference_is_found_behind_equal_tokens() {
        let measure = |row: usize, work: &Work<'_>| {
            let change = move |embedding: &mut [f32]| embedding[row * testing::config().hidden] += 0.25;
            let (one, other) = (
                testing::model_with_f16_head(40, |_| {}),
                testing::model_with_f16_head(40, change),
            );
            let kernels = testing::kernels();
            let against = Against::measure([(&one, kernels), (&other, kernels)], work).unwrap();
            (against.inexact.unwrap(), against.pairs.len())
        };
        let generation = Work { prefills: &[], ..WORK };
        // Nothing chooses or is given token 20, whose logit is another one.
        let (what, timed) = measure(20, &generation);
        assert_eq!((&*what, timed), ("other logits after 10 tokens and a context of 3", 0));
        // Token 39 is in the prompt.
        let (what, timed) = measure(39, &WORK);
        assert_eq!((&*what, timed), ("other logits after a prompt of 5 tokens", 0));
    }

    #[test]
    fn turns_change_who_begins_and_keep_who_is_who() {
        let mut order = Vec::new();
        let runner = || {
            Runner::new(
                Forward::new(testing::model(), testing::kernels(), 1),
                CacheTypes::default(),
                1,
                1,
            )
            .unwrap()
        };
        let mut runners = [runner(), runner()];
        let first: *const Forward = &runners[0].forward;
        for turn in 0..2 {
            let (_, outputs) = turns(turn, &mut runners, |runner| {
                let is_first = std::ptr::eq(&runner.forward, first);
                order.push(is_first);
                Ok(is_first)
            })
            .unwrap();
            assert_eq!(outputs, [true, false]);
        }
        assert_eq!(order, [true, false, false, true]);
    }
}
