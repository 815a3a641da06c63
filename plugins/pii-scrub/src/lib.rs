//! The scrubber: takes personal data out of events before any store sees them.
//!
//! With the configuration `{}` it
//!
//! * cuts `ip` to its network (/24 of IPv4, /48 of IPv6); what is no IP address becomes null;
//! * replaces e-mail addresses by `[email]` and payment card numbers by `[card]` in `event`, `url`, `referrer` and, as
//!   strings and as numbers, names and values, in the JSON of `properties`, `context` and `envelope`;
//! * looks for both in the identifiers `user_id`, `session_id` and `device_id` (which may be `user:` and an address).
//!   There a common mark would make one person of many, so each address becomes its *pseudonym*, a keyed hash: a device
//!   stays one device, and `device_id` and `user_id` still join. Without a key the event fails with
//!   `identifier_needs_key`: it is in the log, a dead letter until a key is configured, and in no store.
//!
//! | option | default | |
//! |---|---|---|
//! | `key` | none | secret under which pseudonyms are made, 16 bytes at least: another key, other pseudonyms |
//! | `hash` | `[]` | what becomes its pseudonym whatever it holds: columns (`user_id`) and scalars in JSON columns (`properties.email`, in arrays too). Where `user_id` is hashed, so is what follows `user:` in `device_id` |
//! | `text`, `identifiers`, `json` | as above | the columns that are looked at |
//! | `emails` | `true` | |
//! | `cards` | `"known"` | `"any"`: whatever has 13 to 19 digits and a valid check digit, which one number in ten has, so it hits ids and times; `"off"` |
//! | `ip` | `true` | |
//! | `ips_in_text` | `false` | cut IP addresses in text and JSON, too; `1.2.3.4` may also be somebody's version number |
//!
//! **Found** are also addresses and numbers that were escaped for JSON or a URL, once or several times (`\u0040`, `%40`,
//! `%2540`, `%u0040`), international addresses, numbers in groups with spaces or dashes between them, and members that
//! stand in an object twice. What is replaced is replaced by whole escapes: JSON stays JSON. Two names in one object may
//! become equal.
//!
//! **Not found** is what only a person would recognise (names, street addresses), what was encoded on purpose (base64,
//! HTML entities, "ada at example"), addresses without a dot after the `@`, and digits other than ASCII's. Hash or drop
//! such fields by name.
//!
//! **It fails closed**: `not_json` where a value was to be hashed in a column that is no JSON document,
//! `hash_of_nested` where that value is an object or an array. `event_id` can be written by no plugin: senders must put
//! nothing personal there.

mod card;
mod email;
mod find;
mod ip;
mod keyed;
mod screen;
mod text;

use millrace_sdk::json::Path;
use millrace_sdk::{Code, ColMut, Event, Outcome, Rows, Schema, Transform};

pub use card::Cards;
use find::{Form, Rules, Scratch, Unscrubbed, replace};
use keyed::{KEY_BYTES_MIN, Keyed};

const JSON: [&str; 3] = ["properties", "context", "envelope"];
const USER: &[u8] = b"user:";

/// The options, see the [crate] documentation.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    key: Option<String>,
    hash: Vec<String>,
    text: Vec<String>,
    identifiers: Vec<String>,
    json: Vec<String>,
    emails: bool,
    cards: Cards,
    ip: bool,
    ips_in_text: bool,
}

impl Default for Config {
    fn default() -> Self {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Self {
            key: None,
            hash: Vec::new(),
            text: names(&["event", "url", "referrer"]),
            identifiers: names(&["user_id", "session_id", "device_id"]),
            json: names(&JSON),
            emails: true,
            cards: Cards::Known,
            ip: true,
            ips_in_text: false,
        }
    }
}

type Bytes = ColMut<[u8]>;

/// The configured scrubber.
#[derive(Debug)]
pub struct Scrub {
    keyed: Option<Keyed>,
    rules: Rules,
    /// Columns of which the whole value becomes its pseudonym.
    hashed: Vec<Bytes>,
    /// `device_id`, if what follows `user:` in it is a user id that is hashed.
    device_of_user: Option<Bytes>,
    ip: Option<Bytes>,
    identifiers: Vec<Bytes>,
    text: Vec<Bytes>,
    /// JSON columns, and what in them becomes its pseudonym.
    json: Vec<(Bytes, Vec<Path>)>,
    needs_key: Code,
    not_json: Code,
    nested: Code,
}

impl Transform for Scrub {
    type Config = Config;
    const NAME: &'static str = env!("CARGO_PKG_NAME");
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");

