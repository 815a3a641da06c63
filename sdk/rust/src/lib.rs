//! Write a Millrace transform as a function over one event.
//!
//! A transform is a WebAssembly component that gets batches of columns and gives columns back. This crate hides that:
//! an author declares which columns the function reads and writes, gets one event at a time, and says what becomes of
//! it. The columnar work (sending back only what changed, copying untouched rows in runs, keeping lineage) is done here.
//!
//! ```
//! # mod plugin {
//! use millrace_sdk::prelude::*;
//!
//! #[transform(reads(event), writes(url), adds(is_checkout: bool), codes(internal))]
//! pub fn checkout(event: &mut Event) -> Result<Outcome> {
//!     let Some(url) = event.url() else { return Ok(Outcome::Keep) };
//!     if url.starts_with("https://staging.") {
//!         return Ok(Outcome::Drop(Code::Internal));
//!     }
//!     let path = url.split('?').next().unwrap_or(url).to_owned();
//!     event.set_is_checkout(event.event() == Some("Checkout Started"));
//!     event.set_url(path);
//!     Ok(Outcome::Keep)
//! }
//!
//! # pub type Plugin = Checkout;
//! # }
//! # use plugin::Plugin as Checkout;
//!
//! // The same code runs natively, for tests and benchmarks:
//! use millrace_sdk::columns::{Batch, Column, Returned};
//! let plugin = millrace_sdk::Instance::<Checkout>::new("{}")?;
//! assert_eq!(plugin.manifest().reads, ["event", "url"]);
//! let columns = vec![
//!     Column::text([Some("Checkout Started"), None]),
//!     Column::text([Some("https://shop.example/pay?card=1"), Some("https://staging.shop.example/")]),
//! ];
//! let output = plugin.transform(Batch { rows: 2, columns })?;
//! assert_eq!(output.sources, Some(vec![0]));
//! assert_eq!(output.columns[0], Returned::Column(Column::text([Some("https://shop.example/pay")])));
//! # Ok::<(), String>(())
//! ```
//!
//! * [`#[transform]`](macro@transform) is all that most plugins need. It writes down what an author can write by hand:
//!   [`Transform`], with columns and codes declared in a [`Schema`], an [`Event`] that is read and changed by the handles
//!   that the schema gave, and an [`Outcome`]. By hand is for columns, tables and codes that depend on the configuration.
//! * [`json`] reads single values out of `properties`, `context` and `envelope`.
//! * [`tables`] are lookup tables: a column of answers for a column of keys, in one call for a batch.
//! * [`Transform::transform_batch`] is for plugins that gain from whole columns: [`Rows`].
//! * `golden` (native builds only) runs a plugin's golden cases; [`Instance`] runs it over plain [`columns`].
//! * [`export!`] makes the component. The crate must be a `cdylib` (for the component) and a `rlib` (for tests).
//!
//! `docs/plugin-tutorial.md` leads from nothing to a plugin in force. The columns of an event are listed [below](#columns-of-an-event).
//!
//! # Kinds of columns
//!
//! `str`, `i64`, [`Timestamp`], `f64` and `bool`, and `[u8]` for text of which a plugin wants the bytes: their check as
//! UTF-8 (about a tenth of a nanosecond a byte) is then left to the host, which checks what it gets back in any case.
//!
//! # What a plugin can't do
//!
//! There is no clock, no randomness, no I/O and no state from one event to the next. An event must give the same rows
//! whatever stands beside it: the host checks that by splitting batches at random. `std::collections::HashMap` compiles
//! and has the same order in every instance here, but not natively: don't let its order reach a row.
//!
#![doc = include_str!("../README.md")]

// The bindings and the attribute name the crate from within itself and from within plugins alike.
extern crate self as millrace_sdk;

pub mod columns;
pub mod json;
pub mod tables;

mod bits;
mod error;
mod event;
mod instance;
mod into_value;
mod kind;
mod schema;
mod store;

