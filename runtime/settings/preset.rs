//! The presets behind `USE_CASE`: defaults of other settings, which still win when they are given.

use crate::engine::DEFAULT_BATCH;

/// What the deployment is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UseCase {
    /// Many users, memory at hand.
    HighPerformance,
    /// The defaults.
    #[default]
    Balanced,
    /// One user, the smallest key/value cache.
    MemoryEfficient,
}

/// Defaults that a preset sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Preset {
    /// Tokens of context per request.
    pub context: usize,
    /// Requests side by side.
    pub parallel: usize,
    /// Tokens of prompt per forward pass.
    pub batch: usize,
}

impl UseCase {
    pub(super) fn preset(self) -> Preset {
        let (context, parallel, batch) = match self {
            UseCase::HighPerformance => (4096, 8, 1024),
            UseCase::Balanced => (4096, 4, DEFAULT_BATCH),
            UseCase::MemoryEfficient => (2048, 1, 128),
        };
        Preset {
            context,
            parallel,
            batch,
        }
    }
}
