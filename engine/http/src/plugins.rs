//! `/v1/plugins` and `/v1/tables`: what chains are made of.

use std::collections::BTreeMap;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use millrace_pipeline::registry::RegistryError;
use millrace_pipeline::tables::TablesError;
use millrace_pipeline::tokens::Principal;
use millrace_plugin_host::LoadError;
use millrace_rows::ColumnType;
use millrace_tables::{Format, Lookup, UPLOAD_BYTES_MAX, Upload};
use millrace_timeline::chain::PluginName;
use millrace_timeline::{CatalogueError, PluginEntry, TableEntry, TableRef, Timeline};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::Api;
use crate::error::ApiError;
use crate::ingest::collect;
use crate::row_json::rfc3339;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct UploadQuery {
    /// JSON: the configuration of the trial.
    config: Option<String>,
}

/// `POST /v1/plugins?config=`: a component.
pub(crate) async fn upload(
    State(api): State<Api>,
    Extension(principal): Extension<Principal>,
    query: Result<Query<UploadQuery>, QueryRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    let Query(query) = query.map_err(|error| ApiError::bad_request("bad_query", error.body_text()))?;
    let config: Value = match &query.config {
        Some(text) => serde_json::from_str(text)
            .map_err(|error| ApiError::bad_request("bad_config", format!("config is no JSON: {error}")))?,
        None => json!({}),
    };
    let wasm = collect(request.into_body(), api.limits.plugin_bytes).await?;
    let uploaded = api.engine.upload_plugin(wasm.to_vec(), &config, &principal.name).await.map_err(refused)?;
    if uploaded.is_new {
        let digest = format!("sha256 {}", uploaded.entry.sha256);
        api.engine.tokens().audit(&principal, "plugin.upload", uploaded.plugin.to_string(), Some(digest)).await;
    }
    let status = if uploaded.is_new { StatusCode::CREATED } else { StatusCode::OK };
    let shown = show_plugin(&api, &uploaded.plugin, &uploaded.entry);
    Ok((status, Json(shown)).into_response())
}

fn refused(error: RegistryError) -> ApiError {
    let code = match &error {
        RegistryError::Load(LoadError::Host { .. }) => return ApiError::internal(error),
        RegistryError::Load(LoadError::TooLarge { .. }) => "plugin_too_large",
        RegistryError::Load(LoadError::Compile(_)) => "plugin_compile_limit",
        RegistryError::Load(_) => "plugin_invalid",
        RegistryError::Manifest(_) => "plugin_manifest",
        RegistryError::Chain(_) => "plugin_columns",
        RegistryError::Trial(_) => "plugin_trial",
        RegistryError::NoTable(_) => "no_such_table",
        RegistryError::Secret(_) => "bad_secret",
        RegistryError::Catalogue(CatalogueError::PluginDiffers { .. }) => {
            return ApiError::new(StatusCode::CONFLICT, "plugin_exists", error.to_string());
        }
        RegistryError::Catalogue(_) | RegistryError::Tables(_) => return unavailable(error),
        _ => return ApiError::internal(error),
    };
    ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, code, error.to_string())
}

/// A failure of the catalogue: in its words where the request is to blame, else logged and told as ours.
pub(crate) fn catalogue_error(error: CatalogueError) -> ApiError {
    match error {
        CatalogueError::InUse { .. } => ApiError::new(StatusCode::CONFLICT, "in_use", error.to_string()),
        CatalogueError::NoSuchPlugin(_) | CatalogueError::NoSuchTable(_) | CatalogueError::NoSuchToken(_) => {
            ApiError::new(StatusCode::NOT_FOUND, "not_found", error.to_string())
        }
        other => unavailable(other),
    }
}

fn unavailable(error: impl std::fmt::Display) -> ApiError {
    tracing::warn!(%error, "the catalogue could not answer");
    ApiError::busy("the catalogue could not answer: try again")
}

/// Revisions that refer to a plugin or a table, and whether the one in force does.
fn where_used(timeline: &Timeline, uses: impl Fn(&millrace_timeline::StepSpec) -> bool) -> (Vec<u64>, bool) {
    let refers = |revision: &&millrace_timeline::Revision| revision.chain.steps.iter().any(&uses);
    let in_force = timeline.current();
    let revisions = timeline.revisions().iter().filter(refers).map(|revision| revision.id).collect();
    (revisions, in_force.as_ref().is_some_and(refers))
}

