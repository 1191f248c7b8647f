//! The `demo` step: the demo model's file, numbers and export are those that its page and its reference state.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::report::Report;
use super::{Context, image};
use crate::tool;

/// How far PyTorch's perplexity and ours may lie apart.
const TOLERANCE: f64 = 0.005;

/// The model lives in the project, so it stays small.
const MODEL_BYTES_MAX: usize = 6_000_000;

/// Export, model file, perplexity.
pub fn run(ctx: &Context, report: &mut Report) -> Result<()> {
    let folder = ctx.root.join("demo");
    report.check("export.py gives the committed bytes", || {
        let python = ctx.python("numpy")?;
        tool::run(Command::new(python).arg(folder.join("export.py")).arg("--check")).map(drop)
    });
    let reference = std::fs::read(folder.join("reference.json"))?;
    let reference: Value = serde_json::from_slice(&reference).context("demo/reference.json")?;
    let model = folder.join("sterna-demo.gguf");
    report.check("the reference is of this model", || {
        let bytes = std::fs::read(&model)?;
        ensure!(bytes.len() < MODEL_BYTES_MAX, "{} bytes", bytes.len());
        let sha256: String = Sha256::digest(&bytes)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        ensure!(reference["sha256"] == sha256.as_str(), "its SHA-256 is {sha256}");
        Ok(())
    });
    report.check("the image's perplexity is PyTorch's", || {
        let expected = &reference["perplexity"];
        let context = expected["context"].to_string();
        let mut sterna = Command::new(image::folder("universal").join("rootfs/sterna"));
        sterna.arg("perplexity").arg(&model).arg(folder.join("heldout.txt"));
        let said = tool::run(sterna.args(["--json", "--context", &context]))?;
        println!("   {}", said.trim());
        let ours: Value = serde_json::from_str(&said)?;
        for count in ["tokens", "bytes"] {
            ensure!(ours[count] == expected[count], "{count}: {} expected", expected[count]);
        }
        for value in ["perplexity", "bits_per_byte"] {
            let (ours, expected) = (ours[value].as_f64(), expected[value].as_f64());
            let ratio = ours.context("a number")? / expected.context("a number")?;
            ensure!((ratio - 1.0).abs() < TOLERANCE, "{value} is {ratio} times PyTorch's");
        }
        Ok(())
    });
    Ok(())
}
