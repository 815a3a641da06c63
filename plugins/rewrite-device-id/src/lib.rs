//! Corrects device ids by rule: for releases that sent a wrong one.
//!
//! ```json
//! {"rules": [
//!   {"app": "shop-ios", "app_version": "2.4.1", "from": "device-0", "to_path": "properties.hw_id"},
//!   {"app": "kiosk", "from_prefix": "test-", "to": "kiosk-lobby"}
//! ]}
//! ```
//!
//! The first rule that matches an event decides. A rule matches where all of its conditions hold; it needs at least one:
//!
//! | condition | holds if |
//! |---|---|
//! | `app`, `app_version` | the column is equal |
//! | `from` | `device_id` is equal |
//! | `from_prefix` | `device_id` starts so |
//!
//! and it has one replacement: `to`, a constant, or `to_path`, the string that stands at a path in `properties`,
//! `context` or `envelope`. Without a match the event goes on untouched. Where the path leads to no string, or to one
//! that is empty or longer than 256 bytes, which no store takes as an id, the event fails with `no_device_id`.

use millrace_sdk::json::{Path, find};
use millrace_sdk::{Code, Col, ColMut, Event, Outcome, Schema, Transform};

/// Longest device id, in bytes.
const ID_BYTES_MAX: usize = 256;

/// The options, see the [crate] documentation.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    rules: Vec<RuleConfig>,
}

#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleConfig {
    app: Option<String>,
    app_version: Option<String>,
    from: Option<String>,
    from_prefix: Option<String>,
    to: Option<String>,
    to_path: Option<String>,
}

/// The configured corrections.
#[derive(Debug)]
pub struct Rewrite {
    device_id: ColMut<str>,
    rules: Vec<Rule>,
    no_device_id: Code,
}

#[derive(Debug)]
struct Rule {
    conditions: Vec<(Col<str>, Is)>,
    to: To,
}

#[derive(Debug)]
enum Is {
    Equal(String),
    Prefix(String),
}

#[derive(Debug)]
enum To {
    Constant(String),
    Path(Col<[u8]>, Path),
}

impl Transform for Rewrite {
    type Config = Config;
    const NAME: &'static str = env!("CARGO_PKG_NAME");
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");

    fn configure(config: Config, schema: &mut Schema) -> Result<Self, String> {
        let device_id = schema.update("device_id");
        let rules = config
            .rules
            .into_iter()
            .enumerate()
            .map(|(at, rule)| Rule::new(rule, schema).map_err(|message| format!("rules[{at}]: {message}")));
        let rules = rules.collect::<Result<Vec<_>, _>>()?;
        Ok(Self { device_id, rules, no_device_id: schema.code("no_device_id") })
    }

    fn transform(&self, event: &mut Event<'_>) -> Outcome {
        let Some(rule) = self.rules.iter().find(|rule| rule.matches(event)) else { return Outcome::Keep };
        let id = match &rule.to {
            To::Constant(id) => {
                event.set(self.device_id, id);
                return Outcome::Keep;
            }
            To::Path(column, path) => event
                .get(*column)
                .and_then(|doc| find(doc, path).ok().flatten())
                .and_then(|value| value.as_str())
                .filter(|id| usable(id))
                .map(|id| id.into_owned()),
        };
        match id {
            Some(id) => {
                event.set(self.device_id, &id);
                Outcome::Keep
            }
            None => Outcome::Fail(self.no_device_id),
        }
    }
}

fn usable(id: &str) -> bool {
    matches!(id.len(), 1..=ID_BYTES_MAX)
}

impl Rule {
    fn new(config: RuleConfig, schema: &mut Schema) -> Result<Self, String> {
        let conditions = [
            ("app", config.app.map(Is::Equal)),
            ("app_version", config.app_version.map(Is::Equal)),
            ("device_id", config.from.map(Is::Equal)),
            ("device_id", config.from_prefix.map(Is::Prefix)),
        ];
        let conditions: Vec<_> =
            conditions.into_iter().filter_map(|(name, is)| is.map(|is| (schema.read(name), is))).collect();
        if conditions.is_empty() {
            return Err("matches every event: give app, app_version, from or from_prefix".to_owned());
        }
        let to = match (config.to, config.to_path) {
            (Some(id), None) if usable(&id) => To::Constant(id),
            (Some(_), None) => return Err(format!("to: an id has 1 to {ID_BYTES_MAX} bytes")),
            (None, Some(text)) => {
                let (column, path) = text.split_once('.').unwrap_or((&text, ""));
                match Path::parse(path) {
                    Some(path) if ["properties", "context", "envelope"].contains(&column) => {
                        To::Path(schema.read(column), path)
                    }
                    _ => {
                        return Err(format!(
                            "to_path: {text:?} must be properties, context or envelope and a path in it, as in \"properties.hw_id\""
                        ));
                    }
                }
            }
            _ => return Err("give either to or to_path".to_owned()),
        };
        Ok(Self { conditions, to })
    }

    fn matches(&self, event: &Event<'_>) -> bool {
        self.conditions.iter().all(|(column, is)| match (event.get(*column), is) {
            (Some(value), Is::Equal(expected)) => value == expected,
            (Some(value), Is::Prefix(prefix)) => value.starts_with(prefix.as_str()),
            (None, _) => false,
        })
    }
}

millrace_sdk::export!(Rewrite);

#[cfg(test)]
mod tests {
    #[test]
    fn goldens_hold() {
        millrace_sdk::golden::check::<super::Rewrite>("cases");
    }
}
