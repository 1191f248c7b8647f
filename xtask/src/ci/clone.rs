//! The `fresh-clone` step: what a stranger does first, in a clone of its own with nothing compiled yet. README's commands
//! run there as they are written, and an image that it builds has the digest of the one built here.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::report::Report;
use super::{Context, PATIENCE, image};
use crate::tool;

/// The one command that is not run as written is the download: its file is there, with another model in it.
const MODELS: &str = "huggingface.co";

/// How much of a command's output goes into the log.
const LINES_SHOWN: usize = 40;

/// Where the README's server answers.
const HEALTH: &str = "http://127.0.0.1:8080/health";

/// Clones, runs every command of the README's `sh` blocks in their order, and compares digests.
pub fn run(ctx: &Context, report: &mut Report) -> Result<()> {
    let clone = clone(ctx)?;
    let readme = std::fs::read_to_string(clone.join("README.md"))?;
    let mut server = Server(None);
    // All but this program itself.
    for command in commands(&readme)
        .iter()
        .filter(|command| !command.starts_with("cargo xtask ci"))
    {
        let name = command.lines().next().unwrap_or_default();
        report.check(name, || server.run(&clone, command));
    }
    drop(server);
    report.check("the same digest", || {
        // Every level of this architecture in one image.
        let target = "universal";
        let build = ["xtask", "build-image", "--target", target];
        tool::run(there(&mut tool::cargo(&build), &clone))?;
        let here = image::digest(&image::folder(target))?;
        let there = image::digest(&clone.join("target/images").join(target))?;
        ensure!(here == there, "built here {here}, in {} {there}", clone.display());
        Ok(())
    });
    Ok(())
}

/// A clone of the checkout, with what is not committed yet laid over it.
fn clone(ctx: &Context) -> Result<PathBuf> {
    let clone = ctx.scratch("fresh-clone")?;
    let git = || Command::new("git");
    tool::run(git().args(["clone", "--quiet"]).arg(&ctx.root).arg(&clone))?;
    let changed = ["diff", "-z", "--name-only", "HEAD"];
    let added = ["ls-files", "-z", "--others", "--exclude-standard"];
    let list = |args: &[&str]| tool::run(git().arg("-C").arg(&ctx.root).args(args));
    for file in (list(&changed)? + &list(&added)?).split_terminator('\0') {
        let (from, to) = (ctx.root.join(file), clone.join(file));
        if from.is_file() {
            std::fs::create_dir_all(to.parent().context("a file has a folder")?)?;
            std::fs::copy(from, to)?;
        } else if to.is_file() {
            std::fs::remove_file(to)?;
        }
    }
    Ok(clone)
}

/// `command` as if typed in the clone.
fn there<'a>(command: &'a mut Command, clone: &Path) -> &'a mut Command {
    command.current_dir(clone).env_remove("CARGO_TARGET_DIR")
}

/// The commands of a document's `sh` blocks, each whole with its continued lines and without its remark.
fn commands(markdown: &str) -> Vec<String> {
    let mut commands = Vec::new();
    let blocks = markdown.split("```sh\n").skip(1);
    for block in blocks.filter_map(|rest| rest.split("```").next()) {
        for line in block.replace("\\\n", "\\\r").lines() {
            let line = line.split("  # ").next().unwrap_or_default().trim();
            if !line.is_empty() && !line.starts_with('#') {
                commands.push(line.replace('\r', "\n"));
            }
        }
    }
    commands
}

/// The server that a command of the README left in the foreground, which is the background here.
struct Server(Option<Child>);

impl Server {
    fn run(&mut self, clone: &Path, command: &str) -> Result<()> {
        if command.contains(MODELS) {
            return stand_in(clone, command);
        }
        let engine = command
            .split(' ')
            .next()
            .filter(|word| ["podman", "docker"].contains(word));
        if let Some(engine) = engine {
            tool::need(engine, "install podman or docker")?;
            return self.start(clone, command);
        }
        let mut shell = Command::new("sh");
        let said = tool::run(there(shell.args(["-euc", command]), clone))?;
        for line in said.lines().filter(|line| !line.is_empty()).take(LINES_SHOWN) {
            println!("   | {}", line.chars().take(100).collect::<String>());
        }
        if command.starts_with("curl") {
            ensure!(said.contains("data: [DONE]"), "the answer is no whole stream");
        }
        Ok(())
    }

    fn start(&mut self, clone: &Path, command: &str) -> Result<()> {
        let taken = std::net::TcpListener::bind(("127.0.0.1", 8080)).is_err();
        ensure!(!taken, "something else listens on port 8080, which README uses");
        let mut shell = Command::new("sh");
        // The engine passes the signal on that ends it.
        shell.arg("-euc").arg(format!("exec {command}"));
        self.0 = Some(there(&mut shell, clone).spawn()?);
        let start = Instant::now();
        while ureq::get(HEALTH).call().is_err() {
            if start.elapsed() > PATIENCE {
                bail!("{HEALTH} does not become 200");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // Not SIGKILL, which would leave the container. Gone already when this fails.
            let _ = tool::output(Command::new("kill").arg(child.id().to_string()));
            let _ = child.wait();
        }
    }
}

/// The demo model in place of the published one, which has two hundred times its bytes.
fn stand_in(clone: &Path, download: &str) -> Result<()> {
    let mut words = download.split_whitespace().skip_while(|word| *word != "-o");
    let to = words.nth(1).context("a download names its file with -o")?;
    println!("   (the demo model stands in for the download of {to})");
    std::fs::copy(clone.join("demo/sterna-demo.gguf"), clone.join(to))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_whole_and_without_remarks() {
        let text = "a\n```sh\none   # remark\n\n# remark\ntwo \\\n  --more\n```\n```text\nno\n```\n```sh\nthree\n```\n";
        assert_eq!(commands(text), ["one", "two \\\n  --more", "three"]);
    }
}
