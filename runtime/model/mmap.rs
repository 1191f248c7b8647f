//! The model file's bytes: a read-only private mapping, or a copy in memory.
//!
//! A mapped file can change under us. When it shrinks, touching a page that is gone raises SIGBUS, which would end
//! the process. A handler, installed with the first mapping, puts zero pages over everything from the faulting page
//! to the end of that mapping and remembers the loss; whoever computes with the bytes asks [`Mapping::lost`]
//! afterwards and throws the result away. A file that is overwritten in place is noticed by its size and time.
#![allow(unsafe_code)] // mapping a file, and the SIGBUS handler, cannot be expressed in safe Rust

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use memmap2::{Mmap, MmapMut, MmapOptions};

use super::Owner;

/// Files that can be mapped at the same time.
const MAPPINGS_MAX: usize = 64;

/// How to hold a file's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapOptions {
    /// Map the file (pages come from the page cache, shared with other processes); otherwise read it into memory.
    pub mmap: bool,
    /// Keep the pages in memory (mlock). When the system refuses, a warning says what to do and the load goes on.
    pub mlock: bool,
}

impl Default for MapOptions {
    fn default() -> Self {
        MapOptions {
            mmap: true,
            mlock: false,
        }
    }
}

/// The bytes of one file.
#[derive(Debug)]
pub struct Mapping {
    bytes: Mmap,
    /// `None` for a copy in memory, which nobody else can change.
    watch: Option<Watch>,
    /// The system keeps the pages in memory.
    locked: bool,
}

/// What is needed to notice that the mapped file changed.
#[derive(Debug)]
struct Watch {
    file: File,
    stamp: Stamp,
    slot: &'static Slot,
}

/// A file's size and modification time: what an overwrite in place cannot leave alone.
type Stamp = (u64, i64, i64);

fn stamp(file: &File) -> io::Result<Stamp> {
    let meta = file.metadata()?;
    Ok((meta.len(), meta.mtime(), meta.mtime_nsec()))
}

impl Mapping {
    /// Maps or reads the file at `path`.
    pub fn open(path: &Path, options: MapOptions) -> io::Result<Mapping> {
        // A pipe without a writer would hold the open, were it not for the flag; regular files ignore it.
        let mut file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        let stamp = stamp(&file)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        let len = usize::try_from(stamp.0).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
        // An empty mapping is refused by the kernel: an empty file is an empty copy.
        let mut mapping = if options.mmap && len > 0 {
            install_handler()?;
            // SAFETY: the mapping is private and read-only. Other processes may still change the file's content:
            // every reader of these bytes tolerates any value, and `lost` tells that it happened.
            let bytes = unsafe { MmapOptions::new().len(len).map(&file)? };
            let slot = Slot::claim(bytes.as_ptr() as usize, len)?;
            Mapping {
                bytes,
                watch: Some(Watch { file, stamp, slot }),
                locked: false,
            }
        } else {
            let mut bytes = MmapMut::map_anon(len)?;
            file.read_exact(&mut bytes)?;
            Mapping {
                bytes: bytes.make_read_only()?,
                watch: None,
                locked: false,
            }
        };
        if options.mlock {
            match mapping.bytes.lock() {
                Ok(()) => mapping.locked = true,
                Err(error) => tracing::warn!(
                    %error,
                    bytes = len,
                    "cannot lock the model in memory, going on without: in docker, add --cap-add IPC_LOCK --ulimit memlock=-1"
                ),
            }
        }
        Ok(mapping)
    }

    /// A mapping that holds `bytes` in memory: for models that do not come from a file.
    pub fn from_bytes(bytes: &[u8]) -> io::Result<Mapping> {
        let mut copy = MmapMut::map_anon(bytes.len())?;
        copy.copy_from_slice(bytes);
        Ok(Mapping {
            bytes: copy.make_read_only()?,
            watch: None,
            locked: false,
        })
    }

    /// True once the mapped file shrank or was overwritten: nothing computed from these bytes since then can be
    /// trusted, and only opening the file again helps. One `fstat`; ask after every forward pass.
    pub fn lost(&self) -> bool {
        self.watch
            .as_ref()
            .is_some_and(|w| w.slot.lost.load(Ordering::Acquire) || stamp(&w.file).ok() != Some(w.stamp))
    }

    /// Gives back the memory of the whole pages in `bytes`, a part of this mapping, which will not be read for a while: reading
    /// them again brings them back from the file. Nothing happens to a copy, which has no file to come back from, nor to locked pages.
    pub fn release(&self, bytes: &[u8]) {
        let page = PAGE.load(Ordering::Relaxed).max(1);
        let mapped = self.bytes.as_ptr_range();
        let part = bytes.as_ptr_range();
        if !self.is_mapped() || part.start < mapped.start || part.end > mapped.end {
            return;
        }
        let (start, end) = (part.start.addr().next_multiple_of(page), part.end.addr() / page * page);
        if start < end {
            // SAFETY: whole pages of this live mapping; it is private, read-only and was never written to, so that its
            // pages come from the file again, with the same bytes. A refusal (locked pages) leaves them where they are.
            unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED) };
        }
    }

    /// Bytes that stay in memory whatever is released: all of a copy, and of locked pages. Others the system can drop.
    pub fn pinned_bytes(&self) -> u64 {
        let pinned = self.locked || !self.is_mapped();
        if pinned { self.bytes.len() as u64 } else { 0 }
    }

    /// True when the bytes are the file's own pages, not a copy.
    pub fn is_mapped(&self) -> bool {
        self.watch.is_some()
    }
}

