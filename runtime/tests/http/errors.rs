//! Requests that make no sense get a sentence, and the server goes on.

use std::io::Write;
use std::net::{Shutdown, TcpStream};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};

use crate::client::{read_head, send};
use crate::server::Server;

const POSTS: [&str; 6] = [
    "/v1/chat/completions",
    "/chat/completions",
    "/v1/completions",
    "/completion",
    "/completions",
    "/generate",
];

/// The error object of a response that must be one.
fn error(server: &Server, path: &str, body: &str, status: u16) -> Value {
    let response = send(server.address, "POST", path, &[], body.as_bytes());
    let got = response.status;
    let answer = response.json();
    assert_eq!(got, status, "{path} {body} -> {answer}");
    let error = answer["error"].clone();
    let message = error["message"].as_str().unwrap();
    assert!(message.len() > 10 && !message.ends_with('.'), "{message}");
    assert!(
        error["type"].is_string() && error.get("param").is_some() && error.get("code").is_some(),
        "{error}"
    );
    error
}

#[test]
fn every_bad_request_gets_its_sentence() {
    let server = Server::ready(&["--ctx-size", "32"]);
    for path in POSTS {
        for body in ["", "{", "\u{0}", "[]", "null", "\"text\"", "{\"a\":1e999}"] {
            error(&server, path, body, 400);
        }
        let nested = "[".repeat(100_000);
        error(&server, path, &nested, 400);
        assert!(
            error(&server, path, "{}", 400)["message"]
                .as_str()
                .unwrap()
                .contains("missing field")
        );
    }
    let chat = |messages: Value| json!({"messages": messages}).to_string();
    let user = |content: Value| chat(json!([{"role": "user", "content": content}]));
    for (path, body, param) in [
        ("/v1/completions", json!({"prompt": ""}).to_string(), "prompt"),
        ("/completion", json!({"prompt": []}).to_string(), "prompt"),
        ("/generate", json!({"prompt": ""}).to_string(), "prompt"),
        ("/generate", json!({"prompt": ["a"]}).to_string(), "prompt"),
        ("/generate", json!({"prompt": "a", "context": 5}).to_string(), "context"),
        ("/v1/completions", json!({"prompt": 5}).to_string(), "prompt"),
        (
            "/v1/completions",
            json!({"prompt": [4_000_000_000_u32]}).to_string(),
            "prompt",
        ),
        (
            "/v1/completions",
            json!({"prompt": "a", "max_tokens": "5"}).to_string(),
            "max_tokens",
        ),
        (
            "/v1/completions",
            json!({"prompt": "a", "max_tokens": 0}).to_string(),
            "max_tokens",
        ),
        (
            "/v1/completions",
            json!({"prompt": "a", "temperature": -1}).to_string(),
            "temperature",
        ),
        (
            "/v1/completions",
            json!({"prompt": "a", "model": 5}).to_string(),
            "model",
        ),
        (
            "/v1/completions",
            json!({"prompt": "a", "stream_options": 5}).to_string(),
            "stream_options",
        ),
        ("/v1/completions", json!({"prompt": "a", "n": 2}).to_string(), "n"),
        (
            "/v1/completions",
            json!({"prompt": "a", "echo": true}).to_string(),
            "echo",
        ),
        ("/v1/chat/completions", chat(json!([])), "messages"),
        ("/v1/chat/completions", chat(json!("hi")), "messages"),
        (
            "/v1/chat/completions",
            chat(json!([{"role": "user"}])),
            "messages[0].content",
        ),
        ("/v1/chat/completions", chat(json!([{"content": "hi"}])), "messages[0]"),
        (
            "/v1/chat/completions",
            chat(json!([{"role": "king", "content": "hi"}])),
            "messages[0].role",
        ),
        ("/v1/chat/completions", user(json!(5)), "messages[0].content"),
        (
            "/v1/chat/completions",
            user(json!([{"type": "image_url"}])),
            "messages[0].content",
        ),
        (
            "/v1/chat/completions",
            user(json!([{"type": "text"}])),
            "messages[0].content",
        ),
    ] {
        assert_eq!(error(&server, path, &body, 400)["param"], param, "{path} {body}");
    }

    let long = json!({"prompt": vec![5; 50]}).to_string();
    let too_long = error(&server, "/v1/completions", &long, 400);
    assert_eq!(too_long["code"], "context_length_exceeded");
    let message = too_long["message"].as_str().unwrap();
    assert!(
        message.contains("32") && message.contains("50"),
        "both numbers: {message}"
    );
    error(&server, "/v1/chat/completions", &user(json!("tern ".repeat(50))), 400);

    assert_eq!(
        server.ask("/v1/completions", json!({"prompt": "a", "max_tokens": 1}))["object"],
        "text_completion"
    );
}

