"""Words that show what a label means: they often carry it, and seldom another."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

OUTSIDE = "O"
MIN_COUNT = 2  # a word that occurs once may be a private person's name
MIN_SHARE = 0.5
MAX_LENGTH = 20


def label_examples(
    sentences: Iterable[tuple[Sequence[str], Sequence[str] | None]],
    label_names: Sequence[str],
    count: int = 3,
) -> dict[str, list[str]]:
    """The most frequent words of each label.

    Args:
        sentences: words and their labels (names); labels that are `None` are of unlabelled sentences.
        label_names: the labels to give examples of.
        count: words per label at most.

    Returns:
        Label -> words, the most frequent first: made of letters, at most 20 of them, and with the label at least twice
        and in at least half of their occurrences. `O`, and labels without such words, are left out.
    """
    by_label: dict[str, Counter[str]] = {label: Counter() for label in label_names if label != OUTSIDE}
    total: Counter[str] = Counter()
    for words, labels in sentences:
        for word, label in zip(words, labels or ()):
            if not word.isalpha() or len(word) > MAX_LENGTH:
                continue
            total[word] += 1
            if label in by_label:
                by_label[label][word] += 1
    return {label: best for label, counts in by_label.items() if (best := _best(counts, total, count))}


def _best(counts: Mapping[str, int], total: Mapping[str, int], count: int) -> list[str]:
    examples = [word for word, n in counts.items() if n >= MIN_COUNT and n >= MIN_SHARE * total[word]]
    return sorted(examples, key=lambda word: (-counts[word], word))[:count]
