"""What a reader of the table must find, from sources that are not the table.

* The rows: from the device history over HTTP, another store than the table. It answers by device; which devices
  there are is asked of the table, and that none is missing follows from the number of rows that `millrace verify` has
  compared.
* The funnel: counted here from these rows, and by `millrace demo` from the table.
* What corrections there were: from `/v1/corrections` and `/v1/revisions`.
* Which files are in force at which version, and in which date: from the commit entries, one after the other.
"""

import hashlib
import http.client
import json
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

STEPS = ["product_view", "add_to_cart", "cart", "shipping_details", "payment_details", "purchase"]
# The release of the demo's shop that sends one device id for every device.
BAD_APP_VERSION = "3.3.0"
BAD_DEVICE = "device-0"

# Of a record's row: (log partition, offset, number among the record's rows).
Place = tuple[int, int, int]
# A row's columns that are not null. A time is its µs since 1970 UTC, a JSON column its text as it is.
Row = dict[str, str | int | bool]

TIMES = {"event_time", "received_at"}
JSON_COLUMNS = {"properties", "context", "envelope"}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def text_of(row: Row) -> str:
    """A row as text: `name=length:value;` for each column that is not null, by name. Readers make the same in SQL."""
    values = ((name, str(value).lower() if isinstance(value, bool) else str(value)) for name, value in row.items())
    return "".join(f"{name}={len(value)}:{value};" for name, value in sorted(values))


def print_of(row: Row) -> str:
    """The SHA-256 of that text: what is compared, and all that a failed comparison tells of a row."""
    return hashlib.sha256(text_of(row).encode()).hexdigest()


def place_of(row: Row) -> Place:
    return int(row["_partition"]), int(row["_offset"]), int(row["_sub"])


def prints_of(rows: Iterable[Row]) -> dict[Place, str]:
    return {place_of(row): print_of(row) for row in rows}


def date_of(us: int) -> str:
    return (EPOCH + timedelta(microseconds=us)).date().isoformat()


def members(text: str, at: int) -> Iterator[tuple[str, object, str, int]]:
    """The members of the JSON object at `at`: name, value, the value's text as it is, and where it ends."""
    decoder = json.JSONDecoder()
    assert text[at] == "{"
    while text[at] != "}":
        name, at = decoder.raw_decode(text, at + 1)
        assert text[at] == ":", "the server writes no spaces between its tokens"
        value, end = decoder.raw_decode(text, at + 1)
        yield name, value, text[at + 1 : end], end
        at = end


def events_of(page: str) -> Iterator[Row]:
    """The rows of an answer of `/v1/devices/{id}/events`."""
    start = '{"events":['
    assert page.startswith(start)
    at = len(start)
    while page[at] != "]":
        at += page[at] == ","
        row: Row = {}
        for name, value, verbatim, end in members(page, at):
            if name in JSON_COLUMNS:
                # Text that is no JSON is shown as a JSON string: then this would have to tell the two apart.
                assert isinstance(value, dict), f"{name} is no object"
                row[name] = verbatim
            elif name in TIMES:
                row[name] = (datetime.fromisoformat(str(value)) - EPOCH) // timedelta(microseconds=1)
            else:
                assert isinstance(value, str | int), f"no rule for {name}: a {type(value).__name__}"
                row[name] = value
            at = end
        at += 1
        yield row | {"event_date": date_of(int(row["event_time"]))}


class Server:
    """`millrace serve` on a data directory, while it is asked."""

    def __init__(self, millrace: str, data: Path):
        command = [millrace, "serve", "--listen", "127.0.0.1:0", "--log-filter", "error", "--data-dir", str(data)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=data)
        assert self.process.stdout
        line = self.process.stdout.readline()
        found = re.fullmatch(r"listening on (http://\S+)\n", line)
        assert found, f"the server did not start: {line!r}"
        self.connection = http.client.HTTPConnection(urlsplit(found[1]).netloc, timeout=60)

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()
        self.process.terminate()
        self.process.wait(timeout=60)

    def text(self, path: str) -> str:
        self.connection.request("GET", path)
        response = self.connection.getresponse()
        body = response.read().decode()
        assert response.status == 200, f"{response.status}: {body}"
        return body

    def json(self, path: str) -> dict:
        return json.loads(self.text(path))

    def history(self, device: str) -> Iterator[Row]:
        path = f"/v1/devices/{quote(device, safe='')}/events?limit=1000"
        cursor = None
        while True:
            page = self.text(path + (f"&cursor={quote(cursor)}" if cursor else ""))
            yield from events_of(page)
            cursor = json.loads(page)["cursor"]
            if cursor is None:
                return


@dataclass(frozen=True)
class Correction:
    """A correction, newest last."""

    reason: str
    author: str
    revisions: list[int]


@dataclass(frozen=True)
class File:
    """A data file as the log has it: its date and log partition, and the first and last offset of its rows."""

    date: str
    partition: int
    first: int
    last: int


