//! Prompt lookup: guesses at the next tokens, taken from the sequence itself, to be verified in the same pass.
//!
//! Where the last tokens have stood before, what followed them then may follow again: in code, quotes, answers out of a given
//! text. A guessed token joins the pass as one more row, which costs less than a pass of its own. A row counts only when every token
//! before it turned out as guessed, and then it has the bits of a pass of its own: the output is the same with and without.
//!
//! Guesses are made always, since they cost nothing. How often they come true and what rows cost, both measured on the way, decide
//! how many are verified; and an account of the time that this has saved bounds what wrong decisions can lose.

use std::str::FromStr;

/// What to do with guesses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Speculation {
    /// Make none.
    Never,
    /// Verify as many as promise to pay.
    #[default]
    WherePaying,
    /// Verify all of them: to test and to measure it.
    Always,
}

/// llama.cpp's ways to look up n-grams: all of them mean the one that is here. It also has drafts by other models, which there are none of.
const LLAMA_CPP: [&str; 5] = [
    "ngram-cache",
    "ngram-simple",
    "ngram-map-k",
    "ngram-map-k4v",
    "ngram-mod",
];

/// As `--spec-type` spells it.
impl FromStr for Speculation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Speculation::Never),
            "ngram" => Ok(Speculation::WherePaying),
            _ if LLAMA_CPP.contains(&text) => Ok(Speculation::WherePaying),
            _ => Err("ngram or none is needed".to_owned()),
        }
    }
}

/// Most tokens guessed at once: as many rows as the small matrix product takes in one go, with the one that is certain.
const GUESSES: usize = 7;

/// Most rows of a pass with guesses.
pub const ROWS: usize = 16;

/// Most sequences that guess side by side: more of them share the cost of a pass as it is.
pub const SEQUENCES: usize = 4;

/// Longest repetition that is told from shorter ones.
const REPEATED: usize = 8;

/// The guesses of one sequence, and how good they have been.
#[derive(Debug)]
pub struct Lookup {
    guess: [u32; GUESSES],
    len: usize,
    /// How many of the last tokens stood before the place that the guess comes from: 1..=REPEATED.
    repeated: usize,
    /// How often a guess came true after 1, 2 to 3, 4 to 7 and 8 repeated tokens.
    rates: [Rate; REPEATED.ilog2() as usize + 1],
}

/// A probability, from the last few observations.
#[derive(Debug, Clone, Copy)]
struct Rate {
    value: f64,
    /// Weight of the next observation: each of the first ones as much as all before it, up to the beginning.
    weight: f64,
}

impl Rate {
    /// Little before anything was observed: that a guess would have come true is seen without verifying it.
    const NEW: Rate = Rate {
        value: 0.1,
        weight: 0.5,
    };

    fn observe(&mut self, right: bool) {
        const LEAST_WEIGHT: f64 = 1.0 / 16.0;
        self.value += (f64::from(u8::from(right)) - self.value) * self.weight;
        self.weight = (self.weight / (1.0 + self.weight)).max(LEAST_WEIGHT);
    }
}

impl Lookup {
    /// Before the first guess.
    pub fn new() -> Self {
        Lookup {
            guess: [0; GUESSES],
            len: 0,
            repeated: 0,
            rates: [Rate::NEW; _],
        }
    }

    /// The guess for what follows the last tokens.
    pub fn guess(&self) -> &[u32] {
        &self.guess[..self.len]
    }

    /// Gives it up.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Guesses what follows `tokens`: what followed the longest repetition of their end, the latest of several; at most
    /// `most` tokens.
    pub fn propose(&mut self, tokens: &[u32], most: usize) {
        self.len = 0;
        let Some((last, before)) = tokens.split_last() else {
            return;
        };
        let (mut from, mut longest) = (0, 0);
        for end in (0..before.len()).rev().filter(|&i| before[i] == *last) {
            let same = before[..end].iter().rev().zip(before.iter().rev());
            let repeated = 1 + same.take(REPEATED - 1).take_while(|(a, b)| a == b).count();
            if repeated > longest {
                (from, longest) = (end + 1, repeated);
            }
            if longest == REPEATED {
                break;
            }
        }
        if longest == 0 {
            return;
        }
        self.repeated = longest;
        self.len = most.min(GUESSES);
        for i in 0..self.len {
            // Beyond the end, the guess goes on with itself.
            let known = tokens.get(from + i).copied();
            self.guess[i] = known.unwrap_or_else(|| self.guess[from + i - tokens.len()]);
        }
    }

    /// The rate of guess `i`: those before it came true when its turn comes.
    fn rate(&mut self, i: usize) -> &mut Rate {
        &mut self.rates[(self.repeated + i).min(REPEATED).ilog2() as usize]
    }

