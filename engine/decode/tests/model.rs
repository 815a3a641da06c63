//! The decoder against a model: the same rules written down with maps and copies, slow and plain. `PROPTEST_CASES` sets
//! how many events are tried; a failure prints the event, made as small as it gets.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray};
use arrow::compute::concat_batches;
use common::{APPENDED_AT, LOG, RECEIVED_AT, receipt, record, row_json};
use millrace_decode::{Decoder, codes, parse_epoch_millis, parse_rfc3339, scan};
use millrace_log::{Receipt, Record};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

type Object = Map<String, Value>;

const DAY: i64 = 86_400_000_000;
const GROUPS: [(&str, &[&str]); 4] = [
    ("device", &["id", "type", "model"]),
    ("app", &["name", "version"]),
    ("os", &["name"]),
    ("page", &["url", "referrer"]),
];
const SINGLE: [&str; 4] = ["locale", "ip", "userAgent", "sessionId"];
const TOP: [&str; 13] = [
    "messageId",
    "anonymousId",
    "userId",
    "type",
    "event",
    "name",
    "originalTimestamp",
    "timestamp",
    "sentAt",
    "receivedAt",
    "properties",
    "traits",
    "context",
];

fn id(value: Option<&Value>, code: &'static str) -> Result<Option<String>, &'static str> {
    let id = match value {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) if number.is_i64() || number.is_u64() => number.to_string(),
        Some(_) => return Err(code),
    };
    if id.len() > 256 || id.chars().any(char::is_control) {
        Err(code)
    } else {
        Ok(Some(id).filter(|id| !id.is_empty()))
    }
}

fn device_of(context: Option<&Object>) -> Option<&Value> {
    context?.get("device")?.as_object()?.get("id")
}

/// Takes a text out of an object; a null is thrown away.
fn take(object: &mut Object, name: &str, integers: bool) -> Option<String> {
    match object.get(name)? {
        Value::String(text) if !(integers && text.is_empty()) => {
            let text = text.clone();
            object.remove(name);
            Some(text)
        }
        Value::Number(number) if integers && (number.is_i64() || number.is_u64()) => {
            let text = number.to_string();
            object.remove(name);
            Some(text)
        }
        Value::Null => {
            object.remove(name);
            None
        }
        _ => None,
    }
}

/// The context that an event ends up with: its own members over those around the batch.
fn merged(own: Object, around: Object) -> Object {
    let known = |name: &str| SINGLE.contains(&name) || GROUPS.iter().any(|(group, _)| *group == name);
    let real = |(name, value): &(String, Value)| !(known(name) && value.is_null());
    let mut context: Object = around.into_iter().filter(real).collect();
    context.extend(own.into_iter().filter(real));
    context
}

fn as_object(value: Option<Value>) -> Option<Object> {
    match value {
        Some(Value::Object(object)) => Some(object),
        _ => None,
    }
}

