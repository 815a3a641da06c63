//! `/v1/pipeline`: the chain in force, and how another one comes into force.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use axum::{Extension, Json};
use millrace_pipeline::pipeline::{Activation, PipelineError, PluginSource, REASON_BYTES_MAX, StepSource};
use millrace_pipeline::processor::ActivationStart;
use millrace_pipeline::tokens::Principal;
use millrace_plugin_host::{Limits, OnError};
use millrace_timeline::chain::PluginName;
use millrace_timeline::{ChainSpec, Filter, Revision, SEMANTICS_VERSION, StepSpec};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::Api;
use crate::error::ApiError;
use crate::plugins::catalogue_error;
use crate::row_json::rfc3339;

fn show_step(step: &StepSpec) -> Value {
    let config: Value = serde_json::from_str(&step.config).unwrap_or(Value::Null);
    let tables: BTreeMap<&str, u32> = step.tables.iter().map(|table| (table.name.as_str(), table.version)).collect();
    json!({
        "plugin": step.plugin.to_string(),
        "sha256": step.plugin.sha256,
        "config": config,
        "limits": step.limits,
        "on_error": if step.halts { "halt" } else { "dead_letter" },
        "tables": tables,
        "manifest": step.manifest,
    })
}

/// A filter for everybody who may look: values of columns that may tell of a person are counted only.
fn show_filter(filter: &Filter) -> Value {
    const SHOWN: [&str; 6] = ["app", "app_version", "type", "event", "platform", "os"];
    let columns = filter.columns.iter().map(|(column, values)| {
        let shown = if SHOWN.contains(&column.as_str()) { json!(values) } else { json!({"values": values.len()}) };
        (column.clone(), shown)
    });
    Value::Object(columns.collect())
}

pub(crate) fn show_revision(revision: &Revision) -> Value {
    json!({
        "revision": revision.id,
        "kind": revision.kind,
        "ranges": revision.ranges,
        "filter": show_filter(&revision.filter),
        "group": revision.group,
        "steps": revision.chain.steps.iter().map(show_step).collect::<Vec<_>>(),
        "semantics": revision.chain.semantics,
        "author": revision.author,
        "reason": revision.reason,
        "created_at": rfc3339(revision.created_at_us),
    })
}

/// `GET /v1/pipeline`: the chain in force at last, and what is in force at the log's ends where that is another one.
pub(crate) async fn show(State(api): State<Api>) -> Json<Value> {
    let mut shown = api.engine.in_force().as_ref().map_or_else(|| json!({"revision": 0, "steps": []}), show_revision);
    shown["required"] = json!(api.engine.policy().required);
    shown["pause"] = json!(api.engine.processor().pause().get());
    // What is in force at last is known without the log.
    if let Ok(ends) = api.engine.log_ends().await {
        shown["ahead"] = json!(millrace_pipeline::status::ahead(&api.engine.timeline(), ends));
    }
    Json(shown)
}

/// The body of `PUT /v1/pipeline`: steps, or the revision whose chain is to be in force again; `previous` is that of the
/// activation before the last.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewPipeline {
    steps: Option<Vec<NewStep>>,
    revision: Option<u64>,
    #[serde(default)]
    previous: bool,
    reason: String,
    #[serde(default)]
    from: From,
}

/// Where the chain begins.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum From {
    /// At the log's end.
    #[default]
    End,
    /// At the first record that no store has been given; the chain must be paused.
    Unseen,
}

/// A step, as `pipeline.steps` of the configuration has it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewStep {
    plugin: String,
    #[serde(default = "no_config")]
    config: Value,
    #[serde(default)]
    limits: Limits,
    #[serde(default)]
    on_error: OnError,
    #[serde(default)]
    tables: BTreeMap<String, u32>,
}

fn no_config() -> Value {
    json!({})
}

impl NewStep {
    /// A step of a list.
    pub(crate) fn source(self, number: usize) -> Result<StepSource, ApiError> {
        self.named(|problem| bad_pipeline(format!("pipeline step {number}: {problem}")))
    }

    /// A step that stands in no list.
    pub(crate) fn alone(self) -> Result<StepSource, ApiError> {
        self.named(bad_pipeline)
    }

    fn named(self, wrong: impl Fn(String) -> ApiError) -> Result<StepSource, ApiError> {
        let Self { plugin, config, limits, on_error, tables } = self;
        let plugin: Result<PluginName, _> = plugin.parse();
        let plugin = plugin.map_err(|error| wrong(error.to_string()))?;
        Ok(StepSource { plugin: PluginSource::Named(plugin), config, limits, on_error, tables })
    }
}

fn bad_pipeline(message: String) -> ApiError {
    ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "bad_pipeline", message)
}

