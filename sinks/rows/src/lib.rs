//! The row contract that the engine and every store share.
//!
//! * [`schema`]: the event columns, their types, which of them a plugin may write.
//! * [`position`]: where a consumer stands in the log ([`Cursor`], [`LogId`], [`Mark`]).
//! * [`mod@slice`]: a contiguous, transformed range of one log partition: what a store commits.
//! * [`store`]: the trait that every store implements, and its errors.
//! * [`canonical`]: the byte form of one row. It is the value in the history and the input of the row hash by which
//!   stores are compared.
//! * [`varint`]: numbers of few bytes, for formats.
//! * [`check`]: the checks that every row passes after the last transform.
//!
//! Nothing here knows of WebAssembly, of JSON decoding or of any particular store.

pub mod canonical;
pub mod check;
pub mod position;
pub mod rewrite;
pub mod schema;
pub mod slice;
pub mod store;
pub mod varint;

pub use position::{Cursor, LogId, Mark};
pub use rewrite::{Backlog, HeldBack, Reason, Rewrite, Rewriter};
pub use schema::ColumnType;
pub use slice::{DeadLetter, Slice};
pub use store::{Job, Store, StoreError, StoreState};
