"""How far the words of a corpus are those that the pipeline would cut its texts into.

A tagger learns words as its corpus cuts them, and finds words in raw text by its segmenter. Where a corpus has its
texts as well as words of its own (CoNLL-U, Prodigy, spaCy), the two can be compared.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from ..modeling.segmenters import Segmenter
from .source_text import CorpusError, RawSentence, setting

logger = logging.getLogger(__name__)

SENTENCES_COMPARED = 2_000  # of a source, from its start: enough for a share of words, and a second
_EXAMPLES = 5


@dataclass
class WordAgreement:
    """A comparison of a corpus's words with those of a segmenter.

    Attributes:
        sentences: the sentences that were compared.
        words: their words in the corpus.
        same: those of them that the segmenter finds too, in the same place.
        examples: differences, as the corpus and as the segmenter have them.
        segmenter: the name of the segmenter, for messages and records.
    """

    sentences: int = 0
    words: int = 0
    same: int = 0
    examples: list[tuple[str, str]] = field(default_factory=list)

    segmenter: str = ""

    @property
    def share(self) -> float:
        """The share of the words that the segmenter finds too."""
        return self.same / self.words if self.words else 1.0

    def summary(self) -> dict[str, Any]:
        """The comparison as JSON values, without examples, which are text of the corpus."""
        return {"segmenter": self.segmenter, "share": self.share, "words": self.words, "sentences": self.sentences}

    def __str__(self) -> str:
        shown = "; ".join(f"{learnt!r} is {other!r}" for learnt, other in self.examples)
        return f"{100 * self.share:.1f} % of {self.words:,} words" + (f" ({shown})" if shown else "")


def compare_words(sentences: Iterable[RawSentence], segment: Segmenter) -> WordAgreement:
    """Compare the words of sentences with those that a segmenter finds in their texts.

    Args:
        sentences: those without a text, or whose words a segmenter found, are passed over; the first
            `SENTENCES_COMPARED` of the others are compared.
        segment: finds the words of a text.

    Raises:
        CorpusError: if the segmenter fails at a text; the message names the place.
    """
    agreement = WordAgreement()
    with_texts = (sentence for sentence in sentences if sentence.own_words and sentence.text is not None)
    for sentence in islice(with_texts, SENTENCES_COMPARED):
        try:
            offsets = segment(sentence.text or "")
        except ValueError as error:
            raise CorpusError(f"{sentence.place(0)}: {error}") from error
        _count(sentence, offsets, agreement)
    return agreement


def _count(sentence: RawSentence, offsets: list[tuple[int, int]], agreement: WordAgreement) -> None:
    text, known = sentence.text or "", set(offsets)
    agreement.sentences += 1
    agreement.words += len(sentence.tokens)
    differing = []
    for word, place in zip(sentence.tokens, sentence.offsets):
        if place in known:
            agreement.same += 1
        else:
            differing.append((word, place))
    for word, place in differing[:1]:  # one per sentence, so that examples differ
        if len(agreement.examples) == _EXAMPLES:
            return
        around = [] if place is None else [text[a:b] for a, b in offsets if a < place[1] and b > place[0]]
        other = " ".join(around) if around else "not in the text"
        if (word, other) not in agreement.examples:
            agreement.examples.append((word, other))


def log_agreement(source: str, agreement: WordAgreement) -> None:
    """Log how far a corpus has the words of a segmenter: a warning where one in fifty words or more differs.

    Args:
        source: the corpus.
        agreement: the comparison.
    """
    if not agreement.words:
        return
    differs_much = agreement.share <= 0.98
    advice = f"; choose other words ({setting('words')}) if its texts are to be tagged" if differs_much else ""
    logger.log(
        logging.WARNING if differs_much else logging.INFO,
        "%s: in its texts the words %r find %s%s.",
        source,
        agreement.segmenter,
        agreement,
        advice,
    )
