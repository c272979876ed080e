"""Danger: a recipe that hangs, eats the memory, runs code, or ends in a traceback that names no field."""

import dataclasses
import json
import os
from enum import Enum
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hf_structkd import StructKDTrainingArguments
from hf_structkd.recipes.parser import RecipeError, parse_recipe
from hf_structkd.recipes.values import read_yaml
from hf_structkd.settings import dump_settings
from tests.fuzz.fuzzing import TEXT, fuzz, only_our_errors

RECIPE = Path(mkdtemp()) / "recipe.yaml"


class Mode(Enum):
    LOCAL = "local"
    GLOBAL = "global"


@dataclasses.dataclass
class Source:
    checkpoint: str
    weight: float = 1.0


@dataclasses.dataclass
class Fields:
    """One field of every kind that recipes have."""

    number: int = 1
    rate: float = 0.5
    flag: bool = False
    name: str | None = None
    mode: Mode = Mode.LOCAL
    head: Literal["crf", "softmax"] = "crf"
    path: Path | None = None
    either: float | Literal["auto"] = 1.0
    anything: Any = None
    mapping: dict[str, Any] | None = None
    languages: list[str] | None = None
    layers: int | list[int] | None = None
    teachers: dict[str, str | Source | list[str | Source]] | list[str | Source] | str | None = None


NAMES = [field.name for field in dataclasses.fields(Fields)]
SCALARS = st.one_of(
    TEXT, st.none(), st.booleans(), st.integers(), st.floats(), st.integers(-(10**400), 10**400),
    st.sampled_from(["5e-5", "1e999", ".inf", "no", "012", "0x10", "1:30", "9" * 5000, "true", "auto", "null", "crf"]),
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXT, inner, max_size=4)),
    max_leaves=8,
)
TAGS = (
    *("!!bool maybe", "!!int x", "!!int ''", "!!float x", "!!timestamp x", "!!binary _", "!!set {a, b}", "!!omap [a]"),
    *("!!pairs [a]", "!!null x", "!!python/object/apply:os.getcwd []", "!!python/name:os.system", "!x y", "&a [*a]"),
    *("&a {b: *a}", "*a", "<<: 3", "? [a]\n: b", "{[a]: b}", "- a\n- b", '"\\ud800"', "'", "{a: 1, a: 2}", "%YAML 3"),
    *("--- a\n--- b", "\t", "|\n  x", "{? {a: b} : c}", "!!str [a]", "!!map [a]", "!!seq {a: b}"),
)


