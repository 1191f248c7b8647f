//! The `tidy` step: small rules about the files of the checkout that no compiler knows.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::Context;
use super::report::Report;
use crate::tool;

/// Larger files need a reason here.
const MAX_BYTES: u64 = 200_000;

/// Files that may be larger, by the start of their path, and why.
const LARGE: &[(&str, &str)] = &[
    ("runtime/tests/data/", "the golden models of the tests"),
    ("demo/", "the demo model"),
];

/// A longer Rust file is two files.
const MAX_RUST_LINES: usize = 600;

/// What a committed path may not start with: somebody's home, somebody's workplace. In pieces, since this file
/// is checked too.
const HOMES: &[&str] = &[
    concat!("/ho", "me/"),
    concat!("/ro", "ot/"),
    concat!("/Us", "ers/"),
    concat!("/wo", "rk/"),
];

/// One file that git tracks.
struct File {
    /// Relative to the root.
    path: PathBuf,
    bytes: u64,
    /// `None` for a binary file.
    text: Option<String>,
}

/// Every rule over every tracked file.
pub fn run(ctx: &Context, report: &mut Report) -> Result<()> {
    let files = tracked(&ctx.root)?;
    let mut rule = |name: &str, find: &dyn Fn(&File) -> Vec<String>| {
        let found: Vec<String> = files
            .iter()
            .flat_map(|f| find(f).into_iter().map(|s| format!("\n    {}: {s}", f.path.display())))
            .collect();
        report.check(name, || {
            if found.is_empty() {
                Ok(())
            } else {
                bail!("{}", found.concat())
            }
        });
    };
    rule("no large file without a reason", &too_large);
    rule("no long source file", &too_long);
    rule("no path of somebody's home", &home_paths);
    rule("no trailing white space, one newline at the end", &white_space);
    rule("links in documents lead somewhere", &|f| dead_links(&ctx.root, f));
    rule("every dependency says what it is for", &silent_dependencies);
    Ok(())
}

fn tracked(root: &Path) -> Result<Vec<File>> {
    let list = tool::run(Command::new("git").arg("-C").arg(root).args(["ls-files", "-z"]))?;
    let mut files = Vec::new();
    for path in list.split_terminator('\0').map(PathBuf::from) {
        let full = root.join(&path);
        if !full.is_file() {
            continue; // deleted, but not yet in a commit
        }
        let bytes = std::fs::read(&full).with_context(|| format!("cannot read {}", full.display()))?;
        let text = if bytes.contains(&0) {
            None
        } else {
            String::from_utf8(bytes.clone()).ok()
        };
        files.push(File {
            path,
            bytes: bytes.len() as u64,
            text,
        });
    }
    Ok(files)
}

fn too_large(file: &File) -> Vec<String> {
    let reason = LARGE.iter().any(|(start, _)| file.path.starts_with(start));
    let lock = file.path.ends_with("Cargo.lock");
    if file.bytes <= MAX_BYTES || reason || lock {
        return Vec::new();
    }
    vec![format!(
        "{} bytes; above {MAX_BYTES} a file needs its reason in xtask/src/ci/tidy.rs",
        file.bytes
    )]
}

fn too_long(file: &File) -> Vec<String> {
    let lines = file.text.as_deref().map_or(0, |t| t.lines().count());
    if file.path.extension().is_none_or(|e| e != "rs") || lines <= MAX_RUST_LINES {
        return Vec::new();
    }
    vec![format!("{lines} lines; split it below {MAX_RUST_LINES}")]
}

fn home_paths(file: &File) -> Vec<String> {
    // A path of its own, not the end of a longer one such as `$CARGO/home/`.
    // `me` is nobody: the name for examples.
    let starts = |line: &str, home: &str| {
        line.match_indices(home).any(|(at, _)| {
            let before = line[..at].chars().next_back();
            let own = before.is_none_or(|c| !(c.is_alphanumeric() || "._-}/~".contains(c)));
            own && !line[at + home.len()..].starts_with("me/")
        })
    };
    lines(file)
        .filter(|(_, l)| HOMES.iter().any(|h| starts(l, h)))
        .map(|(n, l)| format!("line {n}: {l}"))
        .collect()
}