fn show_plugin(api: &Api, name: &PluginName, entry: &PluginEntry) -> Value {
    let timeline = api.engine.timeline();
    let (revisions, in_force) =
        where_used(&timeline, |step| step.plugin.name == name.name && step.plugin.version == name.version);
    json!({
        "name": name.name,
        "version": name.version,
        "sha256": entry.sha256,
        "bytes": entry.bytes,
        "uploader": entry.uploader,
        "uploaded_at": rfc3339(entry.stored_at_us),
        "deprecated": entry.deprecated,
        "manifest": entry.manifest,
        "trial": entry.trial,
        "cost": api.engine.metrics().costs().of(&name.to_string()),
        "revisions": revisions,
        "in_force": in_force,
    })
}

/// `GET /v1/plugins`.
pub(crate) async fn list(State(api): State<Api>) -> Result<Json<Value>, ApiError> {
    let plugins = api.engine.catalogue().plugins().await.map_err(catalogue_error)?;
    let shown: Vec<Value> = plugins.iter().map(|(name, entry)| show_plugin(&api, name, entry)).collect();
    Ok(Json(json!({"plugins": shown})))
}

/// `GET /v1/plugins/{name}`: its versions.
pub(crate) async fn versions(State(api): State<Api>, Path(name): Path<String>) -> Result<Json<Value>, ApiError> {
    let plugins = api.engine.catalogue().plugins().await.map_err(catalogue_error)?;
    let of_name = plugins.iter().filter(|(plugin, _)| plugin.name == name);
    let shown: Vec<Value> = of_name.map(|(name, entry)| show_plugin(&api, name, entry)).collect();
    if shown.is_empty() {
        return Err(catalogue_error(CatalogueError::NoSuchPlugin(name)));
    }
    Ok(Json(json!({"plugins": shown})))
}

/// `GET /v1/plugins/{name}/{version}`.
pub(crate) async fn one(
    State(api): State<Api>,
    Path((name, version)): Path<(String, String)>,
) -> Result<Json<Value>, ApiError> {
    let name = PluginName { name, version };
    let entry = api.engine.catalogue().plugin(&name.name, &name.version).await.map_err(catalogue_error)?;
    let entry = entry.ok_or_else(|| catalogue_error(CatalogueError::NoSuchPlugin(name.to_string())))?;
    Ok(Json(show_plugin(&api, &name, &entry)))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Deprecation {
    /// Why; null takes it back.
    reason: Option<String>,
}

/// `POST /v1/plugins/{name}/{version}/deprecate`: `{"reason": "…"}`, or null to take it back.
pub(crate) async fn deprecate(
    State(api): State<Api>,
    Extension(principal): Extension<Principal>,
    Path((name, version)): Path<(String, String)>,
    body: Result<Json<Deprecation>, axum::extract::rejection::JsonRejection>,
) -> Result<Json<Value>, ApiError> {
    let Json(Deprecation { reason }) = body.map_err(|error| ApiError::bad_request("bad_body", error.body_text()))?;
    let name = PluginName { name, version };
    let entry = api.engine.deprecate_plugin(&name, reason.clone()).await.map_err(catalogue_error)?;
    api.engine.tokens().audit(&principal, "plugin.deprecate", name.to_string(), reason).await;
    Ok(Json(show_plugin(&api, &name, &entry)))
}

/// `DELETE /v1/plugins/{name}/{version}`: one that no revision refers to.
pub(crate) async fn delete(
    State(api): State<Api>,
    Extension(principal): Extension<Principal>,
    Path((name, version)): Path<(String, String)>,
) -> Result<Json<Value>, ApiError> {
    let name = PluginName { name, version };
    api.engine.delete_plugin(&name).await.map_err(catalogue_error)?;
    api.engine.tokens().audit(&principal, "plugin.delete", name.to_string(), None).await;
    Ok(Json(json!({"deleted": name.to_string()})))
}

/// What a table's upload says of itself beside its bytes. Of `key`, `cidr`, and `from` with `to` it has one.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TableQuery {
    key: Option<String>,
    cidr: Option<String>,
    from: Option<String>,
    to: Option<String>,
    /// `csv`, `ndjson` or `parquet`; else the content type tells.
    format: Option<String>,
    /// `column:type,column:type`: instead of what would be inferred.
    types: Option<String>,
}

impl TableQuery {
    fn lookup(&self) -> Result<Lookup, String> {
        match (&self.key, &self.cidr, &self.from, &self.to) {
            (Some(column), None, None, None) => Ok(Lookup::Key(column.clone())),
            (None, Some(column), None, None) => Ok(Lookup::Cidr(column.clone())),
            (None, None, Some(from), Some(to)) => Ok(Lookup::Range { from: from.clone(), to: to.clone() }),
            _ => Err("say how rows are found: key=COLUMN, cidr=COLUMN, or from=COLUMN&to=COLUMN".to_owned()),
        }
    }

