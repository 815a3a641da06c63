//! What the arguments mean: columns with their kinds and accessors, lookups, codes.

use std::collections::BTreeMap;

use proc_macro2::{Ident, Span, TokenStream};
use quote::ToTokens;
use syn::Type;
use syn::ext::IdentExt as _;
use syn::parse::{ParseStream, Parser as _};

use crate::fault::{Fault, Faults, did_you_mean};
use crate::kind::{BASE, Base, Kind};
use crate::sections::{self, Content, Section, Sections, list};

/// How a column is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Usage {
    Read,
    Write,
    Add,
}

/// A declared column.
pub(crate) struct Column {
    /// The author's token.
    token: Ident,
    pub(crate) name: String,
    pub(crate) accessor: Ident,
    pub(crate) kind: Kind,
    pub(crate) usage: Usage,
}

/// A declared lookup.
pub(crate) struct Lookup {
    pub(crate) accessor: Ident,
    pub(crate) kind: Kind,
    pub(crate) table: String,
    /// The accessor of the key.
    pub(crate) key: Ident,
    pub(crate) column: String,
}

/// A declared code.
pub(crate) struct Code {
    pub(crate) name: String,
    pub(crate) variant: Ident,
}

/// All that the arguments say.
pub(crate) struct Plan {
    pub(crate) columns: Vec<Column>,
    pub(crate) lookups: Vec<Lookup>,
    pub(crate) codes: Vec<Code>,
    /// Index of the code of errors.
    pub(crate) error: usize,
    pub(crate) config: Option<Type>,
}

const SECTIONS: [&str; 7] = ["reads", "writes", "adds", "codes", "lookups", "error", "config"];

/// Columns of rows that plugins do not get.
const LINEAGE: [&str; 4] = ["_partition", "_offset", "_sub", "_revision"];

/// The code of errors, unless another is named.
const ERROR: &str = "error";

impl Plan {
    pub(crate) fn parse(tokens: TokenStream) -> Result<Self, Faults> {
        let Sections(sections) = syn::parse2(tokens)?;
        let mut faults = Faults::default();
        let mut plan = Self { columns: Vec::new(), lookups: Vec::new(), codes: Vec::new(), error: 0, config: None };
        let mut seen: Vec<String> = Vec::new();
        let mut error = None;
        for section in &sections {
            let name = section.name.unraw().to_string();
            if seen.contains(&name) {
                faults.add(&section.name, format!("`{name}` is given twice: put both into one"));
            }
            match name.as_str() {
                "reads" => plan.columns(section, Usage::Read, &mut faults),
                "writes" => plan.columns(section, Usage::Write, &mut faults),
                "adds" => plan.columns(section, Usage::Add, &mut faults),
                "codes" => {
                    for sections::Code(code) in items(section, sections::list::<sections::Code>, &mut faults) {
                        plan.code(&code, &mut faults);
                    }
                }
                // The key may be declared behind it.
                "lookups" => {}
                "error" => error = faults.take(value(section)).and_then(|ty| faults.take(one_word(ty))),
                "config" => plan.config = faults.take(value(section)).cloned(),
                _ => {
                    let hint = did_you_mean(&name, SECTIONS);
                    let known = SECTIONS.map(|name| format!("`{name}`")).join(", ");
                    faults.add(&section.name, format!("unknown argument `{name}`{hint} There are {known}"));
                }
            }
            seen.push(name);
        }
        for section in sections.iter().filter(|section| section.name == "lookups") {
            plan.lookups(section, &mut faults);
        }
        let error = error.unwrap_or_else(|| Ident::new(ERROR, Span::call_site()));
        match plan.codes.iter().position(|code| error == code.name) {
            Some(at) => plan.error = at,
            None => {
                plan.error = plan.codes.len();
                plan.code(&error, &mut faults);
            }
        }
        plan.check_accessors(&mut faults);
        faults.none_or(plan)
    }

