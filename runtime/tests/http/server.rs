//! Starts and stops the binary under test.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::client::{PATIENCE, Response, send};

/// The model of the golden tests.
pub fn nano() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("runtime/tests/data/nano-i2_s.gguf")
}

/// The program, with nothing of our own environment in it.
pub fn sterna() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sterna"));
    command.env_clear().stdin(Stdio::null());
    command
}

/// A running server; killed when dropped.
pub struct Server {
    child: Child,
    pub address: SocketAddr,
    log: Arc<Mutex<String>>,
}

impl Server {
    /// Starts `serve` on a free port of loopback, and returns as soon as it listens.
    pub fn listening(args: &[&str]) -> Server {
        Server::listening_as(sterna(), args)
    }

    /// The same, where the program runs in another way than usual.
    pub fn listening_as(mut command: Command, args: &[&str]) -> Server {
        command.args(["--host", "127.0.0.1", "--port", "0"]).args(args);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut seen = String::new();
        let address = loop {
            let line = lines
                .next()
                .unwrap_or_else(|| panic!("ended before it listened:\n{seen}"))
                .unwrap();
            if let Some((_, address)) = line.split_once("listening on http://") {
                break address.parse().unwrap();
            }
            seen += &line;
        };
        let log = Arc::new(Mutex::new(seen));
        let rest = log.clone();
        thread::spawn(move || {
            lines
                .map_while(Result::ok)
                .for_each(|line| *rest.lock().unwrap() += &(line + "\n"))
        });
        Server { child, address, log }
    }

    /// A server that is ready, with the nano model.
    pub fn ready(args: &[&str]) -> Server {
        Server::ready_as(sterna(), args)
    }

    /// The same, where the program runs in another way than usual.
    pub fn ready_as(command: Command, args: &[&str]) -> Server {
        let nano = nano();
        let server = Server::listening_as(command, &[&["--model", nano.to_str().unwrap()], args].concat());
        server.wait_until_ready();
        server
    }

    pub fn wait_until_ready(&self) {
        self.until("the server is ready", || self.get("/health").status == 200);
    }

    /// Waits for something that must happen, and does not care how long it takes.
    pub fn until(&self, what: &str, mut happened: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !happened() {
            assert!(Instant::now() < deadline, "never: {what}\n{}", self.log());
            thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn get(&self, path: &str) -> Response {
        send(self.address, "GET", path, &[], b"")
    }

    pub fn post(&self, path: &str, body: &Value) -> Response {
        send(self.address, "POST", path, &[], body.to_string().as_bytes())
    }

    /// The JSON answer to a request that must succeed.
    pub fn ask(&self, path: &str, body: Value) -> Value {
        let response = self.post(path, &body);
        let status = response.status;
        let answer = response.json();
        assert_eq!(status, 200, "{body} -> {answer}");
        answer
    }

    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// What the system says about each of its threads.
    pub fn threads(&self) -> Vec<String> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        // A thread may end while we look.
        let statuses = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("status")).ok());
        statuses.collect()
    }

    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .args([format!("-{name}"), self.child.id().to_string()])
            .status();
        assert!(sent.unwrap().success());
    }

    pub fn wait(&mut self) -> ExitStatus {
        let mut ended = None;
        let deadline = Instant::now() + PATIENCE;
        while ended.is_none() {
            assert!(Instant::now() < deadline, "the server never ended\n{}", self.log());
            thread::sleep(Duration::from_millis(10));
            ended = self.child.try_wait().unwrap();
        }
        ended.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
