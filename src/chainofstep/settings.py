"""Recipes as data: `--set dpo.beta=0.2` on nested frozen dataclasses, and the resolved recipe a run folder keeps.

The dataclass is the schema: a value is read by the type of its field, and there is no second list of options.
"""

import difflib
import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, fields, is_dataclass, replace
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from chainofstep.store import difference

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["apply_overrides", "difference", "resolved", "written"]

Recipe = TypeVar("Recipe", bound="DataclassInstance")


def apply_overrides(recipe: Recipe, overrides: Iterable[str]) -> Recipe:
    """The recipe with each `KEY=VALUE` put in, in order; KEY is a dotted field path such as `dpo.beta`.

    Written as: `12`, `0.5` or `1e-4`, `true` or `false`, a tuple as `1,2,4`, an optional field's None as `none`.
    `ValueError` for an unknown key (it names the nearest) and a value of another type (it names the type).
    """
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise ValueError(f"--set {override!r} has no '=': write KEY=VALUE, such as --set seed=1")
        recipe = _with_value(recipe, recipe, key.strip(), key.strip().split("."), value.strip())
    return recipe


def resolved(recipe: "DataclassInstance") -> dict[str, Any]:
    """The recipe as plain JSON values (tuples as lists), every default written out."""
    values: dict[str, Any] = json.loads(json.dumps(asdict(recipe), allow_nan=False))
    return values


def written(recipe: "DataclassInstance", prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every setting as `apply_overrides` reads it: its dotted key, and its value written out."""
    for field in fields(recipe):
        value = getattr(recipe, field.name)
        if is_dataclass(value) and not isinstance(value, type):
            yield from written(value, f"{prefix}{field.name}.")
        elif field.init:
            yield f"{prefix}{field.name}", _text(value)


def _text(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(_text, value)) if isinstance(value, tuple) else str(value)


def _with_value(group: Recipe, whole: Any, key: str, path: list[str], value: str) -> Recipe:
    """`group` with the field at `path` below it set; `whole` and `key` are for the error alone."""
    name, *below = path
    if name not in {field.name for field in fields(group) if field.init}:
        raise ValueError(f"--set {key}: no such field, the nearest is {_nearest(whole, key)}")
    current = getattr(group, name)
    if is_dataclass(current) and not isinstance(current, type):
        if not below:
            inside = ", ".join(f"{key}.{field.name}" for field in fields(current) if field.init)
            raise ValueError(f"--set {key}: it is a group, set one of its fields: {inside}")
        return replace(group, **{name: _with_value(current, whole, key, below, value)})
    if below:
        raise ValueError(f"--set {key}: no such field, the nearest is {_nearest(whole, key)}")
    try:
        read = _read(get_type_hints(type(group))[name], value)
    except ValueError as error:
        raise ValueError(f"--set {key}={value}: {value!r} is not {error}") from None
    return replace(group, **{name: read})


def _paths(group: Any, prefix: str = "") -> list[str]:
    """The dotted paths of all fields that can be set."""
    paths = []
    for field in fields(group):
        current = getattr(group, field.name)
        if is_dataclass(current):
            paths += _paths(current, f"{prefix}{field.name}.")
        elif field.init:
            paths.append(prefix + field.name)
    return paths


def _nearest(recipe: Any, key: str) -> str:
    """The settable path most like `key`, by the whole path or by its last name (`beta` for `dpo.beta`)."""
    last = key.rpartition(".")[2]

    def likeness(path: str) -> float:
        whole = difflib.SequenceMatcher(None, key, path).ratio()
        return max(whole, 0.9 * difflib.SequenceMatcher(None, last, path.rpartition(".")[2]).ratio())

    return max(_paths(recipe), key=likeness)


def _read(kind: Any, text: str) -> Any:
    """`text` as a value of the type `kind`; the `ValueError` holds what was wanted, such as "a whole number"."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType) and NoneType in arguments:
        return _read_optional(arguments, text)
    if origin is Literal:
        return _read_literal(arguments, text)
    if origin is tuple:
        return _read_tuple(arguments, text)
    if kind in _SCALARS:
        return _SCALARS[kind](text)
    raise ValueError(f"settable here: its type is {kind}, change it in the recipe")


def _read_optional(kinds: tuple[Any, ...], text: str) -> Any:
    if text.lower() == "none":
        return None
    inner, *others = (kind for kind in kinds if kind is not NoneType)
    if others:
        raise ValueError(f"settable here: its type is one of {kinds}, change it in the recipe")
    try:
        return _read(inner, text)
    except ValueError as error:
        raise ValueError(f"{error} or none") from None


def _read_literal(choices: tuple[Any, ...], text: str) -> Any:
    for choice in choices:
        if str(choice) == text:
            return choice
    raise ValueError(f"one of {', '.join(map(str, choices))}")


def _read_tuple(kinds: tuple[Any, ...], text: str) -> tuple[Any, ...]:
    """Comma-separated, brackets around it or not."""
    if (text[:1], text[-1:]) in (("(", ")"), ("[", "]")):
        text = text[1:-1]
    parts = [part.strip() for part in text.split(",")]
    if parts[-1] == "":  # nothing at all, or Python's comma after the last
        parts.pop()
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        kinds = (kinds[0],) * len(parts)
    elif len(parts) != len(kinds):
        raise ValueError(f"a list of {len(kinds)} values with commas between")
    try:
        return tuple(_read(kind, part) for kind, part in zip(kinds, parts, strict=True))
    except ValueError as error:
        raise ValueError(f"a list with commas between of which each is {error}") from None


def _read_bool(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError("true or false")
    return text.lower() == "true"


def _read_int(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError("a whole number") from None


def _read_float(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError("a number") from None
    if not math.isfinite(value):  # recipe.json could not hold it
        raise ValueError("a finite number")
    return value


_SCALARS: dict[Any, Callable[[str], Any]] = {bool: _read_bool, int: _read_int, float: _read_float, str: str}
