//! What happens around every request: access log, last line of defence, CORS, API key.

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowOrigin, Any as Anything, CorsLayer};

use super::error::ApiError;
use super::info::OPEN_PATHS;
use super::state::App;

/// Wraps the routes; the last layer added sees a request first.
pub fn around(routes: Router, app: &Arc<App>) -> Router {
    let routes = routes.layer(from_fn_with_state(app.clone(), require_key));
    let routes = match &app.settings.cors_origin {
        None => routes,
        Some(origins) => routes.layer(cors(origins)),
    };
    routes
        .layer(CatchPanicLayer::custom(after_panic))
        .layer(from_fn(log_access))
}

async fn require_key(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let keys = &app.settings.api_keys;
    let open = keys.is_open() || OPEN_PATHS.contains(&request.uri().path());
    if open || sent_key(request.headers()).is_some_and(|key| keys.accepts(key)) {
        return next.run(request).await;
    }
    ApiError::unauthorized().into_response()
}

/// The key as OpenAI clients send it, or as Anthropic's and Azure's do.
fn sent_key(headers: &HeaderMap) -> Option<&str> {
    let text = |name: &str| headers.get(name)?.to_str().ok();
    let bearer = text("authorization").and_then(|value| {
        let (scheme, key) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(key.trim())
    });
    bearer.or_else(|| text("x-api-key")).or_else(|| text("api-key"))
}

fn cors(origins: &str) -> CorsLayer {
    let origins = match origins {
        "*" => AllowOrigin::from(Anything),
        // Settings have checked every one of them.
        list => AllowOrigin::list(
            list.split(',')
                .filter_map(|origin| HeaderValue::from_str(origin.trim()).ok()),
        ),
    };
    let keys = ["x-api-key", "api-key"].map(header::HeaderName::from_static);
    let headers = [header::AUTHORIZATION, header::CONTENT_TYPE]
        .into_iter()
        .chain(keys)
        .collect::<Vec<_>>();
    CorsLayer::new()
        .allow_origin(origins)
        .allow_methods(Anything)
        .allow_headers(headers)
}

fn after_panic(panic: Box<dyn Any + Send>) -> Response {
    let message = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or(panic.downcast_ref::<&str>().copied());
    tracing::error!("a handler panicked: {}", message.unwrap_or("no message"));
    ApiError::internal().into_response()
}

/// One line a request, when its response begins; probes only at level debug, since they never end.
async fn log_access(request: Request, next: Next) -> Response {
    let began = Instant::now();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let response = next.run(request).await;
    let (status, ms) = (response.status().as_u16(), began.elapsed().as_millis() as u64);
    if OPEN_PATHS.contains(&path.as_str()) {
        tracing::debug!(%method, path, status, ms, "request");
    } else {
        tracing::info!(%method, path, status, ms, "request");
    }
    response
}
