"""Reads recipes: YAML files and command-line options into typed dataclasses.

The parser extends `transformers.HfArgumentParser`, which resolves the dataclasses and groups the help. It checks the
values of YAML files against the types of the fields, answers a typing error in a name with the nearest name, and never
ignores or overwrites a value silently.
"""

import argparse
import dataclasses
import difflib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, NoReturn, get_type_hints

import yaml
from transformers import HfArgumentParser

from ..processes import wait_for_main_process
from ..settings import without_tokens
from .fields import DistillationData, ModelArguments, TeacherArguments
from .shipped import recipe_names, shipped_recipe
from .values import (
    MismatchError,
    coerce,
    describe_type,
    describe_value,
    from_text,
    is_kind,
    is_required,
    members_of,
    read_yaml,
)

# Called with the fields that were given (name -> value) and the instances; raises RecipeError.
Check = Callable[[Mapping[str, Any], tuple[Any, ...]], None]


class RecipeError(ValueError):
    """A recipe or an option that cannot be used; the message names the field, the value and what was expected.

    A value in the message that looks like an access token is blanked.
    """

    def __init__(self, message: str) -> None:
        super().__init__(without_tokens(message))


def parse_recipe(
    dataclass_types: Sequence[Any],
    argv: Sequence[str] | None = None,
    *,
    description: str | None = None,
    exit_on_error: bool = False,
    check: Check | None = None,
    program: str | None = None,
    fields: Mapping[str, Any] | None = None,
) -> tuple[Any, ...]:
    """Read `[RECIPE.yaml ...] [--field value ...]` into one instance of each dataclass.

    The keys of a recipe are the names of the dataclasses' fields. Options win over recipes, recipes over the defaults,
    and of several recipes (the corpora in one, the student in another) the later one; a list or mapping is replaced as
    a whole. YAML is read by the rules of YAML 1.2's core schema: `5e-5` is a number and `no` (Norwegian) a string. On
    the command line a list is several values or one JSON list, a mapping is JSON, `null` is no value (for a field that
    must have one: its default, whatever the recipe says), and a boolean field takes `--flag`, `--no_flag` or
    `--flag false`. For fields of type `Any`, or of a union of text and numbers, options are read as YAML.

    Args:
        dataclass_types: Dataclasses without common field names; one may derive from `TrainingArguments`.
        argv: The arguments; by default `sys.argv[1:]`. Recipes, if any, come first.
        description: The description of the program in `--help`.
        check: Called with the fields that were given (name -> value) and the instances; raises RecipeError, for
            instance for fields that have no effect together.
        exit_on_error: Whether to print an error without a traceback and exit with status 2, as commands should.
        program: The name of the program in usage and errors; by default that of the script.
        fields: Field name -> value. These win over the recipes, and options win over them.

    Returns:
        The instances, in the order of `dataclass_types`.

    Raises:
        RecipeError: If a recipe cannot be read, a field is unknown, given twice, missing or of a wrong type, or a
            dataclass refuses its values.
        SystemExit: After `--help` (status 0); instead of RecipeError with `exit_on_error` (status 2).
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = _RecipeParser(
        list(dataclass_types),
        prog=program,
        description=description,
        usage="%(prog)s [RECIPE.yaml ...] [--field value ...]",
        allow_abbrev=False,  # else --learn is taken for --learning_rate, and a typing error for a prefix
    )
    try:
        given, instances = _parse(parser, list(dataclass_types), argv, fields or {})
        if check is not None:
            check(given, instances)
        return instances
    except RecipeError as error:
        if not exit_on_error:
            raise
        wait_for_main_process()
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def read_mapping(
    dataclass_types: Sequence[Any], fields: Mapping[str, Any], *, check: Check | None = None
) -> tuple[Any, ...]:
    """Read the fields of a recipe from a mapping, with the rules and messages of [`parse_recipe`].

    Args:
        dataclass_types, check: As for [`parse_recipe`].
        fields: Field name -> value: numbers, strings, lists and mappings, as YAML has them.

    Returns:
        The instances, in the order of `dataclass_types`.

    Raises:
        RecipeError: As [`parse_recipe`].
    """
    if not isinstance(fields, Mapping):
        raise RecipeError(f"a recipe must be a mapping of fields to values, not {describe_value(fields)}")
    known = _known_fields(dataclass_types)
    values = _checked_fields(fields, known)
    instances = _instances(dataclass_types, values, known, lambda names: "The fields")
    if check is not None:
        check(values, instances)
    return instances


class _RecipeParser(HfArgumentParser):
    """A parser with an option for every field. Values stay text here and are converted later, as those of recipes."""

    def _add_dataclass_arguments(self, dtype: Any) -> None:
        group = self.add_argument_group(getattr(dtype, "_argument_group_name", dtype.__name__))
        hints = get_type_hints(dtype)
        for field in dataclasses.fields(dtype):
            if field.init:
                self._add_field(group, field, hints[field.name])

    @staticmethod
    def _add_field(group: Any, field: Any, hint: Any) -> None:
        spellings = dict.fromkeys([field.name, field.name.replace("_", "-")])
        aliases = field.metadata.get("aliases", [])
        names = [f"--{name}" for name in spellings] + ([aliases] if isinstance(aliases, str) else list(aliases))
        choices = field.metadata.get("choices")
        text = field.metadata.get("help") or ""
        if field.default_factory is not dataclasses.MISSING:
            text += f" (default: {field.default_factory()})"
        else:
            text += " (required)" if field.default is dataclasses.MISSING else f" (default: {field.default})"
        nargs: str | None = "+" if any(is_kind(member, list) for member in members_of(hint)) else None
        if bool in members_of(hint):
            nargs = "?"
            names += [f"--no_{field.name}", f"--no-{field.name.replace('_', '-')}"]
        group.add_argument(
            *names,
            dest=field.name,
            action=_Once,
            nargs=nargs,
            metavar="{" + ",".join(map(str, choices)) + "}" if choices else describe_type(hint),
            # argparse formats help texts with %: a single one ("10 % of the words") would break --help
            help=re.sub(r"%%|%", "%%", text),
            default=argparse.SUPPRESS,  # a default must not hide the value of a recipe
        )

    def error(self, message: str) -> NoReturn:
        raise RecipeError(f"On the command line: {message}.")


class _Once(argparse.Action):
    """Stores the text of an option, and refuses a second value for a field, which would replace the first silently."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        if hasattr(namespace, self.dest):
            parser.error(f"field {self.dest!r} is given twice")
        if self.nargs == "?":
            negated = (option_string or "")[2:].replace("-", "_") == f"no_{self.dest}"
            if negated and values is not None:
                parser.error(f"{option_string} takes no value, got {values!r}")
            values = ("false" if negated else "true") if values is None else values
        setattr(namespace, self.dest, values)


