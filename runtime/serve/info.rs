//! What is served, and whether it is ready: `/health`, `/v1/models`, `/model-info`, `/`.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};

use super::VERSION;
use super::body::json_response;
use super::error::ApiError;
use super::state::{App, Loaded, Phase};
use crate::engine::kv::KvCache;
use crate::model::Layer;

/// Paths that need no API key: orchestrators probe them.
pub const OPEN_PATHS: &[&str] = &[
    "/health",
    "/v1/health",
    "/healthz",
    "/ready",
    "/readyz",
    "/live",
    "/livez",
];

pub fn routes() -> Router<Arc<App>> {
    let health = Router::new()
        .route("/health", get(health))
        .route("/v1/health", get(health))
        .route("/healthz", get(health))
        .route("/ready", get(health))
        .route("/readyz", get(health))
        .route("/live", get(live))
        .route("/livez", get(live));
    health
        .route(
            "/",
            get(async || "Sterna serves a BitNet model here: POST /v1/chat/completions, GET /v1/models\n"),
        )
        .route("/v1/models", get(models))
        .route("/models", get(models))
        .route("/v1/models/{*id}", get(model))
        .route("/model-info", get(model_info))
}

/// 200 when a request would be answered. A superset of what llama-server and the deployment guides' server say.
async fn health(State(app): State<Arc<App>>) -> Response {
    let phase = app.phase.borrow().clone();
    let loaded = app.loaded();
    let status = match (&phase, &loaded) {
        (_, Ok(_)) => "ok",
        (Phase::Waiting(_), _) => "waiting_for_model",
        (Phase::Loading, _) => "loading",
        (Phase::Stopping, _) => "stopping",
        (Phase::Ready(_) | Phase::Failed, _) => "error",
    };
    let mut report = json!({
        "status": status,
        "version": VERSION,
        "kernel": app.kernels.name,
        "threads": app.threads,
        "uptime_s": app.started.elapsed().as_secs(),
        "deployment_type": "external_model",
        "model_path": app.settings.model,
        "model_exists": false,
        "binary_exists": true,
    });
    match loaded {
        Ok(loaded) => {
            let (waiting, running) = loaded.engine.load();
            report["model"] = loaded.id.clone().into();
            report["model_path"] = json!(loaded.path);
            report["model_exists"] = true.into();
            report["model_size_gb"] = gigabytes(loaded.bytes).into();
            report["quantization"] = QUANTIZATION.into();
            report["context_size"] = loaded.context.into();
            report["requests"] = json!({"waiting": waiting, "running": running});
            json_response(StatusCode::OK, &report)
        }
        Err(error) => {
            // llama-server's clients look for an error object, orchestrators at the status and Retry-After.
            report["error"] = error.to_json()["error"].clone();
            let (mut parts, _) = error.into_response().into_parts();
            parts.headers.remove(header::CONTENT_LENGTH);
            let retry: Option<HeaderValue> = parts.headers.remove(header::RETRY_AFTER);
            let mut response = json_response(parts.status, &report);
            response
                .headers_mut()
                .extend(retry.map(|value| (header::RETRY_AFTER, value)));
            response
        }
    }
}

/// 200 as long as only waiting can help: a restart would not bring the model sooner.
async fn live(State(app): State<Arc<App>>) -> Response {
    let alive = match &*app.phase.borrow() {
        Phase::Waiting(_) | Phase::Loading | Phase::Stopping => true,
        Phase::Ready(loaded) => loaded.works(),
        Phase::Failed => false,
    };
    match alive {
        true => json_response(StatusCode::OK, &json!({"status": "alive"})),
        false => json_response(StatusCode::SERVICE_UNAVAILABLE, &json!({"status": "error"})),
    }
}

async fn models(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let list = json!({"object": "list", "data": [describe(&*app.loaded()?, &app)]});
    Ok(json_response(StatusCode::OK, &list))
}

async fn model(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Response, ApiError> {
    let loaded = app.loaded()?;
    loaded.check_name(Some(&id))?;
    Ok(json_response(StatusCode::OK, &describe(&loaded, &app)))
}

fn describe(loaded: &Loaded, app: &App) -> Value {
    let config = &loaded.model.config;
    let started = std::time::SystemTime::now() - app.started.elapsed();
    let created = started
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    json!({
        "id": loaded.id,
        "object": "model",
        "created": created,
        "owned_by": "sterna",
        "meta": {
            "n_vocab": config.vocab,
            "n_ctx": loaded.context,
            "n_ctx_train": config.context,
            "n_embd": config.hidden,
            "n_params": parameters(loaded),
            "size": loaded.bytes,
        },
    })
}

/// Every ternary matrix of the supported architectures has two bits a weight in this encoding.
const QUANTIZATION: &str = "i2_s";

/// The keys of the deployment guides' server, and what is worth knowing beyond.
async fn model_info(State(app): State<Arc<App>>) -> Response {
    let mut info = json!({
        "model_path": app.settings.model,
        "model_ready": false,
        "inference_backend": format!("sterna {VERSION}"),
        "optimization": format!("{} kernels, {} threads", app.kernels.name, app.threads),
        "deployment_mode": "external_model",
        "model_storage": "mounted",
        "kernel": app.kernels.name,
        "kernel_features": app.kernels.features,
        "threads": app.threads,
    });
    if let Ok(loaded) = app.loaded() {
        let config = &loaded.model.config;
        info["name"] = loaded.id.clone().into();
        info["type"] = config.architecture_name.clone().into();
        info["quantization"] = QUANTIZATION.into();
        info["parameters"] = parameters(&loaded).into();
        info["model_path"] = json!(loaded.path);
        info["model_ready"] = true.into();
        info["model_size_gb"] = gigabytes(loaded.bytes).into();
        let repacked = |layer: &Layer| layer.ffn_up.repacked().is_some();
        let mapping = &loaded.model.mapping;
        info["memory_efficiency"] = match loaded.model.layers.iter().any(repacked) {
            true if mapping.pinned_bytes() == 0 => {
                "weights are re-packed for this CPU in memory; the pages of the file are given back"
            }
            true => {
                "weights are re-packed for this CPU in memory, beside the file, which is kept there as was asked for"
            }
            false if mapping.is_mapped() => "weights are mapped from the file and shared between processes",
            false => "weights are a private copy in memory",
        }
        .into();
        info["parallel"] = loaded.engine.config().parallel.into();
        info["context_size"] = loaded.context.into();
        let cache = app.settings.cache;
        info["cache_type_k"] = json!(cache.k);
        info["cache_type_v"] = json!(cache.v);
        info["cache_bytes_per_token"] = KvCache::bytes_per_position(config, cache).into();
        info["context_trained"] = config.context.into();
        info["layers"] = config.layers.into();
        info["hidden"] = config.hidden.into();
        info["vocabulary"] = config.vocab.into();
    }
    json_response(StatusCode::OK, &info)
}

fn gigabytes(bytes: u64) -> f64 {
    (bytes as f64 / 1e6).round() / 1e3
}

/// Weights in matrices, the shared embedding once; norms are a rounding error of it.
fn parameters(loaded: &Loaded) -> usize {
    let c = &loaded.model.config;
    let attention = c.hidden * c.head_dim * (2 * c.heads + 2 * c.kv_heads);
    c.layers * (attention + 3 * c.hidden * c.ffn) + c.vocab * c.hidden
}
