"""The k best tag sequences of chains whose states are hidden: read as tags that several states share.

The probability of a tag sequence is then a sum over state sequences, and finding the most probable one is NP-hard in
general. Teachers are surer of themselves than that: a search will do that knows a bound on all completions of a
beginning.
"""

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from ..modeling.tag_scheme import IGNORED
from .distribution import BestPaths, Hidden, TagDistribution, Walk, hidden_chains, or_one, select

_WIDTHS = (2, 8, 32, 128)  # beginnings kept at each word, times k, until the k best are proven
_ROUNDING = 1e-9  # nats; ties differ by less


def best_of(distribution: TagDistribution, k: int) -> BestPaths:
    """The k most probable tag sequences, with exact probabilities, and whether they are proven to be those.

    A beam over the beginnings of tag sequences. A beginning is kept with the exact probabilities of the states that it
    may have come to, and ranked by a bound on its completions: from each state on, the tags that are best for that
    state alone, which no choice of tags for all of them exceeds. (Where states are tags, the bound is reached.) What
    falls off the beam leaves its bound behind; if that is no more than the k-th probability at the end, the k are
    proven. The other sentences are searched again with a wider beam, at most 128 k, after which they are not proven.
    Sequences whose probability is below 1e-300 of the best one's may be taken for impossible.

    Args:
        distribution: of a batch of sentences.
        k: how many are wanted.
    """
    marginals = distribution.marginals
    count, num_tags = len(marginals), marginals.shape[-1]
    tags = torch.full((count, k, int(distribution.lengths.max())), IGNORED)
    log_prob = torch.full((count, k), -torch.inf, dtype=torch.float64)
    proven = torch.zeros(count, dtype=torch.bool)
    rows, current = torch.arange(count), distribution
    for width in _WIDTHS:
        paths, values, dropped = _beam(hidden_chains(current), current.lengths.cpu(), num_tags, width * k)
        found, words = min(k, values.shape[1]), paths.shape[2]
        tags[rows, :found, :words], log_prob[rows, :found] = paths[:, :found].cpu(), values[:, :found].cpu()
        proven[rows] = dropped.cpu() <= log_prob[rows, k - 1] + _ROUNDING
        left = ~proven[rows]
        if not bool(left.any()):
            break
        current = select(current, left.nonzero()[:, 0])
        rows = rows[left]
    valid = log_prob > -torch.inf
    widest = max(1, int(valid.sum(dim=1).max()))
    back = lambda part: part[:, :widest].to(marginals.device)  # noqa: E731
    tags = tags.masked_fill(~valid[..., None], IGNORED)
    return BestPaths(back(tags), back(log_prob.to(marginals.dtype)), back(valid), proven)


def _beam(chains: Sequence[Hidden], lengths: Tensor, num_tags: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """The `width` beginnings with the best bounds, word by word.

    Returns:
        Tag sequences (batch, at most width, words), most probable first, -100 beyond the words; their probabilities
        (batch, at most width), nats, -inf where there is none; a bound (batch,), nats, on each one dropped.
    """
    batch, words = len(lengths), int(lengths.max())
    home = chains[0].initial.device
    inside = (torch.arange(words) < lengths[:, None]).to(home)
    walk = Walk(chains, inside, num_tags)
    ahead, ahead_scale = walk.look_ahead()
    scale = torch.zeros(batch, dtype=torch.float64, device=home)  # log of what probabilities were divided by
    dropped = torch.full((batch,), -torch.inf, dtype=torch.float64, device=home)
    reached: list[Tensor] = []
    chosen, parents = [], []
    for word in range(words):
        arrived = walk.first() if word == 0 else walk.onward(reached, word)
        parts = [walk.by_tag(a * h[:, None], m, word) for m, (a, h) in enumerate(zip(arrived, ahead[word]))]
        flat = reduce(torch.add, parts).flatten(1)
        values, best = flat.topk(min(width + 1, flat.shape[1]), dim=1)
        if values.shape[1] > width:
            dropped = torch.maximum(dropped, values[:, width].log() + scale + ahead_scale[word])
            values, best = values[:, :width], best[:, :width]
        parent, tag = best // num_tags, best % num_tags
        peak = or_one(values[:, 0])
        reached = [walk.narrowed(a, m, word, parent, tag) / peak[:, None, None] for m, a in enumerate(arrived)]
        scale = scale + peak.log()
        chosen.append(tag)
        parents.append(parent)
    log_prob = (values / peak[:, None]).log() + scale[:, None]
    paths = torch.empty(batch, values.shape[1], words, dtype=torch.long, device=home)
    at = torch.arange(values.shape[1], device=home).expand(batch, -1)
    for word in reversed(range(words)):
        paths[..., word] = chosen[word].gather(1, at)
        at = parents[word].gather(1, at)
    return paths.masked_fill(~inside[:, None], IGNORED), log_prob, dropped
