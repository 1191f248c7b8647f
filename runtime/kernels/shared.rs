//! A mutable slice that several threads write in parts that do not overlap.

use std::marker::PhantomData;
use std::ops::Range;

/// Hands disjoint parts of one slice to threads.
pub(super) struct Shared<'a, T> {
    start: *mut T,
    len: usize,
    owner: PhantomData<&'a mut [T]>,
}

// SAFETY: a `Shared` only gives out ranges that its callers promise are disjoint (see `part`), so sending it to
// several threads is like splitting the slice among them.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub(super) fn new(slice: &'a mut [T]) -> Self {
        Shared {
            start: slice.as_mut_ptr(),
            len: slice.len(),
            owner: PhantomData,
        }
    }

    /// The first element, for parts that are no ranges: columns of a matrix.
    pub(super) fn start(&self) -> *mut T {
        self.start
    }

    /// The elements of `range`.
    ///
    /// # Safety
    /// While the result lives, no other part that overlaps it may be asked for, on any thread.
    #[expect(clippy::mut_from_ref, reason = "that is what it is for; see Safety")]
    pub(super) unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: in bounds by the assertion; unique by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}

/// The share of thread `i` of `n` in `0..total`: contiguous, in whole units of `unit` but for the end.
pub(super) fn share(total: usize, unit: usize, i: usize, n: usize) -> Range<usize> {
    let units = total.div_ceil(unit);
    let at = |i: usize| (units * i / n * unit).min(total);
    at(i)..at(i + 1)
}

#[cfg(test)]
mod tests {
    use super::share;

    #[test]
    fn shares_cover_everything_once_in_whole_units() {
        for total in [0, 1, 3, 4, 5, 640, 6911, 6912] {
            for n in 1..9 {
                let shares: Vec<_> = (0..n).map(|i| share(total, 4, i, n)).collect();
                assert_eq!(shares[0].start, 0);
                assert_eq!(shares[n - 1].end, total);
                assert!(
                    shares
                        .windows(2)
                        .all(|w| w[0].end == w[1].start && w[0].end % 4 == 0 || w[0].end == total)
                );
            }
        }
    }
}
