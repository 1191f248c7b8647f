//! The command line's entry point, and the only place where an error becomes an exit code.
fn main() {}
