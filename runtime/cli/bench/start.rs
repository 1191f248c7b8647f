//! A server of our own binary, from its start to its steady state: how soon it answers, and what memory it takes.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::{Value, json};

use super::stats::median;
use crate::engine::kv::CacheTypes;
use crate::machine::child::dies_with_us;

/// Tokens of the answer that ends with the context: long enough for what its prompt took to be given back, with eight of them a pass where they are
/// guessed.
const ANSWER: usize = 160;

/// Starts whose medians count; the first of all, which may read the file from a disk, does not.
const STARTS: usize = 5;
/// Tokens of the first prompt.
const PROMPT: usize = 16;
/// Time for a start, and for each answer.
const PATIENCE: Duration = Duration::from_secs(300);
/// A server whose processor time stands still for so long builds nothing in the background any more.
const IDLE: Duration = Duration::from_millis(500);

/// What `--start` reports.
#[derive(Debug, Clone, Serialize)]
pub struct Start {
    /// From the start of the process to the first 200 of `/health`, in milliseconds: the median of the starts.
    pub health_ms: f64,
    /// From the start of the process to the answer with the first token after a prompt of 16.
    pub first_token_ms: f64,
    /// Threads of the server.
    pub threads: usize,
    /// Tokens of context, all of them used.
    pub context: usize,
    /// In the steady state: everything built that is built in the background, the cache full.
    pub memory: Memory,
}

/// The memory of a process, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Resident now.
    pub resident: u64,
    /// Of that, pages of its own.
    pub anonymous: u64,
    /// Of that, pages of files: the mapped model.
    pub file: u64,
    /// Most that was ever resident.
    pub peak: u64,
}

impl Memory {
    /// Of `/proc/PID/status`; `None` where there is none.
    pub fn of(process: &str) -> Option<Memory> {
        Self::parse(&fs::read_to_string(format!("/proc/{process}/status")).ok()?)
    }

    fn parse(status: &str) -> Option<Memory> {
        let bytes = |name: &str| {
            let value = status.lines().find_map(|line| line.strip_prefix(name))?;
            let kib: u64 = value
                .strip_prefix(':')?
                .trim()
                .strip_suffix("kB")?
                .trim()
                .parse()
                .ok()?;
            kib.checked_mul(1024)
        };
        Some(Memory {
            resident: bytes("VmRSS")?,
            anonymous: bytes("RssAnon")?,
            file: bytes("RssFile")?,
            peak: bytes("VmHWM")?,
        })
    }
}

/// What to start.
pub struct Settings<'a> {
    pub model: &'a Path,
    pub kernel: &'a str,
    pub threads: usize,
    pub context: usize,
    pub cache: CacheTypes,
    pub cache_dir: Option<&'a Path>,
}

/// Starts this binary as a server several times.
pub fn measure(settings: &Settings<'_>) -> io::Result<Start> {
    let &Settings { threads, context, .. } = settings;
    let (mut health, mut first) = (Vec::new(), Vec::new());
    let mut memory = None;
    for start in 0..=STARTS {
        let began = Instant::now();
        let mut server = Server::start(settings)?;
        server.await_health(began + PATIENCE)?;
        let health_ms = began.elapsed().as_secs_f64() * 1e3;
        server.complete(&prompt(PROMPT.min(context - 1)), 1)?;
        let first_ms = began.elapsed().as_secs_f64() * 1e3;
        if start > 0 {
            health.push(health_ms);
            first.push(first_ms);
        }
        if start == STARTS {
            server.await_idle();
            let answer = ANSWER.min(context - 1);
            server.complete(&prompt(context - answer), answer)?;
            memory = Memory::of(&server.child.id().to_string());
        }
    }
    Ok(Start {
        health_ms: median(&health),
        first_token_ms: median(&first),
        threads,
        context,
        memory: memory.ok_or_else(|| io::Error::other("the server's memory cannot be read"))?,
    })
}

