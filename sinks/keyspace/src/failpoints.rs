//! Where tests let a commit fail or the process die, by name: what every backend has.

/// The process dies before anything of a batch is written.
pub(crate) fn abort_before() {
    fail::fail_point!("keyspace::commit::before", |_| std::process::abort());
}

/// The process dies when a batch is durable and not yet answered.
pub(crate) fn abort_after() {
    fail::fail_point!("keyspace::commit::after", |_| std::process::abort());
}

/// A batch that is committed is answered as if that was not known.
pub(crate) fn answer_unknown() -> Result<(), crate::KeyspaceError> {
    fail::fail_point!("keyspace::commit::unknown", |_| Err(crate::KeyspaceError::Unknown("failpoint".to_owned())));
    Ok(())
}
