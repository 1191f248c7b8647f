//! Running an image in podman or docker: what the demo and the end-to-end tests share.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::tool;

/// A container engine that answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// Daemonless.
    Podman,
    /// Needs its daemon.
    Docker,
}

impl Engine {
    /// The first engine that is installed and answers.
    pub fn find() -> Option<Engine> {
        [Engine::Podman, Engine::Docker].into_iter().find(|e| {
            let info = tool::output(e.command().arg("info"));
            info.is_ok_and(|out| out.code == Some(0))
        })
    }

    /// The name of its command.
    pub fn program(self) -> &'static str {
        match self {
            Engine::Podman => "podman",
            Engine::Docker => "docker",
        }
    }

    /// A command of this engine, without arguments yet.
    pub fn command(self) -> Command {
        Command::new(self.program())
    }

    /// Loads an image from its archive; returns the name that the engine gave it.
    pub fn load(self, archive: &Path) -> Result<String> {
        let said = tool::run(self.command().arg("load").arg("--input").arg(archive))?;
        let name = said
            .lines()
            .find_map(|l| l.split_once("Loaded image")?.1.split_once(": "));
        Ok(name
            .with_context(|| format!("`load` named no image: {said}"))?
            .1
            .trim()
            .to_owned())
    }

    /// Starts `image` in the background as hardened as it goes: read-only, without capabilities, as nobody.
    /// `models` is mounted at `/models`, and the server's port is published on loopback.
    pub fn start(self, image: &str, models: &Path, options: &Options) -> Result<Container> {
        let name = format!("sterna-{}-{}", std::process::id(), options.name);
        let mut run = self.command();
        run.args(["run", "--detach", "--name", &name]);
        run.args([
            "--read-only",
            "--cap-drop=ALL",
            "--security-opt=no-new-privileges",
            "--user=65532",
        ]);
        // Where SELinux is on, a container may otherwise not read a folder of the host.
        run.arg("--security-opt=label=disable");
        run.arg("--volume").arg(format!("{}:/models:ro", models.display()));
        run.arg("--publish").arg(format!("127.0.0.1:{}:8080", options.port));
        for (key, value) in options.env {
            run.arg("--env").arg(format!("{key}={value}"));
        }
        // Made before it runs, so that a half-started container is removed as well.
        let container = Container { engine: self, name };
        tool::run(run.arg(image)).with_context(|| format!("{} cannot start the image", self.program()))?;
        Ok(container)
    }
}

/// How a container differs from the plain run line.
#[derive(Debug, Default)]
pub struct Options<'a> {
    /// Ends the container's name.
    pub name: &'a str,
    /// The port on loopback.
    pub port: u16,
    /// Environment variables.
    pub env: &'a [(&'a str, &'a str)],
}

/// A container, removed when dropped.
#[derive(Debug)]
pub struct Container {
    engine: Engine,
    /// Its name.
    pub name: String,
}

impl Container {
    /// One value that `inspect` knows, as a Go template.
    pub fn inspect(&self, template: &str) -> Result<String> {
        let value = tool::run(
            self.engine
                .command()
                .args(["inspect", "--format", template, &self.name]),
        )?;
        Ok(value.trim().to_owned())
    }

    /// False once its process has ended.
    pub fn is_running(&self) -> Result<bool> {
        Ok(self.inspect("{{.State.Running}}")? == "true")
    }

    /// Runs a program inside.
    pub fn exec(&self, args: &[&str]) -> Result<String> {
        tool::run(self.engine.command().args(["exec", &self.name]).args(args))
    }

    /// Sends a signal to its process 1.
    pub fn kill(&self, signal: &str) -> Result<()> {
        tool::run(self.engine.command().args(["kill", "--signal", signal, &self.name]))?;
        Ok(())
    }

    /// Waits for its end and returns the exit status.
    pub fn wait(&self) -> Result<i32> {
        let code = tool::run(self.engine.command().args(["wait", &self.name]))?;
        code.trim()
            .parse()
            .with_context(|| format!("`wait` printed `{}`", code.trim()))
    }

    /// Leaves it running; the command that removes it.
    pub fn leave(self) -> String {
        let remove = format!("{} rm --force {}", self.engine.program(), self.name);
        std::mem::forget(self);
        remove
    }

    /// What it wrote, on both streams.
    pub fn logs(&self) -> Result<String> {
        let out = tool::output(self.engine.command().args(["logs", &self.name]))?;
        if out.code != Some(0) {
            bail!("no logs of {}: {}", self.name, out.stderr);
        }
        Ok(out.stdout + &out.stderr)
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // Nothing is left to do when this fails: the engine has said why.
        let _ = tool::output(self.engine.command().args(["rm", "--force", "--volumes", &self.name]));
    }
}

/// A port on loopback that nobody uses now.
pub fn free_port() -> Result<u16> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).context("no free port on loopback")?;
    Ok(listener.local_addr()?.port())
}
