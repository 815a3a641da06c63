"""Write a Millrace transform as a function over one event.

    from millrace_sdk import Adds, Event, Result, Writes, drop, plugin

    class Visit(Event):
        event: Writes[str]
        event_length: Adds[int]

    @plugin(name="shout", version="0.1.0", codes=["internal"])
    def shout(event: Visit) -> Result:
        if event.event is None:
            return None
        if event.event.startswith("internal:"):
            return drop("internal")
        event.event = event.event.upper()
        event.event_length = len(event.event)
        return None

A transform is a WebAssembly component that gets batches of columns and gives columns back. The SDK hides that: only the
columns that are declared cross the boundary, and one that no event changed does not go back.
"""

from .columns import ColumnType
from .event import Adds, AnyEvent, Column, Event, Looked, Reads, Row, Timestamp, Writes, adds, looked, reads, writes
from .lines import log
from .outcome import Outcome, Result, drop, fail
from .plugin import Plugin, plugin
from .tables import Lookup, Tables
from .times import micros_of, time_of

__all__ = [
    "Adds",
    "AnyEvent",
    "Column",
    "ColumnType",
    "Event",
    "Looked",
    "Lookup",
    "Outcome",
    "Plugin",
    "Reads",
    "Result",
    "Row",
    "Tables",
    "Timestamp",
    "Writes",
    "adds",
    "drop",
    "fail",
    "log",
    "looked",
    "micros_of",
    "plugin",
    "reads",
    "time_of",
    "writes",
]
