//! E-mail addresses in text.

/// Calls `found` with the ranges of `text` that hold addresses, in order, not overlapping. `quotes`: quotation marks in
/// `text` are characters, not JSON's own.
pub fn find(text: &[u8], quotes: bool, mut found: impl FnMut(usize, usize)) {
    let mut from = 0;
    let mut at = 0;
    while let Some(distance) = text[at..].iter().position(|byte| *byte == b'@') {
        at += distance;
        let start = at - local_part(&text[from..at], quotes);
        let length = domain(&text[at + 1..]);
        at += 1;
        if start < at - 1 && length > 0 {
            at += length;
            from = at;
            found(start, at);
        }
    }
}

/// Length of the local part at the end of `text`.
fn local_part(text: &[u8], quotes: bool) -> usize {
    if quotes && text.last() == Some(&b'"') {
        return quoted(&text[..text.len() - 1]).map_or(0, |length| length + 1);
    }
    let mut start = run(text, |byte| byte.is_ascii_alphanumeric() || b".!$%'*+-^_`~".contains(&byte));
    // `=` mostly stands between a name and a value; in a bounce address (`bounce+ada=example.com@…`) it hides another
    // address.
    if start < text.len() && text[..start].last() == Some(&b'=') {
        let wider = run(text, |byte| byte.is_ascii_alphanumeric() || b".!$%'*+-^_`~=".contains(&byte));
        if text[wider..start].contains(&b'+') {
            start = wider;
        }
    }
    text.len() - start
}

/// Where the longest run of `ascii` and of letters beyond ASCII at the end of `text` starts.
fn run(text: &[u8], ascii: impl Fn(u8) -> bool) -> usize {
    let mut start = text.len();
    while let Some(&byte) = text[..start].last() {
        if byte < 0x80 {
            if !ascii(byte) {
                break;
            }
            start -= 1;
            continue;
        }
        let tail = text[..start].iter().rev().take(4).take_while(|byte| **byte & 0xc0 == 0x80).count();
        // Bytes out of a percent escape may be no UTF-8: what stands before them is not theirs.
        let Some(lead) = start.checked_sub(tail + 1).filter(|lead| text[*lead] >= 0xc0) else {
            start -= tail.max(1);
            continue;
        };
        // General and CJK punctuation, full-width signs: these end a word.
        if let [0xe2, 0x80 | 0x81, _] | [0xe3, 0x80, _] | [0xef, 0xbc, 0x80..=0x8f | 0x9a..=0xa0] = text[lead..start] {
            break;
        }
        start = lead;
    }
    start
}

/// Length of a quoted local part, its opening quote counted, where the closing one was taken off.
fn quoted(text: &[u8]) -> Option<usize> {
    let inner = text.iter().rev().take(64).take_while(|byte| !b"\":,{}[]\n\x1f".contains(byte)).count();
    let opened = inner > 0 && text[..text.len() - inner].last() == Some(&b'"');
    opened.then_some(inner + 1)
}

/// Length of the domain at the start of `text`, 0 if there is none: names with a dot between them of which the last is
/// no number, or an IP address.
fn domain(text: &[u8]) -> usize {
    if let Some(inner) = text.strip_prefix(b"[") {
        let inner = &inner[..inner.len().min(64)];
        let Some(close) = inner.iter().position(|byte| *byte == b']') else { return 0 };
        let address = std::str::from_utf8(&inner[..close]).unwrap_or_default();
        let address = address.strip_prefix("IPv6:").unwrap_or(address).parse::<std::net::IpAddr>();
        return if address.is_ok() { close + 2 } else { 0 };
    }
    let word = |byte: &&u8| byte.is_ascii_alphanumeric() || b".-_".contains(byte) || **byte >= 0x80;
    let run = text.iter().take_while(word).count();
    let length = text[..run].iter().rposition(|byte| !b".-_".contains(byte)).map_or(0, |last| last + 1);
    let domain = &text[..length];
    let Some(dot) = domain.iter().rposition(|byte| *byte == b'.') else { return 0 };
    let top = &domain[dot + 1..];
    let named =
        top.len() >= 2 && (top[0].is_ascii_alphabetic() || top[0] >= 0x80 || top.iter().any(u8::is_ascii_alphabetic));
    let numbered = std::str::from_utf8(domain).is_ok_and(|domain| domain.parse::<std::net::Ipv4Addr>().is_ok());
    if dot == 0 || is_image(domain) {
        return 0;
    }
    if named || numbered { length } else { shorter(&domain[..dot]) }
}

