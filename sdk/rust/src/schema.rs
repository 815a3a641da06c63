//! What a plugin declares, and the handles by which it then reaches its columns without looking up a name.

use std::marker::PhantomData;
use std::sync::Arc;

use crate::columns::{AddedColumn, ColumnType, Manifest};
use crate::kind::Kind;
use crate::tables::{Lookup, Table, Tables};

/// A column that is read.
pub struct Col<T: ?Sized> {
    pub(crate) slot: usize,
    kind: PhantomData<fn() -> Box<T>>,
}

/// A column that is read and written.
pub struct ColMut<T: ?Sized> {
    pub(crate) slot: usize,
    kind: PhantomData<fn() -> Box<T>>,
}

/// A code of a drop or a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code(pub(crate) u32);

macro_rules! handle {
    ($name:ident) => {
        impl<T: ?Sized> Clone for $name<T> {
            fn clone(&self) -> Self {
                *self
            }
        }
        impl<T: ?Sized> Copy for $name<T> {}
        impl<T: ?Sized> std::fmt::Debug for $name<T> {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.slot)
            }
        }
        impl<T: Kind + ?Sized> Handle for $name<T> {
            type Kind = T;
            fn slot(self) -> usize {
                self.slot
            }
        }
    };
}
handle!(Col);
handle!(ColMut);

/// Either kind of handle: what can be read.
pub trait Handle: Copy {
    /// The kind of its values.
    type Kind: Kind + ?Sized;
    #[doc(hidden)]
    fn slot(self) -> usize;
}

/// How a plugin uses a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    Read,
    Update,
    Add,
    /// Filled by a lookup before the first event.
    Lookup,
}

#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) name: String,
    pub(crate) usage: Use,
    pub(crate) ty: ColumnType,
    /// Text as raw bytes rather than `str`.
    pub(crate) raw: bool,
}

impl Spec {
    /// Whether the host sends it.
    pub(crate) fn is_sent(&self) -> bool {
        matches!(self.usage, Use::Read | Use::Update)
    }
}

/// Collects what a plugin declares in [`Transform::configure`](crate::Transform::configure).
///
/// The host sends only what is read and takes back only what is updated or added, so declare no column for its own
/// sake. What is declared may depend on the configuration.
#[derive(Debug, Default)]
pub struct Schema {
    specs: Vec<Spec>,
    lookups: Vec<Lookup>,
    tables: Vec<Table>,
    codes: Vec<String>,
    error: Option<String>,
    /// Where tables come from natively; a guest asks its host.
    #[cfg(not(target_arch = "wasm32"))]
    source: Option<Arc<dyn Tables>>,
}

/// A configured plugin's columns, and the lookups that fill some of them.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) specs: Vec<Spec>,
    pub(crate) lookups: Vec<Lookup>,
}

impl Schema {
    /// A column to read. Naming a column twice gives the same handle.
    pub fn read<T: Kind + ?Sized>(&mut self, name: &str) -> Col<T> {
        Col { slot: self.declare::<T>(name, Use::Read), kind: PhantomData }
    }

    /// A column to read and to change. Rows that are not set keep their value.
    pub fn update<T: Kind + ?Sized>(&mut self, name: &str) -> ColMut<T> {
        ColMut { slot: self.declare::<T>(name, Use::Update), kind: PhantomData }
    }

    /// A new column. Rows that are not set are null.
    pub fn add<T: Kind + ?Sized>(&mut self, name: &str) -> ColMut<T> {
        ColMut { slot: self.declare::<T>(name, Use::Add), kind: PhantomData }
    }

    /// A lookup table. Naming one twice gives the same.
    pub fn table(&mut self, name: &str) -> Table {
        if let Some(table) = self.tables.iter().find(|table| table.name() == name) {
            return table.clone();
        }
        let table = Table::new(name, self.source());
        self.tables.push(table.clone());
        table
    }

    // Only a plugin that declares a table gets here, so only its component imports the host's functions for them.
    fn source(&self) -> Arc<dyn Tables> {
        #[cfg(target_arch = "wasm32")]
        return Arc::new(crate::guest::HostTables);
        #[cfg(not(target_arch = "wasm32"))]
        self.source.clone().unwrap_or_else(|| Arc::new(crate::tables::NoTables))
    }

    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn with_tables(source: Arc<dyn Tables>) -> Self {
        Self { source: Some(source), ..Self::default() }
    }

