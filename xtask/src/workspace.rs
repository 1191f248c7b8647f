//! Where things are.

use std::path::{Path, PathBuf};

/// The checkout that this command was started from.
pub fn root() -> PathBuf {
    // Cargo sets it for `cargo run`; the compiled-in path serves a binary that is started by hand.
    let manifest_dir = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let xtask = manifest_dir.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")));
    xtask.parent().map_or_else(|| PathBuf::from("."), Path::to_owned)
}

/// One TOML file for each machine, or class of machines, to build for.
pub fn targets_dir() -> PathBuf {
    root().join("images/targets")
}

/// Where Cargo, and so everything here, puts what it builds.
pub fn target_dir() -> PathBuf {
    let configured = ["CARGO_TARGET_DIR", "CARGO_BUILD_TARGET_DIR"]
        .into_iter()
        .find_map(std::env::var_os);
    root().join(configured.map_or_else(|| PathBuf::from("target"), PathBuf::from))
}

/// Where the images go unless `--output` says otherwise: one folder a tag.
pub fn images_dir() -> PathBuf {
    target_dir().join("images")
}
