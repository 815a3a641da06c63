use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, StringArray, TimestampMicrosecondArray, new_null_array,
};
use arrow::record_batch::RecordBatch;
use proptest::prelude::*;

use super::encode::{push_head, push_value};
use super::*;
use crate::schema::{BASE, LINEAGE};

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, a)| (n, a, true))).unwrap()
}

fn encoded(batch: &RecordBatch, row: usize) -> Vec<u8> {
    let mut out = Vec::new();
    RowEncoder::new(batch).unwrap().encode(row, &mut out);
    out
}

fn borrowed(value: &Value) -> ValueRef<'_> {
    match value {
        Value::String(text) => ValueRef::String(text),
        Value::Timestamp(us) => ValueRef::Timestamp(*us),
        Value::Int64(number) => ValueRef::Int64(*number),
        Value::Float64(number) => ValueRef::Float64(*number),
        Value::Bool(truth) => ValueRef::Bool(*truth),
    }
}

/// One row of these columns, which are in order.
fn encoded_values(columns: &[(String, Value)]) -> Vec<u8> {
    let mut out = vec![VERSION];
    for (name, value) in columns {
        let value = borrowed(value);
        push_head(&mut out, name, value.column_type()).unwrap();
        push_value(&mut out, value);
    }
    out
}

/// The same in version 1, as it was written.
fn named(columns: &[(String, Value)]) -> Vec<u8> {
    let mut out = vec![NAMED];
    for (name, value) in columns {
        out.push(name.len() as u8);
        out.extend_from_slice(name.as_bytes());
        let (tag, value) = match value {
            Value::String(text) => (1, [&(text.len() as u32).to_le_bytes(), text.as_bytes()].concat()),
            Value::Timestamp(us) => (2, us.to_le_bytes().to_vec()),
            Value::Int64(number) => (3, number.to_le_bytes().to_vec()),
            Value::Float64(number) => (4, number.to_le_bytes().to_vec()),
            Value::Bool(truth) => (5, vec![u8::from(*truth)]),
        };
        out.push(tag);
        out.extend(value);
    }
    out
}

#[test]
fn bytes_are_pinned() {
    let row = batch(vec![
        ("b", Arc::new(Int64Array::from(vec![Some(-2)])) as ArrayRef),
        ("a", Arc::new(StringArray::from(vec![Some("hé")]))),
        ("c", Arc::new(BooleanArray::from(vec![None::<bool>]))),
        ("user_id", Arc::new(StringArray::from(vec!["u"]))),
        ("_offset", Arc::new(Int64Array::from(vec![70]))),
        // A name that has a code, with another type than the code's.
        ("app", Arc::new(BooleanArray::from(vec![true]))),
        ("event_time", Arc::new(TimestampMicrosecondArray::from(vec![258]).with_timezone("UTC"))),
    ]);
    let expected = b"\x02\x01\x8c\x01\0\x01a\x01\x03h\xc3\xa9\0\x03app\x05\x01\0\x01b\x03\x03\
        \x0d\x02\x01\0\0\0\0\0\0\x1e\x01u";
    assert_eq!(encoded(&row, 0), expected);
}

#[test]
fn version_1_is_pinned_and_reads_like_version_2() {
    let old = b"\x01\x01a\x01\x03\0\0\0h\xc3\xa9\x03app\x01\x01\0\0\0x\x01b\x03\xfe\xff\xff\xff\xff\xff\xff\xff";
    let columns = [
        ("a".to_owned(), Value::String("hé".into())),
        ("app".to_owned(), Value::String("x".into())),
        ("b".to_owned(), Value::Int64(-2)),
    ];
    assert_eq!(old[..], named(&columns));
    assert_eq!(decode(old).unwrap(), columns);
    assert_eq!(*current(old).unwrap(), encoded_values(&columns));
    assert_eq!(*current(old).unwrap(), b"\x02\0\x01a\x01\x03h\xc3\xa9\x05\x01x\0\x01b\x03\x03"[..]);
}

