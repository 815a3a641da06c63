//! How fast events become rows on one core, beside what other parsers make of the same bytes in the same run.
//!
//! ```text
//! cargo run --release -p millrace-decode --example throughput [-- SECONDS_A_MEASUREMENT [SEED]]
//! ```
//!
//! The other parsers do less than the decoder: none of them makes rows. What each of them lets pass in `properties` is
//! printed beside its speed.

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;
use millrace_decode::{Decoder, scan};
use millrace_log::{Receipt, Record};
use millrace_rows::LogId;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::Deserialize;
use serde_json::value::RawValue;

const RECORDS: usize = 8_192;
const RECEIVED_AT_US: i64 = 1_772_366_400_000_000;

/// Events as four kinds of senders write them, of 600 bytes on average.
fn payload(random: &mut StdRng) -> String {
    let hex = |random: &mut StdRng| format!("{:032x}", random.random::<u128>());
    let (message, anonymous) = (hex(random), hex(random));
    let (user, second, price) = (random.random_range(0..100_000), random.random_range(0..60), random.random::<u16>());
    let time = format!("2026-03-01T11:58:{second:02}.250Z");
    match random.random_range(0..4) {
        0 => format!(
            r#"{{"timestamp":"{time}","integrations":{{}},"anonymousId":"{anonymous}","type":"page","name":"Home","properties":{{"path":"/p/{user}","referrer":"","search":"","title":"Übersicht – Größe {price}","url":"https://shop.example.com/p/{user}"}},"context":{{"page":{{"path":"/p/{user}","referrer":"","search":"","title":"Übersicht","url":"https://shop.example.com/p/{user}"}},"userAgent":"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 Chrome/122.0","locale":"de-DE","library":{{"name":"analytics.js","version":"next-1.66.0"}}}},"messageId":"{message}","sentAt":"2026-03-01T11:59:59.100Z"}}"#
        ),
        1 => format!(
            r#"{{"anonymousId":"{anonymous}","context":{{"app":{{"name":"Shop","version":"4.2.0","namespace":"com.example.shop","build":"4020"}},"device":{{"id":"{anonymous}","manufacturer":"Google","model":"Pixel 8","type":"android"}},"library":{{"name":"analytics-kotlin","version":"1.14.2"}},"locale":"pl-PL","network":{{"cellular":true,"wifi":false}},"os":{{"name":"Android","version":"14"}},"screen":{{"density":2.625,"height":2201,"width":1080}},"timezone":"Europe/Warsaw"}},"event":"Product Added","messageId":"{message}","properties":{{"price":{price}.99,"sku":"G-{user}","quantity":1,"tags":["a","b"]}},"timestamp":"{time}","type":"track","userId":"u-{user}"}}"#
        ),
        2 => format!(
            r#"{{"integrations": {{}}, "timestamp": "{time}", "context": {{"library": {{"name": "analytics-python", "version": "2.3.2"}}, "ip": "198.51.100.7"}}, "userId": "u-{user}", "type": "track", "event": "Order Completed", "messageId": "{message}", "properties": {{"order_id": "{anonymous}", "total": {price}, "note": "line one\nline \"two\"", "products": [{{"sku": "A-{user}", "price": 1.5, "quantity": 3}}, {{"sku": "B-{user}", "price": 20, "quantity": 1}}, {{"sku": "C-{price}", "price": 7.25, "quantity": 2}}, {{"sku": "D-{price}", "price": 0, "quantity": 12}}], "currency": "EUR", "coupon": null}}}}"#
        ),
        _ => format!(
            r#"{{"type":"identify","userId":"u-{user}","anonymousId":"{anonymous}","traits":{{"email":"user{user}@example.com","plan":"pro","logins":{price},"address":{{"city":"Kraków","country":"PL","street":"Długa {price}"}},"created":"2021-05-04T10:00:00Z"}},"context":{{"device":{{"id":"{anonymous}","type":"ios","model":"iPhone15,3","manufacturer":"Apple"}},"os":{{"name":"iOS","version":"17.3.1"}},"app":{{"name":"Shop","version":"4.2.0","build":"312"}},"locale":"en-GB","network":{{"cellular":false,"wifi":true}}}},"messageId":"{message}","timestamp":"{time}"}}"#
        ),
    }
}

