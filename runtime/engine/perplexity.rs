//! How well a model predicts a text: the perplexity, by a definition that another implementation can follow.
//!
//! The text's tokens, without BOS, are cut into consecutive windows of context - 1. Each window is fed after one BOS,
//! which is not scored; every token is scored once, from the logits of the position before it. `demo/eval.py` does
//! the same in PyTorch.

use super::forward::PassError;
use super::logprobs::LogSoftmax;
use super::session::Session;

/// Least context: BOS and one token that it predicts.
pub const CONTEXT_MIN: usize = 2;

/// The sum over the tokens scored so far.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Score {
    /// How many tokens.
    pub tokens: usize,
    /// Their negative log-likelihood, in nats.
    pub nats: f64,
}

impl Score {
    /// exp of the mean negative log-likelihood: between how many equally likely tokens the model has to choose.
    pub fn perplexity(&self) -> f64 {
        libm::exp(self.nats / self.tokens as f64)
    }

    /// The same per byte of text, in bits: comparable between tokenizers.
    pub fn bits_per_byte(&self, bytes: usize) -> f64 {
        self.nats / std::f64::consts::LN_2 / bytes as f64
    }
}

/// Scores `tokens`, all inside the vocabulary; `progress` sees the sum after each window. The session has room for
/// context - 1 tokens, and is overwritten.
///
/// Terms are added in the order of the text, whatever the threads and passes: the sum has the same bits everywhere.
pub fn score(
    session: &mut Session,
    bos: u32,
    tokens: &[u32],
    context: usize,
    mut progress: impl FnMut(Score),
) -> Result<Score, PassError> {
    assert!(context >= CONTEXT_MIN, "a window holds a token");
    let mut score = Score::default();
    for window in tokens.chunks(context - 1) {
        let input: Vec<u32> = [bos].iter().chain(&window[..window.len() - 1]).copied().collect();
        session.truncate(0);
        let likelihood = |i: usize, logits: &[f32]| LogSoftmax::new(logits).of(logits[window[i] as usize]);
        let nats = session.feed_each(&input, &|i, logits| -likelihood(i, logits))?;
        score.nats = nats.iter().fold(score.nats, |sum, nats| sum + nats);
        score.tokens += window.len();
        progress(score);
    }
    Ok(score)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing;

    const TOKENS: [u32; 8] = [3, 1, 4, 1, 5, 9, 2, 6];
    const BOS: u32 = 7;

    fn scored(threads: usize, batch: usize, context: usize) -> Score {
        let mut session = Session::new(testing::model(), testing::kernels(), threads, context - 1, batch).unwrap();
        score(&mut session, BOS, &TOKENS, context, |_| ()).unwrap()
    }

    #[test]
    fn every_token_is_scored_once_after_the_bos_of_its_window() {
        // Windows of three: each token alone, after its window's BOS and the tokens before it.
        let mut nats = 0.0;
        for (i, &token) in TOKENS.iter().enumerate() {
            let prefix = [&[BOS], &TOKENS[i / 3 * 3..i]].concat();
            let mut session = Session::new(testing::model(), testing::kernels(), 1, 4, 4).unwrap();
            let logits = session.feed(&prefix).unwrap();
            nats -= LogSoftmax::new(logits).of(logits[token as usize]);
        }
        let score = scored(1, 4, 4);
        assert_eq!(
            score,
            Score {
                tokens: TOKENS.len(),
                nats
            }
        );
        assert!((score.perplexity().ln() * 8.0 - nats).abs() < 1e-9);
        assert!((score.bits_per_byte(16) * 16.0 * 2f64.ln() - nats).abs() < 1e-9);
    }

    #[test]
    fn threads_and_passes_do_not_change_a_bit() {
        let expected = scored(1, 1, 6);
        for (threads, batch) in [(1, 2), (2, 3), (3, 5), (1, 100)] {
            assert_eq!(
                scored(threads, batch, 6),
                expected,
                "{threads} threads, passes of {batch}"
            );
        }
        assert_ne!(scored(1, 1, 5), expected);
    }

    #[test]
    fn progress_comes_after_each_window_and_ends_with_the_result() {
        let mut session = Session::new(testing::model(), testing::kernels(), 1, 3, 3).unwrap();
        let mut seen = Vec::new();
        let result = score(&mut session, BOS, &TOKENS, 4, |score| seen.push(score)).unwrap();
        assert_eq!(seen.iter().map(|s| s.tokens).collect::<Vec<_>>(), [3, 6, 8]);
        assert_eq!(seen.last(), Some(&result));
    }
}