/// The row that an event becomes, JSON columns as values.
fn model(event: &Object, receipt: Option<&Receipt>) -> Result<Object, &'static str> {
    let around = receipt.and_then(|receipt| receipt.batch_context.as_deref());
    let around = as_object(around.map(|bytes| serde_json::from_slice(bytes).unwrap())).unwrap_or_default();
    id(device_of(Some(&around)), codes::BAD_DEVICE_ID)?;

    let mut top = event.clone();
    let message = id(event.get("messageId"), codes::BAD_MESSAGE_ID)?;
    let anonymous = id(event.get("anonymousId"), codes::BAD_ANONYMOUS_ID)?;
    let user = id(event.get("userId"), codes::BAD_USER_ID)?;
    let own = if event.get("context").is_some_and(|context| context.is_object() || context.is_null()) {
        as_object(top.remove("context")).unwrap_or_default()
    } else {
        Object::new()
    };
    id(device_of(Some(&own)), codes::BAD_DEVICE_ID)?;
    let mut context = merged(own, around);
    let empty_at_first = |group: &&str| context.get(*group) == Some(&json!({}));
    let untouched: Vec<&str> = GROUPS.into_iter().map(|(group, _)| group).filter(empty_at_first).collect();
    let device = id(device_of(Some(&context)), codes::BAD_DEVICE_ID)?;
    let empty = |value: Option<&Value>| value == Some(&json!(""));
    let own_device = event.get("context").and_then(Value::as_object);
    let any_empty = empty(device_of(own_device)) || empty(event.get("anonymousId")) || empty(event.get("userId"));
    let device_id = match (&device, &anonymous, &user) {
        (Some(device), _, _) => device.clone(),
        (None, Some(anonymous), _) => anonymous.clone(),
        (None, None, Some(user)) if user.len() > 251 => return Err(codes::BAD_DEVICE_ID),
        (None, None, Some(user)) => format!("user:{user}"),
        (None, None, None) => return Err(if any_empty { codes::BAD_DEVICE_ID } else { codes::MISSING_DEVICE_ID }),
    };
    for name in ["messageId", "userId", "writeKey"] {
        top.remove(name);
    }
    if device.is_none() || anonymous.is_none() {
        top.remove("anonymousId");
    }
    let no_receipt = Receipt::default();
    let given = receipt.unwrap_or(&no_receipt);
    let mut row: BTreeMap<&str, Option<Value>> = BTreeMap::new();
    let mut set = |name, value: Option<String>| {
        row.insert(name, value.map(Value::from));
    };
    set("event_id", message.or(given.message_id.clone()).or(Some("0000000000000000123456789abcdef0".into())));
    set("device_id", Some(device_id));
    set("user_id", user);
    set("type", take(&mut top, "type", false).or(given.kind.clone()));
    let name = match take(&mut top, "event", false) {
        Some(event) => Some(event),
        None => take(&mut top, "name", false),
    };
    set("event", name);

    let mut inside = |group: &str, name: &str| {
        let object = context.get_mut(group)?.as_object_mut()?;
        if name == "id" {
            // It is an id, and became one above if it could.
            return object.remove("id").and(None);
        }
        take(object, name, false)
    };
    inside("device", "id");
    set("app", if given.app.is_some() { given.app.clone() } else { inside("app", "name") });
    set("app_version", inside("app", "version"));
    set("platform", inside("device", "type"));
    set("os", inside("os", "name"));
    set("device_model", inside("device", "model"));
    set("url", inside("page", "url"));
    set("referrer", inside("page", "referrer"));
    set("locale", take(&mut context, "locale", false));
    set("ip", take(&mut context, "ip", false).or(given.client_ip.clone()));
    set("user_agent", take(&mut context, "userAgent", false));
    set("session_id", take(&mut context, "sessionId", true));
    for (group, members) in GROUPS {
        let Some(Value::Object(object)) = context.get_mut(group) else { continue };
        for member in members {
            if object.get(*member).is_some_and(Value::is_null) {
                object.remove(*member);
            }
        }
    }

    let received_at = receipt.map_or(APPENDED_AT, |receipt| receipt.received_at_us);
    let mut suspect = false;
    let mut time = |name: &'static str| {
        let value = event.get(name).filter(|value| !value.is_null())?;
        let time = match value {
            Value::String(text) => parse_rfc3339(text),
            Value::Number(number) => parse_epoch_millis(&number.to_string()),
            _ => None,
        };
        suspect |= time.is_none();
        time.map(|time| (time, name))
    };
    let original = time("originalTimestamp").or_else(|| time("timestamp"));
    let sent_at = time("sentAt");
    let at = match (original, sent_at.map(|sent_at| sent_at.0).or(given.sent_at_us)) {
        (None, _) => received_at,
        (Some((original, _)), None) => original,
        (Some((original, _)), Some(sent_at)) => received_at - (sent_at - original).max(0),
    };
    let believed = at - received_at <= DAY && received_at - at <= 30 * DAY;
    if let Some((_, name)) = original.filter(|_| believed) {
        top.remove(name);
        if let Some((_, name)) = sent_at {
            top.remove(name);
        }
    }
    let properties = ["properties", "traits"].into_iter().find(|name| event.get(*name).is_some_and(Value::is_object));
    row.insert("properties", properties.and_then(|name| top.remove(name)));
    top.retain(|name, value| !(TOP.contains(&name.as_str()) && value.is_null()));
    row.insert("event_time", Some(if believed { at.into() } else { received_at.into() }));
    row.insert("received_at", Some(received_at.into()));
    row.insert("time_suspect", Some((suspect || !believed).into()));
    // An object of which everything was taken is gone; one that was empty was never touched.
    for (group, _) in GROUPS {
        if context.get(group) == Some(&json!({})) && !untouched.contains(&group) {
            context.remove(group);
        }
    }
    row.insert("context", Some(Value::Object(context)).filter(|context| context != &json!({})));
    row.insert("envelope", Some(Value::Object(top)).filter(|top| top != &json!({})));
    let lineage = [("_partition", json!(0)), ("_offset", json!(0)), ("_sub", json!(0))];
    Ok(row
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .chain(lineage)
        .map(|(n, v)| (n.to_owned(), v))
        .collect())
}

