//! `cargo xtask demo`: from the checkout to a streamed answer, in one command.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::build_image::{Built, megabytes};
use crate::container::{Container, Engine, Options, free_port};
use crate::workspace;

/// Builds the image for this machine, runs it, asks it something and reports what it took
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to build for: a name from images/targets, an alias, or a path
    #[arg(long, value_name = "TARGET", default_value = "native")]
    target: String,
    /// GGUF file to serve [default: the one in demo/, else the test model, whose words are noise]
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// What to ask instead of a few things that suit the model; may be given several times
    #[arg(long, value_name = "TEXT")]
    prompt: Vec<String>,
    /// Tokens of an answer at most
    #[arg(long, value_name = "N", default_value_t = 40)]
    max_tokens: u32,
    /// Leave the server running, and say how to end it
    #[arg(long)]
    keep: bool,
}

/// The longest wait for `/health`: the published model on a slow disk.
const PATIENCE: Duration = Duration::from_secs(120);

/// What serves the model; ended when dropped.
enum Server {
    /// The image, in an engine.
    Container(Container),
    /// The image's binary, as a child of this process.
    Process(Direct),
}

impl Server {
    /// What it said, if it has ended.
    fn ended(&mut self) -> Result<Option<String>> {
        let said = match self {
            Server::Container(container) => (!container.is_running()?).then(|| container.logs()),
            Server::Process(direct) => {
                let status = direct.child.try_wait()?;
                status.map(|_| Ok(std::fs::read_to_string(&direct.log)?))
            }
        };
        said.transpose()
    }

    /// Leaves it running; the command that ends it.
    fn leave(self) -> String {
        match self {
            Server::Container(container) => container.leave(),
            Server::Process(direct) => {
                let kill = format!("kill {}", direct.child.id());
                std::mem::forget(direct);
                kill
            }
        }
    }
}

/// A server without an engine, ended when dropped.
struct Direct {
    child: Child,
    /// Takes what it says.
    log: PathBuf,
}

