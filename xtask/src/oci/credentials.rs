//! Registry credentials from Docker's configuration file, as `docker login` and `podman login` leave them there.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use tokio::io::AsyncWriteExt as _;

/// A helper that asks its user for a password has this long.
const HELPER_TIMEOUT: Duration = Duration::from_secs(60);

/// Docker Hub's key in the file, by history.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// A user name and a password or token.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// User name.
    pub user: String,
    /// Password or token.
    pub secret: String,
}

/// The part of `config.json` that matters here.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    #[serde(default)]
    auths: HashMap<String, Entry>,
    #[serde(default)]
    cred_helpers: HashMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Deserialize)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
}

/// What the file says to do for a registry.
#[derive(Debug, PartialEq, Eq)]
enum Source {
    Anonymous,
    Known(Credentials),
    /// Run `docker-credential-NAME` and ask it for this server.
    Helper {
        name: String,
        server: String,
    },
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:***", self.user)
    }
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// The credentials for `repository` (`org/name`) at `registry` (`host:port`), if there are any.
pub async fn find(registry: &str, repository: &str) -> Result<Option<Credentials>> {
    let Some(path) = config_path() else { return Ok(None) };
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let config: Config =
        serde_json::from_slice(&text).with_context(|| format!("{} is not a Docker configuration", path.display()))?;
    match config
        .source(registry, repository)
        .with_context(|| format!("in {}", path.display()))?
    {
        Source::Anonymous => Ok(None),
        Source::Known(credentials) => Ok(Some(credentials)),
        Source::Helper { name, server } => ask_helper(&format!("docker-credential-{name}"), &server).await,
    }
}

/// podman's variable names the file, Docker's the folder.
fn config_path() -> Option<PathBuf> {
    if let Some(file) = std::env::var_os("REGISTRY_AUTH_FILE") {
        return Some(file.into());
    }
    let folder = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    Some(
        folder
            .or_else(|| Some(std::env::home_dir()?.join(".docker")))?
            .join("config.json"),
    )
}

impl Config {
    fn source(&self, registry: &str, repository: &str) -> Result<Source> {
        let hub = matches!(registry, "docker.io" | "index.docker.io" | "registry-1.docker.io");
        let host = if hub { "index.docker.io" } else { registry };
        let server = if hub {
            DOCKER_HUB.to_owned()
        } else {
            registry.to_owned()
        };
        if let Some(name) = self
            .cred_helpers
            .iter()
            .find(|(key, _)| plain(key) == host)
            .map(|(_, name)| name)
        {
            return Ok(Source::Helper {
                name: name.clone(),
                server,
            });
        }
        if let Some(entry) = self.entry(host, repository)
            && let Some(credentials) = entry.credentials()?
        {
            return Ok(Source::Known(credentials));
        }
        match &self.creds_store {
            Some(name) => Ok(Source::Helper {
                name: name.clone(),
                server,
            }),
            None => Ok(Source::Anonymous),
        }
    }

    /// podman's keys may name a part of the repository; the longest wins.
    fn entry(&self, host: &str, repository: &str) -> Option<&Entry> {
        let full = format!("{host}/{repository}");
        let prefixes = std::iter::successors(Some(full.as_str()), |path| Some(path.rsplit_once('/')?.0));
        prefixes.into_iter().find_map(|path| {
            let (_, entry) = self.auths.iter().find(|(key, _)| plain(key) == path)?;
            Some(entry)
        })
    }
}

impl Entry {
    fn credentials(&self) -> Result<Option<Credentials>> {
        if let Some(auth) = self.auth.as_deref().filter(|auth| !auth.is_empty()) {
            let bytes = STANDARD
                .decode(auth.trim())
                .context("`auth` is not base64: log in again")?;
            let text = String::from_utf8(bytes).context("`auth` is not text: log in again")?;
            let (user, secret) = text.split_once(':').context("`auth` has no `:`: log in again")?;
            let secret = secret.trim_end_matches('\0');
            return Ok(Some(Credentials {
                user: user.to_owned(),
                secret: secret.to_owned(),
            }));
        }
        let pair = self.username.clone().zip(self.password.clone());
        Ok(pair.map(|(user, secret)| Credentials { user, secret }))
    }
}

/// A key without what Docker has written around host names over the years.
fn plain(key: &str) -> &str {
    let key = key
        .trim_start_matches("https://")
        .trim_start_matches("http://")
        .trim_end_matches('/');
    key.trim_end_matches("/v1").trim_end_matches("/v2")
}

