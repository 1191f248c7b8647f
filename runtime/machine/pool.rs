//! The thread pool of the forward pass: fork-join over a fixed set of threads.
//!
//! A token takes a few hundred joins, so a join has to cost about a microsecond: between rounds a worker
//! spins for a moment and only then parks. With fewer CPUs than threads nobody spins, because the
//! spinning thread would sit on the CPU that the awaited one needs.
#![allow(unsafe_code)] // a job's lifetime is erased for the workers; see `round`

use std::any::Any;
use std::hint;
use std::panic::{self, AssertUnwindSafe};
use std::ptr;
use std::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle, Thread};

use super::{STACK_BYTES, limits};

/// Looks at the awaited value before parking: some tens of microseconds, longer than the serial gaps of a pass.
const SPINS: usize = 2000;

/// Threads whose pieces a thread looks through when its own are done. Each look can be a line from another core's cache, and many of them
/// would cost more than the join.
const HELPED: usize = 7;

/// A fixed set of worker threads; the caller's thread is one of them.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held during a round: callers from several threads take turns.
    turn: Mutex<()>,
    /// Of each thread's pieces in [`Pool::each`], how many were begun.
    begun: Vec<Counter>,
}

/// With a cache line of its own.
#[derive(Default)]
#[repr(align(64))]
struct Counter(AtomicUsize);

type Job<'a> = &'a (dyn Fn(usize) + Sync);

struct Shared {
    spins: usize,
    /// Rounds started. A change is the signal to work.
    round: AtomicUsize,
    /// Workers still busy in this round.
    busy: AtomicUsize,
    /// Workers that have parked, or are about to.
    parked: AtomicUsize,
    /// The round's job. Points into the stack of `round`, which outlives the round.
    job: AtomicPtr<Job<'static>>,
    /// The pool is being dropped.
    closing: AtomicBool,
    /// First panic of the round.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    /// The caller, when it parks to wait for the last worker.
    caller: Mutex<Option<Thread>>,
    caller_waits: AtomicBool,
}

impl Pool {
    /// A pool of `threads` threads (at least 1), the caller's included: how many is `limits`' business.
    ///
    /// Where the system refuses a thread (a process limit), the pool has as many as there are.
    pub fn new(threads: usize) -> Self {
        let threads = threads.max(1);
        let shared = Arc::new(Shared {
            spins: if threads <= limits::usable_cpus() { SPINS } else { 0 },
            round: AtomicUsize::new(0),
            busy: AtomicUsize::new(0),
            parked: AtomicUsize::new(0),
            job: AtomicPtr::new(ptr::null_mut()),
            closing: AtomicBool::new(false),
            panic: Mutex::new(None),
            caller: Mutex::new(None),
            caller_waits: AtomicBool::new(false),
        });
        let mut workers = Vec::with_capacity(threads - 1);
        for index in 1..threads {
            let shared = Arc::clone(&shared);
            let spawned = thread::Builder::new()
                .name(format!("sterna-{index}"))
                .stack_size(STACK_BYTES)
                .spawn(move || shared.work(index));
            match spawned {
                Ok(worker) => workers.push(worker),
                Err(error) => {
                    tracing::warn!("running with {index} of {threads} threads, the system refused more: {error}");
                    break;
                }
            }
        }
        Pool {
            shared,
            begun: (0..=workers.len()).map(|_| Counter::default()).collect(),
            workers,
            turn: Mutex::new(()),
        }
    }

    /// How many threads take part in [`Pool::run`].
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `job(i)` once for every `i` in `0..threads`, in parallel, and returns when all are done.
    ///
    /// A panic of a call is passed on once the others are done. A job must not call `run` on its own pool.
    pub fn run(&self, job: &(dyn Fn(usize) + Sync)) {
        if self.workers.is_empty() {
            return job(0);
        }
        self.round(lock(&self.turn), job);
    }

