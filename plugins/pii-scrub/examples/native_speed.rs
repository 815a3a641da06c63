//! What the scrubber costs per event when it is compiled for this machine instead of WebAssembly, for events that are
//! clean, hold an address, or hold escapes: `cargo run --release -p pii-scrub --example native_speed`.

use std::time::Instant;

use millrace_sdk::Instance;
use millrace_sdk::columns::{Batch, Column};
use pii_scrub::Scrub;

const ROWS: usize = 1_000;
const ROUNDS: usize = 100;

fn event(column: &str, at: usize, kind: &str) -> Option<String> {
    let noise = at.wrapping_mul(2_654_435_761) % 1_000_000;
    let secret = match kind {
        "address" => r#","email":"ada.lovelace@mail.example.com""#,
        "escapes" => r#","note":"line one\nline two \"quoted\" \u00fc","email":"ada%40example.com""#,
        _ => r#","category":"shirts/blue/long-sleeve""#,
    };
    Some(match column {
        "ip" => format!("203.0.{}.{}", noise % 200, at % 250),
        "event" => "Product Added".to_owned(),
        "url" => format!("https://shop.example/products/{noise}?utm_source=newsletter&utm_campaign=spring"),
        "referrer" => "https://search.example/".to_owned(),
        "device_id" => format!("5f3c2b1e-7a7d-4d0e-9c58-3f8f1f{noise:06}"),
        "user_id" => format!("u-{noise}"),
        "session_id" => format!("{}", 1_700_000_000_000_u64 + noise as u64),
        "properties" => format!(
            r#"{{"product_id":"p-{noise}","name":"Blue shirt, long sleeve","price":{}.5,"currency":"EUR","quantity":1,"variant":"M","position":3,"coupon":null{secret},"list":[{{"id":1,"sku":"A-17"}},{{"id":2,"sku":"B-4"}}]}}"#,
            noise % 100
        ),
        "context" => r#"{"library":{"name":"analytics.js","version":"2.11.1"},"campaign":{"source":"newsletter","name":"spring"},"screen":{"width":1179,"height":2556,"density":3},"timezone":"Europe/Berlin"}"#.to_owned(),
        "envelope" => r#"{"integrations":{"All":true},"writeKey":"wk-shop-1"}"#.to_owned(),
        _ => return None,
    })
}

fn main() -> Result<(), String> {
    let config = r#"{"key":"0123456789abcdef"}"#;
    for kind in ["clean", "address", "escapes"] {
        let plugin = Instance::<Scrub>::new(config)?;
        let columns = plugin.manifest().reads.iter().map(|name| {
            let values: Vec<_> = (0..ROWS).map(|at| event(name, at, kind)).collect();
            Column::text(values.iter().map(Option::as_deref))
        });
        let batch = Batch { rows: ROWS as u32, columns: columns.collect() };
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            let sent = batch.clone();
            let start = Instant::now();
            let output = plugin.transform(sent)?;
            times.push(start.elapsed().as_nanos() as f64 / ROWS as f64);
            std::hint::black_box(output);
        }
        times.sort_by(f64::total_cmp);
        println!(
            "{kind:8} {:6.0} ns an event at best, {:.0} in the median of {ROUNDS} batches",
            times[0],
            times[ROUNDS / 2]
        );
    }
    Ok(())
}
