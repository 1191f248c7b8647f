//! How much of the feed-forward is zero, counted while a model generates.
//!
//! relu(gate)^2 * up is zero where the gate is closed, whatever up is there; and where an element of it rounds to zero in int8, a
//! column of down is multiplied by zero. How often either happens is a property of trained weights: random ones show little of it.

use serde::Serialize;

use crate::model::Skipping;

/// Rows of a pass whose zeros are counted: few, since counting takes time.
pub const COUNTED: usize = 16;

/// Counts of one layer's feed-forward.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Counts {
    /// Elements of the inner vectors counted.
    elements: u64,
    /// Of them, those whose gate is <= 0.
    closed: u64,
    /// Of them, those that are zero at the input of down.
    zero: u64,
    /// What was skipped for all rows of the last pass.
    last_skipped: Shares,
}

impl Counts {
    /// Adds one pass: gate (rows, ffn) before its activation, and the input of down (rows, ffn) in int8. One of more than [`COUNTED`]
    /// rows is passed by: hardly a column is zero in all of them. `skipping` is what the layer skips. The shares in the pass, if it was counted.
    pub fn add(&mut self, gate: &[f32], down: &[i8], rows: usize, skipping: Skipping) -> Option<Shares> {
        assert_eq!(gate.len(), down.len());
        if rows > COUNTED {
            self.last_skipped = Shares::default();
            return None;
        }
        let ffn = down.len() / rows;
        let is_closed = |g: f32| g <= 0.0;
        let is_zero = |q: i8| q == 0;
        self.elements += gate.len() as u64;
        // Without branches, so that the loops become vector code.
        let closed = gate.iter().map(|&g| u32::from(is_closed(g))).sum::<u32>();
        let zero = down.iter().map(|&q| u32::from(is_zero(q))).sum::<u32>();
        self.closed += u64::from(closed);
        self.zero += u64::from(zero);
        let shares = |closed: u32, zero: u32, of: usize| Shares {
            gate_closed: f64::from(closed) / of as f64,
            down_zero: f64::from(zero) / of as f64,
        };
        // Looking at several rows again takes time, so only at what is skipped.
        let (up, columns) = match rows {
            1 => (skipping.up.map_or(0, |_| closed), skipping.down.map_or(0, |_| zero)),
            _ => (
                skipping.up.map_or(0, |_| in_every_row(gate, ffn, is_closed)),
                skipping.down.map_or(0, |_| in_every_row(down, ffn, is_zero)),
            ),
        };
        self.last_skipped = shares(up, columns, ffn);
        Some(shares(closed, zero, down.len()))
    }

    /// The shares of the rows of up and of the columns of down that were skipped for all rows of the last pass; 0 before the first.
    pub fn last_skipped(&self) -> Shares {
        self.last_skipped
    }

    /// As shares; `None` when nothing was counted.
    pub fn shares(&self) -> Option<Shares> {
        let share = |n: u64| n as f64 / self.elements as f64;
        (self.elements > 0).then(|| Shares {
            gate_closed: share(self.closed),
            down_zero: share(self.zero),
        })
    }
}

/// Columns of `x` (rows, cols) that are `so` in every row.
fn in_every_row<T: Copy>(x: &[T], cols: usize, so: impl Fn(T) -> bool) -> u32 {
    const WIDTH: usize = 64;
    let starts = (0..cols).step_by(WIDTH);
    let counts = starts.map(|start| {
        let mut all = [true; WIDTH];
        let width = WIDTH.min(cols - start);
        for row in x.chunks_exact(cols) {
            all.iter_mut()
                .zip(&row[start..start + width])
                .for_each(|(all, &x)| *all &= so(x));
        }
        all[..width].iter().map(|&all| u32::from(all)).sum::<u32>()
    });
    counts.sum()
}

/// Shares of the inner vector's elements, 0 to 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Shares {
    /// gate <= 0: the row of up is not needed.
    pub gate_closed: f64,
    /// Zero at the input of down, after rounding to int8: the column of down is not needed.
    pub down_zero: f64,
}

