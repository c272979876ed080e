"""The words of raw text where nobody names a segmenter.

Rules find the words of most scripts. Thai, Lao, Khmer, Burmese and Japanese have no blanks between words; where a text
has such a script and PyICU is installed, ICU finds its words (`rules+icu`). What was chosen is logged, and a model
stores the name, so that it means the same words on every machine.
"""

import logging
from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from ..modeling.segmenters import DEFAULT_UNSPACED_WORDS, DEFAULT_WORDS, Offsets, Segmenter, get_segmenter
from ..modeling.unspaced_scripts import UNSPACED
from .columns import TOKENS

logger = logging.getLogger(__name__)

_SCRIPTS = "Thai, Lao, Khmer, Burmese or Japanese"
_ADVICE = f"PyICU finds them (pip install 'hf_structkd[icu]', then words {DEFAULT_UNSPACED_WORDS!r})"


def default_words(has_unspaced: bool) -> str:
    """The name of the segmenter that is the default.

    Args:
        has_unspaced: whether there are texts of scripts without blanks between words.
    """
    return DEFAULT_UNSPACED_WORDS if has_unspaced and find_spec("icu") is not None else DEFAULT_WORDS


class DefaultSegmenter:
    """The default segmenter, for the texts of one source.

    Attributes:
        has_unspaced: whether a text so far had a script without blanks between words.
    """

    def __init__(self) -> None:
        self.has_unspaced = False
        self._rules, self._unspaced = get_segmenter(DEFAULT_WORDS), get_segmenter(default_words(True))

    def __call__(self, text: str) -> Offsets:
        if UNSPACED.search(text) is None:
            return self._rules(text)
        self.has_unspaced = True
        return self._unspaced(text)

    def log(self, source: str) -> None:
        """Log which words the texts of the source got, where that depends on what is installed."""
        if not self.has_unspaced:
            return
        if default_words(True) == DEFAULT_WORDS:
            logger.warning(
                "%s: its words of %s run from blank to blank, or are characters, because PyICU is not installed. %s.",
                source,
                _SCRIPTS,
                _ADVICE,
            )
        else:
            logger.info(
                "%s: its words of %s are ICU's; words %r is the name for them.",
                source,
                _SCRIPTS,
                DEFAULT_UNSPACED_WORDS,
            )


def segmenter_name(words: Any, segment: Segmenter) -> str:
    """The name of a segmenter, for messages.

    Args:
        words: as it was chosen: a name, a function, or `None` for the default.
        segment: what was made of it.
    """
    if isinstance(segment, DefaultSegmenter):
        return default_words(segment.has_unspaced)
    return words if isinstance(words, str) else getattr(words, "__name__", type(words).__name__)


def default_words_of(corpora: Iterable[Dataset]) -> str:
    """The segmenter that a model trained on corpora stores by default; it is logged where it is not `rules`.

    Args:
        corpora: with a column `tokens`.
    """
    has_unspaced = any(_has_unspaced(corpus) for corpus in corpora)
    name = default_words(has_unspaced)
    if name != DEFAULT_WORDS:
        logger.info("The corpora have words of %s: the model stores words %r.", _SCRIPTS, name)
    elif has_unspaced:
        logger.warning(
            "The corpora have words of %s, and PyICU is not installed: the model stores words %r, which cannot tell "
            "them apart in raw text. %s.",
            _SCRIPTS,
            name,
            _ADVICE,
        )
    return name


def _has_unspaced(corpus: Dataset) -> bool:
    for batch in corpus.with_format("arrow").select_columns(TOKENS).iter(batch_size=10_000):
        words = batch[TOKENS].combine_chunks()
        words = words.flatten() if isinstance(words, (pa.ListArray, pa.LargeListArray)) else pa.array([], pa.string())
        if pc.any(pc.match_substring_regex(words.cast(pa.string()), UNSPACED.pattern)).as_py():
            return True
    return False