    /// Learns from the tokens that really followed, as far as they are known.
    pub fn learn(&mut self, followed: &[u32]) {
        for (i, &token) in followed.iter().enumerate().take(self.len) {
            let right = self.guess[i] == token;
            self.rate(i).observe(right);
            if !right {
                break;
            }
        }
    }

    /// How many of the guesses to add to a pass of `rows` rows that `tokens` tokens are expected of, and how many are then: so many
    /// that the tokens per second come out best.
    pub fn worth(&mut self, costs: &Costs, rows: usize, tokens: f64) -> (usize, f64) {
        /// What it has to gain: measurements are not better than that.
        const GAIN: f64 = 1.03;
        let mut best = (0, tokens);
        let Some(without) = costs.of(rows) else {
            return best;
        };
        let mut rate = GAIN * tokens / without;
        let (mut tokens, mut all_right) = (tokens, 1.0);
        for n in 1..=self.len.min(ROWS.saturating_sub(rows)) {
            all_right *= self.rate(n - 1).value;
            tokens += all_right;
            if let Some(seconds) = costs.of(rows + n)
                && tokens / seconds > rate
            {
                (best, rate) = ((n, tokens), tokens / seconds);
            }
        }
        best
    }
}

/// What passes take in which every row is a token of a sequence that generates, and what guesses have saved.
#[derive(Debug, Default)]
pub struct Costs {
    /// Seconds, by number of rows; 0 = not known.
    seconds: [f64; ROWS + 1],
    /// Seconds that guesses have saved, with what they may lose: below 0 they pause.
    account: f64,
    /// Passes since the last one without guesses.
    guessing: usize,
}

impl Costs {
    /// Takes note of a pass over `certain` rows, one for each sequence, and `guessed` more, `right` of which came true.
    pub fn record(&mut self, certain: usize, guessed: usize, right: usize, seconds: f64) {
        /// What guesses may lose of the time: where they never pay, this much is spent on finding out whether they do by now.
        const ALLOWANCE: f64 = 0.005;
        /// What they may lose after having paid, in passes.
        const RESERVE: f64 = 8.0;
        /// How fast the cost of rows that are not measured is forgotten: what a busy neighbour has spoilt, or re-packed weights have
        /// made cheaper, is tried again some time.
        const FADING: f64 = 1.0 / 512.0;
        let rows = certain + guessed;
        if certain == 0 || rows > ROWS {
            return;
        }
        self.guessing = if guessed > 0 { self.guessing + 1 } else { 0 };
        let known = &mut self.seconds[rows];
        if *known == 0.0 {
            *known = seconds;
        } else {
            // Once in a while somebody else has the core.
            *known += (seconds.min(2.0 * *known) - *known) / 8.0;
        }
        let Some(without) = self.of(certain) else {
            return;
        };
        self.account += seconds * ALLOWANCE;
        if guessed > 0 {
            self.account += without * (certain + right) as f64 / certain as f64 - seconds;
        }
        self.account = self.account.min(RESERVE * without);
        for more in (certain + 1..=ROWS).filter(|&more| more != rows) {
            let known = &mut self.seconds[more];
            *known -= (*known - without).max(0.0) * FADING;
        }
    }

    /// Whether guesses may be verified at all in this pass.
    pub fn allow(&self) -> bool {
        /// After so many passes one goes without, to know what that takes.
        const MOST: usize = 64;
        self.account >= 0.0 && self.guessing < MOST
    }

