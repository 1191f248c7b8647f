//! Whether the key/value caches fit into memory.

use crate::kernels::reference::BLOCK;
pub use crate::kernels::{CacheType, CacheTypes, KvCache};
use crate::model::Config;

/// The caches do not fit into the memory that this process may use.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "the key/value cache needs {} MiB for {parallel} x {context} tokens, but only {} MiB of memory may be used, {} MiB of \
     it by buffers and what of the model cannot be dropped: {}",
    need_bytes.div_ceil(MIB), limit_bytes / MIB, other_bytes.div_ceil(MIB), advice(*fits)
)]
pub struct DoesNotFit {
    need_bytes: u64,
    limit_bytes: u64,
    other_bytes: u64,
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

/// Checks that `parallel` caches of `context` positions fit into `limit_bytes` beside `other_bytes`.
///
/// Among those are no pages of a mapped file, which the kernel may drop and read again.
pub fn check_budget(
    config: &Config,
    types: CacheTypes,
    parallel: usize,
    context: usize,
    other_bytes: u64,
    limit_bytes: u64,
) -> Result<(), DoesNotFit> {
    let need_bytes = KvCache::bytes(config, types, context).saturating_mul(parallel as u64);
    let left_bytes = limit_bytes.saturating_sub(other_bytes);
    if need_bytes <= left_bytes {
        return Ok(());
    }
    let block_bytes = KvCache::bytes(config, types, BLOCK).saturating_mul(parallel as u64);
    Err(DoesNotFit {
        need_bytes,
        limit_bytes,
        other_bytes,
        parallel,
        context,
        fits: (left_bytes / block_bytes) as usize * BLOCK,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing;

    #[test]
    fn a_budget_that_is_too_small_is_refused_with_a_context_that_fits() {
        let config = testing::config();
        let types = CacheTypes::default();
        let block_bytes = KvCache::bytes(&config, types, 1);
        let check = |context, other_bytes, limit_bytes| {
            check_budget(&config, types, 2, context, other_bytes, limit_bytes).map_err(|error| error.to_string())
        };
        assert_eq!(check(2 * BLOCK, 0, block_bytes * 4), Ok(()));
        let error = check(2 * BLOCK + 1, 0, block_bytes * 4).unwrap_err();
        assert!(error.contains("lower --ctx-size to 256 or less"), "{error}");
        // What else lies in memory leaves less.
        assert_eq!(check(2 * BLOCK, 100, block_bytes * 4 + 100), Ok(()));
        let error = check(2 * BLOCK, 100, block_bytes * 4 + 99).unwrap_err();
        assert!(error.contains("lower --ctx-size to 128 or less"), "{error}");
        let error = check(BLOCK, u64::MAX, block_bytes * 4).unwrap_err();
        assert!(error.ends_with("allow the process more memory"), "{error}");
        let error = check(usize::MAX, 0, 1).unwrap_err();
        assert!(error.ends_with("allow the process more memory"), "{error}");
    }
}