    /// Calls `job(owner, piece)` once for every thread `owner` and every `piece` in `0..pieces`, in parallel, and returns when all are done.
    ///
    /// Each thread goes through its own pieces in order, so that these can be one stream of memory, and then takes what others have not
    /// begun: a core that is slower than the others, or busy with something else, is waited for no longer than a piece takes it.
    /// A panic of a call is passed on once the others are done; then some pieces may not have been begun. A job must not call its own pool.
    pub fn each(&self, pieces: usize, job: &(dyn Fn(usize, usize) + Sync)) {
        if self.workers.is_empty() {
            return (0..pieces).for_each(|piece| job(0, piece));
        }
        let turn = lock(&self.turn);
        self.begun.iter().for_each(|begun| begun.0.store(0, Relaxed));
        self.round(turn, &|thread| {
            let (before, from) = self.begun.split_at(thread);
            let owners = (thread..).zip(from).chain((0..).zip(before));
            for (owner, Counter(begun)) in owners.take(1 + HELPED) {
                // Looking is cheaper than taking, where others take as well.
                while begun.load(Relaxed) < pieces {
                    let piece = begun.fetch_add(1, Relaxed);
                    if piece < pieces {
                        job(owner, piece);
                    }
                }
            }
        });
    }

    /// `job` on all threads. It and what it borrows outlive the round, since this returns only when no worker is busy.
    fn round(&self, turn: MutexGuard<'_, ()>, job: Job<'_>) {
        let shared = &*self.shared;
        shared.busy.store(self.workers.len(), Relaxed);
        shared.job.store((&raw const job).cast_mut().cast(), Relaxed);
        self.start_round();
        shared.call(job, 0);
        shared.await_workers();
        let panicked = lock(&shared.panic).take();
        drop(turn);
        if let Some(payload) = panicked {
            panic::resume_unwind(payload);
        }
    }

