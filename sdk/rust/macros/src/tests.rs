//! Mistakes: what is said, and at which of the author's tokens.

use proc_macro2::TokenStream;

use crate::expand::expand;
use crate::kind::{BASE, Kind};

const FUNCTION: &str = "fn plugin(event: &mut Event) -> Result<Outcome> { Ok(Outcome::Keep) }";

fn tokens(text: &str) -> TokenStream {
    text.parse().unwrap()
}

fn faults_of(arguments: &str, function: &str, package: &str) -> Vec<(String, String)> {
    match expand(tokens(arguments), tokens(function), package) {
        Ok(_) => panic!("{arguments} {function}: accepted"),
        Err(faults) => faults.0.into_iter().map(|fault| (fault.at, fault.error.to_string())).collect(),
    }
}

/// The one mistake in an attribute.
#[track_caller]
fn argument(arguments: &str, at: &str, part: &str) {
    one(faults_of(arguments, FUNCTION, "plugin"), at, part);
}

/// The one mistake in a function.
#[track_caller]
fn function(function: &str, at: &str, part: &str) {
    one(faults_of("", function, "plugin"), at, part);
}

#[track_caller]
fn one(faults: Vec<(String, String)>, at: &str, part: &str) {
    let [(found, message)] = faults.as_slice() else { panic!("{faults:?}") };
    assert!(found == at && message.contains(part), "at {found:?}: {message}");
}

#[test]
fn arguments_that_do_not_exist_are_told_with_those_that_do() {
    argument("read(url)", "read", "unknown argument `read`, did you mean `reads`? There are `reads`, `writes`");
    argument("reads(url), reads(ip)", "reads", "given twice");
    argument("reads = url", "reads", "`reads(…)`");
    argument("reads", "reads", "`reads(…)`");
    argument("error(no_price)", "error", "`error = …`");
    argument("error = a::b", "a :: b", "one word");
    argument("reads(url ip)", "", "expected `,`");
}

#[test]
fn columns_are_known_or_have_a_kind() {
    argument("reads(usr_agent)", "usr_agent", "not every event has `usr_agent`, did you mean `user_agent`? Else say");
    argument("reads(ua_browser)", "ua_browser", "as in `ua_browser: str`");
    argument("reads(_offset: i64)", "_offset", "no plugin sees where an event lies in the log");
    argument("adds(total)", "total", "say what kind of column it is: `total: str`");
    argument("adds(url: str)", "url", "exists in every event and can't be added: to change it, say `writes(url)`");
    argument("writes(event_id)", "event_id", "can be read, not written");
    argument("adds(Total: f64)", "Total", "1 to 64 characters of a-z 0-9 _");
    argument("adds(event_date: str)", "event_date", "are not taken");
    argument("reads(event_time: str)", "str", "`event_time` is of kind Timestamp");
    argument("reads(x: str), writes(x: i64)", "i64", "`x` is of kind i64 here and str above");
    argument("reads(x: str), adds(x: str)", "x", "a new column and one that exists");
    argument("adds(x: str), writes(x: str)", "x", "a new column and one that exists");
    argument("reads(x as a: str), writes(x as b: str)", "b", "has two names");
}

#[test]
fn kinds_are_those_of_columns() {
    argument("adds(x: String)", "String", "the kind is `str`");
    argument("adds(x: &str)", "& str", "the kind is `str`");
    argument("adds(x: u32)", "u32", "the kind is `i64`");
    argument("adds(x: f32)", "f32", "the kind is `f64`");
    argument("adds(x: Vec<u8>)", "Vec < u8 >", "the kind is `[u8]`");
    argument("adds(x: Option<str>)", "Option < str >", "is no kind of column: use str, i64, f64, bool");
    expand(tokens("adds(x: millrace_sdk::Timestamp, y: [u8])"), tokens(FUNCTION), "plugin").unwrap();
}

#[test]
fn accessors_must_differ() {
    argument("reads(x as emit: str)", "x", "would both have the method `emit`");
    argument("reads(set_url: str), writes(url)", "url", "`url` and `set_url` would both have the method `set_url`");
    argument("reads(properties, property: str)", "property", "would both have the method `property`");
    argument("reads(x as y: str), adds(y: str)", "y", "would both have the method `y`");
    argument("reads(self: str)", "self", "say `self as another_name`");
    let code = expand(tokens("reads(type, url as emitted)"), tokens(FUNCTION), "plugin").unwrap().to_string();
    assert!(code.contains("pub fn r#type (") && code.contains("pub fn emitted ("), "{code}");
}

#[test]
fn codes_are_words() {
    argument("codes(Internal)", "Internal", "1 to 64 characters of a-z 0-9 _");
    argument("codes(internal, internal)", "internal", "declared twice");
    argument("codes(a_b, a__b)", "a__b", "declared twice");
    argument("codes(self)", "self", "1 to 64 characters");
    argument("error = NoPrice", "NoPrice", "1 to 64 characters of a-z 0-9 _");
    let code = expand(tokens("codes(no_price), error = no_price"), tokens(FUNCTION), "plugin").unwrap().to_string();
    assert!(code.contains("NoPrice ,") && !code.contains("Error ,"), "{code}");
}

