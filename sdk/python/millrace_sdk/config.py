"""The configuration of a plugin: a JSON document as a dataclass."""

from __future__ import annotations

import json
import types
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints

_NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a string",
    list: "an array",
    dict: "an object",
    type(None): "null",
}


class Options:
    """The options of a plugin: the fields of a dataclass, looked at once."""

    def __init__(self, config: type[Any] | None) -> None:
        if config is not None and not (isinstance(config, type) and is_dataclass(config)):
            raise TypeError("config must be a dataclass: its fields are the options")
        self._config = config
        self._hints: dict[str, Any] = {}
        self._needed: list[str] = []
        if config is not None:
            hints = get_type_hints(config)
            options = [field for field in fields(config) if field.init]
            self._hints = {option.name: hints[option.name] for option in options}
            self._needed = [
                option.name for option in options if option.default is MISSING and option.default_factory is MISSING
            ]

    def read(self, text: str) -> Any:
        """The configuration as an instance of the dataclass; None for a plugin without options. Unknown options and
        options of another type are refused; what the dataclass's `__post_init__` raises refuses it too."""
        try:
            given = json.loads(text) if text.strip() else {}
        except ValueError as error:
            raise ValueError(f"the configuration is no JSON: {error}") from None
        if type(given) is not dict:
            raise ValueError(f"the configuration must be an object, not {_kind(given)}")
        for name, value in given.items():
            if name not in self._hints:
                known = f"there are {', '.join(self._hints)}" if self._hints else "there are none"
                raise ValueError(f"the configuration has an unknown option {name!r}: {known}")
            hint = self._hints[name]
            if not _fits(hint, value):
                raise ValueError(f"option {name!r} must be {_wanted(hint)}, not {_kind(value)}")
        for name in self._needed:
            if name not in given:
                raise ValueError(f"the configuration lacks the option {name!r}")
        return None if self._config is None else self._config(**given)


def _fits(hint: Any, value: Any) -> bool:
    """Whether a value of JSON is what an annotation says, as far as JSON's types go."""
    origin = get_origin(hint)
    if hint is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(_fits(part, value) for part in get_args(hint))
    if origin is list:
        (item,) = get_args(hint) or (Any,)
        return type(value) is list and all(_fits(item, part) for part in value)
    if origin is dict:
        _, item = get_args(hint) or (str, Any)
        return type(value) is dict and all(_fits(item, part) for part in value.values())
    if hint is float:
        return type(value) in (int, float)
    return type(value) is hint


def _wanted(hint: Any) -> str:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_wanted(part) for part in get_args(hint))
    if origin is list:
        return "an array" + "".join(f" whose values are each {_wanted(part)}" for part in get_args(hint))
    if origin is dict:
        return "an object" + "".join(f" whose values are each {_wanted(part)}" for part in get_args(hint)[1:])
    return _NAMES.get(hint, str(hint))


def _kind(value: Any) -> str:
    return _NAMES.get(type(value), type(value).__name__)
