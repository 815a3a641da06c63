//! Times: reading them, and when an event happened.

/// 24 hours, in µs: how far `event_time` may lie ahead of `received_at`.
pub const TIME_WINDOW_AHEAD_US: i64 = DAY_US;

pub(crate) const DAY_US: i64 = 86_400_000_000;

/// Reads a time: RFC 3339, with `T`, `t` or a space between date and time, with any number of digits in the fraction
/// (cut off after the sixth), with an offset of any size or `Z` or, taken as UTC, none. Seconds may be missing. A leap
/// second (`:60`) is the first instant of the next minute. Returns µs since 1970 UTC.
pub fn parse_rfc3339(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let (year, month, day) = (digits(bytes, 0, 4)?, digits(bytes, 5, 2)?, digits(bytes, 8, 2)?);
    let separators = bytes[4] == b'-' && bytes[7] == b'-' && matches!(bytes.get(10), Some(b'T' | b't' | b' '));
    let (hour, minute) = (digits(bytes, 11, 2)?, digits(bytes, 14, 2)?);
    if !separators || bytes[13] != b':' || hour > 23 || minute > 59 {
        return None;
    }
    let (mut second, mut micros, mut at) = (0, 0, 16);
    if bytes.get(at) == Some(&b':') {
        second = digits(bytes, 17, 2)?;
        at = 19;
        if second > 60 {
            return None;
        }
        if let Some(b'.' | b',') = bytes.get(at) {
            let fraction = bytes[at + 1..].iter().take_while(|byte| byte.is_ascii_digit()).count();
            if fraction == 0 {
                return None;
            }
            let known = fraction.min(6);
            micros = digits(bytes, at + 1, known)? * 10_i64.pow(6 - known as u32);
            at += 1 + fraction;
        }
    }
    let offset_minutes = offset(&bytes[at..])?;
    let seconds = (days(year, month, day)? * 24 + hour) * 3600 + (minute - offset_minutes) * 60 + second;
    Some(seconds * 1_000_000 + micros)
}

/// Minutes by which the local time is ahead of UTC.
fn offset(bytes: &[u8]) -> Option<i64> {
    let sign = match bytes {
        [] | [b'Z' | b'z'] => return Some(0),
        [b'+', ..] => 1,
        [b'-', ..] => -1,
        _ => return None,
    };
    let minutes = match bytes.len() {
        3 => 0,
        5 => digits(bytes, 3, 2)?,
        6 if bytes[3] == b':' => digits(bytes, 4, 2)?,
        _ => return None,
    };
    let hours = digits(bytes, 1, 2)?;
    if hours > 23 || minutes > 59 {
        return None;
    }
    Some(sign * (hours * 60 + minutes))
}

/// The number that `count` digits at `at` stand for.
fn digits(bytes: &[u8], at: usize, count: usize) -> Option<i64> {
    bytes.get(at..at + count)?.iter().try_fold(0, |number, byte| {
        let digit = byte.wrapping_sub(b'0');
        (digit < 10).then(|| number * 10 + i64::from(digit))
    })
}

/// Days from 1970-01-01 to a date of the proleptic Gregorian calendar.
fn days(year: i64, month: i64, day: i64) -> Option<i64> {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 => 28 + i64::from(leap),
        _ => return None,
    };
    if !(1..=length).contains(&day) {
        return None;
    }
    // Years are counted from March, so that the leap day is the last of its year.
    let shifted = if month > 2 { year } else { year - 1 };
    let (era, month) = (shifted.div_euclid(400), (month + 9) % 12);
    let year_of_era = shifted.rem_euclid(400);
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + (153 * month + 2) / 5 + day - 1;
    Some(era * 146_097 + day_of_era - 719_468)
}

/// Reads milliseconds since 1970 UTC from the text of a JSON number, in µs. What is finer than a µs is cut off.
pub fn parse_epoch_millis(number: &str) -> Option<i64> {
    if let Ok(millis) = number.parse::<i64>() {
        return millis.checked_mul(1000);
    }
    // A fraction or an exponent: some runtimes have no other numbers. A double holds µs exactly until the year 2255.
    let micros = number.parse::<f64>().ok()? * 1000.0;
    (micros.abs() < 9.0e18).then_some(micros as i64)
}

/// What is known of when an event happened, in µs since 1970 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Clocks {
    /// When the event happened, by the sender's clock.
    pub(crate) original: Option<i64>,
    /// When the event was sent, by the sender's clock.
    pub(crate) sent_at: Option<i64>,
    /// When the event arrived, by ours.
    pub(crate) received_at: i64,
    /// How far behind `received_at` is believed.
    pub(crate) behind_max: i64,
}

