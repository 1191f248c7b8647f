//! Memory that begins at a cache line, so that no vector load from it straddles two. What `Vec` allocates begins 16 bytes into one, where a GEMM
//! over I2_S runs at 0.85 of its speed (measured on Zen 3), and the coarse head at 0.75 with eight tokens.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use crate::machine::LARGEST_PAGE;

/// Numbers that any bits are a value of.
///
/// # Safety
/// To be implemented for such types alone, without padding, whose size divides a line's.
pub unsafe trait Plain: Copy {}
// SAFETY: any bits are a value of these.
unsafe impl Plain for u8 {}
// SAFETY: as above.
unsafe impl Plain for i8 {}
// SAFETY: as above.
unsafe impl Plain for i16 {}
// SAFETY: as above.
unsafe impl Plain for i32 {}
// SAFETY: as above.
unsafe impl Plain for f32 {}

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line(#[expect(dead_code, reason = "reached through slices of T")] [u8; 64]);

// SAFETY: bytes, as many as its alignment: any bits, no padding.
unsafe impl Plain for Line {}

/// A vector that begins at a cache line.
pub struct Lines<T> {
    lines: Vec<Line>,
    len: usize,
    elements: PhantomData<T>,
}

impl<T: Plain> Lines<T> {
    /// Makes it `len` elements long; new ones are of any value.
    pub fn resize(&mut self, len: usize) {
        let lines = len.div_ceil(size_of::<Line>() / size_of::<T>());
        if self.lines.len() < lines {
            self.lines.resize(lines, Line([0; 64]));
        }
        self.len = len;
    }

    /// As [`give_back`] of all that it ever held: the elements beyond its length as well.
    pub fn give_back(&mut self) {
        give_back(&mut self.lines);
    }
}

impl<T> Default for Lines<T> {
    fn default() -> Self {
        Lines {
            lines: Vec::new(),
            len: 0,
            elements: PhantomData,
        }
    }
}

impl<T: Plain> Deref for Lines<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the lines hold at least so many T, and any bits are one.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

impl<T: Plain> DerefMut for Lines<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above; the lines belong to this value.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

impl<T: Plain + std::fmt::Debug> std::fmt::Debug for Lines<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: Plain + PartialEq> PartialEq for Lines<T> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

/// Gives whole pages of a buffer back to the system, whose elements are of any value from then on. They take memory again when they are written.
pub fn give_back<T: Plain>(buffer: &mut [T]) {
    let bytes = buffer.as_mut_ptr_range();
    let start = bytes.start.addr().next_multiple_of(LARGEST_PAGE);
    let end = bytes.end.addr() / LARGEST_PAGE * LARGEST_PAGE;
    if start < end {
        // SAFETY: whole pages of memory that nobody else reaches meanwhile; what an allocator hands out is private and anonymous, so that they
        // read as zeros, which are a T. A refusal leaves them as they are.
        unsafe { libc::madvise(bytes.start.with_addr(start).cast(), end - start, libc::MADV_DONTNEED) };
    }
}

/// Calls `job` with `len` elements of this thread's own memory, of any value. Panics where `job` does the same.
///
/// For what a wrapper needs beside its arguments: of a stack, the kernels themselves may take half (`KERNEL_STACK_BYTES`).
pub(super) fn with_memory<T: Plain, R>(len: usize, job: impl FnOnce(&mut [T]) -> R) -> R {
    thread_local! {
        /// Grown to the most asked for.
        static BYTES: RefCell<Lines<u8>> = RefCell::new(Lines::default());
    }
    BYTES.with_borrow_mut(|bytes| {
        let needed = len.checked_mul(size_of::<T>()).expect("less than the address space");
        bytes.resize(needed.max(bytes.len()));
        // SAFETY: the bytes are at least as many, begin at a line, and any bits are a T.
        job(unsafe { std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), len) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_is_whole_pages_and_can_be_used_again() {
        let mut buffer = vec![7u8; 4 * LARGEST_PAGE];
        for part in [0..4 * LARGEST_PAGE, 5..5, 5..LARGEST_PAGE - 5] {
            buffer.fill(7);
            give_back(&mut buffer[part.clone()]);
            let zeros = buffer.iter().filter(|&&byte| byte == 0).count();
            // One page less where the buffer does not begin with one.
            let least = part.len() / LARGEST_PAGE;
            assert!(zeros % LARGEST_PAGE == 0 && (least.saturating_sub(1)..=least).contains(&(zeros / LARGEST_PAGE)));
            assert!(
                buffer[..part.start]
                    .iter()
                    .chain(&buffer[part.end..])
                    .all(|&byte| byte == 7)
            );
        }
    }

    #[test]
    fn a_vector_keeps_its_elements_and_begins_at_a_line() {
        let mut lines = Lines::<i16>::default();
        assert!(lines.is_empty());
        for len in [1, 32, 33, 1000, 7] {
            lines.resize(len);
            assert_eq!((lines.len(), lines.as_ptr().addr() % 64), (len, 0));
            assert!(lines[..len.min(1)].iter().all(|&first| [0, -5].contains(&first)));
            lines[0] = -5;
        }
        with_memory(3, |floats: &mut [f32]| {
            assert_eq!((floats.len(), floats.as_ptr().addr() % 64), (3, 0))
        });
    }
}
