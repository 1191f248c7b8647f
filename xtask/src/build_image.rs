//! `build-image`: target -> plan -> kernels -> static binary -> image, on disk and, if asked, elsewhere.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry::{Occupied, Vacant};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use oci_spec::image::{ANNOTATION_DESCRIPTION, ANNOTATION_LICENSES, ANNOTATION_TITLE, ANNOTATION_VERSION};
use serde::{Deserialize, Serialize};
use sterna_codegen::target::{Arch, TargetSpec};

use crate::oci::layer::Entry;
use crate::oci::{self, Image, archive, config, key, layer, layout, manifest};
use crate::progress::Progress;
use crate::recipe::Recipe;
use crate::toolchain::Toolchain;
use crate::{compile, print, push, targets, workspace};

/// Build images made for one kind of machine each
///
/// Every image goes to target/images/TARGET: `oci/` (an OCI layout), `image.oci.tar`, `image.docker.tar`,
/// `digest.txt`, `plan.json` (every knob of the kernels with its reason) and `rootfs/`. The same source, target and
/// compilers give the same digest; RUSTFLAGS, CFLAGS and CARGO_PROFILE_* of the environment are ignored.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask build-image --target native --load podman
  cargo xtask build-image --target universal,avx2,avx512vnni --push registry.example.org/sterna:1.0

Targets are the files of images/targets/ and their aliases, `native` (this machine), or a path to a target file.
An image for another architecture needs a compiler for it; the command says which if there is none.")]
pub struct Args {
    /// What to build for: names, aliases, paths, `native`; several by comma
    #[arg(long, value_name = "TARGET", value_delimiter = ',', required = true)]
    target: Vec<String>,
    /// Tag to use instead of the target's name; for one target
    #[arg(long, value_name = "NAME")]
    tag: Option<String>,
    /// Folder for the images' folders instead of target/images
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Load the images into this container engine
    #[arg(long, value_name = "ENGINE")]
    load: Option<Engine>,
    /// Push the images to this repository, as `cargo xtask push` does
    #[arg(long, value_name = "REF")]
    push: Option<String>,
    #[command(flatten)]
    registry: push::RegistryArgs,
    /// Print one JSON object a target instead of text
    #[arg(long)]
    json: bool,
}

/// A container engine that takes images from a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Engine {
    /// podman
    Podman,
    /// Docker
    Docker,
}

/// An image on disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Built {
    /// Name of the target.
    pub target: String,
    /// Full local name: `sterna:avx2`.
    pub name: String,
    /// Digest of the manifest.
    pub digest: String,
    /// What a pull transfers.
    pub compressed_bytes: u64,
    /// What the image's files take.
    pub unpacked_bytes: u64,
    /// The image's folder.
    pub folder: PathBuf,
    /// Where --push has put it: `REGISTRY/NAME:TAG@DIGEST`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pushed: Option<String>,
    /// The index that --push has put it into, in the same form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<String>,
}

/// Builds, stores, loads, pushes, reports.
pub fn run(args: &Args) -> Result<()> {
    let specs = targets::resolve(&workspace::targets_dir(), &args.target)?;
    if args.tag.is_some() && specs.len() > 1 {
        bail!(
            "--tag names one image and --target names {}: leave --tag out",
            specs.len()
        );
    }
    if let Some(tag) = &args.tag {
        check_tag(tag)?;
    }
    let output = args.output.clone().unwrap_or_else(workspace::images_dir);
    let progress = Progress::new();
    let mut builder = Builder::new(&progress)?;
    let created = created()?;
    let mut all = Vec::new();
    for spec in &specs {
        let image = builder.image(spec, &created)?;
        all.push(store(
            &image,
            &output,
            args.tag.as_deref().unwrap_or(&spec.name),
            &builder.recipe,
        )?);
    }
    if let Some(engine) = args.load {
        for built in &all {
            progress.stage(0, &format!("{}: loading into {}", built.target, engine.program()));
            engine.load(&built.folder.join("image.docker.tar"))?;
        }
    }
    if let Some(reference) = &args.push {
        let folders: Vec<PathBuf> = all.iter().map(|built| built.folder.clone()).collect();
        let pushed = push::push(reference, &folders, &args.registry, &progress)?;
        for (built, image) in all.iter_mut().zip(pushed.images) {
            built.pushed = Some(image);
            built.index.clone_from(&pushed.index);
        }
    }
    progress.finish();
    for built in &all {
        let loaded = args.load.unwrap_or(Engine::Podman);
        print(&if args.json {
            serde_json::to_string(built)? + "\n"
        } else {
            report(built, &builder.recipe, loaded)
        })?;
    }
    Ok(())
}

/// A tag becomes part of an image's name, and a folder.
fn check_tag(tag: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if tag.is_empty() || tag.len() > 128 || tag.starts_with(['.', '-']) || !tag.chars().all(allowed) {
        bail!("`{tag}` cannot stand as an image tag: use letters, digits, `.`, `_`, `-`");
    }
    Ok(())
}

