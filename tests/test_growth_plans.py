"""Danger: a plan of steps that cannot be carried out is noticed after hours."""

from pathlib import Path

import pytest

from experiments.growth import read_plan

PLANS = sorted((Path(__file__).parents[1] / "experiments" / "plans").glob("*.yaml"))
PLACES = {"DATA": "data", "ENCODERS": "encoders"}


@pytest.mark.parametrize("file", PLANS, ids=lambda file: file.stem)
def test_committed_plans_are_read(file):
    assert read_plan(file, PLACES)["steps"]


def test_a_step_builds_on_earlier_steps_alone(tmp_path):
    text = PLANS[0].read_text(encoding="utf-8").replace("step:old", "step:grown")
    (tmp_path / "plan.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="which is no earlier step"):
        read_plan(tmp_path / "plan.yaml", PLACES)
