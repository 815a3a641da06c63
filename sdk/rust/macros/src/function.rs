//! The author's function: `fn name(event: &mut Event) -> Result<Outcome>`, maybe with `config: &Config`.

use proc_macro2::{Ident, TokenStream};
use quote::ToTokens;
use syn::parse::{Parse, ParseStream};
use syn::{Attribute, FnArg, ReturnType, Signature, Type, Visibility};

use crate::fault::{Fault, Faults};

/// What is needed of it; the body is nobody's business.
pub(crate) struct Function {
    pub(crate) visibility: Visibility,
    pub(crate) name: Ident,
    /// The type of the configuration.
    pub(crate) config: Option<Type>,
}

struct Head {
    visibility: Visibility,
    signature: Signature,
}

impl Parse for Head {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        input.call(Attribute::parse_outer)?;
        let visibility = input.parse()?;
        let signature = input.parse().map_err(|error| {
            syn::Error::new(error.span(), format!("`#[transform]` stands before a function: {error}"))
        })?;
        input.parse::<TokenStream>()?;
        Ok(Self { visibility, signature })
    }
}

const FORM: &str = "a transform is `fn name(event: &mut Event) -> Result<Outcome>`, and may take `config: &Config`";

impl Function {
    pub(crate) fn parse(tokens: TokenStream) -> Result<Self, Faults> {
        let Head { visibility, signature } = syn::parse2(tokens)?;
        let mut faults = Faults::default();
        if let Some(word) = &signature.asyncness {
            faults.add(word, "a transform waits for nothing: leave `async` out");
        }
        let safety = signature.safety.to_token_stream();
        if !safety.is_empty() {
            faults.add(&safety, format!("a transform is called by safe code: leave `{safety}` out"));
        }
        if !signature.generics.params.is_empty() {
            faults.add(&signature.generics, format!("a transform has no generics: {FORM}"));
        }
        if !returns_outcome(&signature.output) {
            let message = "a transform returns `Result<Outcome>`: `Ok(Outcome::Keep)` where all is well";
            match &signature.output {
                ReturnType::Default => faults.add(&signature.ident, message),
                ReturnType::Type(_, ty) => faults.add(ty, message),
            }
        }
        let mut inputs = signature.inputs.iter();
        match inputs.next() {
            None => faults.add(&signature.ident, FORM),
            Some(FnArg::Typed(event)) if is_event(&event.ty) => {}
            Some(FnArg::Typed(other)) => {
                faults.add(&other.ty, format!("the first parameter is `event: &mut Event`: {FORM}"));
            }
            Some(other) => faults.add(other, format!("a transform is no method: {FORM}")),
        }
        let config = inputs.next().and_then(|input| faults.take(config(input)));
        if let Some(more) = inputs.next() {
            faults.add(more, format!("a transform has two parameters at the most: {FORM}"));
        }
        faults.none_or(Self { visibility, name: signature.ident, config })
    }
}

fn returns_outcome(output: &ReturnType) -> bool {
    let ReturnType::Type(_, ty) = output else { return false };
    let Some(result) = last(ty).filter(|segment| segment.ident == "Result") else { return false };
    let syn::PathArguments::AngleBracketed(arguments) = &result.arguments else { return false };
    match arguments.args.first() {
        Some(syn::GenericArgument::Type(ty)) => last(ty).is_some_and(|segment| segment.ident == "Outcome"),
        _ => false,
    }
}

fn last(ty: &Type) -> Option<&syn::PathSegment> {
    match ty {
        Type::Path(path) => path.path.segments.last(),
        _ => None,
    }
}

fn is_event(ty: &Type) -> bool {
    match ty {
        Type::Reference(reference) => {
            reference.mutability.is_some() && last(&reference.elem).is_some_and(|segment| segment.ident == "Event")
        }
        _ => false,
    }
}

fn config(input: &FnArg) -> Result<Type, Fault> {
    let wrong = |at: &dyn ToTokens| {
        let message = format!("the configuration is lent, it does not change: `config: &Config`; {FORM}");
        Fault::new(at.to_token_stream(), message)
    };
    match input {
        FnArg::Typed(argument) => match &*argument.ty {
            Type::Reference(reference) if reference.mutability.is_none() => Ok((*reference.elem).clone()),
            other => Err(wrong(other)),
        },
        other => Err(wrong(other)),
    }
}
