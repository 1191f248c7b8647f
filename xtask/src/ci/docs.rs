//! The steps about what is written for people and for other machines: README's commands, the workflows.

use std::process::Command;

use anyhow::{Result, ensure};
use sterna_codegen::target::TargetSpec;

use super::Context;
use super::report::Report;
use crate::{tool, workspace};

/// Every GitHub workflow against the schema that its makers publish.
pub fn workflows(ctx: &Context, report: &mut Report) -> Result<()> {
    let python = ctx.python("check_jsonschema")?;
    for entry in std::fs::read_dir(ctx.root.join(".github/workflows"))? {
        let path = entry?.path();
        report.check(&path.strip_prefix(&ctx.root)?.display().to_string(), || {
            let schema = ["-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows"];
            tool::run(Command::new(&python).args(schema).arg(&path)).map(drop)
        });
    }
    Ok(())
}

/// README names every target, and the commands that it shows exist: each `cargo xtask VERB` and `--flag` in it.
pub fn readme(ctx: &Context, report: &mut Report) -> Result<()> {
    let text = std::fs::read_to_string(ctx.root.join("README.md"))?;
    report.check("every target stands in its table", || {
        let targets = TargetSpec::all(&workspace::targets_dir())?;
        let absent: Vec<_> = targets
            .iter()
            .filter(|t| !text.contains(&format!("`{}`", t.name)))
            .map(|t| &t.name)
            .collect();
        ensure!(absent.is_empty(), "no {absent:?}");
        Ok(())
    });
    for command in xtask_commands(&text) {
        report.check(&command.join(" "), || knows(ctx, &command));
    }
    Ok(())
}

/// The words after `cargo xtask` in every line of code.
fn xtask_commands(markdown: &str) -> Vec<Vec<&str>> {
    let ends = |c: char| matches!(c, '`' | '#' | '|' | '(' | ')' | '\n');
    let mut commands: Vec<Vec<&str>> = markdown
        .split("cargo xtask ")
        .skip(1)
        .map(|rest| rest.split(ends).next().unwrap_or_default().split_whitespace().collect())
        .collect();
    commands.retain(|c| !c.is_empty());
    commands.sort();
    commands.dedup();
    commands
}

fn knows(ctx: &Context, command: &[&str]) -> Result<()> {
    let help = ctx.xtask(&[command[0], "--help"])?;
    for flag in command.iter().filter(|w| w.starts_with("--")) {
        ensure!(help.contains(flag), "`cargo xtask {}` has no {flag}", command[0]);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_cut_out_of_a_document() {
        let text = "run `cargo xtask demo` or\n```sh\ncargo xtask build-image --target avx2 # here\n```\n";
        assert_eq!(
            xtask_commands(text),
            [vec!["build-image", "--target", "avx2"], vec!["demo"]]
        );
    }
}
