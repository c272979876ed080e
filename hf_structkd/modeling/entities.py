"""Analyses of sentences, their entities and exact probabilities, read from a distribution over tag sequences."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .crf import LinearChainCRF
from .tag_scheme import Span, TagScheme


@torch.no_grad()
def entity_log_probs(distribution: LinearChainCRF, scheme: TagScheme, entities: Sequence[tuple[int, Span]]) -> Tensor:
    """Exact log probabilities of entities, each summed over all tag sequences that contain it.

    p(entity) = p(first tag) · Π p(next tag of the entity | tag before) · p(no continuation behind it | last tag), in
    which every conditional is local (`LinearChainCRF.completions`): one forward-backward pass serves all entities.

    Args:
        distribution: over the tags of a batch of sentences.
        scheme: of the tags.
        entities: row of the batch and span in words.

    Returns:
        (entities,), float64, nats, on the CPU.

    Raises:
        ValueError: if the scheme has no tags for a span.
    """
    if not entities:
        return torch.zeros(0, dtype=torch.float64)
    lengths = distribution.lengths.tolist()
    openings: list[tuple[int, int, int]] = []  # sentence, word, tag
    steps: list[tuple[int, ...]] = []  # entity, sentence, word, tag before, tag
    stops: list[tuple[int, ...]] = []  # entity, sentence, word, tag before
    continuations: list[tuple[int, int]] = []  # stop, a tag that would continue the entity
    for entity, (row, span) in enumerate(entities):
        tags, continuing = scheme.entity_path(span)
        openings.append((row, span.start, tags[0]))
        steps += [(entity, row, span.start + i, tags[i - 1], tags[i]) for i in range(1, len(tags))]
        if continuing and span.end < lengths[row]:
            continuations += [(len(stops), tag) for tag in sorted(continuing)]
            stops.append((entity, row, span.end, tags[-1]))

    scores = distribution.scores
    device = scores.emissions.device
    completions, transitions = distribution.completions(), scores.transitions.double()

    def conditionals(sentence: Tensor, word: Tensor, before: Tensor) -> Tensor:
        """log p(tag at the word | tag before) over all tags: (rows, tags)."""
        options = transitions[before] + completions[sentence, word]
        return options.log_softmax(dim=-1).nan_to_num(nan=-torch.inf)

    sentence, word, tag = torch.tensor(openings, device=device).unbind(1)
    log_probs = distribution.log_marginals[sentence, word, tag].double()
    if steps:
        entity_index, sentence, word, before, tag = torch.tensor(steps, device=device).unbind(1)
        step_log_probs = conditionals(sentence, word, before).gather(1, tag[:, None])[:, 0]
        log_probs = log_probs.index_add(0, entity_index, step_log_probs)
    if stops:
        entity_index, sentence, word, before = torch.tensor(stops, device=device).unbind(1)
        next_log_probs = conditionals(sentence, word, before)
        stopping = torch.ones_like(next_log_probs, dtype=torch.bool)
        stop, continuation = torch.tensor(continuations, device=device).unbind(1)
        stopping[stop, continuation] = False
        stop_log_probs = next_log_probs.where(stopping, -torch.inf).logsumexp(dim=-1)
        log_probs = log_probs.index_add(0, entity_index, stop_log_probs)
    return log_probs.clamp(max=0.0).cpu()


@dataclass(frozen=True)
class Analysis:
    """One way of tagging a sentence.

    Args:
        score: probability of the whole tag sequence; `None` where it was not computed.
        spans: its entities; for plain tags, all words.
        scores: the exact probability of each span, summed over all tag sequences.
    """

    score: float | None
    spans: list[Span]
    scores: list[float]


def read_spans(scheme: TagScheme, tags: Sequence[int]) -> list[Span]:
    """The entities of a tag sequence, read strictly; for plain tags all words, ``O`` included."""
    names = [scheme.tags[tag] for tag in tags]
    if scheme.name == "plain":
        return [Span(i, i + 1, name) for i, name in enumerate(names)]
    return scheme.spans(names)


def analyses(distribution: LinearChainCRF, scheme: TagScheme, top_k: int | None = None) -> list[list[Analysis]]:
    """The best analysis of each sentence, or its k best ones, best first.

    Args:
        distribution: over the tags of a batch of sentences.
        scheme: of the tags.
        top_k: number of analyses per sentence; fewer where fewer exist. `None`: the best one, without its probability.

    Returns:
        A list of analyses per sentence, empty only if the constraints leave no tag sequence.
    """
    tags, probabilities, valid = _paths(distribution, top_k)
    lengths = distribution.lengths.tolist()
    entities: dict[tuple[int, Span], int] = {}  # row and span to the place among the scores
    readings: list[list[tuple[float | None, list[Span]]]] = []  # per sentence, each path's probability and spans
    for row, paths in enumerate(tags.tolist()):
        readings.append([])
        for k, path in enumerate(paths):
            if valid[row][k]:
                spans = read_spans(scheme, path[: lengths[row]])
                readings[-1].append((probabilities[row][k] if probabilities else None, spans))
                for span in spans:
                    entities.setdefault((row, span), len(entities))
    scores = entity_log_probs(distribution, scheme, list(entities)).exp().tolist()
    return [
        [Analysis(probability, spans, [scores[entities[row, span]] for span in spans]) for probability, spans in paths]
        for row, paths in enumerate(readings)
    ]


def _paths(distribution: LinearChainCRF, top_k: int | None) -> tuple[Tensor, list[list[float]], list[list[bool]]]:
    """Tags (batch, k, words) on the CPU, each path's probability (none if `top_k` is `None`), whether it exists."""
    if top_k is None:
        best = distribution.decode().unsqueeze(1)
        return best.cpu(), [], (best[:, :, 0] >= 0).tolist()
    tags, log_prob, valid = distribution.topk(top_k)
    return tags.cpu(), log_prob.double().exp().tolist(), valid.tolist()


def label_marginals(distribution: LinearChainCRF) -> list[Tensor]:
    """p(tag at word) of each sentence, (words, tags)."""
    return [row[:length] for row, length in zip(distribution.marginals, distribution.lengths.tolist())]


def entropies(distribution: LinearChainCRF) -> list[float]:
    """The entropy over tag sequences of each sentence, nats, at least 0."""
    return torch.clamp(distribution.entropy(), min=0.0).tolist()
