"""The loss of each sentence: what its gold tags say, what its teachers say, and how lambda mixes the two."""

from typing import Any

import torch
from torch import Tensor

from ..modeling.crf import LinearChainCRF
from ..modeling.crf_head import gold_statistics
from ..modeling.tag_scheme import IGNORED
from .objectives import Chosen, weighted_losses
from .targets import Targets

Parts = dict[str, Tensor]  # name of a part -> a loss for each sentence, (batch,) in nats


def mixed_losses(
    student: LinearChainCRF,
    labels: Tensor | None,
    word_mask: Tensor,
    targets: Targets,
    objectives: Chosen,
    lam: float,
) -> tuple[Parts, Parts]:
    """`lam * kd + (1 - lam) * nll` for each sentence (SLKD Algorithm 1), part by part.

    A sentence without gold tags has distillation alone, and one without a teacher's answer its gold tags alone,
    whatever lambda is: there is nothing to interpolate with. So what a sentence weighs depends on itself and not on
    the batch, or the process, that it comes in. The parts are the same in every batch, for the same reason.

    Args:
        student: the distribution of the sentences' tags.
        labels: (batch, subwords), -100 off the first subword; `None` where there is no gold at all.
        word_mask: (batch, subwords), which subwords start words.
        targets: the teachers' answers.
        objectives: those chosen, with their weights.
        lam: the weight of distillation against gold.

    Returns:
        The parts (`nll`, then the objectives by name) as they add up to the loss, and as they are before lambda.
    """
    unlabelled = torch.ones(len(word_mask), device=word_mask.device)
    nll = torch.zeros_like(unlabelled)
    if labels is not None:
        gold, _ = gold_statistics(labels, word_mask, student.scores.emissions.shape[-1])
        nll = student.cross_entropy(gold)
        unlabelled = 1.0 - gold.mass.float()
    if not objectives:
        return {"nll": nll}, {"nll": nll}
    answered = targets.answered() if targets else torch.zeros_like(unlabelled)
    kd = weighted_losses(objectives, student, targets) if targets else dict.fromkeys(objectives, torch.zeros_like(nll))
    kd_weight = lam + (1.0 - lam) * unlabelled
    weighted = {"nll": (1.0 - lam * answered) * nll, **{name: kd_weight * part for name, part in kd.items()}}
    return weighted, {"nll": nll, **kd}


def loss_items(batch: Any, normalization: str) -> Tensor:
    """What a loss is divided by, one True each: (batch, subwords) words or (batch,) sentences."""
    words = batch["word_mask"].bool() if "word_mask" in batch else batch["labels"] != IGNORED
    return words if normalization == "word" else words.any(dim=1)
