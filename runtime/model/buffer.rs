//! Large anonymous memory for weights in another layout: on huge pages, where the system gives them.
//!
//! Weights are streamed once a token, so the walk to the next 4 KiB page is on the way of every read; under a hypervisor, where
//! page tables are nested, 2 MiB pages nearly double the read bandwidth (measured on Zen 4: 16 against 31 GB/s).
#![allow(unsafe_code)] // anonymous mappings with a wanted alignment cannot be expressed in safe Rust

use std::io;
use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;
use std::sync::Arc;

use crate::machine::LARGEST_PAGE;

/// A huge page of x86-64, and of AArch64 with 4 KiB pages. Where they are larger, this is merely an alignment.
const HUGE_PAGE: usize = 2 << 20;

/// Zeroed bytes, aligned to 2 MiB. Pages take memory when they are first written.
pub struct HugeBuffer {
    /// A multiple of [`HUGE_PAGE`]; dangling, but so aligned, when `len` is 0.
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to this value alone, and is reached through `&self` and `&mut self` like a `Vec`'s.
unsafe impl Send for HugeBuffer {}
// SAFETY: as above.
unsafe impl Sync for HugeBuffer {}

impl HugeBuffer {
    /// Allocates `len` bytes. An error where the address space, or a limit on it, is too small; that there is memory for
    /// all pages is not promised: ask the limits before.
    pub fn zeroed(len: usize) -> io::Result<Self> {
        if len == 0 {
            let start = NonNull::without_provenance(HUGE_PAGE.try_into().expect("not zero"));
            return Ok(HugeBuffer { start, len });
        }
        // Aligned by asking for more and giving the ends back.
        let wanted = mapped_len(len).and_then(|mapped| Some((mapped, mapped.checked_add(HUGE_PAGE)?)));
        let (mapped, asked) = wanted.ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: a new private anonymous mapping, at an address of the system's choice, touches nothing that exists.
        let all = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                asked,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if all == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let all = all.cast::<u8>();
        let before = all.align_offset(HUGE_PAGE);
        // SAFETY: `before < HUGE_PAGE`, so `before + mapped <= asked`: all of this is inside the mapping made above, which
        // nobody else knows. Giving back an end that is empty is not asked for, since the system refuses it.
        unsafe {
            let start = all.add(before);
            if before > 0 {
                libc::munmap(all.cast(), before);
            }
            if before < HUGE_PAGE {
                libc::munmap(start.add(mapped).cast(), HUGE_PAGE - before);
            }
            // A wish: without huge pages it works as well, only slower.
            libc::madvise(start.cast(), mapped, libc::MADV_HUGEPAGE);
            let start = NonNull::new_unchecked(start);
            Ok(HugeBuffer { start, len })
        }
    }
}

/// A part of a buffer whose other parts belong to others. Its pages are given back when it is dropped, but for what it shares with its
/// neighbours; the whole buffer is, with the last of its parts.
pub struct Part {
    /// Nobody but the parts has it.
    buffer: Arc<HugeBuffer>,
    range: Range<usize>,
}

impl HugeBuffer {
    /// Cuts the buffer into parts of these lengths, one behind the other.
    pub fn split(self, lens: impl IntoIterator<Item = usize>) -> Vec<Part> {
        let buffer = Arc::new(self);
        let mut at = 0;
        let part = |len| {
            assert!(len <= buffer.len - at, "no more than there is");
            let range = at..at + len;
            at = range.end;
            let buffer = buffer.clone();
            Part { buffer, range }
        };
        lens.into_iter().map(part).collect()
    }
}

/// So that a part can own [`Bytes`](super::Bytes).
impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: inside the buffer, and no other part reaches these bytes, nor gives them back.
        unsafe { std::slice::from_raw_parts(self.buffer.start.as_ptr().add(self.range.start), self.range.len()) }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let start = self.range.start.next_multiple_of(LARGEST_PAGE);
        let end = self.range.end / LARGEST_PAGE * LARGEST_PAGE;
        if start < end {
            // SAFETY: whole pages, since the buffer is aligned to more, that belong to this part alone, and nobody borrows it any more.
            unsafe {
                let first = self.buffer.start.as_ptr().add(start);
                libc::madvise(first.cast(), end - start, libc::MADV_DONTNEED);
            }
        }
    }
}

/// Whole pages: huge ones where the end fills more than half of the last, and else small ones at the end, which take no more memory than it needs.
fn mapped_len(len: usize) -> Option<usize> {
    let rest = len % HUGE_PAGE;
    len.checked_next_multiple_of(if rest > HUGE_PAGE / 2 { HUGE_PAGE } else { LARGEST_PAGE })
}

