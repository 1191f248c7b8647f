//! Contestants in alternation: what each reached in every round, and the ratios within the rounds.

use std::fmt::Write as _;

use serde::Serialize;

use super::figures::{Figure, Kind};
use crate::stats::{median, spread};

/// What was measured; the same for all contestants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Work {
    /// Prompt or generation.
    pub kind: Kind,
    /// Threads.
    pub threads: u64,
    /// Sequences together.
    pub sequences: u64,
    /// Tokens of the prompt, or generated.
    pub tokens: u64,
    /// Tokens before these.
    pub context: u64,
}

impl Work {
    /// Of one of our own figures, which say everything.
    pub fn of(figure: &Figure) -> Option<Work> {
        Some(Work {
            kind: figure.kind,
            threads: figure.threads?,
            sequences: figure.sequences,
            tokens: figure.tokens?,
            context: figure.context,
        })
    }

    /// Whether the figure may be one of this work: it contradicts nothing.
    fn fits(&self, figure: &Figure) -> bool {
        self.kind == figure.kind
            && self.context == figure.context
            && self.sequences == figure.sequences
            && figure.threads.is_none_or(|threads| threads == self.threads)
            // Some count the prompt's last token, or the first generated one, differently.
            && figure.tokens.is_none_or(|tokens| tokens.abs_diff(self.tokens) <= 1)
    }
}

/// What one contestant reached in one round.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    /// Everything that its output says.
    pub figures: Vec<Figure>,
    /// Seconds that the command took as a whole.
    pub wall_s: f64,
}

/// The rounds of all contestants. The first contestant is ours, and defines the work.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// Names, in the order of a round.
    pub contestants: Vec<String>,
    /// Rounds that count.
    pub rounds: usize,
    /// One a work.
    pub rows: Vec<Row>,
    /// Median of the whole commands' seconds, start and loading included.
    pub wall_s: Vec<f64>,
}

/// One work.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Which.
    #[serde(flatten)]
    pub work: Work,
    /// In the order of the contestants; absent where one said nothing of it.
    pub by: Vec<Option<Result>>,
}

/// One contestant's speed in one work.
#[derive(Debug, Clone, Serialize)]
pub struct Result {
    /// Median of the rounds.
    pub tokens_per_s: f64,
    /// (Fastest - slowest) / median.
    pub spread: f64,
    /// The first contestant's speed over this one's, within each round.
    pub ratio: Ratio,
}

/// Ratios of the rounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Ratio {
    /// Their median.
    pub median: f64,
    /// The smallest.
    pub low: f64,
    /// The largest.
    pub high: f64,
}

impl Comparison {
    /// `rounds[r][c]`: what contestant c reached in round r.
    pub fn new(contestants: Vec<String>, rounds: &[Vec<Outcome>]) -> Comparison {
        let mut works: Vec<Work> = Vec::new();
        for figure in rounds.iter().flat_map(|round| &round[0].figures) {
            works.extend(Work::of(figure).filter(|work| !works.contains(work)));
        }
        works.sort_unstable();
        let rows = works.iter().map(|&work| {
            let speeds: Vec<Vec<Option<f64>>> = rounds
                .iter()
                .map(|round| round.iter().map(|outcome| speed(&work, &outcome.figures)).collect())
                .collect();
            let by = (0..contestants.len()).map(|c| result(&speeds, c)).collect();
            Row { work, by }
        });
        let wall = |c: usize| median(&rounds.iter().map(|round| round[c].wall_s).collect::<Vec<_>>());
        Comparison {
            rounds: rounds.len(),
            rows: rows.collect(),
            wall_s: (0..contestants.len()).map(wall).collect(),
            contestants,
        }
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut out = format!("{:<26} {:>7}", "WORK", "THREADS");
        let widths: Vec<usize> = self
            .contestants
            .iter()
            .map(|name| name.chars().count().max(17))
            .collect();
        for (name, width) in self.contestants.iter().zip(&widths) {
            let _ = write!(out, "  {name:>width$}");
        }
        let others = || self.contestants.iter().skip(1);
        for name in others() {
            let _ = write!(out, "  {:>24}", format!("{} / {name}", self.contestants[0]));
        }
        out += "\n";
        for row in &self.rows {
            let Work {
                kind,
                threads,
                sequences,
                tokens,
                context,
            } = row.work;
            let mut work = format!("{} {tokens}", kind.name());
            if sequences > 1 {
                let _ = write!(work, " x {sequences}");
            }
            if context > 0 {
                let _ = write!(work, " at {context}");
            }
            let _ = write!(out, "{work:<26} {threads:>7}");
            for (result, width) in row.by.iter().zip(&widths) {
                let cell = result.as_ref().map_or("-".to_owned(), |result| {
                    format!("{:.2} (± {:.0} %)", result.tokens_per_s, result.spread * 50.0)
                });
                let _ = write!(out, "  {cell:>width$}");
            }
            for result in row.by.iter().skip(1) {
                let cell = result.as_ref().map_or("-".to_owned(), |result| {
                    let Ratio { median, low, high } = result.ratio;
                    format!("{median:.2} ({low:.2} .. {high:.2})")
                });
                let _ = write!(out, "  {cell:>24}");
            }
            out += "\n";
        }
        let _ = writeln!(
            out,
            "\nTokens a second: medians of {} rounds in alternation, ± half of the spread. Ratios: medians of those within a round, with \
             the smallest and the largest.",
            self.rounds
        );
        for (c, name) in self.contestants.iter().enumerate().skip(1) {
            if self.rows.iter().all(|row| row.by[c].is_none()) {
                let _ = writeln!(
                    out,
                    "{name} printed no tokens a second of such work. As a whole it took {:.2} s: give --compare-pattern, or \
                     --compare-tokens",
                    self.wall_s[c]
                );
            }
        }
        out
    }
}

