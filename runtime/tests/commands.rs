//! The contracts of `run`, `logits`, `perplexity` and `inspect`, and what every command refuses, through the binary itself.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("runtime/tests/data/nano-i2_s.gguf")
}

/// Runs `sterna` with these arguments and this standard input.
fn sterna(args: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_sterna"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that takes no input may be gone already.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

/// Standard output of a run that succeeds.
fn stdout(args: &[&str], input: &str) -> String {
    let output = sterna(args, input);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// Exit code and sentence of a run that fails.
fn failure(args: &[&str]) -> (i32, String) {
    let output = sterna(args, "");
    let error = String::from_utf8(output.stderr).unwrap();
    (output.status.code().expect("an exit code, not a signal"), error)
}

fn run_json(args: &[&str]) -> Value {
    let model = model();
    let mut all = vec!["run", model.to_str().unwrap(), "--json", "--ignore-eos"];
    all.extend(args);
    serde_json::from_str(&stdout(&all, "")).unwrap()
}

#[test]
fn run_prints_tokens_text_and_timings() {
    let object = run_json(&["The capital of France is", "--max-tokens", "6"]);
    assert_eq!(
        object["prompt_tokens"],
        serde_json::json!([1024, 791, 272, 391, 275, 278, 315, 435, 81, 685, 374])
    );
    assert_eq!(object["tokens"], serde_json::json!([714, 51, 714, 851, 714, 851]));
    assert_eq!(object["text"], "alseTalse_idalse_id");
    assert_eq!(object["finish_reason"], "length");
    assert_eq!(object["timings"]["prompt_n"], 11);
    assert_eq!(object["timings"]["predicted_n"], 6);
    assert!(object["timings"]["predicted_per_second"].as_f64().unwrap() > 0.0);
}

#[test]
fn tokens_argument_and_standard_input_are_the_same_prompt() {
    let ids = "1024,791,272,391,275,278,315,435,81,685,374";
    let by_tokens = run_json(&["--tokens", ids, "--max-tokens", "6"]);
    assert_eq!(by_tokens["text"], "alseTalse_idalse_id");
    let model = model();
    let args = ["run", model.to_str().unwrap(), "--max-tokens", "6", "--ignore-eos"];
    assert_eq!(stdout(&args, "The capital of France is\n"), "alseTalse_idalse_id\n");
}

#[test]
fn a_seed_decides_what_is_drawn_and_threads_do_not() {
    let draw = |seed, threads| {
        let sampling = [
            "Hello",
            "--max-tokens",
            "12",
            "--temperature",
            "1.5",
            "--top-k",
            "0",
            "--top-p",
            "1",
        ];
        run_json(&[&sampling[..], &["--seed", seed, "--threads", threads]].concat())["tokens"].clone()
    };
    assert_eq!(draw("7", "1"), draw("7", "2"));
    assert_ne!(draw("7", "1"), draw("8", "1"));
}

/// The weights are re-packed in the middle of a long answer.
#[test]
fn a_long_answer_is_the_same_with_the_weights_as_they_are() {
    let answer = |option: &[&str]| {
        let sampling = ["Hello", "--max-tokens", "400", "--temperature", "1.5"];
        run_json(&[&sampling, option].concat())["tokens"].clone()
    };
    let repacked = answer(&[]);
    assert_eq!(repacked.as_array().unwrap().len(), 400);
    assert_eq!(repacked, answer(&["--no-repack"]));
    assert_eq!(repacked, answer(&["--spec-type", "none"]));
}

#[test]
fn raw_takes_the_prompt_as_it_is() {
    let raw = run_json(&["<|eot_id|>", "--raw", "--max-tokens", "1"]);
    let cooked = run_json(&["<|eot_id|>", "--max-tokens", "1"]);
    assert_eq!(
        cooked["prompt_tokens"].as_array().unwrap().len(),
        2,
        "BOS and one special token"
    );
    assert!(raw["prompt_tokens"].as_array().unwrap().len() > 2);
    assert_ne!(raw["prompt_tokens"][0], cooked["prompt_tokens"][0]);
}

#[test]
fn a_stop_text_ends_the_output() {
    let object = run_json(&["The capital of France is", "--max-tokens", "9", "--stop", "_id"]);
    assert_eq!(
        (&object["text"], &object["finish_reason"]),
        (&"alseTalse".into(), &"stop".into())
    );
}

#[test]
fn logits_are_raw_floats_of_the_last_position() {
    let dir = tempfile::tempdir().unwrap();
    let (model, file) = (model(), dir.path().join("logits"));
    let write = |tokens: &str, more: &[&str]| {
        let args = [
            "logits",
            model.to_str().unwrap(),
            "--tokens",
            tokens,
            "--output",
            file.to_str().unwrap(),
        ];
        stdout(&[&args, more].concat(), "");
        fs::read(&file).unwrap()
    };
    let prompt = "1024,791,272,391,275,278,315,435,81,685,374";
    let bytes = write(prompt, &[]);
    assert_eq!(bytes.len(), 4 * 1280);
    let logits: Vec<f32> = bytes
        .chunks(4)
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
        .collect();
    assert_eq!(sterna::engine::sampling::argmax(&logits), 714);
    assert_eq!(bytes, write(prompt, &["--batch-size", "1", "--threads", "2"]));
    assert_ne!(bytes, write("1024", &[]));
}

#[test]
fn perplexity_is_one_object_that_threads_and_passes_do_not_change() {
    let model = model();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("runtime/tests/data/multilingual.txt");
    let (model, file) = (model.to_str().unwrap(), file.to_str().unwrap());
    let args = ["perplexity", model, file, "--json", "--context", "64"];
    let first = stdout(&[&args[..], &["--threads", "1"]].concat(), "");
    let object: Value = serde_json::from_str(&first).unwrap();
    let keys: Vec<&str> = object.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["bits_per_byte", "bytes", "context", "perplexity", "tokens"]);
    assert_eq!(object["bytes"], fs::metadata(file).unwrap().len());
    assert_eq!(object["context"], 64);
    let number = |key: &str| object[key].as_f64().unwrap();
    let nats = number("perplexity").ln() * number("tokens");
    assert!((number("bits_per_byte") * number("bytes") * 2f64.ln() / nats - 1.0).abs() < 1e-9);
    for more in [["--threads", "2"], ["--batch-size", "5"], ["--batch", "1000"]] {
        assert_eq!(stdout(&[&args[..], &more].concat(), ""), first, "{more:?}");
    }
    let text = fs::read_to_string(file).unwrap();
    let piped = ["perplexity", model, "-", "--json", "--context", "64"];
    assert_eq!(stdout(&piped, &text), first);
    let table = stdout(&["perplexity", model, file, "--context", "64"], "");
    assert!(
        table.starts_with("perplexity ") && table.contains("bits per byte"),
        "{table}"
    );
}

#[test]
fn text_that_is_not_utf_8_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (model, file) = (model(), dir.path().join("latin-1"));
    fs::write(&file, b"caf\xe9").unwrap();
    let (code, error) = failure(&["perplexity", model.to_str().unwrap(), file.to_str().unwrap()]);
    assert_eq!(code, 1, "{error}");
    assert!(error.contains("is not UTF-8 at byte 3"), "{error}");
}