/// Objects are written from lists of members, so that names can stand twice.
fn written(members: Vec<(String, String)>) -> String {
    let members: Vec<String> = members.into_iter().map(|(name, value)| format!("{}:{value}", json!(name))).collect();
    format!("{{{}}}", members.join(","))
}

fn any_json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just("{}".to_owned()),
        Just("[]".to_owned()),
        any::<i64>().prop_map(|number| number.to_string()),
        (-1_000_000..1_000_000i64).prop_map(|number| format!("{number}.25")),
        ".{0,12}".prop_map(|text| json!(text).to_string()),
    ];
    leaf.prop_recursive(2, 12, 4, |inner| {
        let members = proptest::collection::vec(("[a-c]|name|id", inner.clone()), 0..4);
        prop_oneof![
            proptest::collection::vec(inner, 0..4).prop_map(|items| format!("[{}]", items.join(","))),
            members.prop_map(|members| written(members.into_iter().collect())),
        ]
    })
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![3 => "[a-z]{0,8}", 1 => "\\PC{0,8}", 1 => ".{0,8}"].prop_map(|text| json!(text).to_string())
}

fn time() -> impl Strategy<Value = String> {
    let near = prop_oneof![3 => -60_000_000..60_000_000i64, 2 => -32 * DAY..2 * DAY];
    (near, any::<bool>()).prop_map(|(offset, number)| {
        let time = chrono::DateTime::from_timestamp_micros(RECEIVED_AT + offset).unwrap();
        if number { time.timestamp_millis().to_string() } else { json!(time.to_rfc3339()).to_string() }
    })
}

/// An object of `names` (mostly) whose values are of the kind `kind` (mostly), in any order, some of them twice.
fn object(names: &'static [&'static str], most: usize, kind: BoxedStrategy<String>) -> BoxedStrategy<String> {
    let name = prop_oneof![6 => proptest::sample::select(names).prop_map(str::to_owned), 1 => "[a-c]"];
    let value = prop_oneof![6 => kind, 1 => any_json()];
    proptest::collection::vec((name, value), 0..most).prop_map(written).boxed()
}

fn context() -> BoxedStrategy<String> {
    let of = |names: &'static [&'static str]| object(names, 4, text().boxed());
    let member = prop_oneof![
        of(&["id", "type", "model"]).prop_map(|value| ("device".to_owned(), value)),
        of(&["name", "version"]).prop_map(|value| ("app".to_owned(), value)),
        of(&["name", "version"]).prop_map(|value| ("os".to_owned(), value)),
        of(&["url", "referrer", "title"]).prop_map(|value| ("page".to_owned(), value)),
        (proptest::sample::select(&SINGLE[..]), text()).prop_map(|(name, value)| (name.to_owned(), value)),
        (proptest::sample::select(&["device", "os", "ip", "sessionId", "x", "y"][..]), any_json())
            .prop_map(|(name, value)| (name.to_owned(), value)),
    ];
    proptest::collection::vec(member, 0..7).prop_map(written).boxed()
}