def _known_fields(dtypes: Sequence[Any]) -> dict[str, tuple[Any, Any]]:
    """Field name -> the field and its type."""
    hints = {dtype: get_type_hints(dtype) for dtype in dtypes}
    return {f.name: (f, hints[dtype][f.name]) for dtype in dtypes for f in dataclasses.fields(dtype) if f.init}


def _parse(
    parser: _RecipeParser, dtypes: list[Any], argv: list[str], fields: Mapping[str, Any]
) -> tuple[dict[str, Any], tuple[Any, ...]]:
    recipes = list(takewhile(lambda argument: not argument.startswith("-"), argv))
    known = _known_fields(dtypes)
    options, unknown = parser.parse_known_args(argv[len(recipes) :])
    for argument in unknown:
        if not argument.startswith("-"):
            raise RecipeError(f"Unexpected argument {argument!r}: recipes come first, then --field value.")
        name = argument.lstrip("-").partition("=")[0].replace("-", "_")
        raise RecipeError(f"Unknown option {argument!r}{_suggest(name, known, '--')}")

    values: dict[str, Any] = {}
    for recipe in recipes:
        for name, value in _read_recipe(recipe).items():
            if name not in known:
                raise RecipeError(f"Unknown field {name!r} in recipe {recipe}{_suggest(str(name), known)}")
            values[name] = _checked(value, *known[name], f"Field {name!r} in recipe {recipe}")
    values |= _checked_fields(fields, known)
    for name, text in vars(options).items():
        field, hint = known[name]
        if isinstance(text, list) and text[-1].endswith((".yaml", ".yml")):
            raise RecipeError(f"--{name} would take {text[-1]!r} as a value: put recipes first.")
        if name in values and text in ("null", ["null"]) and type(None) not in members_of(hint):
            del values[name]  # what the recipe says is taken back
            continue
        try:
            value = from_text(text, hint)
        except ValueError as error:
            raise RecipeError(f"Option --{name}: not JSON ({error}): {text}") from None
        values[name] = _checked(value, field, hint, f"Option --{name}")

    def origin(names: set[str]) -> str:
        given = [f"--{name}" for name in vars(options) if name in names]
        sources = [*([", ".join(recipes)] if recipes else []), *([", ".join(given)] if given else [])]
        return " with ".join(sources) or "The command line"

    return values, _instances(dtypes, values, known, origin)


