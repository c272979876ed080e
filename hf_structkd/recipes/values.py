"""Values of a recipe: read from YAML or from an option, and converted to the type of a field without loss."""

import dataclasses
import difflib
import json
import math
import re
import types
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

_UNIONS = (Union, types.UnionType)
MAX_VALUES = 100_000  # in one recipe
_YES_NO = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


class MismatchError(Exception):
    """A value that the type of its field does not allow.

    Args:
        where: The position inside the field, for instance `[1]` or `.key`; empty for the field itself.
        value: The value.
        problem: What is wrong with the value, if it is more than its type.
    """

    def __init__(self, where: str, value: Any, problem: str = ""):
        super().__init__(where, value, problem)
        self.where, self.value, self.problem = where, value, problem


class _RecipeLoader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2 scalars (5e-5 is a number; no, 1:30 and 012 are strings), without duplicate keys."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (PyYAML's own protocol)

    def construct_document(self, node: Any) -> Any:
        _refuse_explosions(node)
        return super().construct_document(node)

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (yaml.YAMLError, RecursionError):
            raise
        except Exception as error:  # PyYAML raises many kinds of errors, for instance on `!!bool maybe`
            problem = f"{type(error).__name__} reading it as {node.tag.removeprefix('tag:yaml.org,2002:')}: {error}"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from None

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        pairs = node.value if isinstance(node, yaml.MappingNode) else []  # PyYAML refuses `!!map [a]` below
        for key, _ in pairs:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    problem = f"{key.value!r} is given twice"
                    raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _refuse_explosions(root: Any) -> None:
    """Raise ConstructorError if aliases make a document endless, or a few lines stand for millions of values."""
    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()

    def size(node: Any) -> int:
        if id(node) in open_nodes:
            raise yaml.constructor.ConstructorError(None, None, "an alias inside what it names", node.start_mark)
        if id(node) not in sizes:
            open_nodes.add(id(node))
            members = [] if isinstance(node, yaml.ScalarNode) else node.value
            flat = [child for member in members for child in (member if isinstance(member, tuple) else (member,))]
            sizes[id(node)] = 1 + sum(map(size, flat))
            open_nodes.discard(id(node))
            if sizes[id(node)] > MAX_VALUES:
                problem = f"more than {MAX_VALUES:,} values, aliases counted as often as they stand"
                raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return sizes[id(node)]

    size(root)


def read_yaml(text: str) -> Any:
    """Read numbers, strings, lists and mappings from YAML with the rules of `parse_recipe`; never other objects.

    Raises:
        yaml.YAMLError: If the text is no such YAML, is nested too deep, or stands for too many values by its aliases.
    """
    try:
        return yaml.load(text, Loader=_RecipeLoader)
    except RecursionError:
        raise yaml.YAMLError("brackets or blocks are nested too deep") from None


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", [*"tTfF"]),
    ("null", r"~|null|Null|NULL|", [*"~nN", ""]),
    ("int", r"[-+]?(0|[1-9][0-9]*)|0x[0-9a-fA-F]+", [*"-+0123456789"]),
    ("float", r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?([eE][-+]?[0-9]+)?|\.(inf|Inf|INF))", [*"-+.0123456789"]),
    ("merge", r"<<", ["<"]),
):
    _RecipeLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _first)


