"""What fuzzed inputs are held to, and how many there are.

`make test` tries a few inputs of every kind, the same ones every time; `make fuzz` tries new ones, FUZZ_CASES for each
surface (8,500 by default there), and ends with their number.
"""

import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from hypothesis import HealthCheck, settings, strategies

import hf_structkd

CASES = int(os.environ.get("FUZZ_CASES", "0"))
FEW = 25
PACKAGE = str(Path(hf_structkd.__file__).parent)


def fuzz(share: float = 1.0):
    """Settings of a property.

    Args:
        share: of the cases that the others have; less where one case takes long.
    """
    return settings(
        max_examples=max(1, round(CASES * share)) if CASES else FEW,
        derandomize=not CASES,  # a suite that passes today passes tomorrow; new inputs are what `make fuzz` is for
        database=None,
        deadline=timedelta(seconds=20),  # a hang, not a slow machine
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )


@contextmanager
def only_our_errors(*named: object, kinds: tuple[type[Exception], ...] = (ValueError, OSError)) -> Iterator[None]:
    """Let pass what the package says of a bad input, and nothing else.

    Args:
        named: what the message has to name, a file say.
        kinds: errors that the package raises here.

    Raises:
        AssertionError: for an error raised by other people's code, or one whose message lacks a name.
    """
    try:
        yield
    except kinds as error:
        where = traceback.extract_tb(error.__traceback__)[-1].filename
        if not where.startswith(PACKAGE):
            raise AssertionError(f"{type(error).__name__} out of {where}: {error}") from error
        if missing := [str(name) for name in named if str(name) not in str(error)]:
            raise AssertionError(f"does not name {missing}: {error}") from error


# What breaks readers: blanks and line ends of all kinds, marks, joiners, surrogates, other directions, other planes.
AWKWARD = (
    *("", " ", "\t", "\n", "\r", "\r\n", "\0", "\x0b", "\x1c", "\x85", "\xa0", "\xad", "\u200b", "\u200c", "\u200d"),
    *("\u2028", "\u3000", "\ufeff", "\ufffe", "\ufffd", "\u0301", "\u0301\u0301", "\u202e", "\u2066", "\ud800"),
    *(
        "\udc00",
        "\U000e0041",
        "👩‍👩‍👧",
        "🇩🇪",
        "☺\ufe0f",
        "ﷺ",
        "שלום",
        "مرحبا",
        "हिन्दी",
        "日本",
        "İ",
        "ß",
        "ﬁ",
        "Å",
        "\u1100\u1161",
    ),
    *("#", "-DOCSTART-", "O", "B-PER", "I-PER", "B-", "_", "1-2", "1.1", "{", "[", '"', "\\", "''", "n't", "..."),
)
TEXT = strategies.one_of(
    strategies.text(max_size=40),
    strategies.text(strategies.characters(categories=("Cs", "Cc", "Cf", "Mn", "Zs", "So", "Lo")), max_size=20),
    strategies.lists(strategies.sampled_from(AWKWARD), max_size=12).map("".join),
)
