//! From the library's errors to the three that a store has.

use std::error::Error;

use delta_kernel::Error as KernelError;
use deltalake::DeltaTableError;
use deltalake::logstore::object_store;
use millrace_rows::StoreError;

/// Name of this store in errors, status and metrics.
pub(crate) const STORE: &str = "delta";

pub(crate) fn fenced(detail: impl Into<String>) -> StoreError {
    StoreError::Fenced { store: STORE, detail: without_answers(detail.into()) }
}

pub(crate) fn unavailable(detail: impl Into<String>) -> StoreError {
    StoreError::Unavailable { store: STORE, detail: without_answers(detail.into()) }
}

pub(crate) fn broken(detail: impl Into<String>) -> StoreError {
    StoreError::Broken { store: STORE, detail: without_answers(detail.into()) }
}

/// A message without the documents that an S3 server answered with, but for their codes. A server that does not accept a
/// signature repeats what was signed, session tokens included.
pub(crate) fn without_answers(message: String) -> String {
    let begins = [message.find("<?xml"), message.find("<Error")].into_iter().flatten().min();
    let Some(begin) = begins else { return message };
    let answer = &message[begin..];
    // Of an answer that was cut there is no telling where it ends.
    let end = answer.rfind("</Error").and_then(|last| answer[last..].split_once('>'));
    let rest = end.map_or("", |(_, rest)| rest);
    let code = answer.split_once("<Code>").and_then(|(_, code)| code.split_once("</Code>")).map(|(code, _)| code);
    let code = code.filter(|code| code.bytes().all(|byte| byte.is_ascii_alphanumeric())).unwrap_or("…");
    format!("{}<{code}>{rest}", &message[..begin])
}

/// An error of the library while it read the table. Anything that has I/O among its causes may pass; anything else
/// (an entry that does not parse, a feature that the library does not know) stays until somebody looks.
pub(crate) fn from_library(context: &str, error: &DeltaTableError) -> StoreError {
    let passing =
        matches!(error, DeltaTableError::ObjectStore { .. } | DeltaTableError::Io { .. } | DeltaTableError::Generic(_))
            || has_io_cause(error);
    let detail = format!("{context}: {error}");
    if passing { unavailable(detail) } else { broken(detail) }
}

fn has_io_cause(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.is::<std::io::Error>() || error.is::<object_store::Error>() {
            return true;
        }
        // These name no cause of theirs. A file that is not found was removed after it was listed.
        if let Some(KernelError::ObjectStore(_) | KernelError::FileNotFound(_) | KernelError::JoinFailure(_)) =
            error.downcast_ref()
        {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_fails_while_the_log_is_read_may_pass_and_a_log_that_makes_no_sense_stays() {
        let failed = object_store::Error::Generic { store: "S3", source: "503 SlowDown".into() };
        let of = |error: KernelError| from_library("reading", &DeltaTableError::KernelError(error));
        assert!(matches!(of(KernelError::ObjectStore(failed)), StoreError::Unavailable { .. }));
        assert!(matches!(of(KernelError::FileNotFound("0.json".into())), StoreError::Unavailable { .. }));
        assert!(matches!(of(KernelError::MissingProtocol), StoreError::Broken { .. }));
    }

    #[test]
    fn of_an_answer_only_the_code_is_passed_on() {
        let answer = "<?xml version=\"1.0\"?>\n<Error><Code>SignatureDoesNotMatch</Code><CanonicalRequest>\
                      x-amz-security-token:hunter2</CanonicalRequest></Error>";
        let error = unavailable(format!("put: status 403 Forbidden: {answer} (version 3)")).to_string();
        assert!(error.ends_with("put: status 403 Forbidden: <SignatureDoesNotMatch> (version 3)"), "{error}");
        let cut = "500: <ErrorResponse>x-amz-security-token:hunter2";
        assert_eq!(without_answers(cut.to_owned()), "500: <…>");
        assert_eq!(without_answers("a < b".to_owned()), "a < b");
    }
}
