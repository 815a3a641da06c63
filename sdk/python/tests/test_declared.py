"""What is declared, and the configuration."""

import unittest
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from millrace_sdk import (
    Adds,
    AnyEvent,
    Event,
    Looked,
    Reads,
    Result,
    Timestamp,
    Writes,
    adds,
    looked,
    micros_of,
    plugin,
    reads,
    time_of,
)
from millrace_sdk.plugin import Refused


@dataclass
class Options:
    min: int = 0
    share: float = 0.5
    words: list[str] = field(default_factory=list)
    limits: dict[str, int] = field(default_factory=dict)
    name: str | None = None

    def __post_init__(self) -> None:
        if self.min % 2:
            raise ValueError("min must be even")


class Declared(unittest.TestCase):
    def test_the_manifest_says_what_was_declared(self) -> None:
        class Base(Event):
            event: Reads[str]

        class Visit(Base):
            url: Writes[str]
            length: Adds[int]
            at: Adds[Timestamp]
            country: Looked[str] = looked("countries", key="ip")
            people: Looked[int] = looked("countries", key="ip", column="inhabitants")

        @plugin(name="tested", version="1.2.3", codes=["internal", "broken"])
        def tested(event: Visit) -> Result:
            return None

        manifest = tested.describe("{}")
        self.assertEqual((manifest.name, manifest.version), ("tested", "1.2.3"))
        self.assertEqual(sorted(manifest.reads), ["event", "ip", "url"])
        self.assertEqual(manifest.writes, ["url"])
        self.assertEqual(manifest.adds, [("length", "int64"), ("at", "timestamp")])
        self.assertEqual(manifest.tables, ["countries"])
        self.assertEqual(manifest.codes, ["internal", "broken"])

    def test_columns_may_follow_the_configuration(self) -> None:
        @plugin(
            name="tested",
            version="1.0.0",
            config=Options,
            columns=lambda options, _: {word: reads() for word in options.words}
            | {f"is_{word}": adds("bool") for word in options.words},
        )
        def tested(event: AnyEvent, options: Options) -> Result:
            return None

        self.assertEqual(tested.describe("").reads, [])
        manifest = tested.describe('{"words": ["ip", "app"]}')
        self.assertEqual(manifest.reads, ["ip", "app"])
        self.assertEqual(manifest.adds, [("is_ip", "bool"), ("is_app", "bool")])

    def test_a_configuration_that_does_not_fit_is_refused_with_what_would(self) -> None:
        @plugin(name="tested", version="1.0.0", config=Options)
        def tested(event: Event, options: Options) -> Result:
            return None

        @plugin(name="tested", version="1.0.0")
        def without(event: Event) -> Result:
            return None

        @dataclass
        class Needed:
            key: str

        @plugin(name="tested", version="1.0.0", config=Needed)
        def needing(event: Event, options: Needed) -> Result:
            return None

        refusals = [
            (without, '{"min": 1}', "unknown option 'min': there are none"),
            (tested, '{"mn": 1}', "unknown option 'mn': there are min, share, words, limits, name"),
            (tested, '{"min": "1"}', "option 'min' must be a whole number, not a string"),
            (tested, '{"min": true}', "option 'min' must be a whole number, not true or false"),
            (tested, '{"min": 1.5}', "option 'min' must be a whole number, not a number"),
            (tested, '{"words": ["a", 1]}', "option 'words' must be an array whose values are each a string, not an array"),
            (tested, '{"limits": {"a": "b"}}', "option 'limits' must be an object whose values are each a whole number"),
            (tested, '{"name": 1}', "option 'name' must be a string or null, not a whole number"),
            (tested, '{"min": 3}', "min must be even"),
            (tested, "[]", "the configuration must be an object, not an array"),
            (tested, "{", "the configuration is no JSON"),
            (needing, "{}", "the configuration lacks the option 'key'"),
        ]
        for made, config, part in refusals:
            with self.subTest(config=config), self.assertRaises(Refused) as caught:
                made.describe(config)
            self.assertIn(part, str(caught.exception))
        tested.describe('{"share": 1, "name": null, "limits": {"a": 1}, "words": ["a"]}')

    def test_a_plugin_that_can_not_be_is_refused_when_its_module_is_loaded(self) -> None:
        def refused(part: str, make: Callable[[], Any]) -> None:
            with self.subTest(part=part), self.assertRaisesRegex((TypeError, ValueError), part):
                make()

        def three(event: Event, config: Any, more: Any) -> Result: ...
        def configured(event: Event, config: Any) -> Result: ...
        def other(event: int) -> Result: ...

        make = plugin(name="tested", version="1.0.0")
        refused("three must take the event, or the event and the configuration", lambda: make(three))
        refused("configured takes a configuration: give its class", lambda: make(configured))
        refused("must be of a class derived from Event", lambda: make(other))
        refused("config must be a dataclass", lambda: plugin(name="t", version="1.0.0", config=int)(configured))

        class Bare(Event):
            event: str

        class Odd(Event):
            event: Reads[bytes]

        class Unlooked(Event):
            country: Looked[str]

        class Keyword(Event):
            pass

        def bare(event: Bare) -> Result: ...
        def odd(event: Odd) -> Result: ...
        def unlooked(event: Unlooked) -> Result: ...
        def keyword(event: AnyEvent) -> Result: ...

        refused(r"Bare\.event must be Reads\[…\], Writes\[…\], Adds\[…\] or Looked\[…\]", lambda: make(bare))
        refused(r"Odd\.event can't be .*: use str, int, float, bool or Timestamp", lambda: make(odd))
        refused(r'Unlooked\.country needs a value: looked\("table", key="column"\)', lambda: make(unlooked))
        with self.assertRaisesRegex(TypeError, r"Valued\.event can't have a value"):

            class Valued(Event):
                event: Reads[str] = "x"

        dynamic = plugin(name="t", version="1.0.0", columns=lambda *_: {"class": reads()})(keyword)
        with self.assertRaisesRegex(Refused, "column 'class' can't be an attribute in Python"):
            dynamic.describe("{}")

    def test_transform_comes_after_describe(self) -> None:
        @plugin(name="tested", version="1.0.0")
        def tested(event: Event) -> Result:
            return None

        with self.assertRaisesRegex(Refused, "describe must be called before transform"):
            tested.transform(0, [])

    def test_times_are_exact(self) -> None:
        for micros in (0, 1, -1, 1_700_000_000_123_457, 253_402_300_799_999_999):
            self.assertEqual(micros_of(time_of(micros)), micros)
        self.assertEqual(time_of(1_500_000).isoformat(), "1970-01-01T00:00:01.500000+00:00")


if __name__ == "__main__":
    unittest.main()
