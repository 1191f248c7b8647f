//! What a run of the tests leaves out when its CPU is emulated, tens or hundreds of times slower than a real one.
//!
//! `STERNA_EMULATED_LEVELS=avx512,avx512vnni` asks for these levels alone, and for smaller and fewer cases: those that an
//! interpreter of instructions can afford, or `STERNA_EMULATED_WORK=10` times their work. The steps `avx512` and
//! `aarch64` of `cargo xtask ci` set them.

// Every crate of tests that includes this file uses a part of it.
#![allow(dead_code)]

use std::env;

/// Levels that an emulated CPU is there for; `None` on a real one.
fn emulated() -> Option<String> {
    env::var("STERNA_EMULATED_LEVELS").ok()
}

/// How many times the least work an emulated CPU can afford; `None` on a real one, which affords all.
fn affords() -> Option<u32> {
    emulated()?;
    let times = env::var("STERNA_EMULATED_WORK").map_or(1, |times| times.parse().expect("a number"));
    Some(times)
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

/// The numbers of threads to test with. On one interpreted core several wait for each other longer than they compute.
pub fn threads() -> &'static [usize] {
    match affords() {
        None => &[1, 2, 3],
        Some(1) => &[1],
        Some(_) => &[1, 3],
    }
}

/// Whether to test a case of so many multiply-adds: on a real CPU always, on an emulated one up to `limit` times what it affords.
pub fn affordable(work: usize, limit: usize) -> bool {
    affords().is_none_or(|times| work <= limit * times as usize)
}

/// Of the values to try all, or on an interpreted CPU the first and the last.
pub fn values<const N: usize>(all: [i8; N]) -> Vec<i8> {
    if affords() == Some(1) {
        vec![all[0], all[N - 1]]
    } else {
        all.into()
    }
}

/// How many random cases to try where a real CPU takes `cases`: a tenth is the least.
pub fn random_cases(cases: u32) -> u32 {
    affords().map_or(cases, |times| cases.min(cases.div_ceil(10) * times))
}