@st.composite
def recipes(draw) -> bytes:
    """Recipes: well formed ones with wild values, texts with YAML's odder corners, and bytes."""
    kind = draw(st.sampled_from(["dumped", "json", "text", "bytes"]))
    fields = st.dictionaries(st.one_of(st.sampled_from(NAMES), st.sampled_from(NAMES), TEXT), VALUES, max_size=4)
    if kind == "bytes":
        return draw(st.one_of(st.binary(max_size=60), TEXT.map(lambda text: text.encode("utf-16", "surrogatepass"))))
    if kind == "json":
        return json.dumps(draw(fields), ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")
    if kind == "dumped":
        return yaml.safe_dump(draw(fields), allow_unicode=True).encode("utf-8", "surrogatepass")
    lines = st.tuples(st.sampled_from(NAMES), st.one_of(st.sampled_from(TAGS), TEXT)).map(": ".join)
    return "\n".join(draw(st.lists(st.one_of(lines, st.sampled_from(TAGS), TEXT), max_size=5))).encode(
        "utf-8", "surrogatepass"
    )


@fuzz()
@given(recipes())
def test_recipes(content):
    RECIPE.write_bytes(content)
    with only_our_errors(RECIPE):
        (fields,) = parse_recipe([Fields], [str(RECIPE)])
        check(fields)


@fuzz()
@given(st.lists(st.tuples(st.sampled_from(NAMES), st.lists(st.one_of(TEXT, VALUES.map(json.dumps)), max_size=3))))
def test_options(options):
    argv = [text for name, values in options for text in (f"--{name}", *values)]
    with only_our_errors():
        (fields,) = parse_recipe([Fields], argv)
        check(fields)


def check(fields: Fields) -> None:
    """Everything has its type, and what is kept of it is JSON."""
    assert type(fields.number) is int
    assert type(fields.rate) is float
    assert type(fields.flag) is bool
    assert isinstance(fields.mode, Mode)
    assert fields.head in ("crf", "softmax")
    assert fields.either == "auto" or type(fields.either) is float
    assert fields.languages is None or all(isinstance(language, str) for language in fields.languages)
    json.dumps(dump_settings(fields))


@fuzz(0.05)  # each case builds all of transformers' arguments
@given(
    st.dictionaries(
        st.sampled_from([f.name for f in dataclasses.fields(StructKDTrainingArguments) if f.init]), VALUES, max_size=2
    )
)
def test_training_arguments(values):
    RECIPE.write_text(json.dumps({"output_dir": "x", "use_cpu": True, "report_to": "none", **values}), "utf-8")
    before = dict(os.environ)
    try:
        with only_our_errors():
            parse_recipe([StructKDTrainingArguments], [str(RECIPE)])
    finally:
        os.environ.clear()
        os.environ.update(before)


@fuzz()
@given(st.one_of(TEXT, st.text("[]{}&*!:-?|>'\"%@` \nab0.<", max_size=60)))
def test_yaml(text):
    """Whatever is read is plain data, and what is not is YAML's own error, which says where."""
    try:
        value = read_yaml(text)
    except yaml.YAMLError:
        return
    assert_plain(value)


def assert_plain(value: Any) -> None:
    assert isinstance(value, (str, int, float, bool, bytes, list, tuple, dict, set, type(None))) or (
        type(value).__module__ == "datetime"
    )
    for member in (
        value
        if isinstance(value, (list, tuple, set))
        else [*value, *value.values()]
        if isinstance(value, dict)
        else ()
    ):
        assert_plain(member)


LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join([f'*{chr(97 + i)}'] * 10)}]\n" for i in range(12)
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name: !!python/object/apply:os.system [touch OWNED]", "could not determine a constructor"),
        ("name: !!python/object/new:os.system [touch OWNED]", "could not determine a constructor"),
        ("name: !!python/name:os.system", "could not determine a constructor"),
        (LAUGHS, "more than 100,000 values"),
        ("mapping: &a {b: *a}", "an alias inside what it names"),
        pytest.param("name: " + "[" * 5000, "nested too deep", marks=pytest.mark.slow),
        ("name: !!map [a]", "expected a mapping node"),
        ("name: !!bool maybe", "KeyError reading it as bool"),
        ("number: " + "9" * 5000, "reading it as int"),
        ("rate: 1" + "0" * 400, "a number too large"),
        ("\ufeffnumber: x", "expected int"),
        ("number: 3\r\nrate: x\r\n", "expected float"),
        ("name: \0", "not valid YAML"),
    ],
    ids=[
        "apply",
        "new",
        "name",
        "laughs",
        "cycle",
        "nested",
        "map",
        "bool",
        "digits",
        "overflow",
        "bom",
        "crlf",
        "nul",
    ],
)
def test_named_kinds_of_hostility(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text(content, "utf-8")
    with pytest.raises(RecipeError, match=message):
        parse_recipe([Fields], ["recipe.yaml"])
    assert os.listdir() == ["recipe.yaml"]


def test_an_utf16_recipe_is_said_to_be_none(tmp_path):
    (tmp_path / "recipe.yaml").write_text("number: 3\n", "utf-16")
    with pytest.raises(RecipeError, match=r"recipe.yaml cannot be read"):
        parse_recipe([Fields], [str(tmp_path / "recipe.yaml")])
