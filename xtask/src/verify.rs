//! `verify`: builds an image again from this checkout and compares the digests.

use anyhow::{Context, Result, bail};
use sterna_codegen::target::TargetSpec;

use crate::build_image::Builder;
use crate::oci::publish::RegistryArgs;
use crate::oci::{Image, key};
use crate::progress::Progress;
use crate::{inspect, print, workspace};

/// Build an image again and compare the digests
///
/// IMAGE is what `inspect` takes. The image names its own target, so one of a machine that is not here, or of `native`
/// elsewhere, is verified as well. The digests agree when source and compilers are the same; where they do not, the
/// first difference is named.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask verify avx2
  git checkout v0.1.0 && cargo xtask verify registry.example.org/sterna:0.1.0-avx2")]
pub struct Args {
    /// Name, folder, archive or registry reference
    #[arg(value_name = "IMAGE")]
    image: String,
    #[command(flatten)]
    registry: RegistryArgs,
}

/// Fails on the first image that this checkout does not reproduce.
pub fn run(args: &Args) -> Result<()> {
    let images = inspect::find(&args.image, &args.registry)?;
    let progress = Progress::new();
    let mut builder = Builder::new(&progress)?;
    builder.from_scratch = true;
    for theirs in &images {
        let spec = spec(theirs)?;
        let created = theirs
            .parse_config()?
            .created()
            .clone()
            .context("the image has no date")?;
        let ours = builder.image(&spec, &created)?.image;
        if ours.digest() != theirs.digest() {
            progress.finish();
            let (name, why) = (&spec.name, difference(theirs, &ours)?);
            bail!(
                "{name} is {} and this checkout builds {}: {why}",
                theirs.digest(),
                ours.digest()
            );
        }
        progress.finish();
        print(&format!("{}: reproduced, {}\n", spec.name, ours.digest()))?;
    }
    Ok(())
}

/// The target that the image was built for, as the image itself states it.
fn spec(image: &Image) -> Result<TargetSpec> {
    let annotations = image.annotations()?;
    let text = annotations
        .get(key::TARGET_SPEC)
        .context("the image names no target: it was not built by Sterna")?;
    // Through a file, because that is where the checks of a target are.
    let path = workspace::target_dir().join("xtask/verify.toml");
    std::fs::create_dir_all(path.parent().context("a path with a folder")?)?;
    std::fs::write(&path, text)?;
    Ok(TargetSpec::read(&path)?)
}

/// The first difference, in the order in which one explains the next.
fn difference(theirs: &Image, ours: &Image) -> Result<String> {
    let (theirs_says, ours_says) = (theirs.annotations()?, ours.annotations()?);
    for (name, what) in [
        (key::RUSTC, "the compilers differ"),
        (key::PLAN_DIGEST, "the kernel plans differ"),
    ] {
        let (a, b) = (theirs_says.get(name), ours_says.get(name));
        if a != b {
            let show = |value: Option<&String>| value.map_or("nothing", String::as_str).to_owned();
            return Ok(format!("{what}, {} there and {} here", show(a), show(b)));
        }
    }
    let (theirs_files, ours_files) = (theirs.entries()?, ours.entries()?);
    for entry in &theirs_files {
        match ours_files.iter().find(|other| other.path == entry.path) {
            None => return Ok(format!("/{} is only in the image", entry.path)),
            Some(other) if other != entry => {
                let at = entry.bytes.iter().zip(&other.bytes).position(|(a, b)| a != b);
                let at = at.map_or_else(|| "in mode or length".to_owned(), |at| format!("at byte {at}"));
                return Ok(format!("/{} differs {at}", entry.path));
            }
            Some(_) => {}
        }
    }
    Ok(if theirs_files.len() == ours_files.len() {
        "the files are the same, the configuration or the annotations differ".to_owned()
    } else {
        "this checkout has more files".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use sterna_codegen::target::Arch;

    use super::*;
    use crate::oci::{config, layer, manifest};
    use crate::recipe::Recipe;

    fn image(binary: &[u8], rustc: &str, env: &str) -> Image {
        let mut recipe = Recipe::read(&workspace::root().join("images/image.toml")).unwrap();
        recipe.env.push(env.to_owned());
        let annotations = BTreeMap::from([(key::RUSTC.to_owned(), rustc.to_owned())]);
        let layer = layer::build(vec![layer::Entry::program("sterna", binary.to_vec())]).unwrap();
        let config = config::build(
            &recipe,
            Arch::X86_64,
            "1970-01-01T00:00:00Z",
            &layer.diff_id,
            &annotations,
        );
        manifest::build(config.unwrap(), layer.blob, &annotations).unwrap()
    }

    #[test]
    fn the_first_difference_is_the_one_that_explains_the_others() {
        let theirs = image(b"abc", "rustc 1", "A=1");
        let why = |ours: Image| difference(&theirs, &ours).unwrap();
        assert_eq!(
            why(image(b"abd", "rustc 2", "A=1")),
            "the compilers differ, rustc 1 there and rustc 2 here"
        );
        assert_eq!(why(image(b"abd", "rustc 1", "A=2")), "/sterna differs at byte 2");
        assert_eq!(
            why(image(b"abcd", "rustc 1", "A=1")),
            "/sterna differs in mode or length"
        );
        assert!(why(image(b"abc", "rustc 1", "A=2")).contains("configuration"));
        assert_eq!(image(b"abc", "rustc 1", "A=1"), theirs);
    }

    #[test]
    fn an_image_of_somebody_else_is_refused() {
        let message = spec(&image(b"abc", "rustc 1", "A=1")).unwrap_err().to_string();
        assert!(message.contains("not built by Sterna"), "{message}");
    }
}
