//! The box we run in: CPU guard, cgroup limits, affinity, thread pool.

pub mod child;
pub mod cpu;
pub mod guard;
pub mod limits;
pub mod pipe;
pub mod pool;
