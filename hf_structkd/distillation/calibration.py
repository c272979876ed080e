"""How confident a teacher ought to be: the temperature that makes gold tags most probable."""

import logging
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from datasets import Dataset
from torch import Tensor

from ..data.columns import IGNORED, TOKENS
from ..data.words import tag_column, tag_names
from .batches import batches_of_like_length
from .tag_distribution import TagDistribution, log_prob_of

if TYPE_CHECKING:
    from .tag_teacher import TagTeacher

logger = logging.getLogger(__name__)

LOWEST, HIGHEST = 0.1, 10.0
_DECIMALS = 2  # the NLL is flat at its minimum; more would differ between machines, and with it what answers are kept
_STEPS = 24  # of the grid, in log T
_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0


class Calibration(NamedTuple):
    """A teacher's calibration.

    Args:
        temperature: what its scores are divided by.
        nll: of the gold tags at it, nats a sentence.
        nll_before: at temperature 1.
        sentences: that it was fitted on.
        left_out: sentences without gold tags for all words, or whose gold tags the teacher excludes (probability 0 at
            every temperature).
    """

    temperature: float
    nll: float
    nll_before: float
    sentences: int
    left_out: int


def fit_temperature(
    teacher: "TagTeacher", dataset: Dataset, label_names: Sequence[str] | None = None, *, batch_size: int = 64
) -> Calibration:
    """Temperature scaling (Guo et al. 2017, arXiv 1706.04599) of a whole distribution over tag sequences.

    The temperature T in [0.1, 10], with two decimals, at which the mean over sentences of -log p_T(gold) is smallest,
    p_T the exact distribution with all of the teacher's scores divided by T and then read in the student's tags. The
    teacher is asked once a sentence. Where tags are only renamed the NLL is convex in 1/T; where they are merged it
    need not be, so a grid is searched first.

    Args:
        teacher: at any temperature, which does not matter here; it stays as it is.
        dataset: columns `tokens` and gold tags; sentences that neither teacher nor student was trained on.
        label_names: the student's labels; the teacher's own (mapped) ones by default.
        batch_size: sentences a forward pass.

    Raises:
        ValueError: if labels differ, or no sentence has gold tags that the teacher thinks possible.
    """
    labels = list(label_names) if label_names is not None else teacher.labels
    sentences, gold, unknown = _gold(dataset, labels)
    groups = teacher.read_as(label_names).groups
    asked: list[tuple[TagDistribution, Tensor]] = []
    with torch.inference_mode():
        for rows in batches_of_like_length(sentences, batch_size):
            distribution = teacher.distribution([sentences[row] for row in rows], label_names)
            tags = torch.full((len(rows), len(sentences[rows[0]])), IGNORED)
            for place, row in enumerate(rows):
                ids = gold[row] if groups is None else [groups[tag] for tag in gold[row]]
                tags[place, : len(ids)] = torch.tensor(ids)
            device = distribution.marginals.device
            asked.append((distribution, tags[:, None].to(device)))

        def log_probs(temperature: float) -> Tensor:
            relative = temperature / teacher.temperature
            parts = [log_prob_of(own.with_temperature(relative), tags)[:, 0].double().cpu() for own, tags in asked]
            return torch.cat(parts) if parts else torch.zeros(0)

        at_one = log_probs(1.0)
        possible = at_one > -torch.inf
        left_out = unknown + int((~possible).sum())
        if not bool(possible.any()):
            raise ValueError(
                f"teacher {teacher.name} cannot be calibrated: of {len(dataset)} sentences none has gold tags that "
                "the student's labels name and the teacher thinks possible"
            )
        before = -float(at_one[possible].mean())
        # A list of known sequences may lose its less probable ones to rounding at a low temperature: -inf there.
        temperature, nll = _minimum(lambda t: -float(log_probs(t)[possible].mean()))
    if nll > before:  # by rounding
        temperature, nll = 1.0, before
    if temperature in (LOWEST, HIGHEST):
        logger.warning(
            "teacher %s: the best temperature lies at the bound %g; %d sentences may be too few to calibrate it",
            teacher.name,
            temperature,
            int(possible.sum()),
        )
    return Calibration(temperature, nll, before, int(possible.sum()), left_out)


def _minimum(nll: Callable[[float], float]) -> tuple[float, float]:
    """The temperature of two decimals with the smallest NLL, by a grid and golden section within its best cell."""
    low, high = math.log(LOWEST), math.log(HIGHEST)
    grid = [low + (high - low) * step / _STEPS for step in range(_STEPS + 1)]
    values = [nll(math.exp(x)) for x in grid]
    best = min(range(len(grid)), key=values.__getitem__)
    a, b = grid[max(best - 1, 0)], grid[min(best + 1, _STEPS)]
    while b - a > 1e-3:
        c, d = b - _GOLDEN * (b - a), a + _GOLDEN * (b - a)
        if nll(math.exp(c)) <= nll(math.exp(d)):
            b = d
        else:
            a = c
    rounded = round(min(max(math.exp((a + b) / 2), LOWEST), HIGHEST), _DECIMALS)
    return rounded, nll(rounded)


def _gold(dataset: Dataset, labels: Sequence[str]) -> tuple[list[list[str]], list[list[int]], int]:
    """Sentences with a known tag for each word, their tags' ids, and how many others there are."""
    column = tag_column(dataset)
    if column is None:
        raise ValueError(f"a teacher is calibrated on gold tags; the corpus has only {dataset.column_names}")
    names, ids = tag_names(dataset), {label: i for i, label in enumerate(labels)}
    sentences, gold = [], []
    for words, tags in zip(dataset[TOKENS], dataset[column]):
        known = [names[tag] if names and isinstance(tag, int) and tag >= 0 else tag for tag in tags or []]
        if len(known) == len(words) and all(tag in ids for tag in known):
            sentences.append(words)
            gold.append([ids[tag] for tag in known])
    return sentences, gold, len(dataset) - len(sentences)
