"""Dataclasses of options: their help texts, and building them from YAML, the command line and plain values."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from lacos_st.errors import UserError


def option(default: Any, help: str) -> Any:
    """A dataclass field with a default and the help text that the command line shows."""
    return dataclasses.field(default=default, metadata={"help": help})


def required(help: str) -> Any:
    """A dataclass field without a default, with the help text that the command line shows."""
    return dataclasses.field(metadata={"help": help})


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        UserError: The file cannot be read, is not YAML, or holds no mapping.
    """
    import yaml

    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"config file {path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise UserError(f"config file {path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise UserError(f"config file {path} holds {type(values).__name__}: expected lines of the form `option: value`")
    return {str(key): value for key, value in values.items()}


def build_options(cls: type, values: Mapping[str, Any], *, source: str) -> Any:
    """A dataclass of options from plain values: names checked, text converted to the field's type.

    Raises:
        UserError: A key is unknown, a required one is missing, or a value does not fit its field.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    for key in values:
        if key not in fields:
            close = difflib.get_close_matches(key, fields, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(fields)}"
            raise UserError(f"{source}: unknown option {key!r}: {hint}")
    missing = [
        name
        for name, field in fields.items()
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING and name not in values
    ]
    if missing:
        raise UserError(f"{source}: missing {', '.join(missing)}: give it as an option or in a config file")
    return cls(**{key: _convert(f"{source}: {key}", value, hints[key]) for key, value in values.items()})


def _convert(name: str, value: Any, hint: Any) -> Any:
    """`value` as `hint` (str, int, float, bool, Literal, a tuple of one of them, each perhaps `| None`)."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        if value is None or value == "none":
            return None
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    if typing.get_origin(hint) is Literal:
        if value in (choices := typing.get_args(hint)):
            return value
        raise UserError(f"{name} is {value!r}: expected one of {', '.join(map(str, choices))}")
    if typing.get_origin(hint) is tuple:
        items = value if isinstance(value, list | tuple) else [value]
        return tuple(_convert(name, item, typing.get_args(hint)[0]) for item in items)
    if hint is bool or hint is str:
        if isinstance(value, hint):
            return value
        raise UserError(f"{name} is {value!r}: expected {'true or false' if hint is bool else 'text'}")
    try:
        if isinstance(value, bool) or (hint is int and isinstance(value, float)):
            raise ValueError
        return hint(value)
    except (TypeError, ValueError) as error:
        kind = "a whole number" if hint is int else "a number"
        raise UserError(f"{name} is {value!r}: expected {kind}") from error
