//! The image manifest: configuration, layer, and what the image is for.

use std::collections::BTreeMap;

use anyhow::Result;
use oci_spec::image::{ImageManifestBuilder, MediaType, SCHEMA_VERSION};

use super::{Blob, Image};

/// Joins the parts to an image.
pub fn build(config: Blob, layer: Blob, annotations: &BTreeMap<String, String>) -> Result<Image> {
    let manifest = ImageManifestBuilder::default()
        .schema_version(SCHEMA_VERSION)
        .media_type(MediaType::ImageManifest)
        .config(config.descriptor())
        .layers(vec![layer.descriptor()])
        .annotations(
            annotations
                .clone()
                .into_iter()
                .collect::<std::collections::HashMap<_, _>>(),
        )
        .build()?;
    Ok(Image {
        manifest: Blob::json(MediaType::ImageManifest, &manifest)?,
        config,
        layers: vec![layer],
    })
}
