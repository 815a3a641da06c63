//! The attribute's arguments as they are written: `name(…)` or `name = …`, with commas between.

use proc_macro2::{Ident, TokenStream};
use syn::ext::IdentExt as _;
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::{LitStr, Token, Type, bracketed, parenthesized};

/// One argument.
pub(crate) struct Section {
    pub(crate) name: Ident,
    pub(crate) content: Content,
}

/// What stands behind its name.
pub(crate) enum Content {
    List(TokenStream),
    Value(Box<Type>),
    Nothing,
}

impl Parse for Section {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let name = input.call(Ident::parse_any)?;
        let content = if input.peek(syn::token::Paren) {
            let list;
            parenthesized!(list in input);
            Content::List(list.parse()?)
        } else if input.peek(Token![=]) {
            input.parse::<Token![=]>()?;
            Content::Value(Box::new(input.parse()?))
        } else {
            Content::Nothing
        };
        Ok(Self { name, content })
    }
}

/// All arguments.
pub(crate) struct Sections(pub(crate) Vec<Section>);

impl Parse for Sections {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        list(input).map(Self)
    }
}

/// A list with commas between, and maybe one at its end.
pub(crate) fn list<T: Parse>(input: ParseStream<'_>) -> syn::Result<Vec<T>> {
    Ok(Punctuated::<T, Token![,]>::parse_terminated(input)?.into_iter().collect())
}

/// A column in a list: `name`, `name: kind`, `name as accessor: kind`.
pub(crate) struct Column {
    pub(crate) name: Ident,
    pub(crate) accessor: Option<Ident>,
    pub(crate) kind: Option<Type>,
}

impl Parse for Column {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let name = input.call(Ident::parse_any)?;
        let accessor = match input.parse::<Option<Token![as]>>()? {
            Some(_) => Some(input.parse()?),
            None => None,
        };
        Ok(Self { name, accessor, kind: kind(input)? })
    }
}

fn kind(input: ParseStream<'_>) -> syn::Result<Option<Type>> {
    Ok(match input.parse::<Option<Token![:]>>()? {
        Some(_) => Some(input.parse()?),
        None => None,
    })
}

/// A lookup: `accessor: kind = table[key].column`.
pub(crate) struct Lookup {
    pub(crate) accessor: Ident,
    pub(crate) kind: Option<Type>,
    pub(crate) table: Name,
    pub(crate) key: Ident,
    pub(crate) column: Name,
}

impl Parse for Lookup {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let accessor = input.parse()?;
        let kind = kind(input)?;
        if !input.peek(Token![=]) {
            return Err(input.error("say what is looked up: `name: kind = table[key].column`"));
        }
        input.parse::<Token![=]>()?;
        let table = input.parse()?;
        if !input.peek(syn::token::Bracket) {
            return Err(input.error("say by which column: `table[key].column`"));
        }
        let brackets;
        bracketed!(brackets in input);
        let key = brackets.call(Ident::parse_any)?;
        if !brackets.is_empty() {
            return Err(brackets.error("the key is the name of one column"));
        }
        if !input.peek(Token![.]) {
            return Err(input.error("say which column of the table: `table[key].column`"));
        }
        input.parse::<Token![.]>()?;
        Ok(Self { accessor, kind, table, key, column: input.parse()? })
    }
}

/// A name in another place than this program: an identifier, or a string where it is none.
pub(crate) struct Name(pub(crate) String);

impl Parse for Name {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        if input.peek(LitStr) {
            return Ok(Self(input.parse::<LitStr>()?.value()));
        }
        Ok(Self(input.call(Ident::parse_any)?.unraw().to_string()))
    }
}

/// A code.
pub(crate) struct Code(pub(crate) Ident);

impl Parse for Code {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        input.call(Ident::parse_any).map(Self)
    }
}