    fn format(&self, headers: &HeaderMap) -> Result<Format, String> {
        if let Some(format) = &self.format {
            return format.parse();
        }
        let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        match content_type.split(';').next().unwrap_or_default().trim() {
            "text/csv" => Ok(Format::Csv),
            "application/x-ndjson" | "application/ndjson" | "application/jsonl" => Ok(Format::Ndjson),
            "application/vnd.apache.parquet" => Ok(Format::Parquet),
            other => Err(format!("content type {other:?} tells no table format: give format=csv, ndjson or parquet")),
        }
    }

    fn types(&self) -> Result<BTreeMap<String, ColumnType>, String> {
        let pairs = self.types.as_deref().unwrap_or_default().split(',').filter(|pair| !pair.is_empty());
        pairs
            .map(|pair| {
                let (column, ty) = pair.split_once(':').ok_or_else(|| format!("types: {pair:?} is not column:type"))?;
                Ok((column.to_owned(), ty.parse()?))
            })
            .collect()
    }
}

fn show_table(api: &Api, table: &TableRef, entry: &TableEntry) -> Value {
    let (revisions, in_force) = where_used(&api.engine.timeline(), |step| {
        step.tables.iter().any(|used| used.name == table.name && used.version == table.version)
    });
    json!({
        "name": table.name,
        "version": table.version,
        "sha256": table.sha256,
        "bytes": entry.bytes,
        "rows": entry.rows,
        "columns": entry.columns,
        "lookup": entry.lookup,
        "uploader": entry.uploader,
        "uploaded_at": rfc3339(entry.stored_at_us),
        "revisions": revisions,
        "in_force": in_force,
    })
}

fn table_error(error: TablesError) -> ApiError {
    match error {
        TablesError::Catalogue(error) => catalogue_error(error),
        TablesError::Name(_) | TablesError::Table(_) => {
            ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "bad_table", error.to_string())
        }
        other => ApiError::internal(other),
    }
}

/// `POST /v1/tables/{name}`: the next version of a table.
pub(crate) async fn upload_table(
    State(api): State<Api>,
    Extension(principal): Extension<Principal>,
    Path(name): Path<String>,
    query: Result<Query<TableQuery>, QueryRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    let Query(query) = query.map_err(|error| ApiError::bad_request("bad_query", error.body_text()))?;
    let bad = |message: String| ApiError::bad_request("bad_table_query", message);
    let (lookup, types) = (query.lookup().map_err(bad)?, query.types().map_err(bad)?);
    let format = query.format(request.headers()).map_err(bad)?;
    let bytes = collect(request.into_body(), UPLOAD_BYTES_MAX).await?;
    let before = api.engine.catalogue().table(&name, None).await.map_err(catalogue_error)?;
    let upload = Upload { bytes, format, lookup, types };
    let (table, entry) = api.engine.upload_table(&name, upload, &principal.name).await.map_err(table_error)?;
    let is_new = before.is_none_or(|(before, _)| before.version != table.version);
    if is_new {
        let detail = format!("{} rows, sha256 {}", entry.rows, table.sha256);
        api.engine.tokens().audit(&principal, "table.upload", table.to_string(), Some(detail)).await;
    }
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(show_table(&api, &table, &entry))).into_response())
}

/// `GET /v1/tables`.
pub(crate) async fn list_tables(State(api): State<Api>) -> Result<Json<Value>, ApiError> {
    let tables = api.engine.catalogue().tables().await.map_err(catalogue_error)?;
    let shown: Vec<Value> = tables.iter().map(|(table, entry)| show_table(&api, table, entry)).collect();
    Ok(Json(json!({"tables": shown})))
}

/// `GET /v1/tables/{name}`: its versions.
pub(crate) async fn table_versions(State(api): State<Api>, Path(name): Path<String>) -> Result<Json<Value>, ApiError> {
    let tables = api.engine.catalogue().tables().await.map_err(catalogue_error)?;
    let of_name = tables.iter().filter(|(table, _)| table.name == name);
    let shown: Vec<Value> = of_name.map(|(table, entry)| show_table(&api, table, entry)).collect();
    if shown.is_empty() {
        return Err(catalogue_error(CatalogueError::NoSuchTable(name)));
    }
    Ok(Json(json!({"tables": shown})))
}

/// `DELETE /v1/tables/{name}/{version}`: one that no revision refers to.
pub(crate) async fn delete_table(
    State(api): State<Api>,
    Extension(principal): Extension<Principal>,
    Path((name, version)): Path<(String, u32)>,
) -> Result<Json<Value>, ApiError> {
    api.engine.delete_table(&name, version).await.map_err(table_error)?;
    let table = format!("{name}@{version}");
    api.engine.tokens().audit(&principal, "table.delete", table.clone(), None).await;
    Ok(Json(json!({"deleted": table})))
}