pub(crate) fn pipeline_error(error: PipelineError) -> ApiError {
    let bad = error.is_bad_request();
    match error {
        PipelineError::NoRevision(_) | PipelineError::NoPrevious => {
            ApiError::new(StatusCode::NOT_FOUND, "not_found", error.to_string())
        }
        PipelineError::Conflict => ApiError::new(StatusCode::CONFLICT, "conflict", error.to_string()),
        PipelineError::NotPaused => ApiError::new(StatusCode::CONFLICT, "not_paused", error.to_string()),
        PipelineError::Step { step, .. } => bad_pipeline(error.to_string()).with_detail(json!({"step": step})),
        error if bad => bad_pipeline(error.to_string()),
        PipelineError::Catalogue(error) => catalogue_error(error),
        error => ApiError::internal(error),
    }
}

pub(crate) fn checked_reason(reason: &str) -> Result<&str, ApiError> {
    match reason.trim() {
        "" => Err(ApiError::bad_request("no_reason", "say why, in reason: it is kept with what you do")),
        long if long.len() > REASON_BYTES_MAX => {
            Err(ApiError::bad_request("bad_reason", format!("a reason has at most {REASON_BYTES_MAX} bytes")))
        }
        reason if reason.chars().any(char::is_control) => Err(ApiError::bad_request(
            "bad_reason",
            "a reason is one line of text: this one has line breaks or other control characters",
        )),
        reason => Ok(reason),
    }
}

/// `PUT /v1/pipeline`.
pub(crate) async fn set(
    State(api): State<Api>,
    Extension(principal): Extension<Principal>,
    body: Result<Json<NewPipeline>, JsonRejection>,
) -> Result<Json<Value>, ApiError> {
    let Json(new) = body.map_err(|error| ApiError::bad_request("bad_body", error.body_text()))?;
    let reason = checked_reason(&new.reason)?.to_owned();
    let revision = match new.previous {
        true if new.revision.is_none() => Some(api.engine.previous_activation().map_err(pipeline_error)?),
        _ => new.revision.filter(|_| !new.previous),
    };
    let chain = match (new.steps, revision) {
        (Some(steps), None) => {
            let sources = (1..).zip(steps).map(|(number, step)| step.source(number)).collect::<Result<Vec<_>, _>>()?;
            api.engine.pin_chain(sources).await.map_err(pipeline_error)?
        }
        (None, Some(revision)) => {
            // The same chain under the meaning that this build gives it.
            ChainSpec { semantics: SEMANTICS_VERSION, ..api.engine.chain_of(revision).map_err(pipeline_error)? }
        }
        _ => {
            let message = "give either steps, or the revision to go back to, or previous";
            return Err(ApiError::bad_request("bad_body", message));
        }
    };
    let start = match new.from {
        From::End => ActivationStart::End,
        From::Unseen => ActivationStart::Unseen,
    };
    let activation = Activation { chain, author: principal.name.clone(), reason: reason.clone(), start };
    let activated = api.engine.activate(activation).await.map_err(pipeline_error)?;
    if activated.is_new {
        let subject = format!("revision {}", activated.revision);
        api.engine.tokens().audit(&principal, "pipeline.activate", subject, Some(reason)).await;
    }
    let mut shown = show(State(api)).await.0;
    shown["changed"] = json!(activated.is_new);
    Ok(Json(shown))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PauseBody {
    reason: String,
}

/// `POST /v1/pipeline/pause`: `{"reason": "…"}`.
pub(crate) async fn pause(
    State(api): State<Api>,
    Extension(principal): Extension<Principal>,
    body: Result<Json<PauseBody>, JsonRejection>,
) -> Result<Json<Value>, ApiError> {
    let Json(body) = body.map_err(|error| ApiError::bad_request("bad_body", error.body_text()))?;
    let reason = checked_reason(&body.reason)?;
    let pause = api.engine.pause(&principal.name, reason).await.map_err(catalogue_error)?;
    api.engine.tokens().audit(&principal, "pipeline.pause", "pipeline", Some(reason.to_owned())).await;
    Ok(Json(json!({"pause": pause})))
}

/// `POST /v1/pipeline/resume`.
pub(crate) async fn resume(
    State(api): State<Api>,
    Extension(principal): Extension<Principal>,
) -> Result<Json<Value>, ApiError> {
    let before = api.engine.resume().await.map_err(catalogue_error)?;
    let reason = before.as_ref().map(|pause| pause.reason.clone());
    api.engine.tokens().audit(&principal, "pipeline.resume", "pipeline", reason).await;
    Ok(Json(json!({"resumed": before.is_some(), "paused_for": before})))
}
