//! A real registry on loopback, over plain HTTP or over TLS with a password: what the push steps push to.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::PATIENCE;
use crate::container::free_port;
use crate::tool;

/// The only user of the TLS registry.
pub const USER: &str = "ci";
/// The user's password, and what bcrypt makes of it: the registry listens on loopback for seconds.
pub const PASSWORD: &str = "loopback-only";
const PASSWORD_BCRYPT: &str = "$2b$05$6I/cc.5yDXa9tlq5EVe9MeDB1IRo3n6RcVN8FmU3/.htSMQF5t6jm";

/// A running registry; ended when dropped.
pub struct Registry {
    child: Child,
    /// `127.0.0.1:PORT`.
    pub host: String,
    /// The certificate of the authority that signed the registry's, when it speaks TLS.
    pub ca: Option<PathBuf>,
}

impl Registry {
    /// Starts one over plain HTTP that lets everybody in; its files go to `dir`.
    pub fn plain(dir: &Path) -> Result<Self> {
        Self::start(dir, false)
    }

    /// Starts one over TLS that knows [`USER`] only; its files go to `dir`.
    pub fn tls(dir: &Path) -> Result<Self> {
        Self::start(dir, true)
    }

    fn start(dir: &Path, tls: bool) -> Result<Self> {
        let program = tool::need(
            "docker-registry",
            "install the distribution registry (Debian: docker-registry)",
        )?;
        if dir.exists() {
            std::fs::remove_dir_all(dir)?;
        }
        std::fs::create_dir_all(dir)?;
        let host = format!("127.0.0.1:{}", free_port()?);
        // JSON is YAML: paths need no quoting rules of their own.
        let mut config = serde_json::json!({
            "version": "0.1",
            "log": { "level": "warn" },
            "storage": { "filesystem": { "rootdirectory": dir.join("data") } },
            "http": { "addr": host },
        });
        if tls {
            make_certificates(dir)?;
            std::fs::write(dir.join("htpasswd"), format!("{USER}:{PASSWORD_BCRYPT}\n"))?;
            config["http"]["tls"] =
                serde_json::json!({ "certificate": dir.join("leaf.crt"), "key": dir.join("leaf.key") });
            config["auth"] = serde_json::json!({ "htpasswd": { "realm": "ci", "path": dir.join("htpasswd") } });
        }
        let file = dir.join("config.yml");
        std::fs::write(&file, config.to_string())?;
        let log = std::fs::File::create(dir.join("log"))?;
        let child = Command::new(program)
            .arg("serve")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start docker-registry")?;
        let registry = Registry {
            child,
            host,
            ca: tls.then(|| dir.join("ca/ca.crt")),
        };
        registry.wait_until_it_answers(dir)?;
        Ok(registry)
    }

    fn wait_until_it_answers(&self, dir: &Path) -> Result<()> {
        let start = Instant::now();
        while std::net::TcpStream::connect(&self.host).is_err() {
            if start.elapsed() > PATIENCE {
                bail!(
                    "docker-registry does not listen: {}",
                    std::fs::read_to_string(dir.join("log"))?
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// The digest that the registry itself computes for the manifest under `name:tag`.
    pub fn digest(&self, name: &str, tag: &str) -> Result<String> {
        let mut curl = Command::new(tool::need("curl", "install curl")?);
        curl.args(["--silent", "--show-error", "--fail", "--head"]);
        curl.args(["-H", "Accept: application/vnd.oci.image.manifest.v1+json"]);
        curl.args(["-H", "Accept: application/vnd.oci.image.index.v1+json"]);
        let scheme = match &self.ca {
            None => "http",
            Some(ca) => {
                curl.arg("--cacert")
                    .arg(ca)
                    .args(["--user", &format!("{USER}:{PASSWORD}")]);
                "https"
            }
        };
        let head = tool::run(curl.arg(format!("{scheme}://{}/v2/{name}/manifests/{tag}", self.host)))?;
        head.lines()
            .find_map(|l| {
                let (key, value) = l.split_once(':')?;
                key.eq_ignore_ascii_case("docker-content-digest")
                    .then(|| value.trim().to_owned())
            })
            .with_context(|| format!("no digest in the registry's answer:\n{head}"))
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // Gone already when this fails.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An authority and a leaf for 127.0.0.1 signed by it: TLS libraries refuse a leaf that signed itself.
fn make_certificates(dir: &Path) -> Result<()> {
    tool::need("openssl", "install openssl")?;
    // Apart from the keys: clients that take a folder of certificates take every key in it for their own.
    std::fs::create_dir_all(dir.join("ca"))?;
    let openssl = |args: &[&str]| tool::run(Command::new("openssl").current_dir(dir).args(args));
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    let authority = [
        "req",
        "-x509",
        "-days",
        "2",
        "-subj",
        "/CN=sterna-ci",
        "-keyout",
        "ca.key",
        "-out",
        "ca/ca.crt",
    ];
    openssl(&[&authority[..], &key].concat())?;
    let request = [
        "req",
        "-subj",
        "/CN=127.0.0.1",
        "-keyout",
        "leaf.key",
        "-out",
        "leaf.csr",
    ];
    openssl(&[&request[..], &key].concat())?;
    std::fs::write(
        dir.join("leaf.ext"),
        "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n",
    )?;
    let sign = [
        "x509", "-req", "-in", "leaf.csr", "-days", "2", "-extfile", "leaf.ext", "-out", "leaf.crt",
    ];
    openssl(&[&sign[..], &["-CA", "ca/ca.crt", "-CAkey", "ca.key", "-set_serial", "1"]].concat())?;
    Ok(())
}
