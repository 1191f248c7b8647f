//! What `sterna bench` prints, for programs and for people, keeps, and leaves behind, through the binary itself.

use std::fs;
use std::process::{Command, Stdio};

use serde_json::Value;

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/runtime/tests/data/nano-i2_s.gguf");

/// Standard output of `sterna bench` with the small model.
fn bench(args: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sterna"));
    let output = command.args(["bench", MODEL]).args(args).output().unwrap();
    assert!(
        output.status.success(),
        "{args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn bench_prints_one_object() {
    let dir = tempfile::tempdir().unwrap();
    let picture = dir.path().join("roofline.svg");
    let threads = ["--threads", "1,2"];
    let lists = [
        "--prefill",
        "8",
        "--decode",
        "9",
        "--context",
        "0,20,9999",
        "--sequences",
        "1,3",
    ];
    let more = [
        "--repeats",
        "2",
        "--start",
        "--json",
        "--svg",
        picture.to_str().unwrap(),
    ];
    let object: Value = serde_json::from_str(&bench(&[&threads[..], &lists, &more].concat())).unwrap();
    for key in ["version", "machine", "target", "kernel", "model"] {
        assert!(!object[key].is_null(), "{key}");
    }
    assert_eq!(object["schema"], 1);
    let positive = |value: &Value, keys: &[&str]| {
        for key in keys {
            assert!(value[key].as_f64().unwrap() > 0.0, "{key} of {value}");
        }
    };
    let results = object["results"].as_array().unwrap();
    for threads in results.iter().map(|result| result["threads"].to_string()) {
        positive(
            &object["ceilings"][threads],
            &["read_file_gb_per_s", "read_own_gb_per_s", "dot_gmac_per_s"],
        );
    }
    positive(&object["steady"], &["first_token_ms", "body_bytes", "head_bytes"]);
    positive(&object["start"], &["health_ms", "first_token_ms", "threads"]);
    assert_eq!(object["start"]["context"], 512);
    for memory in [&object["steady"]["memory"], &object["start"]["memory"]] {
        positive(memory, &["resident", "anonymous", "file", "peak"]);
    }
    assert_eq!(object["skipped"].as_array().unwrap().len(), 1);
    assert!(object["skipped"][0].as_str().unwrap().contains("after 9999"));
    let sparsity = object["sparsity"].as_array().unwrap();
    assert!(!sparsity.is_empty(), "of every layer");
    for share in sparsity
        .iter()
        .flat_map(|layer| ["gate_closed", "down_zero"].map(|key| &layer[key]))
    {
        assert!((0.0..=1.0).contains(&share.as_f64().unwrap()), "{share}");
    }
    assert_eq!(results.len(), 2 * (1 + 2 * 2));
    let (one, two) = results.split_at(5);
    let cpus = std::thread::available_parallelism().map_or(1, |n| n.get());
    for (a, b) in one.iter().zip(two) {
        assert_eq!(a["threads"], 1);
        assert!(b["threads"] == 2 || cpus == 1, "no thread without a CPU: {b}");
        for key in [
            "kind",
            "tokens",
            "context",
            "sequences",
            "bytes_per_token",
            "output_hash",
        ] {
            assert_eq!(a[key], b[key], "{key}");
        }
        positive(
            a,
            &[
                "tokens_per_s",
                "fraction_of_read",
                "fraction_of_dot",
                "gmac_per_s",
                "macs_per_token",
            ],
        );
        assert!(a["spread"].as_f64().unwrap() >= 0.0);
        assert_eq!(a["joules_per_token"].is_null(), !object["energy_unavailable"].is_null());
    }
    let bytes = |i: usize| one[i]["bytes_per_token"].as_f64().unwrap();
    assert!(bytes(2) > bytes(1), "a context is read");
    assert!(bytes(3) < bytes(1), "several sequences share the weights");
    let picture = fs::read_to_string(picture).unwrap();
    assert!(picture.starts_with("<svg") && picture.contains("prefill 8") && picture.contains("decode at 20"));
}

/// Columns of the table that do not depend on the machine, with their keys.
const COLUMNS: [(&str, &str); 5] = [
    ("kind", "kind"),
    ("threads", "threads"),
    ("seqs", "sequences"),
    ("tokens", "tokens"),
    ("context", "context"),
];

#[test]
fn the_table_says_what_the_object_says() {
    let work = [
        "--threads",
        "1",
        "--prefill",
        "8",
        "--decode",
        "9",
        "--context",
        "0,20,9999",
        "--repeats",
        "1",
    ];
    let text = bench(&work);
    let object: Value = serde_json::from_str(&bench(&[&work[..], &["--json"]].concat())).unwrap();
    let line = |start: &str| {
        let found = text.lines().find(|line| line.starts_with(start));
        found.unwrap_or_else(|| panic!("no line of {start}:\n{text}"))
    };
    for (start, key) in [("target ", "target"), ("target ", "kernel"), ("skipped ", "skipped")] {
        let value = object[key].as_str().or_else(|| object[key][0].as_str()).unwrap();
        assert!(line(start).contains(value), "{value}:\n{text}");
    }
    assert!(
        line("model ").contains(object["model"]["name"].as_str().unwrap()),
        "{text}"
    );
    assert!(line("cache ").contains("keys f16, values f16"), "{text}");
    line("machine ");
    // Names of columns are words that two blanks part.
    let names: Vec<&str> = line("kind ")
        .split("  ")
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .collect();
    let rows: Vec<Vec<&str>> = text
        .lines()
        .filter(|line| line.starts_with("prefill ") || line.starts_with("decode "))
        .map(|line| line.split_whitespace().collect())
        .collect();
    let results = object["results"].as_array().unwrap();
    assert_eq!((rows.len(), results.len()), (3, 3), "{text}");
    for (row, result) in rows.iter().zip(results) {
        assert_eq!(row.len(), names.len(), "{text}");
        let cell = |name: &str| row[names.iter().position(|other| *other == name).unwrap()];
        for (name, key) in COLUMNS {
            let value = &result[key];
            assert_eq!(
                cell(name),
                value.as_str().map_or(value.to_string(), str::to_owned),
                "{text}"
            );
        }
        assert_eq!(cell("output"), result["output_hash"], "{text}");
        let bytes = result["bytes_per_token"].as_f64().unwrap() / 1e6;
        assert!(
            (cell("MB/token").parse::<f64>().unwrap() - bytes).abs() <= 0.051,
            "{text}"
        );
        for name in ["spread", "of read", "of dot"] {
            let percent = cell(name).strip_suffix('%').map(str::parse::<f64>);
            assert!(percent.is_some_and(|percent| percent.is_ok()), "{name}:\n{text}");
        }
        assert!(cell("tokens/s").parse::<f64>().unwrap() > 0.0, "{text}");
    }
    assert!(line("1 threads: reading alone").contains("GB/s"), "{text}");
}

#[test]
fn a_variant_against_itself_is_a_line_a_kind_of_work() {
    let work = [
        "--threads",
        "1",
        "--prefill",
        "5",
        "--decode",
        "16",
        "--context",
        "3",
        "--repeats",
        "2",
    ];
    let text = bench(&[&work[..], &["--against", "auto"]].concat());
    let (head, rows) = text.split_once('\n').unwrap();
    let kernel = head
        .strip_prefix("against ")
        .and_then(|rest| rest.split_whitespace().next());
    let rows: Vec<Vec<&str>> = rows.lines().map(|line| line.split_whitespace().collect()).collect();
    let kernel = kernel.unwrap();
    assert_eq!(rows[0][..5], [kernel, "prefill", "1", "5", "0"], "{text}");
    assert_eq!(rows[1][..5], [kernel, "decode", "1", "8", "3"], "{text}");
    for (row, pairs) in rows.iter().zip(["2", "4"]) {
        assert!(row[5].parse::<f64>().unwrap() > 0.0, "{text}");
        assert_eq!(row[6..], ["of", pairs, "pairs"], "{text}");
    }
}

/// Of a process: its parent.
fn parent(process: &str) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let is_there = fields.next()? != "Z";
    fields.next()?.parse().ok().filter(|_| is_there)
}

