//! Leaves out what bots send: programs that read pages by themselves, and HTTP libraries.
//!
//! ```json
//! {"keep": ["Googlebot"], "also": ["my-monitor"]}
//! ```
//!
//! | option | default | |
//! |---|---|---|
//! | `keep` | none | names of bots that stay, as they call themselves |
//! | `also` | none | texts: an event goes, too, if its user agent has one of them in it, unless its bot is kept |
//!
//! Case does not matter. An event is dropped with the code `bot`; one without a user agent stays.
//!
//! What a bot is [`user_agent`] knows, by what `enrich-user-agent` calls the class `bot`. A bot that gives itself out for a
//! browser is none here.

use millrace_sdk::prelude::*;
use user_agent::{Agent, Class};

/// The options, see the [crate] documentation.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields, try_from = "Options")]
pub struct Config {
    keep: Vec<String>,
    also: Vec<String>,
}

/// As they are written.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    #[serde(default)]
    keep: Vec<String>,
    #[serde(default)]
    also: Vec<String>,
}

impl TryFrom<Options> for Config {
    type Error = String;

    fn try_from(options: Options) -> Result<Self, String> {
        let Options { mut keep, mut also } = options;
        for (option, names) in [("keep", &mut keep), ("also", &mut also)] {
            for name in names {
                if name.is_empty() {
                    return Err(format!("{option}: an empty text is in every user agent"));
                }
                name.make_ascii_lowercase();
            }
        }
        Ok(Self { keep, also })
    }
}

/// Drops the events of bots.
#[transform(reads(user_agent), codes(bot))]
pub fn drop_bots(event: &mut Event, config: &Config) -> Result<Outcome> {
    let Some(text) = event.user_agent() else { return Ok(Outcome::Keep) };
    Ok(if config.is_unwanted(text) { Outcome::Drop(Code::Bot) } else { Outcome::Keep })
}

impl Config {
    fn is_unwanted(&self, text: &str) -> bool {
        let Agent { browser, class, .. } = Agent::of(text);
        let unwanted = class == Class::Bot || self.also.iter().any(|part| contains(text, part));
        unwanted && !browser.is_some_and(|name| self.keep.iter().any(|kept| name.as_str().eq_ignore_ascii_case(kept)))
    }
}

/// Whether `text` has `part` in it, which is in lower case.
fn contains(text: &str, part: &str) -> bool {
    text.as_bytes().windows(part.len()).any(|window| window.eq_ignore_ascii_case(part.as_bytes()))
}

#[cfg(test)]
mod tests {
    #[test]
    fn goldens_hold() {
        millrace_sdk::golden::check::<super::DropBots>("cases");
    }
}