fn event() -> impl Strategy<Value = String> {
    let member = prop_oneof![
        4 => (proptest::sample::select(&["messageId", "anonymousId", "userId", "type", "event", "name", "writeKey"][..]), text())
            .prop_map(|(name, value)| (name.to_owned(), value)),
        3 => (proptest::sample::select(&["originalTimestamp", "timestamp", "sentAt", "receivedAt"][..]), time())
            .prop_map(|(name, value)| (name.to_owned(), value)),
        2 => context().prop_map(|value| ("context".to_owned(), value)),
        2 => (proptest::sample::select(&["properties", "traits"][..]), object(&["a", "b"], 4, any_json().boxed()))
            .prop_map(|(name, value)| (name.to_owned(), value)),
        1 => (proptest::sample::select(&TOP[..]), any_json()).prop_map(|(name, value)| (name.to_owned(), value)),
        1 => ("[a-c]", any_json()),
    ];
    proptest::collection::vec(member, 0..12).prop_map(written)
}

/// The event with a device, so that most become rows.
fn with_device(event: String) -> String {
    let members = event.strip_suffix('}').unwrap();
    let comma = if members == "{" { "" } else { "," };
    format!(r#"{members}{comma}"anonymousId":"somewhere"}}"#)
}

fn receipts() -> impl Strategy<Value = Option<Receipt>> {
    let optional = || proptest::option::of("[a-z]{1,6}");
    let sent_at = proptest::option::of((-DAY..DAY).prop_map(|offset| RECEIVED_AT + offset));
    let fields = (optional(), optional(), sent_at, proptest::option::of(context()), optional(), optional());
    proptest::option::weighted(0.8, fields).prop_map(|fields| {
        let (kind, message_id, sent_at_us, context, app, client_ip) = fields?;
        Some(Receipt {
            kind,
            message_id,
            sent_at_us,
            batch_context: context.map(Into::into),
            app,
            client_ip,
            ..receipt()
        })
    })
}

/// Every string, number and truth value in a value, as text.
fn leaves(value: &Value, out: &mut Vec<String>) {
    match value {
        Value::Null => {}
        Value::Array(items) => items.iter().for_each(|item| leaves(item, out)),
        Value::Object(members) => members.values().for_each(|member| leaves(member, out)),
        Value::String(text) => out.push(text.clone()),
        other => out.push(other.to_string()),
    }
}

proptest! {
    #[test]
    fn rows_are_those_of_the_model(text in event(), receipt in receipts()) {
        let event: Object = serde_json::from_str(&text).unwrap();
        let decoded = Decoder::default().decode(&[record(0, text.as_bytes(), receipt.clone())], 0, LOG);
        match model(&event, receipt.as_ref()) {
            Err(code) => prop_assert_eq!(decoded.dead, [(0, code)], "{}", text),
            Ok(expected) => {
                prop_assert_eq!(decoded.dead, [], "{}", text);
                let mut row = row_json(&decoded.batch, 0);
                for column in ["properties", "context", "envelope"] {
                    if let Some(value) = row.get_mut(column) {
                        *value = serde_json::from_str(value.as_str().unwrap()).unwrap();
                    }
                }
                prop_assert_eq!(row, Value::Object(expected), "{}", text);
            }
        }
    }

    /// Without the model: what goes in comes out, in one column or another.
    #[test]
    fn nothing_is_lost(text in event().prop_map(with_device), receipt in receipts()) {
        let mut event: Object = serde_json::from_str(&text).unwrap();
        let decoded = Decoder::default().decode(&[record(0, text.as_bytes(), receipt)], 0, LOG);
        prop_assume!(decoded.dead.is_empty());
        let row = row_json(&decoded.batch, 0);
        let mut out = Vec::new();
        for (column, value) in row.as_object().unwrap() {
            match column.as_str() {
                "properties" | "context" | "envelope" => {
                    leaves(&serde_json::from_str(value.as_str().unwrap()).unwrap(), &mut out);
                }
                _ => leaves(value, &mut out),
            }
        }
        // The write key goes nowhere, and times that decided became another number.
        for name in ["writeKey", "originalTimestamp", "timestamp", "sentAt"] {
            event.remove(name);
        }
        let mut wanted = Vec::new();
        leaves(&Value::Object(event), &mut wanted);
        for leaf in wanted.into_iter().filter(|leaf| !leaf.is_empty()) {
            let found = out.iter().position(|out| *out == leaf || *out == format!("user:{leaf}"));
            prop_assert!(found.is_some(), "{:?} of {} is not in {}", leaf, text, row);
        }
    }

    /// Properties and unknown members are the bytes of the input, and lie in it.
    #[test]
    fn properties_are_verbatim(value in object(&["a", "b"], 4, any_json().boxed()), space in "[ \n\t]{0,3}", traits: bool) {
        let name = if traits { "traits" } else { "properties" };
        let text = format!(r#"{{"anonymousId":"d","{name}":{space}{value}{space},"other":{value}{space}}}"#);
        let decoded = Decoder::default().decode(&[record(0, text.as_bytes(), None)], 0, LOG);
        let column = |name| decoded.batch.column_by_name(name).unwrap().as_string::<i32>().value(0).to_owned();
        prop_assert_eq!(column("properties"), value.clone());
        prop_assert_eq!(column("envelope"), format!(r#"{{"other":{value}}}"#));
    }

    /// A row depends on its record alone.
    #[test]
    fn batches_do_not_matter(texts in proptest::collection::vec((event(), receipts(), any::<bool>()), 0..12), cuts in proptest::collection::vec(0..13usize, 0..4)) {
        let records: Vec<Record> = texts
            .into_iter()
            .enumerate()
            .map(|(offset, (text, receipt, broken))| {
                record(offset as u64, if broken { &text.as_bytes()[1..] } else { text.as_bytes() }, receipt)
            })
            .collect();
        let whole = Decoder::default().decode(&records, 0, LOG);
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(records.len())).chain([0, records.len()]).collect();
        cuts.sort_unstable();
        let parts: Vec<_> = cuts.windows(2).map(|cut| Decoder::default().decode(&records[cut[0]..cut[1]], 0, LOG)).collect();
        let rows = concat_batches(&whole.batch.schema(), parts.iter().map(|part| &part.batch)).unwrap();
        prop_assert_eq!(&whole.batch, &rows);
        prop_assert_eq!(whole.dead, parts.into_iter().flat_map(|part| part.dead).collect::<Vec<_>>());
    }

    /// Damage anywhere: no panic, one outcome a record, the same as at the ingest, and nothing in a row that is not JSON.
    #[test]
    fn damaged_events_do_no_harm(text in event(), damage in proptest::collection::vec((any::<u16>(), any::<u8>()), 0..4), cut: u16) {
        let mut bytes = text.into_bytes();
        for (at, byte) in damage {
            let at = usize::from(at) % bytes.len();
            bytes[at] = byte;
        }
        bytes.truncate(bytes.len().max(1) - usize::from(cut) % 3 % bytes.len());
        let decoded = Decoder::default().decode(&[record(0, &bytes, None)], 0, LOG);
        prop_assert_eq!(decoded.batch.num_rows() + decoded.dead.len(), 1);
        let verdict = scan(&bytes).and_then(|event| event.device_id(None).map(drop)).err().map(|error| error.code);
        prop_assert_eq!(verdict, decoded.dead.first().map(|dead| dead.1));
        for name in ["properties", "context", "envelope"] {
            let column = decoded.batch.column_by_name(name).unwrap().as_string::<i32>();
            for row in (0..column.len()).filter(|row| column.is_valid(*row)) {
                prop_assert!(serde_json::from_str::<Object>(column.value(row)).is_ok());
            }
        }
    }

    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let decoded = Decoder::default().decode(&[record(0, &bytes, None)], 0, LOG);
        prop_assert_eq!(decoded.batch.num_rows() + decoded.dead.len(), 1);
    }
}
