//! How much of the feed-forward is zero, counted while a model generates.
//!
//! relu(gate)^2 * up is zero where the gate is closed, whatever up is there; and where an element of it rounds to zero in int8, a
//! column of down is multiplied by zero. How often either happens is a property of trained weights: random ones show little of it.

use serde::Serialize;

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
    /// The share of columns that no row of the last pass needed.
    last_skipped: f64,
}

impl Counts {
    /// Adds one pass: gate (rows, ffn) before its activation, and the input of down (rows, ffn) in int8. One of more than [`COUNTED`]
    /// rows is passed by: hardly a column is zero in all of them. The share of zeros in the pass, if it was counted.
    pub fn add(&mut self, gate: &[f32], down: &[i8], rows: usize) -> Option<f64> {
        assert_eq!(gate.len(), down.len());
        if rows > COUNTED {
            self.last_skipped = 0.0;
            return None;
        }
        let ffn = down.len() / rows;
        self.elements += gate.len() as u64;
        // Without branches, so that the loops become vector code.
        self.closed += u64::from(gate.iter().map(|&g| u32::from(g <= 0.0)).sum::<u32>());
        let zero = down.iter().map(|&q| u32::from(q == 0)).sum::<u32>();
        self.zero += u64::from(zero);
        let skipped = if rows == 1 { zero } else { zero_columns(down, ffn) };
        self.last_skipped = f64::from(skipped) / ffn as f64;
        Some(f64::from(zero) / down.len() as f64)
    }

    /// The share of the columns of down that no row of the last pass needed; 0 before the first.
    pub fn last_skipped(&self) -> f64 {
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

/// Columns of `x` (rows, cols) that are zero in every row.
fn zero_columns(x: &[i8], cols: usize) -> u32 {
    const WIDTH: usize = 64;
    let starts = (0..cols).step_by(WIDTH);
    let zeros = starts.map(|start| {
        let mut any = [0; WIDTH];
        let width = WIDTH.min(cols - start);
        for row in x.chunks_exact(cols) {
            any.iter_mut()
                .zip(&row[start..start + width])
                .for_each(|(any, q)| *any |= q);
        }
        any[..width].iter().map(|&any| u32::from(any == 0)).sum::<u32>()
    });
    zeros.sum()
}

/// Shares of the inner vector's elements, 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
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

    #[test]
    fn closed_gates_and_zeros_are_counted() {
        let mut counts = Counts::default();
        assert_eq!(counts.shares(), None);
        // Zero and minus zero are closed; what is not a number is not.
        counts.add(&[-1.0, 0.0, -0.0, 0.5, f32::NAN], &[0, 0, 0, 0, 1], 1);
        assert_eq!(counts.last_skipped(), 0.8);
        assert_eq!(
            counts.add(&[1.0, 1.0, 1.0, -2.0, 3.0], &[-128, 1, -1, 0, 127], 1),
            Some(0.2)
        );
        let shares = counts.shares().unwrap();
        assert_eq!((shares.gate_closed, shares.down_zero), (0.4, 0.5));
        assert_eq!(counts.last_skipped(), 0.2);
    }

    #[test]
    fn a_column_is_skipped_when_no_row_needs_it() {
        let mut counts = Counts::default();
        assert_eq!(counts.last_skipped(), 0.0);
        // Three rows of four columns: half of all elements are zero, but only one column.
        counts.add(&[1.0; 12], &[0, 1, 0, 2, 0, 0, 3, -4, 0, 5, 0, 6], 3);
        assert_eq!(counts.last_skipped(), 0.25);
        let shares = counts.shares();
        assert_eq!(counts.add(&[-1.0; 34], &[0; 34], COUNTED + 1), None);
        assert_eq!((counts.last_skipped(), counts.shares()), (0.0, shares));
        // More columns than are looked at together: those that 5 divides are zero in one row, those that 7 divides in the other.
        let rows = [5, 7].map(|n| (0..150).map(|i| i8::from(i % n != 0)).collect::<Vec<_>>());
        assert_eq!(zero_columns(&rows.concat(), 150), 5);
    }

    #[test]
    fn a_summary_has_the_mean_and_the_range() {
        let layer = |gate_closed, down_zero| Shares { gate_closed, down_zero };
        assert_eq!(summary(&[]), "");
        assert_eq!(
            summary(&[layer(0.5, 0.8), layer(0.75, 0.9)]),
            "gate closed at 62.5 % (50.0 to 75.0), input of down zero at 85.0 % (80.0 to 90.0)"
        );
    }
}
