"""The events of one call, one after the other, and what becomes of them."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .columns import Output, Plain, Tag, checked, column_of, nulls, values_of
from .event import Event, lookup_property
from .layout import Layout
from .loop import Loop, loop_of, read_only
from .lookups import Lookups
from .outcome import Outcome


class Shape:
    """What is the same for all batches of a configured plugin: its event class, and the loops, by the types of columns
    whose types are known only once they are sent."""

    def __init__(self, base: type[Event], layout: Layout) -> None:
        self.layout = layout
        self.added = [name for name, _ in layout.adds]
        self.written = [*layout.writes, *self.added]
        self.names = (*layout.reads, *self.added)
        looked_up = {lookup.name: lookup_property(lookup.name) for lookup in layout.lookups}
        more = [name for name in self.names if not hasattr(base, name)]
        missing = {name: value for name, value in looked_up.items() if not hasattr(base, name)}
        namespace = {"__slots__": tuple(more), **missing}
        self.event_type: type[Event] = types.new_class(base.__name__, (base,), exec_body=lambda body: body.update(namespace))
        self._loops: dict[tuple[str, ...], Loop] = {}
        if all(name in layout.tags for name in self.written):
            # Made when the component is built, for most plugins.
            self.loop(layout.tags)

    def loop(self, tags: dict[str, Tag]) -> Loop:
        key = tuple(tags[name] for name in self.written)
        if key not in self._loops:
            layout = self.layout
            loop = loop_of(layout.reads, self.added, tags, set(self.written), bool(layout.lookups))
            self._loops[key] = loop
        return self._loops[key]


class Batch:
    """A batch while it is transformed."""

    def __init__(self, shape: Shape, codes: list[str], rows: int, sent: list[Plain]) -> None:
        layout = shape.layout
        self.rows = rows
        self._shape = shape
        self._codes = codes
        self._sent = dict(zip(layout.reads, sent, strict=True))
        self._tags: dict[str, Tag] = dict(layout.tags)
        for name, column in self._sent.items():
            if self._tags.setdefault(name, column.tag) != column.tag:
                raise TypeError(f"column {name!r} is not of type {layout.types[name]}, which the plugin declares")
        self.columns = [values_of(column) for column in sent]
        # The rows out that were set, ascending, and what to.
        self.set_of: dict[str, tuple[list[int], list[Any]]] = {name: ([], []) for name in shape.written}
        self._left: dict[str, list[tuple[int, int]]] = {"drop": [], "fail": []}
        self._lookups = Lookups(layout.lookups, rows, self._sent, self._event_as_sent) if layout.lookups else None

    def _event(self) -> Event:
        event: Event = self._shape.event_type()
        event._columns = self._shape.names
        event._lookups = self._lookups
        return event

    def _event_as_sent(self, row: int) -> Event:
        event = self._event()
        event._row = row
        for name, values in zip(self._shape.layout.reads, self.columns):
            setattr(event, name, values[row])
        return event

    def run(self, transform: Callable[..., Any], *config: Any) -> Output:
        loop = self._shape.loop(self._tags)
        out, sources = loop(self, self._event(), transform, *config)
        return self._output(out, sources)

    def settle(
        self, answer: Any, event: Event, row: int, out: int, sources: list[int] | None, sent: tuple[Any, ...]
    ) -> tuple[list[int], int]:
        """What becomes of a row that is left out or multiplied. From here on rows out are not rows in."""
        if sources is None:
            sources = list(range(row))
        if isinstance(answer, Outcome):
            if answer.code not in self._codes:
                raise ValueError(f"code {answer.code!r} is not among the codes that the plugin declares")
            self._left[answer.kind].append((row, self._codes.index(answer.code)))
            return sources, out
        if not isinstance(answer, Sequence) or isinstance(answer, str):
            raise TypeError(f"the plugin answered with {_kind(answer)}: use None, drop(…), fail(…) or a list of rows")
        if not answer:
            raise ValueError("no row comes out: use drop(code), so that it is counted")
        before = dict(zip(self._shape.names, sent))
        now = {name: getattr(event, name) for name in before}
        for given in answer:
            if given is event:
                self._put(out, before, now)
            elif isinstance(given, Mapping):
                self._put(out, before, {**now, **given})
            else:
                raise TypeError(f"a row out must be the event or a mapping of columns, got {_kind(given)}")
            sources.append(row)
            out += 1
        return sources, out

    def _put(self, out: int, before: dict[str, Any], row: dict[str, Any]) -> None:
        for name, value in row.items():
            if name not in before:
                raise AttributeError(f"a row out has {name!r}, which is no column of the plugin")
            if value is before[name]:
                continue
            if name in self.set_of:
                at, to = self.set_of[name]
                at.append(out)
                to.append(checked(name, self._tags[name], value))
            elif value != before[name]:
                raise read_only(name)

    def _output(self, out: int, sources: list[int] | None) -> Output:
        sent = dict(zip(self._shape.layout.reads, self.columns))
        columns: list[Plain | None] = []
        for name, (at, to) in self.set_of.items():
            values: list[Any]
            if not at and name not in sent:
                columns.append(nulls(self._tags[name], out))
                continue
            if len(at) == out:
                values = to
            elif name not in sent:
                values = [None] * out
            elif sources is not None:
                values = [sent[name][source] for source in sources]
            elif at:
                values = sent[name]
            else:
                columns.append(None)
                continue
            if values is not to:
                for row, value in zip(at, to):
                    values[row] = value
            columns.append(column_of(self._tags[name], values))
        return Output(columns, sources, self._left["drop"], self._left["fail"])


def _kind(value: Any) -> str:
    return "a coroutine (it must not be async)" if hasattr(value, "__await__") else f"a value of type {type(value).__name__}"
