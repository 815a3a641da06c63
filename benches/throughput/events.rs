//! Events of about 600 bytes, as a shop's apps send them. The same in every run.

use bytes::Bytes;
use millrace_log::{Receipt, Record};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

const AGENTS: [&str; 4] = [
    "Mozilla/5.0 (X11; Linux x86_64; rv:125.0) Gecko/20100101 Firefox/125.0",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/124.0.0.0 Safari/537.36",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_4 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.4 Mobile/15E148 Safari/604.1",
    "Mozilla/5.0 (Linux; Android 14; Pixel 8) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/124.0.0.0 Mobile Safari/537.36",
];
/// When the events were received: any time does.
const RECEIVED_US: i64 = 1_795_000_000_000_000;

/// One event's bytes.
pub(crate) fn payload(random: &mut StdRng, n: u64) -> Bytes {
    let agent = AGENTS.choose(random).copied().unwrap_or_default();
    let mail = if random.random_bool(0.05) { r#","email":"ada.lovelace@example.com""# } else { "" };
    let (device, session, product) =
        (random.random_range(0..50_000u32), random.random_range(0..90_000u32), random.random_range(0..5000u32));
    let ip = format!("203.0.{}.{}", random.random::<u8>(), random.random::<u8>());
    format!(
        r#"{{"type":"track","event":"product_view","messageId":"{n:08x}-{:024x}","anonymousId":"a-{device:08x}","timestamp":"2026-11-18T{:02}:{:02}:{:02}.{:03}Z","properties":{{"product_id":"p-{product}","price":{}.{:02},"position":{},"list":"search"{mail}}},"context":{{"app":{{"name":"shop","version":"3.2.1"}},"device":{{"id":"d-{device:08x}","type":"mobile"}},"os":{{"name":"Android"}},"locale":"en-GB","ip":"{ip}","userAgent":"{agent}","sessionId":"s-{session:06x}","page":{{"url":"https://shop.example.com/p/{product}?ref=search"}}}}}}"#,
        random.random::<u64>(),
        n / 3600 % 24,
        n / 60 % 60,
        n % 60,
        n % 1000,
        random.random_range(1..500),
        random.random_range(0..100),
        random.random_range(1..60),
    )
    .into()
}

/// Records of one partition.
pub(crate) fn records(count: usize) -> Vec<Record> {
    let mut random = StdRng::seed_from_u64(1);
    (0..count as u64)
        .map(|offset| Record {
            offset,
            id: u128::from(offset) + 1,
            appended_at_us: RECEIVED_US,
            checksum: offset,
            receipt: Some(Receipt { received_at_us: RECEIVED_US, ..Receipt::default() }),
            payload: payload(&mut random, offset),
        })
        .collect()
}
