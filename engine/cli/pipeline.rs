//! `millrace pipeline …`: the chain in force.
//!
//! `show` prints it in the form that `set` takes, so a change is: show into a file, edit, set.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};
use axum::http::Method;
use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::client::Client;
use crate::config::Step;
use crate::registry;

/// `millrace pipeline`.
#[derive(Subcommand)]
pub enum PipelineCommand {
    /// Prints the chain in force, as `set` takes it.
    Show,
    /// Brings a chain into force, for events from here on.
    Set(SetArgs),
    /// Lists the revisions of the timeline, newest first.
    Revisions,
    /// Lets nothing be computed until it is resumed; events are taken all the same.
    Pause {
        /// Why.
        #[arg(long)]
        reason: String,
    },
    /// Goes on. A failure rate that paused the chain is accepted by it.
    Resume,
}

/// What to bring into force.
#[derive(Args)]
#[group(id = "source", required = true, multiple = false)]
pub struct SetSource {
    /// A TOML file with steps, as `show` prints it. A step may have wasm = "file.wasm", which is uploaded first.
    file: Option<PathBuf>,
    /// The chain of this revision, once more.
    #[arg(long, value_name = "N")]
    revision: Option<u64>,
    /// The chain that was activated before the present one. Corrections are none.
    #[arg(long)]
    previous: bool,
}

/// `millrace pipeline set`.
#[derive(Args)]
pub struct SetArgs {
    #[command(flatten)]
    source: SetSource,
    /// Why, in your words; kept with the revision.
    #[arg(long)]
    reason: String,
    /// Begin at the first event that no store was given, instead of the log's end: for a paused chain that can't pass it.
    #[arg(long)]
    from_unseen: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PipelineFile {
    #[serde(default)]
    steps: Vec<Step>,
}

/// `millrace pipeline`.
pub async fn pipeline(client: &Client, command: PipelineCommand, json: bool) -> Result<()> {
    let answer = match command {
        PipelineCommand::Show => {
            let shown = client.get("/v1/pipeline").await?;
            if !json {
                print!("{}", as_toml(&shown)?);
                return Ok(());
            }
            shown
        }
        PipelineCommand::Set(args) => {
            let set = set(client, args).await?;
            if !json {
                println!("{}", after_set(&set));
                return Ok(());
            }
            set
        }
        PipelineCommand::Revisions => {
            let list = all_revisions(client).await?;
            if !json {
                print!("{}", revisions(&list));
                return Ok(());
            }
            list
        }
        PipelineCommand::Pause { reason } => {
            let paused = client.post_json("/v1/pipeline/pause", &json!({"reason": reason})).await?;
            if !json {
                println!("the chain is paused; `millrace pipeline resume` goes on");
                return Ok(());
            }
            paused
        }
        PipelineCommand::Resume => {
            let resumed = client.post_json("/v1/pipeline/resume", &json!({})).await?;
            if !json {
                let was = resumed["paused_for"]["reason"].as_str();
                println!(
                    "{}",
                    was.map_or("the chain was not paused".to_owned(), |was| format!(
                        "the chain goes on; it was paused: {was}"
                    ))
                );
                return Ok(());
            }
            resumed
        }
    };
    println!("{answer}");
    Ok(())
}

/// All revisions, page by page.
async fn all_revisions(client: &Client) -> Result<Value> {
    let mut all = Vec::new();
    let mut path = "/v1/revisions?limit=1000".to_owned();
    loop {
        let mut page = client.get(&path).await?;
        all.append(page["revisions"].as_array_mut().unwrap_or(&mut Vec::new()));
        match page["next"].as_u64() {
            Some(next) => path = format!("/v1/revisions?limit=1000&after={next}"),
            None => return Ok(json!({"revisions": all})),
        }
    }
}

async fn set(client: &Client, args: SetArgs) -> Result<Value> {
    let SetArgs { source, reason, from_unseen } = args;
    let mut body = json!({"reason": reason, "from": if from_unseen { "unseen" } else { "end" }});
    match source {
        SetSource { file: Some(file), .. } => body["steps"] = read_steps(client, &file).await?,
        SetSource { revision: Some(revision), .. } => body["revision"] = json!(revision),
        _ => body["previous"] = json!(true),
    }
    client.send_json(Method::PUT, "/v1/pipeline", &body).await
}

/// The steps of a file as the server takes them; components that it names are uploaded first.
pub(crate) async fn read_steps(client: &Client, file: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    let PipelineFile { steps } = toml::from_str(&text).map_err(|error| anyhow!("{}: {error}", file.display()))?;
    let mut body = Vec::with_capacity(steps.len());
    for (number, step) in (1..).zip(steps) {
        let config = serde_json::to_value(&step.config)?;
        let plugin = match (step.plugin, step.wasm) {
            (Some(plugin), None) => plugin,
            (None, Some(wasm)) => {
                // A path in a file is meant from where the file is.
                let wasm = file.parent().map_or_else(|| wasm.clone(), |dir| dir.join(&wasm));
                let pushed = registry::push(client, &wasm, &config).await?;
                let part = |name: &str| pushed[name].as_str().unwrap_or_default().to_owned();
                format!("{}@{}", part("name"), part("version"))
            }
            _ => bail!(
                "{}, step {number}: give plugin = \"name@version\" or wasm = \"file.wasm\", one of them",
                file.display()
            ),
        };
        body.push(json!({
            "plugin": plugin, "config": config, "limits": step.limits, "on_error": step.on_error, "tables": step.tables,
        }));
    }
    Ok(json!(body))
}

fn after_set(set: &Value) -> String {
    let steps: Vec<&str> =
        set["steps"].as_array().into_iter().flatten().filter_map(|step| step["plugin"].as_str()).collect();
    let chain = if steps.is_empty() { "no steps".to_owned() } else { steps.join(" → ") };
    if set["changed"] == json!(true) {
        format!("revision {} is in force: {chain}", set["revision"])
    } else {
        format!("nothing to change: revision {} does the same: {chain}", set["revision"])
    }
}

/// The chain in the form that `set` takes. Limits and the like that are at their defaults are left out.
fn as_toml(shown: &Value) -> Result<String> {
    let mut out = String::new();
    // Writing to a String does not fail.
    let _ = writeln!(
        out,
        "# revision {} by {}: {}",
        shown["revision"],
        shown["author"].as_str().unwrap_or("nobody"),
        shown["reason"].as_str().unwrap_or("").replace('\n', " ")
    );
    if let Some(reason) = shown["pause"]["reason"].as_str() {
        let _ = writeln!(out, "# PAUSED: {}", reason.replace('\n', " "));
    }
    for line in crate::status::in_force_ahead(shown) {
        let _ = writeln!(out, "# for the next events of {line}");
    }
    let defaults = serde_json::to_value(millrace_plugin_host::Limits::default())?;
    for step in shown["steps"].as_array().into_iter().flatten() {
        let mut kept = Map::new();
        kept.insert("plugin".into(), step["plugin"].clone());
        let limits: Map<String, Value> = step["limits"]
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(name, value)| defaults[name.as_str()] != **value)
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        if step["on_error"] != "dead_letter" {
            kept.insert("on_error".into(), step["on_error"].clone());
        }
        for (name, value) in
            [("config", step["config"].clone()), ("limits", Value::Object(limits)), ("tables", step["tables"].clone())]
        {
            if value.as_object().is_some_and(|members| !members.is_empty()) {
                kept.insert(name.into(), value);
            }
        }
        let text = toml::to_string(&json!({"steps": [without_nulls(Value::Object(kept))]}))?;
        let _ = write!(out, "\n{text}");
    }
    Ok(out)
}