    fn columns(&mut self, section: &Section, usage: Usage, faults: &mut Faults) {
        for column in items(section, list::<sections::Column>, faults) {
            let name = column.name.unraw().to_string();
            let Some(kind) = faults.take(kind_of(&column, &name, usage)) else { continue };
            let Some(accessor) = faults.take(accessor(&column, &name)) else { continue };
            let Some(known) = self.columns.iter_mut().find(|known| known.name == name) else {
                self.columns.push(Column { token: column.name, name, accessor, kind, usage });
                continue;
            };
            if (known.usage == Usage::Add) != (usage == Usage::Add) {
                faults.add(
                    &column.name,
                    format!(
                        "`{name}` is a new column and one that exists: a column that is added can be read as it is"
                    ),
                );
            } else if column.kind.is_some() && known.kind != kind {
                let message = format!("`{name}` is of kind {} here and {} above", kind.name(), known.kind.name());
                faults.add(&column.kind, message);
            } else if column.accessor.as_ref().is_some_and(|accessor| *accessor != known.accessor) {
                faults.add(&column.accessor, format!("`{name}` has two names: give it one, where it stands first"));
            } else if usage == Usage::Write {
                known.usage = Usage::Write;
            }
        }
    }

    fn code(&mut self, token: &Ident, faults: &mut Faults) {
        let name = token.unraw().to_string();
        let legal = matches!(name.len(), 1..=64)
            && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
        let variant = camel_case(&name);
        let named = syn::parse_str::<Ident>(&variant).is_ok();
        if !legal || !named {
            faults.add(token, format!("code `{name}` must be 1 to 64 characters of a-z 0-9 _, as in `no_price`"));
        } else if self.codes.iter().any(|code| code.variant == variant) {
            faults.add(token, format!("code `{name}` is declared twice"));
        } else {
            self.codes.push(Code { name, variant: Ident::new(&variant, token.span()) });
        }
    }

    fn lookups(&mut self, section: &Section, faults: &mut Faults) {
        for lookup in items(section, list::<sections::Lookup>, faults) {
            let Some(ty) = &lookup.kind else {
                let name = &lookup.accessor;
                let message = format!("say what kind of value the table has: `{name}: str = table[key].column`");
                faults.add(name, message);
                continue;
            };
            let Some(kind) = faults.take(Kind::parse(ty)) else { continue };
            let key = lookup.key.unraw().to_string();
            let column = self.columns.iter().find(|column| column.name == key && column.usage != Usage::Add);
            let column = column.map(|column| &column.accessor);
            let found = self.lookups.iter().find(|found| found.accessor == lookup.key).map(|found| &found.accessor);
            let Some(key) = column.or(found).cloned() else {
                let hint = if self.columns.iter().any(|column| column.name == key) {
                    "is added by this plugin, it has no values yet: compute keys in `Transform::transform_batch`"
                        .to_owned()
                } else {
                    format!("is not read: add it to `reads({key})`")
                };
                faults.add(&lookup.key, format!("the key `{key}` {hint}"));
                continue;
            };
            let (sections::Name(table), sections::Name(column)) = (lookup.table, lookup.column);
            self.lookups.push(Lookup { accessor: lookup.accessor, kind, table, key, column });
        }
    }

    /// Two accessors of one name would be told by the compiler, but not in words that name the columns.
    fn check_accessors(&self, faults: &mut Faults) {
        let mut taken: BTreeMap<String, String> = BTreeMap::from([("emit".to_owned(), "the event".to_owned())]);
        if self.has_property() {
            taken.insert("property".to_owned(), "`properties`".to_owned());
        }
        let columns = self.columns.iter().map(|column| (&column.token, &column.accessor, column.setters()));
        let lookups = self.lookups.iter().map(|lookup| (&lookup.accessor, &lookup.accessor, Vec::new()));
        for (token, accessor, setters) in columns.chain(lookups) {
            let getter = std::iter::once(accessor.unraw().to_string());
            for method in getter.chain(setters.iter().map(Ident::to_string)) {
                if let Some(owner) = taken.insert(method.clone(), format!("`{token}`")) {
                    faults.add(
                        token,
                        format!(
                            "`{token}` and {owner} would both have the method `{method}`: say `{token} as another_name`"
                        ),
                    );
                    break;
                }
            }
        }
    }

    /// Whether the event has the short form for a value of `properties`.
    pub(crate) fn has_property(&self) -> bool {
        self.columns.iter().any(|column| column.name == "properties" && column.kind == Kind::Json)
    }
}

