//! What happens when the reader of our output goes away.
#![allow(unsafe_code)] // signal

/// Lets a write to a closed pipe end the process, as for every Unix tool. Rust ignores that signal, and then printing
/// panics.
pub fn end_on_broken_pipe() {
    // SAFETY: the default action is valid for SIGPIPE, and no handler of ours is replaced.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}
