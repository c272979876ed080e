"""Weights in distillation: of words that the old tagger has right, and of sentences of which teachers are sure.

Focal distillation keeps what an update should not break. Source: Yan et al. 2021, "Positive-Congruent Training:
Towards Regression-Free Model Updates" (arXiv 2011.09161), whose weight of an example is
alpha + beta * [old answer = gold]; word by word as in Caciolai et al. 2023.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..data.columns import EMISSIONS, ENTROPY, MARGINALS
from ..modeling.crf_head import gold_statistics
from .objectives import WeightedObjectives
from .targets import Targets

ALPHA, BETA = 1.0, 5.0  # the papers'


def check_focal_weights(weights: Sequence[float] | None, objectives: WeightedObjectives) -> None:
    """Refuse focal weights that mean nothing, or that an objective could not use.

    Args:
        weights: alpha and beta, or `None`.
        objectives: Those of the training.

    Raises:
        ValueError: It says what is wrong, or names the objective.
    """
    if weights is None:
        return
    numbers = list(weights)
    if len(numbers) != 2 or not all(0.0 <= number < float("inf") for number in numbers) or not any(numbers):
        raise ValueError(
            f"focal_weights are two numbers of at least 0, alpha and beta, for instance {[ALPHA, BETA]}, not {weights}"
        )
    whole = [name for name, (objective, _) in objectives.items() if not objective.weighs_words]
    if whole or not objectives:
        raise ValueError(
            f"focal_weights weigh words, and objective {' and '.join(whole) or 'none'} is no sum over words: choose "
            "posterior, token or emission"
        )


def focal_weights(
    targets: Targets, labels: Tensor | None, word_mask: Tensor, alpha: float = ALPHA, beta: float = BETA
) -> Tensor:
    """The weight of each word: `alpha + beta * [the teacher's most probable tag = gold]`.

    Args:
        targets: The teachers' answers, marginals or emissions among them. Where a teacher cannot tell tags apart, it
            is right where its group holds the gold tag.
        labels: (batch, subwords), gold tags on the first subword of each word; a word without has the weight alpha.
        word_mask: (batch, subwords), boolean.
        alpha, beta: At least 0.

    Returns:
        (batch, words).
    """
    answers = targets[MARGINALS] if targets.teacher_marginals is not None else targets[EMISSIONS]
    if labels is None:
        return torch.full(answers.shape[:2], alpha, device=answers.device)
    num_tags = answers.shape[-1]
    gold, _ = gold_statistics(labels, word_mask, num_tags)
    given = gold.nodes.sum(dim=-1) > 0
    tags, best = gold.nodes.argmax(dim=-1), answers.argmax(dim=-1)
    if targets.teacher_groups is not None:
        tags, best = targets.teacher_groups.long().gather(1, tags), targets.teacher_groups.long().gather(1, best)
    return alpha + beta * ((tags == best) & given).to(torch.float32)


def sentence_confidence(targets: Targets, word_mask: Tensor, gamma: float) -> Tensor:
    """The weight of each sentence: `exp(-gamma * entropy / words)`.

    Args:
        targets: The teachers' answers, the entropy among them, nats per sentence.
        word_mask: (batch, subwords), boolean, True on the first subword of each word.
        gamma: At least 0; 0 gives every sentence the weight 1.

    Returns:
        (batch,), in (0, 1].
    """
    words = word_mask.sum(dim=1).clamp(min=1)
    return torch.exp(-gamma * targets[ENTROPY].to(torch.float32) / words)
