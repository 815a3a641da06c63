//! Guests written by hand, so that the tests need no WebAssembly toolchain and can misbehave in ways that no SDK would
//! let them; and batches to run them on.

#![allow(dead_code, missing_docs, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking too")]

use std::fmt::Write as _;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, StringArray, TimestampMicrosecondArray, new_null_array};
use arrow::record_batch::RecordBatch;
use millrace_plugin_host::{Chain, HostOptions, Limits, Plugin, PluginHost, StepSpec};
use millrace_rows::ColumnType;
use millrace_rows::schema::decoded_schema;

/// The types of `sdk/wit/transform.wit`, as bindings import them.
const TYPES: &str = r#"
  (import "millrace:transform/types@1.0.0" (instance $types
    (type $ct0 (enum "string" "timestamp" "int64" "float64" "bool"))
    (export "column-type" (type $ct (eq $ct0)))
    (type $text0 (record (field "offsets" (list u32)) (field "bytes" (list u8))))
    (export "text" (type $text (eq $text0)))
    (type $values0 (variant (case "text" $text) (case "int64" (list s64)) (case "float64" (list f64)) (case "bool" (list u8))))
    (export "values" (type $values (eq $values0)))
    (type $column0 (record (field "values" $values) (field "validity" (option (list u8)))))
    (export "column" (type $column (eq $column0)))
    (type $added0 (record (field "name" string) (field "ty" $ct)))
    (export "added-column" (type $added (eq $added0)))
    (type $manifest0 (record (field "name" string) (field "version" string) (field "reads" (list string))
      (field "writes" (list string)) (field "adds" (list $added)) (field "tables" (list string))
      (field "codes" (list string))))
    (export "manifest" (type $manifest (eq $manifest0)))
    (type $batch0 (record (field "rows" u32) (field "columns" (list $column))))
    (export "batch" (type $batch (eq $batch0)))
    (type $returned0 (variant (case "unchanged") (case "column" $column)))
    (export "returned" (type $returned (eq $returned0)))
    (type $outcome0 (record (field "row" u32) (field "code" u32)))
    (export "outcome" (type $outcome (eq $outcome0)))
    (type $output0 (record (field "columns" (list $returned)) (field "sources" (option (list u32)))
      (field "dropped" (list $outcome)) (field "failed" (list $outcome))))
    (export "output" (type $output (eq $output0)))))
  (alias export $types "manifest" (type $manifest))
  (alias export $types "batch" (type $batch))
  (alias export $types "output" (type $output))
"#;

/// A guest: its manifest, and the body of `transform` in WebAssembly text.
///
/// The body has `$rows`, `$cols` (32 bytes a column: tag of the values at 0, at 4 offsets or values as pointer and
/// length, at 12 text bytes likewise, at 20 the tag of the validity and at 24 its bytes), and leaves the address of its
/// result. `$alloc size align` gives memory, `$OUT` is the result area (40 bytes, zero: ok; at 4 columns, at 12 tag of
/// the sources and at 16 their list, at 24 dropped, at 32 failed), and a returned column is 36 bytes: tag, then a column.
#[derive(Clone)]
pub struct Guest {
    pub name: &'static str,
    pub version: &'static str,
    pub reads: Vec<&'static str>,
    pub writes: Vec<&'static str>,
    pub adds: Vec<(&'static str, ColumnType)>,
    pub codes: Vec<&'static str>,
    pub locals: &'static str,
    pub transform: String,
    /// Instead of returning the manifest.
    pub describe: Option<String>,
    /// More items of the core module.
    pub items: String,
    /// More imports of the component.
    pub imports: String,
    pub pages: u32,
}

impl Default for Guest {
    fn default() -> Self {
        Self {
            name: "guest",
            version: "1.0.0",
            reads: Vec::new(),
            writes: Vec::new(),
            adds: Vec::new(),
            codes: Vec::new(),
            locals: "",
            transform: "(global.get $OUT)".to_owned(),
            describe: None,
            items: String::new(),
            imports: String::new(),
            pages: 2,
        }
    }
}

/// Little-endian memory from address 1024 on.
struct Image(Vec<u8>);

impl Image {
    const BASE: usize = 1024;