def coerce(value: Any, hint: Any, where: str) -> Any:
    """Convert a value to the type of a field without loss.

    Args:
        value: The value from YAML or from [`from_text`].
        hint: The type of the field, resolved (no string annotations).
        where: The position inside the field, for the message; empty for the field itself.

    Returns:
        The value in the type of `hint`: a whole `1e3` as an int, a quoted number as a number, a name as the Enum.

    Raises:
        MismatchError: If the type does not allow the value, or a number is infinite or NaN.
    """
    origin = get_origin(hint) or hint
    _refuse_infinite(value, where)
    if hint is Any:
        return value
    if origin in _UNIONS:
        return _coerce_union(value, get_args(hint), where)
    if origin is Literal:
        for choice in get_args(hint):
            if value == choice and isinstance(value, bool) == isinstance(choice, bool):
                return choice
    elif dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return _coerce_dataclass(value, origin, where)
    elif is_kind(origin, Enum):
        for choice in hint:
            if value == choice.value or value is choice:
                return choice
    elif origin is bool:
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in _YES_NO:
            return _YES_NO[value.lower()]
    elif origin in (int, float):
        number = _number(value)
        if number is not None and (origin is float or number == number // 1):
            _refuse_infinite(number, where)  # quoted
            try:
                return origin(number)
            except OverflowError:
                raise MismatchError(where, value, "a number too large") from None
    elif is_kind(origin, Path) and isinstance(value, str):
        return origin(value)
    elif is_kind(origin, list) or is_kind(origin, tuple) or origin is Sequence:
        if isinstance(value, list):
            kinds = [kind for kind in get_args(hint) if kind is not ...] or [Any]
            kinds = kinds if len(kinds) == len(value) and is_kind(origin, tuple) else kinds[:1] * len(value)
            members = [coerce(member, kind, f"{where}[{i}]") for i, (member, kind) in enumerate(zip(value, kinds))]
            return tuple(members) if is_kind(origin, tuple) else members
    elif is_kind(origin, dict) or origin is Mapping:
        if isinstance(value, dict):
            key_hint, value_hint = get_args(hint) or (str, Any)
            return {
                coerce(key, key_hint, f"{where} key"): coerce(member, value_hint, f"{where}.{key}")
                for key, member in value.items()
            }
    elif isinstance(hint, type) and isinstance(value, hint):
        return value
    raise MismatchError(where, value)


def _refuse_infinite(value: Any, where: str) -> None:
    """Raise MismatchError for infinity and NaN, which no field allows."""
    if isinstance(value, float) and not math.isfinite(value):
        raise MismatchError(where, value, f"{value} is not a finite number")
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, member in members:
        _refuse_infinite(member, f"{where}.{key}" if isinstance(value, dict) else f"{where}[{key}]")


def _coerce_dataclass(value: dict[Any, Any], kind: Any, where: str) -> Any:
    hints = get_type_hints(kind)
    names = [f.name for f in dataclasses.fields(kind) if f.init]
    if unknown := [key for key in value if key not in names]:
        near = difflib.get_close_matches(str(unknown[0]), names, n=1)
        advice = f" (did you mean {near[0]!r}?)" if near else ""
        raise MismatchError(where, value, f"unknown {unknown[0]!r}{advice}; there are {', '.join(names)}")
    members = {key: coerce(member, hints[key], f"{where}.{key}") for key, member in value.items()}
    try:
        return kind(**members)
    except (TypeError, ValueError) as error:  # a missing required member, or a value that the class refuses
        missing = [f.name for f in dataclasses.fields(kind) if is_required(f) and f.name not in members]
        raise MismatchError(where, value, f"{missing[0]!r} is missing" if missing else str(error)) from None


def is_required(field: Any) -> bool:
    """Whether a dataclass's field has no default."""
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _coerce_union(value: Any, members: tuple[Any, ...], where: str) -> Any:
    if any(is_kind(member, Enum) for member in members):
        members = tuple(member for member in members if member is not str)  # the names are the choices
    # The member of the value's own type is first: 1 stays a whole number in float | int, "1" stays text in str | int.
    exact = [member for member in members if (get_origin(member) or member) is type(value)]
    deepest = MismatchError(where, value)
    for member in (*exact, *(m for m in members if m not in exact)):
        try:
            return coerce(value, member, where)
        except MismatchError as mismatch:
            if (len(mismatch.where), bool(mismatch.problem)) > (len(deepest.where), bool(deepest.problem)):
                deepest = mismatch
    raise deepest


def _number(value: Any) -> int | float | None:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    if not isinstance(value, str):
        return None
    for kind in (int, float):
        try:
            number = kind(value)
        except ValueError:
            continue
        return None if number != number else number  # no field allows NaN
    return None


_TEMPLATE = re.compile(r"\{\w+\}")  # {language}/train.conll: no JSON begins so


def from_text(text: str | list[str], hint: Any) -> Any:
    """A value of the command line as YAML would give it; the type of the field decides what ambiguous text means.

    Args:
        text: The value or values of an option.
        hint: The type of the field, resolved.

    Returns:
        Text, or the value of JSON or `null`, for [`coerce`] to convert.

    Raises:
        ValueError: If a mapping or list is not JSON, or a key of it is given twice.
    """
    members = members_of(hint)
    lists = [member for member in members if is_kind(member, list)]
    if isinstance(text, list):
        mapping = any(is_kind(member, dict) for member in members)
        if len(text) == 1 and (text[0].startswith("[") or (mapping and text[0].startswith("{"))):
            return _json(text[0])
        if text == ["null"] and type(None) in members:
            return None
        if len(text) == 1 and str in members:
            return text[0]  # str | list[str]: one value is the string, as in the recipe
        if len(text) == 1 and (numbers := [member for member in members if member in (int, float)]):
            return from_text(text[0], numbers[0])  # int | list[int]: keep_layers 2 is two layers, not layer 2
        kind = (*get_args(lists[0]), str)[0]
        return [from_text(member, kind) for member in text]
    if text == "null" and (type(None) in members or Any in members):
        return None
    if (
        text.startswith("{")
        and not (str in members and _TEMPLATE.match(text))
        and (Any in members or any(is_kind(m, dict) or dataclasses.is_dataclass(m) for m in members))
    ):
        return _json(text)
    if text.startswith("[") and Any in members:
        return _json(text)
    if Any in members or (str in members and {int, float, bool} & set(members)):
        try:
            value = read_yaml(text)
        except yaml.YAMLError:
            return text  # for instance a title with two colons
        return text if isinstance(value, (dict, list)) else value
    return text


def _json(text: str) -> Any:
    def refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        if duplicates := sorted({key for key in keys if keys.count(key) > 1}):
            raise ValueError(f"{duplicates} given twice")
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=refuse_duplicates)
    except RecursionError:
        raise ValueError("brackets nested too deep") from None


