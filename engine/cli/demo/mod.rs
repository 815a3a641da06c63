//! `millrace demo`: the main job on real input, from a click to both stores.
//!
//! It goes the way that an app's events go: it starts the server, imports half a year of a shop's clickstream through
//! `/v1/import`, posts a last hour through `/v1/batch`, waits until both stores have everything, and looks at them. Then it
//! corrects what a release of the app has sent wrong, and has both stores verified against the log. What it finds in the data directory it resumes: a demo that was killed goes on, one that is run again doubles nothing.

mod correction;
mod countries;
pub mod dataset;
mod duplicates;
mod funnel;
mod report;

use std::fs;
use std::io::Cursor;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use self::funnel::Week;
use crate::client::Client;
use crate::config::Config;
use crate::history::events_path;
use crate::serve::{Interrupts, Server};

/// How to run the demo.
#[derive(Args)]
pub struct DemoArgs {
    /// Stops when everything was shown, instead of serving on.
    #[arg(long)]
    exit: bool,
    /// Address to listen on; loopback only.
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
}

/// Events in one batch of the last hour, as an SDK would send them.
const BATCH_EVENTS: usize = 100;
/// A demo that is run again after this time gets a new last hour.
const HOUR_IS_OLD: Duration = Duration::from_secs(30 * 60);

/// What the demo has sent, kept in the data directory so that a later run sends the same again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Plan {
    /// The time to which the clickstream's end is shifted, µs since 1970 UTC.
    ends_at_us: i64,
    /// Ends of the last hours that were posted.
    hours: Vec<i64>,
}

impl Plan {
    fn load_or_make(path: &Path, now_us: i64) -> Result<Self> {
        let mut plan = match fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| format!("reading {}", path.display()))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Self { ends_at_us: now_us - dataset::HOUR_US, hours: Vec::new() }
            }
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        };
        let fresh = now_us - HOUR_IS_OLD.as_micros() as i64;
        if plan.hours.last().is_none_or(|end| *end < fresh) {
            plan.hours.push(now_us);
        }
        // Kept before anything is sent: what is sent must be sent the same way again.
        let unfinished = path.with_extension("tmp");
        fs::write(&unfinished, serde_json::to_vec(&plan)?)?;
        fs::File::open(&unfinished)?.sync_all()?;
        fs::rename(&unfinished, path)?;
        Ok(plan)
    }
}

/// What the demo did and found.
#[derive(Debug, Serialize)]
struct Outcome {
    events_sent: u64,
    delta_rows: u64,
    history_rows: u64,
    dead_letters: u64,
    duplicates: u64,
    verify: Verified,
    /// The checkout funnel of the table as the demo leaves it, for whoever asks the same with another reader.
    funnel: Vec<Week>,
    timings: Timings,
}

/// What `verify` found at the end.
#[derive(Debug, Default, Serialize)]
struct Verified {
    rows_checked: u64,
    differences: u64,
}

/// How long each part took, in milliseconds.
#[derive(Debug, Default, Serialize)]
struct Timings {
    open_ms: u64,
    import_ms: u64,
    chain_ms: u64,
    last_hour_ms: u64,
    both_stores_ms: u64,
    preview_ms: u64,
    correct_ms: u64,
    verify_ms: u64,
    total_ms: u64,
}

