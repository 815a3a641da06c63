"""The exported functions of a component: the boundary's types and the SDK's. Only a component can import this module."""

# mypy: ignore-errors

import io
import sys

# What Python loads only when it is needed can't be loaded in a component, which has no files.
import _strptime  # noqa: F401
import decimal  # noqa: F401
import encodings.ascii
import encodings.cp1252
import encodings.idna
import encodings.iso8859_15
import encodings.latin_1
import encodings.punycode
import encodings.utf_8_sig
import encodings.utf_16
import encodings.utf_16_be
import encodings.utf_16_le  # noqa: F401
import unicodedata  # noqa: F401

from . import pure

pure.install()

from componentize_py_types import Err  # noqa: E402
from wit_world import WitWorld as World  # noqa: E402
from wit_world.imports import host  # noqa: E402
from wit_world.imports import tables as host_tables  # noqa: E402
from wit_world.imports import types as wit  # noqa: E402

from . import lines, tables  # noqa: E402
from .columns import Plain  # noqa: E402
from .plugin import Plugin, message_of  # noqa: E402

_TYPES = {
    "string": wit.ColumnType.STRING,
    "timestamp": wit.ColumnType.TIMESTAMP,
    "int64": wit.ColumnType.INT64,
    "float64": wit.ColumnType.FLOAT64,
    "bool": wit.ColumnType.BOOL,
}
_NAMES = {value: name for name, value in _TYPES.items()}
_TAGS = {wit.Values_Text: "text", wit.Values_Int64: "int64", wit.Values_Float64: "float64", wit.Values_Bool: "bool"}


def _plain(column):
    values = column.values
    tag = _TAGS[type(values)]
    value = values.value
    return Plain(tag, (value.offsets, value.bytes) if tag == "text" else value, column.validity)


def _column(plain):
    values = plain.values
    match plain.tag:
        case "text":
            values = wit.Values_Text(wit.Text(*values))
        case "int64":
            values = wit.Values_Int64(values)
        case "float64":
            values = wit.Values_Float64(values)
        case _:
            values = wit.Values_Bool(values)
    return wit.Column(values, plain.validity)


class _AuthorsLines(io.TextIOBase):
    """Where `print` writes to: whole lines for the plugin's author."""

    def __init__(self):
        self._rest = ""

    def writable(self):
        return True

    def write(self, text):
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            host.log(line)
        return len(text)


class _HostTables:
    def columns(self, name):
        columns = host_tables.columns(name)
        return None if columns is None else [(column.name, _NAMES[column.ty]) for column in columns]

    def lookup(self, name, keys, wanted):
        try:
            found = host_tables.lookup(name, _column(keys), list(wanted))
        except Err as error:
            raise LookupError(error.value) from None
        return [_plain(column) for column in found]


def world_of(plugin: Plugin) -> type:
    """The class that componentize-py looks for. The host makes a new instance of the component for every call of
    `transform`, and configures it first; componentize-py makes a new object for every call of a function."""
    lines.send_to(host.log)
    sys.stdout = sys.stderr = _AuthorsLines()
    tables.take_from(_HostTables())

    class WitWorld(World):
        def describe(self, config):
            try:
                manifest = plugin.describe(config)
                adds = [wit.AddedColumn(name, _TYPES[type]) for name, type in manifest.adds]
                return wit.Manifest(
                    manifest.name,
                    manifest.version,
                    manifest.reads,
                    manifest.writes,
                    adds,
                    manifest.tables,
                    manifest.codes,
                )
            except BaseException as error:
                raise Err(message_of(error)) from None

        def transform(self, batch):
            try:
                output = plugin.transform(batch.rows, [_plain(column) for column in batch.columns])
                columns = [
                    wit.Returned_Unchanged() if column is None else wit.Returned_Column(_column(column))
                    for column in output.columns
                ]
                dropped = [wit.Outcome(row, code) for row, code in output.dropped]
                failed = [wit.Outcome(row, code) for row, code in output.failed]
                return wit.Output(columns, output.sources, dropped, failed)
            except BaseException as error:
                raise Err(message_of(error)) from None

    return WitWorld
