//! `matrix`: what a continuous-integration service has to build, one job an architecture.
//!
//! Not one job a target: the dependencies compile once for all targets of an architecture.

use anyhow::Result;
use serde::Serialize;
use sterna_codegen::target::{Arch, TargetSpec};

use crate::{print, workspace};

/// Print the CI matrix: which targets to build on which machine
///
/// With --json in the form that GitHub Actions takes: `strategy: matrix: ${{ fromJSON(...) }}`. It follows from the
/// files in images/targets: a new file there is built by the next run.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print JSON for `fromJSON`
    #[arg(long)]
    json: bool,
}

/// The whole matrix, as GitHub Actions spells it.
#[derive(Debug, Serialize)]
struct Matrix {
    include: Vec<Job>,
}

/// The images of one architecture.
#[derive(Debug, Serialize)]
struct Job {
    arch: &'static str,
    /// For `--target`: names by comma.
    target: String,
    runner: &'static str,
    triple: String,
    /// Debian packages, by space.
    packages: &'static str,
}

/// Prints the matrix.
pub fn run(args: &Args) -> Result<()> {
    let matrix = matrix(&TargetSpec::all(&workspace::targets_dir())?);
    if args.json {
        return print(&format!("{}\n", serde_json::to_string(&matrix)?));
    }
    let mut text = format!("{:<8} {:<18} TARGETS\n", "ARCH", "RUNNER");
    for job in &matrix.include {
        text += &format!("{:<8} {:<18} {}\n", job.arch, job.runner, job.target);
    }
    print(&text)
}

fn matrix(targets: &[TargetSpec]) -> Matrix {
    let job = |arch: Arch| {
        let names: Vec<&str> = targets
            .iter()
            .filter(|target| target.arch == arch)
            .map(|target| target.name.as_str())
            .collect();
        let job = Job {
            arch: arch.oci_name(),
            target: names.join(","),
            // Native machines of both kinds, so that what is built can also be run.
            runner: match arch {
                Arch::X86_64 => "ubuntu-24.04",
                Arch::Aarch64 => "ubuntu-24.04-arm",
            },
            triple: format!("{}-unknown-linux-gnu", arch.rust_name()),
            packages: "gcc libc6-dev",
        };
        (!names.is_empty()).then_some(job)
    };
    Matrix {
        include: [Arch::X86_64, Arch::Aarch64].into_iter().filter_map(job).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_committed_target_is_built_exactly_once() {
        let targets = TargetSpec::all(&workspace::targets_dir()).unwrap();
        let json = serde_json::to_value(matrix(&targets)).unwrap();
        let mut built = Vec::new();
        for job in json["include"].as_array().unwrap() {
            assert!(job["triple"].as_str().unwrap().ends_with("-unknown-linux-gnu"));
            built.extend(job["target"].as_str().unwrap().split(',').map(str::to_owned));
        }
        built.sort();
        let mut all: Vec<String> = targets.into_iter().map(|target| target.name).collect();
        all.sort();
        assert_eq!(built, all);
    }

    #[test]
    fn an_architecture_without_targets_has_no_job() {
        let targets: Vec<TargetSpec> = TargetSpec::all(&workspace::targets_dir()).unwrap();
        let arm: Vec<TargetSpec> = targets
            .into_iter()
            .filter(|target| target.arch == Arch::Aarch64)
            .collect();
        let jobs = matrix(&arm).include;
        assert_eq!(jobs.len(), 1);
        assert_eq!((jobs[0].arch, jobs[0].runner), ("arm64", "ubuntu-24.04-arm"));
    }
}
