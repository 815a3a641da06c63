"""Times, which columns hold as microseconds since 1970-01-01 UTC, and Python's own."""

from datetime import datetime, timedelta, timezone

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)


def time_of(micros: int) -> datetime:
    """The time, in UTC, to the microsecond."""
    return _EPOCH + timedelta(microseconds=micros)


def micros_of(time: datetime) -> int:
    """The microseconds of a time with a time zone."""
    return (time - _EPOCH) // _MICROSECOND
