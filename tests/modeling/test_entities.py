"""Danger: an entity's score that is not the probability that this entity stands there."""

import pytest
import torch

from hf_structkd import LinearChainCRF, TagScheme
from hf_structkd.modeling.entities import entity_log_probs
from hf_structkd.modeling.tag_scheme import Span

SCHEMES = {
    "BIO": TagScheme.from_entity_types(["A", "B"]),
    "BIOES": TagScheme.from_entity_types(["A", "B"], "BIOES"),
    "plain": TagScheme(["NOUN", "VERB", "O"]),
}


def chain(scheme: TagScheme, constrained: bool, scale: float = 1.0, lengths=(6, 1, 3)) -> LinearChainCRF:
    torch.manual_seed(0)
    C = len(scheme.tags)
    masks = {name: getattr(scheme, name) for name in ("allowed", "allowed_start", "allowed_end")}
    scores = (scale * torch.randn(len(lengths), max(lengths), C), torch.randn(C, C), torch.randn(C), torch.randn(C))
    return LinearChainCRF(*scores, lengths=torch.tensor(lengths), **(masks if constrained else {}))


def every_entity(scheme: TagScheme, lengths) -> list[tuple[int, Span]]:
    longest = 1 if scheme.name == "plain" else max(lengths)
    return [
        (row, Span(start, end, entity_type))
        for row, length in enumerate(lengths)
        for start in range(length)
        for end in range(start + 1, min(start + longest, length) + 1)
        for entity_type in scheme.entity_types
    ]


@pytest.mark.parametrize("constrained", [False, True])
@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("scale", [1.0, 400.0])  # the second leaves probability space for log space
def test_scores_are_sums_over_all_tag_sequences_that_hold_the_entity(name, constrained, scale):
    scheme = SCHEMES[name]
    crf = chain(scheme, constrained, scale)
    entities = every_entity(scheme, crf.lengths.tolist())
    scores = entity_log_probs(crf, scheme, entities).tolist()
    for (row, span), score in zip(entities, scores):
        tags, prolonging = scheme.entity_path(span)
        allowed = torch.ones(3, 6, len(scheme.tags), dtype=torch.bool)
        for i, tag in enumerate(tags):
            allowed[row, span.start + i] = torch.arange(len(scheme.tags)) == tag
        if span.end < crf.lengths[row]:
            allowed[row, span.end, list(prolonging)] = False
        expected = float(crf.log_prob_of_set(allowed)[row])
        assert score == pytest.approx(expected, abs=2e-6, rel=1e-6), (row, span)


def test_every_word_is_in_one_entity_or_in_none():
    # Under the constraints the entities that cover a word and O are all that can be.
    scheme = SCHEMES["BIOES"]
    crf = chain(scheme, constrained=True)
    entities = every_entity(scheme, crf.lengths.tolist())
    probabilities = entity_log_probs(crf, scheme, entities).exp().tolist()
    outside = scheme.tags.index("O")
    for row, length in enumerate(crf.lengths.tolist()):
        for word in range(length):
            covering = [p for (r, s), p in zip(entities, probabilities) if r == row and s.start <= word < s.end]
            assert sum(covering) + float(crf.marginals[row, word, outside]) == pytest.approx(1, abs=1e-6)


def test_no_entities_have_no_scores():
    assert entity_log_probs(chain(SCHEMES["BIO"], True), SCHEMES["BIO"], []).shape == (0,)
