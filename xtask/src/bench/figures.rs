//! Tokens per second in what a benchmark prints: ours, llama-bench's, llama.cpp's own timings, or what a pattern finds.

use anyhow::{Context, Result, bail};
use regex::Regex;
use serde_json::Value;

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A prompt.
    Prefill,
    /// Generation.
    Decode,
}

impl Kind {
    /// As `sterna bench` calls it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Prefill => "prefill",
            Kind::Decode => "decode",
        }
    }
}

/// A rate, and what of its circumstances the output says.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// Prompt or generation.
    pub kind: Kind,
    /// Length of the prompt, or tokens generated.
    pub tokens: Option<u64>,
    /// Tokens before these.
    pub context: u64,
    /// Threads.
    pub threads: Option<u64>,
    /// Sequences together.
    pub sequences: u64,
    /// The rate.
    pub tokens_per_s: f64,
}

/// How to read a foreign benchmark's output.
#[derive(Debug, Clone, Default)]
pub struct Pattern(Option<Regex>);

impl Pattern {
    /// Groups named `prefill` and `decode`, or the first group for generation.
    pub fn new(text: &str) -> Result<Pattern> {
        let regex = Regex::new(text).context("--compare-pattern is no regular expression")?;
        if regex.captures_len() < 2 {
            bail!("--compare-pattern has no group: put ( and ) around the tokens per second");
        }
        Ok(Pattern(Some(regex)))
    }

    /// Every figure in `output`; without a pattern, the known forms are tried in turn.
    pub fn read(&self, output: &str) -> Vec<Figure> {
        if let Some(regex) = &self.0 {
            return matched(regex, output);
        }
        [json, table, timings]
            .iter()
            .map(|form| form(output))
            .find(|figures| !figures.is_empty())
            .unwrap_or_default()
    }
}

/// The last match of each group: benchmarks print their sum at the end.
fn matched(regex: &Regex, output: &str) -> Vec<Figure> {
    let last = |kind, name: &dyn Fn(&regex::Captures) -> Option<f64>| {
        let rate = regex.captures_iter(output).filter_map(|found| name(&found)).last();
        rate.map(|rate| plain(kind, rate))
    };
    let group = |found: Option<regex::Match>| found.and_then(|text| rate(text.as_str()));
    let named = |name: &'static str| {
        regex
            .capture_names()
            .flatten()
            .any(|other| other == name)
            .then_some(name)
    };
    let mut figures = Vec::new();
    for (kind, name) in [(Kind::Prefill, "prefill"), (Kind::Decode, "decode")] {
        if let Some(name) = named(name) {
            figures.extend(last(kind, &|found| group(found.name(name))));
        }
    }
    if figures.is_empty() && named("prefill").is_none() && named("decode").is_none() {
        figures.extend(last(Kind::Decode, &|found| group(found.get(1))));
    }
    figures
}

fn plain(kind: Kind, tokens_per_s: f64) -> Figure {
    Figure {
        kind,
        tokens: None,
        context: 0,
        threads: None,
        sequences: 1,
        tokens_per_s,
    }
}

/// A positive number.
fn rate(text: &str) -> Option<f64> {
    let rate: f64 = text.trim().parse().ok()?;
    (rate > 0.0 && rate.is_finite()).then_some(rate)
}

/// `sterna bench --json`; or llama-bench's `-o json` (a list) and `-o jsonl` (objects, one a line).
fn json(output: &str) -> Vec<Figure> {
    let start = output.find(['{', '[']).unwrap_or(output.len());
    let mut figures = Vec::new();
    for value in serde_json::Deserializer::from_str(&output[start..]).into_iter::<Value>() {
        match value {
            Ok(Value::Array(list)) => figures.extend(list.iter().filter_map(llama_bench)),
            Ok(object) => match object["results"].as_array() {
                Some(results) => figures.extend(results.iter().filter_map(sterna)),
                None => figures.extend(llama_bench(&object)),
            },
            Err(_) => break, // the log goes on behind it
        }
    }
    figures
}