/// A sentence about all layers: the mean of each share, its least and its greatest. Empty when there are none.
pub fn summary(layers: &[Shares]) -> String {
    let percent = |of: fn(&Shares) -> f64| {
        let all = || layers.iter().map(|shares| of(shares) * 100.0);
        let mean = all().sum::<f64>() / layers.len() as f64;
        let (least, most) = (all().fold(100.0, f64::min), all().fold(0.0, f64::max));
        format!("{mean:.1} % ({least:.1} to {most:.1})")
    };
    if layers.is_empty() {
        return String::new();
    }
    format!(
        "gate closed at {}, input of down zero at {}",
        percent(|shares| shares.gate_closed),
        percent(|shares| shares.down_zero)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Order, Packing};

    const PACKING: Packing = Packing {
        order: Order::Rows,
        rows: 1,
        weights_per_byte: 4,
        max_cols: 128,
    };
    const BOTH: Skipping = Skipping {
        up: Some(PACKING),
        down: Some(PACKING),
    };

    fn of(gate_closed: f64, down_zero: f64) -> Shares {
        Shares { gate_closed, down_zero }
    }

    #[test]
    fn closed_gates_and_zeros_are_counted() {
        let mut counts = Counts::default();
        assert_eq!(counts.shares(), None);
        // Zero and minus zero are closed; what is not a number is not.
        counts.add(&[-1.0, 0.0, -0.0, 0.5, f32::NAN], &[0, 0, 0, 0, 1], 1, BOTH);
        assert_eq!(counts.last_skipped(), of(0.6, 0.8));
        assert_eq!(
            counts.add(&[1.0, 1.0, 1.0, -2.0, 3.0], &[-128, 1, -1, 0, 127], 1, BOTH),
            Some(of(0.2, 0.2))
        );
        assert_eq!(counts.shares(), Some(of(0.4, 0.5)));
        assert_eq!(counts.last_skipped(), of(0.2, 0.2));
    }

    #[test]
    fn what_no_row_of_a_pass_needs_is_skipped() {
        let mut counts = Counts::default();
        assert_eq!(counts.last_skipped(), of(0.0, 0.0));
        // Three rows of four: half of all elements are zero, but only one column, and no gate is closed in all rows.
        let gate = [-1.0, 1.0, -2.0, 1.0, -1.0, 1.0, 1.0, 1.0, 1.0, 1.0, -2.0, -1.0];
        counts.add(&gate, &[0, 1, 0, 2, 0, 0, 3, -4, 0, 5, 0, 6], 3, BOTH);
        assert_eq!(counts.last_skipped(), of(0.0, 0.25));
        counts.add(&[-1.0, 1.0, -0.0, f32::NAN], &[0; 4], 2, BOTH);
        assert_eq!(counts.last_skipped(), of(0.5, 1.0));
        // What the layer does not skip is not, however many zeros there are.
        for (skipping, skipped) in [
            (Skipping { down: None, ..BOTH }, of(1.0, 0.0)),
            (Skipping { up: None, ..BOTH }, of(0.0, 1.0)),
            (Skipping::default(), of(0.0, 0.0)),
        ] {
            for rows in [1, 2] {
                assert_eq!(counts.add(&[-1.0; 4], &[0; 4], rows, skipping), Some(of(1.0, 1.0)));
                assert_eq!(counts.last_skipped(), skipped);
            }
        }
        let shares = counts.shares();
        assert_eq!(counts.add(&[-1.0; 34], &[0; 34], COUNTED + 1, BOTH), None);
        assert_eq!((counts.last_skipped(), counts.shares()), (of(0.0, 0.0), shares));
        // More columns than are looked at together: those that 5 divides are zero in one row, those that 7 divides in the other.
        let rows = [5, 7].map(|n| (0..150).map(|i| i8::from(i % n != 0)).collect::<Vec<_>>());
        assert_eq!(in_every_row(&rows.concat(), 150, |q| q == 0), 5);
    }

    #[test]
    fn a_summary_has_the_mean_and_the_range() {
        assert_eq!(summary(&[]), "");
        assert_eq!(
            summary(&[of(0.5, 0.8), of(0.75, 0.9)]),
            "gate closed at 62.5 % (50.0 to 75.0), input of down zero at 85.0 % (80.0 to 90.0)"
        );
    }
}
