"""Lookups: read like a column, one call of the host for a table and a key."""

import unittest
from collections.abc import Sequence
from typing import Any

from millrace_sdk import Adds, AnyEvent, Event, Looked, Lookup, Reads, Result, adds, fail, looked, plugin, tables
from millrace_sdk.columns import Plain, column_of
from millrace_sdk.memory_tables import MemoryTables
from millrace_sdk.plugin import Refused
from millrace_sdk.testing import CasesError, run

TABLES = {
    "countries": {
        "cidr": "network",
        "rows": [
            {"network": "203.0.113.0/24", "country": "DE", "people": 84},
            {"network": "203.0.113.128/25", "country": "FR", "people": 68},
            {"network": "2001:db8::/32", "country": "Ünited", "people": None},
        ],
    },
    "currencies": {"key": "code", "rows": [{"code": "DE", "currency": "EUR"}, {"code": "Ünited", "currency": "💶"}]},
    "items": {"key": "id", "rows": [{"id": 7, "price": 2.5, "vegan": True}, {"id": 9, "price": 1, "vegan": False}]},
}


def item_of(event: Any) -> int | None:
    properties = event.json("properties")
    item: int | None = None if properties is None else properties.get("item")
    return item


class Found(Event):
    event: Reads[str]
    properties: Reads[str]
    found_country: Looked[str] = looked("countries", key="ip", column="country")
    found_people: Looked[int] = looked("countries", key="ip", column="people")
    found_currency: Looked[str] = looked("currencies", key="found_country", column="currency")
    found_price: Looked[float] = looked("items", key=item_of, column="price")
    found_vegan: Looked[bool] = looked("items", key="item_number", column="vegan")
    country: Adds[str]
    people: Adds[int]
    currency: Adds[str]
    price: Adds[float]
    vegan: Adds[bool]


@plugin(name="tested", version="1.0.0", codes=["unknown"])
def enrich(event: Found) -> Result:
    if event.event == "skip":
        return None
    event.country, event.people, event.currency = event.found_country, event.found_people, event.found_currency
    event.price, event.vegan = event.found_price, event.found_vegan
    return fail("unknown") if event.event == "strict" and event.country is None else None


