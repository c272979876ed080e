"""Gates: how much a student learns from each word's distribution, and how much from whole tag sequences.

A gate g between 0 and 1 weighs the cross-entropy of marginals against that of the k best sequences. To have a gate for
each word, the likelihood of a sequence is cut into words by the chain rule, from the left:

    log p(y) = sum over words i of log p(y_i | y_1 ... y_{i-1})

which is exact for a chain, and for groups of tags as well: the probability of a beginning is a sum over everything
that can follow it.
"""

import torch
from torch import Tensor

from ..modeling.crf import LinearChainCRF
from ..modeling.crf_reference import NEG_INF, Scores, forward_backward, logsumexp
from .comparisons import word_mask


def word_gates(marginals: Tensor) -> Tensor:
    """exp(-entropy of each word's tag): 1 where the teacher is certain, 1/n where it wavers evenly between n tags.

    Args:
        marginals: (batch, words, tags), the teacher's probabilities; 0 on padding.

    Returns:
        (batch, words).
    """
    probabilities = marginals.clamp(min=torch.finfo(torch.float32).tiny)
    return (marginals * probabilities.log()).sum(dim=-1).exp()


def sentence_gates(entropy: Tensor, lengths: Tensor) -> Tensor:
    """exp(-entropy of the tag sequence / words): the same on the average of the sentence's words.

    Args:
        entropy: (batch,), nats.
        lengths: (batch,), words.

    Returns:
        (batch,).
    """
    return (-entropy / lengths.to(entropy.device)).exp()


def word_log_probs(student: LinearChainCRF, tags: Tensor, groups: Tensor | None) -> Tensor:
    """The log-probability of each word's tag in some paths, given the tags before it.

    Args:
        student: the student's distribution.
        tags: (batch, k, words), representatives of groups, -100 beyond the words and on paths that do not exist.
        groups: (batch, tags), each tag's representative; `None` where every tag is alone.

    Returns:
        (batch, k, words), nats, float64 where the device has it; 0 beyond the words and on paths that do not exist.
        Where the student excludes a path, -inf at the first word that makes it impossible, and 0 behind it.
    """
    wide = torch.float32 if student.scores.emissions.device.type == "mps" else torch.float64
    emissions, transitions, start, end = (part.to(wide) for part in student.scores)
    emissions = torch.where(word_mask(student) > 0, emissions, 0.0)
    lengths = student.lengths.to(emissions.device)
    batch, k, words = tags.shape
    betas = _completions(emissions, transitions, end, lengths)
    log_z = logsumexp(start + emissions[:, 0] + betas[:, 0], 1)
    if groups is None:
        index = tags.clamp(min=0)
        rows = torch.arange(batch, device=tags.device)[:, None, None]
        columns = torch.arange(words, device=tags.device)
        steps = emissions[rows, columns, index]
        steps = torch.cat((steps[..., :1] + start[index[..., :1]], steps[..., 1:]), dim=-1)
        moves = transitions[index[..., :-1], index[..., 1:]]
        possible = (steps > NEG_INF) & torch.cat((torch.ones_like(moves[..., :1] > 0), moves > NEG_INF), dim=-1)
        steps = torch.where(possible, torch.cat((steps[..., :1], steps[..., 1:] + moves), dim=-1), 0.0)
        follows = betas[rows, columns, index]
        impossible = (~possible).cumsum(dim=-1) > 0
        beginnings = torch.where(impossible, NEG_INF, steps.cumsum(dim=-1) + follows)
    else:
        inside = (groups[:, None, None, :] == tags.unsqueeze(-1)) | (tags < 0).unsqueeze(-1)
        within = emissions[:, None].masked_fill(~inside, NEG_INF).flatten(0, 1)
        restricted = Scores(within, transitions, start, end)
        alphas, _, _ = forward_backward(restricted, lengths.repeat_interleave(k))
        beginnings = logsumexp(alphas.view(batch, k, words, -1) + betas[:, None], -1)
    exists = beginnings > NEG_INF
    finite = torch.where(exists, beginnings, 0.0)
    before = torch.cat((log_z[:, None, None].expand(-1, k, 1), finite[..., :-1]), dim=-1)
    before_exists = torch.cat((torch.ones_like(exists[..., :1]), exists[..., :-1]), dim=-1)
    log_probs = torch.where(exists & before_exists, finite - torch.where(exists, before, 0.0), 0.0)
    log_probs = torch.where(~exists & before_exists, NEG_INF, log_probs)
    return torch.where(tags >= 0, log_probs, 0.0)


def _completions(emissions: Tensor, transitions: Tensor, end: Tensor, lengths: Tensor) -> Tensor:
    """Log-sum over all that follows each word's tag, (batch, words, tags), with gradient; end scores beyond the words.

    The beta of `forward_backward`, without its alpha: half the time, which is this module's.
    """
    last = end.expand_as(emissions[:, 0])
    betas = [last]
    for word in range(emissions.shape[1] - 1, 0, -1):
        step = logsumexp(transitions + (emissions[:, word] + betas[-1])[:, None, :], 2)
        betas.append(torch.where((word < lengths)[:, None], step, last))
    return torch.stack(betas[::-1], 1)
