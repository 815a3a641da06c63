//! A configured plugin: the one path from a batch to an answer, in a guest and natively.

use serde::de::DeserializeOwned;

use crate::columns::{Batch, Manifest, Output};
use crate::event::{Event, Outcome, Rows, State};
use crate::schema::{Layout, Schema};

/// A transform, written by hand: [`#[transform]`](macro@crate::transform) writes it for plugins whose columns do not depend on
/// their configuration.
///
/// ```
/// use millrace_sdk::{Code, ColMut, Event, Outcome, Schema, Transform};
///
/// /// Cuts the queries off the columns that the configuration names.
/// struct CutQueries { urls: Vec<ColMut<str>>, empty: Code }
///
/// #[derive(serde::Deserialize)]
/// #[serde(deny_unknown_fields)]
/// struct Config { columns: Vec<String> }
///
/// impl Transform for CutQueries {
///     type Config = Config;
///     const NAME: &'static str = "cut-queries";
///     const VERSION: &'static str = "1.0.0";
///
///     fn configure(config: Config, schema: &mut Schema) -> Result<Self, String> {
///         let urls = config.columns.iter().map(|name| schema.update(name)).collect();
///         Ok(Self { urls, empty: schema.code("empty_url") })
///     }
///
///     fn transform(&self, event: &mut Event<'_>) -> Outcome {
///         for column in &self.urls {
///             let Some(url) = event.get(*column) else { continue };
///             let end = url.find('?').unwrap_or(url.len());
///             if end == 0 {
///                 return Outcome::Fail(self.empty);
///             }
///             event.set_with(*column, |url, out| out.push_str(&url[..end]));
///         }
///         Outcome::Keep
///     }
/// }
///
/// millrace_sdk::export!(CutQueries);
///
/// use millrace_sdk::columns::{Batch, Column, Returned};
/// let plugin = millrace_sdk::Instance::<CutQueries>::new(r#"{"columns": ["url"]}"#)?;
/// assert_eq!(plugin.manifest().writes, ["url"]);
/// let urls = Column::text([Some("https://shop.example/pay?card=1"), Some("?x"), None]);
/// let output = plugin.transform(Batch { rows: 3, columns: vec![urls] })?;
/// assert_eq!(output.columns, [Returned::Column(Column::text([Some("https://shop.example/pay"), None]))]);
/// assert_eq!(output.failed[0].row, 1);
/// # Ok::<(), String>(())
/// ```
///
/// `transform` takes `&self`: there is no state from one event to the next, so that the same event always gives the
/// same rows. There is also no clock, no randomness and no I/O, and a panic makes a dead letter of the event that
/// caused it and of no other.
pub trait Transform: Sized {
    /// The configuration, a JSON document. Refuse unknown fields (`#[serde(deny_unknown_fields)]`): a mistyped option
    /// must not pass for a default. A plugin without options has [`NoConfig`](crate::NoConfig).
    type Config: DeserializeOwned;

    /// `env!("CARGO_PKG_NAME")`: 1 to 64 characters of `a-z 0-9 -`, starting with a letter.
    const NAME: &'static str;

    /// `env!("CARGO_PKG_VERSION")`. What the plugin does is fixed by name and version: a change of behaviour is a new
    /// version.
    const VERSION: &'static str;

    /// Takes the configuration, declares columns and codes, and keeps the handles. The error is a message for whoever
    /// wrote the configuration.
    fn configure(config: Self::Config, schema: &mut Schema) -> Result<Self, String>;

    /// Transforms one event. Only a plugin that transforms whole batches, and does not call it, can leave it out.
    fn transform(&self, event: &mut Event<'_>) -> Outcome {
        let _ = event;
        panic!("{} has neither `transform` nor `transform_batch`", Self::NAME)
    }