impl Drop for Direct {
    fn drop(&mut self) {
        // Gone already when this fails.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The server of this process, where the handler of Ctrl-C finds it.
type Shared = Arc<Mutex<Option<Server>>>;

/// Runs the demo and leaves nothing running.
pub fn run(args: &Args) -> Result<()> {
    let server = Shared::default();
    let interrupted = Arc::clone(&server);
    ctrlc::set_handler(move || {
        end(&interrupted);
        std::process::exit(130); // as a program that SIGINT ended
    })?;
    let done = show(args, &server);
    end(&server);
    done
}

/// Ends the server, if there is one: a container would outlive this process.
fn end(server: &Shared) {
    drop(server.lock().ok().and_then(|mut server| server.take()));
}

fn show(args: &Args, server: &Shared) -> Result<()> {
    let image = build(&args.target)?;
    let model = choose_model(args.model.as_deref())?;
    let port = free_port()?;
    // Locked while it starts: Ctrl-C waits until there is something to end.
    let mut shared = server.lock().expect("nobody panics while holding it");
    let (started, start, how) = serve(&image, &model.path, port)?;
    *shared = Some(started);
    drop(shared);
    let url = format!("http://127.0.0.1:{port}");
    wait_for_health(&url, start, server)?;
    let health = start.elapsed();

    println!("{}\n", model.about);
    let prompts = match &args.prompt[..] {
        [] => model.prompts.iter().map(|prompt| (*prompt).to_owned()).collect(),
        asked => asked.to_vec(),
    };
    for prompt in &prompts {
        let answer = ask(&url, model.api, prompt, args.max_tokens)?;
        let (tokens, whole, first) = (answer.tokens, answer.whole, answer.first_token);
        let speed = tokens as f64 / whole.as_secs_f64();
        let [whole, first] = [whole, first].map(|time| time.as_millis());
        println!("\n[{tokens} tokens in {whole} ms, {speed:.0} tokens/s; the first after {first} ms]\n");
    }
    let (compressed, unpacked) = (megabytes(image.compressed_bytes), megabytes(image.unpacked_bytes));
    let row = |name: &str, value: &str| println!("{name:<11}{value}");
    row(
        "image",
        &format!("{}, {compressed} compressed, {unpacked} unpacked", image.name),
    );
    row("ready", &format!("{} ms after {how}", health.as_millis()));
    let end = if args.keep {
        ""
    } else {
        ", ended now; --keep leaves it running"
    };
    row("API", &format!("{url}/v1{end}"));
    if is_page(&url) {
        row("chat page", &format!("{url}/"));
    }
    if args.keep {
        let left = server.lock().expect("nobody panics while holding it").take();
        row("to end it", &left.expect("started above").leave());
    }
    Ok(())
}

/// Whether there is something for a browser.
fn is_page(url: &str) -> bool {
    ureq::get(url).call().is_ok_and(|answer| {
        let kind = answer
            .headers()
            .get("content-type")
            .and_then(|value| value.to_str().ok());
        kind.is_some_and(|kind| kind.starts_with("text/html"))
    })
}

/// Builds the image for `target`; progress goes to the terminal.
fn build(target: &str) -> Result<Built> {
    let mut build = Command::new(std::env::current_exe()?);
    build
        .args(["build-image", "--json", "--target", target])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    let out = build.output().context("cannot start the build")?;
    if !out.status.success() {
        bail!("the image could not be built: see above");
    }
    serde_json::from_slice(&out.stdout).context("`build-image --json` printed something else")
}

/// What the demo serves.
struct Model {
    /// The file's absolute path.
    path: PathBuf,
    /// One line about it for whoever watches.
    about: &'static str,
    /// How it is spoken to.
    api: Api,
    /// What suits it.
    prompts: &'static [&'static str],
}

/// One of the two families of OpenAI's API.
#[derive(Clone, Copy)]
enum Api {
    /// `/v1/completions`: a base model goes on with a text.
    Completions,
    /// `/v1/chat/completions`.
    Chat,
}

/// The model that was asked for, else the one that ships with the project, else the tests' model.
fn choose_model(asked: Option<&Path>) -> Result<Model> {
    if let Some(path) = asked {
        let path = path
            .canonicalize()
            .with_context(|| format!("no model at {}", path.display()))?;
        return Ok(Model {
            path,
            about: "your model",
            api: Api::Chat,
            prompts: &["Why do terns migrate?", "Write a haiku about them."],
        });
    }
    let shipped = workspace::root().join("demo/sterna-demo.gguf");
    if shipped.is_file() {
        return Ok(Model {
            path: shipped,
            about: "the demo model: tiny, trained on Rust's documentation, which it continues without understanding it",
            api: Api::Completions,
            prompts: &["impl Iterator for", "use std::collections::", "A variable in Rust"],
        });
    }
    Ok(Model {
        path: workspace::root().join("runtime/tests/data/nano-i2_s.gguf"),
        about: "the test model: its weights are random, and its words are noise",
        api: Api::Chat,
        prompts: &["Why do terns migrate?"],
    })
}

/// A server, when its start began, and what that start was, in words.
type Started = (Server, Instant, String);

/// Starts the image in an engine; with none, or with one that cannot start it, the image's own binary.
fn serve(image: &Built, model: &Path, port: u16) -> Result<Started> {
    let Some(engine) = Engine::find() else {
        println!("neither podman nor docker answers: running the image's own binary directly");
        return direct(image, model, port);
    };
    match in_container(engine, image, model, port) {
        Ok(started) => {
            println!("running {} in {}", image.name, engine.program());
            Ok(started)
        }
        Err(error) => {
            println!(
                "{error:#}\n{} fails: running the image's own binary directly",
                engine.program()
            );
            direct(image, model, port)
        }
    }
}

fn in_container(engine: Engine, image: &Built, model: &Path, port: u16) -> Result<Started> {
    let folder = model.parent().context("a model lies in a folder")?;
    let inside = Path::new("/models").join(model.file_name().context("a model has a name")?);
    let name = engine.load(&image.folder.join("image.docker.tar"))?;
    let env = [("MODEL_PATH", inside.to_str().context("the model's name is not UTF-8")?)];
    let start = Instant::now();
    let container = engine.start(
        &name,
        folder,
        &Options {
            name: "demo",
            port,
            env: &env,
        },
    )?;
    let how = format!("`{} run`", engine.program());
    Ok((Server::Container(container), start, how))
}

fn direct(image: &Built, model: &Path, port: u16) -> Result<Started> {
    let log = image.folder.join("demo.log");
    let mut command = Command::new(image.folder.join("rootfs/sterna"));
    command
        .arg("serve")
        .arg("--model")
        .arg(model)
        .args(["--host", "127.0.0.1", "--port", &port.to_string()]);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(&log)?)
        .process_group(0); // with --keep it outlives the terminal's Ctrl-C
    let start = Instant::now();
    let child = command.spawn().context("cannot start the image's binary")?;
    let server = Server::Process(Direct { child, log });
    Ok((server, start, "the start of its binary".to_owned()))
}