impl Deref for HugeBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `len` bytes from `start` on are mapped, initialised (to zeros, by the system) and owned by `self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for HugeBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` is the only way to them.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

/// So that a buffer can own [`Bytes`](super::Bytes).
impl AsRef<[u8]> for HugeBuffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for HugeBuffer {
    fn drop(&mut self) {
        if self.len > 0 {
            let mapped = mapped_len(self.len).expect("it was mapped");
            // SAFETY: exactly what `zeroed` kept, and nobody borrows it any more.
            unsafe { libc::munmap(self.start.as_ptr().cast(), mapped) };
        }
    }
}

impl std::fmt::Debug for HugeBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HugeBuffer({} bytes)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_zeroed_aligned_and_writable_to_its_ends() {
        for len in [1, 4096, HUGE_PAGE - 1, HUGE_PAGE, HUGE_PAGE + 1, 5 * HUGE_PAGE + 12345] {
            let mut buffer = HugeBuffer::zeroed(len).unwrap();
            assert_eq!(buffer.len(), len);
            assert!(buffer.as_ptr().addr().is_multiple_of(HUGE_PAGE));
            assert!(buffer.iter().all(|&b| b == 0), "{len}");
            (buffer[0], buffer[len - 1]) = (1, 2);
            buffer[len / 2] = 3;
            assert_eq!(buffer.iter().filter(|&&b| b != 0).count(), len.min(3));
        }
    }

    #[test]
    fn neighbours_do_not_overlap_and_outlive_each_other() {
        let mut buffers: Vec<_> = (0..5).map(|_| HugeBuffer::zeroed(HUGE_PAGE + 7).unwrap()).collect();
        for (value, buffer) in (1..).zip(&mut buffers) {
            buffer.fill(value);
        }
        buffers.remove(2);
        for (value, buffer) in [1, 2, 4, 5].into_iter().zip(&buffers) {
            assert!(buffer.iter().all(|&b| b == value));
        }
    }

    /// How many of the pages of `bytes` are in memory, and how many they are.
    fn resident(start: *const u8, len: usize) -> (usize, usize) {
        // SAFETY: sysconf reads a constant.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
        let mut pages = vec![0u8; len / page];
        // SAFETY: the range is mapped, and there is a byte for each of its pages.
        let code = unsafe { libc::mincore(start as *mut _, pages.len() * page, pages.as_mut_ptr()) };
        assert_eq!(code, 0);
        (pages.iter().filter(|&&p| p & 1 == 1).count(), pages.len())
    }

    #[test]
    fn a_dropped_part_gives_its_pages_back_and_no_others() {
        const EDGE: usize = HUGE_PAGE / 2 + 64;
        let lens = [EDGE, 2 * HUGE_PAGE, 0, 1000, HUGE_PAGE];
        let mut buffer = HugeBuffer::zeroed(lens.iter().sum()).unwrap();
        buffer.fill(7);
        let mut parts = buffer.split(lens);
        assert!(parts.iter().zip(lens).all(|(part, len)| part.as_ref().len() == len));
        let inside = parts[1].as_ref()[2 * LARGEST_PAGE - 64..].as_ptr();
        assert!(inside.addr().is_multiple_of(LARGEST_PAGE));
        let len = HUGE_PAGE;
        let (before, all) = resident(inside, len);
        assert_eq!(before, all);
        drop(parts.remove(1));
        assert_eq!(resident(inside, len).0, 0);
        for part in &parts {
            assert!(part.as_ref().iter().all(|&byte| byte == 7));
        }
    }

    #[test]
    #[should_panic(expected = "no more than there is")]
    fn parts_are_inside() {
        HugeBuffer::zeroed(100).unwrap().split([64, 37]);
    }

    #[test]
    fn nothing_is_a_buffer_too() {
        let mut empty = HugeBuffer::zeroed(0).unwrap();
        assert_eq!((empty.len(), empty.iter_mut().count()), (0, 0));
    }

    #[test]
    fn too_much_is_an_error() {
        assert!(HugeBuffer::zeroed(usize::MAX).is_err());
        assert!(HugeBuffer::zeroed(usize::MAX - 3 * HUGE_PAGE).is_err());
    }

    #[test]
    fn weights_can_live_in_it() {
        let mut buffer = HugeBuffer::zeroed(100).unwrap();
        buffer[99] = 7;
        let bytes = super::super::Bytes::whole(std::sync::Arc::new(buffer));
        assert_eq!((bytes.len(), bytes[99]), (100, 7));
    }
}
