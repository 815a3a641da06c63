use super::*;
use proptest::prelude::*;

/// The shape of `text` as one value, or where it was refused.
fn value(text: &str) -> Result<Shape, usize> {
    let mut scanner = Scanner::new(text);
    scanner.skip_space();
    scanner.value(0).and_then(|shape| scanner.end().map(|()| shape)).map_err(|error| error.position)
}

#[test]
fn values_have_their_shape() {
    for (text, shape) in [
        ("null", Shape::Null),
        (" true\n", Shape::Bool),
        ("false", Shape::Bool),
        ("0", Shape::Integer),
        ("-0", Shape::Integer),
        ("12345678901234567890123", Shape::Integer),
        ("0.50", Shape::Number),
        ("-1e9", Shape::Number),
        ("10E+07", Shape::Number),
        (r#""""#, Shape::Text),
        (r#""abcdefghijklmnopqrstuvwxyz é \u00e9""#, Shape::EscapedText),
        (r#""\ud83d\ude00""#, Shape::EscapedText),
        ("[]", Shape::Array),
        ("[ ]", Shape::Array),
        ("{}", Shape::Object),
        ("{ \n}", Shape::Object),
        (r#"{"a" : [1 , {"b":[[],{}]}, "x"] , "" :{"c":null } }"#, Shape::Object),
    ] {
        assert_eq!(value(text), Ok(shape), "{text}");
    }
}

#[test]
fn broken_text_is_refused_where_it_breaks() {
    for (text, position) in [
        ("", 0),
        ("nul", 0),
        ("True", 0),
        ("NaN", 0),
        ("01", 1),
        ("-", 1),
        (".5", 0),
        ("1.", 2),
        ("1.e3", 2),
        ("1e", 2),
        ("1e+", 3),
        ("+1", 0),
        ("'a'", 0),
        (r#"""#, 1),
        (r#""\""#, 3),
        (r#""\x""#, 1),
        (r#""\u12""#, 1),
        (r#""\u12g4""#, 1),
        (r#""\uZZZZ""#, 1),
        ("\"a\tb\"", 2),
        ("\"a\u{0}b\"", 2),
        ("[", 1),
        ("[1", 2),
        ("[1,", 3),
        ("[1,]", 3),
        ("[,1]", 1),
        ("[1 2]", 3),
        ("[1}", 2),
        ("{", 1),
        ("{1:2}", 1),
        (r#"{"a"}"#, 4),
        (r#"{"a":}"#, 5),
        (r#"{"a":1,}"#, 7),
        (r#"{"a":1]"#, 6),
        (r#"{"a":1 "b":2}"#, 7),
        (r#"{"a":[{"b":tru}]}"#, 11),
        ("{} {}", 3),
        ("1 // no", 2),
    ] {
        assert_eq!(value(text), Err(position), "{text}");
    }
}

#[test]
fn nesting_ends_at_the_limit_however_deep_the_input_goes() {
    let nested = |depth: usize, open: &str, close: &str| format!("{}1{}", open.repeat(depth), close.repeat(depth));
    for (open, close, width) in [("[", "]", 1), (r#"{"a":"#, "}", 5), ("[[1],[", "]]", 6)] {
        let levels = if width == 6 { 32 } else { 64 };
        assert!(value(&nested(levels, open, close)).is_ok());
        for deep in [levels + 1, 1_000, 1_000_000] {
            let mut scanner_input = nested(deep, open, close);
            assert_eq!(value(&scanner_input), Err(levels * width), "{deep} times {open}");
            scanner_input.truncate(deep * width);
            assert_eq!(value(&scanner_input), Err(levels * width), "{deep} times {open}, never closed");
        }
    }
    let error = Scanner::new("[[1]]").value(63).unwrap_err();
    assert_eq!((error.code, error.position), (codes::TOO_DEEP, 1));
}

#[test]
fn lone_surrogates_are_found_and_replaced_in_place() {
    for (text, lone, replaced) in [
        (r#""\ud83d\ude00""#, vec![], r#""\ud83d\ude00""#),
        (r#""\ud83d""#, vec![1], r#""\ufffd""#),
        (r#""\uDE00\uD83D""#, vec![1, 7], r#""\ufffd\ufffd""#),
        (r#""\ud83d\ud83d\ude00""#, vec![1], r#""\ufffd\ud83d\ude00""#),
        (r#"["\ud83d\n",{"\udfff":0}]"#, vec![2, 14], r#"["\ufffd\n",{"\ufffd":0}]"#),
        (r#""\\ud83d""#, vec![], r#""\\ud83d""#),
    ] {
        let mut scanner = Scanner::new(text);
        scanner.value(0).unwrap();
        assert_eq!(scanner.lone_surrogates, lone, "{text}");
        assert_eq!(replace_lone_surrogates(text, &scanner.lone_surrogates), replaced);
        assert!(serde_json::from_str::<serde_json::Value>(replaced).is_ok());
    }
}

proptest! {
    /// serde_json as the judge. The two differ where serde_json reads numbers into a float that has no room for them.
    #[test]
    fn agrees_with_another_parser(text in r#"[\[\]{},:"\\0-9a-fntrue .+\-\t]{0,24}"#) {
        let ours = value(&text).is_ok();
        let theirs = serde_json::from_str::<&serde_json::value::RawValue>(&text).is_ok();
        prop_assert_eq!(ours, theirs);
    }

    #[test]
    fn unescapes_what_another_writer_escaped(text: String, at in 0..60usize) {
        let written = serde_json::to_string(&text).unwrap();
        prop_assert_eq!(&*unescape(&written[1..written.len() - 1]), text.as_str());
        let units: String = text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
        prop_assert_eq!(&*unescape(&units), text.as_str());
        let mixed = format!("{}{units}", "x".repeat(at));
        prop_assert_eq!(&*unescape(&mixed), format!("{}{text}", "x".repeat(at)));
    }

    #[test]
    fn plain_bytes_end_where_they_do_byte_by_byte(
        bytes in proptest::collection::vec(prop_oneof![8 => Just(b'x'), 1 => any::<u8>(), 1 => Just(0x21), 1 => Just(0x20)], 0..80),
        from in 0..80usize,
    ) {
        let from = from.min(bytes.len());
        let expected = bytes[from..].iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20));
        prop_assert_eq!(plain_end(&bytes, from), expected.map_or(bytes.len(), |found| from + found));
    }
}
