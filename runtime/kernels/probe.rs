//! The ceilings that a benchmark compares with, on every thread of a pool at once.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Instant;

use super::Variant;
use super::ops::in_pieces;
use crate::machine::pool::Pool;

/// A line of memory: what the read probe reads as a whole.
const LINE: usize = 64;
/// What a thread reads before it looks whether others need help: long against starting a stream.
const PIECE_BYTES: usize = 8 << 20;
/// Pieces begin at pages: where blocks of the kernel's kilobyte cross them, reading is a tenth slower on Zen 3.
const PAGE: usize = 4096;

impl Variant {
    /// Reads `bytes`, each thread its share as one linear stream prefetched `ahead` bytes ahead, and helping others at the end as products
    /// do; the sum of the 32-bit words, modulo 2^32. Bytes beyond the last whole line are not read.
    pub fn probe_read(&self, pool: &Pool, bytes: &[u8], ahead: usize) -> u32 {
        let sums = Mutex::new(0u32);
        let pieces = (bytes.len() / pool.threads() / PIECE_BYTES).max(1);
        in_pieces(pool, bytes.len() / LINE * LINE, PAGE, pieces, |range| {
            let part = &bytes[range];
            let mut sum = 0;
            // SAFETY: `part` is whole lines; prefetching beyond it is harmless.
            unsafe { (self.probe_read)(part.as_ptr(), part.len(), ahead, &raw mut sum) };
            let mut sums = sums.lock().unwrap_or_else(PoisonError::into_inner);
            *sums = sums.wrapping_add(sum as u32);
        });
        sums.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Multiply-adds that `rounds` rounds of dot products on registers make on one thread.
    pub fn probe_dot(&self, rounds: usize) -> u64 {
        /// Of at most 12 * 64 multiply-adds each: the sum of a call stays far below 2^31.
        const ROUNDS_MAX: usize = 1 << 16;
        let mut total = 0;
        for first in (0..rounds).step_by(ROUNDS_MAX) {
            let mut made = 0;
            // SAFETY: the kernel writes one number.
            unsafe { (self.probe_dot)(ROUNDS_MAX.min(rounds - first), &raw mut made) };
            total += made as u64;
        }
        total
    }

    /// Multiply-adds per second of dot products on registers, on all threads of `pool` for about `seconds`.
    pub fn dot_peak(&self, pool: &Pool, seconds: f64) -> f64 {
        let total = Mutex::new(0f64);
        pool.run(&|_| {
            let (began, mut made) = (Instant::now(), 0);
            let mut elapsed = 0.0;
            while elapsed < seconds {
                made += self.probe_dot(4096);
                elapsed = began.elapsed().as_secs_f64();
            }
            *total.lock().unwrap_or_else(PoisonError::into_inner) += made as f64 / elapsed;
        });
        total.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}
