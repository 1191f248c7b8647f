//! The files that an emulated Linux starts with: a gzipped cpio archive in its `newc` form.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::{Component, Path};

use anyhow::{Context as _, Result};
use flate2::Compression;
use flate2::write::GzEncoder;

const FOLDER: u32 = 0o040_755;
const FILE: u32 = 0o100_000;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// An archive that grows.
pub struct Initramfs {
    gzip: GzEncoder<Vec<u8>>,
    folders: BTreeSet<String>,
    entries: u32,
}

impl Initramfs {
    /// With a console, for what the first program prints, and an empty `/tmp`.
    pub fn new() -> Result<Self> {
        let mut new = Initramfs {
            gzip: GzEncoder::new(Vec::new(), Compression::fast()),
            folders: BTreeSet::new(),
            entries: 0,
        };
        new.folders_of(Path::new("dev/console"))?;
        new.entry("dev/console", CHARACTER_DEVICE, (5, 1), &[])?;
        new.folders_of(Path::new("tmp/x"))?;
        Ok(new)
    }

    /// Adds a file, and the folders that it is in. A leading `/` says nothing.
    pub fn add(&mut self, path: impl AsRef<Path>, mode: u32, content: &[u8]) -> Result<()> {
        let path = path.as_ref();
        self.folders_of(path)?;
        self.entry(&relative(path), FILE | mode, (0, 0), content)
    }

    /// Adds a file, or all below a folder, under the path that it has here.
    pub fn add_as_here(&mut self, path: &Path) -> Result<()> {
        if path.is_dir() {
            for entry in fs::read_dir(path)? {
                self.add_as_here(&entry?.path())?;
            }
            return Ok(());
        }
        let content = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        self.add(path, 0o755, &content)
    }

    /// The archive.
    pub fn finish(mut self) -> Result<Vec<u8>> {
        self.entry("TRAILER!!!", 0, (0, 0), &[])?;
        Ok(self.gzip.finish()?)
    }

    fn folders_of(&mut self, path: &Path) -> Result<()> {
        let path = relative(path);
        for (at, _) in path.match_indices('/') {
            if self.folders.insert(path[..at].to_owned()) {
                self.entry(&path[..at], FOLDER, (0, 0), &[])?;
            }
        }
        Ok(())
    }

    /// A header of fourteen numbers, the name with a zero, the content; each padded to four bytes.
    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) -> Result<()> {
        self.entries += 1;
        let (length, name_length) = (u32::try_from(content.len())?, u32::try_from(name.len() + 1)?);
        let mut bytes = b"070701".to_vec();
        let (inode, links) = (self.entries, 1);
        for number in [
            inode,
            mode,
            0,
            0,
            links,
            0,
            length,
            0,
            0,
            device.0,
            device.1,
            name_length,
            0,
        ] {
            write!(bytes, "{number:08x}")?;
        }
        bytes.extend(name.bytes().chain([0]));
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend(content);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        self.gzip.write_all(&bytes)?;
        Ok(())
    }
}

fn relative(path: &Path) -> String {
    let parts = path.components().filter_map(|part| match part {
        Component::Normal(part) => Some(part.to_string_lossy()),
        _ => None,
    });
    parts.collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn entries_follow_their_folders_and_are_padded() {
        let mut archive = Initramfs::new().unwrap();
        archive.add("/a/b/run", 0o755, b"five!").unwrap();
        archive.add("a/b/x", 0o644, b"").unwrap();
        let mut text = Vec::new();
        let gzip = archive.finish().unwrap();
        flate2::read::GzDecoder::new(&gzip[..]).read_to_end(&mut text).unwrap();
        assert_eq!(text.len() % 4, 0);
        let text = String::from_utf8(text).unwrap();
        let names: Vec<_> = text
            .split("070701")
            .skip(1)
            .map(|entry| entry[104..].trim_end_matches('\0'))
            .collect();
        let expected = [
            "dev",
            "dev/console",
            "tmp",
            "a",
            "a/b",
            "a/b/run\0\0\0five!",
            "a/b/x",
            "TRAILER!!!",
        ];
        let names: Vec<_> = names
            .iter()
            .map(|name| name.replace("run\0\0\0\0", "run\0\0\0"))
            .collect();
        assert_eq!(names, expected);
    }
}
