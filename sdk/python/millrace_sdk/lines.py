"""Lines for the plugin's author."""

import sys
from collections.abc import Callable


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


_send: Callable[[str], None] = _to_stderr


def log(*values: object) -> None:
    """Sends a line to the plugin's author. It leaves no trace in any row."""
    _send(" ".join(map(str, values)))


def send_to(send: Callable[[str], None]) -> Callable[[str], None]:
    """Sets where lines go, and gives where they went before."""
    global _send
    before, _send = _send, send
    return before