#[test]
fn lookups_have_a_kind_a_table_a_key_and_a_column() {
    argument("lookups(c = t[ip].c)", "c", "say what kind of value the table has: `c: str = table[key].column`");
    argument("lookups(c: str = t[ip].c)", "ip", "the key `ip` is not read: add it to `reads(ip)`");
    argument("adds(k: str), lookups(c: str = t[k].c)", "k", "is added by this plugin");
    argument("lookups(c: str)", "", "say what is looked up");
    argument("reads(ip), lookups(c: str = t.c)", "", "say by which column: `table[key].column`");
    argument("reads(ip), lookups(c: str = t[ip])", "", "say which column of the table");
    argument("reads(ip), lookups(c: str = t[ip, url].c)", "", "the key is the name of one column");
    argument("reads(ip), lookups(ip: str = t[ip].c)", "ip", "would both have the method `ip`");
    // Declared in any order, and by what another lookup found.
    let arguments = "lookups(a: str = t[ip].a, b: i64 = \"t-2\"[a].b), writes(ip)";
    expand(tokens(arguments), tokens(FUNCTION), "plugin").unwrap();
}

#[test]
fn functions_have_the_form_of_a_transform() {
    function("struct Plugin;", "", "`#[transform]` stands before a function");
    function("fn plugin() -> Result<Outcome> {}", "plugin", "fn name(event: &mut Event) -> Result<Outcome>");
    function("fn plugin(event: &Event) -> Result<Outcome> {}", "& Event", "the first parameter is `event: &mut Event`");
    function("fn plugin(event: Event) -> Result<Outcome> {}", "Event", "the first parameter is");
    function("fn plugin(&self) -> Result<Outcome> {}", "& self", "no method");
    function("fn plugin(event: &mut Event) {}", "plugin", "returns `Result<Outcome>`");
    function("fn plugin(event: &mut Event) -> Outcome {}", "Outcome", "returns `Result<Outcome>`");
    function("fn plugin(event: &mut Event) -> Result<()> {}", "Result < () >", "returns `Result<Outcome>`");
    function("async fn plugin(event: &mut Event) -> Result<Outcome> {}", "async", "leave `async` out");
    function("unsafe fn plugin(event: &mut Event) -> Result<Outcome> {}", "unsafe", "leave `unsafe` out");
    function("fn plugin<T>(event: &mut Event) -> Result<Outcome> {}", "< T >", "no generics");
    let config = "fn plugin(event: &mut Event, config: Config) -> Result<Outcome> {}";
    function(config, "Config", "`config: &Config`");
    let config = "fn plugin(event: &mut Event, config: &mut Config) -> Result<Outcome> {}";
    function(config, "& mut Config", "`config: &Config`");
    let three = "fn plugin(event: &mut Event, config: &Config, more: u8) -> Result<Outcome> {}";
    function(three, "more : u8", "two parameters at the most");
    expand(tokens(""), tokens("fn p(event: &mut Event<'_>) -> millrace_sdk::Result<Outcome> {}"), "p").unwrap();
}

#[test]
fn the_configuration_is_what_the_function_takes() {
    argument("config = Config", "Config", "give it a second parameter, `config: &Config`");
    let taken = "fn plugin(event: &mut Event, config: &Config) -> Result<Outcome> {}";
    one(faults_of("config = Options", taken, "plugin"), "Options", "the function takes `&Config`");
    expand(tokens("config = Config"), tokens(taken), "plugin").unwrap();
}

#[test]
fn the_package_gives_the_plugin_its_name() {
    for package in ["my_plugin", "Plugin", "9", "", &"a".repeat(65)] {
        one(faults_of("", FUNCTION, package), "plugin", "call it 1 to 64 characters of a-z 0-9 -");
    }
}

#[test]
fn all_mistakes_are_told_at_once() {
    let faults = faults_of("reads(usr_agent, url: u32), codes(Bad)", "async fn f(e: Event) {}", "plugin");
    let at: Vec<_> = faults.iter().map(|(at, _)| at.as_str()).collect();
    assert_eq!(at, ["async", "f", "Event", "usr_agent", "u32", "Bad"]);
}

#[test]
fn the_function_is_not_touched() {
    let function = "/// Doc.\n#[inline] pub(crate) fn plugin(event: &mut Event) -> Result<Outcome> { let x = 1; x }";
    let code = expand(tokens("writes(url)"), tokens(function), "plugin").unwrap().to_string();
    assert!(code.contains(&tokens(function).to_string()), "{code}");
    assert!(code.contains("pub (crate) struct Plugin"), "{code}");
}

/// The rows' definition is read as text: depending on it would make every plugin's author compile it.
#[test]
fn the_columns_of_every_event_are_those_of_rows() {
    let schema = include_str!("../../../../sinks/rows/src/schema.rs");
    let (_, list) = schema.split_once("pub const BASE: &[ColumnDef] = &[").expect("the list begins");
    let (list, _) = list.split_once("];").expect("the list ends");
    let defined: Vec<_> = list
        .lines()
        .filter_map(|line| line.trim().strip_suffix("),")?.split_once("(\""))
        .map(|(word, rest)| {
            let (name, ty) = rest.split_once("\", ColumnType::").expect("a name and a type");
            (name, ty, word == "column")
        })
        .collect();
    let ours = BASE.iter().map(|base| {
        let ty = match base.kind {
            Kind::Str | Kind::Json => "String",
            Kind::Timestamp => "Timestamp",
            Kind::Bool => "Bool",
            other => panic!("no base column is of kind {}", other.name()),
        };
        (base.name, ty, base.writable)
    });
    assert_eq!(ours.collect::<Vec<_>>(), defined);
}
