//! Re-packed weights and the coded head in a file of a cache folder, so that a restart reads them instead of making them again.
//!
//! The file is `KEY.sterna`, where KEY is a checksum of the layouts and of all shapes and scales: `MAGIC`, KEY, whose it is, an `Entry` for
//! each matrix and one for the head, a checksum of all this, then what was made, each at a cache line. Numbers are little-endian u64. There
//! are no offsets or lengths to believe: they follow from the model. What was made counts when its bytes have their checksum, and the bytes of
//! the model file that it was made from have theirs; everything else is made again, and the file replaced.
//!
//! Whose a file is, the path of the model file and the kernels' name decide. A new file takes the place of those with another KEY that are
//! of the same: of weights, layouts or versions that are gone. The first three words stay what they are in every version.
//!
//! Checksums find accidents. Who can write to the folder can forge them, and then decides what the model says, but no more than that.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::packed::padded;
use super::{CoarseHead, HugeBuffer, Layout, Mapping, Model, Packing, Skipping, Ternary};

/// The last byte is the version: to be raised when re-packing or coding makes other bytes.
const MAGIC: [u8; 8] = *b"STERNA\0\x04";
const HEAD: &str = "token_embd.weight";

/// Where side-car files are, and for which model file.
#[derive(Debug, Clone)]
pub struct CacheDir {
    /// The folder.
    pub dir: PathBuf,
    /// The model file.
    pub model: PathBuf,
}

impl CacheDir {
    /// Tells apart whose files are whose.
    fn owner(&self, kernels: &str) -> u64 {
        let model = std::path::absolute(&self.model).unwrap_or_else(|_| self.model.clone());
        checksum([model.as_os_str().as_encoded_bytes(), kernels.as_bytes()])
    }
}

/// The file of one model and one set of layouts.
pub struct Sidecar {
    path: PathBuf,
    key: u64,
    owner: u64,
    kept: Option<Kept>,
    /// The file lacks something, or has it wrong.
    stale: bool,
}

struct Kept {
    file: File,
    layout: Layout,
    sections: Vec<Section>,
}

/// Where something lies in the file, and what it has to be.
struct Section {
    name: String,
    /// `None` for the head.
    packing: Option<Packing>,
    at: u64,
    entry: Entry,
}

#[derive(Clone, Copy, Default)]
struct Entry {
    /// Of a matrix: 0 by rows, 1 when it is laid out for skipping. Of the head: 1 when it is there.
    form: u64,
    /// Checksum of the tensor in the model file.
    source: u64,
    /// Checksum of what was made from it.
    made: u64,
}

