"""The description on the package index, made of the README; everything else is in setup.cfg.

Links and pictures that lead into the repository lead nowhere on the index. So a link becomes its text, with the file
that it names, and pictures are left out.
"""

import re
from pathlib import Path

from setuptools import setup

LINK = re.compile(r"(!?)\[([^\[\]]*)\]\((?!https?:)([^()\s]+)\)")
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)


def description(readme: str) -> str:
    """The README as it can be read anywhere."""
    return re.sub(r"\n{3,}", "\n\n", COMMENT.sub("", LINK.sub(_text, readme)))


def _text(link: re.Match[str]) -> str:
    image, text, target = link.groups()
    file = target.partition("#")[0]
    return "" if image else text if file in text else f"{text} ({file})"


if __name__ == "__main__":
    readme = Path(__file__).with_name("README.md").read_text(encoding="utf-8")
    setup(long_description=description(readme), long_description_content_type="text/markdown")
