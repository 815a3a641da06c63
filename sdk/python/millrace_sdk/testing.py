"""Golden cases: what a plugin makes of given rows, written down.

The format is that of the Rust SDK (its module `golden` documents it), so the same file is run here, natively, and over
the built component by the host."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from . import lines
from . import tables as lookup_tables
from .columns import ColumnType, Manifest, Output, Plain, values_of
from .memory_tables import MemoryTables, type_of, typed_column
from .plugin import Plugin, Refused
from .pure import without_clock_and_chance
from .times import micros_of_text

CaseRow = Mapping[str, Any]
Expected = dict[str, Any]
"""What becomes of one row in: `{"keep": [row, …]}`, `{"drop": code}` or `{"fail": code}`."""

_ALWAYS: dict[str, Any] = {"event_id": "an-event", "device_id": "a-device", "event_time": 0, "received_at": 0}
"""What a column that the engine never leaves null has in rows that do not speak of it."""

_ENTRIES = {"about", "config", "config_error", "tables", "rows_in", "expect"}


class CasesError(Exception):
    """What differs from the cases."""


def run(
    plugin: Plugin,
    rows: Sequence[CaseRow],
    *,
    config: Any = None,
    tables: Mapping[str, Any] | None = None,
    log: Callable[[str], None] | None = None,
) -> list[Expected]:
    """Runs rows through a plugin as one batch, row by row and in halves, and gives what becomes of each."""
    return _run_natively(plugin, rows, config, tables, log)[1]


def _run_natively(
    plugin: Plugin,
    rows: Sequence[CaseRow],
    config: Any,
    tables: Mapping[str, Any] | None,
    log: Callable[[str], None] | None,
) -> tuple[Manifest, list[Expected]]:
    source = lookup_tables.take_from(MemoryTables(tables or {}))
    sink = lines.send_to(log) if log is not None else None
    try:
        with without_clock_and_chance():
            return _run(plugin, rows, {} if config is None else config)
    finally:
        lookup_tables.take_from(source)
        if sink is not None:
            lines.send_to(sink)


def _run(plugin: Plugin, rows: Sequence[CaseRow], config: Any) -> tuple[Manifest, list[Expected]]:
    try:
        manifest = plugin.describe(json.dumps(config))
    except Refused as error:
        raise CasesError(f"the configuration was refused: {error}") from error
    for at, given in enumerate(rows):
        for name, value in given.items():
            if name not in manifest.reads:
                raise CasesError(f"rows_in has the column {name!r}, which the plugin does not read")
            if value is None and name in _ALWAYS:
                raise CasesError(
                    f"row {at}: column {name!r} can't be null, every event has it: "
                    f"leave it out, and it is {_ALWAYS[name]!r}, or give a value"
                )
    # By all rows, so that a split does not change them.
    types: dict[str, ColumnType] = {}
    for name in manifest.reads:
        values = [row.get(name, _ALWAYS.get(name)) for row in rows]
        is_null = all(value is None for value in values)
        declared = plugin.type_of(name) if is_null else None
        types[name] = cast(ColumnType, declared) if declared is not None else type_of(name, values)

    def transform(ranges: list[tuple[int, int]]) -> list[Expected]:
        outcomes: list[Expected] = []
        for start, end in ranges:
            batch = _batch(types, rows[start:end])
            try:
                output = plugin.transform(end - start, batch)
            except Refused as error:
                raise CasesError(f"rows {start} to {end}: the call failed: {error}") from error
            came_out = outcomes_of(manifest, end - start, batch, output)
            outcomes += [_plain(outcome, row) for outcome, row in zip(came_out, rows[start:end], strict=True)]
        return outcomes

    whole = transform([(0, len(rows))])
    half = len(rows) // 2
    for split in ([(row, row + 1) for row in range(len(rows))], [(0, half), (half, len(rows))]):
        for row, (apart, together) in enumerate(zip(transform(split), whole, strict=True)):
            if apart != together:
                raise CasesError(
                    f"row {row} depends on its neighbours:\n"
                    f"  in one batch {_shown(together)}\n  split        {_shown(apart)}"
                )
    return manifest, whole


def check_cases(plugin: Plugin, directory: Path | str, *, bless: bool | None = None) -> int:
    """Runs every case in a directory and raises what differs; how many there are. With `bless`, or with `MILLRACE_BLESS=1`
    in the environment, what came out is written down instead."""
    bless = os.environ.get("MILLRACE_BLESS") == "1" if bless is None else bless
    paths = sorted(Path(directory).glob("*.json"))
    if not paths:
        raise CasesError(f"{directory} holds no cases (*.json)")
    errors = []
    for path in paths:
        try:
            _check_case(plugin, path, bless)
        except (CasesError, ValueError) as error:
            errors.append(f"{path}: {error}")
    if errors:
        raise CasesError("\n".join(errors))
    return len(paths)


def _check_case(plugin: Plugin, path: Path, bless: bool) -> None:
    case = json.loads(path.read_text(encoding="utf-8"))
    for entry in case.keys() - _ENTRIES:
        raise CasesError(f"is no golden case: it has an unknown entry {entry!r}")
    config, tables, rows, expect = case.get("config", {}), case.get("tables"), case.get("rows_in", []), case.get("expect", [])
    if "config_error" in case:
        _check_refusal(plugin, config, tables, case["config_error"])
        return
    if not bless and len(expect) != len(rows):
        raise CasesError(f"{len(rows)} rows in, but {len(expect)} expectations")
    manifest, outcomes = _run_natively(plugin, rows, config, tables, None)
    if bless:
        text = json.dumps({**case, "expect": outcomes}, indent=2, ensure_ascii=False)
        path.write_text(text + "\n", encoding="utf-8")
        return
    times = {"event_time", "received_at", *(name for name, kind in manifest.adds if kind == "timestamp")}
    expect = [_plain(expected, row, times) for expected, row in zip(expect, rows, strict=True)]
    differences = [
        f"row {row}:\n  expected {_shown(expected)}\n  came out {_shown(outcome)}"
        for row, (outcome, expected) in enumerate(zip(outcomes, expect, strict=True))
        if not _same(outcome, expected)
    ]
    if differences:
        raise CasesError("\n".join(differences))


def _check_refusal(plugin: Plugin, config: Any, tables: Mapping[str, Any] | None, part: str) -> None:
    source = lookup_tables.take_from(MemoryTables(tables or {}))
    try:
        plugin.describe(json.dumps(config))
    except Refused as error:
        if part not in str(error):
            raise CasesError(f"the configuration was refused with {str(error)!r}, expected {part!r}") from error
    else:
        raise CasesError(f"the configuration was accepted, expected an error with {part!r}")
    finally:
        lookup_tables.take_from(source)


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _same(a: Any, b: Any) -> bool:
    """Whether two values of JSON are the same: a truth value is no number, 1 is not 1.0."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(value, b[name]) for name, value in a.items())
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    return type(a) is type(b) and bool(a == b)


