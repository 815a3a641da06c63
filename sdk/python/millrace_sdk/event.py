"""What an author declares about an event, and the event that the function gets."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any, Optional, TypeVar, Union, get_args, get_origin, get_type_hints

from .columns import TAGS, ColumnType
from .tables import Lookup

T = TypeVar("T")


class Use(Enum):
    """How a plugin uses a column."""

    READ = "read"
    WRITE = "write"
    ADD = "add"
    LOOK_UP = "look up"


Timestamp = Annotated[int, "timestamp"]
"""Microseconds since 1970-01-01 UTC: `time_of` and `micros_of` turn them into a `datetime` and back."""

Reads = Annotated[Optional[T], Use.READ]
"""A column that is read: `event: Reads[str]`. Any column may be None."""

Writes = Annotated[Optional[T], Use.WRITE]
"""A column that is changed, and read too. An event that does not set it keeps its value."""

Adds = Annotated[Optional[T], Use.ADD]
"""A new column. An event that does not set it has None there."""

Looked = Annotated[Optional[T], Use.LOOK_UP]
"""A column that is looked up in a table: `country: Looked[str] = looked("countries", key="ip")`."""

Row = Mapping[str, Any]
"""A row out of several: a column that it does not have is as the event has it."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column whose name depends on the configuration."""

    use: Use
    type: ColumnType | None = None


def reads(type: ColumnType | None = None) -> Column:
    """A column that is read, of any type if none is given."""
    return Column(Use.READ, type)


def writes(type: ColumnType | None = None) -> Column:
    """A column that is changed."""
    return Column(Use.WRITE, type)


def adds(type: ColumnType) -> Column:
    """A new column."""
    return Column(Use.ADD, type)


def looked(table: str, key: Any, column: str | None = None, type: ColumnType | None = None) -> Any:
    """What an attribute that is `Looked` is looked up by: see `Lookup`."""
    return Lookup(table, key, column, type)


class _Slots(type):
    """Makes slots of the columns of an event class: they are read and set as fast as can be, and an attribute that is no
    column can't be set."""

    def __new__(mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **options: Any) -> Any:
        looked_up: dict[str, Lookup] = {}
        slots = []
        for column in _annotated(namespace):
            value = namespace.pop(column, None)
            if isinstance(value, Lookup):
                looked_up[column] = value
                namespace[column] = lookup_property(column)
            elif value is not None:
                raise TypeError(f"{name}.{column} can't have a value: what is not set is None")
            else:
                slots.append(column)
        namespace.setdefault("__slots__", tuple(slots))
        namespace["_looked_up"] = looked_up
        return super().__new__(mcs, name, bases, namespace, **options)


def _annotated(namespace: dict[str, Any]) -> list[str]:
    if "__annotations__" in namespace:
        return list(namespace["__annotations__"])
    if sys.version_info >= (3, 14):
        import annotationlib

        annotate = annotationlib.get_annotate_from_class_namespace(namespace)
        if annotate is not None:
            return list(annotationlib.call_annotate_function(annotate, annotationlib.Format.FORWARDREF))
    return []


def lookup_property(column: str) -> property:
    return property(lambda event: event._lookups.get(column, event._row))


class Event(metaclass=_Slots):
    """One event, the row at hand: its columns are its attributes. There is one object for all events of a batch, so it
    must not be kept."""

    __slots__ = ("_columns", "_lookups", "_row")

    if TYPE_CHECKING:
        # What a batch keeps here. No column has such a name.
        _columns: tuple[str, ...]
        _lookups: Any
        _row: int

    def json(self, column: str) -> Any:
        """What is in a column of JSON text; None where that is None. Parsed anew in each call."""
        try:
            text = getattr(self, column)
        except AttributeError:
            raise AttributeError(f"the plugin reads no column {column!r}") from None
        return None if text is None else json.loads(text)

    def copy(self, **changes: Any) -> Row:
        """The row that this event is now, with changes: for an event that becomes several rows."""
        return {name: getattr(self, name) for name in self._columns} | changes


class AnyEvent(Event):
    """An event whose columns depend on the configuration, so that type checkers know nothing of them."""

    if TYPE_CHECKING:

        def __getattr__(self, column: str) -> Any: ...

        def __setattr__(self, column: str, value: Any) -> None: ...


_TYPES: dict[Any, ColumnType] = {str: "string", int: "int64", float: "float64", bool: "bool"}


def declared(event: type[Event]) -> dict[str, Column | Lookup]:
    """The columns that the annotations of an event class declare."""
    found: dict[str, Column | Lookup] = {}
    for name, hint in get_type_hints(event, include_extras=True).items():
        use, inner = _use(hint)
        if use is None:
            raise TypeError(f"{event.__name__}.{name} must be Reads[…], Writes[…], Adds[…] or Looked[…]")
        column_type = _type(f"{event.__name__}.{name}", inner)
        if use is Use.LOOK_UP:
            default = _lookup(event, name)
            if default is None:
                raise TypeError(f'{event.__name__}.{name} needs a value: looked("table", key="column")')
            found[name] = Lookup(default.table, default.key, default.column or name, default.type or column_type)
        else:
            found[name] = Column(use, column_type)
    return found


def _lookup(event: type[Event], name: str) -> Lookup | None:
    for base in event.__mro__:
        found: dict[str, Lookup] = vars(base).get("_looked_up", {})
        if name in found:
            return found[name]
    return None


def _use(hint: Any) -> tuple[Use | None, Any]:
    if get_origin(hint) is Annotated:
        inner, *metadata = get_args(hint)
        for use in metadata:
            if isinstance(use, Use):
                return use, inner
    return None, None


def _type(place: str, hint: Any) -> ColumnType:
    (inner,) = [part for part in get_args(hint) if part is not type(None)] if get_origin(hint) is Union else [hint]
    if get_origin(inner) is Annotated:
        for name in get_args(inner)[1:]:
            if name in TAGS:
                return name  # type: ignore[no-any-return]
    if inner in _TYPES:
        return _TYPES[inner]
    raise TypeError(f"{place} can't be {inner!r}: use str, int, float, bool or Timestamp")
