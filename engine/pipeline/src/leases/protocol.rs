//! What a worker does when it looks at the board: a pure function of the board and of its own looks before.
//!
//! Time is counted in looks. A member whose counter stands still for [`STILL_LOOKS_MAX`] looks *of this worker* is taken
//! for dead; how long a look of the other takes does not matter to anybody. Workers that look at different paces, or
//! sleep through some looks, come to different conclusions for a while: each change on the board compares what it relies
//! on, so the worst that comes of it is that a duty changes hands twice.

use std::collections::{BTreeMap, BTreeSet};

use millrace_timeline::leases::{Board, BoardChange, Lease};

/// Looks after which a member whose counter has not moved is taken for dead, and after which a worker that could not look
/// gives up what it held.
pub const STILL_LOOKS_MAX: u32 = 6;

/// A worker's memory of its looks.
#[derive(Debug)]
pub struct Protocol {
    me: String,
    others: BTreeMap<String, Seen>,
}

#[derive(Debug)]
struct Seen {
    beat: u64,
    /// Looks since it moved.
    still: u32,
}

/// What follows from a look.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// The duties that this worker has, before the changes.
    pub held: BTreeSet<String>,
    /// Changes to make, in this order, each for itself.
    pub changes: Vec<BoardChange>,
}

impl Protocol {
    /// Of a worker with this id, which no other process has or had.
    pub fn new(me: String) -> Self {
        Self { me, others: BTreeMap::new() }
    }

    /// The worker's id.
    pub fn me(&self) -> &str {
        &self.me
    }

    /// Looks at the board. `pools` are the duties that there are; the workers share each pool evenly.
    pub fn look(&mut self, board: &Board, pools: &[Vec<String>]) -> Look {
        let before = board.members.get(&self.me).cloned();
        let joined = before.is_some();
        let mut changes = vec![BoardChange::Beat { member: self.me.clone(), before }];
        let dead = self.count(board);
        for member in &dead {
            if let Some(before) = board.members.get(member).cloned() {
                changes.push(BoardChange::Bury { member: member.clone(), before });
            }
        }
        if !joined {
            // Whoever is not on the board can't hold anything on it.
            return Look { held: BTreeSet::new(), changes };
        }
        let mine = |lease: &Lease| lease.holder == self.me;
        let mut held = BTreeSet::new();
        let duties: BTreeSet<&String> = pools.iter().flatten().collect();
        for (duty, lease) in board.leases.iter().filter(|(duty, lease)| mine(lease) && !duties.contains(duty)) {
            changes.push(BoardChange::Release { duty: duty.clone(), before: lease.clone() });
        }
        let live: Vec<&String> = board.members.keys().filter(|member| !dead.contains(*member)).collect();
        let rank = live.iter().position(|member| **member == self.me).unwrap_or(0);
        for (number, pool) in pools.iter().enumerate() {
            // Whoever has one more of one pool has one less of the next.
            let share = share(pool.len(), live.len(), (rank + number) % live.len().max(1));
            let (have, others): (Vec<&String>, Vec<&String>) =
                pool.iter().partition(|duty| board.leases.get(*duty).is_some_and(mine));
            for (place, duty) in have.iter().enumerate() {
                let Some(lease) = board.leases.get(*duty).filter(|_| place >= share) else {
                    held.insert((*duty).clone());
                    continue;
                };
                changes.push(BoardChange::Release { duty: (*duty).clone(), before: lease.clone() });
            }
            let mut free: Vec<&String> = others.into_iter().filter(|duty| is_free(board, duty)).collect();
            // Each begins elsewhere, so that they do not all reach for the same.
            let begin = free.len() * rank / live.len().max(1);
            free.rotate_left(begin);
            for duty in free.into_iter().take(share.saturating_sub(have.len())) {
                let before = board.leases.get(duty).cloned();
                changes.push(BoardChange::Take { duty: duty.clone(), member: self.me.clone(), before });
            }
        }
        Look { held, changes }
    }

    /// Counts for how long the others' counters have stood still, and gives those that are taken for dead.
    fn count(&mut self, board: &Board) -> BTreeSet<String> {
        self.others.retain(|member, _| board.members.contains_key(member));
        let mut dead = BTreeSet::new();
        for (id, member) in board.members.iter().filter(|(id, _)| **id != self.me) {
            let seen = self.others.entry(id.clone()).or_insert(Seen { beat: member.beat, still: 0 });
            if seen.beat == member.beat {
                seen.still = seen.still.saturating_add(1);
            } else {
                *seen = Seen { beat: member.beat, still: 0 };
            }
            if seen.still > STILL_LOOKS_MAX {
                dead.insert(id.clone());
            }
        }
        dead
    }
}

