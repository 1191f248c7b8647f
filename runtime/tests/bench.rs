//! What `sterna bench` prints for people, through the binary itself. Its `--json` is held to its contract in `commands.rs`.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Standard output of `sterna bench` with the small model.
fn bench(more: &[&str]) -> String {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("runtime/tests/data/nano-i2_s.gguf");
    let mut command = Command::new(env!("CARGO_BIN_EXE_sterna"));
    command.arg("bench").arg(model);
    let output = command.args(["--threads", "1"]).args(more).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
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
    let work = ["--prefill", "5", "--decode", "16", "--context", "3", "--repeats", "2"];
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
