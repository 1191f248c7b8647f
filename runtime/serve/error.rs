//! What a client is told when a request fails: the error object of the OpenAI API, for every endpoint.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::engine::{Failure, SubmitError};

use super::body::json_response;

/// A failed request: status, and the fields of `{"error": {...}}`.
#[derive(Debug, Clone)]
pub struct ApiError {
    status: StatusCode,
    kind: &'static str,
    code: Option<&'static str>,
    message: String,
    param: Option<String>,
    retry_after_s: Option<u32>,
}

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, code: Option<&'static str>, message: impl Into<String>) -> Self {
        ApiError {
            status,
            kind,
            code,
            message: message.into(),
            param: None,
            retry_after_s: None,
        }
    }

    /// 400: the request makes no sense; `param` is the field to blame.
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        let param = Some(param.into());
        ApiError {
            param,
            ..Self::bad_request(message)
        }
    }

    /// 400: the request as a whole makes no sense.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", None, message)
    }

    /// 401: no key, or a wrong one.
    pub fn unauthorized() -> Self {
        let message = "a valid API key is needed: send it as `Authorization: Bearer KEY`";
        Self::new(
            StatusCode::UNAUTHORIZED,
            "authentication_error",
            Some("invalid_api_key"),
            message,
        )
    }

    /// 404: another model than the one that is served.
    pub fn unknown_model(asked: &str, served: &str) -> Self {
        let message = format!("the model `{asked}` does not exist here: use `{served}`");
        let error = Self::new(
            StatusCode::NOT_FOUND,
            "invalid_request_error",
            Some("model_not_found"),
            message,
        );
        ApiError {
            param: Some("model".to_owned()),
            ..error
        }
    }

    /// 404: no such path.
    pub fn unknown_route(path: &str) -> Self {
        let message = format!("there is nothing at {path}");
        Self::new(
            StatusCode::NOT_FOUND,
            "invalid_request_error",
            Some("not_found"),
            message,
        )
    }

    /// 405: the path exists, but not for this method.
    pub fn wrong_method(method: &str, path: &str) -> Self {
        let message = format!("{path} does not take {method}: see the Allow header");
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "invalid_request_error",
            Some("method_not_allowed"),
            message,
        )
    }

    /// 408: the body did not arrive in time.
    pub fn body_timeout(seconds: u64) -> Self {
        let message = format!("the request body did not arrive within {seconds} seconds");
        Self::new(
            StatusCode::REQUEST_TIMEOUT,
            "invalid_request_error",
            Some("timeout"),
            message,
        )
    }

    /// 413: the body is larger than any prompt that could fit.
    pub fn body_too_large(most_bytes: usize) -> Self {
        let message = format!("the request body is larger than {most_bytes} bytes");
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "invalid_request_error",
            Some("body_too_large"),
            message,
        )
    }

    /// 503: too many others send megabytes as well.
    pub fn too_many_large_bodies() -> Self {
        let message = "too many large requests arrive at the same time: try again later, or send less text";
        Self::unavailable("overloaded", message, 5)
    }

    /// 503: not now, but perhaps in a moment.
    pub fn unavailable(code: &'static str, message: impl Into<String>, retry_after_s: u32) -> Self {
        let error = Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "service_unavailable",
            Some(code),
            message,
        );
        ApiError {
            retry_after_s: Some(retry_after_s),
            ..error
        }
    }

    /// 503: not until somebody restarts the server.
    pub fn broken(message: impl Into<String>) -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "server_error",
            Some("engine_failed"),
            message,
        )
    }

    /// 500: a fault of ours.
    pub fn internal() -> Self {
        let message = "the server failed on this request; its log says more";
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "server_error",
            Some("internal_error"),
            message,
        )
    }

    /// `{"error": {...}}`, also the last event of a stream that fails midway.
    pub fn to_json(&self) -> serde_json::Value {
        json!({"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}})
    }
}

impl From<SubmitError> for ApiError {
    fn from(error: SubmitError) -> Self {
        let message = error.to_string();
        match error {
            SubmitError::EmptyPrompt | SubmitError::UnknownToken { .. } => ApiError::invalid("prompt", message),
            SubmitError::PromptTooLong { .. } => ApiError {
                code: Some("context_length_exceeded"),
                ..ApiError::bad_request(message)
            },
            SubmitError::QueueFull { .. } => ApiError {
                retry_after_s: Some(1),
                ..Self::new(
                    StatusCode::TOO_MANY_REQUESTS,
                    "rate_limit_error",
                    Some("queue_full"),
                    message,
                )
            },
            SubmitError::Sampling(error) => ApiError::invalid(error.name, message),
            SubmitError::Broken { .. } => ApiError::broken(message),
            SubmitError::Stopping => ApiError::unavailable("stopping", message, 5),
        }
    }
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        let message = failure.to_string();
        match failure {
            // The engine goes on: a client that asks for something else may be answered.
            Failure::NonFinite(_) => Self::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "server_error",
                Some("non_finite"),
                message,
            ),
            Failure::Stopping => ApiError::unavailable("stopping", message, 5),
            Failure::Broken { .. } => ApiError::broken(message),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = json_response(self.status, &self.to_json());
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