fn sterna(result: &Value) -> Option<Figure> {
    let kind = match result["kind"].as_str()? {
        "prefill" => Kind::Prefill,
        "decode" => Kind::Decode,
        _ => return None,
    };
    Some(Figure {
        kind,
        tokens: Some(result["tokens"].as_u64()?),
        context: result["context"].as_u64()?,
        threads: Some(result["threads"].as_u64()?),
        sequences: result["sequences"].as_u64()?,
        tokens_per_s: result["tokens_per_s"].as_f64()?,
    })
}

fn llama_bench(test: &Value) -> Option<Figure> {
    let (prompt, generated) = (test["n_prompt"].as_u64()?, test["n_gen"].as_u64()?);
    let kind = match (prompt, generated) {
        (_, 0) => Kind::Prefill,
        (0, _) => Kind::Decode,
        _ => return None, // both in one number
    };
    Some(Figure {
        kind,
        tokens: Some(prompt + generated),
        context: test["n_depth"].as_u64().unwrap_or(0),
        threads: test["n_threads"].as_u64(),
        sequences: 1,
        tokens_per_s: test["avg_ts"].as_f64()?,
    })
}

/// llama-bench's table: columns `test` (`pp512`, `tg64`, `tg64 @ d2048`), `t/s` (`59.20 ± 0.30`) and perhaps `threads`.
fn table(output: &str) -> Vec<Figure> {
    let mut figures = Vec::new();
    let mut columns: Vec<&str> = Vec::new();
    for line in output.lines().map(str::trim).filter(|line| line.starts_with('|')) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        if cells.contains(&"test") && cells.contains(&"t/s") {
            columns = cells;
            continue;
        }
        let cell = |name: &str| cells.get(columns.iter().position(|column| *column == name)?).copied();
        let figure = || {
            let (test, rates) = (cell("test")?, cell("t/s")?);
            let (work, depth) = test.split_once("@ d").unwrap_or((test, "0"));
            let (kind, tokens) = match work.trim().split_at_checked(2)? {
                ("pp", tokens) => (Kind::Prefill, tokens),
                ("tg", tokens) => (Kind::Decode, tokens),
                _ => return None,
            };
            Some(Figure {
                kind,
                tokens: Some(tokens.parse().ok()?),
                context: depth.trim().parse().ok()?,
                threads: cell("threads").and_then(|threads| threads.parse().ok()),
                sequences: 1,
                tokens_per_s: rate(rates.split_whitespace().next()?)?,
            })
        };
        figures.extend(figure());
    }
    figures
}

