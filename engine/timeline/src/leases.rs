//! Which worker does what, where several share one keyspace: the board on which they write it.
//!
//! ```text
//! ("w", "member", id)    Member: a counter that its worker moves while it lives
//! ("w", "lease", duty)   Lease: who does this duty, and for the how-many-eth time it was taken
//! ```
//! under the deployment's root, values as JSON, beside the catalogue and not in its export: the board of yesterday helps
//! nobody. It may be deleted as a whole at any time; the workers write it anew.
//!
//! A lease says who *should* do something. It keeps workers out of each other's way and never decides what may be
//! written: every commit of a store compares the cursor and the revision that it goes on from, so a worker that acts on a
//! lease that it has lost changes nothing. That is why no clock is part of the protocol.
//!
//! Each change is one compared batch, and what it compares is all that it relies on:
//!
//! | change | holds if |
//! |---|---|
//! | beat | the own counter is as it was read: whoever was taken for dead learns it here |
//! | bury | the other's counter is as it was read: it has not moved since it was taken for dead |
//! | take | the lease is as it was read, and its holder's member is absent |
//! | release | the lease is as it was read |

use std::collections::BTreeMap;

use bytes::Bytes;
use foundationdb_tuple::Subspace;
use millrace_keyspace::{Batch, Compare, KeyspaceError, Pair, Write};
use serde::{Deserialize, Serialize};

use crate::catalogue::{Catalogue, CatalogueError, from_json, to_json};

/// A worker that lives, or did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Moved by its worker, and by nobody else. It starts at 1.
    pub beat: u64,
}

/// Who does something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Id of the worker.
    pub holder: String,
    /// How often this lease was taken: grows by one each time.
    pub term: u64,
}

/// Everything on the board, as of one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Board {
    /// By worker id.
    pub members: BTreeMap<String, Member>,
    /// By duty.
    pub leases: BTreeMap<String, Lease>,
}

/// A change of the board.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BoardChange {
    /// A worker says that it lives.
    Beat {
        /// Its id.
        member: String,
        /// What the board said; `None`: it was not there.
        before: Option<Member>,
    },
    /// A worker that does not beat is taken off the board.
    Bury {
        /// Its id.
        member: String,
        /// What the board said.
        before: Member,
    },
    /// A lease that nobody holds is taken.
    Take {
        /// The duty.
        duty: String,
        /// Who takes it.
        member: String,
        /// What the board said; its holder is no member.
        before: Option<Lease>,
    },
    /// A lease is given back.
    Release {
        /// The duty.
        duty: String,
        /// What the board said.
        before: Lease,
    },
}

/// The parts of a deployment's root that the board lives in.
struct Keys {
    members: Subspace,
    leases: Subspace,
}

impl Keys {
    fn member(&self, id: &str) -> Bytes {
        self.members.pack(&(id,)).into()
    }

    fn lease(&self, duty: &str) -> Bytes {
        self.leases.pack(&(duty,)).into()
    }

    fn batch(&self, change: &BoardChange) -> Result<Batch, CatalogueError> {
        let compare = |key: &Bytes, expected: Option<Bytes>| Compare { key: key.clone(), expected };
        let stored = |member: &Option<Member>| member.as_ref().map(to_json).transpose();
        Ok(match change {
            BoardChange::Beat { member, before } => {
                let key = self.member(member);
                let beat = before.as_ref().map_or(1, |member| member.beat.wrapping_add(1));
                Batch {
                    compares: vec![compare(&key, stored(before)?)],
                    writes: vec![Write::Put(key, to_json(&Member { beat })?)],
                }
            }
            BoardChange::Bury { member, before } => {
                let key = self.member(member);
                Batch { compares: vec![compare(&key, Some(to_json(before)?))], writes: vec![Write::Delete(key)] }
            }
            BoardChange::Take { duty, member, before } => {
                let key = self.lease(duty);
                let mut compares = vec![compare(&key, before.as_ref().map(to_json).transpose()?)];
                if let Some(before) = before {
                    // It may have come back since the board was read.
                    compares.push(compare(&self.member(&before.holder), None));
                }
                let term = before.as_ref().map_or(1, |lease| lease.term.wrapping_add(1));
                let lease = Lease { holder: member.clone(), term };
                Batch { compares, writes: vec![Write::Put(key, to_json(&lease)?)] }
            }
            BoardChange::Release { duty, before } => {
                let key = self.lease(duty);
                Batch { compares: vec![compare(&key, Some(to_json(before)?))], writes: vec![Write::Delete(key)] }
            }
        })
    }
}

impl Catalogue {
    fn board_keys(&self) -> Keys {
        let board = self.root.subspace(&("w",));
        Keys { members: board.subspace(&("member",)), leases: board.subspace(&("lease",)) }
    }

    /// The board as it is now.
    ///
    /// # Errors
    /// When the keyspace fails, or the board was written by a later version.
    pub async fn board(&self) -> Result<Board, CatalogueError> {
        let keys = self.board_keys();
        let name = |space: &Subspace, key: &[u8]| match space.unpack::<(String,)>(key) {
            Ok((name,)) => Ok(name),
            Err(error) => {
                Err(CatalogueError::Unreadable { what: millrace_keyspace::display_key(key), detail: error.to_string() })
            }
        };
        // Members are read after the leases: a lease whose holder is missing then has none, whatever came between.
        let leases = self.scan(&keys.leases).await?;
        let members = self.scan(&keys.members).await?;
        let members = members.iter().map(|(key, value): &Pair| {
            Ok::<_, CatalogueError>((name(&keys.members, key)?, from_json::<Member>(value, "member")?))
        });
        let leases = leases.iter().map(|(key, value): &Pair| {
            Ok::<_, CatalogueError>((name(&keys.leases, key)?, from_json::<Lease>(value, "lease")?))
        });
        Ok(Board { members: members.collect::<Result<_, _>>()?, leases: leases.collect::<Result<_, _>>()? })
    }

    /// Makes a change; `false` where what it relies on does not hold any more.
    ///
    /// # Errors
    /// When the keyspace fails. Whether the change was made may then be unknown: the board tells at the next look.
    pub async fn change_board(&self, change: &BoardChange) -> Result<bool, CatalogueError> {
        match self.keyspace().commit(self.board_keys().batch(change)?).await {
            Ok(()) => Ok(true),
            Err(KeyspaceError::Conflict { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes a worker that stops off the board, with the leases that it holds.
    ///
    /// # Errors
    /// When the keyspace fails: the others find out by themselves.
    pub async fn leave_board(&self, member: &str) -> Result<(), CatalogueError> {
        let board = self.board().await?;
        for (duty, before) in board.leases.into_iter().filter(|(_, lease)| lease.holder == member) {
            self.change_board(&BoardChange::Release { duty, before }).await?;
        }
        if let Some(before) = board.members.get(member).cloned() {
            self.change_board(&BoardChange::Bury { member: member.to_owned(), before }).await?;
        }
        Ok(())
    }
}
