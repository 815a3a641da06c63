//! The demo's input: a shop's real clickstream, as Segment events.
//!
//! The file has users, sessions, event names and times. Devices, user agents, addresses and e-mails are made up here, always
//! the same for the same user, with addresses of the documentation ranges and names under example.com.

use std::collections::HashMap;
use std::io::Write as _;

use anyhow::{Context as _, Result};
use chrono::{DateTime, NaiveDateTime, SecondsFormat};
use flate2::read::GzDecoder;
use serde_json::{Value, json};
use xxhash_rust::xxh3::xxh3_64;

const ECOM: &[u8] = include_bytes!("ecom/ecom.csv.gz");

/// An hour, in µs.
pub const HOUR_US: i64 = 3_600_000_000;
const SECOND_US: i64 = 1_000_000;
/// The release of the shop's app that sends [`BAD_DEVICE`] for every device. What the device is, stands in
/// `properties.hw_id`.
pub const BAD_APP_VERSION: &str = "3.3.0";
/// The id that the release sends.
pub const BAD_DEVICE: &str = "device-0";
/// One session of so many in the last hour is of that release.
const BAD_SESSIONS: usize = 4;
/// How long after it happened an event was received, in the imported history.
const RECEIVED_AFTER_US: i64 = 2 * SECOND_US;
/// Sessions whose clicks make up the last hour.
const LAST_HOUR_SESSIONS: usize = 120;

/// One line of the file.
#[derive(Clone, Debug, serde::Deserialize)]
struct Click {
    user_id: String,
    session_id: String,
    event: String,
    timestamp: String,
    platform: String,
    acquisition_channel: String,
    user_cohort: String,
    user_lifecycle: String,
    #[serde(skip)]
    time_us: i64,
}

/// The imported half year.
pub struct History {
    /// One event a line.
    pub ndjson: Vec<u8>,
    /// Number of lines.
    pub lines: u64,
}

/// The whole clickstream, shifted so that it ends at `ends_at_us`.
pub fn history(ends_at_us: i64) -> Result<History> {
    let clicks = clicks()?;
    let last_us = clicks.iter().map(|click| click.time_us).max().context("the clickstream is empty")?;
    let mut ndjson = Vec::with_capacity(clicks.len() * 700);
    for (index, click) in clicks.iter().enumerate() {
        let time_us = click.time_us - last_us + ends_at_us;
        let mut event = event(click, time_us, &format!("history-{index}"), &click.session_id);
        event["receivedAt"] = json!(rfc3339(time_us + RECEIVED_AFTER_US));
        writeln!(ndjson, "{event}")?;
    }
    Ok(History { ndjson, lines: clicks.len() as u64 })
}

/// An hour of clicks that ends at `end_us`: sessions of the clickstream, begun at other times and squeezed into the hour.
pub fn last_hour(end_us: i64) -> Result<Vec<Value>> {
    let clicks = clicks()?;
    let mut sessions: Vec<Vec<&Click>> = Vec::new();
    for click in &clicks {
        match sessions.last_mut() {
            Some(session) if session[0].session_id == click.session_id => session.push(click),
            _ => sessions.push(vec![click]),
        }
    }
    // Every so many sessions one, the long ones: an hour worth looking at.
    sessions.retain(|session| session.len() >= 8);
    let step = (sessions.len() / LAST_HOUR_SESSIONS).max(1);
    let mut events = Vec::new();
    for (number, session) in sessions.iter().step_by(step).take(LAST_HOUR_SESSIONS).enumerate() {
        let first_us = session[0].time_us;
        let length_us = session.last().map_or(0, |last| last.time_us - first_us).max(SECOND_US);
        let start = i64::try_from(xxh3_64(session[0].session_id.as_bytes()) % 1800).unwrap_or(0) * SECOND_US;
        let room_us = (HOUR_US - 60 * SECOND_US - start).min(length_us);
        for (index, click) in session.iter().enumerate() {
            let into_us = (click.time_us - first_us) as i128 * i128::from(room_us) / i128::from(length_us);
            let time_us = end_us - HOUR_US + start + into_us as i64 + index as i64;
            let name = format!("hour-{end_us}-{number}-{index}");
            let mut event = event(click, time_us, &name, &format!("live-{}", click.session_id));
            if number.is_multiple_of(BAD_SESSIONS) {
                event["properties"]["hw_id"] = event["context"]["device"]["id"].take();
                event["context"]["device"]["id"] = json!(BAD_DEVICE);
                event["context"]["app"]["version"] = json!(BAD_APP_VERSION);
            }
            events.push((time_us, event));
        }
    }
    events.sort_by_key(|(time_us, _)| *time_us);
    Ok(events.into_iter().map(|(_, event)| event).collect())
}

/// The device with the most events among those of the bad release, by what it really is; the first of them by name.
pub fn busiest_device(events: &[Value]) -> Option<String> {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for device in events.iter().filter_map(|event| event["properties"]["hw_id"].as_str()) {
        *counts.entry(device).or_default() += 1;
    }
    let busiest = counts.into_iter().max_by(|a, b| a.1.cmp(&b.1).then_with(|| b.0.cmp(a.0)));
    busiest.map(|(device, _)| device.to_owned())
}

