//! The code that an author would write by hand.

use proc_macro2::{Ident, Span, TokenStream};
use quote::quote;

use crate::fault::{Fault, Faults};
use crate::function::Function;
use crate::kind::Kind;
use crate::plan::{Column, Lookup, Plan, Usage, type_name};

/// The function as it is, and the plugin around it. `package` is the name of the author's package.
pub(crate) fn expand(arguments: TokenStream, function: TokenStream, package: &str) -> Result<TokenStream, Faults> {
    let item = function.clone();
    let (function, plan) = match (Function::parse(function), Plan::parse(arguments)) {
        (Ok(function), Ok(plan)) => (function, plan),
        (Err(mut faults), Err(Faults(more))) => {
            faults.0.extend(more);
            return Err(faults);
        }
        (Err(faults), _) | (_, Err(faults)) => return Err(faults),
    };
    check_package(&function.name, package)?;
    let config = config(&function, &plan)?;
    let parts = [event(&function, &plan), codes(&function, &plan), plugin(&function, &plan, config)];
    // Its answer is a `Result` even where nothing can go wrong.
    Ok(quote!(#[allow(clippy::unnecessary_wraps)] #item #(#parts)*))
}

/// The package's name becomes the plugin's.
fn check_package(function: &Ident, package: &str) -> Result<(), Fault> {
    let legal = matches!(package.len(), 1..=64)
        && package.starts_with(|c: char| c.is_ascii_lowercase())
        && package.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    if legal {
        return Ok(());
    }
    Err(Fault::new(
        function,
        format!(
            "the package {package:?} can't give its plugin a name: call it 1 to 64 characters of a-z 0-9 -, in Cargo.toml"
        ),
    ))
}

/// The type of the configuration, which the function's second parameter tells.
fn config(function: &Function, plan: &Plan) -> Result<Option<TokenStream>, Fault> {
    match (&function.config, &plan.config) {
        (None, Some(said)) => {
            let said = quote!(#said);
            let message = format!("the function does not take it: give it a second parameter, `config: &{said}`");
            Err(Fault::new(said, message))
        }
        (Some(taken), Some(said)) if quote!(#taken).to_string() != quote!(#said).to_string() => {
            let taken = quote!(#taken);
            Err(Fault::new(said, format!("the function takes `&{taken}`: `config = …` can be left out")))
        }
        (taken, _) => Ok(taken.as_ref().map(|taken| quote!(#taken))),
    }
}

fn event(function: &Function, plan: &Plan) -> TokenStream {
    let Function { visibility, name, .. } = function;
    let accessors = plan.columns.iter().map(column).chain(plan.lookups.iter().map(lookup));
    let property = plan.has_property().then(|| {
        let accessor = plan.columns.iter().find(|column| column.name == "properties").map(|column| &column.accessor);
        quote! {
            /// The value at a path in `properties`, as in `cart.total` or `items.0.sku`; `None` if there is none.
            #[inline]
            pub fn property(&self, path: &::core::primitive::str) -> ::core::option::Option<::millrace_sdk::json::Value<'_>> {
                self.#accessor()?.get(path)
            }
        }
    });
    let fields = plan.columns.iter().map(|column| {
        let (accessor, kind) = (&column.accessor, column.kind.handle());
        match column.usage {
            Usage::Read => quote!(#accessor: ::millrace_sdk::Col<#kind>),
            Usage::Write | Usage::Add => quote!(#accessor: ::millrace_sdk::ColMut<#kind>),
        }
    });
    let found = plan.lookups.iter().map(|lookup| {
        let (accessor, kind) = (&lookup.accessor, lookup.kind.handle());
        quote!(#accessor: ::millrace_sdk::Col<#kind>)
    });
    // A column may be called so, too.
    let schema = Ident::new("schema", Span::mixed_site());
    let declare = plan.columns.iter().map(|column| {
        let Column { accessor, name, .. } = column;
        let declare = match column.usage {
            Usage::Read => quote!(read),
            Usage::Write => quote!(update),
            Usage::Add => quote!(add),
        };
        quote!(let #accessor = #schema.#declare(#name);)
    });
    let look_up = plan.lookups.iter().map(|lookup| {
        let Lookup { accessor, table, key, column, .. } = lookup;
        quote!(let #accessor = #schema.lookup(#table, #key, #column);)
    });
    let of_columns = plan.columns.iter().map(|column| &column.accessor);
    let names = of_columns.chain(plan.lookups.iter().map(|lookup| &lookup.accessor));
    let about = format!("The event that [`{name}`] gets.");
    quote! {
        #[doc = #about]
        #[derive(Debug)]
        #visibility struct Event<'a> {
            event: ::millrace_sdk::Event<'a>,
            columns: &'a __Columns,
        }

        #[allow(dead_code)]
        impl Event<'_> {
            #(#accessors)*
            #property

            /// Puts a copy of the event, as it is now, out as a row and goes on with it. Most rows of one event: 100.
            /// Answer `Ok(Outcome::Emitted)` if the event itself is not to follow.
            pub fn emit(&mut self) {
                self.event.emit();
            }
        }

        #[derive(Debug)]
        #[allow(dead_code)]
        struct __Columns {
            #(#fields,)*
            #(#found,)*
        }

        impl __Columns {
            #[allow(unused_variables)]
            fn declare(#schema: &mut ::millrace_sdk::Schema) -> Self {
                #(#declare)*
                #(#look_up)*
                Self { #(#names,)* }
            }
        }
    }
}

fn getter(accessor: &Ident, kind: Kind, about: &str) -> TokenStream {
    let value = kind.value();
    let get = quote!(self.event.get(self.columns.#accessor));
    let get = if kind == Kind::Json { quote!(#get.map(::millrace_sdk::json::Value::of)) } else { get };
    quote! {
        #[doc = #about]
        #[inline]
        pub fn #accessor(&self) -> ::core::option::Option<#value> {
            #get
        }
    }
}

fn column(column: &Column) -> TokenStream {
    let Column { accessor, name, kind, .. } = column;
    let get = getter(accessor, *kind, &format!("The value of `{name}`; `None` if it is null."));
    let setters = column.setters();
    let [set, clear, with @ ..] = setters.as_slice() else { return get };
    let handle = kind.handle();
    let (about_set, about_clear) = (format!("Sets `{name}`."), format!("Makes `{name}` null."));
    let with = with.first().zip(kind.buffer()).map(|(with, buffer)| {
        let about = format!(
            "Sets `{name}` to what `write` appends to the buffer that it gets; it also gets the value of now. Nothing is \
             copied in between."
        );
        quote! {
            #[doc = #about]
            #[inline]
            pub fn #with(&mut self, write: impl ::core::ops::FnOnce(&#handle, &mut #buffer)) {
                self.event.set_with(self.columns.#accessor, write);
            }
        }
    });
    quote! {
        #get

        #[doc = #about_set]
        #[inline]
        pub fn #set(&mut self, value: impl ::millrace_sdk::IntoValue<#handle>) {
            value.set(&mut self.event, self.columns.#accessor);
        }

        #[doc = #about_clear]
        #[inline]
        pub fn #clear(&mut self) {
            self.event.set_null(self.columns.#accessor);
        }

        #with
    }
}

fn lookup(lookup: &Lookup) -> TokenStream {
    let Lookup { accessor, kind, table, column, .. } = lookup;
    getter(
        accessor,
        *kind,
        &format!(
            "The value of `{column}` in the row of the lookup table `{table}`; `None` if it is null or there is no row."
        ),
    )
}

fn codes(function: &Function, plan: &Plan) -> TokenStream {
    let visibility = &function.visibility;
    let variants = plan.codes.iter().map(|code| {
        let (variant, about) = (&code.variant, format!("`{}`", code.name));
        quote!(#[doc = #about] #variant)
    });
    quote! {
        /// The codes of drops and failures.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(dead_code)]
        #visibility enum Code {
            #(#variants,)*
        }

        #[allow(dead_code)]
        impl Code {
            /// An error that fails the event under this code; the message goes to the plugin's author.
            #visibility fn because(self, message: impl ::core::fmt::Display) -> ::millrace_sdk::Error {
                ::millrace_sdk::Error::coded(self as ::core::primitive::usize, ::core::option::Option::Some(&message))
            }
        }

        impl ::core::convert::From<Code> for ::millrace_sdk::Error {
            fn from(code: Code) -> Self {
                Self::coded(code as ::core::primitive::usize, ::core::option::Option::None)
            }
        }

        impl ::core::convert::From<Code> for ::core::primitive::usize {
            fn from(code: Code) -> Self {
                code as Self
            }
        }

        /// What becomes of an event.
        #visibility type Outcome = ::millrace_sdk::Outcome<Code>;
    }
}

fn plugin(function: &Function, plan: &Plan, config: Option<TokenStream>) -> TokenStream {
    let Function { visibility, name, .. } = function;
    let plugin = type_name(name);
    let about = format!("The plugin that [`{name}`] makes.");
    let codes = plan.codes.iter().map(|code| &code.name);
    let error = plan.error;
    let configured = config.as_ref().map(|_| quote!(, &self.config));
    let config = config.unwrap_or_else(|| quote!(::millrace_sdk::NoConfig));
    quote! {
        #[doc = #about]
        #[allow(dead_code, missing_debug_implementations)]
        #visibility struct #plugin {
            columns: __Columns,
            codes: ::millrace_sdk::Codes,
            config: #config,
        }

        impl ::millrace_sdk::Transform for #plugin {
            type Config = #config;
            const NAME: &'static ::core::primitive::str = ::core::env!("CARGO_PKG_NAME");
            const VERSION: &'static ::core::primitive::str = ::core::env!("CARGO_PKG_VERSION");

            fn configure(
                config: Self::Config,
                schema: &mut ::millrace_sdk::Schema,
            ) -> ::core::result::Result<Self, ::std::string::String> {
                let columns = __Columns::declare(schema);
                let codes = ::millrace_sdk::Codes::new(schema, &[#(#codes),*], #error);
                ::core::result::Result::Ok(Self { columns, codes, config })
            }

            #[inline]
            fn transform(&self, event: &mut ::millrace_sdk::Event<'_>) -> ::millrace_sdk::Outcome {
                let outcome = #name(&mut Event { event: event.reborrow(), columns: &self.columns } #configured);
                self.codes.outcome(event, outcome)
            }
        }

        ::millrace_sdk::export!(#plugin);

        // Natively nothing is exported: without tests nobody would use a plugin that is not public.
        const _: fn(&::core::primitive::str) -> ::core::result::Result<::millrace_sdk::Instance<#plugin>, ::std::string::String> =
            ::millrace_sdk::Instance::<#plugin>::new;
    }
}