def _plain(outcome: Expected, row_in: CaseRow, times: Collection[str] = ()) -> Expected:
    """An outcome without what goes without saying: nulls, and what a row has in a column of `_ALWAYS` where the row in does
    not speak of it. Text in the columns `times` becomes microseconds."""
    if "keep" not in outcome:
        return outcome

    def dense(row: CaseRow) -> dict[str, Any]:
        values = {name: micros_of_text(value) if name in times else value for name, value in row.items()}
        unsaid = {name: _ALWAYS[name] for name in _ALWAYS if name not in row_in}
        return {
            name: value
            for name, value in values.items()
            if value is not None and not (name in unsaid and _same(value, unsaid[name]))
        }

    return {"keep": [dense(row) for row in outcome["keep"]]}


def _batch(types: Mapping[str, ColumnType], rows: Sequence[CaseRow]) -> list[Plain]:
    return [typed_column(name, kind, [row.get(name, _ALWAYS.get(name)) for row in rows]) for name, kind in types.items()]


def outcomes_of(manifest: Manifest, rows: int, batch: list[Plain], output: Output) -> list[Expected]:
    """What became of each row of a batch. Raises where an answer breaks the contract."""
    names = [*manifest.writes, *(name for name, _ in manifest.adds)]
    if len(output.columns) != len(names):
        raise CasesError(f"{len(output.columns)} columns came out, the manifest has {len(names)}")
    outcomes: list[Expected | None] = [None] * rows
    for kind, left in (("drop", output.dropped), ("fail", output.failed)):
        last = -1
        for row, code in left:
            if not last < row < rows:
                raise CasesError(f"{kind}: row {row} is out of place")
            if outcomes[row] is not None:
                raise CasesError(f"row {row} was left out twice")
            if code >= len(manifest.codes):
                raise CasesError(f"there is no code {code}")
            outcomes[row] = {kind: manifest.codes[code]}
            last = row
    sources = list(range(rows)) if output.sources is None else output.sources
    columns = []
    for place, (name, column) in enumerate(zip(names, output.columns, strict=True)):
        if column is None:
            if place >= len(manifest.writes) or output.sources is not None:
                raise CasesError(f"column {name!r} can't be unchanged here")
            column = batch[manifest.reads.index(name)]
        if column.rows() != len(sources):
            raise CasesError(f"column {name!r} has {column.rows()} values for {len(sources)} rows")
        columns.append(values_of(column))
    if sources != sorted(sources):
        raise CasesError("the sources of the rows out are not in order")
    for out, source in enumerate(sources):
        if not 0 <= source < rows:
            raise CasesError(f"there is no row {source}")
        outcome = outcomes[source]
        if outcome is None:
            outcome = outcomes[source] = {"keep": []}
        if "keep" not in outcome:
            raise CasesError(f"row {source} was left out, and came out")
        values = {name: values[out] for name, values in zip(names, columns, strict=True)}
        outcome["keep"].append({name: value for name, value in values.items() if value is not None})
    for place, found in enumerate(outcomes):
        if found is None:
            raise CasesError(f"row {place} neither came out nor was left out")
    return [found for found in outcomes if found is not None]
