"""Comparisons of a student's distribution with a teacher's answers, from which the objectives are made.

*Groups of tags.* A teacher that knows no locations tags a location as O; to this teacher the student's O, B-LOC and
I-LOC are one *group*. Groups partition the student's tags, and the teacher's answers name each group by its first tag,
the representative (`teacher_groups`: tag -> representative). The probability of a sequence of groups is a sum over all
tag sequences that pass through them, which a chain computes exactly: the student's probability of the teacher's path
is its probability of a set of paths (marginal distillation; Yu and Yang 2020, arXiv 2004.05140).

*Word by word.* Local distributions are compared by cross-entropy, and local scores by a squared distance.

*Gates.* A gate g between 0 and 1 weighs the cross-entropy of marginals against that of the k best sequences. To have a
gate for each word, the likelihood of a sequence is cut into words by the chain rule, from the left:

    log p(y) = sum over words i of log p(y_i | y_1 ... y_{i-1})

which is exact for a chain, and for groups of tags as well: the probability of a beginning is a sum over everything
that can follow it.
"""

import torch
from torch import Tensor

from ..modeling.crf import LinearChainCRF
from ..modeling.crf_reference import NEG_INF, Scores, forward_backward, logsumexp


def group_log_probs(log_probs: Tensor, groups: Tensor | None) -> Tensor:
    """Log-probabilities of groups.

    Args:
        log_probs: (batch, words, tags), nats.
        groups: (batch, tags), each tag's representative; `None` where every tag is alone.

    Returns:
        (batch, words, tags), nats, at the representatives; -inf at other tags.
    """
    if groups is None:
        return log_probs
    index = groups[:, None, :].expand_as(log_probs)
    peak = torch.full_like(log_probs, -torch.inf).scatter_reduce(2, index, log_probs.detach(), "amax")
    peak = torch.where(peak > -torch.inf, peak, 0.0)
    sums = torch.zeros_like(log_probs).scatter_add(2, index, (log_probs - peak.gather(2, index)).exp())
    exists = sums > 0
    return torch.where(exists, torch.where(exists, sums, 1.0).log() + peak, -torch.inf)


def tag_sets(tags: Tensor, num_tags: int, groups: Tensor | None) -> Tensor:
    """The tags that the k paths take at each word, and the other tags of their groups.

    Args:
        tags: (batch, k, words), -100 beyond the words and on paths that do not exist.
        num_tags: the number of the student's labels.
        groups: (batch, tags), or `None`.

    Returns:
        (batch, words, num_tags), boolean.
    """
    batch, _, words = tags.shape
    taken = torch.zeros(batch, words, num_tags + 1, device=tags.device)  # the last column collects the padding
    taken = taken.scatter(2, torch.where(tags < 0, num_tags, tags).transpose(1, 2), 1.0)[..., :num_tags]
    if groups is not None:
        taken = taken.gather(2, groups[:, None, :].expand_as(taken))
    return taken > 0


def path_group_log_probs(student: LinearChainCRF, tags: Tensor, groups: Tensor) -> Tensor:
    """The student's log-probability of each path of groups: a sum over all paths through the groups.

    Args:
        student: the student's distribution.
        tags: (batch, k, words), representatives, -100 beyond the words and on paths that do not exist.
        groups: (batch, tags), each tag's representative.

    Returns:
        (batch, k), nats.
    """
    emissions = student.scores.emissions
    k = tags.shape[1]
    inside = groups[:, None, None, :] == tags.unsqueeze(-1)  # (batch, k, words, tags)
    missing = tags[:, :, :1, None] < 0  # no such path: any tag will do, the result is not used
    repeated = LinearChainCRF(
        emissions.repeat_interleave(k, dim=0).masked_fill(~(inside | missing).flatten(0, 1), -torch.inf),
        *student.scores[1:],
        lengths=student.lengths.repeat_interleave(k),
    )
    within = repeated.log_partition.view(-1, k)
    possible = within > -torch.inf
    return torch.where(possible, torch.where(possible, within, 0.0) - student.log_partition[:, None], -torch.inf)


def word_mask(student: LinearChainCRF) -> Tensor:
    """1 on the words of each sentence, 0 on the padding: (batch, words, 1)."""
    emissions = student.scores.emissions
    position = torch.arange(emissions.shape[1], device=emissions.device)
    inside = position < student.lengths.to(emissions.device)[:, None]
    return inside.unsqueeze(-1).to(torch.float32)