/// Builds images one after the other; the compilers of an architecture are tried out once.
pub struct Builder<'a> {
    recipe: Recipe,
    toolchains: BTreeMap<Arch, Toolchain>,
    progress: &'a Progress,
    /// Compile the runtime even where Cargo would take what is there.
    pub from_scratch: bool,
}

/// An image with what is not part of it.
pub struct Output {
    /// The image.
    pub image: Image,
    /// `plan.json`.
    pub plan: Vec<u8>,
    /// The files of its layer.
    pub entries: Vec<Entry>,
    /// Name of the target.
    pub target: String,
}

impl<'a> Builder<'a> {
    /// Reads the recipe.
    pub fn new(progress: &'a Progress) -> Result<Builder<'a>> {
        let ignored: Vec<String> = compile::ignored_variables().collect();
        if !ignored.is_empty() {
            progress.line(&format!(
                "ignoring {}: an image is a function of its source and target",
                ignored.join(", ")
            ));
        }
        let recipe = Recipe::read(&workspace::root().join("images/image.toml"))?;
        Ok(Builder {
            recipe,
            toolchains: BTreeMap::new(),
            progress,
            from_scratch: false,
        })
    }

    /// Builds the image of one target, dated `created` (RFC 3339); nothing is stored outside Cargo's own folder.
    pub fn image(&mut self, spec: &TargetSpec, created: &str) -> Result<Output> {
        let toolchain = match self.toolchains.entry(spec.arch) {
            Occupied(known) => known.into_mut(),
            Vacant(new) => new.insert(Toolchain::find(spec.arch)?),
        };
        if self.from_scratch {
            compile::forget(toolchain)?;
        }
        let compiled = compile::compile(spec, toolchain, self.progress)?;
        self.progress.stage(0, &format!("{}: building the image", spec.name));
        let annotations = annotations(spec, &self.recipe, &compiled.plan, &toolchain.version)?;
        let entries = vec![
            Entry::folder(&self.recipe.models),
            Entry::program("/sterna", compiled.binary),
        ];
        let layer = layer::build(entries.clone())?;
        let config = config::build(&self.recipe, spec.arch, created, &layer.diff_id, &annotations)?;
        let image = manifest::build(config, layer.blob, &annotations)?;
        self.check_budget(spec, image.compressed_bytes())?;
        Ok(Output {
            image,
            plan: compiled.plan,
            entries,
            target: spec.name.clone(),
        })
    }

    fn check_budget(&self, spec: &TargetSpec, bytes: u64) -> Result<()> {
        let budget = &self.recipe.budget;
        if bytes > budget.compressed_bytes {
            let (name, is, may) = (&spec.name, megabytes(bytes), megabytes(budget.compressed_bytes));
            bail!("the image {name} has {is} compressed, and its budget in images/image.toml is {may}");
        }
        if bytes > budget.aim_bytes {
            let (is, aim) = (megabytes(bytes), megabytes(budget.aim_bytes));
            self.progress.line(&format!(
                "{}: {is} compressed is more than the {aim} aimed at",
                spec.name
            ));
        }
        Ok(())
    }
}

impl Engine {
    fn program(self) -> &'static str {
        match self {
            Engine::Podman => "podman",
            Engine::Docker => "docker",
        }
    }

    /// Loads an archive; the image is then known under its local name.
    fn load(self, archive: &Path) -> Result<()> {
        let program = self.program();
        let output = Command::new(program)
            .arg("load")
            .arg("--input")
            .arg(archive)
            .output()
            .with_context(|| {
                format!(
                    "cannot start {program}: install it, or load {} where it is",
                    archive.display()
                )
            })?;
        if !output.status.success() {
            bail!(
                "`{program} load` failed: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(())
    }
}

/// What the image says of itself, as labels of its configuration and annotations of its manifest.
fn annotations(spec: &TargetSpec, recipe: &Recipe, plan: &[u8], rustc: &str) -> Result<BTreeMap<String, String>> {
    #[derive(serde::Deserialize)]
    struct Plan {
        required: Vec<String>,
    }
    let required: Plan = serde_json::from_slice(plan).context("plan.json names no required features")?;
    let pairs = [
        (ANNOTATION_TITLE, recipe.title.clone()),
        (
            ANNOTATION_DESCRIPTION,
            format!("BitNet b1.58 inference for {}", spec.description),
        ),
        (ANNOTATION_LICENSES, recipe.licenses.clone()),
        (ANNOTATION_VERSION, env!("CARGO_PKG_VERSION").to_owned()),
        (key::TARGET, spec.name.clone()),
        (key::TARGET_SPEC, spec.to_toml()),
        (key::FEATURES, required.required.join(",")),
        (key::PLAN_DIGEST, oci::digest(plan)),
        (key::RUSTC, rustc.to_owned()),
    ];
    Ok(pairs
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect())
}

/// The image's date: a fixed one, since the clock is not part of the source, or `SOURCE_DATE_EPOCH`.
fn created() -> Result<String> {
    let text = std::env::var("SOURCE_DATE_EPOCH").unwrap_or_else(|_| "0".to_owned());
    let seconds = text
        .parse()
        .ok()
        .and_then(|seconds| chrono::DateTime::from_timestamp(seconds, 0));
    let date = seconds.with_context(|| format!("SOURCE_DATE_EPOCH={text} is not a time in seconds since 1970"))?;
    Ok(date.to_rfc3339_opts(chrono::SecondsFormat::Secs, true))
}

/// Writes the image's folder, `output/tag`, whole or not at all.
pub fn store(output: &Output, folder: &Path, tag: &str, recipe: &Recipe) -> Result<Built> {
    let name = format!("{}:{tag}", recipe.name);
    let (done, partial) = (folder.join(tag), folder.join(format!(".{tag}.partial")));
    remove(&partial)?;
    std::fs::create_dir_all(&partial).with_context(|| format!("cannot create {}", partial.display()))?;
    let image = &output.image;
    let files = layout::files(image, &name)?;
    layout::write(&files, &partial.join("oci"))?;
    layer::unpack(&output.entries, &partial.join("rootfs"))?;
    let write = |file: &str, bytes: &[u8]| {
        let path = partial.join(file);
        std::fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))
    };
    write("image.oci.tar", &archive::oci(&files)?)?;
    write("image.docker.tar", &archive::docker(image, &name, &files)?)?;
    write("digest.txt", format!("{}\n", image.digest()).as_bytes())?;
    write("plan.json", &output.plan)?;
    remove(&done)?;
    std::fs::rename(&partial, &done).with_context(|| format!("cannot create {}", done.display()))?;
    Ok(Built {
        target: output.target.clone(),
        name,
        digest: image.digest().to_owned(),
        compressed_bytes: image.compressed_bytes(),
        unpacked_bytes: output.entries.iter().map(|entry| entry.bytes.len() as u64).sum(),
        folder: done,
        pushed: None,
        index: None,
    })
}

