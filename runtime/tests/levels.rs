//! What a run of the tests leaves out when its CPU is emulated, hundreds of times slower than a real one.
//!
//! `STERNA_EMULATED_LEVELS=avx512,avx512vnni` asks for these levels alone, for one thread, and for smaller
//! and fewer cases. The step `avx512` of `cargo xtask ci` sets it.

// Every crate of tests that includes this file uses a part of it.
#![allow(dead_code)]

/// Levels that an emulated CPU is there for; `None` on a real one.
fn emulated() -> Option<String> {
    std::env::var("STERNA_EMULATED_LEVELS").ok()
}

/// Whether the kernels of that name are to be tested and `runs` on this CPU. One that does not is a printed SKIP,
/// unless it was asked for by name.
pub fn testable(name: &str, features: &[&str], runs: bool) -> bool {
    match emulated() {
        Some(levels) if !levels.split(',').any(|level| level == name) => return false,
        Some(_) => assert!(runs, "the emulated CPU lacks one of {features:?} for {name}"),
        None if !runs => println!("SKIP {name}: this CPU lacks one of {features:?}"),
        None => {}
    }
    runs
}

/// The numbers of threads to test with. On one emulated core several wait for each other longer than they compute.
pub fn threads() -> &'static [usize] {
    if emulated().is_some() { &[1] } else { &[1, 2, 3] }
}

/// Whether to test a case of so many multiply-adds: on a real CPU always, on an emulated one up to `limit`.
pub fn affordable(work: usize, limit: usize) -> bool {
    emulated().is_none() || work <= limit
}

/// Of the values to try all, or on an emulated CPU the first and the last.
pub fn values<const N: usize>(all: [i8; N]) -> Vec<i8> {
    if emulated().is_some() {
        vec![all[0], all[N - 1]]
    } else {
        all.into()
    }
}

/// How many random cases to try where a real CPU takes `cases`.
pub fn random_cases(cases: u32) -> u32 {
    if emulated().is_some() {
        cases.div_ceil(10)
    } else {
        cases
    }
}
