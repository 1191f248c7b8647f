//! The image configuration: how a container engine runs the image.

use std::collections::BTreeMap;

use anyhow::Result;
use oci_spec::image::{
    Arch as OciArch, ConfigBuilder, HistoryBuilder, ImageConfigurationBuilder, MediaType, Os, RootFsBuilder,
};
use sterna_codegen::target::Arch;

use super::Blob;
use crate::recipe::Recipe;

/// Builds the configuration of an image of one layer. `created` is RFC 3339.
///
/// No `variant` is set: podman and Docker 20.10 match only the plain platform.
pub fn build(
    recipe: &Recipe,
    arch: Arch,
    created: &str,
    diff_id: &str,
    labels: &BTreeMap<String, String>,
) -> Result<Blob> {
    let run = ConfigBuilder::default()
        .user(&recipe.user)
        .exposed_ports(recipe.exposed_ports.clone())
        .env(recipe.env.clone())
        .entrypoint(recipe.entrypoint.clone())
        .volumes(vec![recipe.models.clone()])
        .working_dir("/")
        .labels(labels.clone().into_iter().collect::<std::collections::HashMap<_, _>>())
        .stop_signal(&recipe.stop_signal)
        .build()?;
    let history = HistoryBuilder::default()
        .created(created)
        .created_by("cargo xtask build-image")
        .build()?;
    let config = ImageConfigurationBuilder::default()
        .created(created)
        .architecture(OciArch::from(arch.oci_name()))
        .os(Os::Linux)
        .config(run)
        .rootfs(
            RootFsBuilder::default()
                .typ("layers")
                .diff_ids(vec![diff_id.to_owned()])
                .build()?,
        )
        .history(vec![history])
        .build()?;
    Blob::json(MediaType::ImageConfig, &config)
}
