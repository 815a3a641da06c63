//! What comes out of a batch, checked against a plain model of rows: whatever an author's function does to the events,
//! and wherever the batch is split.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests, with helpers that are none themselves")]

use millrace_sdk::columns::{Batch, Column, ColumnType, Output, Returned, RowOutcome, Values};
use millrace_sdk::{Code, Col, ColMut, Event, Instance, NoConfig, Outcome, Rows, Schema, Timestamp, Transform};
use proptest::prelude::*;

/// Does to each event what the event's own `script` column says, one letter a step.
struct Scripted {
    script: Col<str>,
    text: ColMut<str>,
    bytes: ColMut<[u8]>,
    number: ColMut<i64>,
    time: ColMut<Timestamp>,
    ratio: ColMut<f64>,
    flag: ColMut<bool>,
    label: ColMut<str>,
    count: ColMut<i64>,
    dropped: Code,
    failed: Code,
}

impl Transform for Scripted {
    type Config = NoConfig;
    const NAME: &'static str = "scripted";
    const VERSION: &'static str = "1.0.0";

    fn configure(_: NoConfig, schema: &mut Schema) -> Result<Self, String> {
        Ok(Self {
            script: schema.read("script"),
            text: schema.update("text"),
            bytes: schema.update("bytes"),
            number: schema.update("number"),
            time: schema.update("time"),
            ratio: schema.update("ratio"),
            flag: schema.update("flag"),
            label: schema.add("label"),
            count: schema.add("count"),
            dropped: schema.code("dropped"),
            failed: schema.code("failed"),
        })
    }

