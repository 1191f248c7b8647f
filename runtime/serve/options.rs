//! Generation parameters, as all API families spell them, and the ones that are refused.

use serde::Deserialize;
use serde_json::Value;

use crate::engine::Sampling;

use super::body::JsonObject;
use super::error::ApiError;
use super::logprobs::Form;
use super::random_u64;

/// Most stop texts of a request.
const STOPS_MAX: usize = 16;
/// Longest stop text: output is held back by so much.
const STOP_MAX_BYTES: usize = 1024;

/// What a request says about how to generate.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Most tokens to generate; `None` = until the context is full.
    pub max_tokens: Option<usize>,
    /// Texts that end the generation.
    pub stop: Vec<String>,
    /// Go on past end-of-generation tokens.
    pub ignore_eos: bool,
    /// Say how likely each token was, and so many others in its place.
    pub logprobs: Option<usize>,
    /// Send the text as it comes.
    pub stream: bool,
}

/// Used where a request says nothing. llama-server's defaults, since its clients are the ones that rely on them.
pub struct Defaults {
    /// Temperature.
    pub temperature: f32,
    /// Most tokens to generate.
    pub max_tokens: Option<usize>,
}

impl Defaults {
    /// Of every endpoint that comes from llama-server or OpenAI.
    pub const LLAMA: Defaults = Defaults {
        temperature: 0.8,
        max_tokens: None,
    };
}

