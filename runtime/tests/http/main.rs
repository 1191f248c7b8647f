//! The server as its users meet it: the real binary, a real socket, the nano model of the golden tests.
//!
//! The nano model's words are noise, but the same noise every time: greedy answers can be compared.

mod api;
mod client;
mod errors;
mod lifecycle;
#[path = "../limited.rs"]
mod limited;
mod logprobs;
mod server;
