//! OCI images, from files to bytes with a digest, and from there to layouts, archives and registries.
//!
//! The digest is an image's identity, so nothing here depends on the clock, on the order of a folder or of a
//! hash map, or on who builds: the same binary and target give the same bytes.

pub mod archive;
pub mod config;
pub mod credentials;
#[cfg(test)]
pub mod fixture;
pub mod index;
pub mod layer;
pub mod layout;
pub mod manifest;
pub mod publish;

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use oci_spec::image::{Descriptor, ImageConfiguration, ImageManifest, MediaType, Sha256Digest};
use serde::Serialize;
use sha2::{Digest, Sha256};

/// Annotations and labels of this project; the general ones are in `oci_spec`.
pub mod key {
    /// Name of the target.
    pub const TARGET: &str = "dev.sterna.target";
    /// The whole target description as TOML, so that the image can be built again from itself.
    pub const TARGET_SPEC: &str = "dev.sterna.target.spec";
    /// CPU features that the image needs, by comma: what its guard asks for.
    pub const FEATURES: &str = "dev.sterna.cpu.features";
    /// SHA-256 of `plan.json`.
    pub const PLAN_DIGEST: &str = "dev.sterna.plan.digest";
    /// `rustc --version` of the compiler.
    pub const RUSTC: &str = "dev.sterna.rustc";
}

/// Bytes under their digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// What the bytes are.
    pub media_type: MediaType,
    /// The bytes.
    pub bytes: Vec<u8>,
    /// `sha256:` and 64 hexadecimal digits.
    pub digest: String,
}

impl Blob {
    /// Takes the digest of `bytes`.
    pub fn new(media_type: MediaType, bytes: Vec<u8>) -> Blob {
        let digest = digest(&bytes);
        Blob {
            media_type,
            bytes,
            digest,
        }
    }

    /// A blob of sorted JSON.
    pub fn json(media_type: MediaType, value: &impl Serialize) -> Result<Blob> {
        Ok(Blob::new(media_type, canonical_json(value)?))
    }

    /// How an image refers to the blob.
    pub fn descriptor(&self) -> Descriptor {
        Descriptor::new(self.media_type.clone(), self.bytes.len() as u64, sha256(&self.digest))
    }

    /// The digest without its algorithm: the blob's file name in a layout.
    pub fn hex(&self) -> &str {
        self.digest.trim_start_matches("sha256:")
    }
}

/// One image for one platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The document whose digest is the image's.
    pub manifest: Blob,
    /// How to run it.
    pub config: Blob,
    /// Its file system, lowest first.
    pub layers: Vec<Blob>,
}

impl Image {
    /// The image's identity.
    pub fn digest(&self) -> &str {
        &self.manifest.digest
    }

    /// What a pull transfers, in bytes.
    pub fn compressed_bytes(&self) -> u64 {
        self.blobs().map(|blob| blob.bytes.len() as u64).sum()
    }

    /// Everything that a layout or registry must hold, the manifest last.
    pub fn blobs(&self) -> impl Iterator<Item = &Blob> {
        self.layers.iter().chain([&self.config, &self.manifest])
    }

    /// The manifest, parsed.
    pub fn parse_manifest(&self) -> Result<ImageManifest> {
        parse_manifest(&self.manifest.bytes)
    }

    /// The configuration, parsed.
    pub fn parse_config(&self) -> Result<ImageConfiguration> {
        serde_json::from_slice(&self.config.bytes).context("the image configuration is not valid JSON of its kind")
    }

    /// The manifest's annotations.
    pub fn annotations(&self) -> Result<BTreeMap<String, String>> {
        Ok(self
            .parse_manifest()?
            .annotations()
            .clone()
            .unwrap_or_default()
            .into_iter()
            .collect())
    }

    /// Files, folders and their modes, of all layers.
    pub fn entries(&self) -> Result<Vec<layer::Entry>> {
        let mut entries = Vec::new();
        for blob in &self.layers {
            entries.extend(layer::read(&blob.bytes)?);
        }
        Ok(entries)
    }
}

/// `sha256:` and 64 hexadecimal digits.
pub fn digest(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::from("sha256:");
    for byte in Sha256::digest(bytes) {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn parse_manifest(bytes: &[u8]) -> Result<ImageManifest> {
    serde_json::from_slice(bytes).context("the image manifest is not valid JSON of its kind")
}

/// JSON with sorted keys: `oci_spec` keeps annotations in hash maps, whose order changes with every run.
fn canonical_json(value: &impl Serialize) -> Result<Vec<u8>> {
    let mut value = serde_json::to_value(value)?;
    value.sort_all_objects();
    Ok(serde_json::to_vec(&value)?)
}

/// The digest as `oci_spec`'s type. Only digests that [`digest`] made come here.
fn sha256(digest: &str) -> Sha256Digest {
    digest
        .trim_start_matches("sha256:")
        .parse()
        .expect("64 hexadecimal digits")
}