impl Column {
    /// The names of the methods that change it.
    pub(crate) fn setters(&self) -> Vec<Ident> {
        if self.usage == Usage::Read {
            return Vec::new();
        }
        let name = self.accessor.unraw();
        let mut setters = vec![format!("set_{name}"), format!("clear_{name}")];
        setters.extend(self.kind.buffer().map(|_| format!("set_{name}_with")));
        setters.iter().map(|setter| Ident::new(setter, self.accessor.span())).collect()
    }
}

/// The items of a section that is a list.
fn items<T>(section: &Section, parser: fn(ParseStream<'_>) -> syn::Result<Vec<T>>, faults: &mut Faults) -> Vec<T> {
    let name = &section.name;
    match &section.content {
        Content::List(tokens) => faults.take(parser.parse2(tokens.clone())).unwrap_or_default(),
        _ => {
            faults.add(name, format!("`{name}` has a list in parentheses: `{name}(…)`"));
            Vec::new()
        }
    }
}

/// The value of a section that has one.
fn value(section: &Section) -> Result<&Type, Fault> {
    let name = &section.name;
    match &section.content {
        Content::Value(value) => Ok(value),
        _ => Err(Fault::new(name, format!("`{name}` has one value: `{name} = …`"))),
    }
}

fn one_word(ty: &Type) -> Result<Ident, Fault> {
    syn::parse2(ty.to_token_stream()).map_err(|_| Fault::new(ty, "a code is one word, as in `error = no_price`"))
}

fn base(name: &str) -> Option<&'static Base> {
    BASE.iter().find(|base| base.name == name)
}

fn kind_of(column: &sections::Column, name: &str, usage: Usage) -> Result<Kind, Fault> {
    let token = &column.name;
    let given = column.kind.as_ref().map(Kind::parse).transpose()?;
    if LINEAGE.contains(&name) {
        return Err(Fault::new(
            token,
            format!("no plugin sees where an event lies in the log: `{name}` is the host's"),
        ));
    }
    match (base(name), usage) {
        (Some(_), Usage::Add) => Err(Fault::new(
            token,
            format!("`{name}` exists in every event and can't be added: to change it, say `writes({name})`"),
        )),
        (Some(base), Usage::Write) if !base.writable => {
            Err(Fault::new(token, format!("`{name}` tells where an event comes from: it can be read, not written")))
        }
        (Some(base), _) => match given {
            Some(given) if !base.kind.can_be(given) => {
                Err(Fault::new(&column.kind, format!("`{name}` is of kind {}", base.kind.name())))
            }
            given => Ok(given.unwrap_or(base.kind)),
        },
        (None, Usage::Add) => {
            let legal = name.len() <= 64
                && name.starts_with(|c: char| c.is_ascii_lowercase())
                && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
            if !legal || name == "event_date" {
                return Err(Fault::new(
                    token,
                    format!(
                        "`{name}` can't be added: names are 1 to 64 characters of a-z 0-9 _, begin with a letter, and are not taken"
                    ),
                ));
            }
            given.ok_or_else(|| Fault::new(token, format!("say what kind of column it is: `{name}: str`, or another")))
        }
        (None, _) => given.ok_or_else(|| {
            let hint = did_you_mean(name, BASE.iter().map(|base| base.name));
            let hint = if hint.is_empty() { String::new() } else { format!("{hint} Else") };
            let hint = if hint.is_empty() { ":".to_owned() } else { hint };
            Fault::new(token, format!("not every event has `{name}`{hint} say of what kind it is, as in `{name}: str`"))
        }),
    }
}

/// The name of the getter.
fn accessor(column: &sections::Column, name: &str) -> Result<Ident, Fault> {
    if let Some(accessor) = &column.accessor {
        return Ok(accessor.clone());
    }
    if syn::parse_str::<Ident>(name).is_ok() {
        return Ok(Ident::new(name, column.name.span()));
    }
    match name {
        "self" | "Self" | "super" | "crate" | "_" => {
            Err(Fault::new(&column.name, format!("`{name}` means something in Rust: say `{name} as another_name`")))
        }
        keyword => Ok(Ident::new_raw(keyword, column.name.span())),
    }
}

fn camel_case(name: &str) -> String {
    let words = name.split('_').map(|word| {
        let mut letters = word.chars();
        letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect::<String>()
    });
    words.collect()
}

/// The name of the plugin's type, after its function.
pub(crate) fn type_name(function: &Ident) -> Ident {
    Ident::new(&camel_case(&function.unraw().to_string()), function.span())
}
