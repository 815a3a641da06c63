//! Broken connections, outages, retention, recreated topics and other producers, against a real Iggy server where there is
//! one.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "tests, with helpers that are none themselves")]

mod common;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::proxy::{Proxy, Trouble};
use common::{Stream, client, fresh, seed, url};
use iggy::prelude::{
    HeaderKey, HeaderValue, Identifier, IggyMessage, MessageClient as _, Partitioning, SegmentClient as _,
};
use millrace_log::{EventLog, LogError, NewRecord, ReadLimit, Receipt, Record, ResumeError, check_resume};
use millrace_log_iggy::{IggyLog, Options};
use millrace_rows::Cursor;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

const PATIENCE: Duration = Duration::from_secs(100);
const ALL: ReadLimit = ReadLimit { records: usize::MAX, bytes: usize::MAX };

fn record(id: u128, bytes: usize) -> NewRecord {
    let receipt = Receipt { received_at_us: 5, app: Some("web".into()), ..Receipt::default() };
    NewRecord { id, receipt: Some(receipt), payload: Bytes::from(vec![b'x'; bytes]) }
}

async fn read_all(log: &dyn EventLog, partition: u32) -> Vec<Record> {
    let mut all: Vec<Record> = Vec::new();
    let mut next = log.bounds(partition).await.unwrap().start;
    loop {
        let read = log.read(partition, next, ALL).await.unwrap();
        let Some(last) = read.last() else { return all };
        next = last.offset + 1;
        all.extend(read);
    }
}

