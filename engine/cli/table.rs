//! Tables on a terminal.

/// Lays rows out in columns: text to the left, numbers to the right, two spaces between.
pub fn lay_out(head: &[&str], rows: &[Vec<String>]) -> String {
    // A row is a line, whatever is in it.
    let cell = |row: &[String], column: usize| row.get(column).map_or("", String::as_str).replace(['\n', '\r'], " ");
    let width = |text: &str| text.chars().count();
    let columns = head.len();
    let widths: Vec<usize> = (0..columns)
        .map(|column| rows.iter().map(|row| width(&cell(row, column))).chain([width(head[column])]).max().unwrap_or(0))
        .collect();
    let numeric: Vec<bool> = (0..columns)
        .map(|column| {
            rows.iter().all(|row| cell(row, column).chars().all(|c| c.is_ascii_digit() || ".,%-+".contains(c)))
        })
        .collect();
    let line = |cells: Vec<String>| {
        let padded = cells.iter().enumerate().map(|(column, text)| {
            let gap = " ".repeat(widths[column] - width(text));
            if numeric[column] { format!("{gap}{text}") } else { format!("{text}{gap}") }
        });
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let head = line(head.iter().map(|text| (*text).to_owned()).collect());
    let rows = rows.iter().map(|row| line((0..columns).map(|column| cell(row, column)).collect()));
    std::iter::once(head).chain(rows).fold(String::new(), |all, line| all + &line + "\n")
}

/// A number with its thousands apart.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// So many of something that has an `s` where it is not one.
pub fn counted(number: u64, what: &str) -> String {
    format!("{} {what}{}", thousands(number), if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_to_the_right() {
        let rows = vec![vec!["home".into(), "1,234".into()], vec!["product_view".into(), "5".into()]];
        assert_eq!(
            lay_out(&["event", "count"], &rows),
            "event         count\nhome          1,234\nproduct_view      5\n"
        );
    }

    #[test]
    fn a_row_is_a_line() {
        let rows = vec![vec!["1".into(), "two\nlines".into()], vec!["2".into(), "one".into()]];
        assert_eq!(lay_out(&["n", "reason"], &rows), "n  reason\n1  two lines\n2  one\n");
    }

    #[test]
    fn one_is_not_many() {
        assert_eq!([counted(0, "row"), counted(1, "row"), counted(1000, "row")], ["0 rows", "1 row", "1,000 rows"]);
    }

    #[test]
    fn thousands_are_apart() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(thousands(number), text);
        }
    }
}