class Log:
    """The table's log, entry by entry."""

    def __init__(self, table: Path):
        self.directory = table / "_delta_log"
        self.entries = [
            [json.loads(line) for line in entry.read_text().splitlines()]
            for entry in sorted(self.directory.glob("*.json"))
        ]

    def operations(self) -> list[tuple[str, dict[str, str]]]:
        """Of each version: the operation and its parameters."""
        infos = (action["commitInfo"] for entry in self.entries for action in entry if "commitInfo" in action)
        return [(info["operation"], info["operationParameters"]) for info in infos]

    def files(self) -> list[File]:
        """The files in force at the last version."""
        files: dict[str, File] = {}
        for action in (action for entry in self.entries for action in entry):
            if "remove" in action:
                del files[unquote(action["remove"]["path"])]
            elif "add" in action:
                add = action["add"]
                stats = json.loads(add["stats"])
                least, greatest = stats["minValues"], stats["maxValues"]
                assert least["_partition"] == greatest["_partition"], "a file has the rows of one log partition"
                files[unquote(add["path"])] = File(
                    add["partitionValues"]["event_date"], least["_partition"], least["_offset"], greatest["_offset"]
                )
        return list(files.values())

    def checkpoint(self) -> int:
        """The version of the last checkpoint."""
        return json.loads((self.directory / "_last_checkpoint").read_text())["version"]


class Expected:
    """Everything that a reader is held to."""

    def __init__(self, millrace: str, run: Path, devices: Iterable[str]):
        self.table = run / "data" / "delta"
        self.demo = json.loads((run / "demo.json").read_text().splitlines()[-1])
        self.verify = json.loads((run / "verify.json").read_text())
        with Server(millrace, run / "data") as server:
            corrections = server.json("/v1/corrections")["corrections"]
            revisions = server.json("/v1/revisions")["revisions"]
            self.rows = [row for device in devices for row in server.history(device)]
        self.corrections = [
            Correction(one["reason"], one["author"], one["revisions"])
            for one in sorted(corrections, key=lambda one: one["id"])
        ]
        self.activations = [one for one in revisions if one["kind"] == "activate"]
        # After the server: nobody writes any more.
        self.log = Log(self.table)

    @cached_property
    def prints(self) -> dict[Place, str]:
        return prints_of(self.rows)

    @cached_property
    def columns(self) -> dict[str, str]:
        """The columns that some row has, with their types."""
        types = {str: "string", int: "int64", bool: "bool"}
        columns = {name: types[type(value)] for row in self.rows for name, value in row.items()}
        return columns | dict.fromkeys(TIMES, "timestamp") | {"event_date": "date"}

    @cached_property
    def busiest_date(self) -> str:
        """The date with the most rows."""
        rows: dict[str, int] = defaultdict(int)
        for row in self.rows:
            rows[str(row["event_date"])] += 1
        return max(sorted(rows), key=lambda date: rows[date])

    @property
    def corrected(self) -> list[Row]:
        """The rows that the last correction has made."""
        return [row for row in self.rows if row["_revision"] in self.corrections[-1].revisions]

    @property
    def before_correction(self) -> int:
        """The last version in which the last correction has changed nothing."""
        group = {str(revision) for revision in self.corrections[-1].revisions}
        corrects = (
            version
            for version, (operation, parameters) in enumerate(self.log.operations())
            if operation == "CORRECT" and parameters["revision"] in group
        )
        return min(corrects) - 1

    def as_before(self, row: Row) -> Row:
        """A corrected row as it was: the demo's correction changes the device id, and names itself as the revision."""
        partition, offset, _ = place_of(row)

        def concerns(revision: dict) -> bool:
            range_ = revision["ranges"]["partitions"].get(str(partition), {"start": 0, "end": None})
            end = range_.get("end")
            return range_["start"] <= offset and (end is None or offset < end)

        revisions = (one["revision"] for one in self.activations if concerns(one))
        before = max(revision for revision in revisions if revision < min(self.corrections[-1].revisions))
        return row | {"device_id": BAD_DEVICE, "_revision": before}

    @cached_property
    def prints_before(self) -> dict[Place, str]:
        """The rows before the last correction."""
        return self.prints | prints_of(self.as_before(row) for row in self.corrected)

    def funnel(self, *by: str) -> list[tuple]:
        """The weekly checkout funnel: (week, values of `by` …, devices that reached each step …)."""
        clicks = defaultdict(list)
        for row in self.rows:
            if row.get("event") in STEPS:
                year, week, _ = (EPOCH + timedelta(microseconds=int(row["event_time"]))).isocalendar()
                key = (f"{year}-W{week:02}", *(row.get(column) for column in by))
                clicks[key, row["device_id"]].append((row["event_time"], STEPS.index(str(row["event"]))))
        counts: dict[tuple, list[int]] = defaultdict(lambda: [0] * len(STEPS))
        for (key, _), steps in clicks.items():
            counts[key]  # A week in which nobody reached the first step is a week all the same.
            reached = 0
            for _, step in sorted(steps):
                if step == reached:
                    counts[key][step] += 1
                    reached += 1
        return sorted((*key, *reached) for key, reached in counts.items())
