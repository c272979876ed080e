"""Dependencies point one way, and what is copied to the Hub with a checkpoint stands alone."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "hf_structkd"
NAME = "hf_structkd"

# What each room may import from besides itself.
ALLOWED = {
    "modeling": set(),
    "data": {"modeling"},
    "distillation": {"modeling", "data"},
    "evaluation": {"modeling", "data"},
    "export": {"modeling", "distillation"},
    "hub": {"modeling", "evaluation"},
    "training": {"modeling", "data", "distillation", "evaluation", "hub"},
}


def rooms() -> list[str]:
    return sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))


def imported_rooms(source: str, package: tuple[str, ...]) -> set[str]:
    """The other rooms from which a module of `package` imports; "the whole package" imports them all."""
    targets = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            targets += [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) + 1 - node.level]] if node.level else []
            base += node.module.split(".") if node.module else []
            targets += [[*base, alias.name] for alias in node.names]
    inside = [target[1:] for target in targets if target[0] == NAME]
    found = {target[0] if target and target[0] in rooms() else "the whole package" for target in inside}
    return found - {package[1]}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("from ..training.trainer import X", {"training"}),
        ("from .. import training", {"training"}),
        ("from hf_structkd.hub import x", {"hub"}),
        ("import hf_structkd.hub.model_card", {"hub"}),
        ("def f():\n    from ..hub import x", {"hub"}),
        ("import hf_structkd", {"the whole package"}),
        ("from hf_structkd import Teacher", {"the whole package"}),
        ("from .neighbour import x", set()),
        ("from . import neighbour", set()),
        ("import torch", set()),
    ],
)
def test_the_reader_of_imports_sees_every_form(line, expected):
    assert imported_rooms(line, (NAME, "data")) == expected


@pytest.mark.parametrize("room", rooms())
def test_dependencies_point_one_way(room):
    assert room in ALLOWED, f"{room} has no place in the order; give it one in ALLOWED and in CONTRIBUTING.md"
    for path in (PACKAGE / room).rglob("*.py"):
        package = (NAME, *path.parent.relative_to(PACKAGE).parts)
        wrong = imported_rooms(path.read_text(encoding="utf-8"), package) - ALLOWED[room]
        assert not wrong, f"{path.relative_to(PACKAGE)} imports from {sorted(wrong)}"


def test_modeling_survives_the_copy_to_the_hub():
    # transformers copies a checkpoint's code by following `from .x import y` only: `from . import x` is dropped
    # without a word, and an absolute import of the package makes every downloaded checkpoint need it installed.
    folder = PACKAGE / "modeling"
    assert not [path for path in folder.iterdir() if path.is_dir() and list(path.glob("*.py"))], "modeling is flat"
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert not [a for a in node.names if a.name.split(".")[0] == NAME], f"{path.name}:{node.lineno}"
            elif isinstance(node, ast.ImportFrom) and node.level:
                is_neighbour = node.level == 1 and node.module and (folder / f"{node.module}.py").exists()
                assert is_neighbour, f"{path.name}:{node.lineno}: only `from .x import y` is copied with a checkpoint"
            elif isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] != NAME, f"{path.name}:{node.lineno}"