#[test]
fn every_column_of_the_engine_has_a_code() {
    assert!(KNOWN.is_sorted_by(|a, b| a.0 < b.0) && KNOWN.len() < 255);
    for column in BASE.iter().chain(LINEAGE) {
        assert_ne!(code(column.name, column.ty), 0, "{}", column.name);
    }
    // A part of version 2: see there.
    let listed: Vec<String> = KNOWN.iter().map(|(name, ty)| format!("{name} {ty}")).collect();
    let digest = hash(listed.join(",").as_bytes());
    assert_eq!(digest, 114_625_614_478_554_540_853_051_195_150_947_111_433, "the list is another: {listed:?}");
}

#[test]
fn names_sort_by_bytes_not_by_length() {
    let one = || Arc::new(Int64Array::from(vec![1])) as ArrayRef;
    let row = batch(vec![("b", one()), ("aa", one()), ("app", one()), ("_sub", one())]);
    let names: Vec<_> = decode(&encoded(&row, 0)).unwrap().into_iter().map(|c| c.0).collect();
    assert_eq!(names, ["_sub", "aa", "app", "b"]);
}

#[test]
fn order_and_null_columns_do_not_change_the_hash() {
    let a = || Arc::new(StringArray::from(vec!["x"])) as ArrayRef;
    let b = || Arc::new(Float64Array::from(vec![f64::NAN])) as ArrayRef;
    let one = batch(vec![("a", a()), ("b", b())]);
    let two = batch(vec![
        ("b", Arc::new(Float64Array::from(vec![-f64::NAN])) as ArrayRef),
        ("later", new_null_array(&ColumnType::Timestamp.data_type(), 1)),
        ("a", a()),
    ]);
    let hash = |batch: &RecordBatch| RowEncoder::new(batch).unwrap().hash(0, &mut Vec::new());
    assert_eq!(hash(&one), hash(&two));
}

#[test]
fn columns_without_a_form_are_refused() {
    let refused = |columns| RowEncoder::new(&batch(columns)).err().unwrap();
    let one = || Arc::new(Int64Array::from(vec![1])) as ArrayRef;
    assert_eq!(refused(vec![("b", one()), ("a", one()), ("b", one())]), UnsupportedColumn::Repeated("b".into()));
    let long = "x".repeat(256);
    assert_eq!(refused(vec![(&long, one())]), UnsupportedColumn::Name(long.clone()));
    let small = Arc::new(arrow::array::Int32Array::from(vec![1])) as ArrayRef;
    let told = refused(vec![("n", small)]).to_string();
    assert_eq!(told, "column \"n\" of type Int32 has no canonical form");
}

#[test]
fn columns_end_at_the_first_damage() {
    let row = batch(vec![
        ("a", Arc::new(Int64Array::from(vec![1])) as ArrayRef),
        ("b", Arc::new(StringArray::from(vec!["text"]))),
    ]);
    let bytes = encoded(&row, 0);
    let names = |bytes: &[u8]| columns(bytes).unwrap().map(|c| c.map(|c| c.0.to_owned())).collect::<Vec<_>>();
    assert_eq!(names(&bytes), [Ok("a".to_owned()), Ok("b".to_owned())]);
    let cut = names(&bytes[..bytes.len() - 1]);
    assert_eq!(cut, [Ok("a".to_owned()), Err(DecodeError::Damaged(6))]);
}

#[test]
fn a_version_from_the_future_is_named() {
    assert_eq!(decode(&[9, 1]), Err(DecodeError::Version(9)));
    assert_eq!(current(&[9, 1]), Err(DecodeError::Version(9)));
    assert_eq!(decode(&[]), Err(DecodeError::Damaged(0)));
}

