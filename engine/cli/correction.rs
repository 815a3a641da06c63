//! `millrace preview`, `correct`, `corrections`, `verify` and `rebuild`.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use millrace_pipeline::rematerialize::REBUILD;
use serde_json::{Map, Value, json};

use crate::access::printable;
use crate::client::Client;
use crate::correction_report::{show_preview, show_report};
use crate::pipeline::read_steps;
use crate::progress::{PROGRESS_EVERY, Progress};
use crate::table::{lay_out, thousands};

/// What changes, and for which events.
#[derive(Args)]
pub struct ChangeArgs {
    #[command(flatten)]
    change: Change,
    /// With --insert: the plugin before which the step goes, as NAME or NAME@VERSION; else it goes to the end.
    #[arg(long, value_name = "PLUGIN", requires = "insert")]
    before: Option<String>,
    /// Configuration of the plugin that comes in, as JSON. Without it --replace keeps that of the step.
    #[arg(long, value_name = "JSON")]
    plugin_config: Option<String>,
    /// The first: an offset of each partition, or a time at which the log took an event, as in 2026-11-03T10:00:00Z.
    #[arg(long, value_name = "OFFSET|TIME", allow_negative_numbers = true)]
    from: Option<String>,
    /// Past the last: an offset or a time. Without it: all that is in the log now. An offset ahead of the log's end makes a
    /// correction hold for events to come, up to there.
    #[arg(long, value_name = "OFFSET|TIME", allow_negative_numbers = true)]
    to: Option<String>,
    /// The last N events of each partition.
    #[arg(long, value_name = "N", conflicts_with_all = ["from", "to"], allow_negative_numbers = true)]
    last: Option<u64>,
    /// Only this partition of the log; may be given several times.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    partition: Vec<u32>,
    /// Only events that came in with this device id; may be given several times, as the ones below.
    #[arg(long, value_name = "ID")]
    device: Vec<String>,
    /// Only events of this app.
    #[arg(long, value_name = "APP")]
    app: Vec<String>,
    /// Only events of this version of the app.
    #[arg(long, value_name = "VERSION")]
    app_version: Vec<String>,
}

/// One of these.
#[derive(Args)]
#[group(id = "what", required = true, multiple = false)]
struct Change {
    /// Another plugin in the place of one: NAME@VERSION=NAME@VERSION.
    #[arg(long, value_name = "OLD=NEW")]
    replace: Option<String>,
    /// A further step of this plugin, NAME@VERSION.
    #[arg(long, value_name = "PLUGIN")]
    insert: Option<String>,
    /// Without the steps of this plugin, NAME@VERSION.
    #[arg(long, value_name = "PLUGIN")]
    remove: Option<String>,
    /// A whole chain: a TOML file as `pipeline show` prints it.
    #[arg(long, value_name = "FILE")]
    chain: Option<PathBuf>,
}

/// `millrace preview`.
#[derive(Args)]
pub struct PreviewArgs {
    #[command(flatten)]
    change: ChangeArgs,
    /// Most events that are looked at, from the end of the range. Default 100,000.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    records: Option<u64>,
}

/// `millrace correct`.
#[derive(Args)]
pub struct CorrectArgs {
    #[command(flatten)]
    change: ChangeArgs,
    /// Why, in your words; kept with the revision, and in the table's history.
    #[arg(long)]
    reason: String,
    /// Make it ahead and do not publish it yet: `millrace corrections publish` or `cancel` decides. Needs a running server.
    #[arg(long)]
    stage: bool,
    /// Do not wait until both stores have applied it, or with --stage until it is staged.
    #[arg(long)]
    no_wait: bool,
}

/// `millrace corrections publish` and `cancel`.
#[derive(clap::Subcommand)]
pub enum CorrectionsCommand {
    /// Brings a staged correction into force, and waits until both stores have applied it.
    Publish {
        /// Its name, staged-….
        id: String,
        /// Do not wait.
        #[arg(long)]
        no_wait: bool,
    },
    /// Cancels a staged correction, without a trace.
    Cancel {
        /// Its name, staged-….
        id: String,
    },
}