fn white_space(file: &File) -> Vec<String> {
    let mut found: Vec<String> = lines(file)
        .filter(|(_, l)| l.ends_with([' ', '\t']))
        .map(|(n, _)| format!("line {n}"))
        .collect();
    if let Some(text) = &file.text
        && !text.is_empty()
        && (!text.ends_with('\n') || text.ends_with("\n\n"))
    {
        found.push("the end of the file".to_owned());
    }
    let generated = ["runtime/tests/data", "codegen/golden"];
    if generated.iter().any(|folder| file.path.starts_with(folder)) {
        Vec::new()
    } else {
        found
    }
}

/// Relative targets of `[text](target)` in Markdown that are not in the checkout.
fn dead_links(root: &Path, file: &File) -> Vec<String> {
    let Some(text) = file
        .text
        .as_deref()
        .filter(|_| file.path.extension().is_some_and(|e| e == "md"))
    else {
        return Vec::new();
    };
    let folder = root.join(&file.path).parent().expect("a file has a folder").to_owned();
    link_targets(text)
        .filter(|t| !t.contains("://") && !t.starts_with('#') && !t.starts_with("mailto:"))
        .filter(|t| !folder.join(t.split('#').next().unwrap_or(t)).exists())
        .map(|t| format!("no {t}"))
        .collect()
}

fn link_targets(markdown: &str) -> impl Iterator<Item = &str> {
    markdown
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')'))
        .map(|(target, _)| target)
}

/// Lines of a manifest's dependency tables that have no comment; the workspace's own crates need none.
fn silent_dependencies(file: &File) -> Vec<String> {
    if !file.path.ends_with("Cargo.toml") {
        return Vec::new();
    }
    let mut inside = false;
    let mut silent = Vec::new();
    for (_, line) in lines(file) {
        if line.starts_with('[') {
            inside = line.trim_end().ends_with("dependencies]");
        } else if inside && line.contains('=') && !line.contains('#') && !line.contains("path = ") {
            silent.push(line.to_owned());
        }
    }
    silent
}

fn lines(file: &File) -> impl Iterator<Item = (usize, &str)> {
    file.text
        .as_deref()
        .unwrap_or_default()
        .lines()
        .enumerate()
        .map(|(i, l)| (i + 1, l))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> File {
        File {
            path: path.into(),
            bytes: text.len() as u64,
            text: Some(text.to_owned()),
        }
    }

    #[test]
    fn homes_are_found_only_where_a_path_starts() {
        let home = |rest: &str| format!("{}{rest}", HOMES[0]);
        assert_eq!(home_paths(&file("a", &format!("cd {}", home("jo")))).len(), 1);
        assert_eq!(home_paths(&file("a", &format!("\"{}\"", home("jo")))).len(), 1);
        assert_eq!(home_paths(&file("a", &format!("target{}", home("x")))).len(), 0);
    }

    #[test]
    fn manifests_explain_their_dependencies() {
        let manifest = "[package]\nname = \"x\"\n[dependencies]\na = \"1\" # why\nb = \"1\"\nc = { path = \"c\" }\n";
        assert_eq!(silent_dependencies(&file("Cargo.toml", manifest)), ["b = \"1\""]);
        assert_eq!(silent_dependencies(&file("x/other.toml", manifest)).len(), 0);
    }

    #[test]
    fn links_are_cut_out_of_markdown() {
        let targets: Vec<_> = link_targets("see [a](b.md) and [c](https://d/e#f), (not) this").collect();
        assert_eq!(targets, ["b.md", "https://d/e#f"]);
    }

    #[test]
    fn sizes_and_white_space() {
        assert_eq!(too_long(&file("a.rs", &"x\n".repeat(MAX_RUST_LINES + 1))).len(), 1);
        assert_eq!(white_space(&file("a.md", "ok\nbad \n\n")).len(), 2);
        assert_eq!(white_space(&file("a.md", "ok\n")).len(), 0);
    }
}
