//! The end-to-end steps: the image in a real container, as hardened as it goes, spoken to as users do.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::report::Report;
use super::{Context, PATIENCE, image};
use crate::container::{Container, Engine, Options, free_port};
use crate::tool;

const CHAT: &str = r#"{"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 6, "temperature": 0}"#;
const PROMPT: &str = r#"{"prompt": "Once upon a time", "max_tokens": 6, "temperature": 0}"#;

const LLAMA: &str = r#"{"prompt": "Once upon a time", "n_predict": 6, "temperature": 0}"#;

/// Every endpoint once, and requests that must be refused with a sentence: path, body (none for GET), status, and
/// the JSON pointers that must lead somewhere in the answer.
#[rustfmt::skip]
const CALLS: &[(&str, &str, u16, &[&str])] = &[
    ("/health", "", 200, &["/status"]),
    ("/v1/models", "", 200, &["/data/0/id"]),
    ("/model-info", "", 200, &["/name", "/quantization", "/model_ready"]),
    ("/v1/chat/completions", CHAT, 200, &["/choices/0/message/content", "/usage/completion_tokens"]),
    ("/chat/completions", CHAT, 200, &["/choices/0/message/content"]),
    ("/v1/completions", PROMPT, 200, &["/choices/0/text", "/usage/total_tokens"]),
    ("/completion", LLAMA, 200, &["/content", "/tokens_predicted"]),
    ("/generate", PROMPT, 200, &["/generated_text", "/tokens_generated", "/inference_time_ms"]),
    ("/v1/completions", "{\"prompt\": ", 400, &["/error/message"]),
    ("/v1/completions", r#"{"prompt": 7}"#, 400, &["/error/message"]),
    ("/v1/completions", r#"{"prompt": "x", "model": "none"}"#, 404, &["/error/message"]),
    ("/v1/chat/completions", r#"{"messages": []}"#, 400, &["/error/message"]),
];

/// The image in a container: endpoints, clients, signals, and a model that comes late or never.
pub fn run(ctx: &Context, report: &mut Report) -> Result<()> {
    let Some(engine) = Engine::find() else {
        return Err(tool::missing("a container engine", "install podman or docker"));
    };
    tool::need("curl", "install curl")?;
    let image = engine.load(&image::folder("universal").join("image.docker.tar"))?;
    let full = model_folder(ctx, "full", true)?;
    let port = free_port()?;
    let server = engine.start(
        &image,
        &full,
        &Options {
            name: "server",
            port,
            env: &[],
        },
    )?;
    report.check("/health answers 200", || wait_for_health(&server, port));
    report.check("the server is process 1", || is_process_one(&server));
    report.check("sterna healthcheck", || {
        server.exec(&["/sterna", "healthcheck"]).map(drop)
    });
    for &(path, body, status, has) in CALLS {
        let name = if status == 200 {
            path.to_owned()
        } else {
            format!("{path} refuses {body}")
        };
        report.check(&name, || check_call(port, path, body, status, has));
    }
    for (path, body) in [("/v1/chat/completions", CHAT), ("/v1/completions", PROMPT)] {
        report.check(&format!("{path}, streamed"), || check_stream(port, path, body));
    }
    report.check("the official openai client", || openai_client(ctx, port));
    report.check("stops within a second of SIGTERM", || stops_in_time(&server));
    drop(server);
    report.check("waits for a model that comes late", || late_model(ctx, engine, &image));
    report.check("gives up after MODEL_WAIT_TIMEOUT", || no_model(ctx, engine, &image));
    Ok(())
}

/// A folder to mount, with the test model in it or empty; readable for everybody, as a volume would be.
fn model_folder(ctx: &Context, name: &str, full: bool) -> Result<PathBuf> {
    let folder = ctx.scratch(&format!("models-{name}"))?;
    if full {
        std::fs::copy(ctx.test_model(), folder.join("nano.gguf"))?;
    }
    Ok(folder)
}

fn wait_for_health(server: &Container, port: u16) -> Result<()> {
    let start = Instant::now();
    loop {
        match curl(port, "/health", "") {
            Ok((200, _)) => return Ok(()),
            answer if start.elapsed() > PATIENCE => {
                bail!(
                    "the last answer was {answer:?}; the container says:\n{}",
                    server.logs()?
                )
            }
            _ => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// The process is 1 in its own namespace: the last of `NSpid`'s numbers.
fn is_process_one(server: &Container) -> Result<()> {
    let pid = server.inspect("{{.State.Pid}}")?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let inner = status
        .lines()
        .find(|l| l.starts_with("NSpid:"))
        .context("no NSpid in the process's status")?;
    ensure!(inner.split_whitespace().last() == Some("1"), "{inner}");
    Ok(())
}

/// Status and body of the answer; GET without a body, else POST.
fn curl(port: u16, path: &str, body: &str) -> Result<(u16, String)> {
    let mut curl = Command::new("curl");
    curl.args([
        "--silent",
        "--show-error",
        "--max-time",
        "60",
        "--write-out",
        "\n%{http_code}",
    ]);
    if !body.is_empty() {
        curl.args(["--header", "Content-Type: application/json", "--data", body]);
    }
    let text = tool::run(curl.arg(format!("http://127.0.0.1:{port}{path}")))?;
    let (body, status) = text.rsplit_once('\n').context("curl printed no status")?;
    Ok((status.parse()?, body.to_owned()))
}

fn check_call(port: u16, path: &str, body: &str, status: u16, has: &[&str]) -> Result<()> {
    let (found, answer) = curl(port, path, body)?;
    ensure!(found == status, "status {found}: {answer}");
    let json: Value = serde_json::from_str(&answer).with_context(|| format!("not JSON: {answer}"))?;
    let absent: Vec<_> = has.iter().filter(|p| json.pointer(p).is_none()).collect();
    ensure!(absent.is_empty(), "no {absent:?} in {answer}");
    Ok(())
}

/// A stream ends with `[DONE]`, carries JSON before, and the last event has the usage that was asked for.
fn check_stream(port: u16, path: &str, body: &str) -> Result<()> {
    let mut request: Value = serde_json::from_str(body)?;
    request["stream"] = true.into();
    request["stream_options"] = serde_json::json!({ "include_usage": true });
    let (status, text) = curl(port, path, &request.to_string())?;
    ensure!(status == 200, "status {status}: {text}");
    let mut events: Vec<&str> = text.lines().filter_map(|l| l.strip_prefix("data: ")).collect();
    ensure!(events.pop() == Some("[DONE]"), "no [DONE] at the end: {text}");
    let events = events
        .iter()
        .map(|e| serde_json::from_str(e))
        .collect::<Result<Vec<Value>, _>>()?;
    ensure!(events.len() > 2, "a stream of {} events: {text}", events.len());
    let usage = events.last().and_then(|e| e.pointer("/usage/completion_tokens"));
    ensure!(
        usage.and_then(Value::as_u64).is_some_and(|n| n > 0),
        "no usage in the last event: {text}"
    );
    Ok(())
}

fn openai_client(ctx: &Context, port: u16) -> Result<()> {
    let python = ctx.python("openai")?;
    let script = ctx.root.join("xtask/e2e/openai_client.py");
    let said = tool::run(
        Command::new(python)
            .arg(script)
            .arg(format!("http://127.0.0.1:{port}/v1")),
    )?;
    ensure!(said.lines().count() >= 7, "fewer checks than the script has: {said}");
    Ok(())
}

fn stops_in_time(server: &Container) -> Result<()> {
    let pid = server.inspect("{{.State.Pid}}")?;
    let process = PathBuf::from(format!("/proc/{pid}"));
    server.kill("TERM")?;
    let start = Instant::now();
    while process.exists() {
        ensure!(
            start.elapsed() < Duration::from_secs(1),
            "still running after a second:\n{}",
            server.logs()?
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    let code = server.wait()?;
    ensure!(code == 0, "exit status {code}:\n{}", server.logs()?);
    Ok(())
}

fn late_model(ctx: &Context, engine: Engine, image: &str) -> Result<()> {
    let folder = model_folder(ctx, "late", false)?;
    let port = free_port()?;
    let server = engine.start(
        image,
        &folder,
        &Options {
            name: "late",
            port,
            env: &[],
        },
    )?;
    let start = Instant::now();
    let (status, body) = loop {
        match curl(port, "/health", "") {
            Ok(answer) => break answer,
            Err(error) if start.elapsed() > PATIENCE => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    };
    ensure!(
        status == 503 && body.contains("waiting_for_model"),
        "without a model: {status} {body}"
    );
    // As a download does: the whole file under another name first.
    let part = folder.join("nano.gguf.part");
    std::fs::copy(ctx.test_model(), &part)?;
    std::fs::rename(&part, folder.join("nano.gguf"))?;
    wait_for_health(&server, port)?;
    check_call(port, "/v1/completions", PROMPT, 200, &["/choices/0/text"])
}

fn no_model(ctx: &Context, engine: Engine, image: &str) -> Result<()> {
    let folder = model_folder(ctx, "none", false)?;
    let options = Options {
        name: "none",
        port: free_port()?,
        env: &[("MODEL_WAIT_TIMEOUT", "1")],
    };
    let server = engine.start(image, &folder, &options)?;
    let code = server.wait()?;
    let logs = server.logs()?;
    ensure!(code == 66 && logs.contains("/models"), "exit status {code}:\n{logs}");
    Ok(())
}
