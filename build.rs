//! Compiles the kernels of one target. Never inspects the CPU it runs on.
fn main() {}
