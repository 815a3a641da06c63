//! The HTTP surface. JSON throughout; every error is `{"error": {"code", "message", "detail"}}`.
//!
//! * [`ingest`]: the Segment wire format.
//! * [`import`]: NDJSON files, resumable.
//! * [`history`]: one device's events, newest first.
//! * [`operate`]: status, dead letters, health, metrics.
//!
//! Requests are bounded: bodies by [`Limits`], bytes being written by the ingest, requests at a time by
//! [`Limits::requests`]. The server has no tokens yet, so it binds to loopback only.

pub mod error;
pub mod history;
pub mod import;
pub mod ingest;
pub mod operate;
mod row_json;

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use millrace_pipeline::engine::Engine;
use tokio::sync::Semaphore;

use crate::error::ApiError;

/// Bounds of requests.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Largest body of an ingest request, in bytes, after decompression.
    pub body_bytes: usize,
    /// Most events in one batch.
    pub batch_events: usize,
    /// Most requests at a time; further ones are answered 503.
    pub requests: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { body_bytes: 4 * 1024 * 1024, batch_events: 5000, requests: 512 }
    }
}

/// What the handlers share.
#[derive(Clone)]
pub struct Api {
    engine: Arc<Engine>,
    limits: Limits,
    slots: Arc<Semaphore>,
    /// Imports that are under way, by id.
    imports: Arc<Mutex<HashSet<String>>>,
}

/// All routes, over a running engine.
pub fn router(engine: Arc<Engine>, limits: Limits) -> Router {
    let slots = Arc::new(Semaphore::new(limits.requests));
    let api = Api { engine, limits, slots, imports: Arc::default() };
    let mut ingest = Router::new().route("/v1/batch", post(ingest::batch)).route("/v1/b", post(ingest::batch));
    for (kind, paths) in ingest::KINDS {
        for path in *paths {
            let handler = move |State(api): State<Api>, request: Request| ingest::single(api, kind, request);
            ingest = ingest.route(path, post(handler));
        }
    }
    Router::new()
        .merge(ingest)
        .route("/v1/import", post(import::import))
        .route("/v1/import/{id}", get(import::position))
        .route("/v1/devices/{id}/events", get(history::events))
        .route("/v1/status", get(operate::status))
        .route("/v1/dead-letters", get(operate::dead_letters))
        .route("/metrics", get(operate::metrics))
        .route("/healthz", get(operate::health))
        .route("/readyz", get(operate::ready))
        .fallback(|request: Request| async move { ApiError::no_such_route(request.method(), request.uri().path()) })
        .method_not_allowed_fallback(|request: Request| async move {
            ApiError::method_not_allowed(request.method(), request.uri().path())
        })
        .layer(from_fn_with_state(api.clone(), bound_requests))
        .with_state(api)
}

/// Refuses requests beyond the limit rather than queueing them without one. Health is always answered.
async fn bound_requests(State(api): State<Api>, request: Request, next: Next) -> Response {
    if request.uri().path() == "/healthz" {
        return next.run(request).await;
    }
    let Ok(_slot) = api.slots.clone().try_acquire_owned() else {
        return ApiError::busy("too many requests at a time").into_response();
    };
    next.run(request).await
}
