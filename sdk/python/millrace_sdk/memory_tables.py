"""The lookup tables of a case, in memory: small, and found by going through them."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any

from .columns import TAGS, ColumnType, Plain, Tag, column_of, values_of
from .times import micros_of_text

_BASE_TYPES: dict[str, ColumnType] = {"event_time": "timestamp", "received_at": "timestamp", "time_suspect": "bool"}

_HOLDS: dict[Tag, tuple[type, ...]] = {"text": (str,), "int64": (int,), "float64": (int, float), "bool": (bool,)}

_TIME_FORM = (
    'a time is a whole number of microseconds since 1970-01-01 UTC, or RFC 3339 text as in "2026-11-22T10:00:00Z"'
)


def type_of(name: str, values: Sequence[Any]) -> ColumnType:
    """The type of a column by its values: text if there are none, int64 if all are whole numbers."""
    if name in _BASE_TYPES:
        return _BASE_TYPES[name]
    kinds = [type(value) for value in values if value is not None]
    if not kinds or kinds[0] is str:
        return "string"
    if kinds[0] is bool:
        return "bool"
    return "int64" if all(kind is int for kind in kinds) else "float64"


def typed_column(name: str, column_type: ColumnType, values: Sequence[Any]) -> Plain:
    tag = TAGS[column_type]
    form = ""
    if column_type == "timestamp":
        values = [micros_of_text(value) for value in values]
        form = f": {_TIME_FORM}"
    for value in values:
        if value is not None and type(value) not in _HOLDS[tag]:
            raise ValueError(f"column {name!r} can't hold {value!r}{form}")
    if tag == "float64":
        values = [None if value is None else float(value) for value in values]
    return column_of(tag, values)


class MemoryTables:
    """What answers for the host's tables."""

    def __init__(self, tables: Mapping[str, Any]) -> None:
        self._tables: dict[str, _Table] = {}
        for name, table in tables.items():
            try:
                self._tables[name] = _Table(**table)
            except (TypeError, ValueError) as error:
                raise ValueError(f"lookup table {name!r}: {error}") from None

    def columns(self, name: str) -> list[tuple[str, str]] | None:
        table = self._tables.get(name)
        return None if table is None else [(column, kind) for column, (kind, _) in table.columns.items()]

    def lookup(self, name: str, keys: Plain, wanted: Sequence[str]) -> list[Plain]:
        table = self._tables.get(name)
        if table is None:
            raise LookupError(f"there is no table {name!r}")
        rows = table.find(keys)
        answer = []
        for column in wanted:
            if column not in table.columns:
                raise LookupError(f"table {name!r} has no column {column!r}")
            kind, values = table.columns[column]
            answer.append(typed_column(column, kind, [None if row is None else values[row] for row in rows]))
        return answer


class _Table:
    def __init__(self, rows: list[dict[str, Any]], key: str | None = None, cidr: str | None = None) -> None:
        if (key is None) == (cidr is None):
            raise ValueError('give either "key" or "cidr", the column that is looked up')
        self.columns: dict[str, tuple[ColumnType, list[Any]]] = {}
        for name in dict.fromkeys(name for row in rows for name in row):
            values = [row.get(name) for row in rows]
            kind = type_of("", values)
            typed_column(name, kind, values)
            self.columns[name] = (kind, values)
        kind, keys = self.columns.get(key or cidr or "", ("string", []))
        for row, value in enumerate(keys):
            if value is None:
                raise ValueError(f"row {row} has no key")
            if keys.index(value) != row:
                raise ValueError(f"rows {keys.index(value)} and {row} have the same key")
        self._keys = {value: row for row, value in enumerate(keys)}
        self._networks = None if cidr is None else [_network(value) for value in keys]
        self._tag: Tag = "int64" if cidr is None and kind == "int64" else "text"

    def find(self, keys: Plain) -> list[int | None]:
        if keys.tag != self._tag:
            raise LookupError(f"the keys are {keys.tag}, those of the table are {self._tag}")
        return [None if key is None else self._row(key) for key in values_of(keys)]

    def _row(self, key: Any) -> int | None:
        if self._networks is None:
            return self._keys.get(key)
        try:
            address = ipaddress.ip_address(key)
        except ValueError:
            return None
        # An IPv4 address within IPv6 is an IPv4 address.
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        hits = [(network.prefixlen, row) for row, network in enumerate(self._networks) if address in network]
        return max(hits)[1] if hits else None


def _network(text: Any) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        if "/" in text:
            return ipaddress.ip_network(text)
    except ValueError:
        pass
    raise ValueError(f"{text!r} is no network: use address/bits, as in 203.0.113.0/24")
