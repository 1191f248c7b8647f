//! The steps about dependencies: `deny.toml` says what may be in the tree, RustSec says what should not.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use super::Context;
use super::report::Report;
use crate::tool;

const INSTALL: &str = "install it with `cargo install --locked cargo-deny`";

/// Licences, forbidden crates, registries: everything that needs no network.
pub fn policy(_: &Context, _: &mut Report) -> Result<()> {
    tool::need("cargo-deny", INSTALL)?;
    tool::run(deny().args(["check", "--hide-inclusion-graph", "licenses", "bans", "sources"]))?;
    Ok(())
}

/// Known vulnerabilities and yanked versions, from the RustSec database: fetched, or else the copy that an earlier
/// fetch left. Where neither is to be had this is a printed SKIP: nothing was checked and nothing may say so.
pub fn advisories(_: &Context, _: &mut Report) -> Result<()> {
    tool::need("cargo-deny", INSTALL)?;
    let fetched = tool::output(deny().args(["fetch", "db"]))?;
    let mut check = deny();
    if fetched.code != Some(0) {
        if !earlier_copy() {
            return Err(tool::impossible(
                "the RustSec database cannot be fetched, and no earlier copy of it is here",
            ));
        }
        check.arg("--offline");
    }
    tool::run(check.args(["check", "--hide-inclusion-graph", "advisories"]))?;
    Ok(())
}

/// True when an earlier fetch left the database in cargo's home.
fn earlier_copy() -> bool {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let entries = home.and_then(|h| std::fs::read_dir(h.join("advisory-dbs")).ok());
    entries.into_iter().flatten().flatten().any(|e| e.path().is_dir())
}

fn deny() -> Command {
    tool::cargo(&["deny", "--color", "never"])
}
