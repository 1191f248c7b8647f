//! Log-probabilities, as the clients of each API ask for them.

use serde_json::{Value, json};

use crate::client::send;
use crate::server::Server;

/// Sampled from all tokens: among the nano model's are many that are not whole characters.
fn noise(seed: u64, extra: Value) -> Value {
    let mut body = json!({
        "prompt": "tern", "messages": [{"role": "user", "content": "tern"}],
        "temperature": 1.5, "top_k": 0, "top_p": 1, "min_p": 0, "seed": seed, "ignore_eos": true, "max_tokens": 40,
    });
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

/// The events of a stream that have choices, or are llama-server's.
fn events(server: &Server, path: &str, mut body: Value) -> Vec<Value> {
    body["stream"] = true.into();
    let events = server.post(path, &body).events();
    let events = events.iter().filter(|event| *event != "[DONE]");
    events.map(|event| serde_json::from_str(event).unwrap()).collect()
}

fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value
        .pointer(pointer)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// What entries say was generated.
fn bytes(entries: &[Value]) -> Vec<u8> {
    let bytes = entries.iter().flat_map(|entry| list(entry, "/bytes"));
    bytes.map(|byte| byte.as_u64().unwrap().try_into().unwrap()).collect()
}

/// An entry's own number, and those of the alternatives: the most likely first, none above 0.
fn check(entry: &Value, alternatives: usize) {
    let top = list(entry, "/top_logprobs");
    let logprobs: Vec<f64> = top.iter().map(|top| top["logprob"].as_f64().unwrap()).collect();
    assert_eq!(logprobs.len(), alternatives, "{entry}");
    assert!(logprobs.is_sorted_by(|a, b| a >= b) && logprobs.iter().all(|&logprob| logprob <= 0.0));
    let own = entry["logprob"].as_f64().unwrap();
    let same = top.iter().find(|top| top["token"] == entry["token"]);
    match same {
        Some(top) => assert_eq!(top["logprob"], own),
        None => assert!(logprobs.last().is_none_or(|&last| own <= last), "{entry}"),
    }
}

#[test]
fn a_chat_says_how_likely_its_tokens_were_streamed_or_not() {
    let server = Server::ready(&[]);
    let path = "/v1/chat/completions";
    let mut partial = 0;
    for seed in 0..8 {
        let silent = server.ask(path, noise(seed, json!({})));
        assert_eq!(silent["choices"][0]["logprobs"], Value::Null);
        let asking = noise(seed, json!({"logprobs": true, "top_logprobs": 3}));
        let answer = server.ask(path, asking.clone());
        assert_eq!(answer["choices"][0]["message"], silent["choices"][0]["message"]);
        let logprobs = &answer["choices"][0]["logprobs"];
        assert_eq!(logprobs["refusal"], Value::Null);
        let entries = list(logprobs, "/content");
        assert_eq!(answer["usage"]["completion_tokens"], entries.len());
        entries.iter().for_each(|entry| check(entry, 3));
        assert_eq!(
            answer["choices"][0]["message"]["content"],
            *String::from_utf8_lossy(&bytes(entries))
        );

        let mut streamed = Vec::new();
        for event in events(&server, path, asking) {
            let choice = &event["choices"][0];
            let entries = list(choice, "/logprobs/content");
            let text = choice["delta"]["content"].as_str().unwrap_or_default();
            assert_eq!(choice["logprobs"].is_null(), entries.is_empty(), "{event}");
            assert!(text.is_empty() || !entries.is_empty(), "text of no token: {event}");
            partial += usize::from(entries.len() > 1);
            streamed.extend_from_slice(entries);
        }
        assert_eq!(streamed, entries);
    }
    assert!(partial > 0, "characters of several tokens");
    let alone = server.ask(path, noise(0, json!({"logprobs": true})));
    check(&alone["choices"][0]["logprobs"]["content"][0], 0);
}

#[test]
fn a_completion_says_it_in_the_older_form() {
    let server = Server::ready(&[]);
    let path = "/v1/completions";
    for (seed, top) in [(1, 0), (2, 5)] {
        let asking = noise(seed, json!({"logprobs": top}));
        let answer = server.ask(path, asking.clone());
        let choice = &answer["choices"][0];
        assert_eq!(
            choice["text"],
            server.ask(path, noise(seed, json!({"logprobs": false})))["choices"][0]["text"]
        );
        let text: Vec<char> = choice["text"].as_str().unwrap().chars().collect();
        let all = ["tokens", "token_logprobs", "top_logprobs", "text_offset"];
        let [tokens, logprobs, tops, offsets] = all.map(|field| list(&choice["logprobs"], &format!("/{field}")));
        assert_eq!(tokens.len(), 40);
        for i in 0..40 {
            let token = tokens[i].as_str().unwrap();
            let map = tops[i].as_object().unwrap();
            assert_eq!(map[token], logprobs[i], "the generated token is always there");
            assert!((top.max(1)..=top + 1).contains(&map.len()));
            let at = offsets[i].as_u64().unwrap() as usize;
            if !token.starts_with("bytes:") && !text.contains(&char::REPLACEMENT_CHARACTER) {
                assert!(text[at..].iter().collect::<String>().starts_with(token));
            }
        }
        let streamed = events(&server, path, asking);
        for (field, whole) in all.iter().zip([tokens, logprobs, tops, offsets]) {
            let parts = streamed
                .iter()
                .flat_map(|event| list(&event["choices"][0]["logprobs"], &format!("/{field}")));
            assert!(parts.eq(whole), "{field}");
        }
    }
}

#[test]
fn llama_servers_completion_says_it_in_its_own_form() {
    let server = Server::ready(&[]);
    for seed in 0..4 {
        let asking = noise(seed, json!({"n_probs": 4}));
        let answer = server.ask("/completion", asking.clone());
        let silent = server.ask("/completion", noise(seed, json!({"n_probs": 0})));
        assert_eq!(
            (&answer["content"], &answer["tokens"]),
            (&silent["content"], &silent["tokens"])
        );
        assert!(silent.get("completion_probabilities").is_none());
        assert_eq!(answer["generation_settings"]["n_probs"], 4);
        let entries = list(&answer, "/completion_probabilities");
        entries.iter().for_each(|entry| check(entry, 4));
        assert!(entries.iter().map(|entry| &entry["id"]).eq(list(&answer, "/tokens")));
        assert_eq!(answer["content"], *String::from_utf8_lossy(&bytes(entries)));
        let parts = events(&server, "/completion", asking);
        for event in &parts {
            let ids = list(event, "/completion_probabilities")
                .iter()
                .map(|entry| &entry["id"]);
            assert!(ids.eq(list(event, "/tokens")), "each with its token: {event}");
        }
        assert!(
            parts
                .iter()
                .flat_map(|event| list(event, "/completion_probabilities"))
                .eq(entries)
        );
    }
}

#[test]
fn tokens_of_a_stop_text_come_last_and_all_apis_agree() {
    let server = Server::ready(&[]);
    let entries = |answer: &Value| list(answer, "/completion_probabilities").to_vec();
    let whole = entries(&server.ask("/completion", noise(3, json!({"n_probs": 1}))));
    let text = String::from_utf8(bytes(&whole[..1])).unwrap_or_default();
    let whole_text = String::from_utf8_lossy(&bytes(&whole)).into_owned();
    // A stop text that begins inside of a token and ends in a later one, where chance has it so.
    let stop: String = whole_text.chars().skip(20.max(text.len())).take(6).collect();
    let asking = |extra| {
        let mut body = noise(3, extra);
        body["stop"] = json!([stop]);
        body
    };
    let answer = server.ask("/completion", asking(json!({"n_probs": 1})));
    assert_eq!(answer["stop_type"], "word");
    let stopped = entries(&answer);
    assert_eq!(stopped, whole[..stopped.len()], "also those of the stop text");
    assert_eq!(answer["tokens_predicted"], stopped.len());
    let streamed = events(&server, "/v1/completions", asking(json!({"logprobs": 1})));
    let (last, parts) = streamed.split_last().unwrap();
    let logprobs = |event: &Value| list(&event["choices"][0]["logprobs"], "/token_logprobs").to_vec();
    let all: Vec<Value> = streamed.iter().flat_map(logprobs).collect();
    assert!(all.iter().eq(stopped.iter().map(|entry| &entry["logprob"])));
    assert_eq!(last["choices"][0]["text"], "");
    let before = parts.iter().map(|event| event["choices"][0]["text"].as_str().unwrap());
    assert_eq!(answer["content"], before.collect::<String>());
    assert!(!logprobs(last).is_empty());
}

#[test]
fn what_no_answer_can_say_is_refused() {
    let server = Server::ready(&[]);
    let chat = "/v1/chat/completions";
    for (path, extra, field) in [
        (chat, json!({"top_logprobs": 2}), "top_logprobs"),
        (chat, json!({"logprobs": true, "top_logprobs": 21}), "top_logprobs"),
        (chat, json!({"logprobs": 2}), "logprobs"),
        (chat, json!({"n_probs": 2}), "n_probs"),
        ("/v1/completions", json!({"logprobs": 6}), "logprobs"),
        ("/v1/completions", json!({"logprobs": true}), "logprobs"),
        (
            "/v1/completions",
            json!({"logprobs": 1, "top_logprobs": 2}),
            "top_logprobs",
        ),
        ("/v1/completions", json!({"logprobs": 1, "echo": true}), "echo"),
        ("/completion", json!({"n_probs": 101}), "n_probs"),
        (
            "/completion",
            json!({"n_probs": 1, "post_sampling_probs": true}),
            "post_sampling_probs",
        ),
        ("/completion", json!({"logprobs": 1}), "logprobs"),
        ("/generate", json!({"logprobs": true}), "logprobs"),
        ("/generate", json!({"n_probs": 1}), "n_probs"),
    ] {
        let body = noise(0, extra).to_string();
        let response = send(server.address, "POST", path, &[], body.as_bytes());
        assert_eq!(response.status, 400, "{path} {body}");
        assert_eq!(response.json()["error"]["param"], field, "{path} {body}");
    }
}
