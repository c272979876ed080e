"""Dependencies point one way, and what is copied to the Hub with a checkpoint stands alone."""

import ast
import configparser
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "hf_structkd"
NAME = "hf_structkd"

# What each room may import from besides itself. Modules beside the rooms count as rooms of one file.
BASE = {"files", "settings", "processes"}
ALLOWED: dict[str, set[str]] = {
    **{module: set() for module in BASE},
    "modeling": set(),
    "data": {"modeling"},
    "distillation": {"modeling", "data"},
    "teachers": {"modeling", "data", "distillation", "files", "processes"},
    "evaluation": {"modeling", "files"},
    "export": {"modeling", "files"},
    "hub": {"evaluation", "files", "settings"},
    "training": {"modeling", "data", "distillation", "teachers", "evaluation", "hub", *BASE},
    "recipes": {"modeling", "data", "distillation", "teachers", "evaluation", "hub", "training", *BASE},
    "registration": {"modeling"},
    "cli": {
        "data",
        "evaluation",
        "export",
        "hub",
        "recipes",
        "teachers",
        "training",
        "processes",
        "the whole package",
    },
}


def rooms() -> list[str]:
    folders = [path.parent.name for path in PACKAGE.glob("*/__init__.py")]
    return sorted([*folders, *(path.stem for path in PACKAGE.glob("*.py") if not path.stem.startswith("__"))])


def imported_modules(source: str, package: tuple[str, ...]) -> list[list[str]]:
    """What a module of `package` imports, TYPE_CHECKING included, as paths of names inside this package."""
    targets = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            targets += [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) + 1 - node.level]] if node.level else []
            base += node.module.split(".") if node.module else []
            targets += [[*base, alias.name] for alias in node.names]
    return [target[1:] for target in targets if target[0] == NAME]


def imported_rooms(source: str, package: tuple[str, ...]) -> set[str]:
    """The other rooms from which a module of `package` imports; "the whole package" imports them all."""
    inside = imported_modules(source, package)
    found = {target[0] if target and target[0] in rooms() else "the whole package" for target in inside}
    return found - set(package[1:2])


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
    files = [PACKAGE / f"{room}.py"] if (PACKAGE / f"{room}.py").exists() else (PACKAGE / room).rglob("*.py")
    for path in files:
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


def test_no_modules_import_each_other_in_a_circle():
    """Danger: modules that only make sense together, and break when one is imported first."""
    graph = {}
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        package = (NAME, *path.parent.relative_to(PACKAGE).parts)
        modules = {".".join(target[:-1]) for target in imported_modules(path.read_text(encoding="utf-8"), package)}
        graph[name] = modules - {"", name}
    while leaves := {name for name, needs in graph.items() if not needs & graph.keys()}:
        graph = {name: needs for name, needs in graph.items() if name not in leaves}
    assert not graph, f"these import each other, or what does: {graph}"


def test_nothing_patches_the_path_of_imports():
    for folder in ("hf_structkd", "examples", "experiments", "benchmarks", "tests"):
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"sys\.path(\[.*\] *=|\.(insert|append|extend))|syspath_[p]repend", text), path


@pytest.mark.parametrize("folder", ["examples", "experiments", "benchmarks"])
def test_what_stands_around_the_package_uses_it_as_installed(folder):
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and not node.level:
                top = (node.module or "").split(".")[0]
                assert top not in {"examples", "experiments", "benchmarks", "tests"}, f"{path}:{node.lineno}"


def test_entry_scripts_are_thin():
    for name in ("run_distill.py", "run_teacher.py", "run_evaluate.py"):
        assert len((ROOT / "examples" / name).read_text().splitlines()) < 10, name


def test_public_names_are_those_that_type_checkers_see():
    import hf_structkd

    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    (checked,) = [node for node in tree.body if isinstance(node, ast.If)]
    typed = {alias.name: node.module for node in checked.body for alias in node.names}
    assert typed == hf_structkd._MODULES
    assert sorted(hf_structkd.__all__) == sorted([*typed, "__version__"])
    for name in hf_structkd.__all__:
        assert getattr(hf_structkd, name) is not None


# A distribution whose module has another name.
DISTRIBUTIONS = {"yaml": "pyyaml"}
IN_OTHER_ENVIRONMENTS = {"worker.py": {"flair", "span_marker"}}  # they cannot be installed beside this package


def test_every_import_is_declared():
    """Danger: a package that another one happens to bring today, and not tomorrow."""
    declared = configparser.ConfigParser()
    declared.read(ROOT / "setup.cfg", encoding="utf-8")
    lists = [declared["options"]["install_requires"], *declared["options.extras_require"].values()]
    names = {re.split(r"[<>=!~ ]", line)[0].lower() for listed in lists for line in listed.split()}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            tops = {module.split(".")[0] for module in modules} - IN_OTHER_ENVIRONMENTS.get(path.name, set())
            for top in tops - sys.stdlib_module_names:
                name = DISTRIBUTIONS.get(top, top)
                assert name.lower() in names or name.replace("_", "-").lower() in names, f"{path}: {top}"


def calls_and_numbers(source: str) -> set[str]:
    """What a module must leave to the one place for it: the ignored label, writing files, hashing JSON."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.UnaryOp) and ast.unparse(node) == "-100":
            found.add("-100")
        if isinstance(node, ast.Attribute) and node.attr in ("write_text", "write_bytes"):
            found.add(node.attr)
        if isinstance(node, ast.keyword) and node.arg == "sort_keys":
            found.add("sort_keys")
    return found


@pytest.mark.parametrize(
    ("what", "place"),
    [("-100", {"modeling/tag_scheme.py"}), ("sort_keys", {"files.py"}), ("write_text", set()), ("write_bytes", set())],
)
def test_one_way_each_to_name_the_ignored_label_to_hash_json_and_to_write_files(what, place):
    places = {file.relative_to(PACKAGE).as_posix() for file in PACKAGE.rglob("*.py")
              if what in calls_and_numbers(file.read_text(encoding="utf-8"))}  # fmt: skip
    assert places == place