    /// A column of what `table` has for each event: the value of its `column` in the row of the key that the event has in
    /// `key`, as that was sent. Null where the key is, or where the table has no row for it. The SDK makes one call for a
    /// batch and a key, whatever the number of columns. The key may itself come from a lookup.
    ///
    /// ```
    /// # use millrace_sdk::{Col, ColMut, Event, NoConfig, Outcome, Schema, Transform};
    /// struct Country { name: Col<str>, country: ColMut<str> }
    ///
    /// impl Transform for Country {
    ///     # type Config = NoConfig;
    ///     # const NAME: &'static str = "country";
    ///     # const VERSION: &'static str = "1.0.0";
    ///     // type Config, NAME and VERSION
    ///     fn configure(_: NoConfig, schema: &mut Schema) -> Result<Self, String> {
    ///         let ip: Col<str> = schema.read("ip");
    ///         Ok(Self { name: schema.lookup("countries", ip, "name"), country: schema.add("country") })
    ///     }
    ///
    ///     fn transform(&self, event: &mut Event<'_>) -> Outcome {
    ///         event.copy(self.name, self.country);
    ///         Outcome::Keep
    ///     }
    /// }
    /// ```
    pub fn lookup<T: Kind + ?Sized>(&mut self, table: &str, key: impl Handle, column: &str) -> Col<T> {
        let key = key.slot();
        let table = self.table(table);
        let shown = format!("{}.{column}", table.name());
        if self.specs.get(key).is_none_or(|spec| spec.usage == Use::Add) {
            self.fault(format!("the key of a lookup in {:?} is a column that this plugin adds", table.name()));
        }
        self.check_table_column(&table, column, T::TYPE);
        let same = |lookup: &&mut Lookup| lookup.table.name() == table.name() && lookup.key == key;
        let known = self.lookups.iter_mut().find(same);
        if let Some((_, slot)) =
            known.as_ref().and_then(|lookup| lookup.wanted.iter().find(|(wanted, _)| wanted == column))
        {
            let spec = &self.specs[*slot];
            if (spec.ty, spec.raw) == (T::TYPE, T::RAW) {
                return Col { slot: *slot, kind: PhantomData };
            }
        }
        let slot = self.specs.len();
        match known {
            Some(lookup) => lookup.wanted.push((column.to_owned(), slot)),
            None => self.lookups.push(Lookup { table, key, wanted: vec![(column.to_owned(), slot)] }),
        }
        self.specs.push(Spec { name: shown, usage: Use::Lookup, ty: T::TYPE, raw: T::RAW });
        Col { slot, kind: PhantomData }
    }

    /// A table that is there must have the column; one that is not may come later.
    fn check_table_column(&mut self, table: &Table, column: &str, ty: ColumnType) {
        let Some(columns) = table.columns() else { return };
        match columns.iter().find(|known| known.name == column) {
            Some(known) if known.ty == ty => {}
            Some(known) => self.fault(format!(
                "column {column:?} of lookup table {:?} is of type {}, the plugin reads {ty}",
                table.name(),
                known.ty
            )),
            None => {
                let names: Vec<_> = columns.iter().map(|known| known.name.as_str()).collect();
                self.fault(format!(
                    "lookup table {:?} has no column {column:?}; it has {}",
                    table.name(),
                    names.join(", ")
                ));
            }
        }
    }

    /// A code for [`Outcome::Drop`](crate::Outcome::Drop) or [`Outcome::Fail`](crate::Outcome::Fail): 1 to 64
    /// characters of `a-z 0-9 _`. It is kept in dead letters and metrics, so it must say nothing of the event.
    pub fn code(&mut self, code: &str) -> Code {
        let at = self.codes.iter().position(|known| known == code).unwrap_or_else(|| {
            let legal = matches!(code.len(), 1..=64)
                && code.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
            if !legal {
                self.fault(format!("code {code:?} must be 1 to 64 characters of a-z 0-9 _"));
            }
            self.codes.push(code.to_owned());
            self.codes.len() - 1
        });
        Code(at as u32)
    }

    fn declare<T: Kind + ?Sized>(&mut self, name: &str, usage: Use) -> usize {
        let of_event = |spec: &Spec| spec.usage != Use::Lookup && spec.name == name;
        let Some(slot) = self.specs.iter().position(of_event) else {
            self.specs.push(Spec { name: name.to_owned(), usage, ty: T::TYPE, raw: T::RAW });
            return self.specs.len() - 1;
        };
        let spec = &mut self.specs[slot];
        if (spec.ty, spec.raw) != (T::TYPE, T::RAW) {
            let message = format!("column {name:?} is declared as two different types ({} and {})", spec.ty, T::TYPE);
            self.fault(message);
            // A handle of another type must not point at this slot, even on the way to the error.
            self.specs.push(Spec { name: name.to_owned(), usage, ty: T::TYPE, raw: T::RAW });
            return self.specs.len() - 1;
        }
        match (spec.usage, usage) {
            (Use::Add, Use::Add) | (Use::Read | Use::Update, Use::Read) => {}
            (Use::Read | Use::Update, Use::Update) => spec.usage = Use::Update,
            (Use::Add | Use::Lookup, _) | (_, Use::Add | Use::Lookup) => {
                self.fault(format!("column {name:?} is declared as a new one and as one that exists"));
            }
        }
        slot
    }

    fn fault(&mut self, message: String) {
        self.error.get_or_insert(message);
    }

    pub(crate) fn finish(self, name: &str, version: &str) -> Result<(Manifest, Layout), String> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let names = |wanted: &[Use]| -> Vec<String> {
            self.specs.iter().filter(|spec| wanted.contains(&spec.usage)).map(|spec| spec.name.clone()).collect()
        };
        let manifest = Manifest {
            name: name.to_owned(),
            version: version.to_owned(),
            reads: names(&[Use::Read, Use::Update]),
            writes: names(&[Use::Update]),
            adds: self
                .specs
                .iter()
                .filter(|spec| spec.usage == Use::Add)
                .map(|spec| AddedColumn { name: spec.name.clone(), ty: spec.ty })
                .collect(),
            tables: self.tables.iter().map(|table| table.name().to_owned()).collect(),
            codes: self.codes,
        };
        Ok((manifest, Layout { specs: self.specs, lookups: self.lookups }))
    }
}