/// The contestant's one figure of this work; the first where several fit.
fn speed(work: &Work, figures: &[Figure]) -> Option<f64> {
    let exact = figures.iter().find(|figure| Work::of(figure) == Some(*work));
    let figure = exact.or_else(|| figures.iter().find(|figure| work.fits(figure)));
    figure.map(|figure| figure.tokens_per_s)
}

/// Of `speeds[round][contestant]`.
fn result(speeds: &[Vec<Option<f64>>], contestant: usize) -> Option<Result> {
    let own: Option<Vec<f64>> = speeds.iter().map(|round| round[contestant]).collect();
    let own = own.filter(|own| !own.is_empty())?;
    let pairs = speeds.iter().map(|round| Some(round[0]? / round[contestant]?));
    let ratios: Vec<f64> = pairs.collect::<Option<_>>()?;
    Some(Result {
        tokens_per_s: median(&own),
        spread: spread(&own),
        ratio: Ratio {
            median: median(&ratios),
            low: ratios.iter().copied().fold(f64::INFINITY, f64::min),
            high: ratios.iter().copied().fold(0.0, f64::max),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(kind: Kind, tokens: Option<u64>, threads: Option<u64>, tokens_per_s: f64) -> Figure {
        Figure {
            kind,
            tokens,
            context: 0,
            threads,
            sequences: 1,
            tokens_per_s,
        }
    }

    fn outcome(figures: Vec<Figure>, wall_s: f64) -> Outcome {
        Outcome { figures, wall_s }
    }

    fn rounds() -> Vec<Vec<Outcome>> {
        // The machine is twice as fast in the second round: ratios within a round do not see it.
        [(1.0, 3.0), (2.0, 2.9), (1.1, 3.1)]
            .iter()
            .map(|&(machine, ratio)| {
                vec![
                    outcome(
                        vec![
                            figure(Kind::Decode, Some(64), Some(2), 30.0 * machine),
                            figure(Kind::Prefill, Some(128), Some(2), 300.0 * machine),
                        ],
                        5.0,
                    ),
                    outcome(vec![figure(Kind::Decode, Some(63), None, 30.0 * machine / ratio)], 9.0),
                ]
            })
            .collect()
    }

    #[test]
    fn ratios_are_taken_within_rounds() {
        let comparison = Comparison::new(vec!["native".into(), "theirs".into()], &rounds());
        assert_eq!(comparison.rows.len(), 2);
        let decode = comparison
            .rows
            .iter()
            .find(|row| row.work.kind == Kind::Decode)
            .unwrap();
        let [Some(ours), Some(theirs)] = &decode.by[..] else {
            panic!("{decode:?}")
        };
        assert!((ours.tokens_per_s - 33.0).abs() < 1e-9);
        assert_eq!(ours.ratio.median, 1.0);
        let Ratio { median, low, high } = theirs.ratio;
        for (got, expected) in [(median, 3.0), (low, 2.9), (high, 3.1)] {
            assert!((got - expected).abs() < 1e-9, "{got} {expected}");
        }
        assert_eq!(comparison.wall_s, [5.0, 9.0]);
        let prefill = comparison
            .rows
            .iter()
            .find(|row| row.work.kind == Kind::Prefill)
            .unwrap();
        assert!(prefill.by[1].is_none(), "the other says nothing of prompts");
        let table = comparison.table();
        assert!(table.contains("3.00 (2.90 .. 3.10)"), "{table}");
        assert!(!table.contains("printed no tokens"));
    }

    #[test]
    fn a_figure_of_other_work_is_not_taken() {
        let work = Work {
            kind: Kind::Decode,
            threads: 2,
            sequences: 1,
            tokens: 64,
            context: 0,
        };
        assert!(work.fits(&figure(Kind::Decode, None, None, 1.0)));
        assert!(!work.fits(&figure(Kind::Prefill, None, None, 1.0)));
        assert!(!work.fits(&figure(Kind::Decode, Some(32), None, 1.0)));
        assert!(!work.fits(&figure(Kind::Decode, None, Some(1), 1.0)));
        let deep = Figure {
            context: 2048,
            ..figure(Kind::Decode, None, None, 1.0)
        };
        assert!(!work.fits(&deep));
    }

    #[test]
    fn silence_is_reported_with_the_wall_time() {
        let rounds: Vec<Vec<Outcome>> = rounds()
            .into_iter()
            .map(|mut round| {
                round[1].figures.clear();
                round
            })
            .collect();
        let table = Comparison::new(vec!["native".into(), "theirs".into()], &rounds).table();
        assert!(
            table.contains("theirs printed no tokens a second") && table.contains("9.00 s"),
            "{table}"
        );
    }
}
