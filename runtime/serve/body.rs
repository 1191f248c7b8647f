//! Bodies in and out: JSON objects, within limits of size and time.

use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::error::ApiError;

/// Largest request body: more text than any supported context holds. As JSON values it can take 16 times as much.
pub const BODY_MAX_BYTES: usize = 2 << 20;
/// Longest time a request body may take to arrive.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// A request body that is a JSON object, whatever its `Content-Type` says: `curl -d` sends none that fits.
pub struct JsonObject(Value);

impl<S: Sync> FromRequest<S> for JsonObject {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let read = to_bytes(request.into_body(), BODY_MAX_BYTES);
        let bytes = tokio::time::timeout(BODY_TIMEOUT, read)
            .await
            .map_err(|_| ApiError::body_timeout(BODY_TIMEOUT.as_secs()))?
            .map_err(|error| match is_length_limit(&error) {
                true => ApiError::body_too_large(BODY_MAX_BYTES),
                false => ApiError::bad_request(format!("the request body cannot be read: {error}")),
            })?;
        JsonObject::parse(&bytes)
    }
}

fn is_length_limit(error: &axum::Error) -> bool {
    std::error::Error::source(error).is_some_and(|source| source.is::<http_body_util::LengthLimitError>())
}

impl JsonObject {
    /// The object in `bytes`.
    pub fn parse(bytes: &Bytes) -> Result<Self, ApiError> {
        let value: Value = serde_json::from_slice(bytes)
            .map_err(|error| ApiError::bad_request(format!("the request body is not JSON: {error}")))?;
        match value {
            Value::Object(_) => Ok(JsonObject(value)),
            _ => Err(ApiError::bad_request("the request body must be a JSON object")),
        }
    }

    /// The value of a field; `None` when it is absent or null.
    pub fn get(&self, field: &str) -> Option<&Value> {
        self.0.get(field).filter(|value| !value.is_null())
    }

    /// The fields that `T` has, others ignored. An error names the field. Several `T` may be read from one body.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        serde_path_to_error::deserialize(&self.0).map_err(|error| {
            let path = error.path().to_string();
            let reason = error.into_inner();
            match path.as_str() {
                "." => ApiError::bad_request(format!("the request body is not valid: {reason}")),
                field => ApiError::invalid(field, format!("`{field}` is not valid: {reason}")),
            }
        })
    }
}

/// A JSON response.
pub fn json_response(status: StatusCode, value: &impl Serialize) -> Response {
    let json = HeaderValue::from_static("application/json");
    (status, [(header::CONTENT_TYPE, json)], Body::from(to_json(value))).into_response()
}

/// The text of a value of ours.
pub fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("all keys are strings, and nothing else can fail")
}
