"""Times, which columns hold as microseconds since 1970-01-01 UTC, and Python's own."""

import re
from datetime import datetime, timedelta, timezone
from typing import Any

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)
_RFC_3339 = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]([0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.([0-9]{1,6}))?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)


def time_of(micros: int) -> datetime:
    """The time, in UTC, to the microsecond."""
    return _EPOCH + timedelta(microseconds=micros)


def micros_of(time: datetime) -> int:
    """The microseconds of a time with a time zone."""
    return (time - _EPOCH) // _MICROSECOND


def micros_of_text(value: Any) -> Any:
    """The microseconds of a time as RFC 3339 text; anything else as it is."""
    found = _RFC_3339.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        return value
    date, clock, fraction, zone = found.groups()
    try:
        time = datetime.fromisoformat(f"{date}T{clock}.{(fraction or '0').ljust(6, '0')}{zone.upper()}")
    except ValueError:
        return value
    return micros_of(time)
