//! llama-server's own API: `/completion`.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::post;
use serde::Serialize;
use serde_json::{Value, json};

use crate::engine::{FinishReason, Stats};

use super::body::{JsonObject, json_response};
use super::error::ApiError;
use super::generate::{End, Format, Generation, Token, sse, timings};
use super::logprobs::{Entries, Form, Unsent};
use super::options::{Defaults, Options};
use super::prompt::read_prompt;
use super::state::App;

pub fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/completion", post(completion))
        .route("/completions", post(completion))
}

async fn completion(State(app): State<Arc<App>>, body: JsonObject) -> Result<Response, ApiError> {
    let options = Options::read(&body, &Defaults::LLAMA, Some(Form::Llama))?;
    let prompt = read_prompt(&body)?;
    let place = body.into_place(); // the queue may be long
    let loaded = app.loaded()?;
    let mut writer = Writer {
        model: loaded.id.clone(),
        settings: settings(&options, loaded.context),
        counted: 0,
        unsent: Unsent::new(Form::Llama, loaded.tokenizer.clone()),
    };
    let stream = options.stream;
    let generation = Generation::start(&app, &loaded, prompt, place, options).await?;
    if stream {
        return Ok(generation.stream(writer));
    }
    let output = generation.collect().await?;
    let mut response = writer.last(output.reason, &output.stats);
    response["content"] = output.text.into();
    let entries = writer.unsent.take_all(&output.tokens, output.logprobs);
    response["tokens"] = output.tokens.into();
    let response = WithProbabilities {
        rest: response,
        completion_probabilities: entries.some(),
    };
    Ok(json_response(StatusCode::OK, &response))
}

#[derive(Serialize)]
struct WithProbabilities {
    #[serde(flatten)]
    rest: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    completion_probabilities: Option<Entries>,
}

/// The parameters in effect, seed included: sending them again gives the same text.
fn settings(options: &Options, context: usize) -> Value {
    let sampling = &options.sampling;
    json!({
        "n_ctx": context,
        "n_predict": options.max_tokens.map_or(json!(-1), |n| json!(n)),
        "seed": sampling.seed,
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
        "stop": options.stop,
        "ignore_eos": options.ignore_eos,
        "n_probs": options.logprobs.unwrap_or(0),
        "stream": options.stream,
    })
}

struct Writer {
    model: String,
    settings: Value,
    /// Tokens so far.
    counted: usize,
    unsent: Unsent,
}

impl Writer {
    /// The last event, and with content the whole response.
    fn last(&self, reason: FinishReason, stats: &Stats) -> Value {
        let stop_type = match reason {
            FinishReason::Eos => "eos",
            FinishReason::Stop => "word",
            FinishReason::Length => "limit",
        };
        json!({
            "index": 0,
            "id_slot": 0,
            "content": "",
            "tokens": [],
            "stop": true,
            "stop_type": stop_type,
            "truncated": false,
            "model": self.model,
            "tokens_predicted": stats.generated_tokens,
            "tokens_evaluated": stats.prompt_tokens,
            "generation_settings": self.settings,
            "timings": timings(stats),
        })
    }

    fn part(&mut self, tokens: &[u32], text: &str) -> String {
        sse(&WithProbabilities {
            rest: json!({
                "index": 0,
                "id_slot": 0,
                "content": text,
                "tokens": tokens,
                "stop": false,
                "tokens_predicted": self.counted,
            }),
            // Each in the event of its token.
            completion_probabilities: self.unsent.take_rest().some(),
        })
    }
}

impl Format for Writer {
    fn begin(&mut self) -> String {
        String::new()
    }

    fn token(&mut self, Token { id, text, logprobs }: Token) -> String {
        self.counted += 1;
        if let Some(logprobs) = logprobs {
            self.unsent.add(id, logprobs);
        }
        self.part(&[id], &text)
    }

    fn end(&mut self, end: &End) -> String {
        let rest = if end.text.is_empty() {
            String::new()
        } else {
            self.part(&[], &end.text)
        };
        rest + &sse(&self.last(end.reason, &end.stats))
    }
}
