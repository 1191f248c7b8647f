//! `sterna healthcheck`: what `curl -f localhost:8080/health` does, for an image that holds no curl.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::common::CommandError;
use crate::settings::{self, ServeArgs, Settings};

/// Where the server is.
#[derive(Debug, clap::Args)]
pub struct HealthcheckArgs {
    /// Address the server listens on [default: 127.0.0.1] [env: STERNA_HOST, HOST, LLAMA_ARG_HOST]
    #[arg(long, value_name = "ADDRESS")]
    host: Option<IpAddr>,
    /// Port the server listens on [default: 8080] [env: STERNA_PORT, PORT, LLAMA_ARG_PORT]
    #[arg(long)]
    port: Option<u16>,
    /// Seconds to wait for the answer, up to a day
    #[arg(long, value_name = "SECONDS", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=86400))]
    timeout: u64,
}

/// Why the server does not count as ready.
#[derive(Debug, thiserror::Error)]
pub enum NotReady {
    /// Nobody answers.
    #[error("no answer from http://{address}/health: {error}")]
    NoAnswer {
        /// Where we asked.
        address: SocketAddr,
        /// What went wrong.
        error: io::Error,
    },
    /// It answers, but not with 200.
    #[error("http://{address}/health answers: {answer}")]
    Answer {
        /// Where we asked.
        address: SocketAddr,
        /// Status line and body.
        answer: String,
    },
}

/// Asks `/health` once; `Ok` only for status 200.
pub fn run(args: HealthcheckArgs) -> Result<(), super::Error> {
    let server = ServeArgs {
        host: args.host,
        port: args.port,
        ..ServeArgs::default()
    };
    let server = Settings::new(server, &settings::process_env_of(&["host", "port"]))?;
    // A server that listens everywhere is asked over loopback.
    let host = match server.host {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        host => host,
    };
    let address = SocketAddr::new(host, server.port);
    let answer = get_health(address, Duration::from_secs(args.timeout))
        .map_err(|error| NotReady::NoAnswer { address, error })?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        return Err(NotReady::Answer {
            address,
            answer: format!("{status} {body}"),
        }
        .into());
    }
    writeln!(io::stdout(), "{body}").map_err(CommandError::Stdio)?;
    Ok(())
}

/// The raw response, as far as it is text and arrives in time.
fn get_health(address: SocketAddr, timeout: Duration) -> io::Result<String> {
    /// More than our own server ever sends: something else may listen there.
    const RESPONSE_MAX: usize = 64 << 10;
    let deadline = Instant::now() + timeout;
    let left = || match deadline.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
        left => io::Result::Ok(left),
    };
    let mut stream = TcpStream::connect_timeout(&address, left()?)?;
    stream.set_write_timeout(Some(left()?))?;
    write!(
        stream,
        "GET /health HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let (mut response, mut part) = (Vec::new(), [0; 4096]);
    while response.len() < RESPONSE_MAX {
        stream.set_read_timeout(Some(left()?))?;
        match stream.read(&mut part)? {
            0 => break,
            n => response.extend_from_slice(&part[..n]),
        }
    }
    Ok(String::from_utf8_lossy(&response).into_owned())
}
