//! StepArgs for people: differences, and what was used of the limits. In colours on a terminal, plain in a pipe.

use std::fmt::Write as _;
use std::io::IsTerminal as _;

use indicatif::HumanBytes;
use millrace_plugin_host::Manifest;
use millrace_sdk::golden::Expected;
use millrace_workbench::{Difference, LimitUse, Usage, Verdict};

use crate::table::{lay_out, thousands};

/// Differences of a case that are shown; `--json` has all.
const DIFFERENCES_SHOWN: usize = 20;
/// Characters of a value that are shown, around the place where it differs.
const VALUE_CHARS: usize = 160;
/// Of these before that place.
const BEFORE_CHARS: usize = 60;

/// Whether to use colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    pub colour: bool,
}

impl Style {
    /// Colours on a terminal, unless NO_COLOR forbids them.
    pub fn of_stdout() -> Self {
        let forbidden = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { colour: std::io::stdout().is_terminal() && !forbidden }
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colour && !text.is_empty() { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    pub fn good(self, text: &str) -> String {
        self.paint("32", text)
    }

    pub fn bad(self, text: &str) -> String {
        self.paint("31", text)
    }

    pub fn faint(self, text: &str) -> String {
        self.paint("2", text)
    }

    fn strong(self, text: &str) -> String {
        self.paint("1", text)
    }
}

/// What the two sides of a difference are called.
#[derive(Clone, Copy)]
pub struct Sides {
    pub ours: &'static str,
    pub theirs: &'static str,
}

/// Of a check.
pub const CHECKED: Sides = Sides { ours: "expected", theirs: "came out" };
/// Of a case that was blessed.
pub const BLESSED: Sides = Sides { ours: "was", theirs: "is now" };

/// What is not as expected, indented; nothing where it is.
pub fn verdict(verdict: &Verdict, sides: Sides, style: Style) -> String {
    match verdict {
        Verdict::Passed => String::new(),
        Verdict::Differs(differences) => {
            let mut text: String =
                differences.iter().take(DIFFERENCES_SHOWN).map(|d| difference(d, sides, style)).collect();
            if differences.len() > DIFFERENCES_SHOWN {
                let more = differences.len() - DIFFERENCES_SHOWN;
                text += &format!("      and {more} more differences\n");
            }
            text
        }
        Verdict::Count { rows, expectations } => {
            format!("      the case has {rows} rows and {expectations} expectations: each row needs one\n")
        }
        Verdict::DependsOnNeighbours { row, split, call, alone, beside } => {
            let became = beside.as_ref().map_or_else(|| "dropped, under another code".to_owned(), outcome);
            let call = format!("rows {} to {} {split}", call.start, call.end - 1);
            let head = format!("row {row} depends on the rows beside it: the plugin must keep nothing from row to row");
            format!("      {}\n", style.strong(&head)) + &pair("alone", &outcome(alone), &call, &became, style)
        }
        Verdict::ConfigAccepted { expected } => {
            format!("      the configuration was accepted, and the case expects an error with {expected:?}\n")
        }
        Verdict::ConfigRefused { expected, came_out } => {
            let head = "      the configuration was refused in other words\n".to_owned();
            head + &pair(sides.ours, expected, sides.theirs, came_out, style)
        }
    }
}

fn difference(difference: &Difference, sides: Sides, style: Style) -> String {
    match difference {
        Difference::Value { row, out, outs, column, expected, came_out } => {
            let which = if *outs > 1 { format!(" (number {} of {outs} out of it)", out + 1) } else { String::new() };
            let head = style.strong(&format!("row {row}{which}, column {}", printable(column)));
            let (expected, came_out) = (expected.to_string(), came_out.to_string());
            format!("      {head}\n") + &pair(sides.ours, &expected, sides.theirs, &came_out, style)
        }
        Difference::Outcome { row, expected, came_out, message } => {
            let head = style.strong(&format!("row {row}"));
            let pair = pair(sides.ours, &outcome(expected), sides.theirs, &outcome(came_out), style);
            let said = message.iter().flat_map(|message| message.lines());
            let said: String = said.map(|line| format!("          {}\n", printable(line))).collect();
            format!("      {head}\n{pair}{}", style.faint(&said))
        }
    }
}

/// What became of a row, in words.
fn outcome(outcome: &Expected) -> String {
    match outcome {
        Expected::Keep(rows) => {
            let rows: Vec<String> = rows.iter().map(|row| serde_json::Value::Object(row.clone()).to_string()).collect();
            if rows.is_empty() { "no row, without a code".to_owned() } else { rows.join(" and ") }
        }
        Expected::Drop(code) => format!("dropped: {code}"),
        Expected::Fail(code) => format!("failed: {code}"),
    }
}

/// Two values one above the other, cut to the place where they begin to differ, which is marked.
fn pair(our_name: &str, ours: &str, their_name: &str, theirs: &str, style: Style) -> String {
    let (ours, theirs): (Vec<char>, Vec<char>) =
        (printable(ours).chars().collect(), printable(theirs).chars().collect());
    let same = ours.iter().zip(&theirs).take_while(|(a, b)| a == b).count();
    let shorter = ours.len().min(theirs.len());
    let same_end = ours.iter().rev().zip(theirs.iter().rev()).take_while(|(a, b)| a == b).count().min(shorter - same);
    let longer = ours.len().max(theirs.len());
    let start = if longer <= VALUE_CHARS { 0 } else { same.saturating_sub(BEFORE_CHARS) };
    let width = our_name.chars().count().max(their_name.chars().count());
    let line = |name: &str, value: &[char], paint: &dyn Fn(&str) -> String| {
        let end = value.len().min(start + VALUE_CHARS);
        let text = |from: usize, to: usize| value[from.min(end)..to.min(end)].iter().collect::<String>();
        let differs = value.len() - same_end;
        let cut = |is_cut: bool| if is_cut { "…" } else { "" };
        let (before, middle, after) = (text(start, same), text(same, differs), text(differs, end));
        // Inverse, so that a difference of spaces is seen too.
        let middle = if style.colour { style.paint("7", &paint(&middle)) } else { middle };
        let (left, right) = (cut(start > 0), cut(end < value.len()));
        format!("        {name:<width$}  {left}{}{middle}{}{right}\n", paint(&before), paint(&after))
    };
    let mut text =
        line(our_name, &ours, &|text| style.good(text)) + &line(their_name, &theirs, &|text| style.bad(text));
    if !style.colour {
        let indent = 8 + width + 2 + usize::from(start > 0) + (same - start.min(same));
        text += &format!("{:indent$}^\n", "");
    }
    text
}

/// What each case cost, and all together.
pub fn usage(cases: &[(String, &Usage)], all: &Usage) -> String {
    let head = ["case", "rows", "calls", "fuel/row", "dearest row", "memory", "output", "log lines"];
    let row = |name: &str, usage: &Usage| {
        vec![
            name.to_owned(),
            thousands(usage.rows),
            thousands(usage.calls),
            thousands(usage.fuel_per_row()),
            thousands(usage.fuel_row_max),
            HumanBytes(usage.peak.memory_bytes).to_string(),
            HumanBytes(usage.output_bytes).to_string(),
            thousands(usage.log_lines),
        ]
    };
    let mut rows: Vec<Vec<String>> = cases.iter().map(|(name, usage)| row(name, usage)).collect();
    if cases.len() > 1 {
        rows.push(row("all", all));
    }
    lay_out(&head, &rows)
}

/// How near one call came to each limit.
pub fn limits(uses: &[LimitUse], style: Style) -> String {
    let head = ["limit of a call", "most used", "of", "share"];
    let amount = |name: &str, number: u64| match name {
        "memory_bytes" | "output_bytes" => HumanBytes(number).to_string(),
        _ => thousands(number),
    };
    let rows: Vec<Vec<String>> = uses
        .iter()
        .map(|limit| {
            let percent = limit.share() * 100.0;
            let share = if limit.used > 0 && percent < 0.1 { "<0.1%".to_owned() } else { format!("{percent:.1}%") };
            let name = if limit.limit == "rows_out" { "rows out of one" } else { limit.limit };
            vec![name.to_owned(), amount(limit.limit, limit.used), amount(limit.limit, limit.max), share]
        })
        .collect();
    let table = lay_out(&head, &rows);
    let mut text = String::new();
    for (line, limit) in table.lines().zip(std::iter::once(None).chain(uses.iter().map(Some))) {
        let line = match limit {
            Some(limit) if limit.met => style.bad(&format!("{line}  met")),
            _ => line.to_owned(),
        };
        // Writing to a String does not fail.
        let _ = writeln!(text, "{line}");
    }
    text
}

/// What a plugin says of itself.
pub fn manifest(manifest: &Manifest) -> String {
    let adds: Vec<String> = manifest.adds.iter().map(|column| format!("{}: {}", column.name, column.ty)).collect();
    let mut text = manifest.step_name();
    let lists =
        [("reads", &manifest.reads), ("writes", &manifest.writes), ("adds", &adds), ("tables", &manifest.tables)];
    for (what, names) in lists.into_iter().filter(|(_, names)| !names.is_empty()) {
        text += &format!("\n  {what:<6}  {}", names.join(", "));
    }
    text
}

/// Text of a guest or an event without what would steer a terminal.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const PLAIN: Style = Style { colour: false };

    fn value(expected: Value, came_out: Value) -> Verdict {
        Verdict::Differs(vec![Difference::Value {
            row: 2,
            out: 0,
            outs: 1,
            column: "ip".to_owned(),
            expected,
            came_out,
        }])
    }

    #[test]
    fn a_plain_difference_points_at_the_place() {
        let text = verdict(&value(json!("203.0.113.0"), json!("203.0.113.77")), CHECKED, PLAIN);
        assert_eq!(
            text,
            concat!(
                "      row 2, column ip\n",
                "        expected  \"203.0.113.0\"\n",
                "        came out  \"203.0.113.77\"\n",
                "                             ^\n",
            )
        );
        // One is the beginning of the other: the mark stands behind it.
        let text = verdict(&value(json!(1), json!(12)), CHECKED, PLAIN);
        assert!(text.ends_with("came out  12\n                   ^\n"), "{text}");
    }

    #[test]
    fn a_difference_in_colours_is_inverse() {
        let text = verdict(&value(json!("a b c"), json!("a c")), BLESSED, Style { colour: true });
        assert!(text.contains("\u{1b}[7m\u{1b}[32mb \u{1b}[0m\u{1b}[0m"), "{text:?}");
        assert!(text.contains("was     ") && text.contains("is now  "), "{text:?}");
        assert!(!text.contains('^'));
    }

    #[test]
    fn long_values_are_cut_around_the_difference_and_nothing_steers_the_terminal() {
        let long = |middle: &str| json!(format!("{}{middle}{}", "a".repeat(5000), "b".repeat(5000)));
        let text = verdict(&value(long("X\u{9b}2J"), long("Y")), CHECKED, PLAIN);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines.iter().all(|line| line.chars().count() < 200), "{text}");
        assert!(lines[1].contains("aaaX\u{fffd}2Jbbb") && lines[2].contains("aaaYbbb"), "{text}");
        let mark = lines[3].chars().position(|c| c == '^').unwrap();
        assert_eq!((lines[1].chars().nth(mark), lines[2].chars().nth(mark)), (Some('X'), Some('Y')));
    }

    #[test]
    fn what_the_guest_said_stands_below() {
        let outcome = Difference::Outcome {
            row: 0,
            expected: Expected::Drop("bot".to_owned()),
            came_out: Expected::Fail("trap".to_owned()),
            message: Some("panicked at src/lib.rs:3:5\nindex out of bounds".to_owned()),
        };
        let text = verdict(&Verdict::Differs(vec![outcome]), CHECKED, PLAIN);
        assert!(text.contains("expected  dropped: bot\n        came out  failed: trap\n"), "{text}");
        assert!(text.ends_with("          panicked at src/lib.rs:3:5\n          index out of bounds\n"), "{text}");
    }

    #[test]
    fn limits_that_were_met_say_so() {
        let uses = [
            LimitUse { limit: "memory_bytes", used: 1 << 20, max: 64 << 20, met: false },
            LimitUse { limit: "fuel", used: 400, max: 400, met: true },
        ];
        let text = limits(&uses, PLAIN);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].contains("1.00 MiB") && lines[1].ends_with("1.6%"), "{text}");
        assert!(lines[2].ends_with("100.0%  met"), "{text}");
    }
}
