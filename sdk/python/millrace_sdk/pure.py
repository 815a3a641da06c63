"""The clock and chance, which a plugin must not have: the same event must give the same rows in every replay.

A component has neither. Its clock traps; its `random` would go on from a seed drawn when it was built, the same in every
call, which looks like chance and is a mistake that nobody sees. So both raise and say what to do instead."""

from __future__ import annotations

import datetime
import os
import random
import secrets
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

_CLOCKS = (
    "monotonic monotonic_ns perf_counter perf_counter_ns process_time process_time_ns thread_time thread_time_ns time "
    "time_ns sleep"
).split()
_CHANCE = (
    "betavariate binomialvariate choice choices expovariate gammavariate gauss getrandbits lognormvariate normalvariate "
    "paretovariate randbytes randint random randrange sample shuffle triangular uniform vonmisesvariate weibullvariate "
    "Random SystemRandom"
).split()


class NotToBeHad(RuntimeError):
    """What a plugin must not use."""


def _refuse(what: str) -> Callable[..., NoReturn]:
    def refused(*_: Any, **__: Any) -> NoReturn:
        raise NotToBeHad(
            f"{what} is not to be had in a plugin, which must give the same rows in every replay: "
            "use event.received_at or event.event_time"
        )

    return refused


def _replaced() -> Iterator[tuple[Any, str, Any]]:
    for name in _CLOCKS:
        if hasattr(time, name):
            yield time, name, _refuse(f"time.{name}")
    for name in ("gmtime", "localtime", "ctime", "asctime", "strftime"):
        yield time, name, _needing_time(name, getattr(time, name))
    for name in _CHANCE:
        if hasattr(random, name):
            yield random, name, _refuse(f"random.{name}")
    for name in ("choice", "randbelow", "randbits", "token_bytes", "token_hex", "token_urlsafe"):
        yield secrets, name, _refuse(f"secrets.{name}")
    for name in ("uuid1", "uuid4", "uuid6", "uuid7"):
        if hasattr(uuid, name):
            yield uuid, name, _refuse(f"uuid.{name}")
    yield os, "urandom", _refuse("os.urandom")


def _needing_time(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
    """A function of `time` that tells the time of day where it is given none."""
    given = 2 if name == "strftime" else 1
    refused = _refuse(f"time.{name} of the time of day")

    def checked(*arguments: Any) -> Any:
        if len(arguments) < given or (given == 1 and arguments[0] is None):
            refused()
        return real(*arguments)

    return checked


class _Datetime(datetime.datetime):
    """A `datetime` that does not know what time it is."""

    now = classmethod(_refuse("datetime.now"))
    today = classmethod(_refuse("datetime.today"))
    utcnow = classmethod(_refuse("datetime.utcnow"))


class _Date(datetime.date):
    """A `date` that does not know what day it is."""

    today = classmethod(_refuse("date.today"))


def install() -> None:
    """Takes clock and chance away for good, before the plugin's module is loaded: what a component does."""
    for module, name, value in _replaced():
        setattr(module, name, value)
    _Datetime.__name__, _Date.__name__ = "datetime", "date"
    datetime.datetime, datetime.date = _Datetime, _Date  # type: ignore[misc]


@contextmanager
def without_clock_and_chance() -> Iterator[None]:
    """Takes them away for a while: what native tests do. Classes can't be replaced under a module that has them by name
    already, so `datetime.now` still works natively; in a component it raises."""
    before = [(module, name, getattr(module, name)) for module, name, _ in _replaced()]
    try:
        for module, name, value in _replaced():
            setattr(module, name, value)
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)