class Lookups(unittest.TestCase):
    def test_what_is_found_is_null_where_the_key_is_or_the_table_has_none(self) -> None:
        rows: list[dict[str, Any]] = [
            {"ip": "203.0.113.7", "properties": '{"item": 7}', "item_number": 9},
            {"ip": "203.0.113.200", "properties": "{}", "item_number": 8},
            {"ip": "2001:db8::5", "properties": '{"item": null}'},
            {"ip": "::ffff:203.0.113.1", "properties": '{"item": 9}', "item_number": 7},
            {"ip": "no address"},
            {"event": "strict", "item_number": 7},
            {"event": "skip", "ip": "203.0.113.7", "properties": "not JSON"},
            {},
        ]
        self.assertEqual(
            run(enrich, rows, tables=TABLES),
            [
                {"keep": [{"country": "DE", "people": 84, "currency": "EUR", "price": 2.5, "vegan": False}]},
                {"keep": [{"country": "FR", "people": 68}]},
                {"keep": [{"country": "Ünited", "currency": "💶"}]},
                {"keep": [{"country": "DE", "people": 84, "currency": "EUR", "price": 1.0, "vegan": True}]},
                {"keep": [{}]},
                {"fail": "unknown"},
                {"keep": [{}]},
                {"keep": [{}]},
            ],
        )

    def test_a_table_is_asked_once_for_a_batch_and_a_key_and_only_if_somebody_reads_the_answer(self) -> None:
        class Visit(Event):
            event: Reads[str]
            ip: Reads[str]
            country: Looked[str] = looked("countries", key="ip")
            people: Looked[int] = looked("countries", key="ip")
            currency: Looked[str] = looked("currencies", key="event")
            out: Adds[str]

        @plugin(name="tested", version="1.0.0")
        def tested(event: Visit) -> Result:
            if event.event == "DE":
                event.out = f"{event.country} {event.people}"
            return None

        calls: list[tuple[str, list[str]]] = []

        class Counted(MemoryTables):
            def lookup(self, name: str, keys: Plain, wanted: Sequence[str]) -> list[Plain]:
                calls.append((name, list(wanted)))
                return super().lookup(name, keys, wanted)

        before = tables.take_from(Counted(TABLES))
        try:
            self.assertEqual(tested.describe("{}").tables, ["countries", "currencies"])
            ips = column_of("text", ["203.0.113.1", "203.0.113.2", "1.1.1.1"])
            tested.transform(3, [column_of("text", ["a", "b", "c"]), ips])
            self.assertEqual(calls, [])
            tested.transform(3, [column_of("text", ["DE", "DE", "DE"]), ips])
            self.assertEqual(calls, [("countries", ["country", "people"])])
        finally:
            tables.take_from(before)

    def test_a_key_that_can_not_be_computed_fails_the_event_that_reads_the_answer_and_no_other(self) -> None:
        class Priced(Event):
            event: Reads[str]
            properties: Reads[str]
            found: Looked[float] = looked("items", key=item_of, column="price")
            price: Adds[float]

        @plugin(name="tested", version="1.0.0")
        def tested(event: Priced) -> Result:
            if event.event == "read":
                event.price = event.found
            return None

        good = {"event": "read", "properties": '{"item": 7}'}
        rows = [good, {"event": "other", "properties": "broken"}, good]
        priced = {"keep": [{"price": 2.5}]}
        self.assertEqual(run(tested, rows, tables=TABLES), [priced, {"keep": [{}]}, priced])
        for properties, part in [("broken", "JSONDecodeError"), ('{"item": 1.5}', "the key of a lookup must be a str, an int")]:
            with self.assertRaisesRegex(CasesError, part):
                run(tested, [good, {"event": "read", "properties": properties}], tables=TABLES, log=lambda _: None)

    def test_what_does_not_fit_is_said_when_the_plugin_is_configured(self) -> None:
        def described(lookup: Lookup, name: str = "country") -> Any:
            @plugin(name="tested", version="1.0.0", columns=lambda *_: {"added": adds("string"), name: lookup})
            def tested(event: AnyEvent) -> Result:
                return None

            before = tables.take_from(MemoryTables(TABLES))
            try:
                return tested.describe("{}")
            finally:
                tables.take_from(before)

        refusals = [
            (Lookup("countries", "ip", "a"), "table 'countries' has no column 'a'; it has network, country, people"),
            (Lookup("countries", "ip", "people"), "column 'people' is of type int64, not string"),
            (Lookup("countries", "added"), "key must be a column that is read, or a function"),
            (Lookup("countries", "ip", type="text"), "has no type 'text'"),  # type: ignore[arg-type]
        ]
        for lookup, part in refusals:
            with self.subTest(part=part), self.assertRaises(Refused) as caught:
                described(lookup)
            self.assertIn(part, str(caught.exception))
        # A plugin is described before its tables are there.
        self.assertEqual(described(Lookup("later", "ip")).tables, ["later"])

    def test_columns_may_follow_those_of_a_table(self) -> None:
        def columns(_: None, host: tables.Tables) -> dict[str, Any]:
            found = [column for column in host.columns("items") or [] if column[0] != "id"]
            looked_up = {f"found_{name}": Lookup("items", "item", name, kind) for name, kind in found}  # type: ignore[arg-type]
            return looked_up | {f"item_{name}": adds(kind) for name, kind in found}  # type: ignore[arg-type]

        @plugin(name="tested", version="1.0.0", columns=columns)
        def follow(event: AnyEvent) -> Result:
            event.item_price, event.item_vegan = event.found_price, event.found_vegan
            return None

        rows = [{"item": 7}, {"item": 8}, {}]
        kept = [{"keep": [{"item_price": 2.5, "item_vegan": True}]}, {"keep": [{}]}, {"keep": [{}]}]
        self.assertEqual(run(follow, rows, tables=TABLES), kept)

    def test_tables_of_cases_say_what_is_wrong_with_them(self) -> None:
        refusals: list[tuple[dict[str, Any], str]] = [
            ({"rows": []}, 'give either "key" or "cidr"'),
            ({"key": "a", "cidr": "a", "rows": []}, 'give either "key" or "cidr"'),
            ({"key": "a", "rows": [{"a": "x"}, {"b": "x"}]}, "row 1 has no key"),
            ({"key": "a", "rows": [{"a": "x"}, {"a": "x"}]}, "rows 0 and 1 have the same key"),
            ({"key": "a", "rows": [{"a": "x"}, {"a": 1}]}, "column 'a' can't hold 1"),
            ({"cidr": "a", "rows": [{"a": "10.0.0.0/33"}]}, "is no network"),
            ({"cidr": "a", "rows": [{"a": "10.0.0.1/8"}]}, "is no network"),
            ({"key": "a", "row": [], "rows": []}, "unexpected keyword argument 'row'"),
        ]
        for table, part in refusals:
            with self.subTest(part=part), self.assertRaisesRegex(ValueError, f"lookup table 't': .*{part}"):
                MemoryTables({"t": table})


if __name__ == "__main__":
    unittest.main()
