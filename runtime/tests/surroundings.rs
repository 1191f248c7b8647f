//! What the commands do with what is around them: the CPUs and threads that they are granted, and the terminal.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::Value;

mod limited;

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/runtime/tests/data/nano-i2_s.gguf");

fn sterna(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sterna"));
    command.args(args).stdin(Stdio::null()).output().unwrap()
}

/// The model with other bytes in the place of the first of these, and one more added so many bytes after their beginning.
fn changed(dir: &Path, bytes: &[u8], other: &[u8], add_at: usize) -> PathBuf {
    let mut file = fs::read(MODEL).unwrap();
    let at = file.windows(bytes.len()).position(|found| found == bytes).unwrap();
    file[at..at + other.len()].copy_from_slice(other);
    file[at + add_at] += 1;
    let path = dir.join("changed.gguf");
    fs::write(&path, file).unwrap();
    path
}

#[test]
fn names_in_a_file_are_no_commands_to_the_terminal() {
    let dir = tempfile::tempdir().unwrap();
    // After the name come two dimensions with their number, the type, and the offset: an error that names the tensor.
    let name = b"blk.0.attn_q.weight";
    let model = changed(dir.path(), name, b"\x1b]0;x", name.len() + 4 + 16 + 4);
    for command in ["run", "inspect"] {
        let output = sterna(&[command, model.to_str().unwrap()]);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(
            error.contains(r"\u{1b}]0;x.attn_q.weight begins at"),
            "{command}: {error}"
        );
        assert!(!error.contains('\x1b'), "{command}: {error}");
    }
    // The same command as one character, which JSON texts may hold.
    let model = changed(dir.path(), b"synthetic tiny", "\u{9b}2J".as_bytes(), 13);
    let output = sterna(&["inspect", model.to_str().unwrap()]);
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success() && shown.contains(r"\u{9b}2Jhetic tinz"),
        "{shown}"
    );
    assert!(!shown.contains('\u{9b}'), "{shown}");
}

#[test]
fn warnings_are_shown_and_disturb_no_output() {
    let run = |ctx_size: &[&str]| {
        let args = ["run", MODEL, "a", "--json", "--max-tokens", "1"];
        let output = sterna(&[&args, ctx_size].concat());
        let object: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(object["finish_reason"], "length");
        String::from_utf8(output.stderr).unwrap()
    };
    assert_eq!(run(&[]), "");
    let warning = "--ctx-size 8192 is more than the 512 tokens the model was trained for";
    let said = run(&["--ctx-size", "8192"]);
    assert!(said.contains(warning) && said.lines().count() == 1, "{said}");
}

#[test]
fn a_limit_on_threads_makes_nothing_panic() {
    let text = concat!(env!("CARGO_MANIFEST_DIR"), "/runtime/tests/data/multilingual.txt");
    let commands: [(usize, &[&str]); 3] = [
        (1, &["perplexity", MODEL, text, "--context", "64"]),
        (1, &["inspect", MODEL, "--check"]),
        // The engine has a thread of its own.
        (2, &["run", MODEL, "a", "--max-tokens", "80"]),
    ];
    for (threads, args) in commands {
        let mut tries = 0;
        loop {
            let Some(mut sterna) = limited::sterna(threads) else {
                return;
            };
            let output = sterna.args(args).output().unwrap();
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(!error.contains("panicked"), "{args:?}: {error}");
            if output.status.success() {
                assert!(!output.stdout.is_empty(), "{args:?}: {error}");
                break;
            }
            // On a busy machine a thread that has ended may still count.
            tries += 1;
            assert!(tries < 5, "{args:?}: {error}");
        }
    }
    let Some(mut sterna) = limited::sterna(1) else { return };
    let output = sterna.args(["run", MODEL, "a"]).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("cannot start the engine's thread"), "{error}");
}

#[test]
fn every_command_that_computes_stays_on_its_cpus() {
    let on = |cpus: &str, args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sterna"));
        command.args(args).env("CPU_AFFINITY", cpus);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let commands: [&[&str]; 5] = [
        &["run", MODEL, "a"],
        &["inspect", MODEL, "--sparsity"],
        &["bench", MODEL],
        &["logits", MODEL, "--tokens", "1", "--output", "/nowhere/x"],
        &["perplexity", MODEL, MODEL],
    ];
    for args in commands {
        for (cpus, code, says) in [
            ("8000", 78, "this process may use"),
            ("many", 2, "CPU_AFFINITY is `many`"),
        ] {
            let output = on(cpus, args).wait_with_output().unwrap();
            let error = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(code), "{args:?}: {error}");
            assert!(error.contains(says), "{args:?}: {error}");
        }
    }

    let status = fs::read_to_string("/proc/self/status").unwrap();
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let last = allowed.unwrap().rsplit([',', '-', '\t']).next().unwrap();
    let mut child = on(last, &["run", MODEL, "--threads", "2", "--max-tokens", "1"]);
    let process = child.id();
    let threads = || {
        let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap();
        let statuses = tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("status")).ok());
        statuses.collect::<Vec<_>>()
    };
    // It has started its engine when it waits for its prompt.
    while !threads().iter().any(|status| status.contains("sterna-engine")) {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it had a prompt");
        thread::sleep(Duration::from_millis(10));
    }
    let on_it = format!("Cpus_allowed_list:\t{last}\n");
    assert!(
        threads().iter().all(|status| status.contains(&on_it)),
        "{:?}",
        threads()
    );
    child.stdin.take().unwrap().write_all(b"a").unwrap();
    let output = child.wait_with_output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.success() && error.contains("running 1, for as many CPUs"),
        "{error}"
    );
}