/// `millrace verify`.
#[derive(Args)]
pub struct VerifyArgs {
    /// From the log's start, not from where the last clean verification ended.
    #[arg(long)]
    all: bool,
    /// The same, and looks for rows that no event accounts for, which takes reading all of the history.
    #[arg(long)]
    full: bool,
    /// Only this store: delta or history.
    #[arg(long, value_name = "STORE")]
    store: Option<String>,
    /// First offset, of each partition.
    #[arg(long, value_name = "OFFSET")]
    from: Option<u64>,
    /// Past the last offset, of each partition.
    #[arg(long, value_name = "OFFSET")]
    to: Option<u64>,
}

/// A bound as the server takes it: a number is an offset. What can't be one is the server's to refuse.
fn bound(text: &str) -> Value {
    let number = serde_json::from_str::<serde_json::Number>(text);
    number.map_or_else(|_| json!(text), Value::Number)
}

impl ChangeArgs {
    async fn body(self, client: &Client) -> Result<Value> {
        let config: Option<Value> = match &self.plugin_config {
            Some(text) => Some(serde_json::from_str(text).context("--plugin-config is no JSON")?),
            None => None,
        };
        let change = match self.change {
            Change { replace: Some(pair), .. } => {
                let Some((old, new)) = pair.split_once('=') else {
                    bail!("--replace {pair}: give OLD=NEW, as in my-plugin@1.0.0=my-plugin@1.0.1");
                };
                json!({"replace": {"step": old, "by": new, "config": config}})
            }
            Change { insert: Some(plugin), .. } => {
                let step = json!({"plugin": plugin, "config": config.unwrap_or_else(|| json!({}))});
                json!({"insert": {"step": step, "before": self.before}})
            }
            Change { remove: Some(plugin), .. } => json!({"remove": plugin}),
            Change { chain: Some(file), .. } => json!({"chain": read_steps(client, &file).await?}),
            _ => bail!("give one of --replace, --insert, --remove and --chain"),
        };
        let mut range = Map::new();
        for (name, text) in [("from", &self.from), ("to", &self.to)] {
            if let Some(text) = text {
                range.insert(name.to_owned(), bound(text));
            }
        }
        if let Some(last) = self.last {
            range.insert("last".to_owned(), json!(last));
        }
        if !self.partition.is_empty() {
            range.insert("partitions".to_owned(), json!(self.partition));
        }
        let mut filter = Map::new();
        for (name, values) in [("device_id", &self.device), ("app", &self.app), ("app_version", &self.app_version)] {
            if !values.is_empty() {
                filter.insert(name.to_owned(), json!(values));
            }
        }
        Ok(json!({"change": change, "range": range, "filter": filter}))
    }
}

/// `millrace preview`.
pub async fn preview(client: &Client, args: PreviewArgs, json: bool) -> Result<()> {
    let mut body = args.change.body(client).await?;
    if let Some(records) = args.records {
        body["records"] = json!(records);
    }
    let preview = client.post_json("/v1/previews", &body).await?;
    if json {
        println!("{preview}");
    } else {
        print!("{}", show_preview(&preview, std::io::stdout().is_terminal()));
    }
    Ok(())
}

/// `millrace correct`.
pub async fn correct(client: &Client, args: CorrectArgs, json: bool) -> Result<()> {
    let mut body = args.change.body(client).await?;
    body["reason"] = json!(args.reason);
    if args.stage {
        return stage(client, body, args.no_wait, json).await;
    }
    let published = client.post_json("/v1/corrections", &body).await?;
    in_force(client, published, args.no_wait, json).await
}

/// Has a correction staged.
async fn stage(client: &Client, mut body: Value, no_wait: bool, json: bool) -> Result<()> {
    if matches!(client, Client::Local { .. }) {
        bail!("--stage needs a running server, which keeps what is staged: give its --url");
    }
    body["stage"] = json!(true);
    let begun = client.post_json("/v1/corrections", &body).await?;
    let id = begun["id"].as_str().context("the server did not say what the staged correction is called")?.to_owned();
    let said = said_of(&begun, json);
    let now = if no_wait { begun } else { with_all(wait_staged(client, &id, !json).await?, said) };
    if json {
        println!("{now}");
    } else {
        println!(
            "correction {id} is {}, and not in force: `millrace corrections publish {id}`, or `cancel {id}`",
            now["state"].as_str().unwrap_or("staged")
        );
    }
    Ok(())
}

