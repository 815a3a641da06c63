"""The columns of a plugin under a configuration, and the manifest that the host asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .columns import TAGS, Manifest, Tag
from .event import Column, Use
from .lookups import LookupColumn
from .tables import Lookup, Tables


@dataclass(slots=True)
class Layout:
    reads: list[str] = field(default_factory=list)
    """Columns that are sent, those that are written among them."""
    writes: list[str] = field(default_factory=list)
    adds: list[tuple[str, str]] = field(default_factory=list)
    tags: dict[str, Tag] = field(default_factory=dict)
    """Of columns whose type is declared."""
    types: dict[str, str] = field(default_factory=dict)
    lookups: list[LookupColumn] = field(default_factory=list)

    def manifest(self, name: str, version: str, codes: list[str]) -> Manifest:
        tables = list(dict.fromkeys(lookup.table for lookup in self.lookups))
        return Manifest(name, version, self.reads, self.writes, self.adds, tables, codes)


def layout_of(columns: Mapping[str, Column | Lookup]) -> Layout:
    layout = Layout()
    for name, column in columns.items():
        if isinstance(column, Lookup):
            column_type = column.type or "string"
            tag = _tag(name, column_type)
            key = column.key
            lookup = LookupColumn(name, column.table, key, column.column or name, column_type, tag)
            layout.lookups.append(lookup)
            continue
        if column.type is not None:
            layout.tags[name] = _tag(name, column.type)
            layout.types[name] = column.type
        if column.use is Use.ADD:
            layout.adds.append((name, str(column.type)))
            continue
        # What is written is read too, so that rows which are not set keep their value.
        layout.reads.append(name)
        if column.use is Use.WRITE:
            layout.writes.append(name)
    added = {name for name, _ in layout.adds}
    looked_up = {lookup.name for lookup in layout.lookups}
    for lookup in layout.lookups:
        if callable(lookup.key):
            continue
        if not isinstance(lookup.key, str) or lookup.key in added:
            raise TypeError(f"lookup {lookup.name!r}: key must be a column that is read, or a function")
        if lookup.key not in layout.reads and lookup.key not in looked_up:
            layout.reads.append(lookup.key)
    return layout


def _tag(name: str, column_type: str) -> Tag:
    try:
        return TAGS[column_type]
    except KeyError:
        raise TypeError(f"column {name!r} has no type {column_type!r}: use {', '.join(TAGS)}") from None


def check_lookups(layout: Layout, tables: Tables) -> None:
    """Refuses lookups of columns that a table does not have. A table that is not there yet is no mistake: a plugin is
    described before its tables are uploaded, and the host refuses a chain without them."""
    for lookup in layout.lookups:
        columns = tables.columns(lookup.table)
        if columns is None:
            continue
        known = dict(columns)
        if lookup.column not in known:
            names = ", ".join(known)
            raise ValueError(
                f"lookup {lookup.name!r}: table {lookup.table!r} has no column {lookup.column!r}; it has {names}"
            )
        if TAGS[known[lookup.column]] != lookup.tag:
            raise TypeError(
                f"lookup {lookup.name!r}: column {lookup.column!r} is of type {known[lookup.column]}, not {lookup.type}"
            )
