//! From the first moment to the last: waiting for a model, losing it, signals, exit codes.

use std::fs;
use std::net::TcpListener;
use std::process::{Output, Stdio};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::limited;
use crate::server::{Server, nano, sterna};

/// Runs the program to its end.
fn run(args: &[&str], env: &[(&str, &str)]) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = sterna().args(args).envs(env.iter().copied()).output().unwrap();
    (status.code(), String::from_utf8(stderr).unwrap())
}

#[test]
fn it_serves_before_the_model_is_there_and_answers_when_it_has_come() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::listening(&["--model", folder.path().to_str().unwrap()]);
    let waits = || {
        let health = server.get("/health");
        assert_eq!((health.status, health.header("retry-after")), (503, Some("5")));
        let health = health.json();
        assert_eq!(health["status"], "waiting_for_model");
        health["error"]["message"].as_str().unwrap().to_owned()
    };
    server.until("it has looked for the model", || waits().contains("no .gguf file"));
    assert_eq!(server.get("/live").status, 200);
    let refused = server.post("/v1/completions", &json!({"prompt": "a"}));
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("5")));
    assert_eq!(refused.json()["error"]["code"], "waiting_for_model");
    assert_eq!(server.get("/model-info").json()["model_ready"], false);

    // A copy that is still going on.
    let model = fs::read(nano()).unwrap();
    let file = folder.path().join("model.gguf");
    fs::write(&file, &model[..model.len() / 2]).unwrap();
    server.until("it has seen half of the file", || {
        waits().contains("still being copied")
    });
    fs::write(&file, &model).unwrap();
    server.wait_until_ready();
    assert_eq!(
        server.ask("/v1/completions", json!({"prompt": "a", "max_tokens": 1}))["model"],
        "model"
    );
}

#[test]
fn what_was_re_packed_is_read_at_the_next_start_and_changes_no_token() {
    let folder = tempfile::tempdir().unwrap();
    let ask = |server: &Server| {
        server.ask(
            "/completion",
            json!({"prompt": "abc", "n_predict": 24, "temperature": 0, "ignore_eos": true}),
        )["content"]
            .clone()
    };
    let words = ask(&Server::ready(&["--no-repack"]));
    let kept = || {
        let path = fs::read_dir(folder.path()).unwrap().next();
        path.is_some_and(|path| path.unwrap().path().extension().is_some_and(|e| e == "sterna"))
    };
    let args = ["--cache-dir", folder.path().to_str().unwrap()];
    for read in [false, true] {
        let server = Server::ready(&args);
        server.until("it is prepared", || server.log().contains("output head"));
        let log = server.log();
        if !log.contains("re-packed for") {
            return; // kernels that read the file's own layout
        }
        server.until("it is kept", kept);
        assert_eq!(
            (log.contains("read from"), log.contains("WARN")),
            (read, false),
            "{log}"
        );
        assert_eq!(ask(&server), words);
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_model_file_that_changes_underneath_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.gguf");
    fs::copy(nano(), &file).unwrap();
    let server = Server::listening(&["--model", file.to_str().unwrap()]);
    server.wait_until_ready();
    fs::OpenOptions::new()
        .write(true)
        .open(&file)
        .unwrap()
        .set_len(4096)
        .unwrap();
    let health = server.get("/health");
    assert_eq!((health.status, health.json()["status"].as_str()), (503, Some("error")));
    assert_eq!(server.get("/live").status, 503, "only a restart helps");
    let refused = server.post("/v1/completions", &json!({"prompt": "a"}));
    assert_eq!(
        (refused.status, refused.json()["error"]["code"].as_str()),
        (503, Some("engine_failed"))
    );
}

#[test]
fn exit_codes_say_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (code, said) = run(
        &[
            "--port",
            "0",
            "--model",
            &path("none.gguf"),
            "--model-wait-timeout",
            "0",
        ],
        &[],
    );
    assert!(
        code == Some(66) && said.contains("none.gguf does not exist"),
        "{code:?} {said}"
    );

    fs::write(path("bad.gguf"), "not a model at all").unwrap();
    let hour_ago = SystemTime::now() - Duration::from_secs(3600);
    fs::File::open(path("bad.gguf"))
        .unwrap()
        .set_modified(hour_ago)
        .unwrap();
    let (code, said) = run(&["--port", "0", "--model", &path("bad.gguf")], &[]);
    assert!(code == Some(65) && said.contains("not a GGUF file"), "{code:?} {said}");

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let (code, said) = run(&[], &[("HOST", "127.0.0.1"), ("PORT", &port)]);
    assert!(
        code == Some(69) && said.contains("another program uses this port"),
        "{code:?} {said}"
    );

    let (code, said) = run(&[], &[("BITNET_CTX_SIZE", "many")]);
    assert!(
        code == Some(2) && said.contains("BITNET_CTX_SIZE is `many`"),
        "{code:?} {said}"
    );
    let (code, said) = run(&["--ctx-size", "many"], &[]);
    assert!(code == Some(2) && said.contains("--ctx-size"), "{code:?} {said}");
    let (code, said) = run(&["--kernel", "abacus"], &[]);
    assert!(
        code == Some(78) && said.contains("no kernel variant named `abacus`"),
        "{code:?} {said}"
    );
    let (code, said) = run(&["--cpu-affinity", "8000"], &[]);
    assert!(
        code == Some(78) && said.contains("this process may use"),
        "{code:?} {said}"
    );
}

