//! IP addresses, cut to the network: /24 of IPv4, /48 of IPv6.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The network of the address that `text` is; `None` if it is none.
pub fn truncate(text: &[u8]) -> Option<IpAddr> {
    let address: IpAddr = std::str::from_utf8(text).ok()?.parse().ok()?;
    Some(match address {
        IpAddr::V4(address) => IpAddr::V4(v4(address)),
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(address) => IpAddr::V4(v4(address)),
            None => IpAddr::V6(v6(address)),
        },
    })
}

fn v4(address: Ipv4Addr) -> Ipv4Addr {
    Ipv4Addr::from_bits(address.to_bits() & !0xff)
}

fn v6(address: Ipv6Addr) -> Ipv6Addr {
    // The first 48 bits of a 6to4 address hold a whole IPv4 address: of that, /24.
    let prefix = if address.segments()[0] == 0x2002 { 40 } else { 48 };
    Ipv6Addr::from_bits(address.to_bits() & !(u128::MAX >> prefix))
}

/// Length of the network part of an IPv4 address in its only accepted form: `203.0.113.` of `203.0.113.77`.
pub fn v4_prefix(text: &[u8]) -> Option<usize> {
    let dot = text.iter().rposition(|byte| *byte == b'.')?;
    std::str::from_utf8(text).ok()?.parse::<Ipv4Addr>().ok()?;
    Some(dot + 1)
}

/// Calls `found` with the ranges of `text` that are addresses and the network of each.
pub fn find(text: &[u8], mut found: impl FnMut(usize, usize, IpAddr)) {
    let part = |byte: u8| byte.is_ascii_hexdigit() || byte == b'.' || byte == b':';
    let mut at = 0;
    while at < text.len() {
        if !part(text[at]) {
            at += 1;
            continue;
        }
        let start = at;
        at += text[at..].iter().take_while(|byte| part(**byte)).count();
        let before = text[..start].last().copied().unwrap_or(b' ');
        let after = text.get(at).copied().unwrap_or(b' ');
        // A word around it (`Chrome/120.0.0.0`, `v1.2.3.4`, `std::fs`) makes it something else.
        let product = before == b'/' && text[..start - 1].last().is_some_and(u8::is_ascii_alphanumeric);
        let in_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80;
        if product || in_word(before) || in_word(after) {
            continue;
        }
        let (from, to) = trim(&text[start..at]);
        let (start, end) = (start + from, start + to);
        match truncate(&text[start..end]) {
            Some(network) => found(start, end, network),
            None => {
                // An address and its port.
                let colon = text[start..end].iter().position(|byte| *byte == b':').unwrap_or(0);
                if let Some(network @ IpAddr::V4(_)) = truncate(&text[start..start + colon]) {
                    found(start, start + colon, network);
                }
            }
        }
    }
}

/// Takes a dot or a single colon off both ends: those of the sentence around.
fn trim(word: &[u8]) -> (usize, usize) {
    let (mut from, mut to) = (0, word.len());
    while from < to && (word[from] == b'.' || (word[from] == b':' && word.get(from + 1) != Some(&b':'))) {
        from += 1;
    }
    while to > from && (word[to - 1] == b'.' || (word[to - 1] == b':' && (to < 2 || word[to - 2] != b':'))) {
        to -= 1;
    }
    (from, to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_keep_their_network() {
        for (text, expected) in [
            ("203.0.113.77", Some("203.0.113.0")),
            ("2001:db8:85a3:8d3:1319:8a2e:370:7348", Some("2001:db8:85a3::")),
            ("2001:DB8::1", Some("2001:db8::")),
            ("::ffff:203.0.113.77", Some("203.0.113.0")),
            ("2002:cb00:714d::1", Some("2002:cb00:7100::")),
            ("::1", Some("::")),
            ("203.0.113.077", None),
            ("203.0.113", None),
            ("203.0.113.77:443", None),
            ("203.0.113.77, 10.0.0.1", None),
            ("fe80::1%eth0", None),
            ("unknown", None),
            ("", None),
        ] {
            assert_eq!(truncate(text.as_bytes()).map(|ip| ip.to_string()).as_deref(), expected, "{text}");
            if let Some(length) = v4_prefix(text.as_bytes()) {
                assert_eq!(Some(format!("{}0", &text[..length]).as_str()), expected);
            }
        }
    }

    #[test]
    fn addresses_in_text_are_found_and_versions_mostly_not() {
        for (text, expected) in [
            ("from 203.0.113.77, via [2001:db8::7].", "from 203.0.113.0, via [2001:db8::]."),
            ("http://203.0.113.77:8080/x", "http://203.0.113.0:8080/x"),
            (r#"{"ip":"203.0.113.77"}"#, r#"{"ip":"203.0.113.0"}"#),
            ("Chrome/120.0.6099.71 v1.2.3.4 1.2.3.4-beta1", "Chrome/120.0.6099.71 v1.2.3.4 1.2.3.0-beta1"),
            ("std::fs 10:33:00 a.b 1.2.3 1.2.3.4.5", "std::fs 10:33:00 a.b 1.2.3 1.2.3.4.5"),
        ] {
            let (mut out, mut last) = (String::new(), 0);
            find(text.as_bytes(), |start, end, network| {
                out.push_str(&text[last..start]);
                out.push_str(&network.to_string());
                last = end;
            });
            out.push_str(&text[last..]);
            assert_eq!(out, expected);
        }
    }
}
