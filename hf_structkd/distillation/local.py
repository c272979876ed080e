"""Comparing two chains word by word: local distributions, and local scores."""

import torch
from torch import Tensor

from ..modeling.linear_chain import LinearChainCRF


def words_of(student: LinearChainCRF) -> Tensor:
    """1 on the words of each sentence, 0 on the padding: (batch, words, 1)."""
    emissions = student.scores.emissions
    position = torch.arange(emissions.shape[1], device=emissions.device)
    inside = position < student.lengths.to(emissions.device)[:, None]
    return inside.unsqueeze(-1).to(torch.float32)


def local_cross_entropy(teacher: Tensor, student_log_probs: Tensor, temperature: float) -> Tensor:
    """Sum over words and tags of -q_t^(1/T)/Z_t * log(q_s^(1/T)/Z_s): (batch,).

    A tag whose probability is exactly 0 for the teacher, or was rounded to it in float16, stays at 0 whatever T is.

    Args:
        teacher: (batch, words, tags), probabilities, zero off the words.
        student_log_probs: (batch, words, tags), nats.
        temperature: T.
    """
    if temperature != 1.0:
        words = teacher.sum(dim=-1, keepdim=True) > 0
        logits = torch.where(teacher > 0, teacher.clamp(min=torch.finfo(torch.float32).tiny).log(), -torch.inf)
        teacher = torch.where(words, logits / temperature, 0.0).softmax(dim=-1) * words
        student_log_probs = (student_log_probs / temperature).log_softmax(dim=-1)
    # where: 0 * -inf is NaN, and a tag that the student's constraints forbid has log-probability -inf.
    possible = teacher > 0
    terms = teacher * torch.where(possible, student_log_probs, torch.zeros((), dtype=student_log_probs.dtype))
    return -terms.sum(dim=(1, 2))


def pair_distance(
    student: LinearChainCRF, emissions: Tensor, transitions: Tensor, start: Tensor, end: Tensor
) -> Tensor:
    """The squared distance of the sub-structure objective, student to teacher: (batch,), nats squared.

    With d_e(b) and d_t(a, b) the differences of emissions and transitions, the mean over pairs of
    (d_e(b) + d_t(a, b) - its mean)^2 is a variance, E[x^2] - E[x]^2, which expands into sums over b alone and one sum
    over pairs a sentence: no array of words x tags x tags is built.

    Args:
        student: the student's distribution.
        emissions: (batch, words, tags), the teacher's, nats.
        transitions: (batch, tags, tags), the teacher's, nats.
        start, end: (batch, tags), the teacher's, nats.
    """
    own = [score.double() for score in student.scores]  # a variance of scores cancels badly in float32
    words = words_of(student).squeeze(-1)
    d_t, pairs = _difference(own[1].expand_as(transitions), transitions)
    d_start, starts = _difference(own[2].expand_as(start), start)
    d_end, ends = _difference(own[3].expand_as(end), end)
    d_e, tags = _difference(own[0], emissions)
    tags = tags * words.unsqueeze(-1)  # 1 on the tags that both have at a word
    last = (student.lengths.to(words.device) - 1)[:, None, None].expand(-1, 1, d_e.shape[-1])
    d_e = d_e.scatter_add(1, last, d_end.unsqueeze(1))
    tags = tags.scatter(1, last, tags.gather(1, last) * ends.unsqueeze(1))
    d_e = d_e * tags

    # Every word after the first: the mean and the mean square over the pairs (a, b) that exist.
    into = pairs.sum(dim=1)  # from how many tags each tag can be reached
    sums, squares = d_t.sum(dim=1), (d_t**2).sum(dim=1)
    total = lambda by_word, by_tag: torch.einsum("bic,bc->bi", by_word, by_tag)  # noqa: E731
    count = total(tags, into).clamp(min=1)
    mean = (total(d_e, into) + total(tags, sums)) / count
    square = (total(d_e**2, into) + 2 * total(d_e, sums) + total(tags, squares)) / count
    later = ((square - mean**2) * words)[:, 1:].sum(dim=1)

    starts = starts * tags[:, 0]
    first = (d_e[:, 0] + d_start) * starts
    number = starts.sum(dim=1).clamp(min=1)
    first_variance = (first**2).sum(dim=1) / number - (first.sum(dim=1) / number) ** 2
    return (later + first_variance).to(torch.promote_types(student.scores.emissions.dtype, torch.float32))


def _difference(mine: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """`mine - theirs`, 0 where either is -inf or NaN, and 1 where both are finite, both of the same shape."""
    both = mine.isfinite() & theirs.isfinite()
    return torch.where(both, mine, 0.0) - torch.where(both, theirs, 0.0), both.to(mine.dtype)
