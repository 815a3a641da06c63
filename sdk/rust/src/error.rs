//! Failing an event with `?`.

use std::fmt;

use crate::event::{Event, Outcome};
use crate::schema::{Code, Schema};

/// The result of a function under [`#[transform]`](macro@crate::transform), and of functions that it calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an event fails: a declared code, which stands in the dead letter, and a message, which goes to the plugin's author
/// with [`log!`](crate::log!) and nowhere else.
///
/// `?` makes one of any error of the standard library's trait, under the code that `#[transform(error = …)]` names
/// (`error` if it does not), and one of a `Code` that was declared:
///
/// ```
/// # mod plugin {
/// use millrace_sdk::prelude::*;
///
/// #[transform(reads(properties), adds(cents: i64), codes(no_price, odd_price))]
/// fn price(event: &mut Event) -> Result<Outcome> {
///     let price = event.property("price").ok_or(Code::NoPrice)?;
///     let price: f64 = price.parse().map_err(|error| Code::OddPrice.because(error))?;
///     let shop: u32 = std::str::from_utf8(b"7")?.parse()?;
///     event.set_cents((price * 100.0).round() as i64 * i64::from(shop));
///     Ok(Outcome::Keep)
/// }
/// # }
/// ```
pub struct Error(Box<Failure>);

struct Failure {
    code: Option<usize>,
    message: Option<String>,
}

impl Error {
    /// An error with a message of the author's own.
    pub fn msg(message: impl fmt::Display) -> Self {
        Self(Box::new(Failure { code: None, message: Some(message.to_string()) }))
    }

    #[doc(hidden)]
    pub fn coded(code: usize, message: Option<&dyn fmt::Display>) -> Self {
        Self(Box::new(Failure { code: Some(code), message: message.map(ToString::to_string) }))
    }
}

impl<E: std::error::Error> From<E> for Error {
    /// With the messages of its sources.
    fn from(error: E) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            message.push_str(": ");
            message.push_str(&error.to_string());
            source = error.source();
        }
        Self::msg(message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error").field("code", &self.0.code).field("message", &self.0.message).finish()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.message.as_deref().unwrap_or("no message"))
    }
}

/// The codes of a plugin that `#[transform]` made, in the order of its `Code`.
#[doc(hidden)]
#[derive(Debug)]
pub struct Codes {
    codes: Vec<(Code, &'static str)>,
    error: usize,
}

impl Codes {
    /// `error` is the place of the code of errors.
    pub fn new(schema: &mut Schema, names: &[&'static str], error: usize) -> Self {
        Self { codes: names.iter().map(|name| (schema.code(name), *name)).collect(), error }
    }

    /// What the function's answer means.
    #[inline]
    pub fn outcome<C: Into<usize>>(&self, event: &Event<'_>, answer: Result<Outcome<C>>) -> Outcome {
        match answer {
            Ok(Outcome::Keep) => Outcome::Keep,
            Ok(Outcome::Emitted) => Outcome::Emitted,
            Ok(Outcome::Drop(code)) => Outcome::Drop(self.codes[code.into()].0),
            Ok(Outcome::Fail(code)) => Outcome::Fail(self.codes[code.into()].0),
            Err(error) => self.failed(event, &error),
        }
    }

    #[cold]
    fn failed(&self, event: &Event<'_>, error: &Error) -> Outcome {
        let (code, name) = self.codes[error.0.code.unwrap_or(self.error)];
        if let Some(message) = &error.0.message {
            crate::log!("event {} of the batch fails with {name}: {message}", event.row());
        }
        Outcome::Fail(code)
    }
}