/// TOML has no null.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(members) => {
            members.into_iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k, without_nulls(v))).collect()
        }
        Value::Array(items) => items.into_iter().filter(|v| !v.is_null()).map(without_nulls).collect(),
        other => other,
    }
}

fn revisions(list: &Value) -> String {
    let rows: Vec<Vec<String>> = list["revisions"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|revision| {
            let text = |key: &str| crate::access::printable(revision[key].as_str().unwrap_or(""));
            let steps = revision["steps"].as_array().into_iter().flatten().filter_map(|step| step["plugin"].as_str());
            vec![
                revision["revision"].to_string(),
                text("kind"),
                text("created_at"),
                text("author"),
                steps.collect::<Vec<_>>().join(" → "),
                text("reason"),
            ]
        })
        .collect();
    crate::table::lay_out(&["revision", "kind", "at", "author", "chain", "reason"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_show_prints_is_what_set_reads() {
        let mut limits = serde_json::to_value(millrace_plugin_host::Limits::default()).unwrap();
        limits["fuel"] = json!(7);
        let shown = json!({
            "revision": 3, "author": "ops", "reason": "two\nlines",
            "steps": [
                {"plugin": "a@1.0.0", "config": {"key": {"$secret": "k@1"}, "none": null, "list": [{"a": 1}, 2.5]},
                 "limits": limits, "on_error": "halt", "tables": {"countries": 3}},
                {"plugin": "b@1.0.0", "config": {}, "limits": millrace_plugin_host::Limits::default(),
                 "on_error": "dead_letter", "tables": {}},
            ],
        });
        let text = as_toml(&shown).unwrap();
        let PipelineFile { steps } = toml::from_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert_eq!(steps.len(), 2);
        assert_eq!(steps[0].plugin.as_deref(), Some("a@1.0.0"));
        assert_eq!(serde_json::to_value(&steps[0].limits).unwrap(), json!({"fuel": 7}));
        assert_eq!(steps[0].tables["countries"], 3);
        assert_eq!(steps[0].on_error, millrace_plugin_host::OnError::Halt);
        assert_eq!(
            serde_json::to_value(&steps[0].config).unwrap(),
            json!({"key": {"$secret": "k@1"}, "list": [{"a": 1}, 2.5]})
        );
        assert!(steps[1].limits.is_empty() && steps[1].config.is_empty());
    }
}
