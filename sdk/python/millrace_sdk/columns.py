"""Columns as they cross the boundary, and as lists of values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, Literal

ColumnType = Literal["string", "timestamp", "int64", "float64", "bool"]
"""The type of a column. `timestamp` is microseconds since 1970-01-01 UTC."""

Tag = Literal["text", "int64", "float64", "bool"]

TAGS: dict[str, Tag] = {
    "string": "text",
    "timestamp": "int64",
    "int64": "int64",
    "float64": "float64",
    "bool": "bool",
}
"""Which kind of values a column type has at the boundary."""

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1


@dataclass(slots=True)
class Plain:
    """A column at the boundary. The values of text are a pair of offsets and bytes; those of truth values a byte each."""

    tag: Tag
    values: Any
    validity: bytes | None

    def rows(self) -> int:
        return len(self.values[0]) - 1 if self.tag == "text" else len(self.values)


@dataclass(slots=True)
class Manifest:
    name: str
    version: str
    reads: list[str]
    writes: list[str]
    adds: list[tuple[str, str]]
    tables: list[str]
    codes: list[str]


@dataclass(slots=True)
class Output:
    """What becomes of a batch. `None` among the columns is one that is returned as it was sent."""

    columns: list[Plain | None]
    sources: list[int] | None
    dropped: list[tuple[int, int]]
    failed: list[tuple[int, int]]


def values_of(column: Plain) -> list[Any]:
    """The values of a column, `None` where it has none."""
    values: list[Any]
    if column.tag == "text":
        offsets, data = column.values
        text = data.decode()
        if len(text) == len(data):
            values = [text[start:end] for start, end in pairwise(offsets)]
        else:
            values = [data[start:end].decode() for start, end in pairwise(offsets)]
    elif column.tag == "bool":
        values = [value != 0 for value in column.values]
    else:
        values = list(column.values)
    if column.validity is not None:
        rows = len(values)
        for place, bits in enumerate(column.validity):
            if bits != 255:
                for row in range(8 * place, min(8 * place + 8, rows)):
                    if not bits >> (row & 7) & 1:
                        values[row] = None
    return values


def column_of(tag: Tag, values: Sequence[Any]) -> Plain:
    """The column of values, each of them of the column's kind or `None`."""
    validity = validity_of(values)
    if tag == "text":
        texts = values if validity is None else [value or "" for value in values]
        return Plain(tag, text_of(texts), validity)
    blank: Any = 0.0 if tag == "float64" else 0
    present = values if validity is None else [blank if value is None else value for value in values]
    return Plain(tag, bytes(present) if tag == "bool" else list(present), validity)


def validity_of(values: Sequence[Any]) -> bytes | None:
    if None not in values:
        return None
    # As digits of a number, which Python turns into bytes without a step of the interpreter for each.
    digits = "".join(["0" if value is None else "1" for value in reversed(values)])
    return int(digits, 2).to_bytes((len(values) + 7) // 8, "little")


def nulls(tag: Tag, rows: int) -> Plain:
    """A column without a value."""
    blank: Any = 0.0 if tag == "float64" else 0
    values: Any = ([0] * (rows + 1), b"") if tag == "text" else bytes(rows) if tag == "bool" else [blank] * rows
    return Plain(tag, values, bytes((rows + 7) // 8))


def text_of(texts: Sequence[str]) -> tuple[list[int], bytes]:
    joined = "".join(texts)
    if joined.isascii():
        return list(accumulate(map(len, texts), initial=0)), joined.encode()
    encoded = [encode(text) for text in texts]
    return list(accumulate(map(len, encoded), initial=0)), b"".join(encoded)


def encode(text: str) -> bytes:
    """UTF-8. Half a surrogate pair becomes U+FFFD: no store takes it."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


def checked(name: str, tag: Tag, value: Any) -> Any:
    """The value to keep for one that was set; raises where the column can't hold it."""
    if value is None:
        return None
    kind = type(value)
    if tag == "text":
        if kind is str:
            return value
        takes = "a str"
    elif tag == "int64":
        if kind is int:
            if INT64_MIN <= value <= INT64_MAX:
                return value
            raise TypeError(f"column {name} takes an int of 64 bits, this one is larger")
        takes = "an int"
    elif tag == "float64":
        if kind is float:
            return value
        if kind is int:
            return float(value)
        takes = "a float"
    else:
        if kind is bool:
            return value
        takes = "a bool"
    if isinstance(value, str) and tag == "text":
        return str(value)
    raise TypeError(f"column {name} takes {takes} or None, got {kind.__name__}")
