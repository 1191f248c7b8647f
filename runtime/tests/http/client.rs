//! The smallest HTTP/1.1 client that can also misbehave.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// Longer than anything here takes, even on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A response whose body is still to be read.
pub struct Response {
    pub status: u16,
    headers: Vec<(String, String)>,
    stream: BufReader<TcpStream>,
}

/// Sends a request.
pub fn begin(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("the server listens");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {}\r\n",
        body.len()
    );
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    stream.write_all((head + "\r\n").as_bytes()).unwrap();
    // A server that refuses a body early may close before it has all of it.
    stream.write_all(body).ok();
    stream
}

/// Sends a request and reads the head of its response.
pub fn send(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
    read_head(begin(address, method, path, headers, body))
}

/// Reads the head of a response from a stream on which a request was sent.
pub fn read_head(stream: TcpStream) -> Response {
    let mut stream = BufReader::new(stream);
    let mut line = || {
        let mut line = String::new();
        stream.read_line(&mut line).expect("a response");
        line.trim_end().to_owned()
    };
    let status_line = line();
    let status = status_line.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.unwrap_or_else(|| panic!("not a status line: {status_line:?}"));
    let mut headers = Vec::new();
    loop {
        match line() {
            end if end.is_empty() => break,
            header => {
                let (name, value) = header.split_once(':').expect("name: value");
                headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
            }
        }
    }
    Response {
        status,
        headers,
        stream,
    }
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }

    /// The next part of a chunked body; `None` at its end.
    pub fn chunk(&mut self) -> Option<String> {
        let mut size = String::new();
        self.stream.read_line(&mut size).expect("a chunk size");
        let size = usize::from_str_radix(size.trim(), 16).expect("a hexadecimal chunk size");
        let mut chunk = vec![0; size + 2];
        self.stream.read_exact(&mut chunk).expect("a whole chunk");
        chunk.truncate(size);
        (size > 0).then(|| String::from_utf8(chunk).expect("chunks are whole UTF-8"))
    }

    pub fn text(mut self) -> String {
        if self.header("transfer-encoding") == Some("chunked") {
            return std::iter::from_fn(|| self.chunk()).collect();
        }
        let length = self.header("content-length").map_or(0, |n| n.parse().unwrap());
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).expect("a whole body");
        String::from_utf8(body).unwrap()
    }

    pub fn json(self) -> Value {
        let text = self.text();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text:?}"))
    }

    /// The data of every server-sent event of the whole stream.
    pub fn events(self) -> Vec<String> {
        assert_eq!(self.header("content-type"), Some("text/event-stream"));
        let text = self.text();
        let events = text.split_terminator("\n\n").filter(|event| !event.starts_with(':'));
        events
            .map(|event| event.strip_prefix("data: ").expect("only data").to_owned())
            .collect()
    }
}
