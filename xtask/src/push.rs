//! `push`: built images to a registry, each under its own tag, several also under one index.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use oci_client::Reference;

pub use crate::oci::publish::RegistryArgs;
use crate::oci::publish::Repository;
use crate::oci::{Image, index, key, layout};
use crate::progress::Progress;
use crate::{print, workspace};

/// Push built images to a registry
///
/// One image goes to REF, or to REF:TARGET when REF has no tag. Several go to REF:TARGET each (REF:TAG-TARGET when REF
/// has a tag), and an index of all of them to REF:latest (REF:TAG); of each architecture, the index puts the image that
/// runs everywhere first. Digests are those of the local layout; blobs that the registry has are not sent again.
///
/// Credentials come from Docker's configuration (~/.docker/config.json, $DOCKER_CONFIG, $REGISTRY_AUTH_FILE), its
/// credential helpers included.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask push registry.example.org/sterna                 everything in target/images
  cargo xtask push localhost:5000/sterna:1.0 --from target/images/avx2 --from target/images/universal")]
pub struct Args {
    /// Repository, with or without a tag: `registry.example.org/sterna:1.0`
    #[arg(value_name = "REF")]
    reference: String,
    /// Folder of a built image; may be given several times (default: every folder of target/images)
    #[arg(long, value_name = "DIR")]
    from: Vec<PathBuf>,
    #[command(flatten)]
    registry: RegistryArgs,
}

/// Pushes and prints what is now where.
pub fn run(args: &Args) -> Result<()> {
    let folders = if args.from.is_empty() {
        built()?
    } else {
        args.from.clone()
    };
    let progress = Progress::new();
    let pushed = push(&args.reference, &folders, &args.registry, &progress)?;
    progress.finish();
    let lines: Vec<&str> = pushed.images.iter().chain(&pushed.index).map(String::as_str).collect();
    print(&(lines.join("\n") + "\n"))
}

/// What is now in the registry, each as `REGISTRY/NAME:TAG@DIGEST`.
pub struct Pushed {
    /// In the order of the folders.
    pub images: Vec<String>,
    /// The index of them all, if there are several.
    pub index: Option<String>,
}

/// Every image folder of the default output.
fn built() -> Result<Vec<PathBuf>> {
    let dir = workspace::images_dir();
    let mut folders = Vec::new();
    for entry in std::fs::read_dir(&dir).into_iter().flatten() {
        let path = entry?.path();
        if path.join("oci/index.json").is_file()
            && !path.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.'))
        {
            folders.push(path);
        }
    }
    if folders.is_empty() {
        bail!(
            "{} holds no image: `cargo xtask build-image --target native` builds one",
            dir.display()
        );
    }
    folders.sort();
    Ok(folders)
}

/// Pushes the images in `folders`.
pub fn push(reference: &str, folders: &[PathBuf], args: &RegistryArgs, progress: &Progress) -> Result<Pushed> {
    let mut images = Vec::new();
    for folder in folders {
        let image = layout::open(&folder.join("oci")).with_context(|| format!("no image in {}", folder.display()))?;
        let annotations = image.annotations()?;
        let target = annotations
            .get(key::TARGET)
            .with_context(|| format!("{} names no target", folder.display()))?;
        images.push((target.clone(), image));
    }
    let targets: Vec<&str> = images.iter().map(|(target, _)| target.as_str()).collect();
    let plan = Plan::new(reference, &targets)?;
    let repository = Repository::connect(&plan.repository, args)?;
    let (registry, name) = (plan.repository.registry(), plan.repository.repository());
    let mut pushed = Pushed {
        images: Vec::new(),
        index: None,
    };
    for ((_, image), tag) in images.iter().zip(&plan.tags) {
        progress.stage(0, &format!("pushing {registry}/{name}:{tag}"));
        let sent = repository.push(image, tag)?;
        progress.line(&format!("sent {sent} of {} bytes", image.compressed_bytes()));
        pushed
            .images
            .push(format!("{registry}/{name}:{tag}@{}", image.digest()));
    }
    if let Some(tag) = &plan.index {
        let all: Vec<&Image> = images.iter().map(|(_, image)| image).collect();
        let index = index::build(&all)?;
        repository.push_index(&index, tag)?;
        pushed.index = Some(format!("{registry}/{name}:{tag}@{}", index.digest));
    }
    Ok(pushed)
}