#[cfg(not(target_arch = "wasm32"))]
pub mod golden;

#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
pub mod guest;

#[doc(hidden)]
pub use error::Codes;
pub use error::{Error, Result};
pub use event::{Event, Outcome, Rows, View};
pub use instance::{Instance, NoConfig, Transform};
pub use into_value::IntoValue;
pub use kind::{Kind, TextKind, Timestamp};
/// Makes a plugin of a function over one event: `fn name(event: &mut Event) -> Result<Outcome>`, or, with options,
/// `fn name(event: &mut Event, config: &Config) -> Result<Outcome>`.
///
/// ```
/// # mod plugin {
/// use millrace_sdk::prelude::*;
///
/// #[derive(serde::Deserialize)]
/// #[serde(deny_unknown_fields)]
/// struct Config {
///     currency: String,
/// }
///
/// #[transform(
///     reads(ip, properties, ua_browser: str),
///     writes(url),
///     adds(total: f64, country: str),
///     codes(foreign, no_total),
///     lookups(found: str = countries[ip].country),
///     error = unreadable,
/// )]
/// fn checkout(event: &mut Event, config: &Config) -> Result<Outcome> {
///     let currency = event.property("cart.currency").and_then(|currency| currency.as_str());
///     if currency.is_some_and(|currency| currency != config.currency) {
///         return Ok(Outcome::Drop(Code::Foreign));
///     }
///     let total: f64 = event.property("cart.total").ok_or(Code::NoTotal)?.parse()?;
///     event.set_total(total);
///     event.set_country(event.found().map(str::to_lowercase));
///     event.clear_url();
///     Ok(Outcome::Keep)
/// }
/// # }
/// ```
///
/// # Arguments
///
/// | argument | |
/// |---|---|
/// | `reads(…)` | columns to read. Those that every event has are known; another step's column needs its kind: `name: kind` |
/// | `writes(…)` | columns to read and change |
/// | `adds(name: kind, …)` | new columns, null until they are set |
/// | `codes(name, …)` | codes of drops and failures |
/// | `lookups(name: kind = table[key].column, …)` | columns of what a lookup table has for a key, which is a column that is read, or another lookup. A table or column whose name is no identifier stands in quotes |
/// | `error = name` | the code of what fails by `?`; `error` if it is left out |
///
/// Kinds are `str`, `i64`, `f64`, `bool`, `Timestamp`, `json` (text that is a JSON document, as `properties`, `context` and
/// `envelope` are) and `[u8]`. `name as other` gives a column's methods another name. The host sends what is read and takes
/// back what is written or added, so name no column for its own sake.
///
/// # What there is in the module then
///
/// * `Event`, with methods for each column: `url()` gives `Option<&str>` (or the column's kind; of JSON columns
///   `Option<`[`json::Value`]`>`), `set_url(value)` and `clear_url()` change it, and `set_url_with(|now, out| …)` writes
///   text in place. Setters take whatever becomes the kind without a loss, and `Option`s of it ([`IntoValue`]).
///   `property("cart.total")` is short for a value in `properties`, `emit()` puts out a row and goes on. The column `type`
///   is `r#type()`, as it is a word of Rust's.
/// * `Code`, with a variant for each code, and `Outcome` ([`Outcome`] of these codes).
/// * The plugin, a type named after the function (`drop_bots` makes `DropBots`), for tests. Its name and version are those
///   of the package.
///
/// # Failing
///
/// An event fails by `Ok(Outcome::Fail(Code::NoTotal))`, or by `?` on any error: see [`Error`]. The code stands in the dead
/// letter; the message goes to the plugin's author only, since it may quote the event.
///
/// # What the compiler refuses
///
/// A code that was not declared:
///
/// ```compile_fail,E0599
/// # mod plugin {
/// use millrace_sdk::prelude::*;
///
/// #[transform(codes(internal))]
/// fn plugin(_: &mut Event) -> Result<Outcome> {
///     Ok(Outcome::Drop(Code::Intrenal))
/// }
/// # }
/// ```
///
/// a change of a column that is only read:
///
/// ```compile_fail,E0599
/// # mod plugin {
/// use millrace_sdk::prelude::*;
///
/// #[transform(reads(url))]
/// fn plugin(event: &mut Event) -> Result<Outcome> {
///     event.set_url("https://shop.example/");
///     Ok(Outcome::Keep)
/// }
/// # }
/// ```
///
/// a value of another kind:
///
/// ```compile_fail,E0277
/// # mod plugin {
/// use millrace_sdk::prelude::*;
///
/// #[transform(adds(items: i64))]
/// fn plugin(event: &mut Event) -> Result<Outcome> {
///     event.set_items("two");
///     Ok(Outcome::Keep)
/// }
/// # }
/// ```
///
/// and an attribute that says what can't be, at the word that is wrong: ``not every event has `usr_agent`, did you mean
/// `user_agent`?``
///
/// ```compile_fail
/// # mod plugin {
/// use millrace_sdk::prelude::*;
///
/// #[transform(reads(usr_agent))]
/// fn plugin(_: &mut Event) -> Result<Outcome> {
///     Ok(Outcome::Keep)
/// }
/// # }
/// ```
pub use millrace_sdk_macros::transform;
pub use schema::{Code, Col, ColMut, Handle, Schema};