/// What llama.cpp's programs print at their end: `eval time = 952 ms / 63 runs (15.1 ms per token, 66.2 tokens per second)`.
fn timings(output: &str) -> Vec<Figure> {
    let mut figures = Vec::new();
    for line in output.lines() {
        let kind = match line {
            line if line.contains("prompt eval time") => Kind::Prefill,
            line if line.contains("eval time") => Kind::Decode,
            _ => continue,
        };
        let figure = || {
            let (before, _) = line.split_once("tokens per second")?;
            let number = before.rsplit([',', '(']).next()?;
            let (_, tokens) = line.split_once('/')?;
            Some(Figure {
                tokens: tokens.split_whitespace().next()?.parse().ok(),
                ..plain(kind, rate(number)?)
            })
        };
        figures.extend(figure());
    }
    figures
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kind, tokens, context, threads, tokens per second.
    type Short = (Kind, Option<u64>, u64, Option<u64>, f64);

    fn read(output: &str) -> Vec<Short> {
        let figures = Pattern::default().read(output);
        figures
            .into_iter()
            .map(|f| (f.kind, f.tokens, f.context, f.threads, f.tokens_per_s))
            .collect()
    }

    #[test]
    fn llama_bench_s_table_is_read() {
        let output = "
| model                          |       size |     params | backend    | threads |          test |                  t/s |
| ------------------------------ | ---------: | ---------: | ---------- | ------: | ------------: | -------------------: |
| bitnet-25 2B I2_S - 2 bpw      | 1.10 GiB   |     2.74 B | CPU        |       2 |         pp128 |         90.77 ± 0.91 |
| bitnet-25 2B I2_S - 2 bpw      | 1.10 GiB   |     2.74 B | CPU        |       2 |          tg64 |         18.20 ± 0.30 |
| bitnet-25 2B I2_S - 2 bpw      | 1.10 GiB   |     2.74 B | CPU        |       2 |  tg64 @ d2048 |         12.50 ± 0.10 |
| bitnet-25 2B I2_S - 2 bpw      | 1.10 GiB   |     2.74 B | CPU        |       2 |   pp128+tg64 |         12.50 ± 0.10 |

build: 40ed0f29 (3959)
";
        assert_eq!(
            read(output),
            [
                (Kind::Prefill, Some(128), 0, Some(2), 90.77),
                (Kind::Decode, Some(64), 0, Some(2), 18.2),
                (Kind::Decode, Some(64), 2048, Some(2), 12.5),
            ]
        );
    }

    #[test]
    fn llama_bench_s_json_is_read_as_a_list_and_by_line() {
        let pp = r#"{"n_threads": 1, "n_prompt": 128, "n_gen": 0, "avg_ts": 59.5, "stddev_ts": 0.1}"#;
        let tg = r#"{"n_threads": 1, "n_prompt": 0, "n_gen": 32, "n_depth": 256, "avg_ts": 14.25}"#;
        let expected = [
            (Kind::Prefill, Some(128), 0, Some(1), 59.5),
            (Kind::Decode, Some(32), 256, Some(1), 14.25),
        ];
        assert_eq!(read(&format!("loading the model\n[{pp},\n{tg}]\n")), expected);
        assert_eq!(read(&format!("{pp}\n{tg}\n")), expected);
    }

    #[test]
    fn our_own_report_is_read() {
        let output = r#"{"schema": 1, "results": [{"kind": "decode", "tokens": 64, "context": 0, "threads": 2,
            "sequences": 8, "tokens_per_s": 101.5}, {"kind": "other"}]}"#;
        let figures = Pattern::default().read(output);
        assert_eq!(
            (figures.len(), figures[0].sequences, figures[0].tokens_per_s),
            (1, 8, 101.5)
        );
    }

    #[test]
    fn llama_cpp_s_timings_are_read() {
        let output = "
llama_perf_context_print:        load time =     812.41 ms
llama_perf_context_print: prompt eval time =     123.00 ms /    16 tokens (    7.69 ms per token,   130.08 tokens per second)
llama_perf_context_print:        eval time =     952.00 ms /    63 runs   (   15.11 ms per token,    66.18 tokens per second)
llama_perf_context_print:       total time =    1075.00 ms /    79 tokens
";
        assert_eq!(
            read(output),
            [
                (Kind::Prefill, Some(16), 0, None, 130.08),
                (Kind::Decode, Some(63), 0, None, 66.18)
            ]
        );
    }

    #[test]
    fn what_says_nothing_has_no_figure() {
        for output in [
            "",
            "done in 3 s",
            "| a | b |\n| 1 | 2 |",
            "[1, 2]",
            "{",
            "eval time = tokens per second",
            "| test | t/s |\n| é | 1 |",
        ] {
            assert_eq!(read(output), [], "{output}");
        }
    }

    #[test]
    fn a_pattern_finds_the_last_match_of_each_group() {
        let output = "speed: 10.5 t/s\nspeed: 11.5 t/s\nprompt: 99 t/s, speed: 0 t/s";
        let pattern = |text: &str| Pattern::new(text).unwrap().read(output);
        assert_eq!(pattern(r"speed: ([\d.]+)"), [plain(Kind::Decode, 11.5)], "0 is no rate");
        assert_eq!(pattern(r"prompt: (?<prefill>\d+)"), [plain(Kind::Prefill, 99.0)]);
        assert_eq!(pattern(r"nothing (\d+)"), []);
        assert!(Pattern::new("no group").unwrap_err().to_string().contains("group"));
        assert!(Pattern::new("(").is_err());
    }
}