/// Token ids that every vocabulary has.
fn prompt(tokens: usize) -> Vec<u32> {
    (0..tokens).map(|i| (i % 97) as u32).collect()
}

/// A server that ends with this value.
struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    fn start(settings: &Settings<'_>) -> io::Result<Server> {
        // Free a moment ago: the system does not give the same port again so soon.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let mut command = Command::new(std::env::current_exe()?);
        command
            .env_clear() // nobody's settings but these
            .env("STERNA_KERNEL", settings.kernel)
            .arg("serve")
            .arg("--model")
            .arg(settings.model)
            .args(["--host", "127.0.0.1", "--parallel", "1"])
            .args(["--port", &address.port().to_string()])
            .args(["--threads", &settings.threads.to_string()])
            .args(["--ctx-size", &settings.context.to_string()])
            .args(["--cache-type-k", &settings.cache.k.to_string()])
            .args(["--cache-type-v", &settings.cache.v.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if let Some(dir) = settings.cache_dir {
            command.arg("--cache-dir").arg(dir);
        }
        // A signal that ends us runs no destructor.
        let child = dies_with_us(&mut command).spawn()?;
        Ok(Server { child, address })
    }

    /// Returns with the first 200 of `/health`.
    fn await_health(&mut self, deadline: Instant) -> io::Result<()> {
        loop {
            if let Ok((200, _)) = self.request("GET", "/health", "") {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                return Err(io::Error::other(format!("the server ended with {status}")));
            }
            if Instant::now() > deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Generates `tokens` after the prompt.
    fn complete(&self, prompt: &[u32], tokens: usize) -> io::Result<()> {
        let body = json!({ "prompt": prompt, "n_predict": tokens, "temperature": 0, "ignore_eos": true });
        let (status, answer) = self.request("POST", "/completion", &body.to_string())?;
        let generated = serde_json::from_str::<Value>(&answer)
            .ok()
            .and_then(|answer| answer["tokens"].as_array().map(Vec::len));
        if status == 200 && generated == Some(tokens) {
            Ok(())
        } else {
            Err(io::Error::other(format!("the server answered {status}: {answer}")))
        }
    }

    /// Status and body.
    fn request(&self, method: &str, path: &str, body: &str) -> io::Result<(u16, String)> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        )?;
        let mut answer = Vec::new();
        stream.take(16 << 20).read_to_end(&mut answer)?;
        let answer = String::from_utf8_lossy(&answer);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| io::Error::other("no HTTP answer"))?;
        Ok((status, body.to_owned()))
    }

    /// Returns when the server's processor time stands still, or patience ends.
    fn await_idle(&self) {
        let deadline = Instant::now() + PATIENCE;
        let mut last = None;
        while Instant::now() < deadline {
            let now = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))
                .ok()
                .and_then(|stat| cpu_ticks(&stat));
            if now == last {
                return;
            }
            last = now;
            thread::sleep(IDLE);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself; what it leaves is nobody's.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// User and system time of `/proc/PID/stat`: fields 14 and 15, counted behind the name, which may hold anything.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some(next()? + next()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_the_status_file() {
        let status =
            "Name:\tsterna\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\nRssAnon:\t     700 kB\nRssFile:\t     324 kB\n";
        let memory = Memory {
            resident: 1024 << 10,
            anonymous: 700 << 10,
            file: 324 << 10,
            peak: 2048 << 10,
        };
        assert_eq!(Memory::parse(status), Some(memory));
        assert_eq!(Memory::parse(&status.replace("VmRSS", "VmSwap")), None);
        let own = Memory::of("self").expect("this process has a status");
        assert!(own.peak >= own.resident && own.resident > 0);
    }

    #[test]
    fn processor_time_is_found_behind_any_name() {
        let stat = "42 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 700 34 0 0 20 0 3 0 100";
        assert_eq!(cpu_ticks(stat), Some(734));
        assert_eq!(cpu_ticks("42 (a"), None);
    }
}
