"""What becomes of an event."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Union

if TYPE_CHECKING:
    from .event import Event


class Outcome:
    """An event that does not go on."""

    __slots__ = ("code", "kind")

    def __init__(self, kind: Literal["drop", "fail"], code: str) -> None:
        self.kind: Literal["drop", "fail"] = kind
        self.code = code


def drop(code: str) -> Outcome:
    """Leaves the event out on purpose, under a code that the plugin declared."""
    return Outcome("drop", code)


def fail(code: str) -> Outcome:
    """Says that the event can't be transformed: it becomes a dead letter under a code that the plugin declared."""
    return Outcome("fail", code)


Result = Union[None, Outcome, "Event", Sequence[Union["Event", Mapping[str, Any]]]]
"""What a plugin's function answers: nothing (the event goes on, with what was set), `drop(code)`, `fail(code)`, or the
rows that come out."""
