"""What a tag distribution says about sentences, in words: analyses, entities and their probabilities."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .crf import LinearChainCRF
from .tag_scheme import Span, TagScheme


@torch.no_grad()
def entity_log_probs(distribution: LinearChainCRF, scheme: TagScheme, entities: Sequence[tuple[int, Span]]) -> Tensor:
    """log p(exactly this entity stands there).

    Args:
        distribution: over the tags of a batch of sentences.
        scheme: of the tags.
        entities: sentence of the batch and span in words.

    Returns:
        (entities,), float64, nats, on the CPU.

    Raises:
        ValueError: if the scheme has no tags for a span.
    """
    if not entities:
        return torch.zeros(0, dtype=torch.float64)
    lengths = distribution.lengths.tolist()
    first: list[tuple[int, int, int]] = []  # sentence, word, tag
    steps: list[tuple[int, ...]] = []  # entity, sentence, word, tag before, tag
    stops: list[tuple[int, ...]] = []  # entity, sentence, word, tag before
    prolonging: list[frozenset[int]] = []
    for entity, (row, span) in enumerate(entities):
        tags, forbidden = scheme.entity_path(span)
        first.append((row, span.start, tags[0]))
        steps += [(entity, row, span.start + i, tags[i - 1], tags[i]) for i in range(1, len(tags))]
        if forbidden and span.end < lengths[row]:
            stops.append((entity, row, span.end, tags[-1]))
            prolonging.append(forbidden)

    scores = distribution.scores
    device = scores.emissions.device
    completions, transitions = distribution.completions(), scores.transitions.double()

    def following(rows: list[tuple[int, ...]]) -> tuple[Tensor, Tensor, Tensor]:
        """For each row: its entity, log p(tag at the word | tag before) over all tags, and the tag asked for."""
        number, sentence, word, before, *asked = torch.tensor(rows, device=device).unbind(1)
        options = transitions[before] + completions[sentence, word]
        return number, options.log_softmax(dim=-1).nan_to_num(nan=-torch.inf), asked[0] if asked else before

    sentence, word, tag = torch.tensor(first, device=device).unbind(1)
    total = distribution.log_marginals[sentence, word, tag].double()
    if steps:
        number, conditional, tag = following(steps)
        total = total.index_add(0, number, conditional.gather(1, tag[:, None])[:, 0])
    if stops:
        number, conditional, _ = following(stops)
        ends = torch.ones_like(conditional, dtype=torch.bool)
        for stop, forbidden in enumerate(prolonging):
            ends[stop, list(forbidden)] = False
        total = total.index_add(0, number, conditional.where(ends, -torch.inf).logsumexp(dim=-1))
    return total.clamp(max=0.0).cpu()


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
