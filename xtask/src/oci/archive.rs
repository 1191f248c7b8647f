//! A layout in one file, for OCI tools; and with `manifest.json` beside it, for every Docker and podman.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use serde_json::json;
use tar::{EntryType, Header};

use super::layout::{self, File};
use super::{Image, canonical_json};

/// The tar of a layout.
pub fn oci(files: &[File]) -> Result<Vec<u8>> {
    tar(files)
}

/// The same with the table of contents that `docker load` of Docker 20.10 needs; newer ones and podman read it too.
pub fn docker(image: &Image, name: &str, files: &[File]) -> Result<Vec<u8>> {
    let layers: Vec<String> = image
        .layers
        .iter()
        .map(|layer| layout::blob_path(&layer.digest))
        .collect();
    let contents = json!([{ "Config": layout::blob_path(&image.config.digest), "Layers": layers, "RepoTags": [name] }]);
    let mut files = files.to_vec();
    files.push(("manifest.json".to_owned(), canonical_json(&contents)?));
    files.sort();
    tar(&files)
}

/// Reads the image of either archive.
pub fn open(path: &Path) -> Result<Image> {
    let file = std::fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(file).entries()? {
        let mut entry = entry.map_err(|_| anyhow!("{} is no image archive", path.display()))?;
        let name = entry.path()?.to_string_lossy().into_owned();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        files.insert(name, bytes);
    }
    layout::read(&|name| {
        files
            .get(name)
            .cloned()
            .with_context(|| format!("{} has no `{name}`", path.display()))
    })
}

fn tar(files: &[File]) -> Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, bytes) in files {
        let mut header = Header::new_ustar();
        header.set_path(path)?;
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o644);
        header.set_mtime(0);
        header.set_size(bytes.len() as u64);
        header.set_cksum();
        builder.append(&header, bytes.as_slice())?;
    }
    Ok(builder.into_inner()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::fixture;

    fn read(tar: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        for entry in tar::Archive::new(tar).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            files.insert(entry.path().unwrap().to_string_lossy().into_owned(), bytes);
        }
        files
    }

    #[test]
    fn the_docker_archive_is_the_layout_and_a_table_of_contents() {
        let image = fixture::image("avx2");
        let layout = layout::files(&image, "sterna:avx2").unwrap();
        assert_eq!(read(&oci(&layout).unwrap()), layout.iter().cloned().collect());
        let mut files = read(&docker(&image, "sterna:avx2", &layout).unwrap());
        let contents: serde_json::Value = serde_json::from_slice(&files.remove("manifest.json").unwrap()).unwrap();
        assert_eq!(files, layout.into_iter().collect());
        assert_eq!(contents[0]["RepoTags"], json!(["sterna:avx2"]));
        assert_eq!(files[contents[0]["Config"].as_str().unwrap()], image.config.bytes);
        assert_eq!(files[contents[0]["Layers"][0].as_str().unwrap()], image.layers[0].bytes);
    }

    #[test]
    fn both_archives_read_back() {
        let image = fixture::image("neon");
        let files = layout::files(&image, "sterna:neon").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image.tar");
        for bytes in [oci(&files).unwrap(), docker(&image, "sterna:neon", &files).unwrap()] {
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(open(&path).unwrap(), image);
        }
        std::fs::write(&path, "no tar ".repeat(200)).unwrap();
        let message = open(&path).unwrap_err().to_string();
        assert!(message.ends_with("is no image archive"), "{message}");
    }
}
