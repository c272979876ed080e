"""Danger: a page whose examples do not run."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "teachers.md"


def test_the_worked_example_runs_and_prints_what_it_says(capsys):
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL))
    exec(compile(code, str(PAGE), "exec"), {"__name__": "page"})
    printed = capsys.readouterr().out.strip().splitlines()
    promised = re.findall(r"print\(.*\)  # .*: (\[.*\])$", code, flags=re.MULTILINE)
    assert printed == promised
    assert len(promised) == 4
