//! S3 itself. What needs a server runs with `MILLRACE_TEST_S3`, as the other suites do there; see `common/place.rs`.

#![cfg(feature = "s3")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use common::*;
use millrace_delta::{Compression, DeltaStore, Options};
use millrace_rows::{Store, StoreError};
use object_store::aws::AmazonS3Builder;
use object_store::{Error, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, path::Path as Key};

/// The bucket's URL, or nothing, and said so.
fn bucket() -> Option<url::Url> {
    let Ok(url) = std::env::var(S3) else {
        println!("skipped: {S3} names no bucket");
        return None;
    };
    Some(url::Url::parse(&url).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_racing_conditional_puts_one_wins() {
    let Some(url) = bucket() else { return };
    let store = AmazonS3Builder::from_env().with_bucket_name(url.host_str().unwrap()).build().unwrap();
    let store: Arc<dyn ObjectStore> = Arc::new(store);
    for round in 0..50 {
        let at = Key::from(format!("races/{}", uuid::Uuid::now_v7()));
        let racers: Vec<_> = (0..4)
            .map(|racer| {
                let (store, at) = (store.clone(), at.clone());
                tokio::spawn(async move {
                    let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
                    match store.put_opts(&at, format!("racer {racer}").into(), options).await {
                        Ok(_) => Some(racer),
                        Err(Error::AlreadyExists { .. }) => None,
                        Err(error) => panic!("{error}"),
                    }
                })
            })
            .collect();
        let mut won = Vec::new();
        for racer in racers {
            won.extend(racer.await.unwrap());
        }
        let [winner] = won.as_slice() else { panic!("round {round}: {won:?} won") };
        assert_eq!(store.get(&at).await.unwrap().bytes().await.unwrap(), format!("racer {winner}"));
        store.delete(&at).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_file_goes_in_parts_and_orphans_are_found_by_listing() {
    let Some(_) = bucket() else { return };
    let place = place();
    let options = Options { compression: Compression::Snappy, checkpoint_every: 2, ..options() };
    let mut store = open_with(place.path(), options).await;
    let slices = [slice(0, 0, 240_000, 1), slice(1, 0, 10, 1)];
    for slice in &slices {
        store.stage(slice.clone()).await.unwrap();
        store.commit().await.unwrap();
    }
    let files = store.reader().files(&Default::default()).await.unwrap();
    assert!(files.iter().any(|file| file.bytes > 17 << 20), "{files:?}");
    let orphan = format!("event_date=2026-11-03/millrace-0-{}.parquet", uuid::Uuid::now_v7());
    put(place.path(), &orphan, "left behind");
    put(place.path(), "event_date=2026-11-03/part-0.parquet", "not ours");
    assert_eq!(store.maintainer().run().await.unwrap().checkpoint, Some(2));
    // S3 keeps times in seconds.
    let mut removed = 0;
    for _ in 0..600 {
        removed = store.maintainer().remove_orphans(Duration::ZERO).await.unwrap();
        if removed > 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(removed, 1);
    let left = names(place.path());
    assert!(!left.contains(&orphan) && left.contains(&"event_date=2026-11-03/part-0.parquet".to_owned()));
    let mut reopened = open(place.path()).await;
    assert_eq!(reopened.load().await.unwrap().cursors[&0], cursor(240_000), "from the checkpoint");
    assert_eq!(read_table(&reopened.reader()).await, expected(&slices));
}

/// Answers every request in the same way. Returns its address; its thread ends with the process.
fn server(status: &'static str, body: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut lines = BufReader::new(stream.try_clone().unwrap());
            let (mut line, mut length) = (String::new(), 0);
            while lines.read_line(&mut line).is_ok_and(|read| read > 2) {
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                line.clear();
            }
            let mut content = vec![0; length];
            let _ = lines.read_exact(&mut content);
            let answer = format!(
                "HTTP/1.1 {status}\r\nContent-Length: {}\r\nETag: \"e\"\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    address
}

async fn refused_by(endpoint: String) -> StoreError {
    let storage: HashMap<String, String> = [
        ("aws_endpoint", endpoint.as_str()),
        ("aws_allow_http", "true"),
        ("aws_region", "nowhere-1"),
        ("aws_access_key_id", "AKIDEXAMPLE"),
        ("aws_secret_access_key", "hunter2"),
        ("aws_session_token", "hunter3"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into();
    match DeltaStore::open("s3://bucket/events", Options { storage, ..options() }).await {
        Err(error) => error,
        Ok(_) => panic!("it was opened"),
    }
}

#[tokio::test]
async fn a_server_that_ignores_conditions_is_refused() {
    let refused = refused_by(server("200 OK", "")).await;
    assert!(matches!(&refused, StoreError::Broken { detail, .. } if detail.contains("If-None-Match")), "{refused}");
}

#[tokio::test]
async fn an_answer_that_repeats_what_was_signed_is_not_passed_on() {
    let body = "<?xml version=\"1.0\"?><Error><Code>SignatureDoesNotMatch</Code><AWSAccessKeyId>AKIDEXAMPLE\
                </AWSAccessKeyId><CanonicalRequest>x-amz-security-token:hunter3</CanonicalRequest></Error>";
    let refused = refused_by(server("403 Forbidden", body)).await;
    let text = format!("{refused} {refused:?}");
    assert!(matches!(refused, StoreError::Unavailable { .. }) && text.contains("SignatureDoesNotMatch"), "{text}");
    assert!(!text.contains("hunter") && !text.contains("AKIDEXAMPLE"), "{text}");
}
