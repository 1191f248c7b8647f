//! The image index: several images under one name.
//!
//! Clients disagree about amd64 variants. podman, Docker 20.10 and containerd take the plain entry and fail
//! without one; newer ones climb to the highest variant, and would leave a universal image, which knows better
//! at run time, for a narrower one. So every entry here is plain, and the first of an architecture is the one
//! that runs everywhere: it is what all clients take. The others are in the index to be listed and kept, and
//! are pulled by their own tags.

use std::collections::HashMap;

use anyhow::{Context, Result};
use oci_spec::image::{Descriptor, ImageIndexBuilder, MediaType, PlatformBuilder, SCHEMA_VERSION};

use sterna_codegen::target::TargetSpec;

use super::{Blob, Image, key};

/// Builds the index of `images`, in an order of its own.
pub fn build(images: &[&Image]) -> Result<Blob> {
    let mut entries = images
        .iter()
        .map(|image| Entry::of(image))
        .collect::<Result<Vec<_>>>()?;
    entries.sort_by(|a, b| a.rank().cmp(&b.rank()));
    let index = ImageIndexBuilder::default()
        .schema_version(SCHEMA_VERSION)
        .media_type(MediaType::ImageIndex)
        .manifests(entries.into_iter().map(|entry| entry.descriptor).collect::<Vec<_>>())
        .build()?;
    Blob::json(MediaType::ImageIndex, &index)
}

/// How an index refers to `image`: with its platform, its target and the CPU features that it needs.
pub fn descriptor(image: &Image) -> Result<Descriptor> {
    let config = image.parse_config()?;
    let platform = PlatformBuilder::default()
        .architecture(config.architecture().clone())
        .os(config.os().clone())
        .build()?;
    let mut annotations = image.annotations()?;
    annotations.retain(|name, _| name == key::TARGET || name == key::FEATURES);
    let mut descriptor = image.manifest.descriptor();
    descriptor.set_platform(Some(platform));
    descriptor.set_annotations(Some(annotations.into_iter().collect::<HashMap<_, _>>()));
    Ok(descriptor)
}

struct Entry {
    descriptor: Descriptor,
    architecture: String,
    universal: bool,
    features: usize,
    target: String,
}

impl Entry {
    fn of(image: &Image) -> Result<Entry> {
        let annotations = image.annotations()?;
        let spec = annotations
            .get(key::TARGET_SPEC)
            .context("the image does not say what it was built for")?;
        let spec: TargetSpec = toml::from_str(spec).context("the image's target is no target")?;
        Ok(Entry {
            descriptor: descriptor(image)?,
            architecture: image.parse_config()?.architecture().to_string(),
            universal: spec.universal,
            features: spec.features.len(),
            target: spec.name,
        })
    }

    /// By architecture, then what runs on more machines, then what makes more of them.
    fn rank(&self) -> (&str, usize, bool, &str) {
        (&self.architecture, self.features, !self.universal, &self.target)
    }
}

#[cfg(test)]
mod tests {
    use oci_spec::image::ImageIndex;

    use super::*;
    use crate::oci::fixture::image;

    #[test]
    fn the_most_portable_of_an_architecture_comes_first_and_nothing_has_a_variant() {
        let images = [
            "avx512vnni",
            "dotprod",
            "baseline",
            "avx2",
            "universal-arm64",
            "neon",
            "universal",
        ]
        .map(image);
        let forward = build(&images.iter().collect::<Vec<_>>()).unwrap();
        let backward = build(&images.iter().rev().collect::<Vec<_>>()).unwrap();
        assert_eq!(forward, backward, "the order asked for does not matter");
        let index: ImageIndex = serde_json::from_slice(&forward.bytes).unwrap();
        let targets: Vec<&str> = index
            .manifests()
            .iter()
            .map(|m| m.annotations().as_ref().unwrap()[key::TARGET].as_str())
            .collect();
        assert_eq!(
            targets,
            [
                "universal",
                "baseline",
                "avx2",
                "avx512vnni",
                "universal-arm64",
                "neon",
                "dotprod"
            ]
        );
        for entry in index.manifests() {
            let platform = entry.platform().as_ref().unwrap();
            assert_eq!(platform.variant(), &None);
            assert_eq!(platform.os().to_string(), "linux");
        }
    }
}