    fn start_round(&self) {
        // SeqCst here and in `await_round`: either the worker sees the new round before it parks, or we see it parked.
        self.shared.round.fetch_add(1, SeqCst);
        if self.shared.parked.load(SeqCst) > 0 {
            self.workers.iter().for_each(|worker| worker.thread().unpark());
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.closing.store(true, Relaxed);
        self.start_round();
        for worker in self.workers.drain(..) {
            // A worker catches its job's panics, so there is none to report here.
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// A worker's life: one job a round.
    fn work(&self, index: usize) {
        for round in 0usize.. {
            self.await_round(round);
            if self.closing.load(Relaxed) {
                return;
            }
            let job = self.job.load(Relaxed);
            // SAFETY: `round` stored a pointer to a live reference before it started this round, and does not return
            // before `busy` is 0, which needs our decrement below. Acquire of `round` ordered that store before us.
            let job: Job<'_> = unsafe { *job };
            self.call(job, index);
            // SeqCst as in `await_workers`: either the caller sees 0 before it parks, or we see that it waits.
            if self.busy.fetch_sub(1, SeqCst) == 1
                && self.caller_waits.load(SeqCst)
                && let Some(caller) = &*lock(&self.caller)
            {
                caller.unpark();
            }
        }
    }

    fn call(&self, job: Job<'_>, index: usize) {
        // The caller sees the panic again, so whatever it broke is not silently used.
        if let Err(payload) = panic::catch_unwind(AssertUnwindSafe(|| job(index))) {
            lock(&self.panic).get_or_insert(payload);
        }
    }

    /// Returns when more than `round` rounds have started.
    fn await_round(&self, round: usize) {
        for _ in 0..self.spins {
            if self.round.load(Acquire) != round {
                return;
            }
            hint::spin_loop();
        }
        self.parked.fetch_add(1, SeqCst);
        while self.round.load(SeqCst) == round {
            thread::park();
        }
        self.parked.fetch_sub(1, Relaxed);
    }

    /// Returns when no worker is busy.
    fn await_workers(&self) {
        for _ in 0..self.spins {
            if self.busy.load(Acquire) == 0 {
                return;
            }
            hint::spin_loop();
        }
        *lock(&self.caller) = Some(thread::current());
        self.caller_waits.store(true, SeqCst);
        while self.busy.load(SeqCst) != 0 {
            thread::park();
        }
        self.caller_waits.store(false, Relaxed);
    }
}

/// Nothing that these mutexes guard can be left half-changed by a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often each index was called.
    fn count(pool: &Pool, rounds: usize) -> Vec<usize> {
        let calls: Vec<AtomicUsize> = (0..pool.threads()).map(|_| AtomicUsize::new(0)).collect();
        for _ in 0..rounds {
            pool.run(&|i| {
                calls[i].fetch_add(1, Relaxed);
            });
        }
        calls.into_iter().map(AtomicUsize::into_inner).collect()
    }

    #[test]
    fn every_index_runs_once_a_round() {
        for threads in [0, 1, 2, 3, 8] {
            let pool = Pool::new(threads);
            assert_eq!(pool.threads(), threads.max(1));
            assert_eq!(count(&pool, 500), vec![500; threads.max(1)]);
        }
    }

    #[test]
    fn every_piece_runs_once() {
        for threads in [1, 2, 3, 12] {
            let pool = Pool::new(threads);
            for pieces in [0, 1, 2, 7, 100] {
                let calls: Vec<AtomicUsize> = (0..threads * pieces).map(|_| AtomicUsize::new(0)).collect();
                for _ in 0..20 {
                    pool.each(pieces, &|owner, piece| {
                        assert!(piece < pieces);
                        calls[owner * pieces + piece].fetch_add(1, Relaxed);
                    });
                }
                assert!(
                    calls.iter().all(|calls| calls.load(Relaxed) == 20),
                    "{threads} x {pieces}"
                );
            }
        }
    }

    #[test]
    fn the_pieces_of_a_slow_thread_are_taken_by_others() {
        for slow in 0..3 {
            let (pool, done) = (Pool::new(3), AtomicUsize::new(0));
            pool.each(10, &|owner, piece| {
                // One piece takes as long as all others together: whoever has it gets to no other.
                while (owner, piece) == (slow, 0) && done.load(SeqCst) < 29 {
                    thread::yield_now();
                }
                done.fetch_add(1, SeqCst);
            });
            assert_eq!(done.into_inner(), 30);
        }
    }

    #[test]
    fn a_panic_in_a_piece_reaches_the_caller_and_the_pool_survives() {
        for threads in [1, 3] {
            let pool = Pool::new(threads);
            let result = panic::catch_unwind(AssertUnwindSafe(|| {
                pool.each(5, &|owner, piece| {
                    assert_ne!((owner, piece), (threads - 1, 2), "culprit")
                });
            }));
            assert!(result.is_err());
            let calls = AtomicUsize::new(0);
            pool.each(5, &|_, _| _ = calls.fetch_add(1, Relaxed));
            assert_eq!(calls.into_inner(), 5 * threads);
        }
    }

    #[test]
    fn each_thread_goes_through_pieces_in_order() {
        let pool = Pool::new(2);
        let begun = Mutex::new(Vec::new());
        pool.each(50, &|owner, piece| {
            lock(&begun).push((thread::current().id(), owner, piece))
        });
        let begun = begun.into_inner().unwrap();
        for &(thread, owner, _) in &begun {
            let same = begun.iter().filter(|other| (other.0, other.1) == (thread, owner));
            assert!(same.is_sorted_by_key(|&(.., piece)| piece), "{begun:?}");
        }
    }

    #[test]
    fn many_more_threads_than_cpus_still_finish() {
        let pool = Pool::new(4 * limits::usable_cpus() + 1);
        assert_eq!(count(&pool, 200), vec![200; pool.threads()]);
    }

    #[test]
    fn workers_wake_up_after_a_pause_longer_than_their_spin() {
        let pool = Pool::new(2);
        for _ in 0..5 {
            thread::sleep(std::time::Duration::from_millis(20));
            assert_eq!(count(&pool, 1), [1, 1]);
        }
    }

    /// CPU time that another thread has used so far, in nanoseconds.
    fn cpu_time(clock: libc::clockid_t) -> i64 {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the kernel writes one timespec; the thread of the clock is alive as long as its pool.
        assert_eq!(unsafe { libc::clock_gettime(clock, &raw mut time) }, 0);
        time.tv_sec * 1_000_000_000 + time.tv_nsec
    }

    /// The clocks of a pool's workers, without the caller's.
    fn clocks(pool: &Pool) -> Vec<libc::clockid_t> {
        let clocks = Mutex::new(Vec::new());
        pool.run(&|i| {
            let mut clock = 0;
            // SAFETY: a thread's own handle is valid, and one clockid is written.
            let rc = unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &raw mut clock) };
            assert_eq!(rc, 0);
            if i > 0 {
                lock(&clocks).push(clock);
            }
        });
        clocks.into_inner().unwrap()
    }

