//! The box we run in: CPU guard, cgroup limits, affinity, thread pool.

pub mod child;
pub mod cpu;
pub mod guard;
pub mod limits;
pub mod pipe;
pub mod pool;

use std::panic::resume_unwind;
use std::thread;

/// The largest page that Linux has on x86-64 and AArch64: memory can be given back in multiples of it everywhere.
pub const LARGEST_PAGE: usize = 64 << 10;

/// Stack of a thread that runs kernels. What std gives follows RUST_MIN_STACK, and the main thread's `ulimit -s`: either could be less than a
/// kernel takes.
pub const STACK_BYTES: usize = 2 << 20;

/// The results of both; `there` runs on a thread of its own meanwhile, or after `here` where the system has none to give (which rayon's
/// `join` panics for). A panic of either goes on in the caller.
pub fn join<A, B: Send>(here: impl FnOnce() -> A, there: impl Fn() -> B + Sync) -> (A, B) {
    thread::scope(|scope| {
        let other = thread::Builder::new()
            .stack_size(STACK_BYTES)
            .spawn_scoped(scope, &there);
        let here = here();
        let there = match other {
            Ok(thread) => thread.join().unwrap_or_else(|panic| resume_unwind(panic)),
            Err(_) => there(),
        };
        (here, there)
    })
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;
    use std::sync::mpsc::sync_channel;

    use super::*;

    #[test]
    fn both_run_at_the_same_time() {
        // Each waits for the other: one after the other would never end.
        let (to_there, from_here) = sync_channel(0);
        let from_here = std::sync::Mutex::new(from_here);
        let both = join(|| to_there.send(1), || from_here.lock().unwrap().recv());
        assert_eq!(both, (Ok(()), Ok(1)));
    }

    #[test]
    fn a_panic_of_either_reaches_the_caller() {
        let said = |here: fn(), there: fn()| {
            let panic = catch_unwind(|| join(here, there)).unwrap_err();
            *panic.downcast::<&str>().unwrap()
        };
        assert_eq!(said(|| panic!("here"), || ()), "here");
        assert_eq!(said(|| (), || panic!("there")), "there");
    }
}
