use super::*;
use proptest::prelude::*;

fn all(doc: &str, path: &str) -> Result<Vec<String>, Malformed> {
    let mut found = Vec::new();
    each(doc.as_bytes(), &Path::parse(path).unwrap(), |value| {
        found.push(String::from_utf8(value.raw().to_vec()).unwrap());
    })?;
    Ok(found)
}

#[test]
fn every_value_at_a_path_is_found() {
    let doc = r#" {"a":{"b":1,"c":{"b":2}}, "b":"x", "l":[{"b":3},[{"b":"}\"]"}],5], "a":{"b":[4,{}]}, "e":{}} "#;
    assert_eq!(all(doc, "a.b").unwrap(), ["1", "[4,{}]"]);
    assert_eq!(all(doc, "a.c.b").unwrap(), ["2"]);
    assert_eq!(all(doc, "l.b").unwrap(), ["3", r#""}\"]""#]);
    assert_eq!(all(doc, "e.b").unwrap(), [""; 0]);
    assert_eq!(all(doc, "b.b").unwrap(), [""; 0]);
    let last = find(doc.as_bytes(), &Path::parse("a.b").unwrap()).unwrap().unwrap();
    assert_eq!(last.raw(), b"[4,{}]");
    assert_eq!(&doc.as_bytes()[last.range()], last.raw());
}

#[test]
fn an_escaped_name_is_the_same_name() {
    assert_eq!(all(r#"{"\u0065mai\u006c":1,"e\/":2}"#, "email").unwrap(), ["1"]);
    assert_eq!(all(r#"{"e\/":2}"#, "e/").unwrap(), ["2"]);
}

#[test]
fn what_is_no_json_is_refused_or_passed_over_without_a_panic() {
    let deep = "[".repeat(DEPTH_MAX + 2);
    let broken =
        ["", "{", r#"{"a""#, r#"{"a":"#, r#"{"a":1"#, r#"{"a":1}}"#, r#"{"a":"\"#, r#"{a:1}"#, "[1", "}", "nul l"];
    for doc in broken.iter().copied().chain([deep.as_str()]) {
        assert_eq!(all(doc, "a"), Err(Malformed), "{doc:?}");
    }
    // Depth beside the path costs nothing.
    let beside = format!(r#"{{"x":{}{},"a":1}}"#, "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(all(&beside, "a").unwrap(), ["1"]);
}

#[test]
fn escapes_become_text_and_halves_of_pairs_do_not_pass() {
    assert_eq!(unescape(br#"a\n\t\"\\\/\u00e9\ud83d\ude00"#), "a\n\t\"\\/é😀");
    assert_eq!(unescape(br"\ud83d"), "\u{fffd}");
    assert_eq!(unescape(br"\ud83dx\ude00\ud83d\u0041"), "\u{fffd}x\u{fffd}\u{fffd}A");
    assert_eq!(unescape(br"\u12"), "\u{fffd}12");
    assert_eq!(unescape(b"a\\"), "a\u{fffd}");
}

proptest! {
    #[test]
    fn text_survives_being_written_and_read(text: String) {
        let mut doc = b"{\"k\":".to_vec();
        push_string(&mut doc, &text);
        doc.push(b'}');
        let parsed: serde_json::Value = serde_json::from_slice(&doc).unwrap();
        prop_assert_eq!(parsed["k"].as_str().unwrap(), &text);
        let value = find(&doc, &Path::parse("k").unwrap()).unwrap().unwrap();
        prop_assert_eq!(value.as_str().unwrap(), text);
    }

    #[test]
    fn any_bytes_are_walked_without_a_panic(doc: Vec<u8>) {
        let _ = each(&doc, &Path::parse("a.b").unwrap(), |value| { let _ = value.as_str(); });
    }

    #[test]
    fn json_like_bytes_are_walked_without_a_panic(doc in "[\\[\\]{}\",:ab\\\\ 0]{0,40}") {
        let _ = each(doc.as_bytes(), &Path::parse("a.b").unwrap(), |value| { let _ = value.as_str(); });
    }
}

#[test]
fn one_value_is_read_in_one_line() {
    let doc = r#" {"cart":{"total":42.5,"items":[{"sku":"A"},{"sku":"B"}],"n":3,"gift":false,"note":null}, "a.b":1} "#;
    let at = |path: &str| get(doc, path);
    assert_eq!(at("cart.total").unwrap().as_f64(), Some(42.5));
    assert_eq!(at("cart.total").unwrap().as_i64(), None);
    assert_eq!(at("cart.n").unwrap().as_i64(), Some(3));
    assert_eq!(at("cart.n").unwrap().as_f64(), Some(3.0));
    assert_eq!(at("cart.gift").unwrap().as_bool(), Some(false));
    assert!(at("cart.note").unwrap().is_null());
    assert_eq!(at("cart.items.1.sku").unwrap().as_str().unwrap(), "B");
    assert_eq!(at("cart.items.0.sku").unwrap().to_text().as_deref(), Some("A"));
    assert_eq!(at("cart.n").unwrap().to_text(), None);
    for nowhere in ["", "cart.", "cart.totals", "cart.total.x", "cart.items.2", "cart.items.x", "cart.items.-1", "a.b"]
    {
        assert_eq!(at(nowhere), None, "{nowhere:?}");
    }
    assert_eq!(Value::of(doc.as_bytes()).member("a.b").unwrap().as_i64(), Some(1));
    let cart: std::collections::BTreeMap<String, serde_json::Value> = at("cart").unwrap().parse().unwrap();
    assert_eq!(cart["n"], 3);
    assert!(at("cart").unwrap().parse::<Vec<u8>>().is_err());
}

#[test]
fn items_end_where_they_can_not_be_read() {
    let elements = |doc: &str| Value::of(doc.as_bytes()).elements().count();
    let members = |doc: &str| Value::of(doc.as_bytes()).members().count();
    assert_eq!([elements("[]"), elements(" [ ] "), elements("[1]"), elements("[1,[2,3]]")], [0, 0, 1, 2]);
    assert_eq!([elements("[1,"), elements("[1,]"), elements("[1 2]"), elements("{}"), elements("1")], [1, 1, 1, 0, 0]);
    assert_eq!([members("{}"), members("{\"a\":1}"), members("{\"a\":1,\"a\":{\"b\":2}}")], [0, 1, 2]);
    assert_eq!(
        [members("{\"a\":1,"), members("{\"a\"}"), members("{\"a\":}"), members("[1]"), members("")],
        [1, 0, 0, 0, 0]
    );
    assert_eq!(get("{\"a\":-nan}", "a").unwrap().as_f64(), None);
    assert_eq!(get("{\"a\":infinity}", "a").unwrap().as_f64(), None);
    assert_eq!(get("{\"a\":1e999}", "a").unwrap().as_f64(), None);
    assert_eq!(get("{\"a\":99999999999999999999}", "a").unwrap().as_i64(), None);
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    use serde_json::Value as Json;
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        any::<i64>().prop_map(Json::from),
        proptest::num::f64::NORMAL.prop_map(Json::from),
        any::<String>().prop_map(Json::from),
    ];
    leaf.prop_recursive(4, 40, 5, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Json::from),
            proptest::collection::vec(("[a-c]|[\"\\\\é\n/]{1,2}", inner), 0..5)
                .prop_map(|members| Json::Object(members.into_iter().collect())),
        ]
    })
}

/// Every place in a document, with the names on the way.
fn places<'a>(value: &'a serde_json::Value, way: &str, places: &mut Vec<(String, &'a serde_json::Value)>) {
    let below = |name: &str| if way.is_empty() { name.to_owned() } else { format!("{way}.{name}") };
    if !way.is_empty() {
        places.push((way.to_owned(), value));
    }
    match value {
        serde_json::Value::Array(items) => {
            items.iter().enumerate().for_each(|(at, item)| self::places(item, &below(&at.to_string()), places));
        }
        serde_json::Value::Object(members) => {
            members.iter().for_each(|(name, member)| self::places(member, &below(name), places));
        }
        _ => {}
    }
}

fn same(found: Value<'_>, expected: &serde_json::Value) -> Result<(), TestCaseError> {
    prop_assert_eq!(found.as_bool(), expected.as_bool());
    prop_assert_eq!(found.as_i64(), expected.as_i64());
    prop_assert_eq!(found.as_f64(), expected.as_f64());
    let text = found.as_str();
    prop_assert_eq!(text.as_deref(), expected.as_str());
    prop_assert_eq!(found.is_null(), expected.is_null());
    prop_assert_eq!(found.is_nested(), expected.is_object() || expected.is_array());
    let elements = expected.as_array().map_or(&[][..], Vec::as_slice);
    prop_assert_eq!(found.elements().count(), elements.len());
    for (found, expected) in found.elements().zip(elements) {
        same(found, expected)?;
    }
    let members: Vec<_> = expected.as_object().into_iter().flatten().collect();
    prop_assert_eq!(found.members().count(), members.len());
    for ((key, found), (name, expected)) in found.members().zip(members) {
        prop_assert_eq!(&key, name);
        same(found, expected)?;
    }
    Ok(())
}

proptest! {
    #[test]
    fn values_are_those_of_a_parser(doc in json(), pretty: bool) {
        let text = if pretty { serde_json::to_string_pretty(&doc) } else { serde_json::to_string(&doc) }.unwrap();
        same(Value::of(text.as_bytes()), &doc)?;
        // The parser is a little less exact than this is about doubles: what it makes of the text it must make of a part.
        let parsed: serde_json::Value = serde_json::from_str(&text).unwrap();
        let (mut all, mut parsed_all) = (Vec::new(), Vec::new());
        places(&doc, "", &mut all);
        places(&parsed, "", &mut parsed_all);
        for ((way, expected), (_, parsed)) in all.into_iter().zip(parsed_all) {
            let found = get(&text, &way);
            prop_assert!(found.is_some(), "{way:?} in {text}");
            same(found.unwrap(), expected)?;
            prop_assert_eq!(&found.unwrap().parse::<serde_json::Value>().unwrap(), parsed);
        }
    }

    #[test]
    fn of_a_name_that_stands_twice_the_last_counts(members in proptest::collection::vec(("[a-c]", 0..9i64), 0..6)) {
        let text: Vec<String> = members.iter().map(|(name, value)| format!("\"{name}\": {value}")).collect();
        let text = format!("{{{}}}", text.join(", "));
        let parsed: serde_json::Value = serde_json::from_str(&text).unwrap();
        for name in ["a", "b", "c"] {
            prop_assert_eq!(get(&text, name).and_then(|value| value.as_i64()), parsed[name].as_i64());
        }
    }

    #[test]
    fn any_bytes_are_taken_apart_without_a_panic(doc: Vec<u8>, json_like in "[\\[\\]{}\",:ab\\\\ 0]{0,40}") {
        fn all(value: Value<'_>, depth: usize) {
            let _ = (value.as_str(), value.as_i64(), value.as_f64(), value.get("a.0"));
            if depth < 8 {
                value.elements().for_each(|element| all(element, depth + 1));
                value.members().for_each(|(_, member)| all(member, depth + 1));
            }
        }
        all(Value::of(&doc), 0);
        all(Value::of(json_like.as_bytes()), 0);
    }
}

proptest! {
    #[test]
    fn eight_bytes_at_a_time_find_what_one_at_a_time_does(text in "[\"\\\\a!#\\[\\]\u{80}-\u{ff}\u{1}]{0,40}") {
        let slow = text.bytes().position(|byte| byte == b'"' || byte == b'\\');
        prop_assert_eq!(end_of_run(text.as_bytes()), slow);
    }
}
