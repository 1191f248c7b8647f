//! `cargo xtask demo`: from the checkout to a streamed answer, in one command.

use std::io::{BufRead as _, BufReader, Write as _};
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
    /// What to ask [default: something that suits the model]
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// Tokens of answer at most
    #[arg(long, value_name = "N", default_value_t = 96)]
    max_tokens: u32,
    /// Leave the server running until Ctrl-C
    #[arg(long)]
    keep: bool,
}

/// The longest wait for `/health`: the published model on a slow disk.
const PATIENCE: Duration = Duration::from_secs(120);

/// What serves the model; ended when dropped.
enum Server {
    /// The image, in an engine.
    Container(Container),
    /// The image's binary, as a child of this process, and the file that takes what it says.
    Process(Child, PathBuf),
}

impl Server {
    /// What it said, if it has ended.
    fn ended(&mut self) -> Result<Option<String>> {
        let said = match self {
            Server::Container(container) => (!container.is_running()?).then(|| container.logs()),
            Server::Process(child, log) => child.try_wait()?.map(|_| Ok(std::fs::read_to_string(log)?)),
        };
        said.transpose()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Server::Process(child, _) = self {
            // Gone already when this fails.
            let _ = child.kill();
            let _ = child.wait();
        }
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
    let (started, start) = serve(&image, &model.path, port)?;
    *shared = Some(started);
    drop(shared);
    let url = format!("http://127.0.0.1:{port}");
    wait_for_health(&url, start, server)?;
    let health = start.elapsed();

    let prompt = args.prompt.as_deref().unwrap_or(model.prompt);
    println!("{}\n\n> {prompt}\n", model.about);
    let answer = ask(&url, prompt, args.max_tokens)?;
    println!("\n");
    let (compressed, unpacked) = (megabytes(image.compressed_bytes), megabytes(image.unpacked_bytes));
    println!(
        "image          {}: {compressed} compressed, {unpacked} unpacked",
        image.name
    );
    println!("health         {} ms after the start", health.as_millis());
    println!(
        "first token    {} ms after the question",
        answer.first_token.as_millis()
    );
    println!(
        "speed          {:.1} tokens/s, {} tokens",
        answer.tokens_per_s(),
        answer.tokens
    );
    if args.keep {
        println!("\nserving at {url}/v1 until Ctrl-C");
        loop {
            std::thread::park();
        }
    }
    Ok(())
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
    /// A question that suits it.
    prompt: &'static str,
}

/// The model that was asked for, else the one that ships with the project, else the tests' model.
fn choose_model(asked: Option<&Path>) -> Result<Model> {
    let prompt = "Why do terns migrate?";
    if let Some(path) = asked {
        let path = path
            .canonicalize()
            .with_context(|| format!("no model at {}", path.display()))?;
        return Ok(Model {
            path,
            about: "your model",
            prompt,
        });
    }
    let shipped = workspace::root().join("demo/sterna-demo.gguf");
    if shipped.is_file() {
        let about =
            "the demo model: tiny, trained on Rust's documentation, which it continues without understanding it";
        return Ok(Model {
            path: shipped,
            about,
            prompt: "A closure is a function that can",
        });
    }
    let about = "the test model: its weights are random, and its words are noise";
    Ok(Model {
        path: workspace::root().join("runtime/tests/data/nano-i2_s.gguf"),
        about,
        prompt,
    })
}

/// Starts the image in an engine; with none, or with one that cannot start it, the image's own binary. Also returns
/// the time of the start itself, after loading the image.
fn serve(image: &Built, model: &Path, port: u16) -> Result<(Server, Instant)> {
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

fn in_container(engine: Engine, image: &Built, model: &Path, port: u16) -> Result<(Server, Instant)> {
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
    Ok((Server::Container(container), start))
}

fn direct(image: &Built, model: &Path, port: u16) -> Result<(Server, Instant)> {
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
        .stderr(std::fs::File::create(&log)?);
    let start = Instant::now();
    let child = command.spawn().context("cannot start the image's binary")?;
    Ok((Server::Process(child, log), start))
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
    first_token: Duration,
    /// From the first token to the last.
    rest: Duration,
}

impl Answer {
    fn tokens_per_s(&self) -> f64 {
        self.tokens.saturating_sub(1) as f64 / self.rest.as_secs_f64().max(1e-9)
    }
}

/// Asks over the OpenAI API and prints the answer as it comes.
fn ask(url: &str, prompt: &str, max_tokens: u32) -> Result<Answer> {
    let request = json!({
        "messages": [{ "role": "user", "content": prompt }],
        "max_tokens": max_tokens,
        "stream": true,
        "stream_options": { "include_usage": true },
    });
    let start = Instant::now();
    let mut response = ureq::post(format!("{url}/v1/chat/completions")).send_json(request)?;
    let mut first = None;
    let mut last = start;
    let mut tokens = 0;
    for line in BufReader::new(response.body_mut().as_reader()).lines() {
        let line = line?;
        let Some(event) = line.strip_prefix("data: ").filter(|e| *e != "[DONE]") else {
            continue;
        };
        let event: Value = serde_json::from_str(event).with_context(|| format!("not JSON: {event}"))?;
        if let Some(text) = event.pointer("/choices/0/delta/content").and_then(Value::as_str) {
            print!("{text}");
            std::io::stdout().flush()?;
            last = Instant::now();
            first.get_or_insert(last);
        }
        if let Some(count) = event.pointer("/usage/completion_tokens").and_then(Value::as_u64) {
            tokens = count;
        }
    }
    let first = first.context("the answer is empty")?;
    Ok(Answer {
        tokens,
        first_token: first - start,
        rest: last - first,
    })
}
