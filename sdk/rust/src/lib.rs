//! millrace-sdk

// The bindings name the crate from within themselves and from within plugins alike.
#[cfg(target_arch = "wasm32")]
extern crate self as millrace_sdk;

pub mod columns;
pub mod json;

mod bits;
mod event;
mod instance;
mod kind;
mod schema;
mod store;

#[cfg(not(target_arch = "wasm32"))]
pub mod golden;

#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
pub mod guest;

pub use event::{Event, Outcome, Rows, View};
pub use instance::{Instance, NoConfig, Transform};
pub use kind::{Kind, TextKind, Timestamp};
pub use schema::{Code, Col, ColMut, Handle, Schema};

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