impl Clocks {
    /// When the event happened, by our clock. `None` when the sender's clock can't be believed: too far ahead of or
    /// behind `received_at`, both limits themselves being fine.
    pub(crate) fn event_time(self) -> Option<i64> {
        let Self { original, sent_at, received_at, behind_max } = self;
        let time = match (original, sent_at) {
            (None, _) => received_at,
            (Some(original), None) => original,
            (Some(original), Some(sent_at)) => received_at.saturating_sub(sent_at.saturating_sub(original).max(0)),
        };
        let earliest = received_at.saturating_sub(behind_max);
        let latest = received_at.saturating_add(TIME_WINDOW_AHEAD_US);
        (earliest..=latest).contains(&time).then_some(time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::DateTime;
    use proptest::prelude::*;

    #[test]
    fn times_in_all_their_spellings() {
        let base = 1_449_947_461_000_000;
        for (text, expected) in [
            ("2015-12-12T19:11:01Z", Some(base)),
            ("2015-12-12t19:11:01z", Some(base)),
            ("2015-12-12 19:11:01", Some(base)),
            ("2015-12-12T19:11:01.249Z", Some(base + 249_000)),
            ("2015-12-12T19:11:01,2Z", Some(base + 200_000)),
            ("2015-12-12T19:11:01.2490001Z", Some(base + 249_000)),
            ("2015-12-12T19:11:01.000000999Z", Some(base)),
            ("2015-12-12T20:41:01+01:30", Some(base)),
            ("2015-12-12T20:41:01+0130", Some(base)),
            ("2015-12-12T11:11:01-08", Some(base)),
            ("2015-12-12T19:11:01.5-00:00", Some(base + 500_000)),
            ("2015-12-12T19:11Z", Some(base - 1_000_000)),
            ("2015-12-12T19:10:60Z", Some(base - 1_000_000)),
            ("2016-02-29T00:00:00Z", Some(1_456_704_000_000_000)),
            ("2000-02-29T00:00:00Z", Some(951_782_400_000_000)),
            ("0000-01-01T00:00:00Z", Some(-62_167_219_200_000_000)),
            ("9999-12-31T23:59:59.999999-23:59", Some(253_402_387_139_999_999)),
            ("2015-02-29T00:00:00Z", None),
            ("1900-02-29T00:00:00Z", None),
            ("2015-13-01T00:00:00Z", None),
            ("2015-00-01T00:00:00Z", None),
            ("2015-12-00T00:00:00Z", None),
            ("2015-12-12T24:00:00Z", None),
            ("2015-12-12T19:60:00Z", None),
            ("2015-12-12T19:11:61Z", None),
            ("2015-12-12T19:11:01.Z", None),
            ("2015-12-12T19:11:01+24:00", None),
            ("2015-12-12T19:11:01+1:00", None),
            ("2015-12-12T19:11:01 Z", None),
            ("2015-12-12T19:11:01Zz", None),
            ("2015-12-12T19-11-01Z", None),
            ("2015/12/12T19:11:01Z", None),
            ("2015-12-12", None),
            ("+015-12-12T19:11:01Z", None),
            ("1449947461000", None),
            ("yesterday", None),
            ("", None),
            ("２０１５-12-12T19:11:01Z", None),
        ] {
            assert_eq!(parse_rfc3339(text), expected, "{text}");
        }
    }

    #[test]
    fn epoch_milliseconds_in_all_their_spellings() {
        for (text, expected) in [
            ("1449947461266", Some(1_449_947_461_266_000)),
            ("-1", Some(-1_000)),
            ("0", Some(0)),
            ("1449947461266.5", Some(1_449_947_461_266_500)),
            ("1.449947461266E12", Some(1_449_947_461_266_000)),
            ("9223372036854775807", None),
            ("9300000000000000000", None),
            ("1e400", None),
        ] {
            assert_eq!(parse_epoch_millis(text), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn agrees_with_chrono(micros in -62_000_000_000_000_000_i64..253_000_000_000_000_000, minutes in -1_439..1_440_i32) {
            let zone = chrono::FixedOffset::east_opt(minutes * 60).unwrap();
            let text = DateTime::from_timestamp_micros(micros).unwrap().with_timezone(&zone).to_rfc3339();
            prop_assert_eq!(parse_rfc3339(&text), Some(micros), "{}", text);
        }

        #[test]
        fn garbage_never_panics(text in "[0-9T:.,Zz +\\-é]{0,32}") {
            let _ = (parse_rfc3339(&text), parse_epoch_millis(&text));
        }

        #[test]
        fn no_clock_overflows(original: Option<i64>, sent_at: Option<i64>, received_at: i64, behind_max in 0..i64::MAX) {
            if let Some(time) = (Clocks { original, sent_at, received_at, behind_max }).event_time() {
                prop_assert!(i128::from(time) - i128::from(received_at) <= i128::from(DAY_US));
                prop_assert!(i128::from(received_at) - i128::from(time) <= i128::from(behind_max));
            }
        }
    }
}
