//! What must hold for every event, whatever is in it.

use millrace_sdk::columns::{Batch, Column, Returned};
use millrace_sdk::{Instance, json};
use proptest::prelude::*;

use super::*;
use crate::screen::Hints;

const KEY: &str = r#"{"key":"0123456789abcdef"}"#;
const RULES: Rules = Rules { emails: true, cards: Cards::Known, ips: false };

#[test]
fn goldens_hold() {
    millrace_sdk::golden::check::<Scrub>("cases");
}

fn scrubbed(doc: &str) -> String {
    let mut scratch = Scratch::default();
    let spans = scratch.find_in_json(doc.as_bytes(), RULES, &[], None).unwrap();
    let mut out = Vec::new();
    replace(doc.as_bytes(), spans, &mut out);
    String::from_utf8(out).unwrap()
}

/// Text in which all that the scanner treats specially stands close together.
fn nasty() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        "[a-z@.%=+\\\\\"/ n0-9:é-]{0,6}",
        Just("ada@example.com".to_owned()),
        Just("4111111111111111".to_owned()),
        Just("4111 1111 1111 1111".to_owned()),
        Just("%40".to_owned()),
        Just("\\u0040".to_owned()),
        Just("\n".to_owned()),
        any::<char>().prop_map(String::from),
    ];
    proptest::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

fn document() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        nasty().prop_map(serde_json::Value::from),
        any::<i64>().prop_map(serde_json::Value::from),
        prop_oneof![Just(4_111_111_111_111_111_i64), Just(-5_555_555_555_554_444), Just(4_222_222_222_222)]
            .prop_map(serde_json::Value::from),
        any::<f64>().prop_map(serde_json::Value::from),
        Just(serde_json::Value::Null),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(serde_json::Value::from),
            proptest::collection::vec((nasty(), inner), 0..4)
                .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
        ]
    })
}

/// Writes each character as such or as an escape that some encoder on the way might have made of it.
fn encoded(text: &str, choices: &[u8]) -> String {
    let one = |(at, c): (usize, char)| match choices[at % choices.len()] % 8 {
        0 => format!("\\u{:04x}", u32::from(c)),
        1 => format!("\\\\u{:04X}", u32::from(c)),
        2 => format!("%{:02X}", u32::from(c)),
        3 => format!("%25{:02x}", u32::from(c)),
        4 => format!("%u{:04x}", u32::from(c)),
        _ => c.to_string(),
    };
    text.chars().enumerate().map(one).collect()
}

/// The largest event, made of what is dearest to look at: a scan that is quadratic in any of it does not come back.
#[test]
fn the_worst_events_are_scanned_to_their_end() {
    let parts =
        ["1 ", "4111111111111111a", "a@", "a@b.c", "=+@", "\\", "%25", "\"@", "4.1", ":1", "é", "\\u0040", "4111 "];
    for part in parts {
        let value = part.repeat(256 * 1024 / part.len());
        for form in [Form::Plain, Form::Json] {
            let rules = Rules { ips: true, cards: Cards::Any, ..RULES };
            let spans = Scratch::default().find(value.as_bytes(), form, rules, None).len();
            assert!(spans <= value.len() / 2);
        }
    }
}

proptest! {
    #[test]
    fn json_stays_json(doc in document(), pretty: bool) {
        let text = if pretty { serde_json::to_string_pretty(&doc) } else { serde_json::to_string(&doc) }.unwrap();
        let out = scrubbed(&text);
        let parsed: Result<serde_json::Value, _> = serde_json::from_str(&out);
        prop_assert!(parsed.is_ok(), "{} became {}", text, out);
        prop_assert_eq!(&scrubbed(&out), &out, "nothing is left to find");
    }

    #[test]
    fn encodings_hide_nothing(
        before in "[ ,;<(]?", after in "[ ,;>)]?", choices in proptest::collection::vec(any::<u8>(), 1..8),
    ) {
        for (secret, mark) in [("ada@example.com", "[email]"), ("4111 1111 1111 1111", "[card]")] {
            let out = scrubbed(&format!("{{\"a\":\"{before}{}{after}\"}}", encoded(secret, &choices)));
            prop_assert_eq!(out, format!("{{\"a\":\"{before}{mark}{after}\"}}"));
        }
    }

    /// The quick look never passes what a thorough one would find.
    #[test]
    fn the_screen_hides_nothing(value in nasty(), padding in 0usize..70) {
        let value = format!("{}{value}", "x ".repeat(padding));
        let (mut scratch, all) = (Scratch::default(), Hints { at: true, escapes: true, digits: true });
        let quick = scratch.find(value.as_bytes(), Form::Plain, RULES, None).to_vec();
        prop_assert_eq!(quick, scratch.look(value.as_bytes(), Form::Plain, RULES, None, all));
    }

    #[test]
    fn identifiers_stay_apart_and_together(a in "[a-z]{1,9}@[a-z]{1,9}\\.com", b in "[a-z]{1,9}@[a-z]{1,9}\\.com") {
        let ids = |user: &str| {
            let plugin = Instance::<Scrub>::new(KEY).unwrap();
            let columns = plugin.manifest().reads.iter().map(|name| match name.as_str() {
                "user_id" => Column::text([Some(user)]),
                "device_id" => Column::text([Some(format!("user:{user}").as_str())]),
                _ => Column::text([None]),
            });
            let output = plugin.transform(Batch { rows: 1, columns: columns.collect() }).unwrap();
            let at = |name: &str| plugin.manifest().writes.iter().position(|written| written == name).unwrap();
            let text = |name: &str| match &output.columns[at(name)] {
                Returned::Column(column) => column.str(0).unwrap().to_owned(),
                Returned::Unchanged => panic!("{name} was not scrubbed"),
            };
            (text("user_id"), text("device_id"))
        };
        let ((user_a, device_a), (user_b, device_b)) = (ids(&a), ids(&b));
        prop_assert_eq!(format!("user:{user_a}"), device_a);
        prop_assert_eq!(user_a == user_b, a == b);
        prop_assert_eq!(format!("user:{user_b}"), device_b);
    }

    #[test]
    fn any_bytes_are_scrubbed_without_a_panic(value: Vec<u8>) {
        let mut scratch = Scratch::default();
        let rules = Rules { ips: true, cards: Cards::Any, ..RULES };
        for form in [Form::Plain, Form::Json] {
            let spans = scratch.find(&value, form, rules, None).to_vec();
            prop_assert!(spans.windows(2).all(|pair| pair[0].end <= pair[1].start));
            replace(&value, &spans, &mut Vec::new());
        }
        let _ = scratch.find_in_json(&value, rules, &[json::Path::parse("a.b").unwrap()], Some(&Keyed::new(b"k")));
    }
}
