"""Danger: a long text is cut, or a subword gets another position's vector."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_structkd.modeling.windows import content_mask, encode_in_windows, window_starts


def remember(ids, mask):
    """An 'encoder' whose vector is the subword itself, the window's length, and the distance to its edges."""
    place = torch.arange(ids.shape[1]).expand_as(ids)
    last = mask.sum(dim=1, keepdim=True) - 1
    return torch.stack((ids, torch.minimum(place, last - place)), dim=-1).float()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(3, 70), min_size=1, max_size=4), st.integers(5, 12), st.data())
def test_every_subword_keeps_its_own_vector(counts, window, data):
    overlap = data.draw(st.integers(0, window - 3))
    ids, mask = torch.zeros(len(counts), max(counts), dtype=torch.long), torch.zeros(len(counts), max(counts))
    for row, count in enumerate(counts):
        ids[row, :count] = torch.randperm(1000)[:count] + 5
        mask[row, :count] = 1
    vectors = encode_in_windows(remember, ids, mask, window=window, overlap=overlap)
    assert (vectors[..., 0] == ids * mask).all()


def test_overlap_gives_context_on_both_sides():
    ids = torch.arange(102)[None]
    vectors = encode_in_windows(remember, ids, torch.ones_like(ids), window=22, overlap=10)
    inner = vectors[0, 12:-12, 1]
    assert inner.min() >= 5  # at least half the overlap lies on the nearer side of every inner subword


def test_windows_cover_and_overlap_as_asked():
    starts = window_starts(100, 20, 5)
    covered = {i for start in starts for i in range(start, start + 20)}
    assert covered == set(range(100))
    assert all(b - a <= 15 for a, b in itertools.pairwise(starts))


def test_content_leaves_out_special_tokens_and_padding():
    mask = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]])
    assert content_mask(mask).tolist() == [[False, True, True, False, False], [False] * 5]


@pytest.mark.parametrize(
    ("mask", "overlap", "message"),
    [([[0, 1, 1, 1, 1, 1, 1, 1]], 1, "padded on the right"), ([[1] * 8], 3, "window_overlap")],
)
def test_bad_input_is_named(mask, overlap, message):
    with pytest.raises(ValueError, match=message):
        encode_in_windows(remember, torch.ones(1, 8, dtype=torch.long), torch.tensor(mask), window=5, overlap=overlap)
