//! The accept loop: connections with limits and time-outs, and a shutdown that lets them finish.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Most connections at a time; more wait in the kernel's backlog.
const CONNECTIONS_MAX: usize = 1024;
/// Longest time for the head of a request, and so longest idle time between requests: longer than load balancers keep
/// idle connections (60 s), which would otherwise send a request into a connection that we are just closing.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);
/// Largest head of a request.
const HEAD_MAX_BYTES: usize = 64 << 10;

/// Longest time in which a client takes nothing of what waits for it: it has gone without a word, or never reads, and would keep its
/// connection for ever. A pause in reading is no such thing as long as the system's buffers hold what comes meanwhile.
const UNREAD_TIMEOUT: Duration = Duration::from_secs(60);

/// A listening socket and the connections that came from it.
pub struct Server {
    listener: TcpListener,
    routes: Router,
    connections: GracefulShutdown,
    unread_timeout: Duration,
}

impl Server {
    /// Serves `routes` on `listener`, as soon as [`Server::accept`] is polled.
    pub fn new(listener: TcpListener, routes: Router) -> Self {
        Server {
            listener,
            routes,
            connections: GracefulShutdown::new(),
            unread_timeout: UNREAD_TIMEOUT,
        }
    }

    /// Accepts connections for as long as it is polled.
    pub async fn accept(&self) -> Infallible {
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(HEAD_MAX_BYTES);
        loop {
            let slot = slots
                .clone()
                .acquire_owned()
                .await
                .expect("the semaphore is never closed");
            let stream = accept(&self.listener, self.unread_timeout).await;
            let service = TowerToHyperService::new(self.routes.clone());
            let connection = self
                .connections
                .watch(http.serve_connection(TokioIo::new(stream), service));
            tokio::spawn(async move {
                // An error here is the client's: it went away or did not speak HTTP.
                if let Err(error) = connection.await {
                    tracing::debug!("connection ended: {error}");
                }
                drop(slot);
            });
        }
    }

    /// Refuses new connections, closes idle ones at once, and resolves when the others are done.
    pub async fn close(self) {
        drop(self.listener);
        self.connections.shutdown().await;
    }
}

/// The next connection. Errors of one connection are its own; without file descriptors we wait for some.
async fn accept(listener: &TcpListener, unread_timeout: Duration) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Tokens are small packets that must not wait for each other; failing only makes them late.
                stream.set_nodelay(true).ok();
                // Failing leaves this one connection to its client.
                SockRef::from(&stream).set_tcp_user_timeout(Some(unread_timeout)).ok();
                return stream;
            }
            Err(error) => match error.kind() {
                io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset => {}
                _ => {
                    tracing::warn!("cannot accept connections: {error}");
                    tokio::time::sleep(Duration::from_millis(250)).await;
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::Instant;

    use axum::routing::get;

    use super::*;

    #[test]
    fn a_client_that_never_reads_is_cut_off() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let page = "x".repeat(1 << 16);
        let mut server = Server::new(listener, Router::new().route("/", get(async || page)));
        server.unread_timeout = Duration::from_secs(1);
        runtime.spawn(async move { server.accept().await });

        let mut client = std::net::TcpStream::connect(address).unwrap();
        client.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
        let began = Instant::now();
        // One request after the other, until the server reads no more of them since nobody reads its answers, and then ends it.
        let error = loop {
            if let Err(error) = client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") {
                break error;
            }
        };
        let ended = [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe];
        assert!(ended.contains(&error.kind()), "{error} after {:?}", began.elapsed());
    }
}