    /// Seconds of a pass over `rows`: as measured, or between the next smaller and the next larger number that was. Beyond the
    /// largest one little more than that, so that it is tried. None as long as nothing as small has been measured.
    fn of(&self, rows: usize) -> Option<f64> {
        /// What a row more is taken to cost before it is known, as a part of the pass.
        const ROW: f64 = 0.1;
        let known = |&n: &usize| self.seconds[n] > 0.0;
        let below = (1..=rows.min(ROWS)).rev().find(known)?;
        let from = self.seconds[below];
        let share = (rows - below) as f64;
        Some(match (rows..=ROWS).find(known) {
            Some(above) if above > below => from + (self.seconds[above] - from) * share / (above - below) as f64,
            Some(_) => from,
            None => from * (1.0 + ROW * share),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proposed(tokens: &[u32], most: usize) -> (Vec<u32>, usize) {
        let mut lookup = Lookup::new();
        lookup.propose(tokens, most);
        (lookup.guess().to_vec(), lookup.repeated)
    }

    #[test]
    fn the_longest_repetition_is_continued_and_the_latest_of_equals() {
        assert_eq!(proposed(&[1, 2, 3, 9, 2, 3, 8, 1, 2, 3], 3), (vec![9, 2, 3], 3));
        assert_eq!(proposed(&[5, 7, 6, 7, 1, 7], 2), (vec![1, 7], 1));
        assert_eq!(proposed(&[1, 2, 3], 3), (vec![], 0));
        assert_eq!(proposed(&[], 3), (vec![], 0));
        assert_eq!(proposed(&[4], 3), (vec![], 0));
    }

    #[test]
    fn a_guess_goes_on_beyond_the_end() {
        assert_eq!(proposed(&[8, 1, 2, 1, 2], 7), (vec![1, 2, 1, 2, 1, 2, 1], 2));
        assert_eq!(proposed(&[3; 20], 9), (vec![3; GUESSES], REPEATED));
        assert!(proposed(&[3; 20], 0).0.is_empty());
    }

    /// Passes that take 1 second and `extra` for every further row.
    fn seconds(rows: usize, extra: f64) -> f64 {
        1.0 + extra * (rows - 1) as f64
    }

    fn costs(extra: f64) -> Costs {
        let mut costs = Costs::default();
        (1..=ROWS).for_each(|rows| costs.seconds[rows] = seconds(rows, extra));
        costs
    }

    /// A sequence that has repeated itself for a while.
    fn looping() -> Lookup {
        let mut lookup = Lookup::new();
        for _ in 0..40 {
            lookup.propose(&[1, 2, 3, 1, 2, 3], 7);
            lookup.learn(&[1, 2, 3, 1, 2, 3, 1]);
        }
        lookup
    }

    #[test]
    fn as_many_are_verified_as_pay() {
        let mut lookup = looping();
        assert_eq!(lookup.worth(&costs(0.0), 1, 1.0).0, 7);
        assert_eq!(lookup.worth(&costs(1.0), 1, 1.0).0, 0);
        lookup.rates.iter_mut().for_each(|rate| rate.value = 0.7);
        let some = lookup.worth(&costs(0.3), 1, 1.0).0;
        assert!((1..7).contains(&some), "{some}");
        assert!(lookup.worth(&costs(0.0), ROWS - 2, 3.0).0 <= 2);
        assert_eq!(
            lookup.worth(&Costs::default(), 1, 1.0),
            (0, 1.0),
            "nothing is known of costs"
        );
        assert_eq!(Lookup::new().worth(&costs(0.0), 1, 1.0), (0, 1.0), "nothing is guessed");
    }

    #[test]
    fn wrong_guesses_switch_it_off_and_right_ones_on_again() {
        let (mut lookup, costs) = (looping(), costs(0.2));
        let mut feed = |followed: &[u32], times: usize| {
            for _ in 0..times {
                lookup.propose(&[1, 2, 3, 1, 2, 3], 7);
                lookup.learn(followed);
            }
            lookup.worth(&costs, 1, 1.0).0
        };
        assert!(feed(&[1, 2, 3, 1], 1) > 0);
        assert_eq!(feed(&[9], 60), 0);
        // Nothing is verified any more, so that only the next token is known.
        assert!(feed(&[1], 60) > 0);
    }

    #[test]
    fn costs_are_measured_interpolated_and_forgotten() {
        let mut costs = Costs::default();
        assert_eq!(costs.of(1), None);
        costs.record(1, 0, 0, 10.0);
        assert_eq!((costs.of(1), costs.of(6)), (Some(10.0), Some(15.0)));
        costs.record(1, 4, 4, 30.0);
        assert_eq!((costs.of(3), costs.of(5)), (Some(20.0), Some(30.0)));
        assert!(costs.of(ROWS).unwrap() > 30.0);
        // One pass that somebody else disturbed does not count for much.
        costs.record(1, 4, 4, 1000.0);
        assert!(costs.of(5).unwrap() < 35.0);
        (0..5000).for_each(|_| costs.record(1, 0, 0, 10.0));
        assert!(costs.of(5).unwrap() < 10.1);
        costs.record(0, 1, 0, 1.0);
        costs.record(1, ROWS, 0, 1.0);
    }

    /// Guesses that seem good by all that was learned, and always turn out wrong.
    #[test]
    fn what_guesses_lose_is_bounded() {
        let (mut costs, mut time, mut passes) = (costs(0.4), 0.0, 0);
        for _ in 0..20_000 {
            let guessed = if costs.allow() { 7 } else { 0 };
            let seconds = seconds(1 + guessed, 0.4);
            costs.record(1, guessed, 0, seconds);
            (time, passes) = (time + seconds, passes + 1);
        }
        let lost = time / f64::from(passes) - 1.0;
        assert!((0.001..0.0075).contains(&lost), "{lost}");
    }

    #[test]
    fn what_pays_goes_on_and_a_pass_without_comes_in_between() {
        let (mut costs, mut without) = (Costs::default(), 0);
        costs.record(1, 0, 0, 1.0);
        for _ in 0..1000 {
            let guessed = if costs.allow() { 7 } else { 0 };
            costs.record(1, guessed, guessed, seconds(1 + guessed, 0.3));
            without += usize::from(guessed == 0);
        }
        assert!((10..=20).contains(&without), "{without}");
    }
}
