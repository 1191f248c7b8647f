//! A small image for tests.

use std::collections::BTreeMap;

use sterna_codegen::target::TargetSpec;

use super::{Image, config, key, layer, manifest};
use crate::recipe::Recipe;
use crate::workspace;

/// An image for a committed target, whose binary is the target's name.
pub fn image(target: &str) -> Image {
    let recipe = Recipe::read(&workspace::root().join("images/image.toml")).unwrap();
    let spec = TargetSpec::resolve(&workspace::targets_dir(), target).unwrap();
    let annotations = BTreeMap::from([
        (key::TARGET.to_owned(), target.to_owned()),
        (key::TARGET_SPEC.to_owned(), spec.to_toml()),
    ]);
    let layer = layer::build(vec![layer::Entry::program("sterna", target.as_bytes().to_vec())]).unwrap();
    let config = config::build(&recipe, spec.arch, "1970-01-01T00:00:00Z", &layer.diff_id, &annotations).unwrap();
    manifest::build(config, layer.blob, &annotations).unwrap()
}