#[test]
fn what_no_writer_wrote_is_refused() {
    let bad: [&[u8]; 8] = [
        b"\x02\xff\0",                            // a code that there is not
        b"\x02\x05\x01a\x05\x01a",                // a column twice
        b"\x02\x06\x01a\x05\x01a",                // out of order
        b"\x02\0\x03app\x01\x01a",                // a name in place of its code
        b"\x02\0\x01a\x01\x81\0x",                // a length of more bytes than it takes
        b"\x02\0\x01a\x04\x01\0\0\0\0\0\xf8\x7f", // another NaN
        b"\x02\0\x01a\x05\x02",                   // neither true nor false
        b"\x01\x01a\x05\x01\x01a\x05\x01",        // version 1, a column twice
    ];
    for bytes in bad {
        assert!(matches!(decode(bytes), Err(DecodeError::Damaged(_))), "{bytes:?}");
    }
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<String>().prop_map(Value::String),
        any::<i64>().prop_map(Value::Timestamp),
        any::<i64>().prop_map(Value::Int64),
        (-300..300_i64).prop_map(Value::Int64),
        any::<f64>().prop_map(Value::Float64),
        any::<bool>().prop_map(Value::Bool),
    ]
}

/// The value of a column of the engine or of any other.
fn column() -> impl Strategy<Value = (String, Value)> {
    let known = proptest::sample::select(KNOWN).prop_map(|known| known.0.to_owned());
    let of_its_type = proptest::sample::select(KNOWN).prop_flat_map(|(name, ty)| {
        let of_type = move |value: &Value| borrowed(value).column_type() == ty;
        (Just(name.to_owned()), value().prop_filter("the column's type", of_type))
    });
    prop_oneof![4 => of_its_type, 1 => (known, value()), 2 => ("[a-z_é]{1,12}", value())]
}

/// A batch of one row.
fn row_of(columns: &[(String, Value)]) -> RecordBatch {
    let array = |value: &Value| match value.clone() {
        Value::String(text) => Arc::new(StringArray::from(vec![text])) as ArrayRef,
        Value::Timestamp(us) => Arc::new(TimestampMicrosecondArray::from(vec![us]).with_timezone("UTC")),
        Value::Int64(number) => Arc::new(Int64Array::from(vec![number])),
        Value::Float64(number) => Arc::new(Float64Array::from(vec![number])),
        Value::Bool(truth) => Arc::new(BooleanArray::from(vec![truth])),
    };
    batch(columns.iter().map(|(name, value)| (name.as_str(), array(value))).collect())
}

proptest! {
    #[test]
    fn round_trip(columns in proptest::collection::btree_map(any::<u8>(), column(), 1..20)) {
        let by_name: std::collections::BTreeMap<String, Value> = columns.into_values().collect();
        let in_order: Vec<_> = by_name.into_iter().collect();
        let mut shuffled = in_order.clone();
        shuffled.reverse();
        let bytes = encoded(&row_of(&shuffled), 0);
        prop_assert_eq!(&decode(&bytes).unwrap(), &in_order);
        prop_assert_eq!(&encoded_values(&in_order), &bytes);
        prop_assert_eq!(&*current(&bytes).unwrap(), &bytes[..]);
        let old = named(&in_order);
        prop_assert_eq!(&decode(&old).unwrap(), &in_order);
        prop_assert_eq!(&*current(&old).unwrap(), &bytes[..]);
    }

    #[test]
    fn what_is_read_is_the_one_form_of_it(
        columns in proptest::collection::btree_map("[a-z]{1,3}|app|event_id", value(), 0..6),
        at in any::<proptest::sample::Index>(),
        to in any::<u8>(),
    ) {
        let in_order: Vec<_> = columns.into_iter().collect();
        let mut bytes = encoded_values(&in_order);
        let at = at.index(bytes.len());
        bytes[at] = to;
        // NaN is not equal to itself, its bytes are.
        match decode(&bytes) {
            Ok(read) if bytes[0] == VERSION => prop_assert_eq!(encoded_values(&read), bytes),
            _ => {}
        }
    }

    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        for version in [NAMED, VERSION] {
            let mut versioned = vec![version];
            versioned.extend(&bytes);
            let _ = decode(&versioned);
            let _ = current(&versioned);
        }
        let _ = decode(&bytes);
    }
}
