"""Settings by dotted name: ``optimizer.weight_decay=0.1`` into a tree of frozen dataclasses, strictly."""

import contextlib
import dataclasses
import difflib
import importlib
import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from kdcache.errors import UsageError

Config = TypeVar("Config")


def apply_settings(config: Config, settings: Iterable[str]) -> Config:
    """A copy of a configuration with some fields changed.

    Args:
        config: A frozen dataclass, possibly holding others.
        settings: ``name.name=value``; the value is read as the field's type, ``none`` as None where that is allowed.

    Raises: UsageError for a name that does not exist (with the nearest ones) or a value of the wrong kind.
    """
    seen: dict[str, str] = {}
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals:
            raise UsageError(f"{setting}: wanted NAME=VALUE, for example optimizer.weight_decay=0.1")
        if seen.setdefault(path, text) != text:
            raise UsageError(f"{path} is given twice, {seen[path]} and {text}; give it once")
        config = _replace(config, path.split("."), text, setting)
    return config


def parse_pairs(pairs: Iterable[str], where: str) -> dict[str, Any]:
    """``name=value`` pairs with values read as JSON where they are JSON, else as text.

    Raises: UsageError.
    """
    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise UsageError(f"{where} {pair}: wanted NAME=VALUE, for example img_size=224")
        if name in values:
            raise UsageError(f"{where} {pair}: {name} is given twice; give it once")
        try:
            values[name] = json.loads(text)
        except ValueError:
            values[name] = text
    return values


def parse_call(text: str, where: str) -> tuple[str, dict[str, str]]:
    """Split ``NAME:key=value,key=value`` (or ``NAME``) into the name and the values as they were written.

    Raises: UsageError.
    """
    name, _, rest = text.partition(":")
    values: dict[str, str] = {}
    for pair in rest.split(",") if rest else ():
        key, equals, value = pair.partition("=")
        if not equals or not key or key in values:
            raise UsageError(f"{where} {text}: {pair!r} is not one key=value; wanted NAME:key=value,key=value")
        values[key] = value
    return name, values


def keywords(target: Callable[..., Any], values: dict[str, str], where: str) -> dict[str, Any]:
    """Read the values of `parse_call` as the types that a function or dataclass declares for these arguments.

    Args:
        target: What they are arguments of. A field ``name`` is its own and cannot be given.
        values: Values as text; those of a tuple are separated by ``+``, none at all is an empty one.
        where: What the user wrote, for messages.

    Raises: UsageError for a key the target does not take (with the nearest ones) or a value of the wrong kind.
    """
    known = [name for name in inspect.signature(target).parameters if name != "name"]
    hints = get_type_hints(target)
    found: dict[str, Any] = {}
    for key, text in values.items():
        if key not in known:
            close = difflib.get_close_matches(key, known, n=2)
            hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(known)}"
            raise UsageError(f"{where}: no key {key!r}; {hint}")
        kind = hints[key]
        if get_origin(kind) is tuple:
            parts = text.split("+") if text else []
            if not all(parts):
                raise UsageError(f"{where}: {key}={text} has an empty part; separate values by one +")
            found[key] = tuple(_convert(each, get_args(kind)[0], f"{where}: {key}") for each in parts)
        else:
            found[key] = _convert(text, kind, f"{where}: {key}")
    return found


def load_named(table: Mapping[str, str], name: str, what: str) -> Any:
    """The object behind a name; its module is imported only now, so that the table itself loads nothing.

    Args:
        table: ``module:attribute`` by name.
        name: Which.
        what: What the names are of, for the message.

    Raises: UsageError naming all of them, the nearest first where there is one.
    """
    if name not in table:
        close = difflib.get_close_matches(name, table, n=1)
        hint = f"did you mean {close[0]}? There are" if close else "there are"
        raise UsageError(f"unknown {what} {name!r}; {hint} {', '.join(table)}")
    module, _, attribute = table[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def as_plain(config: Any) -> Any:
    """A configuration as the values that reading its JSON would give."""
    return msgspec.json.decode(msgspec.json.encode(config, enc_hook=str))


def _replace(config: Config, names: list[str], text: str, setting: str) -> Config:
    name, *rest = names
    known = [field.name for field in dataclasses.fields(config)]  # pyright: ignore[reportArgumentType]
    if name not in known:
        close = difflib.get_close_matches(name, known, n=2)
        hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(known)}"
        raise UsageError(f"{setting}: {type(config).__name__} has no field {name!r}; {hint}")
    current = getattr(config, name)
    if rest:
        if not dataclasses.is_dataclass(current):
            raise UsageError(f"{setting}: {name} is a plain value and has no fields")
        value = _replace(current, rest, text, setting)
    elif dataclasses.is_dataclass(current):
        fields = ", ".join(f"{name}.{field.name}" for field in dataclasses.fields(current))
        raise UsageError(f"{setting}: {name} is a group; set one of {fields}")
    else:
        value = _convert(text, get_type_hints(type(config))[name], setting)
    try:
        return dataclasses.replace(config, **{name: value})  # pyright: ignore[reportArgumentType]
    except ValueError as error:
        raise UsageError(f"{setting}: {error}") from None


def _convert(text: str, kind: Any, setting: str) -> Any:
    if text.lower() in ("none", "null") and type(None) in getattr(kind, "__args__", ()):
        return None
    readings: list[Any] = [text]
    with contextlib.suppress(ValueError):
        readings.append(json.loads(text))
    problem = ""
    for reading in readings:
        try:
            return msgspec.convert(reading, kind, strict=False)
        except msgspec.ValidationError as error:
            problem = str(error)
    choices = [str(each) for each in get_args(kind) if isinstance(each, str)]
    raise UsageError(f"{setting}: {problem}" + (f"; choose from {', '.join(choices)}" if choices else ""))
