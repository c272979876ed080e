"""Which language the next training sentence comes from."""

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler


def language_counts(sizes: Sequence[int], total: int, temperature: float) -> list[int]:
    """How many of `total` draws each language gets: proportional to size ** (1 / temperature), rounded to add up.

    Temperature 1 is proportional sampling; larger values lift small languages (as XLM-R's alpha = 1 / temperature);
    infinity draws all languages alike.
    """
    sizes_ = torch.tensor(sizes, dtype=torch.float64)
    weights = sizes_ ** (0.0 if temperature == float("inf") else 1.0 / temperature)
    shares = weights / weights.sum() * total
    counts = shares.floor().long()
    remainder = total - int(counts.sum())
    counts[(shares - counts).argsort(descending=True, stable=True)[:remainder]] += 1
    return counts.tolist()


class LanguageTemperatureSampler(Sampler[int]):
    """Sentences in random order, languages in proportion to a power of their size.

    An epoch is as long as the dataset. Within it a language's sentences are all used before one is used again. The
    order depends on the seed and the epoch alone, so every process of a distributed run draws the same one.

    Args:
        languages: each row's language.
        temperature: see [`language_counts`]; above 0.
        seed: of the order.

    Raises:
        ValueError: if the temperature is not above 0, or there are no rows.
    """

    def __init__(self, languages: Sequence[str], temperature: float, seed: int = 0) -> None:
        if not temperature > 0:
            raise ValueError(f"the language sampling temperature must be above 0, not {temperature}")
        if not len(languages):
            raise ValueError("there are no sentences to sample from")
        rows: dict[str, list[int]] = {}
        for row, language in enumerate(languages):
            rows.setdefault(language, []).append(row)
        self.rows = {language: torch.tensor(indices) for language, indices in rows.items()}
        self.counts = language_counts([len(r) for r in self.rows.values()], len(languages), temperature)
        self.seed, self.epoch, self.total = seed, 0, len(languages)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.total

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        drawn = []
        for rows, count in zip(self.rows.values(), self.counts):
            rounds = -(-count // len(rows))
            order = torch.cat([torch.randperm(len(rows), generator=generator) for _ in range(rounds)])
            drawn.append(rows[order[:count]])
        mixed = torch.cat(drawn)
        yield from mixed[torch.randperm(len(mixed), generator=generator)].tolist()