/// How many of a pool's duties the worker of this rank has when `workers` share them evenly.
fn share(duties: usize, workers: usize, rank: usize) -> usize {
    let workers = workers.max(1);
    duties / workers + usize::from(rank < duties % workers)
}

/// Nobody holds it: no lease, or one of a worker that is not there any more.
fn is_free(board: &Board, duty: &str) -> bool {
    board.leases.get(duty).is_none_or(|lease| !board.members.contains_key(&lease.holder))
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_timeline::leases::Member;
    use proptest::prelude::*;

    fn board(members: &[(&str, u64)], leases: &[(&str, &str)]) -> Board {
        Board {
            members: members.iter().map(|(id, beat)| ((*id).to_owned(), Member { beat: *beat })).collect(),
            leases: leases
                .iter()
                .map(|(duty, holder)| ((*duty).to_owned(), Lease { holder: (*holder).to_owned(), term: 1 }))
                .collect(),
        }
    }

    fn pool(names: &[&str]) -> Vec<Vec<String>> {
        vec![names.iter().map(|name| (*name).to_owned()).collect()]
    }

    fn takes(look: &Look) -> Vec<&str> {
        let taken = look.changes.iter().filter_map(|change| match change {
            BoardChange::Take { duty, .. } => Some(duty.as_str()),
            _ => None,
        });
        taken.collect()
    }

    #[test]
    fn a_newcomer_beats_first_and_takes_at_its_next_look() {
        let mut protocol = Protocol::new("a".into());
        let first = protocol.look(&board(&[], &[]), &pool(&["p0", "p1"]));
        assert_eq!(first.changes, [BoardChange::Beat { member: "a".into(), before: None }]);
        let second = protocol.look(&board(&[("a", 1)], &[]), &pool(&["p0", "p1"]));
        assert_eq!(takes(&second), ["p0", "p1"]);
        let third = protocol.look(&board(&[("a", 2)], &[("p0", "a"), ("p1", "a")]), &pool(&["p0", "p1"]));
        assert_eq!(third.held.len(), 2);
        assert_eq!(third.changes.len(), 1, "nothing but the beat");
    }

    #[test]
    fn the_one_with_too_much_gives_back_and_the_other_waits_for_it() {
        let shared = board(&[("a", 9), ("b", 1)], &[("p0", "a"), ("p1", "a"), ("p2", "a")]);
        let names = pool(&["p0", "p1", "p2"]);
        let a = Protocol::new("a".into()).look(&shared, &names);
        assert_eq!(a.held, BTreeSet::from(["p0".to_owned(), "p1".to_owned()]));
        assert!(a.changes.iter().any(|change| matches!(change, BoardChange::Release { duty, .. } if duty == "p2")));
        let b = Protocol::new("b".into()).look(&shared, &names);
        assert!(takes(&b).is_empty(), "everything is held");
    }

    #[test]
    fn a_member_is_buried_after_it_stood_still_and_only_by_whoever_saw_that() {
        let names = pool(&["p0"]);
        let mut protocol = Protocol::new("b".into());
        let held = [("p0", "a")];
        for beat in 1..=u64::from(STILL_LOOKS_MAX) {
            let look = protocol.look(&board(&[("a", 1), ("b", beat)], &held), &names);
            assert_eq!(look.changes.len(), 1, "{look:?}");
        }
        let look = protocol.look(&board(&[("a", 2), ("b", 8)], &held), &names);
        assert_eq!(look.changes.len(), 1, "it moved");
        for beat in 1..=u64::from(STILL_LOOKS_MAX) {
            assert_eq!(protocol.look(&board(&[("a", 2), ("b", 8 + beat)], &held), &names).changes.len(), 1);
        }
        let look = protocol.look(&board(&[("a", 2), ("b", 20)], &held), &names);
        assert!(look.changes.contains(&BoardChange::Bury { member: "a".into(), before: Member { beat: 2 } }));
        assert!(takes(&look).is_empty(), "it is free once the member is gone");
        let look = protocol.look(&board(&[("b", 21)], &held), &names);
        assert_eq!(takes(&look), ["p0"]);
    }

    #[test]
    fn duties_that_are_no_more_are_given_back() {
        let look = Protocol::new("a".into()).look(&board(&[("a", 1)], &[("old", "a"), ("p0", "a")]), &pool(&["p0"]));
        assert!(look.changes.iter().any(|change| matches!(change, BoardChange::Release { duty, .. } if duty == "old")));
        assert_eq!(look.held, BTreeSet::from(["p0".to_owned()]));
    }

    proptest! {
        #[test]
        fn shares_add_up_and_differ_by_one(duties in 0usize..200, workers in 1usize..20) {
            let shares: Vec<usize> = (0..workers).map(|rank| share(duties, workers, rank)).collect();
            prop_assert_eq!(shares.iter().sum::<usize>(), duties);
            let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
            prop_assert!(most - least <= 1);
        }
    }
}
