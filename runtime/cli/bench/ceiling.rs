//! What the machine could do, measured between the slices of what it does: reading memory, and dot products on registers.
//!
//! Memory is read in both kinds that weights lie in: the mapped file, in pages of the page cache (4 KiB as a rule), and
//! memory of our own, in huge pages where the system gives them. Under a hypervisor the two differ by half.

use std::time::Instant;

use super::stats::median;
use crate::engine::forward::Traffic;
use crate::kernels::Variant;
use crate::machine::limits::Limits;
use crate::machine::pool::Pool;
use crate::model::{HugeBuffer, Model};

/// Bytes of one read pass, at most: long enough for a stream to settle, short against a neighbour's whims.
const PASS_BYTES: usize = 256 << 20;
/// Prefetch distances among which the fastest is taken, in bytes: the ceiling is the best that simple reading reaches.
const AHEADS: [usize; 4] = [0, 256, 4 << 10, 16 << 10];
/// Seconds of one measurement of the dot product.
const DOT_SECONDS: f64 = 0.02;

/// Bytes per second of one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// From the mapped file; as `own` where the file is so small that a cache would hold it.
    pub file: f64,
    /// From memory of our own.
    pub own: f64,
}

impl Rates {
    /// Between two moments.
    pub fn between(before: Rates, after: Rates) -> Rates {
        Rates {
            file: f64::midpoint(before.file, after.file),
            own: f64::midpoint(before.own, after.own),
        }
    }

    /// Seconds that reading takes: `own` bytes of `total` from our own memory, the others from the file.
    pub fn seconds(self, total: f64, own: f64) -> f64 {
        own / self.own + (total - own) / self.file
    }
}

/// The two memories to read, and where each pass goes on.
pub struct Reader<'a> {
    file: Option<&'a [u8]>,
    own: HugeBuffer,
    at: usize,
}

impl<'a> Reader<'a> {
    /// Buffers about as large as what a pass of the model reads, and far larger than any cache.
    pub fn new(model: &'a Model, traffic: Traffic, l3_bytes: Option<u64>) -> std::io::Result<Reader<'a>> {
        const LEAST: usize = 256 << 20;
        let uncached = (l3_bytes.unwrap_or(0) as usize).saturating_mul(8).max(LEAST);
        let file: &[u8] = (*model.mapping).as_ref();
        let wanted = uncached.max(traffic.body + traffic.head);
        let allowed = Limits::read().memory_bytes.map_or(wanted, |bytes| bytes as usize / 4);
        let mut own = HugeBuffer::zeroed(wanted.min(allowed))?;
        own.fill(1); // pages of zeros may all be the same page
        let file = (file.len() >= uncached && model.mapping.is_mapped()).then_some(file);
        Ok(Reader { file, own, at: 0 })
    }

    /// One pass over the next part of each memory.
    pub fn read(&mut self, kernels: &Variant, pool: &Pool, ahead: usize) -> Rates {
        let own = rate(kernels, pool, next(&self.own, self.at), ahead);
        let file = self
            .file
            .map_or(own, |file| rate(kernels, pool, next(file, self.at), ahead));
        self.at += 1;
        Rates { file, own }
    }

    /// The prefetch distance that reads fastest. Its first passes also pay for the page tables of new mappings.
    pub fn best_ahead(&mut self, kernels: &Variant, pool: &Pool) -> usize {
        let mut rates = AHEADS.map(|ahead| (ahead, Vec::new()));
        for round in 0..4 {
            for (ahead, rates) in &mut rates {
                let read = self.read(kernels, pool, *ahead);
                if round > 0 {
                    rates.push(read.own + read.file);
                }
            }
        }
        let (best, _) = rates
            .into_iter()
            .map(|(ahead, rates)| (ahead, median(&rates)))
            .max_by(|a, b| a.1.total_cmp(&b.1))
            .expect("there are distances");
        best
    }
}

/// The `at`th part of `bytes`, going round.
fn next(bytes: &[u8], at: usize) -> &[u8] {
    let parts = (bytes.len() / PASS_BYTES).max(1);
    let size = bytes.len() / parts;
    &bytes[at % parts * size..][..size]
}

fn rate(kernels: &Variant, pool: &Pool, bytes: &[u8], ahead: usize) -> f64 {
    let began = Instant::now();
    kernels.probe_read(pool, bytes, ahead);
    bytes.len() as f64 / began.elapsed().as_secs_f64()
}

/// Multiply-adds per second of dot products on registers, on all threads.
pub fn dot_rate(kernels: &Variant, pool: &Pool) -> f64 {
    kernels.dot_peak(pool, DOT_SECONDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_go_round_and_cover_everything() {
        let bytes = vec![0u8; 1000];
        assert_eq!(next(&bytes, 7).len(), 1000, "smaller than a pass");
        let bytes = HugeBuffer::zeroed(3 * PASS_BYTES + 100).unwrap(); // never touched, so it takes no memory
        let starts: Vec<usize> = (0..4)
            .map(|at| next(&bytes, at).as_ptr().addr() - bytes.as_ptr().addr())
            .collect();
        assert_eq!(starts[0], 0);
        assert_eq!(starts[3], 0);
        assert_eq!(starts[2] - starts[1], next(&bytes, 0).len());
    }

    #[test]
    fn each_byte_counts_at_the_rate_of_its_memory() {
        let rates = Rates::between(Rates { file: 10.0, own: 30.0 }, Rates { file: 30.0, own: 50.0 });
        assert_eq!(rates, Rates { file: 20.0, own: 40.0 });
        assert_eq!(rates.seconds(120.0, 80.0), 4.0);
    }
}
