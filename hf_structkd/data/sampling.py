"""Which sentences are trained on, and in which order.

An annotated file is divided into sentences to train on, to choose a model by, and to score it on. In training,
languages, and sentences with and without gold tags, come in chosen proportions.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices

from .source_text import CorpusError, RawSentence


def language_counts(sizes: Sequence[int], total: int, temperature: float) -> list[int]:
    """How many sentences to draw from each language: proportional to size ** (1 / temperature), rounded to add up.

    Args:
        sizes: sentences of each language.
        total: sentences to draw.
        temperature: 1 is proportional sampling; larger values favour small languages (XLM-R's alpha is
            1 / temperature); infinity draws all languages alike.

    Returns:
        Sentences to draw from each language.
    """
    logs = torch.tensor(sizes, dtype=torch.float64).log()
    # Relative to the largest, whose weight is 1: at low temperatures the other weights can only underflow to 0.
    weights = ((logs - logs.max()) / temperature).exp()
    shares = weights / weights.sum() * total
    counts = shares.floor().long()
    remainder = total - int(counts.sum())
    counts[(shares - counts).argsort(descending=True, stable=True)[:remainder]] += 1
    return counts.tolist()


def unlabelled_count(labelled: int, rate: float) -> int:
    """How many sentences without gold to add to `labelled` sentences, so that they are the share `rate` of all."""
    return round(labelled * rate / (1.0 - rate))


class MixedSampler(Sampler[int]):
    """Sentences in random order, languages in proportion to a power of their size, unlabelled ones at a chosen rate.

    An epoch has as many sentences as the dataset or, with an `unlabelled_rate`, all labelled sentences and as many
    unlabelled sentences as make that share. All sentences of a language, with gold or without, are used before one is
    used again, across epochs too. The order depends on the seed and the epoch alone, so every process of a distributed
    run draws the same order.

    Args:
        languages: each row's language.
        temperature: see [`language_counts`]; above 0. Labelled and unlabelled sentences are balanced separately.
        seed: of the order.
        labelled: whether each row has gold tags; needed with an `unlabelled_rate`.
        unlabelled_rate: the share of unlabelled sentences among those drawn, in [0, 1); `None` treats all rows alike.
        lengths: each row's length; if given, sentences of similar length form batches, which saves padding.
        batch_size: sentences per batch, with `lengths`.

    Raises:
        ValueError: if the temperature or the rate is out of range, there are no rows, or there are no sentences
            with, or without, gold tags where the rate needs them.
    """

    def __init__(
        self,
        languages: Sequence[str],
        temperature: float = 1.0,
        seed: int = 0,
        *,
        labelled: Sequence[bool] | None = None,
        unlabelled_rate: float | None = None,
        lengths: Sequence[int] | None = None,
        batch_size: int = 1,
    ) -> None:
        if not temperature > 0:
            raise ValueError(f"the language sampling temperature must be above 0, not {temperature}")
        if not len(languages):
            raise ValueError("there are no sentences to sample from")
        if unlabelled_rate is not None and not 0 <= unlabelled_rate < 1:
            raise ValueError(f"the unlabelled rate must be in [0, 1), not {unlabelled_rate}")
        if unlabelled_rate is None or labelled is None:
            labelled = [True] * len(languages)
        rows: dict[tuple[bool, str], list[int]] = {}
        for row, (language, has_gold) in enumerate(zip(languages, labelled)):
            rows.setdefault((bool(has_gold), language), []).append(row)
        total = {True: sum(len(r) for (gold, _), r in rows.items() if gold), False: 0}
        if unlabelled_rate is not None:
            total[False] = unlabelled_count(total[True], unlabelled_rate)
            if not total[True] or (unlabelled_rate and len(languages) == total[True]):
                missing = "without" if total[True] else "with"
                raise ValueError(f"an unlabelled rate of {unlabelled_rate} needs sentences {missing} gold tags too")
        # Each stratum: its rows, and how many of them each epoch draws.
        self.strata: list[tuple[Tensor, int]] = []
        for gold in (True, False):
            strata = [torch.tensor(r) for (has_gold, _), r in rows.items() if has_gold == gold]
            counts = language_counts([len(r) for r in strata], total[gold], temperature) if strata else []
            self.strata += list(zip(strata, counts))
        self.seed, self.epoch, self.total = seed, 0, sum(total.values())
        self.lengths, self.batch_size = lengths, batch_size

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.total

    def __iter__(self) -> Iterator[int]:
        drawn = torch.cat([self._draw(stratum) for stratum in range(len(self.strata))])
        generator = self._generator(len(self.strata), self.epoch)
        if self.lengths is None:
            yield from drawn[torch.randperm(len(drawn), generator=generator)].tolist()
        else:
            lengths = [self.lengths[row] for row in drawn.tolist()]
            order = get_length_grouped_indices(lengths, self.batch_size, generator=generator)
            yield from drawn[torch.tensor(order)].tolist()

    def _draw(self, stratum: int) -> Tensor:
        """This epoch's part of the stratum's endless sequence of permutations."""
        rows, count = self.strata[stratum]
        start = self.epoch * count
        rounds = range(start // len(rows), -(-(start + count) // len(rows)))
        orders = [torch.randperm(len(rows), generator=self._generator(stratum, round_)) for round_ in rounds]
        if not orders:
            return rows[:0]
        skipped = start - rounds[0] * len(rows)
        return rows[torch.cat(orders)[skipped : skipped + count]]

    def _generator(self, *numbers: int) -> torch.Generator:
        mixed = self.seed
        for number in numbers:
            mixed = (mixed * 1_000_003 + number + 1) % 2**63
        return torch.Generator().manual_seed(mixed)


_UNIT = 2**64


def divide(sentences: Sequence[RawSentence], shares: Mapping[str, float]) -> dict[str, list[RawSentence]]:
    """Divide sentences at random, but always in the same way.

    A hash of its words decides where a sentence goes. So sentences with the same words are never in two splits, and a
    sentence stays in its split when the file grows. The sizes are therefore not exactly those of the shares.

    Args:
        sentences: of one file.
        shares: split -> its share, above 0; the shares are divided by their sum.

    Returns:
        Split -> its sentences, in the order of the file.

    Raises:
        ValueError: if a share is not above 0.
        CorpusError: if a split gets no sentence, because the file is too short for such shares.
    """
    if not all(0 < share < float("inf") for share in shares.values()):
        raise ValueError(f"shares must be above 0, not {', '.join(map(str, shares.values()))}")
    bounds, total = [], 0.0
    for split, share in shares.items():
        total += share
        bounds.append((split, total))
    parts: dict[str, list[RawSentence]] = {split: [] for split in shares}
    for sentence in sentences:
        digest = hashlib.sha256("\0".join(sentence.tokens).encode()).digest()
        place = int.from_bytes(digest[:8], "big") / _UNIT * total
        parts[next((split for split, bound in bounds if place < bound), bounds[-1][0])].append(sentence)
    if empty := [split for split, part in parts.items() if not part]:
        raise CorpusError(
            f"{len(sentences)} sentences are too few for these shares: {', '.join(empty)} would be empty. Give larger "
            "shares to these splits, or annotate more sentences."
        )
    return parts