def members_of(hint: Any) -> tuple[Any, ...]:
    """The types that a union allows, of nested unions too; for any other type the type itself."""
    if get_origin(hint) in _UNIONS:
        return tuple(member for argument in get_args(hint) for member in members_of(argument))
    return (hint,)


def is_kind(hint: Any, kind: type) -> bool:
    """Whether a type without its parameters is `kind` or derived from it."""
    origin = get_origin(hint) or hint
    return isinstance(origin, type) and issubclass(origin, kind)


def describe_type(hint: Any) -> str:
    """A type in the words of an error message: `float or null`, `list of str`, `one of linear, cosine`."""
    if get_origin(hint) in _UNIONS:
        members = get_args(hint)
        if any(is_kind(member, Enum) for member in members):
            members = tuple(member for member in members if member is not str)
        return " or ".join(dict.fromkeys(describe_type(member) for member in members))
    if get_origin(hint) is Literal:
        return " or ".join(map(repr, get_args(hint)))
    if is_kind(hint, Enum):
        return "one of " + ", ".join(str(choice.value) for choice in hint)
    if is_kind(hint, list) or is_kind(hint, tuple):
        return f"list of {describe_type((*get_args(hint), Any)[0])}"
    if is_kind(hint, dict) or dataclasses.is_dataclass(hint):
        return "mapping"
    if hint is bool:
        return "true or false"
    if hint is type(None):
        return "null"
    return "anything" if hint is Any else getattr(hint, "__name__", str(hint))


def describe_value(value: Any) -> str:
    """A value and its type in the words of an error message."""
    return f"{value!r} ({type(value).__name__})" if value is not None else "nothing"