def local_cross_entropy(
    teacher: Tensor, student_log_probs: Tensor, temperature: float, word_weights: Tensor | None = None
) -> Tensor:
    """Sum over words and tags of -q_t^(1/T)/Z_t * log(q_s^(1/T)/Z_s).

    A tag whose probability is exactly 0 for the teacher, or was rounded to 0 in float16, stays at 0 whatever T is.

    Args:
        teacher: (batch, words, tags), probabilities, 0 on padding.
        student_log_probs: (batch, words, tags), nats.
        temperature: T.
        word_weights: (batch, words), what each word's cross-entropy is multiplied by; `None`: 1.

    Returns:
        (batch,), nats.
    """
    if temperature != 1.0:
        words = teacher.sum(dim=-1, keepdim=True) > 0
        logits = torch.where(teacher > 0, teacher.clamp(min=torch.finfo(torch.float32).tiny).log(), -torch.inf)
        teacher = torch.where(words, logits / temperature, 0.0).softmax(dim=-1) * words
        student_log_probs = (student_log_probs / temperature).log_softmax(dim=-1)
    # where: 0 * -inf is NaN, and a tag that the student's constraints forbid has log-probability -inf.
    possible = teacher > 0
    terms = teacher * torch.where(possible, student_log_probs, torch.zeros((), dtype=student_log_probs.dtype))
    by_word = terms.sum(dim=2)
    return -(by_word if word_weights is None else by_word * word_weights).sum(dim=1)


def pair_distance(
    student: LinearChainCRF, emissions: Tensor, transitions: Tensor, start: Tensor, end: Tensor
) -> Tensor:
    """The squared distance of the sub-structure objective.

    With d_e(b) and d_t(a, b) the differences of emissions and transitions, the mean over pairs of
    (d_e(b) + d_t(a, b) - its mean)^2 is a variance, E[x^2] - E[x]^2, which expands into sums over b alone and one sum
    over pairs per sentence: no array of words x tags x tags is built.

    Args:
        student: the student's distribution.
        emissions: (batch, words, tags), the teacher's, nats.
        transitions: (batch, tags, tags), the teacher's, nats.
        start, end: (batch, tags), the teacher's, nats.

    Returns:
        (batch,), nats squared.
    """
    scores = [score.double() for score in student.scores]  # a variance of scores cancels badly in float32
    words = word_mask(student).squeeze(-1)
    d_t, pairs = _difference(scores[1].expand_as(transitions), transitions)
    d_start, starts = _difference(scores[2].expand_as(start), start)
    d_end, ends = _difference(scores[3].expand_as(end), end)
    d_e, tags = _difference(scores[0], emissions)
    tags = tags * words.unsqueeze(-1)  # 1 on the tags that both have at a word
    last = (student.lengths.to(words.device) - 1)[:, None, None].expand(-1, 1, d_e.shape[-1])
    d_e = d_e.scatter_add(1, last, d_end.unsqueeze(1))
    tags = tags.scatter(1, last, tags.gather(1, last) * ends.unsqueeze(1))
    d_e = d_e * tags

    # Every word after the first: the mean and the mean square over the pairs (a, b) that exist.
    predecessors = pairs.sum(dim=1)  # from how many tags each tag can be reached
    sums, squares = d_t.sum(dim=1), (d_t**2).sum(dim=1)
    total = lambda by_word, by_tag: torch.einsum("bic,bc->bi", by_word, by_tag)  # noqa: E731
    count = total(tags, predecessors).clamp(min=1)
    mean = (total(d_e, predecessors) + total(tags, sums)) / count
    square = (total(d_e**2, predecessors) + 2 * total(d_e, sums) + total(tags, squares)) / count
    later = ((square - mean**2) * words)[:, 1:].sum(dim=1)

    starts = starts * tags[:, 0]
    first = (d_e[:, 0] + d_start) * starts
    number = starts.sum(dim=1).clamp(min=1)
    first_variance = (first**2).sum(dim=1) / number - (first.sum(dim=1) / number) ** 2
    return (later + first_variance).to(torch.promote_types(student.scores.emissions.dtype, torch.float32))


def _difference(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """`student - teacher`, 0 where either is -inf or NaN; and 1 where both are finite, 0 elsewhere; of their shape."""
    finite = student.isfinite() & teacher.isfinite()
    return torch.where(finite, student, 0.0) - torch.where(finite, teacher, 0.0), finite.to(student.dtype)


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
        reached = torch.cat((torch.ones_like(steps[..., :1] > 0), moves > NEG_INF), dim=-1)
        possible = (steps > NEG_INF) & reached
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

    The beta of `forward_backward`, without its alpha, which would double the time.
    """
    last = end.expand_as(emissions[:, 0])
    betas = [last]
    for word in range(emissions.shape[1] - 1, 0, -1):
        step = logsumexp(transitions + (emissions[:, word] + betas[-1])[:, None, :], 2)
        betas.append(torch.where((word < lengths)[:, None], step, last))
    return torch.stack(betas[::-1], 1)
