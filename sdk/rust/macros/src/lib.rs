//! The attribute `#[transform]` of `millrace-sdk`, whose documentation says how it is used.
//!
//! ```text
//! sections    what stands in the attribute, as `name(…)` or `name = …`
//! plan        the columns, lookups and codes that they mean, or what is wrong with them
//! function    the author's function, whose form is checked and whose text is not touched
//! expand      the code that an author would write by hand
//! ```

mod expand;
mod fault;
mod function;
mod kind;
mod plan;
mod sections;

use proc_macro::TokenStream;

/// Makes a plugin of a function over one event. See `millrace_sdk::transform`.
#[proc_macro_attribute]
pub fn transform(arguments: TokenStream, function: TokenStream) -> TokenStream {
    let package = std::env::var("CARGO_PKG_NAME").unwrap_or_default();
    match expand::expand(arguments.into(), function.into(), &package) {
        Ok(code) => code.into(),
        Err(faults) => faults.into_compile_errors().into(),
    }
}

#[cfg(test)]
mod tests;
