//! What an error of FoundationDB means for a caller: decided here, apart from the client library, so that it is tested
//! without it.

use crate::KeyspaceError;

/// Attempts at one batch or one snapshot after the first, at most; the transaction's timeout bounds their time. The client
/// library waits between them, longer each time, a second at most.
pub(super) const RETRIES_MAX: u32 = 20;

const TOO_OLD: i32 = 1007;
const UNKNOWN_RESULT: i32 = 1021;
const TIMED_OUT: i32 = 1031;
const VERSION_CHANGED: i32 = 1039;
const NO_CLUSTER_FILE: i32 = 1515;
const TRANSACTION_TOO_LARGE: i32 = 2101;
const KEY_TOO_LARGE: i32 = 2102;
const VALUE_TOO_LARGE: i32 = 2103;

/// What was under way when the error came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Reading, or waiting for another attempt: nothing of this transaction has been sent to be committed.
    Read,
    /// The commit was sent.
    Commit,
}

/// What the client library says of an error.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failure {
    /// FoundationDB's code.
    pub(super) code: i32,
    /// FoundationDB's words for it: a fixed text, without keys or values.
    pub(super) text: &'static str,
    /// Nothing was committed, and trying again is right.
    pub(super) retryable_not_committed: bool,
    /// It may have been committed, or may yet be.
    pub(super) maybe_committed: bool,
}

/// What to do about an error.
#[derive(Debug)]
pub(super) enum Next {
    /// Do all of it again, reads and compares included.
    Retry,
    /// Give it to the caller.
    GiveUp(KeyspaceError),
}

/// What to do about an error after `retries` attempts that failed before.
pub(super) fn decide(phase: Phase, failure: &Failure, retries: u32) -> Next {
    let again = match phase {
        // Where nothing was sent nothing can have been committed, whatever the code is used for elsewhere.
        Phase::Read => failure.retryable_not_committed || says_maybe(failure),
        Phase::Commit => failure.retryable_not_committed && !says_maybe(failure),
    };
    if again && retries < RETRIES_MAX { Next::Retry } else { Next::GiveUp(refusal(phase, failure)) }
}

/// The error for whoever asked, where there is no other attempt.
pub(super) fn refusal(phase: Phase, failure: &Failure) -> KeyspaceError {
    let said = format!("FoundationDB answered {} ({})", failure.code, failure.text);
    match failure.code {
        // Refused by the client library before anything is sent. What it counts has the prefix and what it checks
        // conflicts by in it: a batch of very many very small keys can be over its limit and not over ours.
        TRANSACTION_TOO_LARGE | KEY_TOO_LARGE | VALUE_TOO_LARGE => KeyspaceError::TooLarge(said),
        // The caller did what the client library forbids, or its settings are wrong: also refused before it is sent.
        2000..=2999 | NO_CLUSTER_FILE => KeyspaceError::Broken(said),
        // Besides the codes that say so, all that do not say the contrary: a timeout or a cancellation ends the waiting,
        // not the commit, and may even let it happen later.
        _ if phase == Phase::Commit && (says_maybe(failure) || !failure.retryable_not_committed) => {
            KeyspaceError::Unknown(said)
        }
        TOO_OLD => KeyspaceError::Unavailable(format!(
            "{said}: a snapshot or transaction is good for about five seconds; take a new one and go on from the last key"
        )),
        TIMED_OUT => KeyspaceError::Unavailable(format!(
            "{said}: no answer within keyspace.timeout; is the cluster up, and the cluster file the right one?"
        )),
        _ => KeyspaceError::Unavailable(said),
    }
}

