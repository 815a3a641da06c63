//! The HTTP surface. JSON throughout; every error is `{"error": {"code", "message", "detail"}}`.
//!
//! * [`ingest`]: the Segment wire format.
//! * [`import`]: NDJSON files, resumable.
//! * [`history`]: one device's events, newest first.
//! * [`plugins`], [`pipeline`]: what transforms are made of, and which are in force.
//! * [`revisions`]: the timeline, page by page.
//! * [`corrections`]: candidates for what is in the log already: previewed, and brought into force.
//! * [`auth`], [`access`]: tokens, the audit trail, raw data.
//! * [`gaps`]: what retention took before a store had it.
//! * [`operate`]: status, dead letters, health, metrics.
//!
//! Requests are bounded: bodies by [`Limits`], bytes being written by the ingest, requests at a time by
//! [`Limits::requests`], requests of a token by its rate.

pub mod access;
pub mod auth;
pub mod corrections;
pub mod error;
pub mod gaps;
pub mod history;
pub mod import;
pub mod ingest;
pub mod operate;
pub mod pipeline;
pub mod plugins;
pub mod revisions;
mod row_json;

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use millrace_pipeline::correction::preview::PREVIEWS_MAX;
use millrace_pipeline::engine::Engine;
use millrace_pipeline::roles::Role;
use millrace_pipeline::tokens::Scope;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::auth::Needs;
pub use crate::auth::Trust;
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
    /// Largest plugin, in bytes.
    pub plugin_bytes: usize,
    /// Requests a second of a token that has no limit of its own; further ones are answered 429.
    pub token_requests_per_second: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 4 * 1024 * 1024,
            batch_events: 5000,
            requests: 512,
            plugin_bytes: 32 * 1024 * 1024,
            token_requests_per_second: 1000,
        }
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
    trust: Trust,
    rates: Arc<auth::Rates>,
    /// Held by the verification under way: there is one at a time.
    verifying: Arc<tokio::sync::Mutex<()>>,
    /// A place for each preview.
    previews: Arc<Semaphore>,
}

