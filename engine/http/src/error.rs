//! Errors as clients see them.

use axum::Json;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// An error answer.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
    detail: Value,
    retry_after_s: Option<u64>,
}

impl ApiError {
    /// An error with this status and constant code, and a message for people.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), detail: Value::Null, retry_after_s: None }
    }

    /// Adds machine-readable detail.
    pub fn with_detail(mut self, detail: Value) -> Self {
        self.detail = detail;
        self
    }

    /// Bad input: 400.
    pub fn bad_request(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    /// Not now: 503, with `Retry-After`.
    pub fn busy(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message)
    }

    /// Nobody that is known: 401.
    pub fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
    }

    /// Known, and not allowed: 403.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", message)
    }

    /// Too often: 429, with `Retry-After`.
    pub fn too_many(per_second: u32, wait_s: u64) -> Self {
        let message = format!("the token may make {per_second} requests a second");
        let error = Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", message);
        Self { retry_after_s: Some(wait_s), ..error }
    }

    /// A defect of ours: 500. The cause is logged here, where it is handled; the client learns that it happened.
    pub fn internal(error: impl std::fmt::Display) -> Self {
        tracing::error!(%error, "a request failed");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the server could not answer; its log says why")
    }

    pub(crate) fn too_large(limit_bytes: usize) -> Self {
        let message = format!("the body is larger than {limit_bytes} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
            .with_detail(json!({"limit_bytes": limit_bytes}))
    }

    pub(crate) fn no_such_route(method: &Method, path: &str) -> Self {
        let message = format!("there is no {method} {path}");
        Self::new(StatusCode::NOT_FOUND, "no_such_route", message)
    }

    pub(crate) fn method_not_allowed(method: &Method, path: &str) -> Self {
        let message = format!("{path} does not take {method}");
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut error = json!({"code": self.code, "message": self.message});
        if !self.detail.is_null() {
            error["detail"] = self.detail;
        }
        let mut response = (self.status, Json(json!({"error": error}))).into_response();
        let headers = response.headers_mut();
        match (self.status, self.retry_after_s) {
            (_, Some(wait_s)) => drop(headers.insert(header::RETRY_AFTER, HeaderValue::from(wait_s))),
            (StatusCode::SERVICE_UNAVAILABLE, None) => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            (StatusCode::UNAUTHORIZED, None) => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            _ => {}
        }
        response
    }
}