/// What a plugin made with [`#[transform]`](macro@transform) needs.
pub mod prelude {
    pub use crate::{Error, Result, Timestamp, json, log, transform};
}

/// Sends a line to the plugin's author: see [`log!`].
pub fn log(message: &str) {
    #[cfg(target_arch = "wasm32")]
    guest::log(message);
    #[cfg(not(target_arch = "wasm32"))]
    eprintln!("{message}");
}

/// Writes a line for the plugin's author, formatted like `format!`. The host keeps a bounded number of lines for a
/// limited time, behind a scope for raw data; they leave no trace in any row. Natively it goes to standard error.
#[macro_export]
macro_rules! log {
    ($($arg:tt)*) => { $crate::log(&::std::format!($($arg)*)) };
}

/// Makes a component of a [`Transform`]. To be called once, at the top of the plugin's library; native builds, which
/// have nothing to export, ignore it.
#[macro_export]
macro_rules! export {
    ($plugin:ty) => {
        #[cfg(target_arch = "wasm32")]
        #[allow(unsafe_code, reason = "a component's exports are C functions")]
        const _: () = {
            ::std::thread_local! {
                // The host makes a new instance of the component for every call of `transform` and configures it first.
                static INSTANCE: ::std::cell::RefCell<::std::option::Option<$crate::Instance<$plugin>>> =
                    const { ::std::cell::RefCell::new(None) };
            }

            struct Component;

            impl $crate::guest::Guest for Component {
                fn describe(
                    config: ::std::string::String,
                ) -> ::std::result::Result<$crate::guest::Manifest, ::std::string::String> {
                    $crate::guest::log_panics();
                    let instance = $crate::Instance::<$plugin>::new(&config)?;
                    let manifest = $crate::guest::manifest(instance.manifest());
                    INSTANCE.with_borrow_mut(|slot| *slot = Some(instance));
                    Ok(manifest)
                }

                fn transform(
                    batch: $crate::guest::Batch,
                ) -> ::std::result::Result<$crate::guest::Output, ::std::string::String> {
                    INSTANCE.with_borrow(|slot| {
                        let instance = slot.as_ref().ok_or("`describe` must be called before `transform`")?;
                        instance.transform($crate::guest::batch(batch)).map($crate::guest::output)
                    })
                }
            }

    $crate::guest::__export_component!(Component with_types_in $crate::guest);
        };
    };
}
