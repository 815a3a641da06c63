"""Lookup tables: uploaded by an operator, pinned by the chain, asked for a whole column of keys in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from .columns import ColumnType, Plain


class Tables(Protocol):
    """What has lookup tables: the host, or the tables of a golden case."""

    def columns(self, name: str) -> list[tuple[str, str]] | None:
        """The columns of a table with their types, in its order; `None` where there is no table of this name."""

    def lookup(self, name: str, keys: Plain, wanted: Sequence[str]) -> list[Plain]:
        """For each of the columns in `wanted` a column with a value for each key. Raises what does not fit."""


@dataclass(frozen=True, slots=True)
class Lookup:
    """A column that is looked up in a table, with one call of the host for a batch."""

    table: str
    """The table's name."""
    key: str | Callable[[Any], str | int | None]
    """A column, or a function that makes the key of the event as it was sent; `None` where it has none."""
    column: str | None = None
    """The table's column; the name of the event's attribute if it is left out."""
    type: ColumnType | None = None
    """The type, where it is not in an annotation."""


class _NoTables:
    def columns(self, name: str) -> list[tuple[str, str]] | None:
        return None

    def lookup(self, name: str, keys: Plain, wanted: Sequence[str]) -> list[Plain]:
        raise LookupError(f"there is no table {name!r}")


_current: Tables = _NoTables()


def tables() -> Tables:
    """Where tables come from."""
    return _current


def take_from(source: Tables) -> Tables:
    """Sets where tables come from, and gives where they came from before."""
    global _current
    before, _current = _current, source
    return before
