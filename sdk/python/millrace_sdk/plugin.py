"""A plugin: what the host calls, made of an author's function and what its event class declares."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from traceback import walk_tb
from typing import Any, get_type_hints

from .columns import Manifest, Output, Plain
from .config import Options
from .event import Column, Event, declared
from .layout import check_lookups, layout_of
from .lines import log
from .rows import Batch, Shape
from .tables import Lookup, Tables, tables

Columns = Mapping[str, Column | Lookup]


class Refused(Exception):
    """A configuration or a batch that the plugin refuses, with a message for whoever sent it."""


class Plugin:
    """What `plugin` makes of a function. `describe` and `transform` are what the host calls; tests may too."""

    def __init__(
        self,
        transform: Callable[..., Any],
        name: str,
        version: str,
        codes: Iterable[str],
        config: type[Any] | None,
        columns: Callable[[Any, Tables], Columns] | None,
    ) -> None:
        self.name = name
        self.version = version
        self._transform = transform
        self._codes = list(codes)
        self._options = Options(config)
        self._columns = columns
        parameters = list(inspect.signature(transform).parameters)
        if len(parameters) not in (1, 2):
            raise TypeError(f"{transform.__name__} must take the event, or the event and the configuration")
        self._takes_config = len(parameters) == 2
        if self._takes_config and config is None:
            raise TypeError(f"{transform.__name__} takes a configuration: give its class, plugin(config=…)")
        self._event_type: type[Event] = get_type_hints(transform).get(parameters[0], Event)
        if not (isinstance(self._event_type, type) and issubclass(self._event_type, Event)):
            raise TypeError(f"the event of {transform.__name__} must be of a class derived from Event")
        # Mistakes of the class are told when the module is loaded: that is, when it is built.
        self._declared = declared(self._event_type)
        self._shape = Shape(self._event_type, layout_of(self._declared)) if columns is None else None
        self._configured: tuple[Any, Shape] | None = None

    def __call__(self, *arguments: Any) -> Any:
        """The author's function itself."""
        return self._transform(*arguments)

    def describe(self, config: str) -> Manifest:
        """Takes the configuration and tells what the plugin does with it."""
        try:
            options = self._options.read(config)
            shape = self._shape or self._shape_for(options)
            check_lookups(shape.layout, tables())
        except Exception as error:
            raise Refused(message_of(error)) from error
        self._configured = (options, shape)
        return shape.layout.manifest(self.name, self.version, self._codes)

    def type_of(self, column: str) -> str | None:
        """The type that a column is declared to have, once the plugin is described."""
        return None if self._configured is None else self._configured[1].layout.types.get(column)

    def _shape_for(self, options: Any) -> Shape:
        columns: dict[str, Column | Lookup] = dict(self._declared)
        more = self._columns(options, tables()) if self._columns is not None else {}
        for name, column in more.items():
            if name in columns:
                raise TypeError(f"column {name!r} is declared twice")
            columns[name] = column
        return Shape(self._event_type, layout_of(columns))

    def transform(self, rows: int, columns: list[Plain]) -> Output:
        """Transforms one batch, whose columns are those that the manifest reads."""
        if self._configured is None:
            raise Refused("describe must be called before transform")
        options, shape = self._configured
        try:
            batch = Batch(shape, self._codes, rows, columns)
            return batch.run(self._transform, *([options] if self._takes_config else []))
        except Exception as error:
            # The host splits a batch that failed until the events that did it are alone. Only then is it told where.
            if rows == 1:
                log(f"{message_of(error)}\n{place_of(error)}")
            raise Refused(message_of(error)) from error


def plugin(
    *,
    name: str,
    version: str,
    codes: Sequence[str] = (),
    config: type[Any] | None = None,
    columns: Callable[[Any, Tables], Columns] | None = None,
) -> Callable[[Callable[..., Any]], Plugin]:
    """Makes a plugin of a function over one event: `def transform(event: Visit) -> Result`, or, with options,
    `def transform(event: Visit, config: Config) -> Result`.

    `name` is 1 to 64 characters of `a-z 0-9 -`, starting with a letter; what the plugin does is fixed by name and
    `version`, a semantic version. `codes` are those of drops and failures: 1 to 64 characters of `a-z 0-9 _`, which must
    say nothing of the event. `config` is a dataclass. `columns` gives those that depend on the configuration, or follow
    those of a table."""

    def made(transform: Callable[..., Any]) -> Plugin:
        return Plugin(transform, name, version, codes, config, columns)

    return made


def message_of(error: BaseException) -> str:
    """An error in a line. One that was raised with a sentence for its reader needs no more."""
    return str(error) if type(error) in (Refused, ValueError) else f"{type(error).__name__}: {error}"


def place_of(error: BaseException) -> str:
    """Where it was raised. Source lines can't be shown: a component has no files."""
    frames = [frame.f_code.co_name + f" ({frame.f_code.co_filename}:{line})" for frame, line in walk_tb(error.__traceback__)]
    return "\n".join(f"    at {frame}" for frame in reversed(frames))
