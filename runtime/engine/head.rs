//! The output head: from the rows of a pass to what the sampler needs of their logits.

use super::forward::{all_finite, grow};
use crate::kernels::Variant;
use crate::machine::pool::Pool;
use crate::model::Model;

/// What is wanted of a row's logits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Need {
    /// Nothing: a row inside of a prompt.
    None,
    /// Every token whose logit is at least the `top`-th largest less `margin`. More than these may come.
    Candidates {
        /// At least 1.
        top: usize,
        /// At least 0.
        margin: f32,
    },
    /// All of them.
    All,
}

/// A token with its logit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// The token.
    pub id: u32,
    /// Its logit; the sampler puts the weight in its place that it is drawn with.
    pub value: f32,
}

/// What is known of a row's logits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Logits<'a> {
    /// (vocab)
    All(&'a [f32]),
    /// At least those that were needed, by ascending id, at least one.
    Candidates(&'a [Candidate]),
}

impl<'a> Logits<'a> {
    /// The logits (vocab) of a row that needed all of them. Panics for another row.
    pub fn all(self) -> &'a [f32] {
        match self {
            Logits::All(logits) => logits,
            Logits::Candidates(_) => panic!("a row that needs all of its logits"),
        }
    }
}

/// The head's buffers, grown to the largest pass so far. Shapes with m = rows that want logits.
#[derive(Default)]
pub struct Head {
    /// Rows that want logits (m), ascending.
    wanted: Vec<usize>,
    /// Their residual stream (m, hidden).
    x: Vec<f32>,
    /// The same, normalised (m, hidden).
    h: Vec<f32>,
    /// (m, vocab)
    logits: Vec<f32>,
}

impl Head {
    /// logits = token_embd @ rms(x) for the rows of x (rows, hidden) that want them. A row with a logit that is not finite is
    /// marked in `broken` (rows).
    pub fn run(
        &mut self,
        kernels: &Variant,
        pool: &Pool,
        model: &Model,
        x: &[f32],
        needs: impl Iterator<Item = Need>,
        broken: &mut [bool],
    ) {
        let (hidden, vocab) = (model.config.hidden, model.config.vocab);
        self.wanted.clear();
        self.wanted
            .extend((0..).zip(needs).filter(|(_, need)| *need != Need::None).map(|(r, _)| r));
        let m = self.wanted.len();
        if m == 0 {
            return;
        }
        let gathered = grow(&mut self.x, m * hidden);
        for (to, &r) in gathered.chunks_exact_mut(hidden).zip(&self.wanted) {
            to.copy_from_slice(&x[r * hidden..][..hidden]);
        }
        let h = grow(&mut self.h, m * hidden);
        let logits = grow(&mut self.logits, m * vocab);
        kernels.rmsnorm(pool, gathered, &model.output_norm, model.config.rms_eps, h);
        kernels.head(pool, &model.embedding, h, logits);
        for (logits, &r) in logits.chunks_exact(vocab).zip(&self.wanted) {
            broken[r] |= !all_finite(logits);
        }
    }

    /// What is known of the logits of a row that wanted them. Panics for another row.
    pub fn logits(&self, row: usize, vocab: usize) -> Logits<'_> {
        let at = self.wanted.binary_search(&row).expect("a row that wants logits");
        Logits::All(&self.logits[at * vocab..][..vocab])
    }
}