/// Whether FoundationDB says that a commit which ended so may have happened.
fn says_maybe(failure: &Failure) -> bool {
    failure.maybe_committed || matches!(failure.code, UNKNOWN_RESULT | VERSION_CHANGED)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Codes of the client library 7.3, by what its own predicates say of them.
    const NOT_COMMITTED: [i32; 8] = [1007, 1009, 1020, 1037, 1038, 1042, 1078, 1213];
    const MAYBE: [i32; 2] = [1021, 1039];
    /// Timed out, cancelled, broken promise, internal error, no permission: the predicates are silent.
    const SILENT: [i32; 6] = [1025, 1031, 1100, 1101, 4100, 6000];
    const CLIENT: [i32; 5] = [1515, 2000, 2004, 2017, 2108];
    const SIZES: [i32; 3] = [2101, 2102, 2103];

    fn failure(code: i32) -> Failure {
        Failure {
            code,
            text: "words",
            retryable_not_committed: NOT_COMMITTED.contains(&code),
            maybe_committed: MAYBE.contains(&code),
        }
    }

    fn gives_up(phase: Phase, code: i32, retries: u32) -> KeyspaceError {
        match decide(phase, &failure(code), retries) {
            Next::Retry => panic!("{code} in {phase:?} is tried again after {retries} retries"),
            Next::GiveUp(error) => {
                assert!(error.to_string().contains(&code.to_string()), "{error}");
                error
            }
        }
    }

    #[test]
    fn what_is_certainly_not_committed_is_tried_again_and_not_for_ever() {
        for code in NOT_COMMITTED {
            for phase in [Phase::Read, Phase::Commit] {
                assert!(matches!(decide(phase, &failure(code), 0), Next::Retry), "{code}");
                assert!(matches!(decide(phase, &failure(code), RETRIES_MAX - 1), Next::Retry), "{code}");
                assert!(matches!(gives_up(phase, code, RETRIES_MAX), KeyspaceError::Unavailable(_)), "{code}");
            }
        }
    }

    #[test]
    fn a_commit_that_may_have_happened_is_never_tried_again() {
        for code in MAYBE.into_iter().chain(SILENT) {
            assert!(matches!(gives_up(Phase::Commit, code, 0), KeyspaceError::Unknown(_)), "{code}");
        }
        // A code that no version has yet: nothing is known of it.
        assert!(matches!(gives_up(Phase::Commit, 1999, 0), KeyspaceError::Unknown(_)));
    }

    #[test]
    fn a_predicate_outweighs_a_code_that_is_not_known() {
        let new = Failure { retryable_not_committed: true, ..failure(1998) };
        assert!(matches!(decide(Phase::Commit, &new, 0), Next::Retry));
        let new = Failure { maybe_committed: true, ..failure(1998) };
        assert!(matches!(decide(Phase::Commit, &new, 0), Next::GiveUp(KeyspaceError::Unknown(_))));
        // Both at once: the one that can't double anything.
        let both = Failure { retryable_not_committed: true, maybe_committed: true, ..failure(1998) };
        assert!(matches!(decide(Phase::Commit, &both, 0), Next::GiveUp(KeyspaceError::Unknown(_))));
    }

    #[test]
    fn before_the_commit_nothing_is_unknown() {
        assert!(matches!(decide(Phase::Read, &failure(1039), 0), Next::Retry));
        assert!(matches!(gives_up(Phase::Read, 1039, RETRIES_MAX), KeyspaceError::Unavailable(_)));
        for code in SILENT {
            assert!(matches!(gives_up(Phase::Read, code, 0), KeyspaceError::Unavailable(_)), "{code}");
        }
    }

    #[test]
    fn what_the_client_library_refuses_was_not_sent() {
        for phase in [Phase::Read, Phase::Commit] {
            for code in CLIENT {
                assert!(matches!(gives_up(phase, code, 0), KeyspaceError::Broken(_)), "{code}");
            }
            for code in SIZES {
                assert!(matches!(gives_up(phase, code, 0), KeyspaceError::TooLarge(_)), "{code}");
            }
        }
    }

    #[test]
    fn who_held_a_snapshot_too_long_is_told_what_to_do() {
        let error = refusal(Phase::Read, &failure(1007)).to_string();
        assert!(error.contains("take a new one and go on from the last key"), "{error}");
        let error = refusal(Phase::Read, &failure(1031)).to_string();
        assert!(error.contains("is the cluster up"), "{error}");
    }
}