impl Owner for Mapping {
    fn read(&self, at: usize, out: &mut [u8]) {
        match &self.watch {
            Some(watch) => {
                if watch.file.read_exact_at(out, at as u64).is_err() {
                    // As where a mapped page is gone.
                    out.fill(0);
                    watch.slot.lost.store(true, Ordering::Release);
                }
            }
            None => out.copy_from_slice(&self.bytes[at..at + out.len()]),
        }
    }
}

impl AsRef<[u8]> for Mapping {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // Before the pages are unmapped and the addresses can belong to somebody else.
        if let Some(watch) = &self.watch {
            watch.slot.release();
        }
    }
}

/// One registered mapping, as the signal handler reads it: atomics only, in a table that never moves.
#[derive(Debug)]
struct Slot {
    taken: AtomicBool,
    /// First address; 0 while the slot is being filled or emptied.
    start: AtomicUsize,
    len: AtomicUsize,
    lost: AtomicBool,
}

static SLOTS: [Slot; MAPPINGS_MAX] = [const {
    Slot {
        taken: AtomicBool::new(false),
        start: AtomicUsize::new(0),
        len: AtomicUsize::new(0),
        lost: AtomicBool::new(false),
    }
}; MAPPINGS_MAX];

/// The page size, stored before the handler is installed, for the handler.
static PAGE: AtomicUsize = AtomicUsize::new(0);

impl Slot {
    fn claim(start: usize, len: usize) -> io::Result<&'static Slot> {
        let slot = SLOTS
            .iter()
            .find(|s| !s.taken.swap(true, Ordering::AcqRel))
            .ok_or_else(|| io::Error::other(format!("more than {MAPPINGS_MAX} files are mapped: use --no-mmap")))?;
        slot.lost.store(false, Ordering::Relaxed);
        slot.len.store(len, Ordering::Relaxed);
        slot.start.store(start, Ordering::Release);
        Ok(slot)
    }

    fn release(&self) {
        self.start.store(0, Ordering::Release);
        self.taken.store(false, Ordering::Release);
    }

    /// The end of this mapping, when `address` lies in it.
    fn end_if_inside(&self, address: usize) -> Option<usize> {
        let start = self.start.load(Ordering::Acquire);
        let end = start + self.len.load(Ordering::Relaxed);
        (start != 0 && (start..end).contains(&address)).then_some(end)
    }
}

/// Installs the SIGBUS handler, once in the life of the process.
fn install_handler() -> io::Result<()> {
    static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();
    INSTALLED
        .get_or_init(|| {
            // SAFETY: sysconf reads a constant.
            let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
            PAGE.store(page as usize, Ordering::Relaxed);
            // SAFETY: all-zero is a valid sigaction; the fields that matter are set below.
            let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
            action.sa_sigaction = on_sigbus as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            // SAFETY: `action` is initialised, and `on_sigbus` has the signature that SA_SIGINFO asks for and does
            // only what is allowed in a signal handler.
            match unsafe { libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut()) } {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error().raw_os_error().unwrap_or(0)),
            }
        })
        .map_err(io::Error::from_raw_os_error)
}