#[test]
fn perplexity_wants_more_than_a_token_and_a_context_that_the_model_has() {
    let model = model();
    let args = ["perplexity", model.to_str().unwrap(), "-", "--context"];
    for (context, text, code, sentence) in [
        ("513", "Once upon a time", 2, "--context 513 is outside 2 to 512"),
        ("1", "Once upon a time", 2, "--context 1 is outside 2 to 512"),
        ("512", "a", 1, "is too short"),
    ] {
        let output = sterna(&[&args[..], &[context]].concat(), text);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{error}");
        assert!(error.contains(sentence), "{error}");
    }
}

/// What training made of the feed-forward: most of it is zero.
#[test]
fn inspect_measures_the_sparsity_of_trained_weights() {
    let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/demo/sterna-demo.gguf");
    let object: Value = serde_json::from_str(&stdout(&["inspect", demo, "--sparsity", "--json"], "")).unwrap();
    let layers = object["sparsity"].as_array().unwrap();
    assert_eq!(layers.len(), 4);
    for layer in layers {
        let share = |key: &str| layer[key].as_f64().unwrap();
        assert!((0.5..0.9).contains(&share("gate_closed")), "{layer}");
        assert!(share("down_zero") > share("gate_closed"), "{layer}");
    }
    let text = stdout(&["inspect", demo, "--sparsity"], "");
    assert!(text.contains("input of down zero"), "{text}");
    assert!(!stdout(&["inspect", demo], "").contains("input of down zero"));
}

#[test]
fn inspect_says_why_the_sparsity_is_not_measured() {
    let mut bytes = fs::read(model()).unwrap();
    let key = b"tokenizer.ggml.merges";
    let at = bytes.windows(key.len()).position(|window| window == key).unwrap();
    bytes[at..at + key.len()].copy_from_slice(b"tokenizer.ggml.mergez");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("mute.gguf");
    fs::write(&file, bytes).unwrap();
    let file = file.to_str().unwrap();
    let output = sterna(&["inspect", file, "--sparsity"], "");
    let (text, error) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert_eq!(output.status.code(), Some(65), "{error}");
    let (_, section) = text.split_once("Feed-forward, measured\n").expect(&text);
    assert!(
        section.starts_with("  not measured: ") && section.contains("tokenizer.ggml.merges"),
        "{text}"
    );
    let output = sterna(&["inspect", file, "--sparsity", "--json"], "");
    let object: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(object["sparsity"], serde_json::json!([]));
    assert!(
        object["sparsity_problem"]
            .as_str()
            .unwrap()
            .contains("tokenizer.ggml.merges"),
        "{object}"
    );
    let object = stdout(&["inspect", model().to_str().unwrap(), "--json"], "");
    let object: Value = serde_json::from_str(&object).unwrap();
    assert!(object["sparsity_problem"].is_null());
}

