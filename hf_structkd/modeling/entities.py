"""What a tag distribution says about sentences, in words: analyses, entities and their probabilities."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .linear_chain import LinearChainCRF
from .span_probability import entity_log_probs
from .tag_scheme import Span, TagScheme


@dataclass(frozen=True)
class Analysis:
    """One way of tagging a sentence.

    Args:
        score: probability of the whole tag sequence; `None` where it was not asked for.
        spans: its entities, or for plain tags every word.
        scores: for each span the exact probability that it stands there, summed over all tag sequences.
    """

    score: float | None
    spans: list[Span]
    scores: list[float]


def spans_of(scheme: TagScheme, tags: Sequence[int]) -> list[Span]:
    """Entities, read strictly; for plain tags each word, ``O`` included."""
    names = [scheme.tags[tag] for tag in tags]
    if scheme.name == "plain":
        return [Span(i, i + 1, name) for i, name in enumerate(names)]
    return scheme.spans(names)


def analyses(distribution: LinearChainCRF, scheme: TagScheme, top_k: int | None = None) -> list[list[Analysis]]:
    """The best analysis of each sentence, or its k best ones, best first.

    Args:
        distribution: over the tags of a batch of sentences.
        scheme: of the tags.
        top_k: how many; fewer where fewer exist. `None`: the best one, its own probability left out.

    Returns:
        A list of analyses for each sentence; never empty, unless the constraints leave no tag sequence at all.
    """
    tags, log_probs, valid = _paths(distribution, top_k)
    lengths = distribution.lengths.tolist()
    entities: dict[tuple[int, Span], int] = {}
    found: list[list[tuple[float | None, list[Span]]]] = []
    for row, paths in enumerate(tags.tolist()):
        found.append([])
        for k, path in enumerate(paths):
            if valid[row][k]:
                spans = spans_of(scheme, path[: lengths[row]])
                found[-1].append((log_probs[row][k] if log_probs else None, spans))
                for span in spans:
                    entities.setdefault((row, span), len(entities))
    scores = entity_log_probs(distribution, scheme, list(entities)).exp().tolist()
    return [
        [Analysis(score, spans, [scores[entities[row, span]] for span in spans]) for score, spans in paths]
        for row, paths in enumerate(found)
    ]


def _paths(distribution: LinearChainCRF, top_k: int | None) -> tuple[Tensor, list[list[float]], list[list[bool]]]:
    """Tags (batch, k, words) on the CPU, each path's probability (where asked for), and whether it exists."""
    if top_k is None:
        best = distribution.argmax()[0].unsqueeze(1)
        return best.cpu(), [], (best[:, :, 0] >= 0).tolist()
    tags, log_prob, valid = distribution.topk(top_k)
    return tags.cpu(), log_prob.double().exp().tolist(), valid.tolist()


def label_marginals(distribution: LinearChainCRF) -> list[Tensor]:
    """Each sentence's p(tag at word), (words, tags)."""
    return [row[:length] for row, length in zip(distribution.marginals, distribution.lengths.tolist())]


def entropies(distribution: LinearChainCRF) -> list[float]:
    """Each sentence's entropy over tag sequences in nats, at least 0."""
    return torch.clamp(distribution.entropy(), min=0.0).tolist()
