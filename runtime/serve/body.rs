//! Bodies in and out: JSON objects, within limits of size, number and time.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};

use super::error::ApiError;

/// Largest request body: more text than any supported context holds. As JSON values it can take 16 times as much.
pub const BODY_MAX_BYTES: usize = 2 << 20;
/// Largest body that waits for nobody: few prompts that fit into a context of 4096 tokens make a larger one. What is beyond it needs a
/// place, so that all connections together hold some 100 MiB of bodies, and not 2 GiB.
const SMALL_MAX_BYTES: usize = 64 << 10;
/// For larger ones. Whoever sends such a body slowly holds up nobody else, and each place for no longer than the time-out.
static PLACES: Semaphore = Semaphore::const_new(16);
/// Longest time a request body may take to arrive, or wait for its place.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// A request body that is a JSON object, whatever its `Content-Type` says: `curl -d` sends none that fits.
pub struct JsonObject {
    fields: Value,
    place: Place,
}

/// What a large body holds until its prompt is tokenized: after that the context limits its size.
pub struct Place {
    _permit: Option<SemaphorePermit<'static>>,
}

impl<S: Sync> FromRequest<S> for JsonObject {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let (bytes, place) = read(request.into_body(), &PLACES).await?;
        let object = JsonObject::parse(&bytes.into())?;
        Ok(JsonObject { place, ..object })
    }
}

/// The whole body, and the place it needed.
async fn read(body: Body, places: &'static Semaphore) -> Result<(Vec<u8>, Place), ApiError> {
    let mut parts = body.into_data_stream();
    let (mut bytes, mut permit) = (Vec::new(), None);
    let mut deadline = Instant::now() + BODY_TIMEOUT;
    loop {
        let part = timeout_at(deadline, parts.next()).await;
        let part = match part.map_err(|_| ApiError::body_timeout(BODY_TIMEOUT.as_secs()))? {
            Some(Ok(part)) => part,
            Some(Err(error)) => {
                return Err(ApiError::bad_request(format!(
                    "the request body cannot be read: {error}"
                )));
            }
            None => return Ok((bytes, Place { _permit: permit })),
        };
        let len = bytes.len() + part.len();
        if len > BODY_MAX_BYTES {
            return Err(ApiError::body_too_large(BODY_MAX_BYTES));
        }
        if len > SMALL_MAX_BYTES && permit.is_none() {
            let place = timeout_at(deadline, places.acquire()).await;
            let place = place.map_err(|_| ApiError::too_many_large_bodies())?;
            permit = Some(place.expect("the semaphore is never closed"));
            // Its client could send nothing while it waited.
            deadline = Instant::now() + BODY_TIMEOUT;
        }
        bytes.extend_from_slice(&part);
    }
}

impl JsonObject {
    /// The object in `bytes`, without a place.
    pub fn parse(bytes: &Bytes) -> Result<Self, ApiError> {
        let value: Value = serde_json::from_slice(bytes)
            .map_err(|error| ApiError::bad_request(format!("the request body is not JSON: {error}")))?;
        match value {
            Value::Object(_) => Ok(JsonObject {
                fields: value,
                place: Place { _permit: None },
            }),
            _ => Err(ApiError::bad_request("the request body must be a JSON object")),
        }
    }

    /// Drops the fields, which may be megabytes that nobody reads, and keeps the place.
    pub fn into_place(self) -> Place {
        self.place
    }

    /// The value of a field; `None` when it is absent or null.
    pub fn get(&self, field: &str) -> Option<&Value> {
        self.fields.get(field).filter(|value| !value.is_null())
    }

    /// The fields that `T` has, others ignored. An error names the field. Several `T` may be read from one body.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        serde_path_to_error::deserialize(&self.fields).map_err(|error| {
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

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::stream;
    use tokio::time::timeout;

    use super::*;

    /// A body of these parts.
    fn body(parts: &[&Bytes]) -> Body {
        let parts: Vec<_> = parts.iter().map(|&part| Ok::<_, Infallible>(part.clone())).collect();
        Body::from_stream(stream::iter(parts))
    }

    /// One whose sender stops after them.
    fn unfinished(parts: &[&Bytes]) -> Body {
        Body::from_stream(body(parts).into_data_stream().chain(stream::pending()))
    }

    #[tokio::test]
    async fn large_bodies_wait_for_each_other_and_small_ones_for_nobody() {
        static PLACES: Semaphore = Semaphore::const_new(1);
        let moment = Duration::from_millis(50);
        let (small, more) = (Bytes::from(vec![b'x'; SMALL_MAX_BYTES]), Bytes::from_static(b"x"));
        let mut slow = Box::pin(read(unfinished(&[&small, &more]), &PLACES));
        assert!(timeout(moment, &mut slow).await.is_err());
        assert_eq!(PLACES.available_permits(), 0);

        let (bytes, _) = read(body(&[&small]), &PLACES).await.unwrap();
        assert_eq!(bytes.len(), SMALL_MAX_BYTES);
        let mut large = Box::pin(read(body(&[&small, &more, &more]), &PLACES));
        assert!(timeout(moment, &mut large).await.is_err());
        drop(slow);
        let (bytes, place) = large.await.unwrap();
        assert_eq!((bytes.len(), PLACES.available_permits()), (SMALL_MAX_BYTES + 2, 0));
        drop(place);
        assert_eq!(PLACES.available_permits(), 1);
    }

    #[tokio::test]
    async fn no_body_is_larger_than_the_limit() {
        static PLACES: Semaphore = Semaphore::const_new(1);
        let (most, more) = (Bytes::from(vec![b'x'; BODY_MAX_BYTES]), Bytes::from_static(b"x"));
        assert_eq!(read(body(&[&most]), &PLACES).await.unwrap().0.len(), BODY_MAX_BYTES);
        let error = read(unfinished(&[&most, &more]), &PLACES).await.err().unwrap();
        assert!(error.to_json()["error"]["code"] == "body_too_large", "{error:?}");
        assert_eq!(PLACES.available_permits(), 1);
    }
}
