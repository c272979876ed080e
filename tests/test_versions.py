"""Danger: ranges in setup.cfg that say more than is tested."""

import configparser
import re
from pathlib import Path

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