/// Waits until all of a correction is staged.
async fn wait_staged(client: &Client, id: &str, show: bool) -> Result<Value> {
    let mut progress = Progress::begin(show);
    loop {
        let now = client.get(&format!("/v1/corrections/{id}")).await?;
        let staged = &now["staged"];
        if let Some(problem) = staged["problem"].as_str() {
            bail!("correction {id} can't be staged: {problem}");
        }
        if let Some(reason) = now["paused"].as_str() {
            bail!("correction {id} waits to be staged: the chain is paused ({reason}); `millrace pipeline resume`");
        }
        let done = now["state"] != "staging";
        let (made, total) = (staged["done"].as_u64().unwrap_or(0), staged["total"].as_u64().unwrap_or(0));
        progress.show(total.saturating_sub(made), Some(total), done);
        if done {
            return Ok(now);
        }
        tokio::time::sleep(PROGRESS_EVERY).await;
    }
}

/// What the server had to say when it took a correction: shown at once to people, given back for machines.
fn said_of(answer: &Value, json: bool) -> Map<String, Value> {
    if !json {
        for note in answer["notes"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            println!("note: {}", printable(note));
        }
    }
    let said = ["notes", "ahead", "fewer"].into_iter();
    said.filter_map(|name| Some((name.to_owned(), answer.get(name)?.clone()))).collect()
}

/// A later answer with what the first one had to say.
fn with_all(mut answer: Value, mut said: Map<String, Value>) -> Value {
    if let Some(members) = answer.as_object_mut() {
        members.append(&mut said);
    }
    answer
}

fn id_of(correction: &Value) -> Result<u64> {
    correction["id"].as_u64().context("the server did not say which correction it is")
}

/// Says that a correction is in force, and waits until it is applied.
async fn in_force(client: &Client, published: Value, no_wait: bool, json: bool) -> Result<()> {
    let id = id_of(&published)?;
    let said = said_of(&published, json);
    if no_wait {
        if json {
            println!("{published}");
        } else {
            println!("correction {id} is in force; `millrace corrections` shows how far the stores have come");
        }
        return Ok(());
    }
    let done = with_all(wait(client, id, !json).await?, said);
    if json {
        println!("{done}");
    } else {
        println!("correction {id} is applied in {}", stores_of(&done).join(" and "));
    }
    Ok(())
}

fn stores_of(correction: &Value) -> Vec<&str> {
    correction["stores"].as_object().into_iter().flat_map(Map::keys).map(String::as_str).collect()
}

/// Waits until every store has applied a correction.
pub async fn wait(client: &Client, id: u64, show: bool) -> Result<Value> {
    let path = format!("/v1/corrections/{id}");
    let mut progress = Progress::begin(show);
    loop {
        let gone = || {
            progress.end();
            format!("correction {id} is in force, and goes on when its server does: see `millrace corrections`")
        };
        let now = client.get(&path).await.with_context(gone)?;
        let problem = now["stores"]
            .as_object()
            .into_iter()
            .flatten()
            .find_map(|(store, place)| Some(format!("{store}: {}", place["problem"].as_str()?)));
        if let Some(problem) = problem {
            bail!("correction {id} does not go on: {problem}");
        }
        if let Some(reason) = now["paused"].as_str() {
            bail!("correction {id} is in force, and waits: the chain is paused ({reason}); `millrace pipeline resume`");
        }
        let sum = |key: &str| -> u64 {
            now["stores"].as_object().into_iter().flatten().filter_map(|(_, place)| place[key].as_u64()).sum()
        };
        let done = now["state"] == "applied";
        progress.show(sum("left"), Some(sum("total")), done);
        if done {
            return Ok(now);
        }
        tokio::time::sleep(PROGRESS_EVERY).await;
    }
}

