"""The golden cases of the example, and that the runner finds what is wrong."""

import json
import random
import tempfile
import time
import unittest
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from millrace_sdk import Adds, Event, Reads, Result, Timestamp, Writes, drop, plugin
from millrace_sdk.build import load, plugin_of
from millrace_sdk.columns import Manifest, Output, Plain
from millrace_sdk.testing import CasesError, check_cases, outcomes_of, run

EXAMPLE = Path(__file__).parent.parent / "examples" / "order_total"


# The cases that both SDKs are held to.
SHARED = Path(__file__).parent.parent.parent / "js" / "test" / "everything" / "cases"


class Visit(Event):
    event: Reads[str]
    url: Writes[str]


@plugin(name="tested", version="1.0.0", codes=["empty"])
def upper(event: Visit) -> Result:
    if event.url == "":
        return drop("empty")
    event.url = event.url.upper() if event.url is not None else None
    return None


class Timed(Event):
    event_time: Reads[Timestamp]
    device_id: Reads[str]
    url: Writes[str]


@plugin(name="tested", version="1.0.0")
def timed(event: Timed) -> Result:
    return None


@contextmanager
def with_cases(cases: dict[str, Any]) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as directory:
        for name, case in cases.items():
            (Path(directory) / name).write_text(json.dumps(case))
        yield Path(directory)