    fn put(&mut self, bytes: &[u8]) -> u32 {
        self.0.resize(self.0.len().next_multiple_of(8), 0);
        let at = Self::BASE + self.0.len();
        self.0.extend_from_slice(bytes);
        at as u32
    }

    fn pair(&mut self, items: &[u8], count: usize) -> [u8; 8] {
        let at = self.put(items);
        let mut pair = [0; 8];
        pair[..4].copy_from_slice(&at.to_le_bytes());
        pair[4..].copy_from_slice(&(count as u32).to_le_bytes());
        pair
    }

    fn string(&mut self, text: &str) -> [u8; 8] {
        self.pair(text.as_bytes(), text.len())
    }

    fn strings(&mut self, texts: &[&str]) -> [u8; 8] {
        let items: Vec<u8> = texts.iter().flat_map(|text| self.string(text)).collect();
        self.pair(&items, texts.len())
    }
}

impl Guest {
    pub fn wat(&self) -> String {
        let mut image = Image(Vec::new());
        let mut manifest = vec![0u8; 4];
        manifest.extend(image.string(self.name));
        manifest.extend(image.string(self.version));
        manifest.extend(image.strings(&self.reads));
        manifest.extend(image.strings(&self.writes));
        let adds: Vec<u8> =
            self.adds.iter().flat_map(|(name, ty)| [&image.string(name)[..], &[*ty as u8, 0, 0, 0]].concat()).collect();
        manifest.extend(image.pair(&adds, self.adds.len()));
        manifest.extend(image.strings(&[]));
        manifest.extend(image.strings(&self.codes));
        let manifest_at = image.put(&manifest);
        let out = image.put(&[0; 40]);
        // 36 bytes for every column returned: a tag, the values, the validity.
        let columns = image.put(&vec![0; 36 * (self.writes.len() + self.adds.len()).max(1)]);
        let heap = (Image::BASE + image.0.len()).next_multiple_of(16);
        let data = image.0.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "\\{byte:02x}");
            text
        });
        let describe = self.describe.clone().unwrap_or_else(|| format!("(i32.const {manifest_at})"));
        let Self { locals, transform, items, imports, pages, .. } = self;
        let counts = self.writes.len() + self.adds.len();
        format!(
            r#"(component
  {TYPES}
  (import "millrace:transform/host@1.0.0" (instance $host (export "log" (func (param "message" string)))))
  {imports}
  (core module $libc
    (memory (export "memory") {pages})
    (global $heap (export "heap") (mut i32) (i32.const {heap}))
    (func $alloc (export "alloc") (param $size i32) (param $align i32) (result i32)
      (local $at i32) (local $end i32)
      (local.set $at (i32.and
        (i32.add (global.get $heap) (i32.sub (local.get $align) (i32.const 1)))
        (i32.sub (i32.const 0) (local.get $align))))
      (local.set $end (i32.add (local.get $at) (local.get $size)))
      (if (i32.gt_u (local.get $end) (i32.mul (memory.size) (i32.const 65536)))
        (then (drop (memory.grow (i32.add (i32.const 1) (i32.shr_u
          (i32.sub (local.get $end) (i32.mul (memory.size) (i32.const 65536))) (i32.const 16)))))))
      (global.set $heap (local.get $end))
      (local.get $at))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
      (call $alloc (local.get 3) (local.get 2))))
  (core instance $libc (instantiate $libc))
  (alias core export $libc "memory" (core memory $memory))
  (core func $log (canon lower (func $host "log") (memory $memory) (realloc (func $libc "realloc"))))
  (core module $main
    (import "libc" "memory" (memory {pages}))
    (import "libc" "alloc" (func $alloc (param i32 i32) (result i32)))
    (import "libc" "heap" (global $heap (mut i32)))
    (import "host" "log" (func $log (param i32 i32)))
    (global $HEAP i32 (i32.const {heap}))
    (global $OUT i32 (i32.const {out}))
    (global $COLUMNS i32 (i32.const {columns}))
    (data (i32.const {base}) "{data}")
    {items}
    (func (export "describe") (param $config i32) (param $length i32) (result i32)
      {describe})
    (func (export "transform") (param $rows i32) (param $cols i32) (param $ncols i32) (result i32)
      {locals}
      (i32.store offset=4 (global.get $OUT) (global.get $COLUMNS))
      (i32.store offset=8 (global.get $OUT) (i32.const {counts}))
      {transform}))
  (core instance $main (instantiate $main
    (with "libc" (instance $libc))
    (with "host" (instance (export "log" (func $log))))))
  (func (export "describe") (param "config" string) (result (result $manifest (error string)))
    (canon lift (core func $main "describe") (memory $memory) (realloc (func $libc "realloc"))))
  (func (export "transform") (param "batch" $batch) (result (result $output (error string)))
    (canon lift (core func $main "transform") (memory $memory) (realloc (func $libc "realloc")))))
