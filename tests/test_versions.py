"""Danger: ranges in setup.cfg that say more than is tested; files about a version that is not this one."""

import configparser
import re
import subprocess
import sys
from pathlib import Path

import yaml
from packaging.requirements import Requirement

import hf_structkd

ROOT = Path(__file__).parents[1]


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
