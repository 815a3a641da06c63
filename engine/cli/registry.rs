//! `millrace plugin push|list|show|deprecate|delete|log` and `millrace table …`: what chains are made of.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::access::{printable, table};
use crate::client::{Client, path_part};

/// The part of `millrace plugin` that speaks with a server.
#[derive(Subcommand)]
pub enum RegistryCommand {
    /// Uploads a component: it is checked, compiled, tried at random splits, and stored under the name that it gives itself.
    Push {
        /// The component.
        file: PathBuf,
        /// The configuration of the trial, as JSON: one that the plugin accepts.
        #[arg(long, value_name = "JSON", default_value = "{}")]
        plugin_config: String,
    },
    /// Lists the plugins that are stored.
    List,
    /// Shows one plugin: what it reads and writes, what it costs, where it is in use.
    Show {
        /// As name@version, or name for all of its versions.
        plugin: String,
    },
    /// Says that no new chain should use a plugin; chains that do go on.
    Deprecate {
        /// As name@version.
        plugin: String,
        /// Why, and what to use instead.
        #[arg(long, required_unless_present = "undo")]
        reason: Option<String>,
        /// Takes it back.
        #[arg(long, conflicts_with = "reason")]
        undo: bool,
    },
    /// Deletes a plugin that no revision refers to.
    Delete {
        /// As name@version.
        plugin: String,
    },
    /// Shows what plugins logged and why events failed, newest first. It may hold personal data: it needs raw:read.
    Log {
        /// Only of this plugin, as name or name@version.
        plugin: Option<String>,
        /// Most entries.
        #[arg(long, default_value_t = 50, value_name = "N")]
        limit: usize,
    },
}

/// Uploads a component and gives what is known of it.
pub async fn push(client: &Client, file: &Path, config: &Value) -> Result<Value> {
    let body = File::open(file).with_context(|| format!("opening {}", file.display()))?;
    let path = format!("/v1/plugins?config={}", path_part(&config.to_string()));
    client.post_stream(&path, body).await.with_context(|| format!("pushing {}", file.display()))
}

fn plugin_path(plugin: &str) -> Result<String> {
    match plugin.split_once('@') {
        Some((name, version)) => Ok(format!("/v1/plugins/{}/{}", path_part(name), path_part(version))),
        None => bail!("{plugin:?}: give the plugin as name@version"),
    }
}

/// The commands of the registry.
pub async fn registry(client: &Client, command: RegistryCommand, json: bool) -> Result<()> {
    let (answer, text) = match command {
        RegistryCommand::Push { file, plugin_config } => {
            let config = serde_json::from_str(&plugin_config).context("--plugin-config is no JSON")?;
            let pushed = push(client, &file, &config).await?;
            let text = format!("{}\n", pushed_text(&pushed));
            (pushed, text)
        }
        RegistryCommand::List => {
            let list = client.get("/v1/plugins").await?;
            let columns = ["name", "version", "bytes", "in_force", "deprecated", "uploader", "uploaded_at"];
            let text = table(&list["plugins"], &columns);
            (list, text)
        }
        RegistryCommand::Show { plugin } => {
            let path = if plugin.contains('@') {
                plugin_path(&plugin)?
            } else {
                format!("/v1/plugins/{}", path_part(&plugin))
            };
            let shown = client.get(&path).await?;
            let text = format!("{}\n", printable(&serde_json::to_string_pretty(&shown)?));
            (shown, text)
        }
        RegistryCommand::Deprecate { plugin, reason, undo: _ } => {
            let path = format!("{}/deprecate", plugin_path(&plugin)?);
            let shown = client.post_json(&path, &json!({"reason": reason})).await?;
            let text = if reason.is_some() { "is deprecated" } else { "is not deprecated any more" };
            (shown, format!("{plugin} {text}\n"))
        }
        RegistryCommand::Delete { plugin } => {
            (client.delete(&plugin_path(&plugin)?).await?, format!("{plugin} is deleted\n"))
        }
        RegistryCommand::Log { plugin, limit } => {
            let plugin = plugin.map_or_else(String::new, |plugin| format!("&plugin={}", path_part(&plugin)));
            let log = client.get(&format!("/v1/diagnostics?limit={limit}{plugin}")).await?;
            let text = diagnostics(&log);
            (log, text)
        }
    };
    if json {
        println!("{answer}")
    } else {
        print!("{text}")
    }
    Ok(())
}

fn pushed_text(pushed: &Value) -> String {
    let text = |key: &str| pushed[key].as_str().unwrap_or_default();
    let list = |key: &str| {
        let names = pushed["manifest"][key].as_array().into_iter().flatten();
        let names: Vec<&str> = names.filter_map(|item| item.as_str().or_else(|| item["name"].as_str())).collect();
        if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
    };
    let trial = match &pushed["trial"] {
        Value::Null => "not tried alone: it reads columns of other steps".to_owned(),
        trial => format!(
            "tried on {} made-up events: {} ns and {} fuel an event",
            trial["events"], trial["ns_per_event"], trial["fuel_per_event"]
        ),
    };
    format!(
        "{}@{} is stored, {} bytes, sha256 {}\n  reads {}; writes {}; adds {}\n  {trial}",
        text("name"),
        text("version"),
        pushed["bytes"],
        text("sha256"),
        list("reads"),
        list("writes"),
        list("adds")
    )
}