fn remove(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

fn report(built: &Built, recipe: &Recipe, engine: Engine) -> String {
    let Built {
        name, digest, folder, ..
    } = built;
    let uid = recipe.user.split(':').next().unwrap_or(&recipe.user);
    let (compressed, unpacked) = (megabytes(built.compressed_bytes), megabytes(built.unpacked_bytes));
    let (program, archive) = (engine.program(), folder.join("image.docker.tar"));
    let pushed = |what: &str, place: &Option<String>| {
        place
            .as_ref()
            .map_or_else(String::new, |place| format!("  {what:<7} {place}\n"))
    };
    format!(
        "\n{name}\n  digest  {digest}\n  size    {compressed} compressed, {unpacked} unpacked\n  folder  {}\n  \
         load    {program} load --input {}\n  run     {program} run --rm --read-only --cap-drop=ALL --user {uid} \
         -v \"$PWD/models:{}:ro\" -p 127.0.0.1:8080:8080 {name}\n{}{}",
        folder.display(),
        archive.display(),
        recipe.models,
        pushed("pushed", &built.pushed),
        pushed("index", &built.index),
    )
}

/// Megabytes of a million bytes, as registries count.
pub fn megabytes(bytes: u64) -> String {
    format!("{:.2} MB", bytes as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn builder(progress: &Progress, budget: u64) -> Builder<'_> {
        let mut builder = Builder::new(progress).unwrap();
        builder.recipe.budget.compressed_bytes = budget;
        builder
    }

    #[test]
    fn the_budget_is_a_limit() {
        let progress = Progress::new();
        let spec = crate::machine::native();
        assert!(builder(&progress, 1000).check_budget(&spec, 1000).is_ok());
        let message = builder(&progress, 1_000_000)
            .check_budget(&spec, 1_500_000)
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("1.50 MB compressed") && message.contains("is 1.00 MB"),
            "{message}"
        );
    }

    #[test]
    fn a_tag_cannot_lead_out_of_the_folder() {
        assert!(check_tag("1.0-rc.1_mine").is_ok());
        for tag in ["", ".", "..", "a/b", "-rf", "a b"] {
            assert!(check_tag(tag).is_err(), "{tag:?}");
        }
    }

    #[test]
    fn an_image_is_stored_whole_and_replaces_the_one_before() {
        let image = oci::fixture::image("avx2");
        let entries = image.entries().unwrap();
        let output = Output {
            image,
            plan: b"{}".to_vec(),
            entries,
            target: "avx2".to_owned(),
        };
        let recipe = Recipe::read(&workspace::root().join("images/image.toml")).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("mine/stale")).unwrap();
        let built = store(&output, dir.path(), "mine", &recipe).unwrap();
        assert_eq!(
            (built.name.as_str(), built.folder.as_path()),
            ("sterna:mine", dir.path().join("mine").as_path())
        );
        let mut names: Vec<String> = std::fs::read_dir(&built.folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(
            names,
            [
                "digest.txt",
                "image.docker.tar",
                "image.oci.tar",
                "oci",
                "plan.json",
                "rootfs"
            ]
        );
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            1,
            "no partial folder stays"
        );
        assert_eq!(layout::open(&built.folder.join("oci")).unwrap(), output.image);
        let text = report(&built, &recipe, Engine::Docker);
        assert!(text.contains("docker run --rm --read-only --cap-drop=ALL --user 65532 -v \"$PWD/models:/models:ro\""));
    }
}
