"""Best paths beyond what enumeration can reach: long, wide, tied."""

from __future__ import annotations

import pytest
import torch

from hf_structkd.modeling.crf import LinearChainCRF

close = torch.testing.assert_close
pytestmark = pytest.mark.usefixtures("loops")  # torch and compiled


def plain_k_best(emissions, transitions, start, end, length, k):
    """Textbook k-best Viterbi for one sentence, in Python: every state keeps its k best prefixes."""
    C = len(start)
    best = [[(float(start[c] + emissions[0, c]), (c,))] for c in range(C)]
    for t in range(1, length):
        step = []
        for c in range(C):
            options = [
                (s + float(transitions[p[-1], c]) + float(emissions[t, c]), (*p, c)) for q in best for s, p in q
            ]
            step.append(sorted(options, key=lambda option: -option[0])[:k])
        best = step
    final = [(score + float(end[path[-1]]), path) for options in best for score, path in options]
    return sorted(final, key=lambda option: -option[0])[:k]


def random_chain(B, T, C, seed, rounded=False):
    generator = torch.Generator().manual_seed(seed)
    parts = [
        torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((B, T, C), (C, C), (C,), (C,))
    ]
    lengths = torch.randint(1, T + 1, (B,), generator=generator)
    lengths[0] = T
    return [part.round() if rounded else part for part in parts], lengths


@pytest.mark.parametrize(("T", "C", "k"), [(40, 4, 10), (12, 26, 5), (25, 3, 30)])
@pytest.mark.parametrize("rounded", [False, True])
def test_long_chains_agree_with_textbook_k_best(T, C, k, rounded):
    """Danger: a beam that loses a path after many steps; a wrong path when scores tie."""
    parts, lengths = random_chain(3, T, C, seed=T + C, rounded=rounded)
    crf = LinearChainCRF(*parts, lengths=lengths)
    found = crf.topk(k)
    tags, score = crf.argmax()
    close(tags, found.tags[:, 0])
    for b, length in enumerate(lengths.tolist()):
        truth = plain_k_best(parts[0][b], *parts[1:], length, k)
        n = len(truth)
        assert int(found.valid[b].sum()) == n
        close(found.log_prob[b, :n] + crf.log_partition[b], torch.tensor([s for s, _ in truth]).double())
        close(score[b], torch.tensor(truth[0][0]).double())
        paths = [tuple(path) for path in found.tags[b, :n, :length].tolist()]
        assert len(set(paths)) == n
        if not rounded:
            assert paths == [path for _, path in truth]


@pytest.mark.parametrize("C", [3, 40])
def test_all_paths_tied(C):
    """Danger: the shortcut without back-pointers mixing two of the equally good paths into a third, worse one."""
    # Any constant path is best: score 0. Changing tags costs 1.
    crf = LinearChainCRF(torch.zeros(2, 9, C), torch.eye(C) - 1, lengths=torch.tensor([9, 4]))
    tags, score = crf.argmax()
    close(score, torch.zeros(2))
    close(tags[0], torch.zeros(9, dtype=torch.long))
    best = crf.topk(C + 1)
    close(best.tags[0, :C], torch.arange(C)[:, None].expand(C, 9))
    close((best.log_prob + crf.log_partition[:, None])[:, -1], torch.tensor([-1.0, -1.0]))


def test_nearly_tied_paths():
    """Danger: a tie decided word by word by rounding errors."""
    for seed in range(20):
        parts, lengths = random_chain(2, 30, 3, seed, rounded=True)
        parts[0] = parts[0] * 0.1  # sums of tenths differ in the last bit with the order of summation
        crf = LinearChainCRF(*(part * 0.1 for part in parts), lengths=lengths)
        tags, score = crf.argmax()
        close(crf.log_prob(tags), score - crf.log_partition)
        close(crf.topk(1).log_prob[:, 0], crf.log_prob(tags))
        close(crf.topk(1).tags[:, 0], tags)


def test_more_paths_than_there_are():
    """Danger: phantom paths for one-word sentences, K beyond the tag set (both in the paper's code)."""
    crf = LinearChainCRF(torch.tensor([[[2.0, 1.0, 0.0]]]), torch.zeros(3, 3))
    best = crf.topk(7)
    assert best.tags[0, :, 0].tolist() == [0, 1, 2, -100, -100, -100, -100]
    assert best.valid[0].tolist() == [True] * 3 + [False] * 4
    close(best.log_prob[0, :3], torch.tensor([2.0, 1.0, 0.0]).log_softmax(0))
    assert bool((best.log_prob[0, 3:] == -torch.inf).all())


def test_a_path_scored_like_a_constraint_is_still_a_path():
    """Danger: confusing a very low score with a structural zero."""
    emissions = torch.tensor([[[0.0, -1e6], [-1e6, 0.0]]])
    best = LinearChainCRF(emissions, torch.zeros(2, 2)).topk(5)
    assert best.valid[0].tolist() == [True] * 4 + [False]
    close(best.log_prob[0, :4], torch.tensor([0.0, -1e6, -1e6, -2e6]))