"#,
            base = Image::BASE,
        )
    }

    pub fn wasm(&self) -> Vec<u8> {
        wat::parse_str(self.wat()).unwrap_or_else(|e| panic!("{e}\n{}", self.wat()))
    }
}

/// A guest that does what the first byte of a text column says: `t` trap, `e` error, `l` loop for ever, `m` grow memory
/// for ever, `f` fail, `d` drop, `2`, `3` that many rows, all else one row. Returns `user_id` with every value rebuilt,
/// and adds the length of the text.
pub fn obedient(name: &'static str, reads: &'static str, adds: &'static str) -> Guest {
    Guest {
        name,
        reads: vec![reads, "user_id"],
        writes: vec!["user_id"],
        adds: vec![(adds, ColumnType::Int64)],
        codes: vec!["told_to_fail", "told_to_drop"],
        locals: "(local $i i32) (local $n i32) (local $first i32) (local $length i32) (local $copies i32)
            (local $at i32) (local $user i32) (local $users i32)
            (local $sources i32) (local $lengths i32) (local $offsets i32) (local $bytes i32) (local $valid i32)
            (local $dropped i32) (local $drops i32) (local $failed i32) (local $fails i32)",
        transform: r#"
      (local.set $sources (call $alloc (i32.mul (local.get $rows) (i32.const 12)) (i32.const 4)))
      (local.set $lengths (call $alloc (i32.mul (local.get $rows) (i32.const 24)) (i32.const 8)))
      (local.set $offsets (call $alloc (i32.add (i32.const 4) (i32.mul (local.get $rows) (i32.const 12))) (i32.const 4)))
      (local.set $bytes (call $alloc (i32.mul (i32.load offset=48 (local.get $cols)) (i32.const 3)) (i32.const 1)))
      (local.set $valid (call $alloc (i32.add (local.get $rows) (i32.const 1)) (i32.const 1)))
      (local.set $dropped (call $alloc (i32.mul (local.get $rows) (i32.const 8)) (i32.const 4)))
      (local.set $failed (call $alloc (i32.mul (local.get $rows) (i32.const 8)) (i32.const 4)))
      (block $done (loop $row
        (br_if $done (i32.ge_u (local.get $i) (local.get $rows)))
        ;; The word of this row: its length and its first byte.
        (local.set $at (i32.load (i32.add (i32.load offset=4 (local.get $cols)) (i32.shl (local.get $i) (i32.const 2)))))
        (local.set $length (i32.sub
          (i32.load offset=4 (i32.add (i32.load offset=4 (local.get $cols)) (i32.shl (local.get $i) (i32.const 2))))
          (local.get $at)))
        (local.set $first (i32.const 0))
        (if (local.get $length) (then (local.set $first
          (i32.load8_u (i32.add (i32.load offset=12 (local.get $cols)) (local.get $at))))))
        (local.set $copies (i32.const 1))
        (if (i32.eq (local.get $first) (i32.const 116)) (then
          (call $log (i32.const 16) (i32.const 0))
          (unreachable)))
        (if (i32.eq (local.get $first) (i32.const 101)) (then
          (i32.store8 (global.get $OUT) (i32.const 1))
          (i32.store offset=4 (global.get $OUT) (i32.load offset=12 (local.get $cols)))
          (i32.store offset=8 (global.get $OUT) (i32.const 1))
          (return (global.get $OUT))))
        (if (i32.eq (local.get $first) (i32.const 108)) (then (loop $ever (br $ever))))
        (if (i32.eq (local.get $first) (i32.const 109)) (then
          (loop $ever (drop (call $alloc (i32.const 1048576) (i32.const 1))) (br $ever))))
        (if (i32.eq (local.get $first) (i32.const 50)) (then (local.set $copies (i32.const 2))))
        (if (i32.eq (local.get $first) (i32.const 51)) (then (local.set $copies (i32.const 3))))
        (if (i32.eq (local.get $first) (i32.const 102)) (then
          (local.set $copies (i32.const 0))
          (i32.store (i32.add (local.get $failed) (i32.shl (local.get $fails) (i32.const 3))) (local.get $i))
          (i32.store offset=4 (i32.add (local.get $failed) (i32.shl (local.get $fails) (i32.const 3))) (i32.const 0))
          (local.set $fails (i32.add (local.get $fails) (i32.const 1)))))
        (if (i32.eq (local.get $first) (i32.const 100)) (then
          (local.set $copies (i32.const 0))
          (i32.store (i32.add (local.get $dropped) (i32.shl (local.get $drops) (i32.const 3))) (local.get $i))
          (i32.store offset=4 (i32.add (local.get $dropped) (i32.shl (local.get $drops) (i32.const 3))) (i32.const 1))
          (local.set $drops (i32.add (local.get $drops) (i32.const 1)))))
        ;; The user of this row.
        (local.set $at (i32.load (i32.add (i32.load offset=36 (local.get $cols)) (i32.shl (local.get $i) (i32.const 2)))))
        (local.set $user (i32.sub
          (i32.load offset=4 (i32.add (i32.load offset=36 (local.get $cols)) (i32.shl (local.get $i) (i32.const 2))))
          (local.get $at)))
        (block $copied (loop $copy
          (br_if $copied (i32.eqz (local.get $copies)))
          (i32.store (i32.add (local.get $sources) (i32.shl (local.get $n) (i32.const 2))) (local.get $i))
          (i64.store (i32.add (local.get $lengths) (i32.shl (local.get $n) (i32.const 3)))
            (i64.extend_i32_u (local.get $length)))
          (memory.copy (i32.add (local.get $bytes) (local.get $users))
            (i32.add (i32.load offset=44 (local.get $cols)) (local.get $at)) (local.get $user))
          (local.set $users (i32.add (local.get $users) (local.get $user)))
          ;; Valid where the validity is absent or has the bit.
          (if (i32.or
              (i32.eqz (i32.load8_u offset=52 (local.get $cols)))
              (i32.and (i32.const 1) (i32.shr_u
                (i32.load8_u (i32.add (select (i32.load offset=56 (local.get $cols)) (i32.const 0)
                    (i32.load8_u offset=52 (local.get $cols)))
                  (i32.shr_u (local.get $i) (i32.const 3))))
                (i32.and (local.get $i) (i32.const 7)))))
            (then (i32.store8 (i32.add (local.get $valid) (i32.shr_u (local.get $n) (i32.const 3)))
              (i32.or (i32.load8_u (i32.add (local.get $valid) (i32.shr_u (local.get $n) (i32.const 3))))
                (i32.shl (i32.const 1) (i32.and (local.get $n) (i32.const 7)))))))
          (local.set $n (i32.add (local.get $n) (i32.const 1)))
          (i32.store (i32.add (local.get $offsets) (i32.shl (local.get $n) (i32.const 2))) (local.get $users))
          (local.set $copies (i32.sub (local.get $copies) (i32.const 1)))
          (br $copy)))
        (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br $row)))
      ;; user_id
      (i32.store8 (global.get $COLUMNS) (i32.const 1))
      (i32.store offset=8 (global.get $COLUMNS) (local.get $offsets))
      (i32.store offset=12 (global.get $COLUMNS) (i32.add (local.get $n) (i32.const 1)))
      (i32.store offset=16 (global.get $COLUMNS) (local.get $bytes))
      (i32.store offset=20 (global.get $COLUMNS) (local.get $users))
      (i32.store8 offset=24 (global.get $COLUMNS) (i32.const 1))
      (i32.store offset=28 (global.get $COLUMNS) (local.get $valid))
      (i32.store offset=32 (global.get $COLUMNS) (i32.shr_u (i32.add (local.get $n) (i32.const 7)) (i32.const 3)))
      ;; the length
      (i32.store8 offset=36 (global.get $COLUMNS) (i32.const 1))
      (i32.store8 offset=40 (global.get $COLUMNS) (i32.const 1))
      (i32.store offset=44 (global.get $COLUMNS) (local.get $lengths))
      (i32.store offset=48 (global.get $COLUMNS) (local.get $n))
      (i32.store8 offset=12 (global.get $OUT) (i32.const 1))
      (i32.store offset=16 (global.get $OUT) (local.get $sources))
      (i32.store offset=20 (global.get $OUT) (local.get $n))
      (i32.store offset=24 (global.get $OUT) (local.get $dropped))
      (i32.store offset=28 (global.get $OUT) (local.get $drops))
      (i32.store offset=32 (global.get $OUT) (local.get $failed))
      (i32.store offset=36 (global.get $OUT) (local.get $fails))
      (global.get $OUT)"#
            .to_owned(),
        ..Guest::default()
    }
}

