"""GLiNER models as teachers: every span's score for every type, as a distribution over sets of spans."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..files import model_named
from .base import import_package, weights_hash
from .label_map import LabelMap
from .spans import SpanTeacher


class GlinerTeacher(SpanTeacher):
    """A GLiNER model as a teacher (extra `gliner`): uni- and bi-encoders, spans and token boundaries.

    The model is asked about the words as they are. Its scores of spans are probabilities of each span by itself; see
    [`SpanTeacher`] for the distribution that they make. Sentences longer than the model's `max_len` are asked about in
    pieces of that length.

    Args:
        model: the GLiNER model.
        types: the entity types to ask for, in the words of the prompt (`["person", "city"]`), or a mapping from these
            to the type's name in tags (`{"person": "PER"}`).
        threshold: spans with a smaller probability are left out, as impossible.
        name, revision: as for [`SpanTeacher`]; the revision is a hash of the weights where `None`.
        label_map, scheme, temperature: as for [`~.base.TagTeacher`].

    Raises:
        ValueError: if no types are given, several have one name, or the threshold is not between 0 and 1.
    """

    def __init__(
        self,
        model: Any,
        types: Sequence[str] | Mapping[str, str],
        *,
        threshold: float = 0.01,
        name: str = "gliner",
        revision: str | None = None,
        label_map: LabelMap | None = None,
        scheme: str | None = None,
        temperature: float = 1.0,
    ) -> None:
        if not types or isinstance(types, str):
            raise ValueError(
                f"teacher {name}: say which types it is asked for: types: [person, city], or {{person: PER, ...}}"
            )
        if not 0 < threshold < 1:
            raise ValueError(f"teacher {name}: the threshold must be between 0 and 1, not {threshold}")
        self.prompts = dict(types) if isinstance(types, Mapping) else {kind: kind for kind in types}
        self.model, self.threshold = model.eval(), threshold
        super().__init__(
            self._score,
            list(self.prompts.values()),
            name=name,
            revision=revision or weights_hash(model),
            label_map=label_map,
            scheme=scheme,
            temperature=temperature,
        )

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        *,
        types: Sequence[str] | Mapping[str, str] = (),
        revision: str | None = None,
        label_map: LabelMap | None = None,
        scheme: str | None = None,
        temperature: float = 1.0,
        device: Any = None,
        **options: Any,
    ) -> "GlinerTeacher":
        """Load a model from the Hub or a folder.

        Args:
            name: the Hub id or the folder.
            types, label_map, scheme, temperature: see the class.
            revision: branch, tag or commit on the Hub.
            device: on which it runs; the CPU where `None`.
            options: `threshold`.

        Raises:
            ImportError: if gliner is not installed.
            OSError: if there is no such model.
        """
        gliner = import_package("gliner", extra="gliner")
        if not types:
            raise ValueError(f"teacher gliner:{name}: say which types it is asked for (option types: [person, city])")
        with model_named(name, revision):
            model = gliner.GLiNER.from_pretrained(name, revision=revision, map_location=str(device or "cpu"))
        reading: dict[str, Any] = {"label_map": label_map, "scheme": scheme, "temperature": temperature}
        return cls(model, types, name=f"gliner:{name}", **reading, **options)

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "prompts": self.prompts, "threshold": self.threshold}

    def _score(self, sentences: Sequence[Sequence[str]]) -> list[list[tuple[int, int, str, float]]]:
        longest = int(self.model.config.max_len)
        pieces = [
            (row, start, words[start : start + longest])
            for row, words in enumerate(sentences)
            for start in range(0, len(words), longest)
        ]
        texts = [" ".join(_without_blanks(word) for word in words) for _, _, words in pieces]
        with _all_spans_of_words(self.model, [len(words) for _, _, words in pieces]):
            answers = self.model.inference(
                texts,
                list(self.prompts),
                flat_ner=False,
                multi_label=True,
                threshold=self.threshold,
                batch_size=len(texts),
            )
        spans: list[list[tuple[int, int, str, float]]] = [[] for _ in sentences]
        for (row, offset, _), text, entities in zip(pieces, texts, answers):
            first, last = _word_bounds(text)
            for entity in entities:
                start, end = first[entity["start"]], last[entity["end"]]
                spans[row].append((offset + start, offset + end, self.prompts[entity["label"]], entity["score"]))
        return spans


@contextlib.contextmanager
def _all_spans_of_words(model: Any, lengths: Sequence[int]) -> Iterator[None]:
    """Let a model take words as they are given, and return overlapping spans too.

    Args:
        model: the GLiNER model.
        lengths: words of each text of the one call that is made meanwhile, in order.
    """
    splitter, search = model.data_processor.words_splitter, model.decoder.greedy_search
    in_order = iter(lengths)

    def keep_all(spans: Sequence[Any], flat_ner: bool = True, multi_label: bool = False) -> list[Any]:
        words = next(in_order)
        return [span for span in spans if span[1] < words]  # models of token boundaries may end spans in the padding

    model.data_processor.words_splitter = _split_at_blanks
    model.decoder.greedy_search = keep_all
    try:
        yield
    finally:
        model.data_processor.words_splitter, model.decoder.greedy_search = splitter, search


def _split_at_blanks(text: str) -> Iterator[tuple[str, int, int]]:
    start = 0
    for word in text.split(" "):
        yield word, start, start + len(word)
        start += len(word) + 1


def _word_bounds(text: str) -> tuple[dict[int, int], dict[int, int]]:
    """First character -> its word, and end of a word -> the number of words up to there."""
    bounds = [(start, end) for _, start, end in _split_at_blanks(text)]
    return (
        {start: word for word, (start, _) in enumerate(bounds)},
        {end: word + 1 for word, (_, end) in enumerate(bounds)},
    )


def _without_blanks(word: str) -> str:
    return word.replace(" ", "\N{NO-BREAK SPACE}")
