//! The box we run in: CPU guard, cgroup limits, affinity, thread pool.

pub mod child;
pub mod cpu;
pub mod guard;
pub mod limits;
pub mod pipe;
pub mod pool;

use std::panic::resume_unwind;
use std::thread;

/// The results of both; `there` runs on a thread of its own meanwhile, or after `here` where the system has none to give.
pub fn join<A, B: Send>(here: impl FnOnce() -> A, there: impl Fn() -> B + Sync) -> (A, B) {
    thread::scope(|scope| {
        let other = thread::Builder::new().spawn_scoped(scope, &there);
        let here = here();
        let there = match other {
            Ok(thread) => thread.join().unwrap_or_else(|panic| resume_unwind(panic)),
            Err(_) => there(),
        };
        (here, there)
    })
}