    /// By the workers' own clocks, so that a busy machine changes nothing.
    #[test]
    fn idle_workers_use_no_cpu_time() {
        // With CPUs for all threads, which then spin first; and without.
        for threads in [2, 4 * limits::usable_cpus() + 1] {
            let pool = Pool::new(threads);
            let clocks = clocks(&pool);
            assert_eq!(clocks.len(), threads - 1);
            let used = || clocks.iter().map(|&clock| cpu_time(clock)).sum::<i64>();
            // All have spun: none is counted as parked that does not park next.
            while pool.shared.parked.load(SeqCst) < clocks.len() {
                thread::yield_now();
            }
            // What is left of going to sleep may take its time: there comes a while without any work.
            let mut idle = Vec::new();
            while idle.last().is_none_or(|&used| used >= 1_000_000) {
                assert!(
                    idle.len() < 10,
                    "{threads} threads used {idle:?} ns in each 300 ms without work"
                );
                let before = used();
                thread::sleep(std::time::Duration::from_millis(300));
                idle.push(used() - before);
            }
        }
    }

    /// While the caller works alone for long, a worker that has nothing to do spins for a moment and parks.
    #[test]
    fn a_worker_that_is_done_early_spins_only_briefly() {
        let pool = Pool::new(2);
        let clock = clocks(&pool)[0];
        let before = cpu_time(clock);
        pool.run(&|i| {
            if i == 0 {
                thread::sleep(std::time::Duration::from_millis(300));
            }
        });
        let used = cpu_time(clock) - before;
        assert!(used < 100_000_000, "spun for {used} ns of 300 ms");
    }

    #[test]
    fn a_round_ends_before_run_returns() {
        let pool = Pool::new(3);
        for round in 0..200 {
            let mut results = [0; 3];
            {
                let slots: Vec<Mutex<&mut usize>> = results.iter_mut().map(Mutex::new).collect();
                pool.run(&|i| **lock(&slots[i]) = round + i);
            }
            assert_eq!(results, [round, round + 1, round + 2]);
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_survives() {
        let pool = Pool::new(3);
        for culprit in 0..3 {
            let finished = AtomicUsize::new(0);
            let result = panic::catch_unwind(AssertUnwindSafe(|| {
                pool.run(&|i| {
                    assert_ne!(i, culprit, "culprit");
                    finished.fetch_add(1, Relaxed);
                });
            }));
            assert!(result.is_err());
            assert_eq!(finished.into_inner(), 2);
            assert_eq!(count(&pool, 10), [10; 3]);
        }
    }

    #[test]
    fn callers_from_several_threads_take_turns() {
        let pool = Pool::new(2);
        let calls = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        pool.run(&|_| {
                            calls.fetch_add(1, Relaxed);
                        });
                    }
                });
            }
        });
        assert_eq!(calls.into_inner(), 800);
    }

    #[test]
    fn drop_ends_the_threads() {
        let pool = Pool::new(3);
        let shared = Arc::downgrade(&pool.shared);
        drop(pool);
        assert_eq!(shared.strong_count(), 0);
    }
}