/// All routes, over a running engine.
pub fn router(engine: Arc<Engine>, limits: Limits, trust: Trust) -> Router {
    let slots = Arc::new(Semaphore::new(limits.requests));
    let api = Api {
        engine,
        limits,
        trust,
        slots,
        imports: Arc::default(),
        rates: Arc::default(),
        verifying: Arc::default(),
        previews: Arc::new(Semaphore::new(PREVIEWS_MAX)),
    };
    let mut ingest = Router::new().route("/v1/batch", post(ingest::batch)).route("/v1/b", post(ingest::batch));
    for (kind, paths) in ingest::KINDS {
        for path in *paths {
            let handler = move |State(api): State<Api>, request: Request| ingest::single(api, kind, request);
            ingest = ingest.route(path, post(handler));
        }
    }
    let ingest = ingest.route("/v1/import", post(import::import)).route("/v1/import/{id}", get(import::position));
    let history = Router::new()
        .route("/v1/devices/{id}/events", get(history::events))
        .route("/v1/dead-letters", get(operate::dead_letters))
        .route("/v1/dead-letters/groups", get(corrections::dead_letter_groups));
    let raw =
        Router::new().route("/v1/diagnostics", get(access::diagnostics)).route("/v1/samples", get(access::samples));
    let observe = Router::new()
        .route("/v1/status", get(operate::status))
        .route("/metrics", get(operate::metrics))
        .route("/readyz", get(operate::ready))
        .route("/v1/plugins", get(plugins::list))
        .route("/v1/plugins/{name}", get(plugins::versions))
        .route("/v1/plugins/{name}/{version}", get(plugins::one))
        .route("/v1/tables", get(plugins::list_tables))
        .route("/v1/tables/{name}", get(plugins::table_versions))
        .route("/v1/pipeline", get(pipeline::show))
        .route("/v1/revisions", get(revisions::list))
        .route("/v1/gaps", get(gaps::list))
        .route("/v1/corrections", get(corrections::list))
        .route("/v1/corrections/{id}", get(corrections::one));
    let write_plugins = Router::new()
        .route("/v1/plugins", post(plugins::upload))
        .route("/v1/plugins/{name}/{version}", delete(plugins::delete))
        .route("/v1/plugins/{name}/{version}/deprecate", post(plugins::deprecate))
        .route("/v1/tables/{name}", post(plugins::upload_table))
        .route("/v1/tables/{name}/{version}", delete(plugins::delete_table));
    let write_pipeline = Router::new()
        .route("/v1/pipeline", put(pipeline::set))
        .route("/v1/gaps", post(gaps::accept))
        .route("/v1/rebuilds", post(corrections::rebuild))
        .route("/v1/compactions", post(corrections::compact))
        .route("/v1/corrections", post(corrections::correct))
        .route("/v1/corrections/{id}", delete(corrections::cancel))
        .route("/v1/corrections/{id}/publish", post(corrections::publish))
        .route("/v1/pipeline/pause", post(pipeline::pause))
        .route("/v1/pipeline/resume", post(pipeline::resume));
    let admin = Router::new()
        .route("/v1/tokens", get(access::list_tokens).post(access::create_token))
        .route("/v1/tokens/{id}", delete(access::revoke_token))
        .route("/v1/audit", get(access::audit));
    let part = |routes: Router<Api>, role| routes.route_layer(from_fn_with_state((api.clone(), role), require_role));
    let (ingest, history) = (part(ingest, Role::Ingest), part(history, Role::Query));
    let [write_plugins, write_pipeline, admin] =
        [write_plugins, write_pipeline, admin].map(|routes| routes.route_layer(from_fn(to_its_end)));
    let reads_much =
        Router::new().route("/v1/verify", post(corrections::verify)).route("/v1/previews", post(corrections::preview));
    let write_pipeline = write_pipeline.merge(part(reads_much, Role::Query));
    let guarded = [
        (ingest, Needs::Scope(Scope::Ingest)),
        (history, Needs::Scope(Scope::HistoryRead)),
        (raw, Needs::Scope(Scope::RawRead)),
        (observe, Needs::Observe),
        (write_plugins, Needs::Scope(Scope::PluginsWrite)),
        (write_pipeline, Needs::Scope(Scope::PipelineWrite)),
        (admin, Needs::Scope(Scope::Admin)),
    ];
    guarded
        .into_iter()
        .fold(Router::new(), |all, (routes, needs)| {
            all.merge(routes.route_layer(from_fn_with_state((api.clone(), needs), auth::require)))
        })
        .route("/healthz", get(operate::health))
        .fallback(|request: Request| async move { ApiError::no_such_route(request.method(), request.uri().path()) })
        .method_not_allowed_fallback(|request: Request| async move {
            ApiError::method_not_allowed(request.method(), request.uri().path())
        })
        .layer(from_fn_with_state(api.clone(), bound_requests))
        .with_state(api)
}

/// Refuses what is not this process's part of the work. An SDK tries again, and finds another.
async fn require_role(State((api, role)): State<(Api, Role)>, request: Request, next: Next) -> Response {
    if api.engine.roles().has(role) {
        return next.run(request).await;
    }
    let message = format!("this process does not have the role {role}: its roles are {}", api.engine.roles());
    ApiError::new(axum::http::StatusCode::SERVICE_UNAVAILABLE, "not_this_role", message).into_response()
}

/// Refuses requests beyond the limit rather than queueing them without one. Health is always answered.
async fn bound_requests(State(api): State<Api>, request: Request, next: Next) -> Response {
    if request.uri().path() == "/healthz" {
        return next.run(request).await;
    }
    let Ok(slot) = api.slots.clone().try_acquire_owned() else {
        return ApiError::busy("too many requests at a time").into_response();
    };
    let slot = Slot(Arc::new(slot));
    let mut request = request;
    request.extensions_mut().insert(slot.clone());
    next.run(request).await
}

/// A request's place among those that are bounded, for as long as anybody works on it.
#[derive(Clone)]
struct Slot(#[expect(dead_code, reason = "held")] Arc<OwnedSemaphorePermit>);

/// What changes something comes to its end, and into the audit trail, also when the client goes meanwhile: with its connection
/// the server drops what answers it, wherever that is.
async fn to_its_end(request: Request, next: Next) -> Response {
    let slot = request.extensions().get::<Slot>().cloned();
    let run = async move {
        let response = next.run(request).await;
        drop(slot);
        response
    };
    tokio::spawn(run).await.unwrap_or_else(|panic| ApiError::internal(panic).into_response())
}
