//! What is wrong with an attribute or a function: each with the author's tokens that it is about.

use proc_macro2::TokenStream;
use quote::ToTokens;

/// One mistake.
#[derive(Debug)]
pub(crate) struct Fault {
    /// The tokens, as text: spans have no text that a test could look at.
    #[cfg_attr(not(test), allow(dead_code, reason = "the compiler is told by span"))]
    pub(crate) at: String,
    pub(crate) error: syn::Error,
}

/// All mistakes that were found.
#[derive(Debug, Default)]
pub(crate) struct Faults(pub(crate) Vec<Fault>);

impl Fault {
    pub(crate) fn new(at: impl ToTokens, message: impl Into<String>) -> Self {
        let at = at.into_token_stream();
        Self { at: at.to_string(), error: syn::Error::new_spanned(at, message.into()) }
    }
}

impl From<syn::Error> for Fault {
    fn from(error: syn::Error) -> Self {
        Self { at: String::new(), error }
    }
}

impl<T: Into<Fault>> From<T> for Faults {
    fn from(fault: T) -> Self {
        Self(vec![fault.into()])
    }
}

impl Faults {
    pub(crate) fn add(&mut self, at: impl ToTokens, message: impl Into<String>) {
        self.0.push(Fault::new(at, message));
    }

    /// The value, or the mistake, which is kept.
    pub(crate) fn take<T>(&mut self, result: Result<T, impl Into<Fault>>) -> Option<T> {
        result.map_err(|fault| self.0.push(fault.into())).ok()
    }

    pub(crate) fn none_or<T>(self, value: T) -> Result<T, Self> {
        if self.0.is_empty() { Ok(value) } else { Err(self) }
    }

    pub(crate) fn into_compile_errors(self) -> TokenStream {
        self.0.into_iter().map(|fault| fault.error.into_compile_error()).collect()
    }
}

/// `, did you mean …?` if one of the names is close.
pub(crate) fn did_you_mean<'a>(name: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    let nearest = names.into_iter().map(|known| (distance(name, known), known)).min();
    match nearest {
        Some((distance, known)) if distance <= known.len().max(3) / 3 => format!(", did you mean `{known}`?"),
        _ => String::new(),
    }
}

/// How many characters must be changed, added or taken away.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (at, left) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = at + 1;
        for (column, right) in b.chars().enumerate() {
            let replaced = diagonal + usize::from(left != right);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}
