"""The loop over the events of a batch, written for the columns of one plugin.

What an interpreter does for every event costs more than what most plugins do, so the loop is made like a dataclass makes
its methods: its source names each column, and does nothing that the plugin does not need. For a plugin that reads `event`,
writes `url` and adds `n` it is

    def loop(batch, event, transform, config):
        column_0, column_1 = batch.columns
        at_1, to_1 = batch.set_of["url"]
        at_2, to_2 = batch.set_of["n"]
        sources, out, row = None, 0, -1
        for value_0, value_1 in zip(column_0, column_1):
            row += 1
            event.event = value_0
            event.url = value_1
            event.n = None
            answer = transform(event, config)
            if answer is None or answer is event:
                if event.event is not value_0:
                    raise read_only("event")
                now = event.url
                if now is not value_1:
                    at_1.append(out)
                    to_1.append(now if now.__class__ is str else checked("url", "text", now))
                …
                if sources is not None:
                    sources.append(row)
                out += 1
            else:
                sources, out = batch.settle(answer, event, row, out, sources, (value_0, value_1, None))
        return out, sources
"""

from __future__ import annotations

import keyword
from collections.abc import Callable, Sequence
from typing import Any

from .columns import Tag, checked

# The class of which a value needs no further check. Integers have a range.
_EXACT = {"text": "str", "float64": "float", "bool": "bool"}

Loop = Callable[..., tuple[int, "list[int] | None"]]


def read_only(name: str) -> AttributeError:
    return AttributeError(f"column {name} is not among those that the plugin writes")


def loop_of(sent: Sequence[str], added: Sequence[str], tags: dict[str, Tag], written: set[str], is_looking_up: bool) -> Loop:
    """The loop for columns that are sent and columns that are added, those in `written` being returned."""
    names = [*sent, *added]
    for name in names:
        if not name.isidentifier() or keyword.iskeyword(name):
            raise ValueError(f"column {name!r} can't be an attribute in Python")
    values = [f"value_{place}" for place in range(len(sent))] + ["None"] * len(added)
    lines = ["def loop(batch, event, transform, *config):"]
    if sent:
        lines.append(f"    {_tuple(f'column_{place}' for place in range(len(sent)))} = batch.columns")
    for place, name in enumerate(names):
        if name in written:
            lines.append(f"    at_{place}, to_{place} = batch.set_of[{name!r}]")
    lines.append("    sources, out, row = None, 0, -1")
    if sent:
        columns = ", ".join(f"column_{place}" for place in range(len(sent)))
        lines.append(f"    for {_tuple(values[: len(sent)])} in zip({columns}):")
    else:
        lines.append("    for _ in range(batch.rows):")
    lines.append("        row += 1")
    if is_looking_up:
        lines.append("        event._row = row")
    lines += [f"        event.{name} = {value}" for name, value in zip(names, values)]
    lines += ["        answer = transform(event, *config)", "        if answer is None or answer is event:"]
    for place, (name, value) in enumerate(zip(names, values)):
        if name not in written:
            lines += [f"            if event.{name} is not {value}:", f"                raise read_only({name!r})"]
            continue
        check = f"checked({name!r}, {tags[name]!r}, now)"
        if tags[name] in _EXACT:
            check = f"now if now.__class__ is {_EXACT[tags[name]]} else {check}"
        lines += [
            f"            now = event.{name}",
            f"            if now is not {value}:",
            f"                at_{place}.append(out)",
            f"                to_{place}.append({check})",
        ]
    lines += [
        "            if sources is not None:",
        "                sources.append(row)",
        "            out += 1",
        "        else:",
        f"            sources, out = batch.settle(answer, event, row, out, sources, {_tuple(values)})",
        "    return out, sources",
    ]
    namespace: dict[str, Any] = {"checked": checked, "read_only": read_only}
    exec("\n".join(lines), namespace)
    loop: Loop = namespace["loop"]
    return loop


def _tuple(parts: Any) -> str:
    return "(" + "".join(f"{part}, " for part in parts) + ")"
