"""The loss of each sentence: the likelihood of its gold tags, distillation from its teachers, mixed by lambda.

Words that the old tagger has right, and sentences of which teachers are sure, may weigh more.
Focal distillation keeps what an update should not break. Source: Yan et al. 2021, "Positive-Congruent Training:
Towards Regression-Free Model Updates" (arXiv 2011.09161), whose weight of an example is
alpha + beta * [old answer = gold]; word by word as in Caciolai et al. 2023.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..data.columns import EMISSIONS, ENTROPY, MARGINALS
from ..modeling.crf import LinearChainCRF, SufficientStatistics
from ..modeling.crf_head import gold_statistics
from ..modeling.tag_scheme import IGNORED
from .targets import Targets
from .weighted_objectives import WeightedObjectives, weighted_losses

Parts = dict[str, Tensor]  # name of a part -> a loss for each sentence, (batch,) in nats


@dataclass(frozen=True)
class PartlyAnnotated:
    """Gold tags of sentences whose annotators looked for some types only.

    Where the gold tag is O, the word may also have a tag of a type that nobody looked for. The loss is -log of the
    probability of all tag sequences that agree; for a sentence whose types were all looked for, that is its NLL.

    Args:
        open_tags: (batch, tags), boolean: the tags of the types that nobody looked for.
        outside: the id of O.

    Source: the likelihood of partial annotations, Tsuboi et al. 2008, "Training Conditional Random Fields Using
        Incomplete Annotations", as applied to label sets that differ.
    """

    open_tags: Tensor
    outside: int

    def nll(self, student: LinearChainCRF, gold: SufficientStatistics, complete: Tensor) -> Tensor:
        """-log p(what agrees with the gold tags), (batch,) in nats.

        Args:
            student: the distribution of the sentences' tags.
            gold: the gold tags.
            complete: (batch,), the loss of the gold tags as they stand, for sentences that leave nothing open.
        """
        given = gold.nodes > 0
        leaves_open = self.open_tags.any(dim=1) & given.flatten(1).any(dim=1)
        if not bool(leaves_open.any()):
            return complete
        allowed = given | (given[..., self.outside, None] & self.open_tags[:, None])
        allowed = allowed | ~given.any(dim=-1, keepdim=True)  # beyond the words, and where there are no gold tags
        return torch.where(leaves_open, -student.log_prob_of_set(allowed), complete)


def mixed_losses(
    student: LinearChainCRF,
    labels: Tensor | None,
    word_mask: Tensor,
    targets: Targets,
    objectives: WeightedObjectives,
    lam: float,
    partly: PartlyAnnotated | None = None,
) -> tuple[Parts, Parts]:
    """`lam * kd + (1 - lam) * nll` for each sentence (SLKD Algorithm 1), part by part.

    A sentence without gold tags is trained by distillation alone, and a sentence without a teacher's answer by its
    gold tags alone, whatever lambda is: there is nothing to interpolate with. So the weight of a sentence does not
    depend on its batch or its process. Every batch has the same parts, for the same reason.

    Args:
        student: the distribution of the sentences' tags.
        labels: (batch, subwords), -100 off the first subword; `None` where the batch has no gold tags.
        word_mask: (batch, subwords), which subwords start words.
        targets: the teachers' answers.
        objectives: name -> (objective, weight).
        lam: the weight of distillation against gold.
        partly: what the gold tags leave open; `None` where they leave nothing open.

    Returns:
        Two mappings from a part (`nll`, then the objectives by name) to its loss: weighted by lambda, so that the
        parts add up to the loss, and before lambda.
    """
    unlabelled = torch.ones(len(word_mask), device=word_mask.device)
    nll = torch.zeros_like(unlabelled)
    if labels is not None:
        gold, _ = gold_statistics(labels, word_mask, student.scores.emissions.shape[-1])
        nll = student.cross_entropy(gold)
        if partly is not None:
            nll = partly.nll(student, gold, nll)
        unlabelled = 1.0 - gold.mass.float()
    if not objectives:
        return {"nll": nll}, {"nll": nll}
    answered = targets.answered() if targets else torch.zeros_like(unlabelled)
    kd = weighted_losses(objectives, student, targets) if targets else dict.fromkeys(objectives, torch.zeros_like(nll))
    kd_weight = lam + (1.0 - lam) * unlabelled
    weighted = {"nll": (1.0 - lam * answered) * nll, **{name: kd_weight * part for name, part in kd.items()}}
    return weighted, {"nll": nll, **kd}


def loss_items(batch: Any, normalization: str) -> Tensor:
    """The items over which the loss is averaged.

    Args:
        batch: with `word_mask` or `labels`, (batch, subwords).
        normalization: `"word"` or `"sentence"`.

    Returns:
        Boolean, true once per item: (batch, subwords) for words, (batch,) for sentences.
    """
    words = batch["word_mask"].bool() if "word_mask" in batch else batch["labels"] != IGNORED
    return words if normalization == "word" else words.any(dim=1)


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