/// A log that reaches its server through a proxy.
async fn through_proxy(url: &str, stream: &Stream, partitions: u32, seed: u64) -> (Arc<IggyLog>, Proxy) {
    let (account, server) = url.trim_start_matches("iggy://").split_once('@').unwrap();
    let proxy = Proxy::start(server.to_owned(), seed).await;
    let through = format!("iggy://{account}@{}", proxy.address);
    let options = Options {
        partitions,
        settle: Duration::from_millis(700),
        reconnect_pause_max: Duration::from_millis(200),
        ..Options::new(through.parse().unwrap(), &stream.name, "events")
    };
    (Arc::new(IggyLog::open(options).await.unwrap()), proxy)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_and_a_topic_are_created() {
    let Some(url) = url() else { return };
    let stream = Stream::new(url);
    let log = match IggyLog::open(stream.options(3)).await {
        Ok(log) => log,
        Err(LogError::Unusable(message)) if message.contains("older than the release 0.9.0") => {
            assert!(message.contains("messages_required_to_save = 1"), "{message}");
            println!("this server is older than the client library: {message}");
            return;
        }
        Err(other) => panic!("{other}"),
    };
    assert_eq!(log.partitions(), 3);
    assert_eq!(log.append(2, vec![record(1, 10)]).await.unwrap(), 0..1);
    let again = IggyLog::open(stream.options(5)).await.unwrap();
    assert_eq!(again.partitions(), 3, "a topic that is there keeps its partitions");
    assert_eq!(again.id(), log.id());
    assert_eq!(again.bounds(2).await.unwrap(), 0..1);
}

/// Appends of all callers, until each of them has an answer other than "try again".
async fn append_under(log: Arc<IggyLog>, writers: u128, appends: u128) -> HashMap<u128, (u32, u64)> {
    let writers = (0..writers).map(|writer| {
        let log = log.clone();
        tokio::spawn(async move {
            let mut places = HashMap::new();
            for n in 0..appends {
                let first = (writer << 64) | (n << 8) | 1;
                let count = 1 + (n * 7 + writer) % 9;
                let partition = ((writer + n) % 2) as u32;
                let records: Vec<NewRecord> = (first..first + count).map(|id| record(id, 150)).collect();
                let deadline = Instant::now() + PATIENCE;
                let range = loop {
                    match log.append(partition, records.clone()).await {
                        Ok(range) => break range,
                        // It is certain that nothing was appended.
                        Err(LogError::Unavailable(_)) if Instant::now() < deadline => {}
                        Err(other) => panic!("{other}"),
                    }
                };
                places.extend((first..first + count).zip(range).map(|(id, offset)| (id, (partition, offset))));
            }
            places
        })
    });
    let mut places = HashMap::new();
    for writer in writers.collect::<Vec<_>>() {
        places.extend(writer.await.unwrap());
    }
    places
}

async fn assert_each_once(log: &dyn EventLog, places: &HashMap<u128, (u32, u64)>) {
    let mut found = BTreeMap::new();
    for partition in 0..log.partitions() {
        for record in read_all(log, partition).await {
            let before = found.insert(record.id, (partition, record.offset));
            assert_eq!(before, None, "record {:x} stands twice", record.id);
        }
    }
    assert_eq!(found.len(), places.len());
    for (id, place) in places {
        assert_eq!(found.get(id), Some(place), "record {id:x}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_no_answer_is_appended_once() {
    let Some(url) = url() else { return };
    let stream = Stream::new(url.clone());
    stream.create_topic(2, None).await;
    let (log, proxy) = through_proxy(&url, &stream, 2, seed(41)).await;
    proxy.trouble(Trouble { cut: 60, swallowed: 60, late: 30, late_by: Duration::from_millis(300) });
    let began = Instant::now();
    let places = append_under(log.clone(), 4, 60).await;
    let [connections, cut, swallowed, late] = proxy.counts();
    println!(
        "{} records in {:?}; {connections} connections, {cut} batches cut, {swallowed} answers swallowed, {late} late: {:?}",
        places.len(),
        began.elapsed(),
        log.stats()
    );
    assert!(cut > 0 && swallowed > 0 && late > 0, "no trouble was made");
    assert!(log.stats().found >= swallowed / 2, "batches without an answer are found");
    proxy.trouble(Trouble::default());
    assert_each_once(&*log, &places).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_is_survived() {
    let Some(url) = url() else { return };
    let mut random = StdRng::seed_from_u64(seed(42));
    let stream = Stream::new(url.clone());
    stream.create_topic(2, None).await;
    let (log, proxy) = through_proxy(&url, &stream, 2, 1).await;
    let writing = tokio::spawn(append_under(log.clone(), 3, 300));
    let waiting = {
        let log = log.clone();
        tokio::spawn(async move {
            let (mut next, mut errors) = (0, 0);
            let deadline = Instant::now() + PATIENCE;
            while next < 200 {
                assert!(Instant::now() < deadline, "the reader stands at {next}");
                let read = async {
                    log.wait_past(0, next).await?;
                    log.read(0, next, ReadLimit { records: 13, bytes: usize::MAX }).await
                };
                match read.await {
                    Ok(records) => next = records.last().expect("something to read").offset + 1,
                    Err(LogError::Unavailable(_)) => {
                        errors += 1;
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    Err(other) => panic!("{other}"),
                }
            }
            errors
        })
    };
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(random.random_range(20..150))).await;
        proxy.set_up(false);
        tokio::time::sleep(Duration::from_millis(random.random_range(100..1500))).await;
        let asked = log.bounds(0).await;
        assert!(matches!(asked, Err(LogError::Unavailable(_))), "{asked:?}");
        proxy.set_up(true);
    }
    let places = writing.await.unwrap();
    println!(
        "{} records; the reader was told {} times to wait; {:?}",
        places.len(),
        waiting.await.unwrap(),
        log.stats()
    );
    assert_each_once(&*log, &places).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_server_it_is_certain_that_nothing_was_appended() {
    let Some(url) = url() else { return };
    let stream = Stream::new(url.clone());
    stream.create_topic(1, None).await;
    let (account, server) = url.trim_start_matches("iggy://").split_once('@').unwrap();
    let proxy = Proxy::start(server.to_owned(), 1).await;
    let options = Options {
        append_wait: Duration::from_millis(300),
        reconnect_pause_max: Duration::from_millis(50),
        ..Options::new(format!("iggy://{account}@{}", proxy.address).parse().unwrap(), &stream.name, "events")
    };
    let log = IggyLog::open(options).await.unwrap();
    proxy.set_up(false);
    let deadline = Instant::now() + PATIENCE;
    while log.bounds(0).await.is_ok() {
        assert!(Instant::now() < deadline);
    }
    let answer = log.append(0, vec![record(1, 10)]).await;
    assert!(
        matches!(&answer, Err(LogError::Unavailable(detail)) if detail.contains("nothing was appended")),
        "{answer:?}"
    );
    proxy.set_up(true);
    let range = loop {
        match log.append(0, vec![record(2, 10)]).await {
            Ok(range) => break range,
            Err(error) => assert!(error.is_temporary() && Instant::now() < deadline, "{error}"),
        }
    };
    assert_eq!(range, 0..1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recreated_topic_is_another_log() {
    let Some(url) = url() else { return };
    let (log, stream) = fresh(url, 1).await;
    log.append(0, (0..5).map(|id| record(id + 1, 10)).collect()).await.unwrap();
    let last = log.read(0, 4, ALL).await.unwrap().remove(0);
    let cursor = Cursor { log: log.id(), next: 5, mark: last.mark() };
    check_resume(&*log, 0, &cursor).await.unwrap();
    stream.delete_topic().await;
    stream.create_topic(1, None).await;
    let deadline = Instant::now() + PATIENCE;
    loop {
        // While it is gone it is not there; then it is another one.
        match log.bounds(0).await {
            Err(LogError::Unusable(message)) => break assert!(message.contains("created anew"), "{message}"),
            Err(LogError::Unavailable(_)) => assert!(Instant::now() < deadline),
            other => panic!("{other:?}"),
        }
    }
    for answer in [log.wait_past(0, 9).await.err(), log.append(0, vec![record(9, 1)]).await.err()] {
        assert!(matches!(answer, Some(LogError::Unusable(_))), "{answer:?}");
    }
    let anew = IggyLog::open(stream.options(1)).await.unwrap();
    let resumed = check_resume(&anew, 0, &cursor).await;
    assert!(matches!(resumed, Err(ResumeError::OtherLog { .. })), "{resumed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_retention_took_is_a_gap() {
    let Some(url) = url() else { return };
    let stream = Stream::new(url.clone());
    stream.create_topic(1, Some(1024 * 1024)).await;
    let log = IggyLog::open(stream.options(1)).await.unwrap();
    for n in 0..40 {
        log.append(0, (0..10).map(|id| record(n * 10 + id + 1, 10_000)).collect()).await.unwrap();
    }
    let all = read_all(&log, 0).await;
    let producer = client(&url).await;
    let name = |name: &str| Identifier::named(name).unwrap();
    producer.delete_segments(&name(&stream.name), &name("events"), 0, 1).await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    let first = loop {
        let bounds = log.bounds(0).await.unwrap();
        assert_eq!(bounds.end, 400);
        if bounds.start > 0 {
            break bounds.start;
        }
        assert!(Instant::now() < deadline, "nothing was trimmed");
    };
    println!("the log starts at {first} now");
    for asked in [0, first - 1] {
        let answer = log.read(0, asked, ReadLimit { records: 5, bytes: 1 }).await;
        let told =
            matches!(answer, Err(LogError::Gap { partition: 0, asked: a, first: f }) if a == asked && f == first);
        assert!(told, "{answer:?}");
    }
    assert_eq!(read_all(&log, 0).await, all[first as usize..]);
    let cursor = Cursor { log: log.id(), next: first - 1, mark: all[first as usize - 2].mark() };
    let resumed = check_resume(&log, 0, &cursor).await;
    assert!(matches!(resumed, Err(ResumeError::Log(LogError::Gap { .. }))), "{resumed:?}");
    let exactly = Cursor { next: first, mark: all[first as usize - 1].mark(), ..cursor };
    check_resume(&log, 0, &exactly).await.unwrap();
    let middle = all[300].appended_at_us;
    let expected = all.iter().position(|record| record.appended_at_us >= middle).unwrap() as u64;
    assert_eq!(log.offset_at(0, middle).await.unwrap(), expected.max(first));
    assert_eq!(log.offset_at(0, 0).await.unwrap(), first);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_producers_are_welcome() {
    let Some(url) = url() else { return };
    let (log, stream) = fresh(url.clone(), 1).await;
    let producer = client(&url).await;
    let name = |name: &str| Identifier::named(name).unwrap();
    let header = |key: &str, value: &[u8]| {
        BTreeMap::from([(HeaderKey::try_from(key).unwrap(), HeaderValue::try_from(value).unwrap())])
    };
    let payload = || Bytes::from_static(br#"{"type":"track","event":"x","anonymousId":"a"}"#);
    let mut messages = vec![
        IggyMessage::builder().payload(payload()).build().unwrap(),
        IggyMessage::builder().payload(payload()).user_headers(header("traceparent", b"00-ab")).build().unwrap(),
        IggyMessage::builder().payload(payload()).user_headers(header(Receipt::HEADER, b"\x63no")).build().unwrap(),
        IggyMessage::builder().id(7).payload(Bytes::from_static(b"\xff no JSON")).build().unwrap(),
    ];
    // In between, and at the same time.
    let ours = tokio::spawn(append_under(log.clone(), 1, 1));
    producer
        .send_messages(&name(&stream.name), &name("events"), &Partitioning::partition_id(0), &mut messages)
        .await
        .unwrap();
    let ours = ours.await.unwrap();
    let (partition, offset) = ours[&1];
    assert_eq!(partition, 0);
    log.wait_past(0, 4).await.unwrap();
    let all = read_all(&*log, 0).await;
    assert_eq!(all.len(), 5);
    let others: Vec<&Record> = all.iter().filter(|record| record.offset != offset).collect();
    assert!(others.iter().all(|record| record.receipt.is_none() && record.appended_at_us > 0));
    assert_eq!(others[0].payload, payload());
    assert_eq!(others[3].id, 7);
    assert!(others[0].id != 0 && others[0].id != others[1].id);
    assert!(all[offset as usize].receipt.is_some());
    assert!(log.stats().unreadable_receipts >= 1);
}