    /// Transforms a batch; by default event by event. This is the columnar form, for plugins that look at whole columns
    /// first, keep buffers from one event to the next, or compute the keys of a lookup:
    ///
    /// ```
    /// # use millrace_sdk::{ColMut, Event, NoConfig, Outcome, Rows, Schema, Transform};
    /// # struct HideMail { url: ColMut<[u8]> }
    /// # impl Transform for HideMail {
    /// # type Config = NoConfig;
    /// # const NAME: &'static str = "hide-mail";
    /// # const VERSION: &'static str = "1.0.0";
    /// # fn configure(_: NoConfig, schema: &mut Schema) -> Result<Self, String> { Ok(Self { url: schema.update("url") }) }
    /// # fn transform(&self, event: &mut Event<'_>) -> Outcome { event.set_null(self.url); Outcome::Keep }
    /// fn transform_batch(&self, rows: &mut Rows<'_>) -> Result<(), String> {
    ///     // Most columns have no such character at all, and rows that are not visited cost nothing.
    ///     let view = rows.column(self.url);
    ///     if !view.all().is_some_and(|all| all.contains(&b'@')) {
    ///         return Ok(());
    ///     }
    ///     let with_mail = |row: &usize| view.get(*row).is_some_and(|url| url.contains(&b'@'));
    ///     let found: Vec<usize> = (0..rows.len()).filter(with_mail).collect();
    ///     for row in found {
    ///         rows.visit(row, |event| self.transform(event));
    ///     }
    ///     Ok(())
    /// }
    /// # }
    /// # use millrace_sdk::columns::{Batch, Column, Returned};
    /// # let columns = vec![Column::text([Some("/a"), Some("/?a@b.example"), None])];
    /// # let output = millrace_sdk::Instance::<HideMail>::new("")?.transform(Batch { rows: 3, columns })?;
    /// # assert_eq!(output.columns, [Returned::Column(Column::text([Some("/a"), None, None]))]);
    /// # Ok::<(), String>(())
    /// ```
    ///
    /// What becomes of an event must not depend on its neighbours: the
    /// host checks it by splitting batches at random. An error fails the batch if it has one row, and has the host
    /// split it and call again if it has more.
    fn transform_batch(&self, rows: &mut Rows<'_>) -> Result<(), String> {
        rows.each(|event| self.transform(event));
        Ok(())
    }
}

/// The configuration of a plugin without options: `{}`.
#[derive(Clone, Copy, Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoConfig {}

/// A configured plugin, run over plain columns without WebAssembly: what tests, goldens and benchmarks use, and what
/// the exported functions of a guest call.
#[derive(Debug)]
pub struct Instance<T> {
    plugin: T,
    manifest: Manifest,
    layout: Layout,
}

impl<T: Transform> Instance<T> {
    /// Configures the plugin with a JSON document; an empty text stands for `{}`.
    pub fn new(config: &str) -> Result<Self, String> {
        Self::configured(config, Schema::default())
    }

    /// The same with lookup tables, which a guest has of its host.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn with_tables(config: &str, tables: std::sync::Arc<dyn crate::tables::Tables>) -> Result<Self, String> {
        Self::configured(config, Schema::with_tables(tables))
    }

    fn configured(config: &str, mut schema: Schema) -> Result<Self, String> {
        let config = if config.trim().is_empty() { "{}" } else { config };
        let config = serde_json::from_str(config).map_err(|error| format!("the configuration is wrong: {error}"))?;
        let plugin = T::configure(config, &mut schema)?;
        let (manifest, layout) = schema.finish(T::NAME, T::VERSION)?;
        Ok(Self { plugin, manifest, layout })
    }

    /// What the plugin declares.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Transforms one batch, whose columns are those of [`Manifest::reads`].
    pub fn transform(&self, batch: Batch) -> Result<Output, String> {
        let mut state = State::new(&self.layout, batch)?;
        self.plugin.transform_batch(&mut Rows { state: &mut state })?;
        state.finish(&self.layout.specs)
    }
}
