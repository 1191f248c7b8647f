//! The key/value cache of one sequence, and whether so many of them fit into memory.

use crate::kernels::{AttentionRow, Variant};
use crate::model::Config;

/// Keys and values of one sequence, as f16 bits.
///
/// Each of `k` and `v` is (layers, kv_heads, capacity, head_dim), allocated zeroed: pages of positions that were
/// never reached are never touched, so a long context costs memory only when it is used. A new sequence starts
/// again at position 0; what the last one left behind it is never read, since attention sees only written positions.
pub struct KvCache {
    k: Vec<u16>,
    v: Vec<u16>,
    kv_heads: usize,
    head_dim: usize,
    capacity: usize,
}

impl KvCache {
    /// A cache for `capacity` positions.
    pub fn new(config: &Config, capacity: usize) -> Self {
        let elements = config.layers * config.kv_heads * capacity * config.head_dim;
        KvCache {
            k: vec![0; elements],
            v: vec![0; elements],
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            capacity,
        }
    }

    /// Bytes of one position, over all layers.
    pub fn bytes_per_position(config: &Config) -> u64 {
        let elements = config.layers as u64 * config.kv_heads as u64 * config.head_dim as u64;
        elements * 2 * size_of::<u16>() as u64
    }

    /// Stores one position of one layer. k (after RoPE), v (kv_heads, head_dim).
    pub fn store(&mut self, kernels: &Variant, layer: usize, position: usize, k: &[f32], v: &[f32]) {
        assert!(position < self.capacity);
        for head in 0..self.kv_heads {
            let from = head * self.head_dim..(head + 1) * self.head_dim;
            let at = ((layer * self.kv_heads + head) * self.capacity + position) * self.head_dim;
            kernels.to_f16(&k[from.clone()], &mut self.k[at..at + self.head_dim]);
            kernels.to_f16(&v[from], &mut self.v[at..at + self.head_dim]);
        }
    }

    /// What a query of one layer sees that may look at the first `len` positions.
    pub fn visible(&self, layer: usize, len: usize) -> AttentionRow<'_> {
        let size = self.kv_heads * self.capacity * self.head_dim;
        AttentionRow {
            k: &self.k[layer * size..][..size],
            v: &self.v[layer * size..][..size],
            len,
            capacity: self.capacity,
        }
    }
}

/// The caches do not fit into the memory that this process may use.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "the key/value cache needs {} MiB for {parallel} x {context} tokens, but only {} MiB of memory may be used: {}",
    need_bytes.div_ceil(MIB), limit_bytes / MIB, advice(*fits)
)]
pub struct DoesNotFit {
    need_bytes: u64,
    limit_bytes: u64,
    parallel: usize,
    context: usize,
    /// The context that would fit, for as many sequences.
    fits: usize,
}

const MIB: u64 = 1 << 20;

fn advice(fits: usize) -> String {
    match fits {
        0 => "allow the process more memory".to_owned(),
        fits => format!("lower --ctx-size to {fits} or less, serve fewer at once, or allow more memory"),
    }
}

/// Checks that `parallel` caches of `context` positions fit into `limit_bytes`.
///
/// The weights are not counted: they are pages of a file, which the kernel may drop and read again.
pub fn check_budget(config: &Config, parallel: usize, context: usize, limit_bytes: u64) -> Result<(), DoesNotFit> {
    let per_position = KvCache::bytes_per_position(config).saturating_mul(parallel as u64);
    let need_bytes = per_position.saturating_mul(context as u64);
    if need_bytes <= limit_bytes {
        return Ok(());
    }
    Err(DoesNotFit {
        need_bytes,
        limit_bytes,
        parallel,
        context,
        fits: (limit_bytes / per_position) as usize,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing;

    #[test]
    fn what_is_stored_is_seen_at_its_place() {
        let config = testing::config();
        let mut cache = KvCache::new(&config, 5);
        let width = config.kv_heads * config.head_dim;
        let k: Vec<f32> = (0..width).map(|i| i as f32).collect();
        let v: Vec<f32> = k.iter().map(|x| -x).collect();
        cache.store(testing::kernels(), 1, 3, &k, &v);
        let row = cache.visible(1, 4);
        let f16 = |x: f32| half::f16::from_f32(x).to_bits();
        for head in 0..config.kv_heads {
            for i in 0..config.head_dim {
                let at = (head * row.capacity + 3) * config.head_dim + i;
                let value = (head * config.head_dim + i) as f32;
                assert_eq!((row.k[at], row.v[at]), (f16(value), f16(-value)));
            }
        }
        assert!(cache.visible(0, 4).k.iter().all(|&bits| bits == 0));
        assert_eq!(row.k.iter().filter(|&&bits| bits != 0).count(), width - 1);
    }

    #[test]
    fn a_budget_that_is_too_small_is_refused_with_a_context_that_fits() {
        let config = testing::config();
        let per_position = KvCache::bytes_per_position(&config);
        assert_eq!(check_budget(&config, 2, 100, per_position * 200), Ok(()));
        let error = check_budget(&config, 2, 101, per_position * 200).unwrap_err();
        assert!(error.to_string().contains("lower --ctx-size to 100 or less"), "{error}");
        let error = check_budget(&config, 2, usize::MAX, 1).unwrap_err();
        assert!(error.to_string().ends_with("allow the process more memory"), "{error}");
    }
}