/// A host for tests: no cache, a few instances.
pub fn host() -> PluginHost {
    PluginHost::new(HostOptions { concurrent_calls: 4, ..HostOptions::default() }).unwrap()
}

pub fn step(plugin: Plugin, limits: Limits) -> StepSpec {
    StepSpec::new(plugin, "{}", limits)
}

pub fn chain(host: &PluginHost, guests: &[Guest], limits: &Limits) -> Chain {
    let steps = guests.iter().map(|guest| step(host.load(&guest.wasm()).unwrap(), limits.clone())).collect();
    Chain::new(host, steps).unwrap()
}

/// One row of a test batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub offset: i64,
    pub event: String,
    pub ty: String,
    pub user: Option<String>,
}

impl Row {
    pub fn new(offset: i64, event: &str) -> Self {
        Self { offset, event: event.to_owned(), ty: "page".to_owned(), user: None }
    }
}

/// A decoded batch, good in every way but for what the rows say.
pub fn batch(rows: &[Row]) -> RecordBatch {
    let schema = decoded_schema();
    let text = |value: &dyn Fn(&Row) -> Option<String>| -> ArrayRef {
        Arc::new(rows.iter().map(value).collect::<StringArray>())
    };
    let columns = schema
        .fields()
        .iter()
        .map(|field| -> ArrayRef {
            match field.name().as_str() {
                "event_id" => text(&|row| Some(format!("e{}", row.offset))),
                "device_id" => text(&|row| Some(format!("device-{}", row.offset % 7))),
                "event" => text(&|row| Some(row.event.clone())),
                "type" => text(&|row| Some(row.ty.clone())),
                "user_id" => text(&|row| row.user.clone()),
                "properties" => text(&|row| (row.offset % 3 > 0).then(|| format!("{{\"n\":{}}}", row.offset))),
                "event_time" | "received_at" => Arc::new(
                    TimestampMicrosecondArray::from_iter_values(rows.iter().map(|row| 1_000_000 * row.offset))
                        .with_timezone("UTC"),
                ),
                "_partition" => Arc::new(Int64Array::from_value(3, rows.len())),
                "_offset" => Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.offset))),
                "_sub" => Arc::new(Int64Array::from_value(0, rows.len())),
                _ => new_null_array(field.data_type(), rows.len()),
            }
        })
        .collect();
    RecordBatch::try_new(schema, columns).unwrap()
}
