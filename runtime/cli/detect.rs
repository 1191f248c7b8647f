//! `sterna detect`: this machine, what this process may use of it, and what this image makes of that.

use std::fmt::Write;
use std::io::{self, Write as _};

use serde_json::{Value, json};

use super::common::CommandError;
use crate::kernels::{self, TAGS, TARGET};
use crate::machine::cpu::{Cache, Machine};
use crate::machine::guard;
use crate::machine::limits::Limits;

/// How to print.
#[derive(Debug, clap::Args)]
pub struct DetectArgs {
    /// One JSON object
    #[arg(long)]
    json: bool,
    /// Assignments for a shell: eval "$(sterna detect --env)"
    #[arg(long, conflicts_with = "json")]
    env: bool,
}

/// Prints to standard output. Runs on every CPU, also on one that the image refuses.
pub fn run(args: DetectArgs, machine: &Machine) -> Result<(), super::Error> {
    let report = Report::new(machine, Limits::read());
    let text = match args {
        DetectArgs { json: true, .. } => format!("{:#}\n", report.json()),
        DetectArgs { env: true, .. } => report.assignments(),
        _ => report.table(),
    };
    io::stdout().write_all(text.as_bytes()).map_err(CommandError::Stdio)?;
    Ok(())
}

struct Report<'a> {
    machine: &'a Machine,
    limits: Limits,
    /// The variant that would run, or why none would.
    kernel: Result<&'static str, String>,
    /// The published tag that makes the most of this CPU.
    tag: Option<&'static str>,
}

impl<'a> Report<'a> {
    fn new(machine: &'a Machine, limits: Limits) -> Self {
        let guard = guard::check(TARGET.features, machine, TAGS).map_err(|error| error.to_string());
        let choice = || {
            kernels::choose(&machine.features, "auto")
                .map(|v| v.name)
                .map_err(|error| error.to_string())
        };
        Report {
            machine,
            limits,
            kernel: guard.and_then(|()| choice()),
            tag: guard::best_tag(machine, TAGS),
        }
    }

    fn json(&self) -> Value {
        let m = self.machine;
        let cache = |cache: Option<Cache>| cache.map(|c| json!({"bytes": c.bytes, "sharers": c.sharers}));
        json!({
            "arch": m.arch,
            "vendor": m.vendor,
            "model_name": m.model_name,
            "microarchitecture": m.microarchitecture,
            "features": m.features,
            "cache": {
                "line_bytes": m.line_bytes,
                "l1d": cache(m.l1d),
                "l2": cache(m.l2),
                "l3": cache(m.l3),
            },
            "cores": {"physical": m.physical_cores, "logical": m.logical_cores},
            "limits": {
                "cpus": self.limits.cpus.to_string(),
                "cores": self.limits.cores,
                "quota_cpus": self.limits.quota_cpus,
                "memory_bytes": self.limits.memory_bytes,
                "threads": self.limits.threads(),
            },
            "image": {
                "target": TARGET.name,
                "features": TARGET.features,
                "kernel": self.kernel.as_ref().ok(),
                "refusal": self.kernel.as_ref().err(),
            },
            "recommended_tag": self.tag,
        })
    }

    /// The keys that deployment scripts know; what is unknown is empty.
    fn assignments(&self) -> String {
        let m = self.machine;
        let kernel = self.kernel.as_ref().copied().unwrap_or_default();
        let number = |n: Option<u32>| n.map(|n| n.to_string()).unwrap_or_default();
        let rows = [
            ("CPU_ARCH", m.arch.to_owned()),
            ("CPU_TYPE", m.vendor.clone().unwrap_or_default()),
            ("CPU_MODEL", m.model_name.clone().unwrap_or_default()),
            ("CPU_FEATURES", m.features.join(" ")),
            ("CPU_CORES", number(m.physical_cores)),
            ("CPU_THREADS", number(m.logical_cores)),
            (
                "MEMORY_GB",
                self.limits
                    .memory_bytes
                    .map(|bytes| (bytes >> 30).to_string())
                    .unwrap_or_default(),
            ),
            ("OPTIMAL_THREADS", self.limits.threads().to_string()),
            ("RECOMMENDED_KERNEL", kernel.to_owned()),
            ("OPTIMAL_KERNEL", kernel.to_owned()),
            ("RECOMMENDED_TAG", self.tag.unwrap_or_default().to_owned()),
        ];
        rows.into_iter()
            .map(|(name, value)| format!("{name}={}\n", quoted(&value)))
            .collect()
    }

