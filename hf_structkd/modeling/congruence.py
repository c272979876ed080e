"""Backward-congruent decoding: a new tagger answers with an eye on the tagger that it replaces.

    score(y) = (1 - congruence) * score_new(y) + congruence * score_old(y)

is a chain again, so the best tag sequence and all probabilities under it are exact: p(y) is proportional to
p_new(y)^(1 - congruence) * p_old(y)^congruence.

Source: Caciolai et al. 2023, "Regression-Free Model Updates for Spoken Language Understanding" (ACL industry track),
which interpolates the scores of old and new model.
"""

from collections.abc import Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from .crf import LinearChainCRF
from .crf_reference import Scores


def check_congruence(congruence: Any) -> None:
    """Raise TypeError or ValueError unless a weight of the previous tagger is a number from 0 to 1."""
    if isinstance(congruence, bool) or not isinstance(congruence, Real):
        raise TypeError(f"congruence is the weight of the previous tagger, 0 to 1, not {congruence!r}")
    if not 0.0 <= float(congruence) <= 1.0:
        raise ValueError(f"congruence is the weight of the previous tagger, 0 to 1, not {congruence!r}")


def label_order(labels: Sequence[str], previous: Sequence[str]) -> list[int]:
    """For each label its place among the labels of the previous tagger.

    Raises:
        ValueError: if the two do not have the same labels; it says what to do.
    """
    if set(labels) != set(previous):
        missing = [label for label in labels if label not in previous]
        gone = [label for label in previous if label not in labels]
        parts = [f"the previous tagger lacks {', '.join(missing)}"] if missing else []
        parts += [f"it alone has {', '.join(gone)}"] if gone else []
        raise ValueError(
            f"two taggers are decoded together only with the same labels; {' and '.join(parts)}. "
            "hf_structkd.extend_labels(previous, types) adds types to it, and changes none of its answers"
        )
    return [list(previous).index(label) for label in labels]


def congruent(
    new: LinearChainCRF, old: LinearChainCRF, congruence: float, order: Sequence[int] | None = None
) -> LinearChainCRF:
    """The distribution between those of two taggers.

    Args:
        new, old: of the same sentences. What either excludes (score `-inf`) stays excluded, unless it has no weight.
        congruence: the weight of the old one: 0 is the new one alone, 1 the old one.
        order: for each tag of the new one its place among the old one's, see [`label_order`]; `None`: the same.

    Returns:
        A distribution over the new one's tags.

    Raises:
        ValueError: if the sentences differ in number or length.
    """
    lengths = new.lengths
    if not torch.equal(lengths.cpu(), old.lengths.cpu()):
        raise ValueError(f"the taggers read sentences of {lengths.tolist()} and {old.lengths.tolist()} words")
    width = int(lengths.max())
    device = new.scores.emissions.device

    def mixed(score: Tensor, other: Tensor) -> Tensor:
        weighted = [(1.0 - congruence, score.double()), (congruence, other.to(device).double())]
        return sum((weight * part for weight, part in weighted if weight > 0), torch.zeros_like(weighted[0][1]))

    emissions, transitions, start, end = old.scores
    if order is not None:
        index = torch.tensor(list(order), device=emissions.device)
        emissions, transitions = emissions[..., index], transitions[index][:, index]
        start, end = start[index], end[index]
    other = Scores(emissions[:, :width], transitions, start, end)
    scores = Scores(new.scores.emissions[:, :width], *new.scores[1:])
    return LinearChainCRF(*(mixed(score, part) for score, part in zip(scores, other)), lengths=lengths)