/// The fields as clients write them.
#[derive(Deserialize)]
struct Wire {
    temperature: Option<f32>,
    top_k: Option<i64>,
    top_p: Option<f32>,
    min_p: Option<f32>,
    seed: Option<i64>,
    stop: Option<Stop>,
    max_completion_tokens: Option<i64>,
    max_tokens: Option<i64>,
    n_predict: Option<i64>,
    ignore_eos: Option<bool>,
    stream: Option<bool>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a string or a list of strings is needed")]
enum Stop {
    One(String),
    Many(Vec<String>),
}

impl Options {
    /// Reads and checks the parameters of `body`, log-probabilities as `form` asks for them, if at all.
    pub fn read(body: &JsonObject, defaults: &Defaults, form: Option<Form>) -> Result<Self, ApiError> {
        refuse_unsupported(body, form.map_or(&[], Form::fields))?;
        let wire: Wire = body.read()?;
        let sampling = Sampling {
            temperature: wire.temperature.unwrap_or(defaults.temperature),
            // llama-server: 0 or less = all.
            top_k: wire.top_k.unwrap_or(40).try_into().unwrap_or(0),
            top_p: wire.top_p.unwrap_or(0.95),
            min_p: wire.min_p.unwrap_or(0.05),
            // llama-server: -1 = a random one.
            seed: wire
                .seed
                .and_then(|seed| seed.try_into().ok())
                // Small enough for the numbers of JSON in every language: the answer says the seed.
                .unwrap_or_else(|| random_u64() >> 11),
        };
        sampling
            .validate()
            .map_err(|error| ApiError::invalid(error.name, error.to_string()))?;
        let limits = [
            ("max_completion_tokens", wire.max_completion_tokens),
            ("max_tokens", wire.max_tokens),
            ("n_predict", wire.n_predict),
        ];
        let max_tokens = match limits.into_iter().find_map(|(name, value)| Some((name, value?))) {
            None => defaults.max_tokens,
            Some((name, value)) => token_limit(name, value)?,
        };
        let stop = match wire.stop {
            None => Vec::new(),
            Some(Stop::One(text)) => vec![text],
            Some(Stop::Many(texts)) => texts,
        };
        Ok(Options {
            sampling,
            max_tokens,
            stop: check_stops(stop)?,
            ignore_eos: wire.ignore_eos.unwrap_or(false),
            logprobs: form.map_or(Ok(None), |form| form.read(body))?,
            stream: wire.stream.unwrap_or(false),
        })
    }
}

fn token_limit(name: &str, value: i64) -> Result<Option<usize>, ApiError> {
    match value {
        // llama-server: until the context is full.
        -1 => Ok(None),
        1.. => Ok(Some(usize::try_from(value).unwrap_or(usize::MAX))),
        _ => Err(ApiError::invalid(
            name,
            format!("`{name}` is {value}: use 1 or more, or -1 for no limit"),
        )),
    }
}

fn check_stops(stops: Vec<String>) -> Result<Vec<String>, ApiError> {
    // An empty text would end every generation at once: clients that send one mean none.
    let stops: Vec<String> = stops.into_iter().filter(|text| !text.is_empty()).collect();
    if stops.len() > STOPS_MAX || stops.iter().any(|text| text.len() > STOP_MAX_BYTES) {
        let message = format!("`stop` takes at most {STOPS_MAX} texts of at most {STOP_MAX_BYTES} bytes");
        return Err(ApiError::invalid("stop", message));
    }
    Ok(stops)
}

/// Whether a value is one that changes nothing.
type AsksForNothing = fn(&Value) -> bool;

/// Fields that ask for another output than we would give, and the values with which they ask for nothing.
/// Silently ignoring one would answer a question that nobody asked; unknown fields are ignored, as everywhere.
const UNSUPPORTED: &[(&str, AsksForNothing)] = &[
    ("audio", never),
    ("best_of", is_one),
    ("dry_multiplier", is_zero),
    ("dynatemp_range", is_zero),
    ("echo", is_false),
    ("frequency_penalty", is_zero),
    ("function_call", is_none_or_auto),
    ("functions", is_empty),
    ("grammar", is_empty),
    ("json_schema", is_empty),
    ("logit_bias", is_empty),
    ("logprobs", is_false),
    ("mirostat", is_zero),
    ("modalities", |value| *value == serde_json::json!(["text"])),
    ("n", is_one),
    ("n_probs", is_zero),
    ("post_sampling_probs", is_false),
    ("presence_penalty", is_zero),
    ("repeat_penalty", is_one),
    ("repetition_penalty", is_one),
    ("response_format", |value| value["type"] == "text"),
    ("samplers", never),
    ("suffix", is_empty),
    ("tool_choice", is_none_or_auto),
    ("tools", is_empty),
    ("top_logprobs", is_zero),
    ("typical_p", is_one),
    ("xtc_probability", is_zero),
];

fn never(_: &Value) -> bool {
    false
}

fn is_zero(value: &Value) -> bool {
    value.as_f64() == Some(0.0)
}

fn is_one(value: &Value) -> bool {
    value.as_f64() == Some(1.0)
}

fn is_false(value: &Value) -> bool {
    *value == Value::Bool(false)
}

fn is_none_or_auto(value: &Value) -> bool {
    matches!(value.as_str(), Some("none" | "auto"))
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

/// Refuses unsupported fields, but for those that the endpoint `takes`.
fn refuse_unsupported(body: &JsonObject, takes: &[&str]) -> Result<(), ApiError> {
    for (field, asks_for_nothing) in UNSUPPORTED.iter().filter(|(field, _)| !takes.contains(field)) {
        if body.get(field).is_some_and(|value| !asks_for_nothing(value)) {
            let message = format!("`{field}` is not supported by this server: leave it out");
            return Err(ApiError::invalid(*field, message));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(body: Value) -> Result<Options, String> {
        let body = JsonObject::parse(&body.to_string().into()).unwrap();
        Options::read(&body, &Defaults::LLAMA, None).map_err(|error| error.to_json()["error"].to_string())
    }

    #[test]
    fn nothing_said_is_llama_servers_defaults_and_null_says_nothing() {
        let o = read(json!({"temperature": null, "stop": null, "tools": null, "max_tokens": null})).unwrap();
        let s = &o.sampling;
        assert_eq!((s.temperature, s.top_k, s.top_p, s.min_p), (0.8, 40, 0.95, 0.05));
        assert_eq!(
            (o.max_tokens, o.stop.len(), o.ignore_eos, o.stream),
            (None, 0, false, false)
        );
        assert_ne!(
            s.seed,
            read(json!({})).unwrap().sampling.seed,
            "a random seed each time"
        );
    }

    #[test]
    fn spellings_of_the_same_thing() {
        let limit = |body| read(body).unwrap().max_tokens;
        assert_eq!(limit(json!({"max_tokens": 5})), Some(5));
        assert_eq!(limit(json!({"n_predict": 5})), Some(5));
        assert_eq!(limit(json!({"n_predict": -1})), None);
        assert_eq!(limit(json!({"max_tokens": 5, "max_completion_tokens": 6})), Some(6));
        assert_eq!(read(json!({"stop": "a"})).unwrap().stop, ["a"]);
        assert_eq!(read(json!({"stop": ["a", "", "b"]})).unwrap().stop, ["a", "b"]);
        assert_eq!(read(json!({"seed": 7, "top_k": -1})).unwrap().sampling.seed, 7);
        assert_eq!(read(json!({"top_k": -1})).unwrap().sampling.top_k, 0);
    }

    #[test]
    fn a_bad_value_names_its_field() {
        for (field, value) in [
            ("temperature", json!("hot")),
            ("temperature", json!(-1)),
            ("temperature", json!(1e39)),
            ("top_p", json!(2)),
            ("min_p", json!([])),
            ("top_k", json!(1.5)),
            ("seed", json!("x")),
            ("stop", json!(5)),
            ("stop", json!(vec!["x"; STOPS_MAX + 1])),
            ("stop", json!("x".repeat(STOP_MAX_BYTES + 1))),
            ("max_tokens", json!(0)),
            ("n_predict", json!(-2)),
            ("ignore_eos", json!(1)),
            ("stream", json!("yes")),
        ] {
            let error = read(json!({field: value})).unwrap_err();
            assert!(error.contains(&format!(r#""param":"{field}""#)), "{field}: {error}");
        }
    }

    #[test]
    fn what_would_change_the_output_is_refused_and_its_harmless_values_are_not() {
        for (field, value) in [
            ("n", json!(2)),
            ("tools", json!([{"type": "function"}])),
            ("response_format", json!({"type": "json_object"})),
            ("response_format", json!("text")),
            ("logprobs", json!(true)),
            ("logprobs", json!(0)),
            ("n_probs", json!(1)),
            ("post_sampling_probs", json!(true)),
            ("presence_penalty", json!(0.1)),
            ("repeat_penalty", json!(1.1)),
            ("logit_bias", json!({"5": 1})),
            ("echo", json!(true)),
            ("grammar", json!("root ::= \"a\"")),
        ] {
            let error = read(json!({field: value})).unwrap_err();
            assert!(
                error.contains(&format!("`{field}` is not supported")),
                "{field}: {error}"
            );
        }
        let harmless = json!({
            "n": 1, "tools": [], "tool_choice": "auto", "response_format": {"type": "text"}, "logprobs": false,
            "top_logprobs": 0, "n_probs": 0, "post_sampling_probs": false, "presence_penalty": 0,
            "frequency_penalty": 0.0, "repeat_penalty": 1.0, "logit_bias": {}, "suffix": "",
            "user": "me", "metadata": {}, "store": false,
        });
        assert!(read(harmless).is_ok());
    }
}
