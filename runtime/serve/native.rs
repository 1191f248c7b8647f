//! The API of the minimal-container deployments: `/generate`.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::post;
use serde::Deserialize;
use serde_json::json;

use super::body::{JsonObject, json_response};
use super::error::ApiError;
use super::generate::{Generation, Prompt};
use super::options::{Defaults, Options};
use super::state::App;

pub fn routes() -> Router<Arc<App>> {
    Router::new().route("/generate", post(generate))
}

#[derive(Deserialize)]
struct Fields {
    prompt: String,
    /// Text in front of the prompt.
    context: Option<String>,
}

async fn generate(State(app): State<Arc<App>>, body: JsonObject) -> Result<Response, ApiError> {
    const DEFAULTS: Defaults = Defaults {
        temperature: 0.7,
        max_tokens: Some(150),
    };

    let began = Instant::now();
    let fields: Fields = body.read()?;
    if fields.prompt.is_empty() {
        return Err(ApiError::invalid("prompt", "`prompt` is empty"));
    }
    let options = Options::read(&body, &DEFAULTS, None)?;
    let place = body.into_place(); // the queue may be long
    if options.stream {
        return Err(ApiError::invalid(
            "stream",
            "`stream` is not supported here: use /completion or /v1/completions",
        ));
    }
    let prompt = match fields.context.filter(|context| !context.is_empty()) {
        Some(context) => format!("{context}\n\n{}", fields.prompt),
        None => fields.prompt,
    };
    let loaded = app.loaded()?;
    let output = Generation::start(&app, &loaded, Prompt::Text(prompt), place, options)
        .await?
        .collect()
        .await?;
    let response = json!({
        "generated_text": output.text,
        "model": loaded.id,
        "tokens_generated": output.stats.generated_tokens,
        "inference_time_ms": began.elapsed().as_secs_f64() * 1e3,
    });
    Ok(json_response(StatusCode::OK, &response))
}
