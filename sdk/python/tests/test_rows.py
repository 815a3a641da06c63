"""What becomes of events: every outcome, and that columns hold what was set and nothing else."""

import random
import unittest
from dataclasses import dataclass
from typing import Any

from millrace_sdk import Adds, AnyEvent, Event, Reads, Result, Timestamp, Writes, adds, drop, fail, plugin, reads, writes
from millrace_sdk.columns import Output, Plain, column_of, values_of
from millrace_sdk.plugin import Refused
from millrace_sdk.testing import CasesError, run


class Busy(Event):
    event: Reads[str]
    big: Reads[int]
    url: Writes[str]
    count: Writes[int]
    share: Writes[float]
    time_suspect: Writes[bool]
    event_time: Writes[Timestamp]
    length: Adds[int]
    note: Adds[str]
    ratio: Adds[float]
    flag: Adds[bool]
    at: Adds[Timestamp]


@plugin(name="tested", version="1.0.0", codes=["unwanted", "broken"])
def obedient(event: Busy) -> Result:
    word = event.event or ""
    if "upper" in word:
        event.url = event.url.upper() if event.url is not None else None
    if "null" in word:
        event.count = event.share = event.time_suspect = event.url = None
    if "set" in word:
        event.count = (event.count or 0) + 1
        event.share = (event.share or 0) / 2
        event.time_suspect = not event.time_suspect
        event.event_time = (event.event_time or 0) + 1_000_000
        event.length = len(word)
        event.note = f"{word} — {event.url}"
        event.ratio = 1 / 3
        event.flag = True
        event.at = event.event_time
    if "drop" in word:
        return drop("unwanted")
    if "fail" in word:
        return fail("broken")
    if "twice" in word:
        return [event, event]
    if "copies" in word:
        return [event.copy(note="first"), {"note": "second", "url": None}, event, {"count": 7}]
    return event


def expected(row: dict[str, Any]) -> dict[str, Any]:
    word = row.get("event") or ""
    now = {"url": None, "count": None, "share": None, "time_suspect": None, **row}
    now.pop("event", None)
    now.pop("big", None)
    if "upper" in word:
        now["url"] = now["url"].upper() if now["url"] is not None else None
    if "null" in word:
        now.update(count=None, share=None, time_suspect=None, url=None)
    if "set" in word:
        now["count"] = (now["count"] or 0) + 1
        now["share"] = (now["share"] or 0) / 2
        now["time_suspect"] = not now["time_suspect"]
        now["event_time"] += 1_000_000
        now.update(length=len(word), note=f"{word} — {now['url']}", ratio=1 / 3, flag=True, at=now["event_time"])

    def keep(*rows: dict[str, Any]) -> dict[str, Any]:
        return {"keep": [{name: value for name, value in row.items() if value is not None} for row in rows]}

    if "drop" in word:
        return {"drop": "unwanted"}
    if "fail" in word:
        return {"fail": "broken"}
    if "twice" in word:
        return keep(now, now)
    if "copies" in word:
        return keep({**now, "note": "first"}, {**now, "note": "second", "url": None}, now, {**now, "count": 7})
    return keep(now)


def text(*values: str | None) -> Plain:
    return column_of("text", values)


class Trimmed(Event):
    url: Writes[str]
    event: Writes[str]


@plugin(name="tested", version="1.0.0", codes=["gone"])
def trim(event: Trimmed) -> Result:
    if event.url == "drop":
        return drop("gone")
    event.url = event.url.strip() if event.url is not None else None
    return None