    fn configure(config: Config, schema: &mut Schema) -> Result<Self, String> {
        let keyed = match &config.key {
            Some(key) if key.len() < KEY_BYTES_MIN => {
                return Err(format!("key: {} bytes are too few, {KEY_BYTES_MIN} are needed", key.len()));
            }
            key => key.as_ref().map(|key| Keyed::new(key.as_bytes())),
        };
        if keyed.is_none() && !config.hash.is_empty() {
            return Err("hash: needs a key".to_owned());
        }
        let mut paths: Vec<(&str, Path)> = Vec::new();
        let mut columns: Vec<&str> = Vec::new();
        for field in &config.hash {
            match field.split_once('.') {
                Some((column, path)) if JSON.contains(&column) => {
                    let path = Path::parse(path).ok_or_else(|| format!("hash: {field:?} has an empty name in it"))?;
                    paths.push((column, path));
                }
                None if JSON.contains(&field.as_str()) => {
                    return Err(format!("hash: {field:?} is a document; name a value in it, as in \"{field}.email\""));
                }
                None => columns.push(field),
                Some(_) => {
                    return Err(format!(
                        "hash: {field:?} is neither a column nor a path in one of {}",
                        JSON.join(", ")
                    ));
                }
            }
        }
        // A hashed column needs no other treatment.
        let hashed = |column: &str| columns.contains(&column);
        let mut update = |names: &[String]| -> Vec<Bytes> {
            names.iter().filter(|name| !hashed(name)).map(|name| schema.update(name)).collect()
        };
        let identifiers = update(&config.identifiers);
        let text = update(&config.text);
        let mut documents = config.json.clone();
        for (column, _) in &paths {
            if !documents.iter().any(|name| name == column) {
                documents.push((*column).to_owned());
            }
        }
        let json = documents.iter().map(|name| {
            let paths = paths.iter().filter(|(column, _)| column == name).map(|(_, path)| path.clone());
            (schema.update(name), paths.collect())
        });
        let json = json.collect();
        Ok(Self {
            keyed,
            rules: Rules { emails: config.emails, cards: config.cards, ips: config.ips_in_text },
            hashed: columns.iter().map(|name| schema.update(name)).collect(),
            device_of_user: hashed("user_id").then(|| schema.update("device_id")),
            ip: (config.ip && !hashed("ip")).then(|| schema.update("ip")),
            identifiers,
            text,
            json,
            needs_key: schema.code("identifier_needs_key"),
            not_json: schema.code("not_json"),
            nested: schema.code("hash_of_nested"),
        })
    }

    fn transform(&self, event: &mut Event<'_>) -> Outcome {
        self.scrub(event, &mut Scratch::default())
    }

    fn transform_batch(&self, rows: &mut Rows<'_>) -> Result<(), String> {
        let mut scratch = Scratch::default();
        rows.each(|event| self.scrub(event, &mut scratch));
        Ok(())
    }
}

impl Scrub {
    fn scrub(&self, event: &mut Event<'_>, scratch: &mut Scratch) -> Outcome {
        match self.try_scrub(event, scratch) {
            Ok(()) => Outcome::Keep,
            Err(code) => Outcome::Fail(code),
        }
    }

    fn try_scrub(&self, event: &mut Event<'_>, scratch: &mut Scratch) -> Result<(), Code> {
        if let Some(column) = self.ip {
            cut_ip(event, column);
        }
        if let Some(keyed) = &self.keyed {
            for column in &self.hashed {
                if let Some(hash) = event.get(*column).map(|value| keyed.hash(value)) {
                    event.set(*column, hash.as_bytes());
                }
            }
            if let Some(column) = self.device_of_user {
                let hash = event.get(column).and_then(|value| value.strip_prefix(USER)).map(|user| keyed.hash(user));
                if let Some(hash) = hash {
                    event.set(column, &[USER, hash.as_bytes()].concat());
                }
            }
        }
        for column in &self.identifiers {
            let Some(value) = event.get(*column) else { continue };
            let spans = scratch.find(value, Form::Plain, self.rules, self.keyed.as_ref());
            if !spans.is_empty() {
                if self.keyed.is_none() {
                    return Err(self.needs_key);
                }
                event.set_with(*column, |value, out| replace(value, spans, out));
            }
        }
        for column in &self.text {
            let Some(value) = event.get(*column) else { continue };
            let spans = scratch.find(value, Form::Plain, self.rules, None);
            if !spans.is_empty() {
                event.set_with(*column, |value, out| replace(value, spans, out));
            }
        }
        for (column, hidden) in &self.json {
            let Some(value) = event.get(*column) else { continue };
            let found = scratch.find_in_json(value, self.rules, hidden, self.keyed.as_ref());
            let spans = found.map_err(|unscrubbed| match unscrubbed {
                Unscrubbed::NotJson => self.not_json,
                Unscrubbed::Nested => self.nested,
            })?;
            if !spans.is_empty() {
                event.set_with(*column, |value, out| replace(value, spans, out));
            }
        }
        Ok(())
    }
}

fn cut_ip(event: &mut Event<'_>, column: Bytes) {
    let Some(value) = event.get(column) else { return };
    if let Some(length) = ip::v4_prefix(value) {
        event.set_with(column, |value, out| {
            out.extend_from_slice(&value[..length]);
            out.push(b'0');
        });
        return;
    }
    match ip::truncate(value) {
        None => event.set_null(column),
        Some(network) => event.set(column, network.to_string().as_bytes()),
    }
}

millrace_sdk::export!(Scrub);

#[cfg(test)]
mod tests;