class Golden(unittest.TestCase):
    def test_the_example_does_what_its_cases_say(self) -> None:
        path = EXAMPLE / "order_total.py"
        self.assertEqual(check_cases(plugin_of(path, load(path))[1], EXAMPLE / "cases"), 4)

    @unittest.skipUnless(SHARED.is_dir(), "not within the repository")
    def test_both_sdks_do_what_the_shared_cases_say(self) -> None:
        path = Path(__file__).parent / "everything" / "everything.py"
        self.assertEqual(check_cases(plugin_of(path, load(path))[1], SHARED), 7)

    def test_the_example_of_the_readme_does_what_it_says(self) -> None:
        readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
        source, use = (block.partition("```")[0] for block in readme.split("```python\n")[1:])
        with tempfile.TemporaryDirectory() as directory:
            (Path(directory) / "shout.py").write_text(source, encoding="utf-8")
            (Path(directory) / "cases").mkdir()
            (Path(directory) / "cases" / "a.json").write_text(
                '{"rows_in": [{"event": "internal: x"}, {}], "expect": [{"drop": "internal"}, {"keep": [{}]}]}'
            )
            module = load(Path(directory) / "shout.py")
            exec(use.replace('"cases"', repr(f"{directory}/cases")), vars(module))

    def test_what_no_event_is_without_is_never_null_and_times_may_be_text(self) -> None:
        never = "row 1: column 'device_id' can't be null, every event has it: leave it out, and it is 'a-device'"
        with self.assertRaisesRegex(CasesError, never):
            run(timed, [{}, {"device_id": None}])
        with self.assertRaisesRegex(CasesError, "leave it out, and it is 0, or give a value"):
            run(timed, [{}, {"event_time": None}])
        for time in ("now", "2023-02-29T00:00:00Z", "2023-01-01T24:00:00Z", "2023-01-01T00:00:00", 0.5):
            with self.assertRaisesRegex(ValueError, "'event_time' can't hold .*: a time is a whole number of micro"):
                run(timed, [{"event_time": time}])
        self.assertEqual(run(timed, [{"event_time": "2026-11-22t10:00:00.5-01:00"}]), [{"keep": [{}]}])

    def test_what_differs_is_told_of_all_cases_and_rows(self) -> None:
        cases: dict[str, Any] = {
            "a.json": {
                "rows_in": [{"url": "x"}, {"url": ""}, {}],
                "expect": [{"keep": [{"url": "x"}]}, {"keep": [{}]}, {"keep": [{"url": None}]}],
            },
            "b.json": {"rows_in": [{"url": "x"}], "expect": []},
            "c.json": {"rows_in": [{"ip": "x"}], "expect": [{"keep": [{}]}]},
            "d.json": {"config_error": "no such luck"},
            "e.json": {"config": {"a": 1}, "config_error": "something else"},
            "f.json": {"rows": []},
            "g.json": {"config": {"a": 1}, "rows_in": [{}], "expect": [{"keep": [{}]}]},
            "ignored.txt": {},
        }
        with with_cases(cases) as directory, self.assertRaises(CasesError) as caught:
            check_cases(upper, directory)
        message = str(caught.exception)
        for part in [
            'a.json: row 0:\n  expected {"keep": [{"url": "x"}]}\n  came out {"keep": [{"url": "X"}]}\nrow 1:',
            'came out {"drop": "empty"}',
            "b.json: 1 rows in, but 0 expectations",
            "c.json: rows_in has the column 'ip', which the plugin does not read",
            "d.json: the configuration was accepted, expected an error with 'no such luck'",
            "e.json: the configuration was refused with",
            "f.json: is no golden case: it has an unknown entry 'rows'",
            "g.json: the configuration was refused: the configuration has an unknown option 'a'",
        ]:
            self.assertIn(part, message)
        self.assertNotIn("row 2", message)
        with with_cases({}) as directory, self.assertRaisesRegex(CasesError, "holds no cases"):
            check_cases(upper, directory)

    def test_with_bless_what_came_out_is_written_down(self) -> None:
        with with_cases({"a.json": {"about": "b", "rows_in": [{"url": "ä"}, {"url": ""}]}}) as directory:
            self.assertEqual(check_cases(upper, directory, bless=True), 1)
            written = json.loads((directory / "a.json").read_text())
            self.assertEqual(written["expect"], [{"keep": [{"url": "Ä"}]}, {"drop": "empty"}])
            self.assertEqual(written["about"], "b")
            self.assertEqual(check_cases(upper, directory), 1)

    def test_a_row_that_depends_on_its_neighbours_is_found(self) -> None:
        seen = 0

        class Counted(Event):
            n: Adds[int]

        @plugin(name="tested", version="1.0.0")
        def counting(event: Counted) -> Result:
            nonlocal seen
            seen += 1
            event.n = seen
            return None

        with self.assertRaisesRegex(CasesError, "row 0 depends on its neighbours"):
            run(counting, [{}, {}])

    def test_clock_and_chance_raise_and_say_what_to_do(self) -> None:
        def failure(attempt: Any) -> str:
            @plugin(name="tested", version="1.0.0")
            def tested(event: Event) -> Result:
                attempt()
                return None

            with self.assertRaises(CasesError) as caught:
                run(tested, [{}], log=lambda _: None)
            return str(caught.exception)

        for attempt in [time.time, lambda: time.time(), lambda: time.gmtime(), lambda: time.strftime("%Y"), lambda: random.random()]:
            if attempt is time.time:
                continue  # Taken hold of before the plugin ran, which only a component can prevent.
            self.assertRegex(failure(attempt), "is not to be had in a plugin.*use event.received_at or event.event_time")
        # And are back for the test.
        self.assertGreater(time.time(), 0)
        self.assertLess(random.random(), 1)

    def test_an_answer_that_breaks_the_contract_is_found(self) -> None:
        manifest = Manifest("t", "1.0.0", [], [], [("n", "int64")], [], ["x"])

        def refused(part: str, columns: list[Any], sources: Any = None, dropped: Any = (), failed: Any = ()) -> None:
            plain = [column if column is None else Plain("int64", column, None) for column in columns]
            with self.subTest(part=part), self.assertRaisesRegex(CasesError, part):
                outcomes_of(manifest, 2, [], Output(plain, sources, list(dropped), list(failed)))

        refused("0 columns came out, the manifest has 1", [])
        refused("has 1 values for 2 rows", [[1]])
        refused("can't be unchanged here", [None])
        refused("was left out, and came out", [[1, 2]], dropped=[(0, 0)])
        refused("row 1 neither came out nor was left out", [[1]], sources=[0])
        refused("not in order", [[1, 2]], sources=[1, 0])
        refused("there is no code 1", [[1]], sources=[0], dropped=[(1, 1)])
        refused("out of place", [[]], sources=[], dropped=[(1, 0), (0, 0)])
        refused("twice", [[1]], sources=[0], dropped=[(1, 0)], failed=[(1, 0)])


if __name__ == "__main__":
    unittest.main()
