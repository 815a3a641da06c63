//! S3 and what speaks its protocol.
//!
//! Credentials, region and endpoint come from the environment, under the names that other programs use:
//! `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`, `AWS_REGION`, `AWS_ENDPOINT_URL`, `AWS_ALLOW_HTTP`;
//! or from the machine's, the container's or the pod's role. Profiles and `~/.aws` are not read. Commits are conditional
//! puts (`If-None-Match: *`), whatever the environment says of that.
//!
//! Bounds: a connection is made within 5 s and a request answered within 30 s (`AWS_CONNECT_TIMEOUT` and `AWS_TIMEOUT`,
//! as in `30s`, say otherwise); a request that fails in passing (429, 5xx, no connection) is repeated up to
//! [`RETRIES_MAX`] times within [`RETRY_TIME_MAX`], after pauses of 100 ms to 5 s. A conditional put that got no answer
//! is not repeated here: the commit path finds out what became of it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use millrace_rows::StoreError;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};
use object_store::{BackoffConfig, ObjectStore, RetryConfig};
use url::Url;

use crate::error::broken;

/// Most times that a request is repeated.
const RETRIES_MAX: usize = 6;
/// After this long a request is not repeated any more. Loops above go on from there, in their own time.
const RETRY_TIME_MAX: Duration = Duration::from_secs(60);

/// The bucket of a URL. Sends nothing.
///
/// # Errors
/// When an option is not known, or the environment contradicts itself. The error names keys, never values.
pub(crate) fn store(url: &Url, options: &HashMap<String, String>) -> Result<Arc<dyn ObjectStore>, StoreError> {
    let mut builder = AmazonS3Builder::from_env();
    for (key, value) in options {
        let known: AmazonS3ConfigKey =
            key.parse().map_err(|_| broken(format!("{key:?} is no option of an S3 store")))?;
        builder = builder.with_config(known, value);
    }
    let retry = RetryConfig {
        backoff: BackoffConfig { max_backoff: Duration::from_secs(5), ..BackoffConfig::default() },
        max_retries: RETRIES_MAX,
        retry_timeout: RETRY_TIME_MAX,
    };
    let built = builder
        .with_bucket_name(url.host_str().unwrap_or_default())
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_retry(retry)
        .build();
    Ok(Arc::new(built.map_err(|error| broken(format!("{url}: {error}")))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_are_not_known_are_refused_without_their_value() {
        let url = Url::parse("s3://bucket/events").unwrap();
        let refused = store(&url, &[("aws_sekret".to_owned(), "hunter2".to_owned())].into()).unwrap_err().to_string();
        assert!(refused.contains("aws_sekret") && !refused.contains("hunter2"), "{refused}");
    }

    #[test]
    fn secrets_do_not_show_in_what_a_store_says_of_itself() {
        let url = Url::parse("s3://bucket/events").unwrap();
        let options =
            [("aws_access_key_id", "AKID"), ("aws_secret_access_key", "hunter2"), ("aws_region", "nowhere-1")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()));
        let store = store(&url, &options.into()).unwrap();
        assert!(!format!("{store} {store:?}").contains("hunter2"), "{store:?}");
    }
}