/// `millrace corrections`.
pub async fn corrections(client: &Client, command: Option<CorrectionsCommand>, json: bool) -> Result<()> {
    match command {
        Some(CorrectionsCommand::Publish { id, no_wait }) => {
            let published = client.post_json(&format!("/v1/corrections/{id}/publish"), &json!({})).await?;
            return in_force(client, published, no_wait, json).await;
        }
        Some(CorrectionsCommand::Cancel { id }) => {
            let cancelled = client.delete(&format!("/v1/corrections/{id}")).await?;
            println!("{}", if json { cancelled.to_string() } else { format!("correction {id} is cancelled") });
            return Ok(());
        }
        None => {}
    }
    let list = client.get("/v1/corrections").await?;
    if json {
        println!("{list}");
        return Ok(());
    }
    let rows: Vec<Vec<String>> = list["corrections"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|correction| {
            let text = |key: &str| printable(correction[key].as_str().unwrap_or(""));
            let stores = correction["stores"].as_object().into_iter().flatten().map(|(name, place)| {
                let left = place["left"].as_u64().unwrap_or(0);
                let state = place["state"].as_str().unwrap_or("");
                match (left, place["problem"].as_str()) {
                    (_, Some(problem)) => format!("{name}: {}", printable(problem)),
                    (0, None) => format!("{name}: {state}"),
                    (left, None) => format!("{name}: {state}, {} left", thousands(left)),
                }
            });
            let mut stores = stores.collect::<Vec<_>>().join("; ");
            if let (Some(done), Some(total)) =
                (correction["staged"]["done"].as_u64(), correction["staged"]["total"].as_u64())
            {
                stores = format!("{} of {} staged", thousands(done), thousands(total));
            }
            if let Some(problem) = correction["staged"]["problem"].as_str() {
                stores = format!("{stores}: {}", printable(problem));
            }
            vec![
                correction["id"].as_str().map_or_else(|| correction["id"].to_string(), printable),
                text("state"),
                text("created_at"),
                text("author"),
                stores,
                text("reason"),
            ]
        })
        .collect();
    if rows.is_empty() {
        println!("nothing was corrected yet");
    } else {
        print!("{}", lay_out(&["correction", "state", "at", "author", "stores", "reason"], &rows));
    }
    Ok(())
}

/// `millrace verify`.
pub async fn verify(client: &Client, args: &VerifyArgs, json: bool) -> Result<ExitCode> {
    let body = json!({"all": args.all, "full": args.full, "store": args.store, "from": args.from, "to": args.to});
    let report = client.post_json("/v1/verify", &body).await?;
    if json {
        println!("{report}");
    } else {
        print!("{}", show_report(&report));
    }
    Ok(if report["differences"] == json!(0) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// `millrace rebuild`.
pub async fn rebuild(client: &Client, store: &str, no_wait: bool, json: bool) -> Result<()> {
    let noted = client.post_json("/v1/rebuilds", &json!({"store": store})).await?;
    if no_wait {
        println!(
            "{}",
            if json {
                noted.to_string()
            } else {
                format!("{store} is being rebuilt; `millrace status` shows what is left")
            }
        );
        return Ok(());
    }
    let mut progress = Progress::begin(!json);
    loop {
        let status = client.get("/v1/status").await?;
        let place = &status["stores"][store];
        if let Some(problem) = place["problem"].as_str() {
            bail!("the rebuild of {store} does not go on: {problem}");
        }
        let job = place["jobs"].as_array().into_iter().flatten().find(|job| job["revision"] == json!(REBUILD));
        progress.show(job.map_or(0, events_left), None, job.is_none());
        match job {
            None if json => println!("{}", json!({"store": store, "seconds": progress.took().as_secs_f64()})),
            None => println!("{store} is rebuilt, {:.1} s", progress.took().as_secs_f64()),
            Some(job) => {
                if let Some(problem) = job["problem"].as_str() {
                    bail!("the rebuild of {store} does not go on: {problem}");
                }
                tokio::time::sleep(PROGRESS_EVERY).await;
                continue;
            }
        }
        return Ok(());
    }
}

/// What a job of `/v1/status` has left, in offsets.
fn events_left(job: &Value) -> u64 {
    let ranges = job["left"].as_object().into_iter().flatten();
    ranges.filter_map(|(_, range)| range["end"].as_u64()?.checked_sub(range["start"].as_u64()?)).sum()
}

/// `millrace compact`.
pub async fn compact(client: &Client, json: bool) -> Result<()> {
    let done = client.post_json("/v1/compactions", &json!({})).await?;
    if json {
        println!("{done}");
    } else {
        let number = |key: &str| thousands(done[key].as_u64().unwrap_or(0));
        println!(
            "{} files became {}, in {} commits",
            number("files_removed"),
            number("files_added"),
            number("commits")
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_an_offset_and_anything_else_a_time() {
        assert_eq!(bound("17"), json!(17));
        assert_eq!(bound("-1"), json!(-1));
        assert_eq!(bound("2026-11-03T10:00:00Z"), json!("2026-11-03T10:00:00Z"));
    }
}