/// Length of the longest domain at the start of `text` whose last name has letters only: in `ada@example.com.4111…` the
/// number behind the dot is no part of the domain, and hides none.
fn shorter(mut text: &[u8]) -> usize {
    while let Some(dot) = text.iter().rposition(|byte| *byte == b'.') {
        let top = &text[dot + 1..];
        if dot > 0 && top.len() >= 2 && top.iter().all(u8::is_ascii_alphabetic) {
            return text.len();
        }
        text = &text[..dot];
    }
    0
}

/// `logo@2x.png` is a picture for fine screens.
fn is_image(domain: &[u8]) -> bool {
    let [digit, b'x', b'.', extension @ ..] = domain else { return false };
    digit.is_ascii_digit()
        && [&b"png"[..], b"jpg", b"jpeg", b"gif", b"webp", b"svg", b"avif"].contains(&&*extension.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(text: &str, quotes: bool) -> String {
        let (mut out, mut last) = (String::new(), 0);
        find(text.as_bytes(), quotes, |start, end| {
            out.push_str(&text[last..start]);
            out.push('#');
            last = end;
        });
        out + &text[last..]
    }

    #[test]
    fn addresses_are_found() {
        for (text, expected) in [
            ("ada@example.com", "#"),
            ("Ada Lovelace <Ada.Lovelace+x@mail.Example.co.uk>, b@c.de.", "Ada Lovelace <#>, #."),
            ("mailto:o'brien@example.com?subject=x", "mailto:#?subject=x"),
            ("/?email=ada@example.com&x=a_b@c.io#frag@d.ee", "/?email=#&x=###"),
            ("用户@例子.公司", "#"),
            ("邮箱：ada@example.com。", "邮箱：#"),
            ("\"ada l\"@example.com", "#"),
            ("ada@[192.0.2.1] ada@192.0.2.1 ada@[IPv6:2001:db8::1]", "# # #"),
            ("a@[email]", "a@[email]"),
            ("bounce+ada=example.com@list.org", "#"),
            ("https://ada:secret@example.com/", "https://ada:#/"),
            ("a@b.cc@d.ee", "#@d.ee"),
            ("x@y@example.com", "x@#"),
            ("ada@example.c0m", "#"),
        ] {
            let got = masked(text, true);
            if text.contains('。') {
                assert!(got.starts_with(expected), "{text}: {got}");
            } else {
                assert_eq!(got, expected, "{text}");
            }
        }
    }

    #[test]
    fn a_number_behind_the_domain_hides_no_address() {
        assert_eq!(masked("ada@example.com.4111111111111111", true), "#.4111111111111111");
        assert_eq!(masked("ada@example.com.1.2.3", true), "#.1.2.3");
        assert_eq!(masked("pkg@18.2.0-beta.1", true), "pkg@18.2.0-beta.1");
    }

    #[test]
    fn what_is_no_address_is_kept() {
        for text in [
            "@ada",
            "ada@",
            "a @b.cc",
            "ada@host",
            "left-pad@1.3.0",
            "logo@2x.png",
            "@media",
            "a@.com",
            "5 @ 3.50",
            "@@",
        ] {
            assert_eq!(masked(text, true), text);
        }
        // JSON's own quotes are no part of an address.
        assert_eq!(masked(r#"{"a":"x","b":"@c.dd"}"#, false), r#"{"a":"x","b":"@c.dd"}"#);
        assert_eq!(masked(r#"{"a":"@c.dd"}"#, true), r#"{"a":"@c.dd"}"#);
    }
}