/// Compose files pass `${X:-}`.
#[test]
fn an_empty_variable_is_unset() {
    let model = model();
    let (model, text) = (
        model.to_str().unwrap(),
        concat!(env!("CARGO_MANIFEST_DIR"), "/runtime/tests/data/multilingual.txt"),
    );
    let dir = tempfile::tempdir().unwrap();
    let logits = dir.path().join("logits");
    let commands: &[&[&str]] = &[
        &["run", model, "Hello", "--max-tokens", "1"],
        &["run", model, "Hello", "--ctx-size", "9"],
        &["tokenize", model, "Hello"],
        &["logits", model, "--tokens", "1", "--output", logits.to_str().unwrap()],
        &["perplexity", model, text, "--context", "64"],
        &["bench", model, "--prefill", "1", "--decode", "0", "--repeats", "1"],
    ];
    let settings = [
        "KERNEL",
        "CACHE_TYPE_K",
        "CACHE_TYPE_V",
        "CACHE_DIR",
        "THREADS",
        "MAX_TOKENS",
        "CTX_SIZE",
        "SPEC_TYPE",
        "TOKENIZER_PRE",
        "NO_REPACK",
        "TEMPERATURE",
        "TOP_K",
        "TOP_P",
        "MIN_P",
        "SEED",
    ];
    for args in commands {
        for empty in ["", " "] {
            let mut command = Command::new(env!("CARGO_BIN_EXE_sterna"));
            command.args(*args).stdin(Stdio::null());
            command.envs(settings.map(|name| (format!("STERNA_{name}"), empty)));
            let output = command.output().unwrap();
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{args:?}: {error}");
        }
    }
}

#[test]
fn bad_input_gets_a_sentence_and_an_exit_code() {
    let model = model();
    let model = model.to_str().unwrap();
    let cases: &[(&[&str], i32, &str)] = &[
        (&["run", "/nowhere.gguf", "x"], 66, "/nowhere.gguf does not exist"),
        (&["run", model, ""], 0, ""),
        (&["run", model, "--raw", ""], 1, "the prompt is empty"),
        (&["run", model, "--tokens", "1,x"], 2, "`x` is not a token id"),
        (
            &["run", model, "--tokens", "1280"],
            1,
            "token 1280 is outside the vocabulary of 1280",
        ),
        (
            &["run", model, "--ctx-size", "4", "--tokens", "1,2,3,4"],
            1,
            "larger --ctx-size",
        ),
        (&["run", model, "x", "--temperature", "-1"], 2, "temperature must be"),
        (
            &["run", model, "x", "--threads", "0"],
            2,
            "threads must be `auto` or a number",
        ),
        (
            &["run", model, "x", "--kernel", "tl2"],
            78,
            "no kernel variant named `tl2`",
        ),
        (
            &["logits", model, "--tokens", "9999", "--output", "/tmp/x"],
            1,
            "outside the vocabulary",
        ),
        (
            &["logits", model, "--tokens", "1", "--output", "/nowhere/x"],
            74,
            "cannot write /nowhere/x",
        ),
        (&["run", model, "x", "--temperature", "nan"], 2, "temperature must be"),
        (&["run", model, "x", "--top-p", "2"], 2, "top_p must be"),
        (&["perplexity", model, "/nowhere.txt"], 74, "cannot read /nowhere.txt"),
        (&["perplexity", model, "/dev/null"], 1, "is empty: give a text"),
        (&["perplexity", model, "-"], 1, "is empty: give a text"),
        (&["perplexity", model, model, "--batch", "0"], 2, "not in 1.."),
        (
            &["perplexity", "/nowhere.gguf", "/etc/hostname"],
            66,
            "/nowhere.gguf does not exist",
        ),
        (
            &["bench", model, "--prefill", "0", "--context", "100000"],
            1,
            "room for 512",
        ),
        (
            &["bench", model, "--prefill", "0", "--decode", "0"],
            1,
            "every list holds only 0",
        ),
        (
            &["bench", model, "--sequences", "1000000"],
            2,
            "a number from 0 to 4096",
        ),
        (&["bench", model, "--threads", "1000000"], 2, "a number from 1 to 1024"),
        (&["bench", model, "--repeats", "4294967295"], 2, "not in 1..=10000"),
        (
            &[
                "bench",
                model,
                "--prefill",
                "18446744073709551615",
                "--decode",
                "18446744073709551615",
            ],
            1,
            "room for 512",
        ),
        (
            &[
                "bench",
                model,
                "--sequences",
                "2",
                "--prefill",
                "0",
                "--against",
                "auto",
            ],
            1,
            "single sequences",
        ),
        (
            &["run", model, "x", "--spec-type", "ngram-anything"],
            2,
            "ngram or none is needed",
        ),
    ];
    for (args, code, sentence) in cases {
        let more: &[&str] = if args[0] == "run" { &["--max-tokens", "1"] } else { &[] };
        let (actual, error) = failure(&[args, more].concat());
        assert_eq!(actual, *code, "{args:?}: {error}");
        assert!(error.contains(sentence), "{args:?}: {error}");
        assert!(!error.contains("panicked"), "{args:?}: {error}");
    }
}
