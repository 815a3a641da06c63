//! Adds what the user agent tells about browser and device, as typed columns.
//!
//! | column | type | |
//! |---|---|---|
//! | `ua_browser` | string | `Chrome`, `Edge`, `Safari`, `Firefox`, `Opera`, `Samsung Internet`, …; of in-app browsers the app (`Instagram`) or `Android WebView`, `iOS WebView`; of bots and HTTP clients their name |
//! | `ua_browser_major` | int64 | the first number of its version |
//! | `ua_os` | string | `Windows`, `macOS`, `iOS`, `Android`, `ChromeOS`, `Linux`, … |
//! | `ua_device_class` | string | `desktop`, `mobile`, `tablet`, `bot`, `tv` or `other` |
//!
//! Without a user agent all four are null; what a user agent does not tell is null, too, but the class is `other`.
//!
//! The rules ([`user_agent`]) are short and know what most traffic consists of. They can't know what browsers hide: Safari on
//! an iPad says that it runs on a Mac, Brave that it is Chrome, and Windows 11 that it is 10, which is why there is no
//! version of the operating system.

use millrace_sdk::{Col, ColMut, Event, NoConfig, Outcome, Schema, Transform};
use user_agent::{Agent, Name};

/// The columns.
#[derive(Debug)]
pub struct EnrichUserAgent {
    user_agent: Col<str>,
    browser: ColMut<str>,
    browser_major: ColMut<i64>,
    os: ColMut<str>,
    device_class: ColMut<str>,
}

impl Transform for EnrichUserAgent {
    type Config = NoConfig;
    const NAME: &'static str = env!("CARGO_PKG_NAME");
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");

    fn configure(_: NoConfig, schema: &mut Schema) -> Result<Self, String> {
        Ok(Self {
            user_agent: schema.read("user_agent"),
            browser: schema.add("ua_browser"),
            browser_major: schema.add("ua_browser_major"),
            os: schema.add("ua_os"),
            device_class: schema.add("ua_device_class"),
        })
    }

    fn transform(&self, event: &mut Event<'_>) -> Outcome {
        let Some(text) = event.get(self.user_agent) else { return Outcome::Keep };
        let Agent { browser, major, os, class } = Agent::of(text);
        match browser {
            Some(Name::Known(name)) => event.set(self.browser, name),
            // The name of a bot is a part of the column that is read: it is copied before the event changes.
            Some(Name::Own(name)) => {
                let name = name.to_owned();
                event.set(self.browser, &name);
            }
            None => event.set_null(self.browser),
        }
        event.set_opt(self.browser_major, major);
        event.set_opt(self.os, os);
        event.set(self.device_class, class.name());
        Outcome::Keep
    }
}

millrace_sdk::export!(EnrichUserAgent);

#[cfg(test)]
mod tests {
    #[test]
    fn goldens_hold() {
        millrace_sdk::golden::check::<super::EnrichUserAgent>("cases");
    }
}
