//! `images/image.toml`: what every image has in common.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

/// The parts of an image that do not depend on its target.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Name of the image in local stores: `sterna` in `sterna:avx2`.
    pub name: String,
    /// For people.
    pub title: String,
    /// SPDX expression.
    pub licenses: String,
    /// Program and leading arguments.
    pub entrypoint: Vec<String>,
    /// `uid:gid`.
    pub user: String,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// `port/protocol`.
    pub exposed_ports: Vec<String>,
    /// Where the model is mounted.
    pub models: String,
    /// What asks the container to stop.
    pub stop_signal: String,
    /// How large an image may be.
    pub budget: Budget,
}

/// Limits for what a pull transfers.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// A larger image fails the build.
    pub compressed_bytes: u64,
    /// A larger image is reported.
    pub aim_bytes: u64,
}

impl Recipe {
    /// Reads the file at `path`.
    pub fn read(path: &Path) -> Result<Recipe> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("{} is not a valid image recipe", path.display()))
    }
}
