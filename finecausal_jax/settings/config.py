"""From a ConfigDict to checked settings and back, and what may differ between two of them."""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Collection, Mapping
from typing import Any

import ml_collections

from finecausal_jax.runtime import places
from finecausal_jax.runtime.errors import InputError
from finecausal_jax.settings import schema
from finecausal_jax.settings.schema import Affects, Settings


def default_config() -> ml_collections.ConfigDict:
    """The schema's defaults as a ConfigDict, which a config file changes and flags override."""
    config = ml_collections.ConfigDict()
    for name, field in schema.keys().items():
        section, _, key = name.rpartition(".")
        if section and section not in config:
            config[section] = ml_collections.ConfigDict()
        place = config[section] if section else config
        if field.default is None:
            (kind,) = _kinds(field)[:1]
            place[key] = ml_collections.config_dict.placeholder(kind)
        else:
            place[key] = field.default
    return config


def read(config: ml_collections.ConfigDict | Mapping[str, Any]) -> Settings:
    """Checks a config and freezes it.

    Args:
      config: nested, as a config file's `get_config` or a saved `config.json` gives it. A key that
        is left out has its default, so that configs of older versions can be read.

    Raises:
      InputError: a key is unknown, or its value is of another type or out of bounds; lists all.
    """
    tree = config.to_dict() if isinstance(config, ml_collections.ConfigDict) else config
    flat, known = _flat(tree), schema.keys()
    sections = {name.rpartition(".")[0] for name in known} - {""}
    problems = [
        f"config.{name} is {value!r}, expected the keys of a section"
        if name in sections
        else f"config.{name} is no key of a config"
        for name, value in flat.items()
        if name not in known
    ]
    values = {}
    for name, field in known.items():
        values[name], problem = _checked(name, field, flat.get(name, field.default))
        problems += problem
    if problems:
        raise InputError("; ".join(problems))
    sections = {
        section.__name__.lower(): section(
            **{
                field.name: values[f"{section.__name__.lower()}.{field.name}"]
                for field in dataclasses.fields(section)
            }
        )
        for section in schema.SECTIONS
    }
    return Settings(**sections, **{name: v for name, v in values.items() if "." not in name})


def flattened(settings: Settings) -> dict[str, Any]:
    """Every value by its dotted key; tuples as lists, as JSON keeps them."""
    flat = _flat(dataclasses.asdict(settings))
    return {name: list(v) if isinstance(v, tuple) else v for name, v in flat.items()}


def to_json(settings: Settings) -> str:
    """The settings as stable, readable JSON."""
    return json.dumps(dataclasses.asdict(settings), indent=2, sort_keys=True) + "\n"


def from_tree(tree: Any, where: str) -> Settings:
    """The settings that `to_json` wrote.

    Args:
      tree: what the JSON holds.
      where: the file, for the error.

    Raises:
      InputError: it is no config.
    """
    try:
        if not isinstance(tree, dict):
            raise InputError(f"expected an object, found {type(tree).__name__}")
        return read(_without_retired(tree))
    except InputError as error:
        raise InputError(f"{where} is no config of this version: {error}") from error


def _without_retired(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A saved config without the keys that there are no more."""
    kept = dict(tree)
    for name in schema.RETIRED:
        section, _, key = name.rpartition(".")
        if isinstance(kept.get(section), dict):
            kept[section] = {one: value for one, value in kept[section].items() if one != key}
    return kept


def differences(before: Settings, now: Settings, fixed: Collection[Affects]) -> list[str]:
    """What must not differ and does.

    Args:
      before: what a run or a bank was made with.
      now: what it is to be used with.
      fixed: one of the schema's `FIXED_...`.

    Returns:
      One line a key, "key: was X, is Y".
    """
    one, other = flattened(before), flattened(now)
    return [
        f"{name}: was {one[name]!r}, is {other[name]!r}"
        for name, field in schema.keys().items()
        if field.metadata["affects"] in fixed and one[name] != other[name]
    ]


def help_text(config: Mapping[str, Any] | None = None) -> str:
    """Every key with its value and its help, a line each, for `--help`.

    Args:
      config: the values shown; None shows the defaults.
    """
    flat = _flat(config or {})
    lines = []
    for name, field in schema.keys().items():
        value = flat.get(name, field.default)
        shown = "none" if value is None else repr(value) if isinstance(value, str) else value
        choices = field.metadata["choices"]
        known = f" One of {', '.join(choices)}." if choices else ""
        lines.append(f"  --config.{name}={shown}\n      {field.metadata['help']}{known}")
    return "\n".join(lines)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _kinds(field: dataclasses.Field) -> tuple[type, ...]:
    """The types that a field takes, the plain one first."""
    kind = typing.get_type_hints(_owner(field))[field.name]
    if isinstance(kind, types.UnionType):
        return typing.get_args(kind)
    return (typing.get_origin(kind) or kind,)


def _owner(field: dataclasses.Field) -> type:
    return next(
        owner
        for owner in (Settings, *schema.SECTIONS)
        if any(one is field for one in dataclasses.fields(owner))
    )


def _checked(name: str, field: dataclasses.Field, value: Any) -> tuple[Any, list[str]]:
    """A value in the type of its field, and what is wrong with it."""
    kinds, rules = _kinds(field), field.metadata
    if isinstance(value, str):
        try:
            value = places.local(value, f"config.{name}")
        except InputError as error:
            return value, [str(error)]
    if float in kinds and type(value) is int:
        value = float(value)
    if tuple in kinds and isinstance(value, (list, tuple)):
        value, count = tuple(value), len(field.default)
        if isinstance(field.default[0], float):
            value = tuple(float(one) if type(one) is int else one for one in value)
        kind = type(field.default[0])
        if len(value) != count or any(
            type(one) is not kind or not math.isfinite(one) for one in value
        ):
            wanted = "whole numbers" if kind is int else "finite numbers"
            return value, [f"config.{name} is {value}, expected {count} {wanted}"]
    if type(value) not in kinds:
        wanted = " or ".join(kind.__name__ for kind in kinds).replace("NoneType", "none")
        return value, [f"config.{name} is {value!r}, expected {wanted}"]
    if rules["choices"] and value not in rules["choices"]:
        return value, [f"config.{name} is {value!r}, expected {' or '.join(rules['choices'])}"]
    if isinstance(value, float) and not math.isfinite(value):
        return value, [f"config.{name} is {value}, expected a finite number"]
    if rules["least"] is not None and value < rules["least"]:
        return value, [f"config.{name} is {value}, expected at least {rules['least']}"]
    if rules["most"] is not None and value > rules["most"]:
        return value, [f"config.{name} is {value}, expected at most {rules['most']}"]
    return value, []