#[test]
fn a_signal_that_ends_bench_ends_its_server() {
    use rustix::process::{Pid, Signal, kill_process};
    let work = [
        "--threads",
        "1",
        "--prefill",
        "1",
        "--decode",
        "0",
        "--repeats",
        "1",
        "--start",
    ];
    for signal in [Signal::TERM, Signal::INT, Signal::KILL] {
        let mut bench = Command::new(env!("CARGO_BIN_EXE_sterna"))
            .arg("bench")
            .arg(MODEL)
            .args(work)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let pid = Pid::from_child(&bench);
        let processes = || {
            fs::read_dir("/proc")
                .unwrap()
                .flatten()
                .filter_map(|entry| entry.file_name().into_string().ok())
        };
        let server = loop {
            assert_eq!(bench.try_wait().unwrap(), None, "it has a server at some time");
            if let Some(server) = processes().find(|process| parent(process) == Some(pid.as_raw_nonzero().get())) {
                break server;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        };
        kill_process(pid, signal).unwrap();
        bench.wait().unwrap();
        let began = std::time::Instant::now();
        while parent(&server).is_some() {
            assert!(began.elapsed().as_secs() < 60, "{server} outlived {signal:?}");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

#[test]
fn bench_keeps_re_packed_weights_where_it_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let work = [
        "--threads",
        "1",
        "--prefill",
        "4",
        "--decode",
        "0",
        "--repeats",
        "1",
        "--json",
    ];
    let kept = ["--cache-dir", dir.path().to_str().unwrap()];
    let bench = |more: &[&str]| -> Value { serde_json::from_str(&bench(&[&work[..], more].concat())).unwrap() };
    let (without, first, second) = (bench(&[]), bench(&kept), bench(&kept));
    for other in [&first, &second] {
        assert_eq!(other["results"][0]["output_hash"], without["results"][0]["output_hash"]);
        assert_eq!(other["steady"]["body_bytes"], without["steady"]["body_bytes"]);
    }
    let files: Vec<_> = fs::read_dir(&dir)
        .unwrap()
        .map(|file| file.unwrap().file_name())
        .collect();
    // Where the kernels read the file's own layout, there is nothing to keep.
    let bytes = |key: &str| without["steady"][key].as_u64().unwrap();
    let repacks = bytes("own_bytes") > bytes("head_bytes") + bytes("body_bytes") / 2;
    assert_eq!(files.len(), usize::from(repacks), "{files:?}");
}
