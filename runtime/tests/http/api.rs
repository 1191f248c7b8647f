//! Every endpoint, asked as its clients ask.

use std::thread;

use serde_json::{Value, json};

use crate::client::{begin, send};
use crate::server::Server;

fn greedy(extra: Value) -> Value {
    let mut body = json!({"temperature": 0, "ignore_eos": true, "max_tokens": 12});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

fn chat_body() -> Value {
    greedy(json!({"messages": [
        {"role": "system", "content": "You are terse."},
        {"role": "user", "content": "What is a tern?"},
    ]}))
}

fn streamed(mut body: Value) -> Value {
    body["stream"] = true.into();
    body
}

/// Events of a stream as JSON, without the `[DONE]` that must end it.
fn events(server: &Server, path: &str, body: &Value) -> Vec<Value> {
    let mut events = server.post(path, body).events();
    assert_eq!(events.pop().as_deref(), Some("[DONE]"));
    events
        .iter()
        .map(|event| serde_json::from_str(event).unwrap())
        .collect()
}

#[test]
fn what_is_served_and_how() {
    let server = Server::ready(&["--alias", "bird", "--threads", "1", "--ctx-size", "64"]);
    for path in ["/health", "/v1/health", "/healthz", "/ready", "/readyz"] {
        let health = server.get(path).json();
        assert_eq!(
            (&health["status"], &health["model"]),
            (&json!("ok"), &json!("bird")),
            "{health}"
        );
        assert_eq!((&health["threads"], &health["context_size"]), (&json!(1), &json!(64)));
        assert_eq!(health["requests"], json!({"waiting": 0, "running": 0}));
    }
    assert_eq!(server.get("/live").status, 200);
    for path in ["/v1/models", "/models"] {
        let models = server.get(path).json();
        assert_eq!(
            (&models["object"], &models["data"][0]["id"]),
            (&json!("list"), &json!("bird"))
        );
        assert_eq!(models["data"][0]["meta"]["n_ctx"], 64);
    }
    assert_eq!(server.get("/v1/models/bird").json()["object"], "model");
    assert_eq!(server.get("/v1/models/fish").status, 404);
    let info = server.get("/model-info").json();
    assert_eq!(
        (&info["model_ready"], &info["quantization"]),
        (&json!(true), &json!("i2_s"))
    );
    assert_eq!(
        (&info["cache_type_k"], &info["cache_type_v"]),
        (&json!("f16"), &json!("f16"))
    );
    assert!(info["parameters"].as_u64().unwrap() > 100_000, "{info}");
    assert!(server.get("/").text().contains("/v1/chat/completions"));
}

#[test]
fn a_chat_answers_and_its_stream_says_the_same() {
    let server = Server::ready(&[]);
    let answer = server.ask("/v1/chat/completions", chat_body());
    let choice = &answer["choices"][0];
    let text = choice["message"]["content"].as_str().unwrap();
    assert_eq!(
        (&answer["object"], &choice["finish_reason"]),
        (&json!("chat.completion"), &json!("length"))
    );
    assert_eq!(
        (&choice["message"]["role"], &choice["index"]),
        (&json!("assistant"), &json!(0))
    );
    assert!(
        answer["id"].as_str().unwrap().starts_with("chatcmpl-") && !text.is_empty(),
        "{answer}"
    );
    let usage = &answer["usage"];
    let [prompt, completion, total] =
        ["prompt_tokens", "completion_tokens", "total_tokens"].map(|key| usage[key].as_u64().unwrap());
    assert!(
        prompt > 10 && completion == 12 && total == prompt + completion,
        "{usage}"
    );

    let mut body = streamed(chat_body());
    body["stream_options"] = json!({"include_usage": true});
    let events = events(&server, "/v1/chat/completions", &body);
    let [first, .., last, counts] = events.as_slice() else {
        panic!("{events:?}")
    };
    assert_eq!(
        first["choices"][0]["delta"],
        json!({"role": "assistant", "content": ""})
    );
    assert_eq!(
        (&last["choices"][0]["delta"], &last["choices"][0]["finish_reason"]),
        (&json!({}), &json!("length"))
    );
    assert_eq!((&counts["choices"], &counts["usage"]), (&json!([]), usage));
    let deltas = events
        .iter()
        .filter_map(|e| e["choices"][0]["delta"]["content"].as_str());
    assert_eq!(deltas.collect::<String>(), text);
    assert!(
        events
            .iter()
            .all(|e| e["object"] == "chat.completion.chunk" && e["id"] == first["id"])
    );
    assert!(
        events[..events.len() - 1]
            .iter()
            .all(|e| e.get("usage") == Some(&Value::Null))
    );

    let plain = self::events(&server, "/chat/completions", &streamed(chat_body()));
    assert!(
        plain.iter().all(|e| e.get("usage").is_none()),
        "usage only when asked for"
    );
    assert_eq!(plain.len() + 1, events.len());
}

#[test]
fn content_parts_and_developer_are_other_spellings() {
    let server = Server::ready(&[]);
    let body = greedy(json!({"messages": [
        {"role": "developer", "content": "You are terse."},
        {"role": "user", "content": [{"type": "text", "text": "What is "}, {"type": "text", "text": "a tern?"}]},
    ]}));
    let content = |body| server.ask("/v1/chat/completions", body)["choices"][0]["message"]["content"].clone();
    assert_eq!(content(body), content(chat_body()));
}

#[test]
fn a_completion_answers_and_its_stream_says_the_same() {
    let server = Server::ready(&[]);
    let body = greedy(json!({"prompt": "The capital of France is"}));
    let answer = server.ask("/v1/completions", body.clone());
    let choice = &answer["choices"][0];
    assert_eq!(
        (&answer["object"], &choice["finish_reason"]),
        (&json!("text_completion"), &json!("length"))
    );
    assert_eq!(answer["usage"]["completion_tokens"], 12);

    let events = events(&server, "/v1/completions", &streamed(body.clone()));
    let text: String = events
        .iter()
        .map(|e| e["choices"][0]["text"].as_str().unwrap())
        .collect();
    assert_eq!(choice["text"], text);
    assert_eq!(events.last().unwrap()["choices"][0]["finish_reason"], "length");

    let as_list = greedy(json!({"prompt": ["The capital of France is"]}));
    assert_eq!(server.ask("/v1/completions", as_list)["choices"], answer["choices"]);
}

#[test]
fn llama_servers_completion_answers_and_its_stream_says_the_same() {
    let server = Server::ready(&[]);
    let body = json!({"prompt": "Terns", "n_predict": 9, "temperature": 0, "ignore_eos": true});
    let answer = server.ask("/completion", body.clone());
    assert_eq!((&answer["stop"], &answer["stop_type"]), (&json!(true), &json!("limit")));
    assert_eq!(
        (&answer["tokens_predicted"], &answer["timings"]["predicted_n"]),
        (&json!(9), &json!(9))
    );
    let timings = |name: &str| answer["timings"][name].as_u64().unwrap();
    assert!(timings("draft_n") >= timings("draft_n_accepted"));
    assert_eq!(answer["tokens"].as_array().unwrap().len(), 9);

    let events: Vec<Value> = server
        .post("/completion", &streamed(body))
        .events()
        .iter()
        .map(|e| e.parse().unwrap())
        .collect();
    let text: String = events.iter().map(|e| e["content"].as_str().unwrap()).collect();
    assert_eq!(answer["content"], text);
    let (last, parts) = events.split_last().unwrap();
    assert!(last["stop"] == true && parts.iter().all(|e| e["stop"] == false));
    let tokens: Vec<&Value> = parts.iter().flat_map(|e| e["tokens"].as_array().unwrap()).collect();
    assert_eq!(tokens, answer["tokens"].as_array().unwrap().iter().collect::<Vec<_>>());
}

#[test]
fn tokens_as_prompt_are_taken_as_they_are() {
    let server = Server::ready(&[]);
    let by_text = server.ask("/completion", json!({"prompt": "a", "n_predict": 1}));
    assert_eq!(by_text["tokens_evaluated"], 2, "BOS and one token");
    let tokens = json!({"prompt": [5, 6, 7], "n_predict": 2, "temperature": 0, "ignore_eos": true});
    let one = server.ask("/completion", tokens.clone());
    assert_eq!(one["tokens_evaluated"], 3, "no BOS is added");
    assert_eq!(
        server.ask("/v1/completions", tokens)["choices"][0]["text"],
        one["content"]
    );
}

#[test]
fn the_minimal_guides_generate() {
    let server = Server::ready(&[]);
    let body = json!({"prompt": "bird", "context": "sea", "temperature": 0, "max_tokens": 7, "ignore_eos": true});
    let answer = server.ask("/generate", body);
    assert_eq!(
        (&answer["tokens_generated"], &answer["model"]),
        (&json!(7), &json!("nano-i2_s"))
    );
    assert!(answer["inference_time_ms"].as_f64().unwrap() > 0.0);
    let joined = json!({"prompt": "sea\n\nbird", "temperature": 0, "n_predict": 7, "ignore_eos": true});
    assert_eq!(server.ask("/completion", joined)["content"], answer["generated_text"]);
}

#[test]
fn a_stop_text_ends_the_output_before_it_streamed_or_not() {
    let server = Server::ready(&[]);
    let body = greedy(json!({"prompt": "The capital of France is", "max_tokens": 24}));
    let whole = server.ask("/v1/completions", body.clone())["choices"][0]["text"]
        .as_str()
        .unwrap()
        .to_owned();
    // Three characters from the middle: they span tokens or not, as chance has it.
    let middle: String = whole.chars().skip(whole.chars().count() / 2).take(3).collect();
    let before = &whole[..whole.find(&middle).unwrap()];
    let mut body = body;
    body["stop"] = json!([middle, "never this"]);
    let answer = server.ask("/v1/completions", body.clone());
    assert_eq!(
        (&answer["choices"][0]["text"], &answer["choices"][0]["finish_reason"]),
        (&json!(before), &json!("stop"))
    );
    let events = events(&server, "/v1/completions", &streamed(body));
    assert_eq!(
        events
            .iter()
            .map(|e| e["choices"][0]["text"].as_str().unwrap())
            .collect::<String>(),
        before
    );
}

#[test]
fn a_seed_repeats_and_no_seed_varies() {
    let server = Server::ready(&[]);
    let sample = |seed: Value| {
        let body = json!({"prompt": "x", "n_predict": 24, "temperature": 2.0, "top_k": 0, "top_p": 1, "min_p": 0,
            "seed": seed, "ignore_eos": true});
        server.ask("/completion", body)["tokens"].clone()
    };
    assert_eq!(sample(json!(7)), sample(json!(7)));
    assert_ne!(sample(json!(7)), sample(json!(8)));
    assert_ne!(sample(json!(-1)), sample(Value::Null));
}

#[test]
fn without_a_limit_a_generation_fills_the_context() {
    let server = Server::ready(&["--ctx-size", "48"]);
    let answer = server.ask(
        "/completion",
        json!({"prompt": [5, 6, 7, 8], "n_predict": -1, "ignore_eos": true}),
    );
    assert_eq!(answer["stop_type"], "limit");
    let total = answer["tokens_evaluated"].as_u64().unwrap() + answer["tokens_predicted"].as_u64().unwrap();
    assert!((47..=49).contains(&total), "{total} tokens in a context of 48");
}

#[test]
fn sixteen_clients_at_once_all_get_the_same_answer() {
    let server = Server::ready(&["--parallel", "3"]);
    let alone = server.ask("/v1/chat/completions", chat_body());
    thread::scope(|scope| {
        let clients: Vec<_> = (0..16)
            .map(|i| {
                let server = &server;
                scope.spawn(move || match i % 2 {
                    0 => {
                        server.ask("/v1/chat/completions", chat_body())["choices"][0]["message"]["content"].to_string()
                    }
                    _ => {
                        let events = events(server, "/v1/chat/completions", &streamed(chat_body()));
                        let parts = events
                            .iter()
                            .filter_map(|e| e["choices"][0]["delta"]["content"].as_str());
                        Value::from(parts.collect::<String>()).to_string()
                    }
                })
            })
            .collect();
        for client in clients {
            assert_eq!(
                client.join().unwrap(),
                alone["choices"][0]["message"]["content"].to_string()
            );
        }
    });
}

#[test]
fn a_client_that_goes_away_frees_its_place() {
    let server = Server::ready(&["--parallel", "1", "--queue-size", "2"]);
    let load = || server.get("/health").json()["requests"].clone();
    let cancelled = || server.log().matches("cancelled: the client went away").count();
    let endless = json!({"prompt": "x", "n_predict": -1, "ignore_eos": true, "stream": true});
    let mut whole = endless.clone();
    whole["stream"] = false.into();
    // On a busy machine the first may end by itself before we went away: then once more.
    server.until("one that ran and one that waited are both cancelled", || {
        let before = cancelled();
        let mut streaming = server.post("/completion", &endless);
        assert!(streaming.chunk().is_some());
        let waiting = begin(server.address, "POST", "/completion", &[], whole.to_string().as_bytes());
        server.until("the second has arrived", || {
            load() != json!({"waiting": 0, "running": 1})
        });
        drop((streaming, waiting));
        server.until("both are gone", || load() == json!({"waiting": 0, "running": 0}));
        cancelled() == before + 2
    });
}

#[test]
fn a_key_opens_everything_but_health() {
    let server = Server::ready(&["--api-key", "first,second"]);
    let models = |headers: &[(&str, &str)]| send(server.address, "GET", "/v1/models", headers, b"").status;
    assert_eq!(models(&[]), 401);
    assert_eq!(models(&[("Authorization", "Bearer firs")]), 401);
    assert_eq!(models(&[("Authorization", "Basic first")]), 401);
    assert_eq!(models(&[("Authorization", "Bearer first")]), 200);
    assert_eq!(models(&[("authorization", "bearer second")]), 200);
    assert_eq!(models(&[("x-api-key", "second")]), 200);
    let refused = server.get("/nothing/here");
    assert_eq!(
        (refused.status, refused.header("www-authenticate")),
        (401, Some("Bearer"))
    );
    assert_eq!(refused.json()["error"]["code"], "invalid_api_key");
    assert_eq!(server.get("/health").status, 200);
    assert!(!server.log().contains("second"));
}

#[test]
fn browsers_may_call_only_from_named_origins() {
    let origin = [
        ("Origin", "https://a.example"),
        ("Access-Control-Request-Method", "POST"),
    ];
    let allowed = |server: &Server| {
        let response = send(server.address, "OPTIONS", "/v1/chat/completions", &origin, b"");
        response.header("access-control-allow-origin").map(str::to_owned)
    };
    assert_eq!(allowed(&Server::ready(&[])), None);
    assert_eq!(allowed(&Server::ready(&["--cors-origin", "https://b.example"])), None);
    let named = Server::ready(&["--cors-origin", "https://a.example", "--api-key", "k"]);
    assert_eq!(
        allowed(&named).as_deref(),
        Some("https://a.example"),
        "a preflight carries no key"
    );
}
