//! `cargo xtask`: Sterna's build commands, one verb a file.
fn main() {}