#[test]
fn a_context_beyond_what_the_model_was_trained_for_is_cut_and_said() {
    let server = Server::ready(&["--ctx-size", "8192"]);
    let said = "--ctx-size 8192 is more than the 512 tokens the model was trained for";
    assert!(server.log().contains(said), "{}", server.log());
    assert_eq!(server.get("/health").json()["context_size"], 512);
    let server = Server::ready(&[]);
    assert!(!server.log().contains("--ctx-size"), "nobody asked for the default");
    assert_eq!(server.get("/health").json()["context_size"], 512);
}

#[test]
fn an_affinity_holds_for_every_thread() {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let last = allowed.unwrap().rsplit([',', '-', '\t']).next().unwrap();
    let mut command = sterna();
    command.env("CPU_AFFINITY", last);
    let server = Server::ready_as(command, &[]);
    assert_eq!(server.get("/health").json()["threads"], 1);
    let on_it = format!("Cpus_allowed_list:\t{last}\n");
    let threads = server.threads();
    assert!(
        threads.len() > 2 && threads.iter().all(|status| status.contains(&on_it)),
        "{threads:?}"
    );
}

#[test]
fn a_limit_on_threads_leaves_a_server_that_answers() {
    // The main thread, two for connections, one for tokenizing, the loader, and the engine's: none for the pass.
    let Some(command) = limited::sterna(6) else { return };
    let server = Server::ready_as(command, &["--threads", "2"]);
    for _ in 0..3 {
        let answer = server.ask(
            "/completion",
            json!({"prompt": "a", "n_predict": 2, "ignore_eos": true}),
        );
        assert_eq!(answer["tokens_predicted"], 2);
    }
    assert!(!server.log().contains("panicked"), "{}", server.log());
}

#[test]
fn an_idle_server_stops_at_once() {
    for signal in ["TERM", "INT"] {
        // Without the signals' handling the grace period, not the test's patience, would end it.
        let mut server = Server::ready(&["--shutdown-grace", "1000000"]);
        let idle = std::net::TcpStream::connect(server.address).unwrap();
        server.signal(signal);
        assert_eq!(server.wait().code(), Some(0));
        drop(idle);
    }
}

#[test]
fn a_running_request_may_finish() {
    let mut server = Server::ready(&["--shutdown-grace", "1000000"]);
    let body = json!({"prompt": "x", "max_tokens": 100, "ignore_eos": true, "stream": true});
    let mut response = server.post("/v1/completions", &body);
    assert!(response.chunk().is_some());
    server.signal("TERM");
    let events = response.events();
    let last: Value = events[events.len() - 2].parse().unwrap();
    assert_eq!(
        (&last["timings"]["predicted_n"], events.last().unwrap().as_str()),
        (&json!(100), "[DONE]")
    );
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn after_the_grace_period_a_stream_ends_properly() {
    for (grace, second_signal) in [("0.1", false), ("1000000", true)] {
        let mut server = Server::ready(&["--shutdown-grace", grace]);
        // More requests than can finish: each fills the context, one after the other.
        let endless = json!({"prompt": "x", "max_tokens": -1, "ignore_eos": true, "stream": true});
        let responses: Vec<_> = (0..100).map(|_| server.post("/v1/completions", &endless)).collect();
        server.signal("TERM");
        if second_signal {
            server.until("the first signal is seen", || server.log().contains("stopping"));
            server.signal("TERM");
        }
        for response in responses {
            let events = response.events();
            let last: Value = events[events.len() - 2].parse().unwrap();
            assert_eq!(last["choices"][0]["finish_reason"], "length");
            assert_eq!(events.last().unwrap(), "[DONE]");
        }
        assert_eq!(server.wait().code(), Some(0));
    }
}

#[test]
fn healthcheck_asks_the_server_that_the_environment_names() {
    let port_of = |server: &Server| server.address.port().to_string();
    let server = Server::ready(&[]);
    let (code, _) = run(&["healthcheck"], &[("HOST", "0.0.0.0"), ("PORT", &port_of(&server))]);
    assert_eq!(code, Some(0));
    let (code, _) = run(&["healthcheck", "--port", &port_of(&server)], &[("PORT", "1")]);
    assert_eq!(code, Some(0));

    let waiting = Server::listening(&["--model", "/nowhere.gguf"]);
    let (code, said) = run(&["healthcheck"], &[("PORT", &port_of(&waiting))]);
    assert!(
        code == Some(1) && said.contains("503") && said.contains("waiting_for_model"),
        "{code:?} {said}"
    );

    // Only where the server is matters: the others are the server's business, and its flags may have beaten them.
    let port = port_of(&server);
    let (code, said) = run(&["healthcheck"], &[("PORT", &port), ("BITNET_THREADS", "abc")]);
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = run(&["healthcheck"], &[("PORT", "abc")]);
    assert!(code == Some(2) && said.contains("PORT is `abc`"), "{code:?} {said}");
    for beyond in ["0", "86401", "18446744073709551615"] {
        let (code, said) = run(&["healthcheck", "--port", &port, "--timeout", beyond], &[]);
        assert!(code == Some(2) && said.contains("1..=86400"), "{code:?} {said}");
    }

    drop(server);
    let (code, said) = run(&["healthcheck"], &[("PORT", &port)]);
    assert!(code == Some(1) && said.contains("no answer"), "{code:?} {said}");
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port().to_string();
    let (code, said) = run(&["healthcheck", "--timeout", "1"], &[("PORT", &port)]);
    assert!(code == Some(1) && said.contains("no answer"), "{code:?} {said}");
}

#[test]
fn output_that_nobody_reads_is_no_failure_to_talk_about() {
    let mut child = sterna()
        .arg("detect")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}
