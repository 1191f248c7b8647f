//! `inspect`: what an image is for and what is in it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::build_image::megabytes;
use crate::oci::publish::{Pulled, RegistryArgs, Repository};
use crate::oci::{Image, archive, key, layout};
use crate::{print, workspace};

/// List what is in an image: target, CPU features, sizes, files
///
/// IMAGE is the name of a built image (`avx2`), its folder, an archive (`image.oci.tar`), or a reference in a registry
/// (`registry.example.org/sterna:1.0`), of an index every image. Every digest on the way is checked.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name, folder, archive or registry reference
    #[arg(value_name = "IMAGE")]
    image: String,
    #[command(flatten)]
    registry: RegistryArgs,
    /// Print one JSON object an image
    #[arg(long)]
    json: bool,
}

/// Prints every image that the argument leads to.
pub fn run(args: &Args) -> Result<()> {
    for image in find(&args.image, &args.registry)? {
        let listing = Listing::of(&image)?;
        print(&if args.json {
            serde_json::to_string(&listing)? + "\n"
        } else {
            listing.text()
        })?;
    }
    Ok(())
}

/// The images that `name` leads to: one, or all of an index.
pub fn find(name: &str, args: &RegistryArgs) -> Result<Vec<Image>> {
    let path = Path::new(name);
    // A built image goes by its tag or by its local name, `sterna:avx2`.
    let tag = name.rsplit(':').next().unwrap_or(name);
    let built = workspace::images_dir().join(tag).join("oci");
    if path.is_file() {
        return Ok(vec![archive::open(path)?]);
    }
    if path.is_dir() {
        let inner = path.join("oci");
        return Ok(vec![layout::open(if inner.is_dir() { &inner } else { path })?]);
    }
    if !name.contains('/') {
        if !built.is_dir() {
            bail!(
                "no image `{tag}` in {}: build it, or give a path or REGISTRY/NAME:TAG",
                workspace::images_dir().display()
            );
        }
        return Ok(vec![layout::open(&built)?]);
    }
    let reference = name
        .parse()
        .with_context(|| format!("`{name}` is neither a file nor an image reference"))?;
    Ok(match Repository::connect(&reference, args)?.pull()? {
        Pulled::Image(image) => vec![image],
        Pulled::Index(_, images) => images,
    })
}

/// What is told of an image.
#[derive(Debug, Serialize)]
struct Listing {
    digest: String,
    platform: String,
    target: String,
    features: Vec<String>,
    created: String,
    compressed_bytes: u64,
    unpacked_bytes: u64,
    entrypoint: Vec<String>,
    user: String,
    env: Vec<String>,
    files: Vec<File>,
    annotations: BTreeMap<String, String>,
}

#[derive(Debug, Serialize)]
struct File {
    path: String,
    mode: String,
    bytes: usize,
}

impl Listing {
    fn of(image: &Image) -> Result<Listing> {
        let annotations = image.annotations()?;
        let config = image.parse_config()?;
        let run = config.config().clone().unwrap_or_default();
        let annotation = |name: &str| annotations.get(name).cloned().unwrap_or_else(|| "unknown".to_owned());
        let files: Vec<File> = image
            .entries()?
            .into_iter()
            .map(|entry| File {
                path: format!("/{}", entry.path),
                mode: format!("{:04o}", entry.mode),
                bytes: entry.bytes.len(),
            })
            .collect();
        Ok(Listing {
            digest: image.digest().to_owned(),
            platform: format!("{}/{}", config.os(), config.architecture()),
            target: annotation(key::TARGET),
            features: annotation(key::FEATURES).split(',').map(str::to_owned).collect(),
            created: config.created().clone().unwrap_or_else(|| "unknown".to_owned()),
            compressed_bytes: image.compressed_bytes(),
            unpacked_bytes: files.iter().map(|file| file.bytes as u64).sum(),
            entrypoint: run.entrypoint().clone().unwrap_or_default(),
            user: run.user().clone().unwrap_or_else(|| "root".to_owned()),
            env: run.env().clone().unwrap_or_default(),
            files,
            annotations,
        })
    }

    fn text(&self) -> String {
        let size = format!(
            "{} compressed, {} unpacked",
            megabytes(self.compressed_bytes),
            megabytes(self.unpacked_bytes)
        );
        let rows = [
            ("digest", self.digest.clone()),
            ("target", self.target.clone()),
            ("platform", self.platform.clone()),
            ("needs", self.features.join(" ")),
            ("size", size),
            ("created", self.created.clone()),
            ("runs", format!("{} as user {}", self.entrypoint.join(" "), self.user)),
            ("environment", self.env.join(" ")),
        ];
        let mut out = String::new();
        for (name, value) in rows {
            let _ = writeln!(out, "{name:<12} {value}");
        }
        let _ = writeln!(out, "\nMODE {:>12}   FILE", "BYTES");
        for file in &self.files {
            let _ = writeln!(out, "{} {:>12}   {}", file.mode, file.bytes, file.path);
        }
        let _ = writeln!(out, "\n{:<40} VALUE", "ANNOTATION");
        for (name, value) in &self.annotations {
            // The target description is a file of its own; its first line says which.
            let _ = writeln!(out, "{name:<40} {}", value.lines().next().unwrap_or_default());
        }
        out.push('\n');
        out
    }
}
