"""Every type, outcome and lookup in one plugin, and what differs between a native test and a component. The JavaScript SDK
has the same plugin, and its cases are those of both: `sdk/js/test/everything/cases`."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from millrace_sdk import Adds, Event, Looked, Reads, Result, Timestamp, Writes, drop, fail, log, looked, plugin, time_of


@dataclass
class Config:
    prefix: str = ""


def item_of(event: "Everything") -> int | None:
    item: int | None = (event.json("properties") or {}).get("item")
    return item


class Everything(Event):
    event: Reads[str]
    properties: Reads[str]
    url: Writes[str]
    time_suspect: Writes[bool]
    event_time: Writes[Timestamp]
    whole: Adds[int]
    real: Adds[float]
    truth: Adds[bool]
    note: Adds[str]
    time: Adds[Timestamp]
    country: Adds[str]
    found_country: Looked[str] = looked("countries", key="ip", column="country")
    found_people: Looked[int] = looked("countries", key="ip", column="people")
    found_price: Looked[float] = looked("items", key=item_of, column="price")


@plugin(name="everything-py", version="0.1.0", codes=["unwanted", "broken"], config=Config)
def everything(event: Everything, config: Config) -> Result:
    match event.event:
        case "upper":
            event.url = None if event.url is None else config.prefix + event.url.upper()
        case "null":
            event.url = event.time_suspect = None
        case "set":
            event.whole, event.real, event.truth = 1 - 2**53, 0.1, False
            event.time_suspect = not event.time_suspect
            event.time = event.event_time
            event.event_time = (event.event_time or 0) + 1
        case "text":
            event.note = event.json("properties")["text"]
        case "look up":
            event.country, event.whole, event.real = event.found_country, event.found_people, event.found_price
        case "date":
            event.note = time_of(event.event_time or 0).strftime("%Y-%m-%dT%H:%M:%S")
            assert datetime.strptime(event.note, "%Y-%m-%dT%H:%M:%S").year >= 2000
        case "clock":
            event.note = "refused" if refused(lambda: time.time()) and refused(lambda: time.gmtime()) else "told"
        case "chance":
            event.note = "refused" if refused(lambda: random.random()) else "drawn"
        case "log":
            log("a line", {"of": "log"})
            print("a line that is", "printed")
            return event
        case "drop":
            event.url = "not to be seen"
            return drop("unwanted")
        case "fail":
            event.url = "not to be seen"
            return fail("broken")
        case "rows":
            event.note = "all"
            return [event, event.copy(note="one"), {"url": None}]
    return None


def refused(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except RuntimeError as error:
        return "is not to be had in a plugin" in str(error)
    return False