impl Sidecar {
    /// Looks into a folder for what was made of `model` with these layouts, which are those of `kernels`. A file that cannot be used is
    /// none, with a warning.
    pub fn open(cache: &CacheDir, kernels: &str, model: &Model, rows: Packing, skipping: Skipping) -> Self {
        let key = key(model, rows, skipping);
        let path = cache.dir.join(format!("{key:016x}.sterna"));
        let kept = match Kept::open(&path, key, model, rows, skipping) {
            Ok(kept) => Some(kept),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                warn_unusable(&path, &error.to_string());
                None
            }
        };
        Sidecar {
            stale: kept.is_none(),
            path,
            key,
            owner: cache.owner(kernels),
            kept,
        }
    }

    /// The layout of what is in the file.
    pub fn layout(&self) -> Option<&Layout> {
        self.kept.as_ref().map(|kept| &kept.layout)
    }

    /// The file, while everything that was asked for was in it.
    pub fn complete(&self) -> Option<&Path> {
        (!self.stale).then_some(&self.path)
    }

    /// Reads `w`, re-packed, into `out`. False when it has to be made, and `out` holds anything.
    pub fn read(&mut self, name: &str, w: &Ternary, packing: Packing, mapping: &Mapping, out: &mut [u8]) -> bool {
        let wanted = |section: &&Section| section.name == name && section.packing == Some(packing);
        let Some(kept) = &self.kept else { return false };
        let Some(section) = kept.sections.iter().find(wanted) else {
            self.stale = true;
            return false;
        };
        let read = kept.file.read_exact_at(out, section.at).is_ok() && checksum([&*out]) == section.entry.made;
        let good = read && source_checksum(mapping, &w.packed) == section.entry.source;
        self.good(good, name)
    }

    /// Reads the coded head.
    pub fn read_head(&mut self, model: &Model) -> Option<CoarseHead> {
        let kept = self.kept.as_ref()?;
        let section = kept.sections.iter().find(|section| section.packing.is_none())?;
        let w = &model.embedding;
        let mut codes = HugeBuffer::zeroed(CoarseHead::code_bytes(w)).ok()?;
        let mut numbers = vec![0; CoarseHead::bytes_for(w) - codes.len()];
        let read = kept.file.read_exact_at(&mut codes, section.at).is_ok()
            && kept
                .file
                .read_exact_at(&mut numbers, section.at + codes.len() as u64)
                .is_ok()
            && checksum([&*codes, &numbers]) == section.entry.made;
        let good = read && source_checksum(&model.mapping, &w.data) == section.entry.source;
        self.good(good, HEAD)
            .then(|| CoarseHead::from_parts(w, codes, &numbers))
    }

    /// Says once when something is not good.
    fn good(&mut self, good: bool, name: &str) -> bool {
        if !good && !self.stale {
            warn_unusable(&self.path, &format!("{name} is damaged, or of another model"));
        }
        self.stale |= !good;
        good
    }

    /// Writes the file where it lacks something that is in memory now, unless `cancel` is set. A failure is a warning.
    pub fn keep(&self, model: &Model, layout: &Layout, cancel: &AtomicBool) {
        let has_head = |kept: &Kept| kept.sections.iter().any(|section| section.packing.is_none());
        let lacks_head = model.coarse.get().is_some() && !self.kept.as_ref().is_some_and(has_head);
        let is = |w: &Ternary, packing| w.repacked().is_some_and(|packed| packed.packing == packing);
        let unpacked = |(_, w, packing): (_, &Ternary, Packing)| packing.bytes(w).is_some() && !is(w, packing);
        if !(self.stale || lacks_head) || model.places(layout).any(unpacked) {
            return;
        }
        let began = Instant::now();
        match self.write(model, layout, cancel) {
            Ok(bytes) => {
                tracing::info!(
                    mib = bytes >> 20,
                    ms = began.elapsed().as_millis() as u64,
                    "re-packed weights kept in {}",
                    self.path.display()
                );
                self.remove_outdated();
            }
            Err(_) if cancel.load(Ordering::Relaxed) => (),
            Err(error) => tracing::warn!(
                "re-packed weights are not kept for the next start: cannot write {}: {error}",
                self.path.display()
            ),
        }
    }

    /// Removes what the file that was just written takes the place of.
    fn remove_outdated(&self) {
        let Some(Ok(entries)) = self.path.parent().map(fs::read_dir) else {
            return;
        };
        let others = entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| *path != self.path);
        for path in others.filter(|path| owner_of(path) == Some(self.owner)) {
            match fs::remove_file(&path) {
                Ok(()) => tracing::info!(
                    "removed {}: of other weights of this model file, or of another version",
                    path.display()
                ),
                Err(error) => tracing::warn!(
                    "cannot remove {}, which is not needed any more: {error}",
                    path.display()
                ),
            }
        }
    }

    /// Under another name first, so that nobody sees half a file. Returns its bytes.
    fn write(&self, model: &Model, layout: &Layout, cancel: &AtomicBool) -> io::Result<u64> {
        let temporary = self.path.with_extension("sterna.tmp");
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(&temporary)?;
        // The name is always the same, so that what a killed server left is used up. Who holds the lock writes, and nobody else; a file
        // that was renamed before the lock was had is finished.
        file.try_lock()?;
        let (mine, there) = (file.metadata()?, fs::symlink_metadata(&temporary)?);
        if !mine.is_file() || (mine.ino(), mine.dev()) != (there.ino(), there.dev()) {
            return Err(io::Error::other("another server was faster"));
        }
        let written = self.fill(&file, model, layout, cancel).and_then(|bytes| {
            file.sync_all()?;
            fs::rename(&temporary, &self.path)?;
            Ok(bytes)
        });
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written
    }

    fn fill(&self, file: &File, model: &Model, layout: &Layout, cancel: &AtomicBool) -> io::Result<u64> {
        let head = model.coarse.get();
        let (mut sections, bytes) = sections(model, layout, head.is_some());
        file.set_len(0)?;
        file.set_len(bytes)?;
        let mut matrices = model.matrices();
        for section in &mut sections {
            if cancel.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let w = matrices.next().map(|(_, w)| w);
            let repacked = w.and_then(Ternary::repacked);
            let numbers = head.map(CoarseHead::numbers).filter(|_| w.is_none());
            let (source, made): (_, Vec<&[u8]>) = match (w, head, &numbers) {
                (Some(w), ..) => (&w.packed, repacked.iter().map(|packed| &*packed.data).collect()),
                (None, Some(head), Some(numbers)) => (&model.embedding.data, vec![head.codes(), numbers]),
                _ => continue,
            };
            section.entry.source = source_checksum(&model.mapping, source);
            section.entry.made = checksum(made.iter().copied());
            let mut at = section.at;
            for part in made {
                file.write_all_at(part, at)?;
                at += part.len() as u64;
            }
        }
        // Last, and only when what was summed is what had been re-packed.
        if model.mapping.lost() {
            return Err(io::Error::other("the model file was changed"));
        }
        let mut entries: Vec<Entry> = sections.iter().map(|section| section.entry).collect();
        entries.resize(model.matrices().count() + 1, Entry::default());
        file.write_all_at(&header(self.key, self.owner, &entries), 0)?;
        Ok(bytes)
    }
}

