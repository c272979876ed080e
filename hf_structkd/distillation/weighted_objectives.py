"""Objectives and their weights in the loss: how a user's choice is read, described, and computed.

A choice is a name, names joined by `+`, or a mapping of names to weights and temperatures. [`parse_objective`] reads
it once, and everything else works with what it returns.
"""

import difflib
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

from torch import Tensor

from ..modeling.crf import LinearChainCRF
from .objectives import OBJECTIVES, Objective, Posterior
from .targets import Targets

COMBINATIONS = ("sum", "average")
NO_DISTILLATION = "none"
WeightedObjectives = Mapping[str, tuple[Objective, float]]  # name -> (objective, weight in the loss)
_PART_FIELDS = ("weight", "temperature", "temperature_mode")


def parse_objective(
    spec: str | Mapping[str, Any],
    temperature: float = 1.0,
    temperature_mode: str = "local",
    combination: str = "sum",
) -> dict[str, tuple[Objective, float]]:
    """Read a choice of objectives.

    Args:
        spec: a name, names joined by `+` (weight 1 each), a mapping name -> weight, or name -> mapping with any of
            `weight`, `temperature` and `temperature_mode`; or `"none"` for training on gold alone.
        temperature: T of the objectives that have this mode and for which the spec names no temperature.
        temperature_mode: `"local"` or `"global"`, of the objectives for which the spec names no mode.
        combination: `"sum"` adds the parts up by their weights, as the official code does; `"average"` divides the
            weights by their sum, as the paper does.

    Returns:
        name -> (objective, weight in the loss), empty for `"none"`.

    Raises:
        ValueError: for an unknown name, a name given twice, a weight that is not above 0, a temperature that no
            objective can use, or two objectives that read one column of teachers' answers at different temperatures.
    """
    Posterior(temperature, temperature_mode)  # a wrong temperature is an error whatever the objectives are
    if combination not in COMBINATIONS:
        raise ValueError(f"the combination of objectives must be one of {COMBINATIONS}, not {combination!r}")
    parts = _parse_parts(spec)
    total = sum(part["weight"] for part in parts.values())
    chosen = {}
    takes_default = False
    for name, part in parts.items():
        objective, mode = OBJECTIVES[name], part.get("temperature_mode", temperature_mode)
        default = temperature if mode in objective.temperature_modes else 1.0
        takes_default |= "temperature" not in part and mode in objective.temperature_modes
        weight = part["weight"] / total if combination == "average" else part["weight"]
        chosen[name] = (objective(part.get("temperature", default), mode), weight)
    if temperature != 1.0 and not parts:
        raise ValueError(f"temperature {temperature:g} has no effect: objective {NO_DISTILLATION!r} asks no teacher")
    if temperature != 1.0 and not takes_default:
        raise ValueError(
            f"temperature {temperature:g} has no effect: of {', '.join(parts)} none has a "
            f"{temperature_mode} temperature without naming one of its own"
        )
    annotation_temperatures(chosen)
    return chosen


def _choices(name: Any, known: Sequence[str]) -> str:
    """The names that there are, and the one that was probably meant."""
    near = [] if name in known else difflib.get_close_matches(str(name), known, n=1)
    return ", ".join(known) + (f". Did you mean {near[0]!r}?" if near else "")


def _parse_parts(spec: str | Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Name -> its fields, always with a weight; empty for `"none"`."""
    if isinstance(spec, str):
        names = [name.strip() for name in spec.split("+")]
        if names == [NO_DISTILLATION]:
            return {}
        if len(set(names)) < len(names):
            raise ValueError(f"objective {spec!r} names a part twice; give weights as a mapping instead")
        spec = dict.fromkeys(names, 1.0)
    elif not spec:
        raise ValueError(f"a mapping of objectives is empty; there are {NO_DISTILLATION}, {', '.join(OBJECTIVES)}")
    parts = {}
    for name, given in spec.items():
        if name not in OBJECTIVES:
            raise ValueError(f"unknown objective {name!r}; there are {_choices(name, (NO_DISTILLATION, *OBJECTIVES))}")
        part = dict(given) if isinstance(given, Mapping) else {"weight": given}
        if unknown := [key for key in part if key not in _PART_FIELDS]:
            raise ValueError(f"objective {name!r} has no {unknown}; there are {_choices(unknown[0], _PART_FIELDS)}")
        for key in ("weight", "temperature"):
            if key in part and (isinstance(part[key], bool) or not isinstance(part[key], Real)):
                raise ValueError(f"the {key} of objective {name!r} must be a number, not {part[key]!r}")
        part["weight"] = float(part.get("weight", 1.0))
        if not 0 < part["weight"] < float("inf"):
            raise ValueError(f"the weight of objective {name!r} must be above 0 and finite, not {given!r}")
        parts[name] = part
    return parts


def describe_objectives(objectives: WeightedObjectives, combination: str = "sum") -> str:
    """A choice of objectives in words, with their weights in the loss, for logs and cards."""
    if not objectives:
        return "none: gold tags alone"
    described = []
    for name, (objective, weight) in objectives.items():
        softened = ""
        if objective.temperature != 1.0:
            softened = f", {objective.temperature_mode} temperature {objective.temperature:g}"
        described.append(f"{name} (weight {weight:.4g}{softened})")
    if len(described) == 1:
        return described[0]
    return " + ".join(described) + (", averaged" if combination == "average" else ", added up")


def needed_columns(objectives: WeightedObjectives) -> tuple[str, ...]:
    """The target columns that these objectives read, each once, in a stable order."""
    return tuple(dict.fromkeys(name for objective, _ in objectives.values() for name in objective.needs))


def annotation_temperatures(objectives: WeightedObjectives) -> dict[str, float]:
    """The temperature of the teachers for each column; columns at temperature 1 are left out.

    Raises:
        ValueError: if two objectives read the same column at different temperatures.
    """
    wanted: dict[str, tuple[str, float]] = {}
    for name, (objective, _) in objectives.items():
        for column, temperature in objective.teacher_temperatures.items():
            other, other_temperature = wanted.setdefault(column, (name, temperature))
            if other_temperature != temperature:
                raise ValueError(
                    f"objectives {other} and {name} both read {column}, at global temperatures "
                    f"{other_temperature:g} and {temperature:g}: give them the same one, or the first or the second a "
                    "local one"
                )
    return {column: temperature for column, (_, temperature) in wanted.items() if temperature != 1.0}


def weighted_losses(objectives: WeightedObjectives, student: LinearChainCRF, targets: Targets) -> dict[str, Tensor]:
    """Each objective's loss times its weight.

    Objectives of the same global temperature share one softened student, and with it one forward-backward pass.

    Returns:
        Name -> (batch,), nats.
    """
    students = {1.0: student}
    losses = {}
    for name, (objective, weight) in objectives.items():
        temperature = 1.0 if objective.is_local else objective.temperature
        if temperature not in students:
            students[temperature] = objective.softened(student)
        losses[name] = weight * objective.loss_of_softened(students[temperature], targets)
    return losses
