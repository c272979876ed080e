"""The k best tag sequences where a tag is shared by several states, or by the chains of several teachers.

The probability of a tag sequence is then a sum over state sequences, and finding the most probable sequence is NP-hard
in general. Teachers are confident in practice, so a beam search that bounds the completions of a beginning suffices.
"""

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from ..modeling.tag_scheme import IGNORED
from .distribution import BestPaths, ChainWalk, StateChain, TagDistribution, nonzero_divisor

_WIDTHS = (2, 8, 32, 128)  # beginnings kept at each word, times k, until the k best are proven
_ROUNDING = 1e-9  # nats; ties differ by less


def search_best_paths(distribution: TagDistribution, k: int) -> BestPaths:
    """Search for the k most probable tag sequences, and prove that they are, where that can be done.

    A beam over the beginnings of tag sequences. A beginning is kept with the exact probabilities of the states that it
    may have reached, and ranked by a bound on its completions: from each state on, the tags that are best for that
    state alone, which no choice of tags for all states exceeds. (Where states are tags, the bound is reached.) What
    falls off the beam leaves its bound behind; if the bound is no more than the k-th probability at the end, the k are
    proven. The other sentences are searched again with a wider beam, at most 128 k, after which they are unproven.
    Sequences whose probability is below 1e-300 of the best one's may be taken for impossible.

    Args:
        distribution: of a batch of sentences.
        k: how many are wanted.

    Returns:
        The sequences with their exact probabilities.
    """
    marginals = distribution.marginals
    count, num_tags = len(marginals), marginals.shape[-1]
    tags = torch.full((count, k, int(distribution.lengths.max())), IGNORED)
    log_prob = torch.full((count, k), -torch.inf, dtype=torch.float64)
    proven = torch.zeros(count, dtype=torch.bool)
    rows, unfinished = torch.arange(count), distribution
    for width in _WIDTHS:
        paths, values, dropped = _beam_search(unfinished.state_chains(), unfinished.lengths.cpu(), num_tags, width * k)
        kept, words = min(k, values.shape[1]), paths.shape[2]
        tags[rows, :kept, :words], log_prob[rows, :kept] = paths[:, :kept].cpu(), values[:, :kept].cpu()
        proven[rows] = dropped.cpu() <= log_prob[rows, k - 1] + _ROUNDING
        unproven = ~proven[rows]
        if not bool(unproven.any()):
            break
        unfinished = unfinished.select(unproven.nonzero()[:, 0])
        rows = rows[unproven]
    valid = log_prob > -torch.inf
    longest_list = max(1, int(valid.sum(dim=1).max()))
    tags = tags.masked_fill(~valid[..., None], IGNORED)
    tags, log_prob, valid = (
        values[:, :longest_list].to(marginals.device) for values in (tags, log_prob.to(marginals.dtype), valid)
    )
    return BestPaths(tags, log_prob, valid, proven)


def _beam_search(
    chains: Sequence[StateChain], lengths: Tensor, num_tags: int, width: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Keep the `width` beginnings with the best bounds, word by word.

    Returns:
        Tag sequences (batch, at most width, words), most probable first, -100 beyond the words; their probabilities
        (batch, at most width), nats, -inf where there is none; a bound (batch,), nats, on each dropped sequence.
    """
    batch, words = len(lengths), int(lengths.max())
    device = chains[0].initial.device
    inside = (torch.arange(words) < lengths[:, None]).to(device)
    walk = ChainWalk(chains, inside, num_tags)
    completions, completion_scale = walk.completion_bounds()
    scale = torch.zeros(batch, dtype=torch.float64, device=device)  # log of what probabilities were divided by
    dropped = torch.full((batch,), -torch.inf, dtype=torch.float64, device=device)
    kept: list[Tensor] = []
    chosen_tags, chosen_parents = [], []
    for word in range(words):
        reached = walk.start() if word == 0 else walk.advance(kept, word)
        bounds = reduce(
            torch.add,
            [
                walk.sum_by_tag(probabilities * completion[:, None], chain, word)
                for chain, (probabilities, completion) in enumerate(zip(reached, completions[word]))
            ],
        ).flatten(1)
        values, best = bounds.topk(min(width + 1, bounds.shape[1]), dim=1)
        if values.shape[1] > width:
            dropped = torch.maximum(dropped, values[:, width].log() + scale + completion_scale[word])
            values, best = values[:, :width], best[:, :width]
        parent, tag = best // num_tags, best % num_tags
        peak = nonzero_divisor(values[:, 0])
        kept = [
            walk.extend(probabilities, chain, word, parent, tag) / peak[:, None, None]
            for chain, probabilities in enumerate(reached)
        ]
        scale = scale + peak.log()
        chosen_tags.append(tag)
        chosen_parents.append(parent)
    log_prob = (values / peak[:, None]).log() + scale[:, None]
    paths = torch.empty(batch, values.shape[1], words, dtype=torch.long, device=device)
    beginning = torch.arange(values.shape[1], device=device).expand(batch, -1)
    for word in reversed(range(words)):
        paths[..., word] = chosen_tags[word].gather(1, beginning)
        beginning = chosen_parents[word].gather(1, beginning)
    return paths.masked_fill(~inside[:, None], IGNORED), log_prob, dropped