/// The members that the decoder looks for at the top, for serde.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(dead_code, reason = "it is only about the time that reading takes")]
struct Borrowed<'a> {
    #[serde(borrow)]
    message_id: Option<&'a RawValue>,
    #[serde(borrow)]
    anonymous_id: Option<&'a RawValue>,
    #[serde(borrow)]
    user_id: Option<&'a RawValue>,
    #[serde(borrow)]
    r#type: Option<&'a RawValue>,
    #[serde(borrow)]
    event: Option<&'a RawValue>,
    #[serde(borrow)]
    timestamp: Option<&'a RawValue>,
    #[serde(borrow)]
    context: Option<&'a RawValue>,
    #[serde(borrow)]
    properties: Option<&'a RawValue>,
}

/// Runs `pass` over all records again and again, and prints the rate of the fastest pass: the one that other work on
/// the machine disturbed the least.
fn measure(name: &str, bytes: usize, time: Duration, mut pass: impl FnMut()) -> f64 {
    pass();
    let (start, mut best) = (Instant::now(), Duration::MAX);
    while start.elapsed() < time {
        let start = Instant::now();
        pass();
        best = best.min(start.elapsed());
    }
    let seconds = best.as_secs_f64();
    let rate = bytes as f64 / seconds / 1e6;
    println!("{name:<44} {:>10.0} events/s {rate:>8.0} MB/s", RECORDS as f64 / seconds);
    rate
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let time = Duration::from_secs_f64(arguments.next().map_or(Ok(2.0), |text| text.parse())?);
    let seed = arguments.next().map_or(Ok(7), |text| text.parse())?;
    let mut random = StdRng::seed_from_u64(seed);
    let receipt = Receipt {
        received_at_us: RECEIVED_AT_US,
        app: Some("shop".into()),
        client_ip: Some("203.0.113.7".into()),
        ..Receipt::default()
    };
    let records: Vec<Record> = (0..RECORDS)
        .map(|offset| Record {
            offset: offset as u64,
            id: random.random(),
            appended_at_us: RECEIVED_AT_US,
            checksum: 0,
            receipt: Some(receipt.clone()),
            payload: Bytes::from(payload(&mut random)),
        })
        .collect();
    let bytes = records.iter().map(|record| record.payload.len()).sum();
    println!("{RECORDS} events of {} bytes on average, seed {seed}", bytes / RECORDS);

    let decoder = Decoder::default();
    let decoded = decoder.decode(&records, 0, LogId([1; 16]));
    assert_eq!((decoded.batch.num_rows(), decoded.dead.len()), (RECORDS, 0));
    let ours = measure("decode: checked, to Arrow", bytes, time, || {
        black_box(decoder.decode(black_box(&records), 0, LogId([1; 16])));
    });
    measure("scan: checked, borrowed", bytes, time, || {
        for record in &records {
            black_box(scan(black_box(&record.payload))).ok();
        }
    });
    let theirs = measure("serde_json::Value", bytes, time, || {
        for record in &records {
            black_box(serde_json::from_slice::<serde_json::Value>(black_box(&record.payload))).ok();
        }
    });
    measure("serde_json, borrowed raw members of the top", bytes, time, || {
        for record in &records {
            black_box(serde_json::from_slice::<Borrowed<'_>>(black_box(&record.payload))).ok();
        }
    });
    measure("sonic_rs, lazy members of the top", bytes, time, || {
        for record in &records {
            for member in sonic_rs::to_object_iter(black_box(&record.payload[..])) {
                black_box(member).ok();
            }
        }
    });
    measure("sonic_rs::Value", bytes, time, || {
        for record in &records {
            black_box(sonic_rs::from_slice::<sonic_rs::Value>(black_box(&record.payload))).ok();
        }
    });
    println!("decode is {:.1} times as fast as serde_json::Value alone", ours / theirs);

    println!();
    println!("refused inside of properties:   scan  serde_json  serde_json raw  sonic_rs lazy");
    let deep = format!("{}1{}", "[".repeat(1_000), "]".repeat(1_000));
    for (what, value) in [
        (r#""\uZZZZ""#, r#""\uZZZZ""#),
        (r#""\x""#, r#""\x""#),
        (r#""\ud800" (scan replaces it)"#, r#""\ud800""#),
        ("01", "01"),
        ("1,000 levels", &deep),
    ] {
        let event = format!(r#"{{"userId":"u","properties":{{"a":{value}}}}}"#);
        println!(
            "{what:<30} {:>6} {:>11} {:>15} {:>14}",
            scan(event.as_bytes()).is_err(),
            serde_json::from_str::<serde_json::Value>(&event).is_err(),
            serde_json::from_str::<Borrowed<'_>>(&event).is_err(),
            sonic_rs::to_object_iter(&event).any(|member| member.is_err()),
        );
    }
    Ok(())
}
