//! The OCI image layout: `oci-layout`, `index.json`, and every blob under its digest.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use oci_spec::image::{
    ANNOTATION_REF_NAME, Descriptor, ImageIndex, ImageIndexBuilder, MediaType, OciLayoutBuilder, SCHEMA_VERSION,
};

use super::{Blob, Image, canonical_json, digest, index};

/// What containerd calls an image that it imports.
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// A file of the layout: path and content.
pub type File = (String, Vec<u8>);

/// The layout's files, sorted. `name` is the image's full local name, `sterna:avx2`.
pub fn files(image: &Image, name: &str) -> Result<Vec<File>> {
    let mut descriptor = index::descriptor(image)?;
    let mut annotations: HashMap<String, String> = descriptor.annotations().clone().unwrap_or_default();
    // podman takes the whole name from here; containerd, and Docker on it, from a key of its own.
    annotations.insert(ANNOTATION_REF_NAME.to_owned(), name.to_owned());
    annotations.insert(CONTAINERD_NAME.to_owned(), format!("docker.io/library/{name}"));
    descriptor.set_annotations(Some(annotations));
    let index = ImageIndexBuilder::default()
        .schema_version(SCHEMA_VERSION)
        .media_type(MediaType::ImageIndex)
        .manifests(vec![descriptor])
        .build()?;
    let layout = OciLayoutBuilder::default().image_layout_version("1.0.0").build()?;
    let mut files = vec![
        ("oci-layout".to_owned(), canonical_json(&layout)?),
        ("index.json".to_owned(), canonical_json(&index)?),
    ];
    files.extend(image.blobs().map(|blob| (blob_path(&blob.digest), blob.bytes.clone())));
    files.sort();
    Ok(files)
}

/// Writes the files under `folder`.
pub fn write(files: &[File], folder: &Path) -> Result<()> {
    for (path, bytes) in files {
        let path = folder.join(path);
        std::fs::create_dir_all(path.parent().unwrap_or(folder))?;
        std::fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Reads the one image of a layout whose files `file` gives, and checks every digest.
pub fn read(file: &dyn Fn(&str) -> Result<Vec<u8>>) -> Result<Image> {
    let index: ImageIndex = serde_json::from_slice(&file("index.json")?).context("index.json is not an image index")?;
    let [descriptor] = index.manifests().as_slice() else {
        bail!("the layout holds {} images: expected one", index.manifests().len());
    };
    let manifest = blob(file, descriptor)?;
    let parsed = super::parse_manifest(&manifest.bytes)?;
    let layers = parsed
        .layers()
        .iter()
        .map(|layer| blob(file, layer))
        .collect::<Result<Vec<_>>>()?;
    Ok(Image {
        config: blob(file, parsed.config())?,
        manifest,
        layers,
    })
}

/// Reads the layout in `folder`.
pub fn open(folder: &Path) -> Result<Image> {
    read(&|path| {
        let path = folder.join(path);
        std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
    })
}

/// Where a layout keeps the blob of that digest.
pub fn blob_path(digest: &str) -> String {
    format!("blobs/{}", digest.replacen(':', "/", 1))
}

fn blob(file: &dyn Fn(&str) -> Result<Vec<u8>>, descriptor: &Descriptor) -> Result<Blob> {
    let wanted = descriptor.digest().to_string();
    let bytes = file(&blob_path(&wanted))?;
    let found = digest(&bytes);
    if found != wanted {
        bail!("damaged image: the blob {wanted} has the digest {found}; build it again");
    }
    Ok(Blob {
        media_type: descriptor.media_type().clone(),
        bytes,
        digest: found,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::fixture;

    #[test]
    fn two_folders_hold_the_same_files_and_read_back() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for dir in [&one, &two] {
            // Built anew for each: hash maps iterate in another order every time.
            write(&files(&fixture::image("avx2"), "sterna:avx2").unwrap(), dir.path()).unwrap();
        }
        let read = |dir: &tempfile::TempDir, path: &str| std::fs::read(dir.path().join(path)).unwrap();
        for (path, bytes) in files(&fixture::image("avx2"), "sterna:avx2").unwrap() {
            assert_eq!(read(&one, &path), bytes, "{path}");
            assert_eq!(read(&two, &path), bytes, "{path}");
        }
        assert_eq!(open(one.path()).unwrap(), fixture::image("avx2"));
    }

    #[test]
    fn a_damaged_blob_is_found() {
        let image = fixture::image("avx2");
        let dir = tempfile::tempdir().unwrap();
        write(&files(&image, "sterna:avx2").unwrap(), dir.path()).unwrap();
        std::fs::write(dir.path().join(blob_path(&image.config.digest)), "{}").unwrap();
        let message = open(dir.path()).unwrap_err().to_string();
        assert!(
            message.starts_with("damaged image") && message.contains(&image.config.digest),
            "{message}"
        );
    }
}