    fn transform(&self, event: &mut Event<'_>) -> Outcome {
        let script = event.get(self.script).unwrap_or_default().to_owned();
        for step in script.chars() {
            match step {
                't' => event.set_with(self.text, |now, out| {
                    out.push_str(now);
                    out.push_str("é!");
                }),
                'T' => event.set_null(self.text),
                'b' => {
                    let longer = [event.get(self.bytes).unwrap_or_default(), b"+"].concat();
                    event.set(self.bytes, &longer);
                }
                'n' => {
                    let next = event.get(self.number).map(|number| number + 1);
                    event.set_opt(self.number, next);
                    event.set(self.time, Timestamp(event.get(self.time).unwrap_or_default().0 - 1));
                }
                'r' => event.set(self.ratio, event.get(self.ratio).unwrap_or(0.5) * 2.0),
                'f' => event.set(self.flag, !event.get(self.flag).unwrap_or(false)),
                'l' => {
                    let label = format!("{}l", event.get(self.label).unwrap_or_default());
                    event.set(self.label, &label);
                    event.set(self.count, event.get(self.count).unwrap_or(0) + 1);
                }
                'c' => event.copy(self.text, self.label),
                'e' => event.emit(),
                'D' => return Outcome::Drop(self.dropped),
                'F' => return Outcome::Fail(self.failed),
                'E' => return Outcome::Emitted,
                _ => unreachable!("{script}"),
            }
        }
        Outcome::Keep
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Row {
    text: Option<String>,
    bytes: Option<String>,
    number: Option<i64>,
    time: Option<i64>,
    ratio: Option<f64>,
    flag: Option<bool>,
    label: Option<String>,
    count: Option<i64>,
}

#[derive(Clone, Debug, PartialEq)]
enum Fate {
    Rows(Vec<Row>),
    Dropped,
    Failed,
}

/// What [`Scripted`] means, written the obvious way.
fn model(script: &str, mut row: Row) -> Fate {
    let mut rows = Vec::new();
    for step in script.chars() {
        match step {
            't' => row.text = Some(row.text.unwrap_or_default() + "é!"),
            'T' => row.text = None,
            'b' => row.bytes = Some(row.bytes.unwrap_or_default() + "+"),
            'n' => {
                row.number = row.number.map(|number| number + 1);
                row.time = Some(row.time.unwrap_or(0) - 1);
            }
            'r' => row.ratio = Some(row.ratio.unwrap_or(0.5) * 2.0),
            'f' => row.flag = Some(!row.flag.unwrap_or(false)),
            'l' => {
                row.label = Some(row.label.unwrap_or_default() + "l");
                row.count = Some(row.count.unwrap_or(0) + 1);
            }
            'c' => row.label = row.text.clone(),
            'e' => rows.push(row.clone()),
            'D' => return Fate::Dropped,
            'F' => return Fate::Failed,
            'E' => return Fate::Rows(rows),
            _ => unreachable!(),
        }
    }
    rows.push(row);
    Fate::Rows(rows)
}

fn batch(rows: &[(String, Row)]) -> Batch {
    Batch {
        rows: rows.len() as u32,
        columns: vec![
            Column::text(rows.iter().map(|(script, _)| Some(script.as_str()))),
            Column::text(rows.iter().map(|(_, row)| row.text.as_deref())),
            Column::text(rows.iter().map(|(_, row)| row.bytes.as_deref())),
            Column::int64(rows.iter().map(|(_, row)| row.number)),
            Column::int64(rows.iter().map(|(_, row)| row.time)),
            Column::float64(rows.iter().map(|(_, row)| row.ratio)),
            Column::bool(rows.iter().map(|(_, row)| row.flag)),
        ],
    }
}

fn fates(sent: &Batch, output: &Output) -> Vec<Fate> {
    let mut fates = vec![None; sent.rows as usize];
    for RowOutcome { row, code } in &output.dropped {
        assert_eq!((fates[*row as usize].replace(Fate::Dropped), *code), (None, 0));
    }
    for RowOutcome { row, code } in &output.failed {
        assert_eq!((fates[*row as usize].replace(Fate::Failed), *code), (None, 1));
    }
    let sources = output.sources.clone().unwrap_or_else(|| (0..sent.rows).collect());
    assert!(sources.is_sorted());
    let column = |at: usize| match &output.columns[at] {
        Returned::Unchanged => {
            assert!(output.sources.is_none() && at < 6);
            &sent.columns[at + 1]
        }
        Returned::Column(column) => column,
    };
    for at in 0..8 {
        assert_eq!(column(at).rows(), sources.len());
        let bits = column(at).validity.as_ref().map(|bits| bits.len());
        assert!(bits.is_none_or(|bytes| bytes >= sources.len().div_ceil(8)));
    }
    for (out, source) in sources.iter().enumerate() {
        let text = |at: usize| column(at).str(out).map(str::to_owned);
        let int = |at: usize| match &column(at).values {
            Values::Int64(values) => column(at).is_valid(out).then(|| values[out]),
            _ => panic!("column {at} holds no integers"),
        };
        let row = Row {
            text: text(0),
            bytes: text(1),
            number: int(2),
            time: int(3),
            ratio: match &column(4).values {
                Values::Float64(values) => column(4).is_valid(out).then(|| values[out]),
                _ => panic!("no doubles"),
            },
            flag: match &column(5).values {
                Values::Bool(values) => column(5).is_valid(out).then(|| values[out] == 1),
                _ => panic!("no booleans"),
            },
            label: text(6),
            count: int(7),
        };
        match &mut fates[*source as usize] {
            Some(Fate::Rows(rows)) => rows.push(row),
            fate @ None => *fate = Some(Fate::Rows(vec![row])),
            Some(_) => panic!("row {source} was left out and came out"),
        }
    }
    fates.into_iter().map(|fate| fate.expect("every row has a fate")).collect()
}

fn row() -> impl Strategy<Value = (String, Row)> {
    let script = prop_oneof![
        3 => Just(String::new()),
        3 => "[tTbnrflc]{1,5}",
        2 => "[tTbnrflce]{1,6}",
        1 => "[tTbnrflce]{0,4}[DF]",
        1 => "[tTbnrflc]{0,3}e[tTbnrflce]{0,4}E",
    ];
    let value = (
        proptest::option::of("[a-zé]{0,5}"),
        proptest::option::of("[a-zé]{0,5}"),
        proptest::option::of(0i64..100),
        proptest::option::of(0i64..100),
        proptest::option::of(0.25f64..4.0),
        proptest::option::of(any::<bool>()),
    );
    (script, value).prop_map(|(script, (text, bytes, number, time, ratio, flag))| {
        (script, Row { text, bytes, number, time, ratio, flag, ..Row::default() })
    })
}

proptest! {
    #[test]
    fn every_event_becomes_what_its_function_says(
        rows in proptest::collection::vec(row(), 0..40), split in any::<prop::sample::Index>(),
    ) {
        let plugin = Instance::<Scripted>::new("{}").unwrap();
        let expected: Vec<Fate> = rows.iter().map(|(script, row)| model(script, row.clone())).collect();
        let run = |rows: &[(String, Row)]| {
            let sent = batch(rows);
            fates(&sent, &plugin.transform(sent.clone()).unwrap())
        };
        prop_assert_eq!(&run(&rows), &expected);
        let (left, right) = rows.split_at(split.index(rows.len() + 1));
        prop_assert_eq!([run(left), run(right)].concat(), expected);
    }
}

fn plain(values: &[&str]) -> Batch {
    let rows: Vec<_> =
        values.iter().map(|value| (String::new(), Row { text: Some((*value).to_owned()), ..Row::default() })).collect();
    batch(&rows)
}

#[test]
fn the_manifest_says_what_was_declared() {
    let manifest = Instance::<Scripted>::new("").unwrap().manifest().clone();
    assert_eq!(manifest.reads, ["script", "text", "bytes", "number", "time", "ratio", "flag"]);
    assert_eq!(manifest.writes, ["text", "bytes", "number", "time", "ratio", "flag"]);
    let adds: Vec<_> = manifest.adds.iter().map(|column| (column.name.as_str(), column.ty)).collect();
    assert_eq!(adds, [("label", ColumnType::String), ("count", ColumnType::Int64)]);
    assert_eq!(manifest.codes, ["dropped", "failed"]);
}

#[test]
fn untouched_columns_are_not_sent_back() {
    let plugin = Instance::<Scripted>::new("{}").unwrap();
    let output = plugin.transform(plain(&["a", "b", "c"])).unwrap();
    assert_eq!(output.sources, None);
    assert!(output.columns[..6].iter().all(|column| *column == Returned::Unchanged));
    let mut one = plain(&["a", "b", "c"]);
    one.columns[0] = Column::text([Some(""), Some("t"), Some("")]);
    let output = plugin.transform(one).unwrap();
    assert_eq!(output.columns[0], Returned::Column(Column::text([Some("a"), Some("bé!"), Some("c")])));
    assert!(output.columns[1..6].iter().all(|column| *column == Returned::Unchanged));
}

#[test]
fn a_batch_that_is_not_as_declared_is_refused() {
    let plugin = Instance::<Scripted>::new("{}").unwrap();
    let refuse = |change: &dyn Fn(&mut Batch), part: &str| {
        let mut batch = plain(&["a", "b"]);
        change(&mut batch);
        let message = plugin.transform(batch).unwrap_err();
        assert!(message.contains(part), "{message}");
    };
    refuse(
        &|batch| batch.columns[1] = Column::int64([Some(1), Some(2)]),
        "\"text\" is not as declared: it holds int64",
    );
    refuse(&|batch| batch.columns[3] = Column::text([None, None]), "\"number\" is not as declared: it holds text");
    refuse(&|batch| batch.columns[1] = Column::text([Some("a")]), "it has 1 rows, the batch 2");
    refuse(&|batch| batch.columns[2].validity = Some(Vec::new()), "too few validity bits");
    refuse(&|batch| drop(batch.columns.pop()), "6 columns were sent");
    let not_utf8 = |batch: &mut Batch| {
        if let Values::Text(text) = &mut batch.columns[1].values {
            text.bytes[0] = 0xff;
        }
    };
    refuse(&not_utf8, "text is not UTF-8");
    let short = |batch: &mut Batch| {
        if let Values::Text(text) = &mut batch.columns[1].values {
            text.bytes.pop();
        }
    };
    refuse(&short, "offsets don't span the text");
}

#[test]
fn an_event_that_emits_nothing_is_an_error() {
    let mut batch = plain(&["a"]);
    batch.columns[0] = Column::text([Some("E")]);
    let message = Instance::<Scripted>::new("{}").unwrap().transform(batch).unwrap_err();
    assert!(message.contains("emitted no row"), "{message}");
}

/// Declares what the configuration says.
struct Declares;

impl Transform for Declares {
    type Config = String;
    const NAME: &'static str = "declares";
    const VERSION: &'static str = "1.0.0";

    fn configure(config: String, schema: &mut Schema) -> Result<Self, String> {
        match config.as_str() {
            "types" => {
                let _: Col<str> = schema.read("x");
                let _: Col<i64> = schema.read("x");
            }
            "exists" => {
                let _: Col<str> = schema.read("x");
                let _: ColMut<str> = schema.add("x");
            }
            "code" => drop(schema.code("Not a code")),
            "upgrade" => {
                let read: Col<str> = schema.read("x");
                let update: ColMut<str> = schema.update("x");
                assert_eq!(format!("{read:?}{update:?}"), "Col(0)ColMut(0)");
            }
            other => return Err(format!("no such thing: {other}")),
        }
        Ok(Self)
    }

    fn transform(&self, _: &mut Event<'_>) -> Outcome {
        Outcome::Keep
    }
}

#[test]
fn declarations_that_contradict_each_other_are_refused() {
    let error = |config: &str| Instance::<Declares>::new(config).map(|_| ()).unwrap_err();
    assert_eq!(error("\"types\""), "column \"x\" is declared as two different types (string and int64)");
    assert_eq!(error("\"exists\""), "column \"x\" is declared as a new one and as one that exists");
    assert_eq!(error("\"code\""), "code \"Not a code\" must be 1 to 64 characters of a-z 0-9 _");
    assert_eq!(error("\"?\""), "no such thing: ?");
    assert!(error("{}").starts_with("the configuration is wrong:"));
    let upgraded = Instance::<Declares>::new("\"upgrade\"").unwrap();
    assert_eq!(
        (&upgraded.manifest().reads[..], &upgraded.manifest().writes[..]),
        (&["x".to_owned()][..], &["x".to_owned()][..])
    );
}

/// Looks at a whole column first, and visits only the rows that need it.
struct Columnar {
    text: ColMut<str>,
    dropped: Code,
}

impl Transform for Columnar {
    type Config = NoConfig;
    const NAME: &'static str = "columnar";
    const VERSION: &'static str = "1.0.0";

    fn configure(_: NoConfig, schema: &mut Schema) -> Result<Self, String> {
        Ok(Self { text: schema.update("text"), dropped: schema.code("dropped") })
    }

    fn transform(&self, event: &mut Event<'_>) -> Outcome {
        if event.get(self.text) == Some("drop") {
            return Outcome::Drop(self.dropped);
        }
        event.set(self.text, "found");
        Outcome::Keep
    }

    fn transform_batch(&self, rows: &mut Rows<'_>) -> Result<(), String> {
        let view = rows.column(self.text);
        let wanted: Vec<usize> =
            (0..rows.len()).filter(|row| view.get(*row).is_some_and(|text| text.len() > 3)).collect();
        assert_eq!(view.all().map(str::len), view.offsets().last().map(|end| *end as usize));
        for row in wanted {
            rows.visit(row, |event| self.transform(event));
        }
        Ok(())
    }
}

#[test]
fn rows_that_are_not_visited_go_on_untouched() {
    let plugin = Instance::<Columnar>::new("{}").unwrap();
    let run = |values: &[Option<&str>]| {
        let column = Column::text(values.iter().copied());
        plugin.transform(Batch { rows: values.len() as u32, columns: vec![column] }).unwrap()
    };
    assert_eq!(run(&[Some("a"), None, Some("b")]).columns, [Returned::Unchanged]);
    let output = run(&[Some("a"), Some("long"), None, Some("drop"), Some("b"), Some("drop")]);
    assert_eq!(output.columns, [Returned::Column(Column::text([Some("a"), Some("found"), None, Some("b")]))]);
    assert_eq!(output.sources, Some(vec![0, 1, 2, 4]));
    assert_eq!(output.dropped, [RowOutcome { row: 3, code: 0 }, RowOutcome { row: 5, code: 0 }]);
}