/// Runs a credential helper: the server's name on its input, JSON on its output.
async fn ask_helper(program: &str, server: &str) -> Result<Option<Credentials>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        username: String,
        secret: String,
    }
    let mut command = tokio::process::Command::new(program);
    command
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn().with_context(|| {
        format!("cannot start {program}, which the Docker configuration names for {server}: install it or log in again")
    })?;
    let mut input = child.stdin.take().context("the helper has no standard input")?;
    let conversation = async {
        // A helper that does not read is judged by what it answers.
        let _ = input.write_all(server.as_bytes()).await;
        drop(input);
        child.wait_with_output().await
    };
    let output = match tokio::time::timeout(HELPER_TIMEOUT, conversation).await {
        Ok(output) => output.with_context(|| format!("cannot run {program}"))?,
        Err(_) => bail!("{program} did not answer within {} s", HELPER_TIMEOUT.as_secs()),
    };
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        if text.contains("credentials not found") {
            return Ok(None);
        }
        bail!(
            "{program} failed: {}{}",
            text.trim(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    let answer: Answer = serde_json::from_str(&text).with_context(|| format!("{program} gave no credentials"))?;
    if answer.username == "<token>" {
        bail!("{program} holds an identity token for {server}: log in with a user name and an access token instead");
    }
    Ok(Some(Credentials {
        user: answer.username,
        secret: answer.secret,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        serde_json::from_str(text).unwrap()
    }

    fn known(user: &str, secret: &str) -> Source {
        Source::Known(Credentials {
            user: user.to_owned(),
            secret: secret.to_owned(),
        })
    }

    fn helper(name: &str, server: &str) -> Source {
        Source::Helper {
            name: name.to_owned(),
            server: server.to_owned(),
        }
    }

    #[test]
    fn base64_in_all_spellings_of_the_key() {
        for key in [
            "reg.example:5000",
            "https://reg.example:5000",
            "http://reg.example:5000/v2/",
        ] {
            let config = config(&format!(r#"{{"auths":{{"{key}":{{"auth":"dTpwOnE="}}}}}}"#));
            assert_eq!(
                config.source("reg.example:5000", "a/b").unwrap(),
                known("u", "p:q"),
                "{key}"
            );
            assert_eq!(config.source("reg.example", "a/b").unwrap(), Source::Anonymous, "{key}");
        }
    }

    #[test]
    fn the_longest_repository_prefix_wins() {
        let config = config(
            r#"{"auths":{"r.io":{"auth":"aG9zdDox"},"r.io/org":{"auth":"b3JnOjE="},
                "r.io/org/name":{"username":"name","password":"1"}}}"#,
        );
        assert_eq!(config.source("r.io", "org/name").unwrap(), known("name", "1"));
        assert_eq!(config.source("r.io", "org/name2").unwrap(), known("org", "1"));
        assert_eq!(config.source("r.io", "other/x").unwrap(), known("host", "1"));
    }

    #[test]
    fn docker_hub_has_many_names() {
        let config = config(r#"{"auths":{"https://index.docker.io/v1/":{"auth":"dTpw"}}}"#);
        assert_eq!(config.source("docker.io", "library/x").unwrap(), known("u", "p"));
        assert_eq!(config.source("index.docker.io", "library/x").unwrap(), known("u", "p"));
    }

    #[test]
    fn helpers_come_first_and_the_store_last() {
        let config = config(
            r#"{"auths":{"a.io":{"auth":"dTpw"},"b.io":{}},"credHelpers":{"c.io":"gcloud"},"credsStore":"pass"}"#,
        );
        assert_eq!(config.source("a.io", "x").unwrap(), known("u", "p"));
        assert_eq!(config.source("b.io", "x").unwrap(), helper("pass", "b.io"));
        assert_eq!(config.source("c.io", "x").unwrap(), helper("gcloud", "c.io"));
        assert_eq!(config.source("docker.io", "x").unwrap(), helper("pass", DOCKER_HUB));
    }

    #[test]
    fn a_broken_entry_is_named_and_never_shown() {
        for auth in ["%%%", "bm9jb2xvbg=="] {
            let config = config(&format!(r#"{{"auths":{{"a.io":{{"auth":"{auth}"}}}}}}"#));
            assert!(
                config
                    .source("a.io", "x")
                    .unwrap_err()
                    .to_string()
                    .contains("log in again")
            );
            assert!(!format!("{config:?}").contains(auth));
        }
    }

    /// A helper as a script in a folder of its own.
    fn script(body: &str) -> (tempfile::TempDir, String) {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("docker-credential-test");
        std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let program = path.to_str().unwrap().to_owned();
        (dir, program)
    }

    fn ask(body: &str) -> Result<Option<Credentials>> {
        let (_dir, program) = script(body);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(ask_helper(&program, "r.io"))
    }

    #[test]
    fn a_helper_is_asked_for_the_server() {
        let answer =
            ask(r#"read server; printf '{"ServerURL":"%s","Username":"%s","Secret":"s"}' "$server" "$server""#);
        let expected = Credentials {
            user: "r.io".to_owned(),
            secret: "s".to_owned(),
        };
        assert_eq!(answer.unwrap(), Some(expected));
    }

    #[test]
    fn a_helper_without_credentials_is_no_error_and_any_other_failure_is() {
        assert_eq!(
            ask("echo credentials not found in native keychain; exit 1").unwrap(),
            None
        );
        assert!(
            ask("echo locked >&2; exit 3")
                .unwrap_err()
                .to_string()
                .contains("failed: locked")
        );
        assert!(
            ask("echo nonsense")
                .unwrap_err()
                .to_string()
                .contains("gave no credentials")
        );
        assert!(
            ask(r#"echo '{"Username":"<token>","Secret":"x"}'"#)
                .unwrap_err()
                .to_string()
                .contains("token")
        );
    }
}
