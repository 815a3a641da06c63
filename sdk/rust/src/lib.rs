//! Write a Millrace transform as a function over one event.
//!
//! A transform is a WebAssembly component that gets batches of columns and gives columns back. This crate hides that:
//! an author declares which columns the function reads and writes, gets one event at a time, and says what becomes of
//! it. The columnar work (sending back only what changed, copying untouched rows in runs, keeping lineage) is done here.
//!
//! ```
//! use millrace_sdk::{Code, Col, ColMut, Event, NoConfig, Outcome, Schema, Transform};
//!
//! struct Checkout { event: Col<str>, url: ColMut<str>, is_checkout: ColMut<bool>, internal: Code }
//!
//! impl Transform for Checkout {
//!     type Config = NoConfig;
//!     const NAME: &'static str = "checkout";
//!     const VERSION: &'static str = "1.0.0";
//!
//!     fn configure(_: NoConfig, schema: &mut Schema) -> Result<Self, String> {
//!         Ok(Self {
//!             event: schema.read("event"),
//!             url: schema.update("url"),
//!             is_checkout: schema.add("is_checkout"),
//!             internal: schema.code("internal"),
//!         })
//!     }
//!
//!     fn transform(&self, event: &mut Event<'_>) -> Outcome {
//!         let Some(url) = event.get(self.url) else { return Outcome::Keep };
//!         if url.starts_with("https://staging.") {
//!             return Outcome::Drop(self.internal);
//!         }
//!         let path = url.split('?').next().unwrap_or(url).to_owned();
//!         event.set(self.is_checkout, event.get(self.event) == Some("Checkout Started"));
//!         event.set(self.url, &path);
//!         Outcome::Keep
//!     }
//! }
//!
//! millrace_sdk::export!(Checkout);
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
//! * [`Transform`] is what an author writes, [`Schema`] what is declared, [`Event`] what the function gets, [`Outcome`]
//!   what it answers. A row that is multiplied: [`Event::emit`].
//! * Kinds of columns are `str`, `i64`, [`Timestamp`], `f64` and `bool`, and `[u8]` for text of which a plugin wants the
//!   bytes: their check as UTF-8 (about a tenth of a nanosecond a byte) is then left to the host, which checks what it
//!   gets back in any case.
//! * [`json`] reads single values out of `properties`, `context` and `envelope`.
//! * [`Transform::transform_batch`] is for plugins that gain from whole columns.
//! * `golden` (native builds only) runs a plugin's golden cases; `Instance` runs it over plain columns.
//! * [`export!`] makes the component. The crate must be a `cdylib` (for the component) and a `rlib` (for tests).
//!
//! # What a plugin can't do
//!
//! There is no clock, no randomness, no I/O and no state from one event to the next. An event must give the same rows
//! whatever stands beside it: the host checks that by splitting batches at random. `std::collections::HashMap` compiles
//! and has the same order in every instance here, but not natively: don't let its order reach a row.

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