def _instances(
    dtypes: Sequence[Any], values: Mapping[str, Any], known: Mapping[str, Any], origin: Callable[[set[str]], str]
) -> tuple[Any, ...]:
    """An instance of each dataclass; `origin` names, for errors, the source of the values of some fields."""
    instances = []
    for dtype in dtypes:
        names = {f.name for f in dataclasses.fields(dtype) if f.init}
        required = [name for name in names if is_required(known[name][0]) and name not in values]
        if required:
            help_text = known[min(required)][0].metadata.get("help", "")
            advice = f"set it in the recipe, or with --{min(required)}. {help_text}".rstrip()
            raise RecipeError(f"No value for {sorted(required)}: {advice}")
        try:
            instances.append(dtype(**{name: value for name, value in values.items() if name in names}))
        except (ValueError, TypeError, ImportError, OSError) as error:
            raise RecipeError(f"{origin(names)}: {error}") from error
    return tuple(instances)


def _checked_fields(fields: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    values = {}
    for name, value in fields.items():
        if name not in known:
            raise RecipeError(f"Unknown field {name!r}{_suggest(str(name), known)}")
        field, hint = known[name]
        values[name] = _checked(value, field, hint, f"Field {name!r}")
    return values


def _suggest(name: str, known: Mapping[str, Any], prefix: str = "") -> str:
    if name in {
        f.name for kind in (DistillationData, ModelArguments, TeacherArguments) for f in dataclasses.fields(kind)
    }:
        return "; it is a field of `structkd distill`, and this command has none of that name."
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {prefix + near[0]!r}?" if near else f"; --help lists all {len(known)} fields."


def _read_recipe(path: str) -> dict[Any, Any]:
    """The fields of a recipe: of a file, or of a recipe that comes with the package."""
    file = shipped_recipe(path) or Path(path)
    try:
        content = read_yaml(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        beside = [str(other) for other in Path(path).parent.glob("*.y*ml")]
        near = difflib.get_close_matches(path, [*recipe_names(), *beside], n=1)
        advice = f"did you mean {near[0]!r}?" if near else "--list-recipes shows those that come with the package."
        raise RecipeError(f"Recipe {path}: there is no such file, and no recipe of this name; {advice}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"Recipe {path} cannot be read: {error}.") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"Recipe {path} is not valid YAML: {error}") from None
    if not isinstance(content, dict):
        raise RecipeError(f"Recipe {path} must be a mapping of fields to values, not {describe_value(content)}.")
    return content


def _checked(value: Any, field: Any, hint: Any, source: str) -> Any:
    """A value converted to the type of its field. Raises RecipeError, naming the source, if that cannot be done."""
    expected = describe_type(hint)
    try:
        value = coerce(value, hint, "")
        choices = field.metadata.get("choices")
        if choices and value is not None and value not in choices:
            expected = "one of " + ", ".join(map(str, choices))
            raise MismatchError("", value)
    except MismatchError as mismatch:
        where, member = mismatch.where, mismatch.value
        if mismatch.problem:
            raise RecipeError(f"{source}{', ' if where else ''}{where.lstrip('.')}: {mismatch.problem}.") from None
        advice = ""
        if str in members_of(hint) or where:
            advice = " (text that looks like something else needs quotes)" if not isinstance(member, str) else ""
        got = f"{where} is {describe_value(member)}" if where else f"got {describe_value(member)}"
        raise RecipeError(f"{source}: expected {expected}, {got}{advice}.") from None
    return value