fn diagnostics(log: &Value) -> String {
    let entries = log["diagnostics"].as_array().into_iter().flatten();
    let lines: Vec<String> = entries
        .map(|entry| {
            let text = |key: &str| printable(entry[key].as_str().unwrap_or_default());
            format!(
                "{}  {}  partition {} offset {}  {}{}\n    {}\n",
                text("at"),
                text("step"),
                entry["partition"],
                entry["offset"],
                text("kind"),
                entry["code"].as_str().map_or_else(String::new, |code| format!(" {code}")),
                text("message").trim_end().replace('\n', "\n    ")
            )
        })
        .collect();
    if lines.is_empty() {
        return "nothing logged, and no event failed by an error, a panic or a limit\n\
                what failed by a code that the plugin declares says nothing here: `millrace dead-letters` counts it\n"
            .to_owned();
    }
    lines.concat()
}

/// `millrace table`.
#[derive(Subcommand)]
pub enum TableCommand {
    /// Uploads a file as the next version of a lookup table.
    Push(PushTable),
    /// Lists the lookup tables.
    List,
    /// Deletes a version that no revision refers to.
    Delete {
        /// As name@version.
        table: String,
    },
}

/// `millrace table push`.
#[derive(Args)]
pub struct PushTable {
    /// Name of the table.
    name: String,
    /// CSV with a header, NDJSON or Parquet.
    file: PathBuf,
    /// Rows are found by the exact value of this column.
    #[arg(long, value_name = "COLUMN", group = "lookup")]
    key: Option<String>,
    /// Rows are found by the network in this column that an IP address lies in.
    #[arg(long, value_name = "COLUMN", group = "lookup")]
    cidr: Option<String>,
    /// Rows are found by the range from this column …
    #[arg(long, value_name = "COLUMN", group = "lookup", requires = "to")]
    from: Option<String>,
    /// … to this one, both included: IP addresses or integers.
    #[arg(long, value_name = "COLUMN", requires = "from")]
    to: Option<String>,
    /// csv, ndjson or parquet; by the file's name when not given.
    #[arg(long)]
    format: Option<String>,
    /// Types that should not be inferred: zip:string,population:int64.
    #[arg(long, value_name = "COLUMN:TYPE,…")]
    types: Option<String>,
}

/// `millrace table`.
pub async fn tables(client: &Client, command: TableCommand, json: bool) -> Result<()> {
    let (answer, text) = match command {
        TableCommand::Push(args) => {
            let pushed = push_table(client, args).await?;
            let text = format!(
                "{}@{} is stored: {} rows, {} columns\n",
                pushed["name"].as_str().unwrap_or_default(),
                pushed["version"],
                pushed["rows"],
                pushed["columns"].as_array().map_or(0, Vec::len)
            );
            (pushed, text)
        }
        TableCommand::List => {
            let list = client.get("/v1/tables").await?;
            let columns = ["name", "version", "rows", "bytes", "in_force", "lookup", "uploader", "uploaded_at"];
            let text = table(&list["tables"], &columns);
            (list, text)
        }
        TableCommand::Delete { table } => {
            let Some((name, version)) = table.split_once('@') else {
                bail!("{table:?}: give the table as name@version");
            };
            let path = format!("/v1/tables/{}/{}", path_part(name), path_part(version));
            (client.delete(&path).await?, format!("{table} is deleted\n"))
        }
    };
    if json {
        println!("{answer}")
    } else {
        print!("{text}")
    }
    Ok(())
}

async fn push_table(client: &Client, args: PushTable) -> Result<Value> {
    let PushTable { name, file, key, cidr, from, to, format, types } = args;
    let extension = file.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    let format = match (format, extension) {
        (Some(format), _) => format,
        (None, "csv") => "csv".to_owned(),
        (None, "ndjson" | "jsonl") => "ndjson".to_owned(),
        (None, "parquet") => "parquet".to_owned(),
        (None, _) => bail!("{}: its name tells no format: give --format csv, ndjson or parquet", file.display()),
    };
    let query = [("key", key), ("cidr", cidr), ("from", from), ("to", to), ("format", Some(format)), ("types", types)];
    let query: Vec<String> = query
        .into_iter()
        .filter_map(|(name, value)| value.map(|value| format!("{name}={}", path_part(&value))))
        .collect();
    let body = File::open(&file).with_context(|| format!("opening {}", file.display()))?;
    client.post_stream(&format!("/v1/tables/{}?{}", path_part(&name), query.join("&")), body).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_log_says_where_declared_failures_are() {
        let text = diagnostics(&json!({"diagnostics": []}));
        assert!(text.contains("nothing logged") && text.contains("millrace dead-letters"), "{text}");
        let entry = json!({"at": "t", "step": "a@1", "partition": 0, "offset": 7, "kind": "failure", "message": "m"});
        assert!(!diagnostics(&json!({"diagnostics": [entry]})).contains("dead-letters"));
    }
}