/// Async-signal-safe: atomics, mmap, sigaction and raise; no lock, no allocation, errno restored.
extern "C" fn on_sigbus(signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo_t to an SA_SIGINFO handler; errno is this thread's own.
    let (address, code, errno) = unsafe { ((*info).si_addr() as usize, (*info).si_code, *libc::__errno_location()) };
    // si_code > 0: a fault of this thread's own instruction, not a signal that somebody sent.
    let hit = (code > 0)
        .then(|| SLOTS.iter().find_map(|s| Some((s, s.end_if_inside(address)?))))
        .flatten();
    if let Some((slot, end)) = hit {
        let page = PAGE.load(Ordering::Relaxed);
        let from = address & !(page - 1);
        slot.lost.store(true, Ordering::Release);
        // SAFETY: from..end lies inside a live mapping of ours (its owner is reading it right now), so MAP_FIXED
        // replaces only our own pages; read-only zeros keep every reference to them valid. To the end, not one page:
        // whatever lies behind a vanished page has vanished too, and one call spares the other faults.
        let zeros = unsafe {
            libc::mmap(
                from as *mut libc::c_void,
                end - from,
                libc::PROT_READ,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        // SAFETY: as above.
        unsafe { *libc::__errno_location() = errno };
        if zeros != libc::MAP_FAILED {
            return;
        }
    }
    // Not ours: the default action. A fault happens again when the handler returns; a sent signal needs sending again.
    // SAFETY: restoring the default action and raising are async-signal-safe.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const LEN: usize = 64 * 4096 + 100;

    fn file() -> (tempfile::NamedTempFile, Mapping) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&[7; LEN]).unwrap();
        file.flush().unwrap();
        let mapping = Mapping::open(file.path(), MapOptions::default()).unwrap();
        (file, mapping)
    }

    #[test]
    fn a_file_that_shrinks_reads_as_zeros_and_is_lost() {
        let (file, mapping) = file();
        let (_other, untouched) = self::file();
        let bytes = mapping.as_ref();
        assert_eq!((bytes.len(), bytes[LEN - 1], mapping.lost()), (LEN, 7, false));

        file.as_file().set_len(8192).unwrap();
        let bytes = std::hint::black_box(bytes); // an optimiser may hold on to what it read before
        assert_eq!((bytes[8191], bytes[8192], bytes[LEN - 1]), (7, 0, 0));
        assert!(mapping.watch.as_ref().unwrap().slot.lost.load(Ordering::Relaxed));
        assert!(mapping.lost());
        assert!(!untouched.lost());
    }

    #[test]
    fn reading_gives_the_bytes_and_notices_that_they_are_gone() {
        let (file, mapping) = file();
        let mut out = [0; 100];
        mapping.read(LEN - 100, &mut out);
        assert_eq!((out, mapping.lost()), ([7; 100], false));
        file.as_file().set_len(8192).unwrap();
        mapping.read(8100, &mut out);
        assert_eq!(out, [0; 100]);
        assert!(mapping.watch.as_ref().unwrap().slot.lost.load(Ordering::Relaxed));
        let copy = Mapping::from_bytes(&[1, 2, 3]).unwrap();
        copy.read(1, &mut out[..2]);
        assert_eq!(out[..2], [2, 3]);
    }

    #[test]
    fn a_file_that_shrank_is_lost_even_when_nothing_was_touched() {
        let (file, mapping) = file();
        file.as_file().set_len(8192).unwrap();
        assert!(mapping.lost());
    }

    #[test]
    fn a_file_overwritten_in_place_is_lost() {
        let (file, mapping) = file();
        assert!(!mapping.lost());
        std::fs::write(file.path(), [8; LEN]).unwrap();
        file.as_file().set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
        assert!(mapping.lost());
    }

    #[test]
    fn a_slot_is_free_again_when_its_mapping_is_dropped() {
        for _ in 0..2 * MAPPINGS_MAX {
            let (_file, mapping) = file();
            assert!(mapping.is_mapped());
        }
    }

    #[test]
    fn without_mmap_the_bytes_are_a_copy() {
        let (file, _) = file();
        let options = MapOptions {
            mmap: false,
            mlock: true,
        };
        let mapping = Mapping::open(file.path(), options).unwrap();
        file.as_file().set_len(0).unwrap();
        assert_eq!(mapping.as_ref(), [7; LEN]);
        assert!(!mapping.lost() && !mapping.is_mapped());
        assert_eq!(mapping.pinned_bytes(), LEN as u64);
    }

    #[test]
    fn what_is_locked_stays_in_memory_and_counts() {
        let (file, mapping) = file();
        assert_eq!(mapping.pinned_bytes(), 0);
        let options = MapOptions {
            mmap: true,
            mlock: true,
        };
        let locked = Mapping::open(file.path(), options).unwrap();
        // A system that grants no locked memory says so in a warning.
        let pinned = if locked.locked { LEN as u64 } else { 0 };
        assert_eq!(locked.pinned_bytes(), pinned);
        locked.release(locked.as_ref());
        assert_eq!(locked.as_ref(), [7; LEN]);
    }

    #[test]
    fn empty_files_and_directories_do_not_panic() {
        let empty = tempfile::NamedTempFile::new().unwrap();
        assert!(
            Mapping::open(empty.path(), MapOptions::default())
                .unwrap()
                .as_ref()
                .is_empty()
        );
        let directory = tempfile::tempdir().unwrap();
        assert!(Mapping::open(directory.path(), MapOptions::default()).is_err());
    }

    /// A SIGBUS outside every mapping must still end the process: a child maps a file behind our back.
    #[test]
    fn a_fault_elsewhere_still_kills() {
        const CHILD: &str = "STERNA_TEST_SIGBUS_CHILD";
        if std::env::var_os(CHILD).is_some() {
            let (file, _registered) = file();
            // SAFETY: the child is about to die of this mapping, which is the test.
            let foreign = unsafe { Mmap::map(file.as_file()).unwrap() };
            file.as_file().set_len(0).unwrap();
            std::process::exit(i32::from(std::hint::black_box(foreign[LEN - 1])));
        }
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "model::mmap::tests::a_fault_elsewhere_still_kills",
                "--nocapture",
            ])
            .env(CHILD, "1")
            .output()
            .unwrap()
            .status;
        assert_eq!(
            std::os::unix::process::ExitStatusExt::signal(&status),
            Some(libc::SIGBUS)
        );
    }
}