    fn table(&self) -> String {
        let m = self.machine;
        let unknown = || "unknown".to_owned();
        let cache = |cache: Option<Cache>| {
            cache.map_or_else(unknown, |c| match c.sharers {
                Some(n) => format!("{} KiB, shared by {n}", c.bytes >> 10),
                None => format!("{} KiB", c.bytes >> 10),
            })
        };
        let number = |n: Option<u32>| n.map_or_else(unknown, |n| n.to_string());
        let limits = &self.limits;
        let rows = [
            ("architecture", m.arch.to_owned()),
            ("vendor", m.vendor.clone().unwrap_or_else(unknown)),
            ("model", m.model_name.clone().unwrap_or_else(unknown)),
            (
                "microarchitecture",
                m.microarchitecture.map_or_else(unknown, str::to_owned),
            ),
            ("features", m.features.join(" ")),
            ("L1d cache", cache(m.l1d)),
            ("L2 cache", cache(m.l2)),
            ("L3 cache", cache(m.l3)),
            (
                "cores",
                format!(
                    "{} physical, {} logical",
                    number(m.physical_cores),
                    number(m.logical_cores)
                ),
            ),
            ("may use CPUs", limits.cpus.to_string()),
            (
                "CPU quota",
                limits
                    .quota_cpus
                    .map_or_else(|| "none".to_owned(), |cpus| format!("{cpus} CPUs")),
            ),
            (
                "memory",
                limits
                    .memory_bytes
                    .map_or_else(unknown, |bytes| format!("{} MiB", bytes >> 20)),
            ),
            ("threads auto", limits.threads().to_string()),
            ("image", TARGET.name.to_owned()),
            (
                "kernel auto",
                self.kernel
                    .clone()
                    .map_or_else(|refusal| format!("none: {refusal}"), str::to_owned),
            ),
            ("best tag", self.tag.map_or_else(unknown, str::to_owned)),
        ];
        rows.into_iter().fold(String::new(), |mut table, (name, value)| {
            writeln!(table, "{name:<18} {value}").expect("writing to a String");
            table
        })
    }
}

/// A shell word that stands for exactly `text`.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shell_reads_back_what_was_detected() {
        let mut machine = Machine::detect();
        machine.model_name = Some("It's a $(CPU) `@` 3\\GHz".to_owned());
        let report = Report::new(&machine, Limits::read());
        let script = format!(
            "{}printf '%s|%s' \"$CPU_MODEL\" \"$OPTIMAL_THREADS\"",
            report.assignments()
        );
        let shell = std::process::Command::new("sh").arg("-c").arg(script).output().unwrap();
        let expected = format!("It's a $(CPU) `@` 3\\GHz|{}", report.limits.threads());
        assert_eq!(String::from_utf8(shell.stdout).unwrap(), expected);
    }

    #[test]
    fn the_recommended_kernel_is_one_that_the_server_takes() {
        let machine = Machine::detect();
        let report = Report::new(&machine, Limits::read());
        let kernel = report
            .kernel
            .clone()
            .expect("tests run on a CPU that the build supports");
        assert!(kernels::choose(&machine.features, kernel).is_ok());
        assert_eq!(report.json()["image"]["kernel"], kernel);
        assert!(report.table().contains(kernel));
    }
}