fn wait_for_health(url: &str, start: Instant, server: &Shared) -> Result<()> {
    for attempt in 1.. {
        let answer = ureq::get(format!("{url}/health")).call();
        let Err(error) = answer else { break };
        if start.elapsed() > PATIENCE {
            bail!("the server does not become ready: {error}");
        }
        std::thread::sleep(Duration::from_millis(2));
        // Now and then, since it takes an engine a while to say.
        if attempt % 256 == 0
            && let Some(server) = &mut *server.lock().expect("nobody panics while holding it")
            && let Some(said) = server.ended()?
        {
            bail!("the server has ended:\n{said}");
        }
    }
    Ok(())
}

/// What one streamed answer took.
struct Answer {
    tokens: u64,
    /// From the question to the first text.
    first_token: Duration,
    /// From the question to the end.
    whole: Duration,
}

/// Asks over the OpenAI API and prints question and answer as it comes.
fn ask(url: &str, api: Api, prompt: &str, max_tokens: u32) -> Result<Answer> {
    let (path, question, text) = match api {
        Api::Completions => ("completions", json!({ "prompt": prompt }), "/choices/0/text"),
        Api::Chat => {
            let messages = json!([{ "role": "user", "content": prompt }]);
            let question = json!({ "messages": messages });
            ("chat/completions", question, "/choices/0/delta/content")
        }
    };
    let mut request = question;
    request["max_tokens"] = max_tokens.into();
    // Greedy, a model as small as the demo's falls into loops. The seed makes it the same words on every machine.
    request["temperature"] = 0.7.into();
    request["seed"] = 2.into();
    request["stream"] = true.into();
    request["stream_options"] = json!({ "include_usage": true });
    match api {
        Api::Completions => print!("> {prompt}"),
        Api::Chat => println!("> {prompt}"),
    }
    let start = Instant::now();
    let mut response = ureq::post(format!("{url}/v1/{path}")).send_json(request)?;
    let mut first = None;
    let mut tokens = 0;
    for line in BufReader::new(response.body_mut().as_reader()).lines() {
        let line = line?;
        let Some(event) = line.strip_prefix("data: ").filter(|e| *e != "[DONE]") else {
            continue;
        };
        let event: Value = serde_json::from_str(event).with_context(|| format!("not JSON: {event}"))?;
        if let Some(text) = event.pointer(text).and_then(Value::as_str) {
            print!("{text}");
            std::io::stdout().flush()?;
            first.get_or_insert_with(|| start.elapsed());
        }
        if let Some(count) = event.pointer("/usage/completion_tokens").and_then(Value::as_u64) {
            tokens = count;
        }
    }
    Ok(Answer {
        tokens,
        first_token: first.context("the answer is empty")?,
        whole: start.elapsed(),
    })
}