/// Which tag every image gets.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    repository: Reference,
    /// In the order of the images.
    tags: Vec<String>,
    /// Tag of the index of them all.
    index: Option<String>,
}

impl Plan {
    fn new(reference: &str, targets: &[&str]) -> Result<Plan> {
        let repository: Reference = reference.parse().with_context(|| {
            format!("`{reference}` is no image reference: expected REGISTRY/NAME or REGISTRY/NAME:TAG")
        })?;
        if repository.digest().is_some() {
            bail!("`{reference}` has a digest: a push names a tag, and the image decides its digest");
        }
        let mut sorted = targets.to_vec();
        sorted.sort_unstable();
        if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            bail!(
                "two images are for the target {}: push them one by one under tags of their own",
                pair[0]
            );
        }
        // The library fills in `latest`; whether the user wrote a tag is in the text.
        let tag = reference
            .rsplit('/')
            .next()
            .and_then(|last| last.split_once(':'))
            .map(|(_, tag)| tag.to_owned());
        let (tags, index) = match (targets, tag) {
            ([_], Some(tag)) => (vec![tag], None),
            ([target], None) => (vec![(*target).to_owned()], None),
            (_, Some(tag)) => (
                targets.iter().map(|target| format!("{tag}-{target}")).collect(),
                Some(tag),
            ),
            (_, None) => (
                targets.iter().map(|target| (*target).to_owned()).collect(),
                Some("latest".to_owned()),
            ),
        };
        Ok(Plan {
            repository,
            tags,
            index,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(reference: &str, targets: &[&str]) -> (Vec<String>, Option<String>) {
        let plan = Plan::new(reference, targets).unwrap();
        assert_eq!(
            (plan.repository.registry(), plan.repository.repository()),
            ("localhost:5000", "sterna")
        );
        (plan.tags, plan.index)
    }

    #[test]
    fn one_image_goes_where_it_is_sent() {
        assert_eq!(
            plan("localhost:5000/sterna", &["avx2"]),
            (vec!["avx2".to_owned()], None)
        );
        assert_eq!(
            plan("localhost:5000/sterna:mine", &["avx2"]),
            (vec!["mine".to_owned()], None)
        );
    }

    #[test]
    fn several_images_get_tags_and_an_index() {
        let tags = |names: [&str; 2]| names.map(str::to_owned).to_vec();
        let both = ["universal", "avx2"];
        assert_eq!(
            plan("localhost:5000/sterna", &both),
            (tags(both), Some("latest".to_owned()))
        );
        let versioned = (tags(["1.0-universal", "1.0-avx2"]), Some("1.0".to_owned()));
        assert_eq!(plan("localhost:5000/sterna:1.0", &both), versioned);
    }

    #[test]
    fn what_cannot_be_pushed_is_refused_before_connecting() {
        let message = |reference: &str, targets: &[&str]| Plan::new(reference, targets).unwrap_err().to_string();
        assert!(message("a.io/x@sha256:".to_owned().as_str(), &["avx2"]).contains("is no image reference"));
        let digest = format!("a.io/x@sha256:{}", "0".repeat(64));
        assert!(message(&digest, &["avx2"]).contains("has a digest"));
        assert!(message("a.io/UPPER", &["avx2"]).contains("is no image reference"));
        assert!(message("a.io/x", &["avx2", "avx2"]).contains("two images are for the target avx2"));
    }
}