class Rows(unittest.TestCase):
    def test_random_batches_become_what_a_plain_loop_makes_of_them(self) -> None:
        words = ["", "upper", "null", "set", "drop", "fail", "twice", "copies"]
        texts = ["", "a", "https://shop.example/p?x=1", "größe", "日本語", "🎉 party 🎉", "a\0b", "ÿ\u0080\u07ff\uffff"]
        for seed in range(150):
            lot = random.Random(seed)
            is_busy, is_ascii = lot.random() < 0.6, lot.random() < 0.5
            rows = []
            for _ in range(lot.randrange(40)):
                row = {
                    "event": f"{lot.choice(words)} {lot.choice(words)}" if is_busy or lot.random() < 0.2 else "",
                    "url": lot.choice(texts[:3] if is_ascii else texts),
                    "count": lot.choice([lot.randrange(-500, 500), 2**63 - 2, -(2**63)]),
                    "share": lot.random() + 0.5,
                    "time_suspect": lot.random() < 0.5,
                    "event_time": 1_700_000_000_000_000 + lot.randrange(1_000_000),
                    "big": lot.randrange(9),
                }
                rows.append({k: v for k, v in row.items() if k == "event_time" or lot.random() < 0.75})
            # The types of columns that are null throughout can't be told from the rows.
            rows.append({"event": "", "count": 1, "share": 0.5, "time_suspect": True, "big": 1, "event_time": 1})
            with self.subTest(seed=seed):
                self.assertEqual(run(obedient, rows), [expected(row) for row in rows])

    def test_a_column_that_no_event_changed_is_returned_as_it_was(self) -> None:
        trim.describe("{}")
        untouched = trim.transform(3, [text("a", None, "ä"), text("x", "y", None)])
        self.assertEqual(untouched, Output([None, None], None, [], []))
        touched = trim.transform(4, [text("a", " b ", "ä", None), text("x", "y", None, "z")])
        self.assertEqual(
            touched, Output([Plain("text", ([0, 1, 2, 4, 4], "abä".encode()), bytes([0b0111])), None], None, [], [])
        )

    def test_rows_that_are_left_out_move_the_others(self) -> None:
        trim.describe("{}")
        output = trim.transform(4, [text("a", "drop", "ä", None), text("w", "x", "y", None)])
        self.assertEqual(output.sources, [0, 2, 3])
        self.assertEqual(output.dropped, [(1, 0)])
        self.assertEqual([values_of(column) for column in output.columns if column], [["a", "ä", None], ["w", "y", None]])

    def test_a_batch_without_rows_and_a_plugin_without_columns_answer_too(self) -> None:
        @plugin(name="tested", version="1.0.0")
        def nothing(event: Event) -> Result:
            return None

        self.assertEqual(run(nothing, [{}, {}, {}]), [{"keep": [{}]}] * 3)
        self.assertEqual(run(nothing, []), [])
        self.assertEqual(run(obedient, []), [])

    def test_nulls_are_in_the_validity_at_every_place_of_a_byte(self) -> None:
        for rows in range(1, 18):
            for missing in range(rows):
                values = [None if row == missing else f"v{row}" for row in range(rows)]
                column = text(*values)
                self.assertEqual(values_of(column), values)
                assert column.validity is not None
                self.assertEqual(len(column.validity), (rows + 7) // 8)
                self.assertEqual(sum(bits.bit_count() for bits in column.validity), rows - 1)

    def test_half_a_surrogate_pair_becomes_a_replacement_character(self) -> None:
        self.assertEqual(values_of(text("\ud83c", "a\udf89b", "\ud83c\udf89")), ["\ufffd", "a\ufffdb", "🎉"])

    def test_mistakes_of_a_plugin_fail_the_event_and_say_what_to_do(self) -> None:
        class Any_(AnyEvent):
            event: Reads[str]

        def failure(function: Any, *, columns: Any = None) -> str:
            def tested(event: Any_) -> Any:
                return function(event)

            made = plugin(name="tested", version="1.0.0", columns=lambda *_: columns or {})(tested)
            with self.assertRaises(CasesError) as caught:
                run(made, [{"event": "x"}], log=lambda _: None)
            return str(caught.exception)

        def setting(name: str, value: Any) -> Any:
            return lambda event: setattr(event, name, value)

        class Awaitable:
            def __await__(self) -> Any: ...

        mistakes: list[tuple[Any, Any, str]] = [
            (setting("event", "y"), None, "column event is not among those that the plugin writes"),
            (setting("evnt", "y"), None, "has no attribute 'evnt'"),
            (setting("n", "5"), {"n": adds("int64")}, "column n takes an int or None, got str"),
            (setting("n", 0.5), {"n": adds("int64")}, "column n takes an int or None, got float"),
            (setting("n", True), {"n": adds("int64")}, "column n takes an int or None, got bool"),
            (setting("n", 2**63), {"n": adds("int64")}, "takes an int of 64 bits, this one is larger"),
            (setting("n", 1), {"n": adds("bool")}, "column n takes a bool or None, got int"),
            (setting("n", "1"), {"n": adds("float64")}, "column n takes a float or None, got str"),
            (setting("n", b"x"), {"n": adds("string")}, "column n takes a str or None, got bytes"),
            (lambda _: drop("other"), None, "code 'other' is not among the codes that the plugin declares"),
            (lambda _: [], None, "no row comes out: use drop(code)"),
            (lambda _: True, None, "the plugin answered with a value of type bool"),
            (lambda _: "x", None, "the plugin answered with a value of type str"),
            (lambda _: Awaitable(), None, "the plugin answered with a coroutine (it must not be async)"),
            (lambda _: [None], None, "a row out must be the event or a mapping of columns, got a value of type NoneType"),
            (lambda _: [{"evnt": "x"}], None, "a row out has 'evnt', which is no column of the plugin"),
            (lambda event: [event.copy(event="y")], None, "column event is not among those that the plugin writes"),
            (lambda event: event.json("properties"), None, "the plugin reads no column 'properties'"),
            (lambda event: event.json("event"), None, "JSONDecodeError"),
            (lambda event: event.event.nothing, None, "AttributeError: 'str' object has no attribute 'nothing'"),
            (lambda _: 1 / 0, None, "ZeroDivisionError"),
        ]
        for function, columns, part in mistakes:
            with self.subTest(part=part):
                self.assertIn(part, failure(function, columns=columns))

    def test_what_is_raised_is_logged_with_its_place_once_the_event_is_alone(self) -> None:
        class Word(Event):
            event: Reads[str]

        @plugin(name="tested", version="1.0.0")
        def picky(event: Word) -> Result:
            if event.event == "bad":
                raise KeyError("no such luck")
            return None

        lines: list[str] = []
        with self.assertRaisesRegex(CasesError, "rows 0 to 1: the call failed: KeyError: 'no such luck'"):
            run(picky, [{"event": "bad"}], log=lines.append)
        self.assertEqual(len(lines), 1)
        self.assertRegex(lines[0], r"^KeyError: 'no such luck'\n    at picky \(.*test_rows\.py:\d+\)\n")
        with self.assertRaisesRegex(Refused, "no such luck"):
            picky.transform(2, [text("good", "bad")])
        # The event beside it is as if nothing had been.
        self.assertEqual(picky.transform(1, [text("good")]), Output([], None, [], []))

    def test_what_is_thrown_away_leaves_nothing_behind(self) -> None:
        class Noted(Event):
            event: Reads[str]
            url: Writes[str]
            note: Adds[str]

        @plugin(name="tested", version="1.0.0", codes=["x"])
        def tested(event: Noted) -> Result:
            event.url, event.note = f"changed {event.event}", "noted"
            return drop("x") if event.event == "drop" else [{"url": None}, {}] if event.event == "plain" else None

        rows = [{"event": "drop", "url": "a"}, {"event": "keep", "url": "b"}, {"event": "plain"}, {"event": "drop"}]
        self.assertEqual(
            run(tested, rows),
            [
                {"drop": "x"},
                {"keep": [{"url": "changed keep", "note": "noted"}]},
                {"keep": [{"note": "noted"}, {"url": "changed plain", "note": "noted"}]},
                {"drop": "x"},
            ],
        )

    def test_columns_of_earlier_steps_have_the_type_that_they_have(self) -> None:
        @dataclass
        class Config:
            columns: list[str]

        @plugin(
            name="tested",
            version="1.0.0",
            config=Config,
            columns=lambda config, _: {name: writes() for name in config.columns} | {"event": reads()},
        )
        def blank(event: AnyEvent, config: Config) -> Result:
            if event.event == "blank":
                for name in config.columns:
                    setattr(event, name, None)
            return None

        rows: list[dict[str, Any]] = [{"a": 1, "b": 0.5, "c": True, "d": "x", "event": "blank"}]
        rows += [{"a": 1, "b": 0.5, "c": True, "d": "x"}]
        kept = run(blank, rows, config={"columns": ["a", "b", "c", "d"]})
        self.assertEqual(kept, [{"keep": [{}]}, {"keep": [{"a": 1, "b": 0.5, "c": True, "d": "x"}]}])

    def test_integers_are_exact(self) -> None:
        class Number(Event):
            count: Writes[int]

        @plugin(name="tested", version="1.0.0")
        def up(event: Number) -> Result:
            if event.count is not None and event.count < 2**63 - 1:
                event.count += 1
            return None

        rows = [{"count": n} for n in (2**63 - 1, 2**63 - 2, -(2**63), 2**53, 0)]
        kept = [row["keep"][0]["count"] for row in run(up, rows)]
        self.assertEqual(kept, [2**63 - 1, 2**63 - 1, 1 - 2**63, 2**53 + 1, 1])


if __name__ == "__main__":
    unittest.main()
