//! Whether the key/value caches fit into memory.

use crate::kernels::reference::BLOCK;
pub use crate::kernels::{CacheType, CacheTypes, KvCache};
use crate::model::Config;

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
pub fn check_budget(
    config: &Config,
    types: CacheTypes,
    parallel: usize,
    context: usize,
    limit_bytes: u64,
) -> Result<(), DoesNotFit> {
    let need_bytes = KvCache::bytes(config, types, context).saturating_mul(parallel as u64);
    if need_bytes <= limit_bytes {
        return Ok(());
    }
    let block_bytes = KvCache::bytes(config, types, BLOCK).saturating_mul(parallel as u64);
    Err(DoesNotFit {
        need_bytes,
        limit_bytes,
        parallel,
        context,
        fits: (limit_bytes / block_bytes) as usize * BLOCK,
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
        assert_eq!(check_budget(&config, types, 2, 2 * BLOCK, block_bytes * 4), Ok(()));
        let error = check_budget(&config, types, 2, 2 * BLOCK + 1, block_bytes * 4).unwrap_err();
        assert!(error.to_string().contains("lower --ctx-size to 256 or less"), "{error}");
        let error = check_budget(&config, types, 2, usize::MAX, 1).unwrap_err();
        assert!(error.to_string().ends_with("allow the process more memory"), "{error}");
    }
}
