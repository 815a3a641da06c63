"""Lookups: one call of the host for a table and a key, whatever the number of events and columns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .columns import INT64_MAX, INT64_MIN, Plain, Tag, column_of, values_of
from .tables import tables


@dataclass(slots=True)
class LookupColumn:
    """A column that is looked up."""

    name: str
    table: str
    key: str | Callable[[Any], Any]
    column: str
    type: str
    tag: Tag


@dataclass(slots=True)
class Group:
    """The columns that one call gives."""

    table: str
    key: str | Callable[[Any], Any]
    wanted: list[LookupColumn] = field(default_factory=list)


class Lookups:
    """The lookups of a batch. Nothing is looked up before somebody reads it."""

    def __init__(
        self,
        columns: list[LookupColumn],
        rows: int,
        sent: dict[str, Plain],
        event_at: Callable[[int], Any],
    ) -> None:
        groups: dict[tuple[str, Any], Group] = {}
        self._groups: dict[str, Group] = {}
        for column in columns:
            group = groups.setdefault((column.table, column.key), Group(column.table, column.key))
            group.wanted.append(column)
            self._groups[column.name] = group
        self._rows = rows
        self._sent = sent
        self._event_at = event_at
        self._found: dict[str, list[Any]] = {}
        self._errors: dict[str, dict[int, Exception]] = {}

    def get(self, name: str, row: int) -> Any:
        if name not in self._found:
            self._ask(self._groups[name])
        error = self._errors[name].get(row)
        if error is not None:
            raise error
        return self._found[name][row]

    def _ask(self, group: Group) -> None:
        errors: dict[int, Exception] = {}
        sent = self._sent.get(group.key) if isinstance(group.key, str) else None
        # Only what can be a key is handed back as it came.
        keys = sent if sent is not None and sent.tag in ("text", "int64") else self._computed(group.key, errors)
        if keys is None:
            found = [[None] * self._rows for _ in group.wanted]
        else:
            answer = tables().lookup(group.table, keys, [column.column for column in group.wanted])
            for column, given in zip(group.wanted, answer, strict=True):
                if given.tag != column.tag:
                    raise TypeError(
                        f"lookup {column.name}: column {column.column} of table {group.table} has other values than "
                        f"{column.type}"
                    )
            found = [values_of(given) for given in answer]
        for column, values in zip(group.wanted, found, strict=True):
            self._found[column.name] = values
            self._errors[column.name] = errors

    def _computed(self, key: str | Callable[[Any], Any], errors: dict[int, Exception]) -> Plain | None:
        """The keys of all rows; None where no row has one, for then nobody knows of what type they would be. Where a key
        can't be computed only that row must fail, so its error is kept until the row reads what was looked up."""
        values: list[Any] = []
        tag: Tag | None = None
        for row in range(self._rows):
            value = None
            try:
                event = self._event_at(row)
                value = getattr(event, key) if isinstance(key, str) else key(event)
                if value is not None:
                    kind = _tag_of(value)
                    if tag is not None and tag != kind:
                        raise TypeError("the keys of a lookup must be of one type")
                    tag = kind
            except Exception as error:
                errors[row] = error
                value = None
            values.append(value)
        return None if tag is None else column_of(tag, values)


def _tag_of(value: Any) -> Tag:
    if type(value) is str:
        return "text"
    if type(value) is int and INT64_MIN <= value <= INT64_MAX:
        return "int64"
    raise TypeError("the key of a lookup must be a str, an int of 64 bits or None")
