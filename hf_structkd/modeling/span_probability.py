"""Exact probabilities of many entities at once, from one forward-backward pass.

By the Markov property the probability that an entity with tags a_0 .. a_n stands at words s .. e - 1 and ends there is

    p(y_s = a_0) · Π p(y_{t+1} = a_{t+1} | y_t = a_t) · p(y_e does not continue it | y_{e-1} = a_n)

where every factor is read off what the pass has computed: no word outside the entity is looked at again, so a document
with thousands of entities costs no more than its words. [`LinearChainCRF.span_log_prob`] says the same by summing over
all paths that agree, with gradients.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .linear_chain import LinearChainCRF
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
