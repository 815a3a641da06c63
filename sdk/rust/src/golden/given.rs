//! What a case need not write down: values that every event has, and times as microseconds.

use serde_json::{Value, json};

use super::{Expected, Row};

/// The value of a column that the engine never leaves null, in rows that do not speak of it: the same natively and over
/// the component. `None` for columns that may be null.
pub fn always(column: &str) -> Option<Value> {
    match column {
        "event_id" => Some(json!("an-event")),
        "device_id" => Some(json!("a-device")),
        "event_time" | "received_at" => Some(json!(0)),
        _ => None,
    }
}

/// The place of a null where the engine leaves none, and what to do about it.
pub fn check_nulls(rows: &[Row]) -> Result<(), String> {
    for (at, row) in rows.iter().enumerate() {
        let null = row.iter().filter(|(_, value)| value.is_null()).find_map(|(name, _)| Some((name, always(name)?)));
        if let Some((name, value)) = null {
            return Err(format!(
                "row {at}: column {name:?} can't be null, every event has it: leave it out, and it is {value}, or give a value"
            ));
        }
    }
    Ok(())
}

impl Expected {
    /// Without what goes without saying in what becomes of `row_in`: nulls, and what [`always`] stands for where `row_in`
    /// does not speak of it. Times that are text become microseconds.
    #[must_use]
    pub fn plain(&self, row_in: &Row, is_time: impl Fn(&str) -> bool) -> Self {
        let Self::Keep(rows) = self else { return self.clone() };
        let plain = |row: &Row| -> Row {
            row.iter()
                .map(|(name, value)| {
                    let micros = value.as_str().filter(|_| is_time(name)).and_then(micros_of);
                    (name.clone(), micros.map_or_else(|| value.clone(), Value::from))
                })
                .filter(|(name, value)| {
                    !value.is_null() && (row_in.contains_key(name) || always(name).as_ref() != Some(value))
                })
                .collect()
        };
        Self::Keep(rows.iter().map(plain).collect())
    }
}

/// The microseconds since 1970 UTC of a value of a time column: a whole number, or RFC 3339 text.
pub fn time_of(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| micros_of(value.as_str()?))
}

/// The form of times, for messages.
pub const TIME_FORM: &str =
    "a time is a whole number of microseconds since 1970-01-01 UTC, or RFC 3339 text as in \"2026-11-22T10:00:00Z\"";

/// The microseconds since 1970 UTC of RFC 3339 text with at most six digits of a second's fraction.
fn micros_of(text: &str) -> Option<i64> {
    let [year, month, day] = numbers(text.get(..10)?, '-', [4, 2, 2])?;
    let rest = text.get(10..)?.strip_prefix(['T', 't', ' '])?;
    let [hour, minute, second] = numbers(rest.get(..8)?, ':', [2, 2, 2])?;
    let rest = rest.get(8..)?;
    let (fraction, zone) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?),
        None => ("0", rest),
    };
    let micros: i64 = format!("{fraction:0<6}").parse().ok().filter(|_| (1..=6).contains(&fraction.len()))?;
    let zone_minutes = match zone {
        "Z" | "z" => 0,
        _ => {
            let sign = if zone.starts_with('-') { -1 } else { 1 };
            let [hours, minutes] = numbers(zone.strip_prefix(['+', '-'])?, ':', [2, 2])?;
            (hours < 24 && minutes < 60).then_some(sign * (hours * 60 + minutes))?
        }
    };
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let minutes = days_since_1970(year, month, day)? * 1440 + hour * 60 + minute - zone_minutes;
    Some((minutes * 60 + second) * 1_000_000 + micros)
}

/// Numbers of these many digits between separators.
fn numbers<const N: usize>(text: &str, separator: char, digits: [usize; N]) -> Option<[i64; N]> {
    let mut parts = text.split(separator);
    let mut numbers = [0; N];
    for (number, digits) in numbers.iter_mut().zip(digits) {
        let part =
            parts.next().filter(|part| part.len() == digits && part.bytes().all(|byte| byte.is_ascii_digit()))?;
        *number = part.parse().ok()?;
    }
    parts.next().is_none().then_some(numbers)
}

/// The days from 1970-01-01 to a date of the Gregorian calendar, if it is one.
fn days_since_1970(year: i64, month: i64, day: i64) -> Option<i64> {
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days_of_month = match month {
        2 => 28 + i64::from(is_leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=days_of_month).contains(&day) {
        return None;
    }
    // Years begin in March, so that a leap day is a year's last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    Some(year * 365 + leap_days + (153 * month + 2) / 5 + day - 1 - 719_468)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_numbers_or_text() {
        let times = [
            ("1970-01-01T00:00:00Z", 0),
            ("1969-12-31T23:59:59.999999Z", -1),
            ("2023-11-14T22:13:20.123456Z", 1_700_000_000_123_456),
            ("2023-11-14 23:13:20.5+01:00", 1_700_000_000_500_000),
            ("2023-11-14t16:43:20-05:30", 1_700_000_000_000_000),
            ("2000-02-29T00:00:00z", 951_782_400_000_000),
            ("2100-12-31T23:59:59Z", 4_133_980_799_000_000),
        ];
        for (text, micros) in times {
            assert_eq!(time_of(&json!(text)), Some(micros), "{text}");
        }
        assert_eq!(time_of(&json!(5)), Some(5));
    }

    #[test]
    fn what_is_no_time_is_none() {
        let texts = [
            "",
            "now",
            "2023-11-14",
            "2023-11-14T22:13:20",
            "2023-02-29T00:00:00Z",
            "1900-02-29T00:00:00Z",
            "2023-13-01T00:00:00Z",
            "2023-00-01T00:00:00Z",
            "2023-01-00T00:00:00Z",
            "2023-1-001T00:00:00Z",
            "2023-01-01T24:00:00Z",
            "2023-01-01T00:60:00Z",
            "2023-01-01T00:00:60Z",
            "2023-01-01T00:00:00.Z",
            "2023-01-01T00:00:00.1234567Z",
            "2023-01-01T00:00:00.1",
            "2023-01-01T00:00:00+1:00",
            "2023-01-01T00:00:00+24:00",
            "2023-01-01T00:00:00ZZ",
            "2023-01-01T00:00:0üZ",
            "+023-01-01T00:00:00Z",
        ];
        for text in texts {
            assert_eq!(time_of(&json!(text)), None, "{text}");
        }
        assert_eq!(time_of(&json!(0.5)), None);
    }
}
