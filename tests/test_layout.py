"""Dependencies point one way, and what is copied to the Hub with a checkpoint stands alone."""

import ast
import configparser
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import hf_structkd

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
    """What a module must leave to the one place for it: the ignored label, files, hashing JSON, padding."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.UnaryOp) and ast.unparse(node) == "-100":
            found.add("-100")
        if isinstance(node, ast.Attribute) and node.attr in ("write_text", "write_bytes"):
            found.add(node.attr)
        if isinstance(node, ast.keyword) and node.arg == "sort_keys":
            found.add("sort_keys")
        if isinstance(node, ast.BinOp) and re.search(r"\w\]? \+ \[.+\] \* \(width - len\(", ast.unparse(node)):
            found.add("row + [fill] * (width - len(row))")
    return found


@pytest.mark.parametrize(
    ("what", "place"),
    [
        *[("-100", {"modeling/tag_scheme.py"}), ("sort_keys", {"files.py"}), ("write_text", set())],
        *[("write_bytes", set()), ("row + [fill] * (width - len(row))", {"modeling/words.py"})],
    ],
)
def test_one_way_each_to_name_the_ignored_label_to_hash_json_to_write_files_and_to_pad(what, place):
    places = {file.relative_to(PACKAGE).as_posix() for file in PACKAGE.rglob("*.py")
              if what in calls_and_numbers(file.read_text(encoding="utf-8"))}  # fmt: skip
    assert places == place


# Danger: whichever module is imported first, transformers learns of the models, and no import goes in a circle.


# Each first import runs in a child of one process that has imported the heavy libraries, but not transformers.
CHILDREN = """
import os, sys
import torch, tokenizers, huggingface_hub
import hf_structkd
assert "transformers" not in sys.modules
for statement in sys.argv[1:]:
    if not (child := os.fork()):
        try:
            exec(statement)
            from transformers import AutoConfig, pipeline
            from transformers.pipelines import PIPELINE_REGISTRY
            AutoConfig.for_model("xlm-roberta-crf")
            assert "crf-token-classification" in PIPELINE_REGISTRY.supported_tasks
        except BaseException as error:
            print(f"{statement}: {error!r}", flush=True)
            os._exit(1)
        os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.mark.slow
def test_any_module_may_be_imported_first():
    # Each of these modules imports transformers itself, which has to wait for it with the registration.
    first = ["modeling.pipeline", "modeling.crf_head", "modeling.taggers"]
    statements = [f"import hf_structkd.{module}" for module in first]
    done = subprocess.run([sys.executable, "-c", CHILDREN, *statements], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


def test_training_imports_nothing_that_it_does_not_use():
    """Danger: seconds of every start go into libraries that only a metric for `evaluate.load`, a comparison of
    taggers or compiled loops need."""
    code = """
import sys
import torch, datasets
from transformers import Trainer
from hf_structkd import StructKDTrainer, StructKDTrainingArguments, TaggingMetrics, Teacher, annotate, load_corpora
print(sorted({"evaluate", "numba", "scipy.stats", "matplotlib", "sklearn", "onnx"} & set(sys.modules)))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


# Danger: ranges in setup.cfg that say more than is tested; files about a version that is not this one.


def test_the_lowest_versions_are_those_of_the_ranges():
    """`make test-min` installs constraints-min.txt; the ranges must begin just there."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    required = setup["options"]["install_requires"].split()
    lowest = {match[1].lower(): match[2] for text in required if (match := re.match(r"([\w.-]+)>=([\d.]+)", text))}
    lines = (ROOT / "constraints-min.txt").read_text().split("\n")
    pinned = dict(line.lower().split("==") for line in lines if "==" in line)
    assert len(lowest) == len(required)
    assert lowest.keys() == pinned.keys()
    for name, version in lowest.items():
        exact = pinned[name].split(".")
        own = version.split(".")
        assert exact[: len(own)] == own, name
        assert set(exact[len(own) :]) <= {"0"}, name


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == hf_structkd.__version__
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= citation.keys()
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    what = setup["metadata"]["description"].partition(",")[0]
    assert citation["title"].lower() == f"{setup['metadata']['name']}: {what}".lower()
    assert citation["license"] == setup["metadata"]["license_expression"]
    paper = citation["preferred-citation"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"title = {{{paper['title']}}}" in readme
    (arxiv,) = [each["value"].removeprefix("arXiv:") for each in paper["identifiers"]]
    assert arxiv in readme


def test_forms_and_workflows_are_whole():
    """A broken form or workflow is not shown on the host, and nothing says so."""
    forms = [yaml.safe_load(path.read_text()) for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("[!c]*.yml")]
    assert len(forms) == 2
    for form in forms:
        assert {"name", "description", "body"} <= form.keys()
        for part in form["body"]:
            assert part["type"] == "markdown" or (part["id"] and part["attributes"]["label"])
    workflow = yaml.load((ROOT / ".github/workflows/tests.yml").read_text(), Loader=yaml.BaseLoader)
    assert workflow["on"].keys() == {"push", "pull_request"}
    commands = [step.get("run", "") for step in workflow["jobs"]["tests"]["steps"]]
    assert {".ci/run", "make docs", "make dist"} <= set(commands)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for command in commands:
        for target in re.findall(r"^make ([\w-]+)", command):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_a_space_asks_for_what_the_package_asks_for():
    """Danger: a page that cannot be installed, or that is with versions that the package refuses."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = setup["options.extras_require"]
    ranges = setup["options"]["install_requires"].split() + extras["space"].split()
    known = {requirement.name.lower(): requirement for requirement in map(Requirement, ranges)}
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").lower().replace("_", "-").split("\n")
    lines = (ROOT / "examples/space/requirements.txt").read_text(encoding="utf-8").split("\n")
    wanted = [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]
    assert {"hf_structkd", "gradio"} <= {requirement.name for requirement in wanted}
    for requirement in wanted:
        if requirement.name == setup["metadata"]["name"]:
            assert requirement.extras <= set(extras), requirement
            continue
        own = known[requirement.name.lower()]
        assert not requirement.specifier or requirement.specifier == own.specifier, (
            f"{requirement}, but setup.cfg: {own}"
        )
        (tested,) = [line.partition("==")[2] for line in pins if line.startswith(f"{requirement.name}==")]
        assert own.specifier.contains(tested), f"{own} is not what is tested, {tested}"


def test_the_release_checklist_names_what_a_release_publishes():
    """Danger: a release with the description, the contact or the number of another."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    steps = text.split("## Releasing a version")[1].split("\n## ")[0]
    for file in ("setup.py", "setup.cfg", "CITATION.cff", "CHANGELOG.md", "SECURITY.md", "hf_structkd/__init__.py"):
        assert file in steps, file
    command = re.search(r'`python -c "(.*?)"`', steps)[1]
    done = subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("# hf_structkd\n")
    assert "](docs/" not in done.stdout
    security = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    for part in ("Report a vulnerability", "## Supported versions", "We aim to answer", "structkd --version"):
        assert part in security, part
