"""Danger: lambda starts or ends elsewhere than asked, so gold or teachers never count."""

import itertools

import pytest

from hf_structkd.distillation.schedules import Progress, make_schedule


def over_a_run(name, steps=40, epochs=4, **options):
    schedule = make_schedule(name, **options)
    return [schedule(Progress(step, steps, step * epochs / steps, epochs)) for step in range(steps)]


@pytest.mark.parametrize("name", ["linear", "cosine", "linear_per_epoch"])
@pytest.mark.parametrize(("start", "end"), [(1.0, 0.0), (0.2, 0.9)])
def test_schedules_go_from_start_to_end_and_never_back(name, start, end):
    values = over_a_run(name, start=start, end=end)
    assert values[0] == pytest.approx(start)
    assert values[-1] == pytest.approx(end)
    steps = [b - a for a, b in itertools.pairwise(values)]
    assert all(step * (end - start) >= -1e-12 for step in steps)


def test_linear_moves_every_update_and_per_epoch_only_between_epochs():
    assert len(set(over_a_run("linear"))) == 40
    assert over_a_run("linear_per_epoch") == pytest.approx([1.0] * 10 + [2 / 3] * 10 + [1 / 3] * 10 + [0.0] * 10)


def test_the_papers_rate_is_an_amount_an_epoch():
    assert over_a_run("linear_per_epoch", rate=0.01)[-1] == pytest.approx(0.97)
    assert over_a_run("linear_per_epoch", rate=0.5)[-1] == 0.0


def test_constant_is_constant_and_one_step_is_enough():
    assert set(over_a_run("constant", start=0.3)) == {0.3}
    assert over_a_run("linear", steps=1, epochs=1) == [1.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "liner"}, r"unknown lambda schedule 'liner'; there are constant.* Did you mean 'linear'\?"),
        ({"name": "linear", "start": 1.5}, "lambda_start must lie in"),
        ({"name": "linear", "rate": 0.1}, "linear_per_epoch only"),
        ({"name": "linear_per_epoch", "rate": 0.0}, "above 0"),
    ],
)
def test_bad_schedules_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_schedule(**arguments)
