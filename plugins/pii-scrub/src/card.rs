//! Payment card numbers: 13 to 19 digits with a valid check digit, alone or among other digits.

/// Which numbers count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cards {
    /// Those that begin as an issuer's do and are as long. A time in milliseconds or an IMEI has a valid check digit
    /// one time in ten or always, and is no card.
    #[default]
    Known,
    /// Any.
    Any,
    /// None.
    Off,
}

/// Digits of a hexadecimal id, at least. As many are looked at on either side of a number.
const HEX_ID: usize = 32;

/// Most characters between two digits of one number.
const SEPARATORS_MAX: usize = 3;

/// Calls `found` with the ranges of `text` that hold card numbers, in order, not overlapping. Of digits with separators
/// every sequence of whole groups is tried: `12 4111 1111 1111 1111 12/30` hides none.
pub fn find(text: &[u8], cards: Cards, mut found: impl FnMut(usize, usize)) {
    if cards == Cards::Off {
        return;
    }
    let mut groups: Vec<(usize, usize)> = Vec::new();
    let mut at = 0;
    while at < text.len() {
        if !text[at].is_ascii_digit() {
            at += 1;
            continue;
        }
        if let Some(length) = scientific(&text[at..], cards) {
            found(at, at + length);
            at += length;
            continue;
        }
        groups.clear();
        let mut digits = 0;
        let mut end;
        loop {
            end = at + text[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
            groups.push((at, end));
            digits += end - at;
            at = end + separators(&text[end..]);
            if at == end || !text.get(at).is_some_and(u8::is_ascii_digit) {
                break;
            }
        }
        if digits >= 13 {
            run(text, &groups, cards, &mut found);
        }
        at = end.max(at);
    }
}

/// Length of a card number written as some languages write a large floating-point number: `4.111111111111111E15`.
fn scientific(text: &[u8], cards: Cards) -> Option<usize> {
    let (b'0'..=b'9', b'.') = (text[0], *text.get(1)?) else { return None };
    let fraction = text[2..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let [b'e' | b'E', exponent @ ..] = &text[2 + fraction..] else { return None };
    let plus = usize::from(exponent.first() == Some(&b'+'));
    let tens: [u8; 2] = exponent.get(plus..plus + 2)?.try_into().ok()?;
    let more = exponent.get(plus + 2).is_some_and(u8::is_ascii_digit);
    let zeros = std::str::from_utf8(&tens).ok()?.parse::<usize>().ok()?.checked_sub(fraction)?;
    let length = 1 + fraction + zeros;
    if more || !(13..=19).contains(&length) {
        return None;
    }
    let digits: Vec<u8> = [&text[..1], &text[2..2 + fraction], &b"0".repeat(zeros)].concat();
    is_card(&digits, length, cards).then_some(2 + fraction + 1 + plus + 2)
}

/// Length of the separators at the start of `text`, 0 if there are none or too many.
fn separators(text: &[u8]) -> usize {
    let mut at = 0;
    for _ in 0..SEPARATORS_MAX {
        at += match text[at..] {
            [b' ' | b'-' | b'+' | b'\t', ..] => 1,
            // No-break space.
            [0xc2, 0xa0, ..] => 2,
            // Spaces and dashes U+2000 to U+2015, narrow no-break space, minus.
            [0xe2, 0x80, 0x80..=0x95 | 0xaf, ..] | [0xe2, 0x88, 0x92, ..] => 3,
            _ => break,
        };
    }
    at
}

/// All sequences of groups that are a number, joined where they overlap.
fn run(text: &[u8], groups: &[(usize, usize)], cards: Cards, found: &mut impl FnMut(usize, usize)) {
    let mut pending: Option<(usize, usize)> = None;
    for (first, (start, _)) in groups.iter().enumerate() {
        let mut digits = 0;
        let mut longest = None;
        for (group_start, group_end) in &groups[first..] {
            digits += group_end - group_start;
            if digits > 19 {
                break;
            }
            if digits >= 13 && is_card(&text[*start..*group_end], digits, cards) && !in_other(text, *start, *group_end)
            {
                longest = Some(*group_end);
            }
        }
        if let Some(end) = longest {
            match &mut pending {
                Some((_, pending_end)) if *start < *pending_end => *pending_end = end.max(*pending_end),
                _ => {
                    if let Some((start, end)) = pending.replace((*start, end)) {
                        found(start, end);
                    }
                }
            }
        }
    }
    if let Some((start, end)) = pending {
        found(start, end);
    }
}

/// Whether the digits are part of something that is no number: the fraction of `0.123…`, or a long hexadecimal id.
fn in_other(text: &[u8], start: usize, end: usize) -> bool {
    if text[..start].ends_with(b"0.") && !text[..start - 2].last().is_some_and(u8::is_ascii_digit) {
        return true;
    }
    let hex = |byte: &&u8| byte.is_ascii_hexdigit();
    let before = text[..start].iter().rev().take(HEX_ID).take_while(hex).count();
    let after = text[end..].iter().take(HEX_ID).take_while(hex).count();
    let digit = |byte: &&u8| byte.is_ascii_digit();
    let first = text[start..end].iter().take_while(digit).count();
    let last = text[start..end].iter().rev().take_while(digit).count();
    if first == end - start {
        return before + after > 0 && before + first + after >= HEX_ID;
    }
    // A separator ends an id: only the outer groups can be part of one.
    (before > 0 && before + first >= HEX_ID) || (after > 0 && last + after >= HEX_ID)
}

fn is_card(text: &[u8], length: usize, cards: Cards) -> bool {
    let mut digits = [0u8; 19];
    let numeric = text.iter().filter(|byte| byte.is_ascii_digit());
    for (digit, byte) in digits.iter_mut().zip(numeric) {
        *digit = byte - b'0';
    }
    let digits = &digits[..length];
    let plausible = match cards {
        Cards::Known => issued(digits),
        Cards::Any => digits.iter().any(|digit| *digit != digits[0]),
        Cards::Off => false,
    };
    plausible && luhn(digits)
}

fn luhn(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(at, digit)| {
            let digit = u32::from(*digit) << (at % 2);
            if digit > 9 { digit - 9 } else { digit }
        })
        .sum();
    sum.is_multiple_of(10)
}

/// Whether an issuer gives out numbers that begin so and are as long.
fn issued(digits: &[u8]) -> bool {
    let prefix = digits[..4].iter().fold(0, |number, digit| number * 10 + u32::from(*digit));
    match (prefix, digits.len()) {
        // Visa. The old 13-digit form is also that of a barcode, whose check digit is another: barcodes are kept.
        (4000..=4999, 13) => !barcode(digits),
        (4000..=4999, 16 | 19) => true,
        // Mastercard, Mir, JCB's old form, American Express.
        (5100..=5599 | 2221..=2720, 16) | (2200..=2204, 16..) | (1800 | 2131, 15) => true,
        (3400..=3499 | 3700..=3799, 15) => true,
        // Diners Club, JCB.
        (3000..=3059 | 3095 | 3600..=3699 | 3800..=3999, 14..) | (3528..=3589, 16..) => true,
        // Maestro, Discover, UnionPay, RuPay, Troy.
        (5000..=5099 | 5600..=5899 | 6000..=6999, 13..) | (8100..=8299, 16..) | (9792, 16) => true,
        _ => false,
    }
}

/// Whether 13 digits are an EAN-13.
fn barcode(digits: &[u8]) -> bool {
    let sum: u32 =
        digits.iter().enumerate().map(|(at, digit)| u32::from(*digit) * if at % 2 == 0 { 1 } else { 3 }).sum();
    sum.is_multiple_of(10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(text: &str, cards: Cards) -> String {
        let (mut out, mut last) = (String::new(), 0);
        find(text.as_bytes(), cards, |start, end| {
            out.push_str(&text[last..start]);
            out.push('#');
            last = end;
        });
        out + &text[last..]
    }

    #[test]
    fn a_number_with_separators_is_no_part_of_an_id_behind_it() {
        for cards in [Cards::Known, Cards::Any] {
            assert_eq!(masked("4111 1111 1111 1111a4111111111111111", cards), "#a#");
            assert_eq!(masked("4111111111111111a4111 1111 1111 1111", cards), "#a#");
        }
        let id = "4111111111111111a4111111111111111";
        assert_eq!(masked(id, Cards::Known), id, "33 hexadecimal digits");
    }

    #[test]
    fn issuers_test_numbers_are_found() {
        for number in [
            "4111111111111111",
            "4012888888881881",
            "4222222222222",
            "4917610000000000003",
            "5555555555554444",
            "5105105105105100",
            "2223003122003222",
            "2720990000000007",
            "378282246310005",
            "371449635398431",
            "6011111111111117",
            "6011000990139424",
            "30569309025904",
            "38520000023237",
            "3530111333300000",
            "3566002020360505",
            "6200000000000005",
            "6304000000000000",
            "2200770239097761",
        ] {
            assert_eq!(masked(number, Cards::Known), "#", "{number}");
            assert_eq!(masked(&format!("card{number}."), Cards::Known), "card#.", "{number}");
            let spaced: String = number.chars().flat_map(|digit| [digit, ' ']).collect();
            assert_eq!(masked(&spaced, Cards::Known), "# ", "{number}");
        }
    }

    #[test]
    fn separators_and_neighbours_do_not_hide_a_number() {
        for (text, expected) in [
            ("4111 1111 1111 1111", "#"),
            ("4111-1111-1111-1111", "#"),
            ("4111+1111+1111+1111", "#"),
            ("4111\u{a0}1111\u{2009}1111\u{2013}1111", "#"),
            ("4111 - 1111 - 1111 - 1111", "#"),
            ("12 4111 1111 1111 1111 12/30", "12 #/30"),
            ("4111 1111 1111 1111 4111 1111 1111 1111", "#"),
            ("3782 822463 10005 123", "# 123"),
            ("4.111111111111111E15,", "#,"),
            ("4.111111111111111e+15", "#"),
            ("4111    1111 1111 1111", "4111    1111 1111 1111"),
        ] {
            let got = masked(text, Cards::Known);
            assert!(got == expected || (got.contains('#') && !got.contains("1111")), "{text}: {got}");
        }
    }

    #[test]
    fn what_is_no_card_is_kept() {
        for text in [
            "4111111111111112",
            "1700000000000",
            "1700000000006",
            "1732443211123456",
            "4006381333931",
            "490154203237518",
            "0.4111111111111111",
            "deadbeef4111111111111111deadbeef",
            "41111111111111111111",
            "0000000000000000",
            "550e8400-e29b-41d4-a716-446655440000",
            "2026-11-24 10:33:00.123456",
            "52.520008 13.404954",
        ] {
            assert_eq!(masked(text, Cards::Known), text);
        }
        assert_eq!(masked("1700000000006", Cards::Any), masked("1700000000006", Cards::Any));
        assert_eq!(masked("4111111111111111", Cards::Off), "4111111111111111");
    }

    #[test]
    fn any_takes_every_valid_check_digit() {
        assert_eq!(masked("490154203237518", Cards::Any), "#");
        assert_eq!(masked("9999999999999999 0000000000000000", Cards::Any), "9999999999999999 0000000000000000");
    }
}
