//! What a plugin declares, and the handles by which it then reaches its columns without looking up a name.

use std::marker::PhantomData;

use crate::columns::{AddedColumn, ColumnType, Manifest};
use crate::kind::Kind;

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
}

#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) name: String,
    pub(crate) usage: Use,
    pub(crate) ty: ColumnType,
    /// Text as raw bytes rather than `str`.
    pub(crate) raw: bool,
}

/// Collects what a plugin declares in [`Transform::configure`](crate::Transform::configure).
///
/// The host sends only what is read and takes back only what is updated or added, so declare no column for its own
/// sake. What is declared may depend on the configuration.
#[derive(Debug, Default)]
pub struct Schema {
    pub(crate) specs: Vec<Spec>,
    codes: Vec<String>,
    error: Option<String>,
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
        let Some(slot) = self.specs.iter().position(|spec| spec.name == name) else {
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
            (Use::Add, _) | (_, Use::Add) => {
                self.fault(format!("column {name:?} is declared as a new one and as one that exists"));
            }
        }
        slot
    }

    fn fault(&mut self, message: String) {
        self.error.get_or_insert(message);
    }

    pub(crate) fn finish(self, name: &str, version: &str) -> Result<(Manifest, Vec<Spec>), String> {
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
            tables: Vec::new(),
            codes: self.codes,
        };
        Ok((manifest, self.specs))
    }
}