/// A time as the SDKs write it.
pub fn rfc3339(time_us: i64) -> String {
    DateTime::from_timestamp_micros(time_us)
        .map_or_else(String::new, |time| time.to_rfc3339_opts(SecondsFormat::Millis, true))
}

fn clicks() -> Result<Vec<Click>> {
    let mut reader = csv::Reader::from_reader(GzDecoder::new(ECOM));
    let mut clicks = Vec::with_capacity(32_000);
    for click in reader.deserialize() {
        let mut click: Click = click?;
        let time = NaiveDateTime::parse_from_str(&click.timestamp, "%Y-%m-%d %H:%M:%S")
            .with_context(|| format!("time {}", click.timestamp))?;
        click.time_us = time.and_utc().timestamp_micros();
        clicks.push(click);
    }
    Ok(clicks)
}

/// The user agents of a platform.
fn user_agents(platform: &str) -> &'static [(&'static str, &'static str, &'static str)] {
    match platform {
        "mobile" => &[
            (
                "iOS",
                "iPhone15,3",
                "Mozilla/5.0 (iPhone; CPU iPhone OS 17_4 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) \
                 Version/17.4 Mobile/15E148 Safari/604.1",
            ),
            (
                "Android",
                "Pixel 8",
                "Mozilla/5.0 (Linux; Android 14; Pixel 8) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/124.0.0.0 Mobile \
                 Safari/537.36",
            ),
        ],
        "tablet" => &[(
            "iPadOS",
            "iPad13,4",
            "Mozilla/5.0 (iPad; CPU OS 16_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/16.6 \
             Mobile/15E148 Safari/604.1",
        )],
        _ => &[
            (
                "Windows",
                "PC",
                "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/124.0.0.0 \
                 Safari/537.36",
            ),
            (
                "macOS",
                "Mac",
                "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.4 \
                 Safari/605.1.15",
            ),
            ("Linux", "PC", "Mozilla/5.0 (X11; Linux x86_64; rv:125.0) Gecko/20100101 Firefox/125.0"),
        ],
    }
}

/// One click as a Segment event.
fn event(click: &Click, time_us: i64, name: &str, session: &str) -> Value {
    let person = xxh3_64(click.user_id.as_bytes());
    let email = format!("{}@example.com", click.user_id.replace('_', "."));
    let ip = format!("{}.{}", ["192.0.2", "198.51.100", "203.0.113"][(person % 3) as usize], person / 3 % 254 + 1);
    let agents = user_agents(&click.platform);
    let (os, model, user_agent) = agents[(person / 7) as usize % agents.len()];
    let device = format!("{}-{:08x}", click.platform, person as u32);
    let mut properties = json!({
        "acquisition_channel": click.acquisition_channel,
        "user_cohort": click.user_cohort,
        "user_lifecycle": click.user_lifecycle,
    });
    match click.event.as_str() {
        "shipping_details" => properties["email"] = json!(email),
        "payment_details" => {
            properties["email"] = json!(email);
            properties["note"] = json!("paid with 4111 1111 1111 1111");
        }
        _ => {}
    }
    let id = u128::from(xxh3_64(name.as_bytes())) << 64 | u128::from(xxh3_64(device.as_bytes()));
    json!({
        "type": "track",
        "event": click.event,
        "messageId": uuid::Uuid::from_u128(id).to_string(),
        "anonymousId": format!("anon-{:016x}", person),
        "userId": click.user_id,
        "timestamp": rfc3339(time_us),
        "properties": properties,
        "context": {
            "app": {"name": "shop", "version": "3.2.1"},
            "device": {"id": device, "type": click.platform, "model": model},
            "os": {"name": os},
            "locale": "en-GB",
            "ip": ip,
            "userAgent": user_agent,
            "sessionId": session,
            "page": {
                "url": format!("https://shop.example.com/{}?ref={email}", click.event),
                "referrer": "https://www.example.org/",
            },
            "traits": {"email": email},
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn the_history_is_the_whole_file_and_ends_where_it_should() {
        let end_us = 1_800_000_000_000_000;
        let history = history(end_us).unwrap();
        assert_eq!(history.lines, 31_106);
        let mut ids = HashSet::new();
        let mut latest = String::new();
        for line in history.ndjson.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let event: Value = serde_json::from_slice(line).unwrap();
            assert!(ids.insert(event["messageId"].as_str().unwrap().to_owned()));
            latest = latest.max(event["timestamp"].as_str().unwrap().to_owned());
        }
        assert_eq!(latest, rfc3339(end_us));
    }

    #[test]
    fn the_last_hour_lies_within_the_hour_and_repeats_to_the_byte() {
        let end_us = 1_800_000_000_000_000;
        let events = last_hour(end_us).unwrap();
        assert!(events.len() > 500, "{}", events.len());
        for event in &events {
            let time = DateTime::parse_from_rfc3339(event["timestamp"].as_str().unwrap()).unwrap().timestamp_micros();
            assert!((end_us - HOUR_US..=end_us).contains(&time), "{time}");
        }
        assert_eq!(events, last_hour(end_us).unwrap());
        let bad = events.iter().filter(|event| event["context"]["device"]["id"] == BAD_DEVICE).count();
        assert!(bad > 100 && bad < events.len() / 2, "{bad} of {}", events.len());
        assert!(busiest_device(&events).is_some());
    }
}