#[test]
fn only_the_models_own_names_are_known() {
    let server = Server::ready(&["--alias", "bird"]);
    let ask = |model: Value| json!({"prompt": "a", "max_tokens": 1, "model": model});
    for name in [
        json!("bird"),
        json!("nano-i2_s"),
        json!("nano-i2_s.gguf"),
        json!(""),
        json!("default"),
        Value::Null,
    ] {
        assert_eq!(server.ask("/v1/completions", ask(name))["model"], "bird");
    }
    let error = error(&server, "/v1/completions", &ask(json!("gpt-4")).to_string(), 404);
    assert_eq!(
        (&error["code"], &error["param"]),
        (&json!("model_not_found"), &json!("model"))
    );
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("gpt-4") && message.contains("bird"), "{message}");
}

#[test]
fn wrong_routes_methods_and_sizes() {
    let server = Server::ready(&[]);
    let response = server.get("/nothing/here");
    assert_eq!(
        (response.status, response.json()["error"]["code"].as_str()),
        (404, Some("not_found"))
    );
    let response = server.get("/v1/completions");
    assert_eq!((response.status, response.header("allow")), (405, Some("POST")));
    assert_eq!(send(server.address, "DELETE", "/v1/models", &[], b"").status, 405);
    let huge = format!("{{\"prompt\":\"{}\"}}", "x".repeat(3 << 20));
    assert_eq!(error(&server, "/v1/completions", &huge, 413)["code"], "body_too_large");

    let raw = |bytes: &[u8]| {
        let mut stream = TcpStream::connect(server.address).unwrap();
        stream.write_all(bytes).ok();
        stream.shutdown(Shutdown::Write).ok();
        stream
    };
    assert_eq!(read_head(raw(b"garbage\r\n\r\n")).status, 400);
    let huge_head = format!("GET / HTTP/1.1\r\nHost: x\r\nA: {}\r\n\r\n", "x".repeat(1 << 20));
    assert_eq!(read_head(raw(huge_head.as_bytes())).status, 431);
    drop(raw(b"POST /v1/completions HTTP/1.1\r\nContent-Length: 100\r\n\r\n{"));
    drop(raw(b""));
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn a_full_queue_says_when_to_come_back() {
    let server = Server::ready(&["--parallel", "1", "--queue-size", "1"]);
    let endless = json!({"prompt": "x", "n_predict": -1, "ignore_eos": true, "stream": true});
    // The third is refused, or a later one if the first was done already.
    let mut running = Vec::new();
    let refused = loop {
        let response = server.post("/completion", &endless);
        if response.status != 200 {
            break response;
        }
        running.push(response);
        assert!(running.len() < 100, "nobody was refused");
    };
    assert_eq!((refused.status, refused.header("retry-after")), (429, Some("1")));
    assert_eq!(refused.json()["error"]["code"], "queue_full");
    drop(running);
    server.until("there is room again", || {
        server
            .post("/v1/completions", &json!({"prompt": "x", "max_tokens": 1}))
            .status
            == 200
    });
}

/// Any JSON, with the names and values that mean something more often than chance would have it.
fn bodies() -> impl Strategy<Value = Value> {
    let name = prop_oneof![
        4 => prop::sample::select(vec![
            "prompt", "messages", "role", "content", "text", "type", "stream", "stop", "max_tokens", "n_predict",
            "temperature", "top_k", "top_p", "min_p", "seed", "model", "n", "tools", "context", "stream_options",
            "logprobs", "top_logprobs", "n_probs",
        ])
        .prop_map(str::to_owned),
        1 => ".{0,8}",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-3_i64..20).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        prop::sample::select(vec![
            "user",
            "system",
            "assistant",
            "text",
            "<|eot_id|>",
            "{{ x }}",
            "{% for %}",
            ""
        ])
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 48, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((name.clone(), inner), 0..8)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

#[test]
fn no_json_brings_the_server_down() {
    let server = Server::ready(&["--ctx-size", "32"]);
    let config = Config {
        cases: 400,
        failure_persistence: None,
        ..Config::default()
    };
    let asked = TestRunner::new(config).run(&(0..POSTS.len(), bodies()), |(path, mut body)| {
        if let Some(fields) = body.as_object_mut() {
            // Half of the requests would otherwise fail for want of it.
            fields.entry("prompt").or_insert_with(|| "tern".into());
            fields
                .entry("messages")
                .or_insert_with(|| json!([{"role": "user", "content": "tern"}]));
        }
        let response = server.post(POSTS[path], &body);
        let status = response.status;
        let text = response.text();
        prop_assert!(
            matches!(status, 200 | 400 | 404),
            "{} {body} -> {status} {text}",
            POSTS[path]
        );
        Ok(())
    });
    asked.unwrap_or_else(|failure| panic!("{failure}\n{}", server.log()));
    assert!(!server.log().contains("panicked"), "{}", server.log());
    assert_eq!(server.get("/health").status, 200);
}