impl Kept {
    fn open(path: &Path, key: u64, model: &Model, rows: Packing, skipping: Skipping) -> io::Result<Kept> {
        let invalid = |why: &str| Err(io::Error::other(why.to_owned()));
        // A pipe without a writer would hold the open, were it not for the flag.
        let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        let meta = file.metadata()?;
        if !meta.is_file() {
            return invalid("not a regular file");
        }
        let count = model.matrices().count() + 1;
        let mut bytes = vec![0; header(key, 0, &vec![Entry::default(); count]).len()];
        file.read_exact_at(&mut bytes, 0)?;
        let words: Vec<u64> = bytes
            .as_chunks()
            .0
            .iter()
            .map(|word| u64::from_le_bytes(*word))
            .collect();
        let entries: Vec<Entry> = words[3..3 + 3 * count]
            .as_chunks()
            .0
            .iter()
            .map(|&[form, source, made]| Entry { form, source, made })
            .collect();
        // Whoever made it: the same weights may lie in several places.
        if header(key, words[2], &entries) != bytes {
            return invalid("its header is damaged, or of another version");
        }
        let (matrices, head) = (&entries[..count - 1], entries[count - 1].form == 1);
        // In the order of `Layer::matrices`.
        let (layers, _) = matrices.as_chunks::<7>();
        let of_layer = |[.., up, down]: &[Entry; 7]| Skipping {
            up: skipping.up.filter(|_| up.form == 1),
            down: skipping.down.filter(|_| down.form == 1),
        };
        let layout = Layout {
            rows,
            skipping: layers.iter().map(of_layer).collect(),
        };
        let (mut sections, bytes) = sections(model, &layout, head);
        let as_expected = sections.iter().zip(&entries).all(|(s, e)| s.entry.form == e.form);
        if !as_expected || (head && CoarseHead::codable(&model.embedding).is_err()) || meta.len() != bytes {
            return invalid("its length or its layout is not what this model needs");
        }
        for (section, entry) in sections.iter_mut().zip(entries) {
            section.entry = entry;
        }
        Ok(Kept { file, layout, sections })
    }
}

