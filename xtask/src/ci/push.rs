//! The registry step: what was built, pushed to a real registry, and pulled back by somebody else's client.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::Context;
use super::image::{digest, folder};
use super::registry::{PASSWORD, Registry, USER};
use super::report::Report;
use crate::container::Engine;
use crate::oci::key;
use crate::tool;

/// Plain HTTP, an index, TLS with a password, and a wrong password.
pub fn run(ctx: &Context, report: &mut Report) -> Result<()> {
    let scratch = ctx.scratch("registry")?;
    let plain = Registry::plain(&scratch.join("plain"))?;
    report.check("one image over plain HTTP", || push_one(&plain, &scratch));
    report.check("two targets and their index", || push_index(&plain, &scratch));
    let tls = Registry::tls(&scratch.join("tls"))?;
    report.check("one image over TLS with a password", || push_one(&tls, &scratch));
    report.check("a wrong password is refused with a sentence", || {
        let out = tool::output(push(&tls, &scratch, "wrong", "ci")?.arg("--from").arg(folder("avx2")))?;
        ensure!(out.code == Some(1) && out.stderr.contains(&tls.host), "{out:?}");
        Ok(())
    });
    Ok(())
}

/// `cargo xtask push` to `registry` with this password.
fn push(registry: &Registry, scratch: &Path, password: &str, tag: &str) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("push").arg(format!("{}/sterna{tag}", registry.host));
    command
        .env("DOCKER_CONFIG", docker_config(registry, scratch, password)?)
        .env_remove("REGISTRY_AUTH_FILE");
    if let Some(ca) = &registry.ca {
        command.arg("--ca-cert").arg(ca);
    }
    Ok(command)
}

/// A folder with a Docker configuration that knows the registry's password, as `docker login` leaves it.
fn docker_config(registry: &Registry, scratch: &Path, password: &str) -> Result<std::path::PathBuf> {
    let folder = scratch.join("docker");
    std::fs::create_dir_all(&folder)?;
    let auth = STANDARD.encode(format!("{USER}:{password}"));
    let config = serde_json::json!({ "auths": { &registry.host: { "auth": auth } } });
    std::fs::write(folder.join("config.json"), config.to_string())?;
    Ok(folder)
}

fn push_one(registry: &Registry, scratch: &Path) -> Result<()> {
    tool::run(
        push(registry, scratch, PASSWORD, ":ci")?
            .arg("--from")
            .arg(folder("avx2")),
    )?;
    let (here, there) = (digest(&folder("avx2"))?, registry.digest("sterna", "ci")?);
    ensure!(here == there, "pushed {here}, the registry has {there}");
    let pulled = pull(registry, scratch, "ci", "{{.Digest}}")?;
    ensure!(here == pulled, "pushed {here}, pulled {pulled}");
    Ok(())
}

/// The index's tag leads every client to the image that runs everywhere, and each target keeps its own tag.
fn push_index(registry: &Registry, scratch: &Path) -> Result<()> {
    let mut push = push(registry, scratch, PASSWORD, "")?;
    let said = tool::run(
        push.arg("--from")
            .arg(folder("avx2"))
            .arg("--from")
            .arg(folder("universal")),
    )?;
    for target in ["avx2", "universal"] {
        let (here, there) = (digest(&folder(target))?, registry.digest("sterna", target)?);
        ensure!(here == there, "{target}: pushed {here}, the registry has {there}");
    }
    let index = registry.digest("sterna", "latest")?;
    ensure!(
        said.contains(&index),
        "the registry's index is {index}, but the push says:\n{said}"
    );
    let label = format!("{{{{index .Labels \"{}\"}}}}", key::TARGET);
    let target = pull(registry, scratch, "latest", &label)?;
    ensure!(target == "universal", "`latest` leads to the image for {target}");
    Ok(())
}

/// Pulls with podman and returns what its `inspect` says of the image.
fn pull(registry: &Registry, scratch: &Path, tag: &str, template: &str) -> Result<String> {
    if Engine::find() != Some(Engine::Podman) {
        return Err(tool::missing(
            "podman",
            "install it: docker takes certificates only from /etc/docker",
        ));
    }
    let name = format!("{}/sterna:{tag}", registry.host);
    let podman = |args: &[&str]| tool::run(Command::new("podman").args(args));
    let mut pull = Command::new("podman");
    pull.arg("pull")
        .arg("--authfile")
        .arg(docker_config(registry, scratch, PASSWORD)?.join("config.json"));
    match &registry.ca {
        Some(ca) => pull
            .arg("--cert-dir")
            .arg(ca.parent().context("the certificate lies in a folder")?),
        None => pull.arg("--tls-verify=false"),
    };
    tool::run(pull.arg(&name))?;
    let value = podman(&["image", "inspect", "--format", template, &name])?;
    podman(&["image", "rm", "--force", &name])?;
    Ok(value.trim().to_owned())
}
