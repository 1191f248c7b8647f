//! A layer: a tar of sorted entries without time, owner or chance in it, compressed by gzip.
//!
//! gzip and not zstd, because Docker 20.10 cannot load zstd layers.

use std::io::{Cursor, Read};
use std::path::Path;

use anyhow::{Context, Result, bail};
use flate2::bufread::GzDecoder;
use flate2::{Compression, GzBuilder};
use oci_spec::image::MediaType;
use tar::{EntryType, Header};

use super::Blob;

/// One file or folder of the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Without a leading slash; a folder's ends in one.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// A file's content; empty for a folder.
    pub bytes: Vec<u8>,
}

impl Entry {
    /// A program: readable and executable by everybody, writable by nobody.
    pub fn program(path: &str, bytes: Vec<u8>) -> Entry {
        Entry {
            path: path.trim_start_matches('/').to_owned(),
            mode: 0o555,
            bytes,
        }
    }

    /// An empty folder.
    pub fn folder(path: &str) -> Entry {
        Entry {
            path: format!("{}/", path.trim_matches('/')),
            mode: 0o755,
            bytes: Vec::new(),
        }
    }

    /// Whether it is a folder.
    pub fn is_folder(&self) -> bool {
        self.path.ends_with('/')
    }
}

/// A layer, and what the configuration and the reports say of it.
#[derive(Debug, Clone)]
pub struct Layer {
    /// The compressed tar.
    pub blob: Blob,
    /// Digest of the tar before compression.
    pub diff_id: String,
    /// Content of its files in bytes.
    pub unpacked_bytes: u64,
}

/// Builds a layer. The order of `entries` does not matter.
pub fn build(mut entries: Vec<Entry>) -> Result<Layer> {
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    let mut builder = tar::Builder::new(Vec::new());
    for entry in &entries {
        let mut header = Header::new_ustar();
        header
            .set_path(&entry.path)
            .with_context(|| format!("`{}` cannot stand in a tar", entry.path))?;
        header.set_entry_type(if entry.is_folder() {
            EntryType::Directory
        } else {
            EntryType::Regular
        });
        header.set_mode(entry.mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(entry.bytes.len() as u64);
        header.set_cksum();
        builder.append(&header, entry.bytes.as_slice())?;
    }
    let tar = builder.into_inner()?;
    Ok(Layer {
        diff_id: super::digest(&tar),
        blob: Blob::new(MediaType::ImageLayerGzip, gzip(&tar)?),
        unpacked_bytes: entries.iter().map(|entry| entry.bytes.len() as u64).sum(),
    })
}

/// Reads a layer back.
pub fn read(gzipped: &[u8]) -> Result<Vec<Entry>> {
    let mut archive = tar::Archive::new(GzDecoder::new(gzipped));
    let mut entries = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.to_string_lossy().into_owned();
        match entry.header().entry_type() {
            EntryType::Directory | EntryType::Regular => {}
            other => bail!("`{path}` in the layer is a {other:?}: only files and folders belong there"),
        }
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        entries.push(Entry {
            path,
            mode: entry.header().mode()?,
            bytes,
        });
    }
    Ok(entries)
}

/// Writes the entries as a folder, for whoever wants to look at them or run them without a container.
pub fn unpack(entries: &[Entry], folder: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::create_dir_all(folder)?;
    for entry in entries {
        let path = folder.join(&entry.path);
        if entry.is_folder() {
            std::fs::create_dir_all(&path)?;
        } else {
            std::fs::write(&path, &entry.bytes)?;
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(entry.mode))?;
    }
    Ok(())
}

/// No time, no name, no operating system in the header.
fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let mut encoder = GzBuilder::new()
        .mtime(0)
        .operating_system(255)
        .read(Cursor::new(bytes), Compression::best());
    encoder.read_to_end(&mut out)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries() -> Vec<Entry> {
        vec![Entry::program("/sterna", vec![7; 5000]), Entry::folder("/models")]
    }

    #[test]
    fn the_same_entries_in_any_order_are_the_same_bytes() {
        let (forward, mut backward) = (entries(), entries());
        backward.reverse();
        assert_eq!(build(forward).unwrap().blob, build(backward).unwrap().blob);
    }

    /// The bytes themselves, so that a change of a library shows here and not in a user's digest.
    #[test]
    fn headers_hold_nothing_of_the_builder() {
        let layer = build(entries()).unwrap();
        assert_eq!(
            layer.blob.bytes[..10],
            [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 2, 255],
            "gzip header"
        );
        assert_eq!(layer.unpacked_bytes, 5000);
        let mut archive = tar::Archive::new(GzDecoder::new(layer.blob.bytes.as_slice()));
        let mut seen = Vec::new();
        for entry in archive.entries().unwrap() {
            let entry = entry.unwrap();
            let header = entry.header();
            assert_eq!(
                (header.mtime().unwrap(), header.uid().unwrap(), header.gid().unwrap()),
                (0, 0, 0)
            );
            assert_eq!(header.username().unwrap(), Some(""));
            seen.push((
                entry.path().unwrap().to_string_lossy().into_owned(),
                header.mode().unwrap(),
            ));
        }
        assert_eq!(seen, [("models/".to_owned(), 0o755), ("sterna".to_owned(), 0o555)]);
    }

    #[test]
    fn what_was_built_reads_back_and_unpacks() {
        let mut read = read(&build(entries()).unwrap().blob.bytes).unwrap();
        read.reverse();
        assert_eq!(read, entries());
        let dir = tempfile::tempdir().unwrap();
        unpack(&read, dir.path()).unwrap();
        assert_eq!(std::fs::read(dir.path().join("sterna")).unwrap(), vec![7; 5000]);
        assert!(dir.path().join("models").is_dir());
    }
}