/// `millrace demo`.
pub async fn demo(mut config: Config, args: &DemoArgs, json: bool) -> Result<ExitCode> {
    let say = |text: &str| {
        if !json {
            println!("{text}");
        }
    };
    let began = Instant::now();
    let mut timings = Timings::default();
    if args.listen.is_none() && args.exit {
        // Nobody will visit: any free port does, and a server that runs already is not in the way.
        config.http.listen.set_port(0);
    }
    let (engine, server) = Server::open(&config).await?;
    let url = server.url.clone();
    let client = Client::remote(&url)?;
    let plan = Plan::load_or_make(&config.data_dir.join("demo.json"), (engine.clock())())?;
    timings.open_ms = lap(began);
    say(&format!(
        "millrace {} is listening on {url}, data in {}",
        env!("CARGO_PKG_VERSION"),
        config.data_dir.display()
    ));

    say("\n1  importing half a year of a shop's clicks through /v1/import …");
    let part = Instant::now();
    let history = dataset::history(plan.ends_at_us)?;
    let id = format!("demo-{}", plan.ends_at_us);
    let lines = history.lines;
    let imported = client.post_stream(&format!("/v1/import?id={id}"), Cursor::new(history.ndjson)).await?;
    timings.import_ms = lap(part);
    say(&report::imported(&imported, lines, timings.import_ms));

    say("2  changing the chain under way: a step that looks countries up in a table …");
    let part = Instant::now();
    let pipeline = countries::add(&client).await?;
    timings.chain_ms = lap(part);
    say(&report::pipeline(&pipeline));

    say("3  posting the last hour through /v1/batch, as the apps' SDKs would …");
    let part = Instant::now();
    let mut events_sent = lines;
    let mut last_hour = Vec::new();
    for end_us in &plan.hours {
        last_hour = dataset::last_hour(*end_us)?;
        events_sent += last_hour.len() as u64;
        for batch in last_hour.chunks(BATCH_EVENTS) {
            let sent_at = dataset::rfc3339(*end_us);
            client.post_json("/v1/batch", &json!({"batch": batch, "sentAt": sent_at})).await?;
        }
    }
    timings.last_hour_ms = lap(part);
    say(&format!("   {} events", crate::table::thousands(last_hour.len() as u64)));

    say("4  waiting until both stores have every event …");
    let part = Instant::now();
    engine.drain().await.map_err(|reason| anyhow!(reason))?;
    timings.both_stores_ms = lap(part);

    let device = dataset::busiest_device(&last_hour).ok_or_else(|| anyhow!("the last hour is empty"))?;
    let query = [("last", Some("65m")), ("limit", Some("8"))];
    let before = funnel::read_table(engine.delta_path()).await?;
    if !json {
        say(&report::rows(&before, events_sent));
        say("\n5  analysts: the checkout funnel by week, in devices, from the Delta table");
        say(&report::funnel(&before.weeks));
        if let Some((before, after)) = find_scrubbed(&client, &last_hour).await? {
            say("6  personal data: what the app sent, and what both stores hold");
            say(&report::scrubbed(&before, &after));
        }
    }

    match correction::request(&client, &plan).await? {
        None => say("7  the release that sent a wrong device id was corrected in an earlier run"),
        Some(request) => {
            let damage = correction::damage(&client, &device).await?;
            say(&report::damage(&damage, &device));
            let part = Instant::now();
            let preview = correction::preview(&client, &request).await?;
            timings.preview_ms = lap(part);
            say("8  what a rule would change that reads the id from where the release has put it …");
            say(&report::indented(&crate::correction_report::show_preview(&short(preview), colour())));
            say("9  correcting the events of that release, from the log, in both stores …");
            let part = Instant::now();
            let corrected = correction::correct(&client, &request, !json).await?;
            timings.correct_ms = lap(part);
            say(&report::corrected(&corrected, timings.correct_ms));
        }
    }

    let part = Instant::now();
    let verified = client.post_json("/v1/verify", &json!({"full": true})).await?;
    timings.verify_ms = lap(part);
    let delta = funnel::read_table(engine.delta_path()).await?;
    let rows = duplicates::of_history(engine.history()).await?;
    let dead_letters = engine.history().counts().await?.dead_letters;
    timings.total_ms = lap(began);
    let outcome = Outcome {
        events_sent,
        delta_rows: delta.rows,
        history_rows: rows.rows,
        dead_letters,
        duplicates: delta.duplicates + rows.duplicates,
        verify: Verified {
            rows_checked: verified["rows_checked"].as_u64().unwrap_or(0),
            differences: verified["differences"].as_u64().unwrap_or(u64::MAX),
        },
        // The table is needed below, to tell what the correction has changed.
        funnel: delta.weeks.clone(),
        timings,
    };
    if json {
        println!("{}", serde_json::to_string(&outcome)?);
    } else {
        say(&format!("10 engineers: the last hour of {device}, from the device history"));
        let page: Value = client.get(&events_path(&device, &query)).await?;
        let events = page["events"].as_array().cloned().unwrap_or_default();
        say(&crate::history::show(&events));
        say("   the funnel of the last weeks, before and after");
        say(&report::funnels(&before.weeks, &delta.weeks));
        say("11 verifying: every row of both stores against log and timeline …");
        say(&report::indented(&crate::correction_report::show_report(&verified)));
        say(&report::stores(&outcome));
        say("\n12 the state of both stores");
        say(&crate::status::show(&client.get("/v1/status").await?));
        let lives_on = (!args.exit).then_some(url.as_str());
        say(&report::where_next(lives_on, &config.data_dir, engine.delta_path(), &device));
    }
    if !args.exit {
        // From here on an interrupt stops the demo in order; before, it is as good as a kill.
        let mut interrupts = Interrupts::listen()?;
        say("serving on; ctrl-c stops");
        interrupts.wait().await;
    }
    server.stop().await?;
    engine.stop().await?;
    // The data directory may hold more than the demo's own events: what it sent must be there, once, in both stores.
    let whole = outcome.duplicates == 0
        && outcome.verify.differences == 0
        && outcome.delta_rows == outcome.history_rows
        && outcome.delta_rows + outcome.dead_letters >= outcome.events_sent;
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn lap(since: Instant) -> u64 {
    since.elapsed().as_millis() as u64
}

/// Whether standard output takes colours.
fn colour() -> bool {
    std::io::IsTerminal::is_terminal(&std::io::stdout())
}

/// A preview with few samples.
fn short(mut preview: Value) -> Value {
    if let Some(samples) = preview["samples"].as_array_mut() {
        samples.truncate(2);
    }
    preview
}

/// An event of the last hour that held personal data, as it was sent and as it is stored.
async fn find_scrubbed(client: &Client, sent: &[Value]) -> Result<Option<(Value, Value)>> {
    let personal = |event: &&Value| event["properties"]["email"].is_string() && event["properties"]["hw_id"].is_null();
    let Some(before) = sent.iter().find(personal) else { return Ok(None) };
    let device = before["context"]["device"]["id"].as_str().unwrap_or_default();
    let page = client.get(&events_path(device, &[("last", Some("65m")), ("limit", Some("1000"))])).await?;
    let after = page["events"].as_array().into_iter().flatten().find(|row| row["event_id"] == before["messageId"]);
    Ok(after.map(|after| (before.clone(), after.clone())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_kept_and_gets_a_new_hour_when_the_last_is_old() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("demo.json");
        let first = Plan::load_or_make(&path, 10_000_000_000).unwrap();
        assert_eq!(first.hours, [10_000_000_000]);
        assert_eq!(Plan::load_or_make(&path, 10_000_000_001).unwrap(), first);
        let later = 10_000_000_000 + 2 * dataset::HOUR_US;
        let second = Plan::load_or_make(&path, later).unwrap();
        assert_eq!(second.hours, [10_000_000_000, later]);
        assert_eq!(second.ends_at_us, first.ends_at_us);
    }
}