/// Everything in a file of `layout`, in its order, without checksums yet, and the file's bytes.
fn sections(model: &Model, layout: &Layout, head: bool) -> (Vec<Section>, u64) {
    let count = model.matrices().count() + 1;
    let mut at = padded(Some(header(0, 0, &vec![Entry::default(); count]).len())) as u64;
    let matrices = model.places(layout).map(|(name, w, packing)| {
        let form = u64::from(packing != layout.rows);
        (name, Some(packing), form, padded(packing.bytes(w)))
    });
    let head = head.then(|| {
        (
            HEAD.to_owned(),
            None,
            1,
            padded(Some(CoarseHead::bytes_for(&model.embedding))),
        )
    });
    let place = |(name, packing, form, bytes)| {
        let entry = Entry {
            form,
            ..Entry::default()
        };
        let section = Section {
            name,
            packing,
            at,
            entry,
        };
        at += bytes as u64;
        section
    };
    let sections = matrices.chain(head).map(place).collect();
    (sections, at)
}

fn header(key: u64, owner: u64, entries: &[Entry]) -> Vec<u8> {
    let numbers = entries.iter().flat_map(|entry| [entry.form, entry.source, entry.made]);
    let mut bytes = MAGIC.to_vec();
    bytes.extend([key, owner].into_iter().chain(numbers).flat_map(u64::to_le_bytes));
    bytes.extend(checksum([&*bytes]).to_le_bytes());
    bytes
}

/// Whose a file is, when it is a side-car file, of this version or another. Nothing is followed, and nothing waited for.
fn owner_of(path: &Path) -> Option<u64> {
    let stem = path.file_stem()?.to_str()?;
    let key = u64::from_str_radix(stem, 16).ok()?;
    let named = path.file_name()?.to_str()? == format!("{key:016x}.sterna");
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = File::options().read(true).custom_flags(flags).open(path).ok()?;
    let mut start = [0; 24];
    file.read_exact_at(&mut start, 0).ok()?;
    let &[magic, of_name, owner] = start.as_chunks::<8>().0 else {
        return None;
    };
    // Version 1 did not say whose it was.
    let ours = named && file.metadata().ok()?.is_file() && magic[..7] == MAGIC[..7] && magic[7] > 1;
    (ours && u64::from_le_bytes(of_name) == key).then(|| u64::from_le_bytes(owner))
}

/// Tells models, layouts and versions apart: all that does not have to be read for it.
fn key(model: &Model, rows: Packing, skipping: Skipping) -> u64 {
    let w = &model.embedding;
    let mut text = format!("{MAGIC:?} {rows:?} {skipping:?} {:?} {} {}", w.kind, w.rows, w.cols);
    for (name, w) in model.matrices() {
        text += &format!(" {name} {} {} {:08x}", w.rows, w.cols, w.scale.to_bits());
    }
    checksum([text.as_bytes()])
}

/// Of a part of the model file, whose pages are given back on the way.
fn source_checksum(mapping: &Mapping, bytes: &[u8]) -> u64 {
    let sums = bytes.chunks(16 << 20).flat_map(|part| {
        let sum = checksum([part]);
        mapping.release(part);
        sum.to_le_bytes()
    });
    checksum([&*sums.collect::<Vec<u8>>()])
}

/// Of all parts in their order. Finds every change within 8 bytes, and leaves one in 2^64 others; made for speed, not against forgers.
fn checksum<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    const LANES: usize = 8;
    // One step, for a given word, maps no two states to the same, and for a given state no two words.
    let step = |state: u64, word: u64| (state ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    let mut lanes = [0x243f_6a88_85a3_08d3; LANES];
    let mut block = |block: &[u8; 8 * LANES]| {
        for (lane, word) in lanes.iter_mut().zip(block.as_chunks::<8>().0) {
            *lane = step(*lane, u64::from_le_bytes(*word));
        }
    };
    for part in parts {
        let (blocks, rest) = part.as_chunks();
        blocks.iter().for_each(&mut block);
        let mut last = [0; 8 * LANES];
        last[..rest.len()].copy_from_slice(rest);
        block(&last);
        let mut len = [0; 8 * LANES];
        len[..8].copy_from_slice(&(part.len() as u64).to_le_bytes());
        block(&len);
    }
    lanes.into_iter().fold(0, step)
}

fn warn_unusable(path: &Path, why: &str) {
    tracing::warn!("weights are re-packed again, {} cannot be used: {why}", path.display());
}

#[cfg(test)]
mod tests;
