"""The pipeline of taggers with a CRF: text or words in, entities with their exact probabilities out.

Its task is ``crf-token-classification``, and every checkpoint carries its code. The stock ``token-classification``
pipeline runs the same models, but reads only one score per subword.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from numbers import Integral, Real
from typing import Any

import torch
from transformers import Pipeline

from .congruence import check_congruence, congruent, label_order
from .entities import Analysis, analyses, entropies, label_marginals
from .pipeline_inputs import Sentence, is_one_sentence, iterate_inputs, read_sentence
from .segmenters import get_segmenter
from .tag_scheme import Span, TagScheme
from .windows import encoder_window
from .words import pad_subwords, tokenize_words

TASK = "crf-token-classification"
BATCH_SIZE = 16
BATCHES_READ_AHEAD = 64  # inputs read at a time, in batches, to put sentences of similar length together


class CRFTokenClassificationPipeline(Pipeline):
    """Tags texts with a [`~.crf_head.CRFHeadMixin`] model.

    `pipe(inputs, batch_size=16, **options)`: a text or a list of words (with `is_split_into_words=True`) gives one
    answer, a list of texts or of lists of words a list of answers; a generator, a numpy array, a pandas `Series`, a
    `KeyDataset` or a `datasets.Dataset` (its column `tokens`, or else `text`) is read when needed, in order of
    iteration, and gives an iterator over answers. Texts are split into words as the model's configuration says
    (`words`).
    Texts of any length are tagged whole: the encoder reads overlapping windows, the CRF is one chain over all words.

    Options, for the constructor or a call:
        top_k (`int`): adds the k best analyses per sentence with their probabilities.
        marginals (`bool`): adds the probability of every label per word.
        entropy (`bool`): adds the entropy of the distribution over tag sequences, nats per sentence.
        threshold (`float`): leaves out entities (plain tags: words) whose probability is lower.
        words (`str` or function): how texts become words, instead of the model's `words`; see
            [`~.segmenters.get_segmenter`].
        is_split_into_words (`bool`): a list, array or `Series` of strings is the words of one sentence, not several
            texts; texts are then refused.
        previous ([`CRFTokenClassificationPipeline`]): of the tagger that this one replaces, with the same labels.
            Everything is then read from the distribution between the two, see `congruence.py`: fewer answers change.
        congruence (`float`): the weight of the previous tagger, 0 to 1; by default 0.5.

    An answer is a `dict`:
        entities: the entities of the best analysis from left to right, each a `dict` of `entity_group` (its type),
            `score` (the exact probability, summed over all tag sequences, that an entity of this type begins and ends
            exactly here), `word` (its text), `start`, `end` (characters), `start_word`, `end_word` (words); ends are
            exclusive. Characters are counted in the text, or in the words joined by single spaces.
        tags: for plain tags (parts of speech), instead of entities: per word a `dict` of `tag`, `score` (its marginal
            probability), `word`, `start`, `end`, `index`.
        top_k: a list of `dict`, best first, of `score`, the probability of the analysis, and its `entities` or `tags`.
        marginals: per word a `dict` of `word`, `start`, `end` and `scores`, a `dict` from label to probability.
        entropy: nats.

    Raises:
        ValueError: if the model has no CRF of this package, the tokenizer is not a fast one, or an option is out of
            range, or the segmenter is unknown, not installed or gives words that are not those of the text.
        TypeError: for inputs that are neither texts nor words, and options of another type.
    """

    model: Any
    tokenizer: Any
    _load_tokenizer: Any = True
    _load_processor: Any = False
    _load_image_processor: Any = False
    _load_feature_extractor: Any = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _check_whole_number("batch_size", self._batch_size)
        if not all(hasattr(self.model, name) for name in ("distribution", "tag_scheme")):
            raise ValueError(
                f"{type(self.model).__name__} has no CRF of hf_structkd, which the task {TASK!r} needs; "
                "the task for other taggers is 'token-classification'"
            )
        if not getattr(self.tokenizer, "is_fast", False):
            raise ValueError(f"the task {TASK!r} needs a fast tokenizer, not {type(self.tokenizer).__name__}")
        self.model.eval()
        self.scheme: TagScheme = self.model.tag_scheme
        self.window = encoder_window(self.model) or math.inf

    def _sanitize_parameters(  # type: ignore[override]
        self,
        top_k: int | None = None,
        marginals: bool | None = None,
        entropy: bool | None = None,
        threshold: float | None = None,
        is_split_into_words: bool | None = None,
        words: str | Callable[[str], Iterable[Any]] | None = None,
        previous: Any = None,
        congruence: float | None = None,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        _check_whole_number("top_k", top_k)
        _check_probability("threshold", threshold)
        if words is not None:
            get_segmenter(words)
        for name, switch in (
            ("marginals", marginals),
            ("entropy", entropy),
            ("is_split_into_words", is_split_into_words),
        ):
            _check_switch(name, switch)
        if previous is not None:
            _check_previous(previous, self.model)
        if congruence is not None:
            check_congruence(congruence)
            if previous is None and "previous" not in getattr(self, "_forward_params", {}):
                raise ValueError("congruence is the weight of a previous tagger: give previous=, its pipeline")
        parameters = (
            {"is_split_into_words": is_split_into_words, "words": words},
            {
                **{"top_k": top_k, "marginals": marginals, "entropy": entropy},
                **{"previous": previous, "congruence": congruence},
            },
            {"threshold": threshold},
        )
        preprocess, forward, postprocess = (
            {name: value for name, value in group.items() if value is not None} for group in parameters
        )
        return preprocess, forward, postprocess

    def __call__(self, inputs: Any, *, batch_size: int | None = None, num_workers: int | None = None, **options: Any):  # type: ignore[override]
        """See the class. `num_workers` has no effect, since no data is loaded; callers of other pipelines pass it."""
        _check_whole_number("batch_size", batch_size)
        size = batch_size or self._batch_size or BATCH_SIZE
        defaults = (self._preprocess_params, self._forward_params, self._postprocess_params)
        overrides = self._sanitize_parameters(**options)
        parameters = tuple({**default, **override} for default, override in zip(defaults, overrides))
        if is_one_sentence(inputs, parameters[0].get("is_split_into_words", False)):
            return next(self._answers([inputs], 1, *parameters))
        answers = self._answers(iterate_inputs(inputs), size, *parameters)
        return list(answers) if isinstance(inputs, (list, tuple)) else answers

    def _answers(
        self,
        inputs: Iterable[Any],
        batch_size: int,
        preprocess: dict[str, Any],
        forward: dict[str, Any],
        postprocess: dict[str, Any],
    ) -> Iterator[dict[str, Any]]:
        """Answers in order; inputs are read some batches ahead, to put sentences of similar length together."""
        items = iter(inputs)
        while sentences := [
            self.preprocess(item, **preprocess) for item in islice(items, batch_size * BATCHES_READ_AHEAD)
        ]:
            answers: list[dict[str, Any]] = [{}] * len(sentences)
            non_empty = [row for row, sentence in enumerate(sentences) if sentence.offsets]
            for row in set(range(len(sentences))) - set(non_empty):
                answers[row] = self.postprocess(_empty_output(forward), sentences[row], **postprocess)
            previous = forward.get("previous")
            for rows, model_inputs in self._batches(sentences, non_empty, batch_size):
                if previous is not None:
                    words = [sentences[row].words for row in rows]
                    model_inputs = {**model_inputs, "previous_inputs": previous.padded(words)}
                batch_outputs = self.forward(model_inputs, **forward)
                for i, row in enumerate(rows):
                    outputs = {name: values[i] for name, values in batch_outputs.items()}
                    answers[row] = self.postprocess(outputs, sentences[row], **postprocess)
            yield from answers

    def _batches(
        self, sentences: list[Sentence], rows: list[int], batch_size: int
    ) -> Iterator[tuple[list[int], dict[str, torch.Tensor]]]:
        """Row numbers and padded inputs, longest first; a sentence longer than the window is a batch of its own."""
        if not rows:
            return
        encoded = self._tokenize([sentences[row].words for row in rows])
        ids = encoded["input_ids"]
        order = sorted(range(len(rows)), key=lambda i: (-len(ids[i]), i))
        while order:
            size = 1 if len(ids[order[0]]) > self.window else batch_size
            batch, order = order[:size], order[size:]
            yield [rows[i] for i in batch], self._pad(encoded, batch)

    def _pad(self, encoded: Mapping[str, Any], batch: Sequence[int]) -> dict[str, torch.Tensor]:
        """Some rows of encoded sentences as tensors (batch, subwords)."""
        rows = {name: [encoded[name][i] for i in batch] for name in ("input_ids", "attention_mask", "word_mask")}
        return pad_subwords(rows, self.tokenizer.pad_token_id)

    def padded(self, sentences: Sequence[list[str]]) -> dict[str, torch.Tensor]:
        """The model's inputs for lists of words, in their order."""
        return self._pad(self._tokenize(sentences), range(len(sentences)))

    def _tokenize(self, sentences: Sequence[list[str]]) -> dict[str, list[list[int]]]:
        return tokenize_words(sentences, self.tokenizer, self.model.config.glued_words)

    def preprocess(  # type: ignore[override]
        self,
        item: Any,
        is_split_into_words: bool = False,
        words: str | Callable[[str], Iterable[Any]] | None = None,
    ) -> Sentence:
        """The words of one input. Raises TypeError if it is neither a text nor a list of words."""

        def segment(text: str) -> list[tuple[int, int]]:  # looked up for texts alone: words need no segmenter
            return get_segmenter(words or self.model.config.words)(text)

        return read_sentence(item, segment, is_split_into_words)

    def _forward(  # type: ignore[override]
        self,
        model_inputs: dict[str, Any],
        top_k: int | None = None,
        marginals: bool = False,
        entropy: bool = False,
        previous: Any = None,
        congruence: float = 0.5,
    ) -> dict[str, list[Any]]:
        """The outputs per sentence of a batch, by name; one pass of each encoder, one forward-backward pass."""
        previous_inputs = model_inputs.pop("previous_inputs", None)
        distribution = self.model.distribution(self.model(**model_inputs, decode=False), "decode")
        if previous is not None:
            inputs = {name: value.to(previous.model.device) for name, value in previous_inputs.items()}
            old = previous.model.distribution(previous.model(**inputs, decode=False), "decode")
            order = label_order(self.scheme.tags, previous.scheme.tags)
            distribution = congruent(distribution, old, congruence, order)
        outputs: dict[str, list[Any]] = {"analyses": analyses(distribution, self.scheme, top_k)}
        if top_k is not None:
            outputs["top_k"] = outputs["analyses"]
        if marginals:
            outputs["marginals"] = label_marginals(distribution)
        if entropy:
            outputs["entropy"] = entropies(distribution)
        return outputs

    def postprocess(self, outputs: dict[str, Any], sentence: Sentence, threshold: float = 0.0) -> dict[str, Any]:  # type: ignore[override]
        """The answer for one sentence."""
        name = "tags" if self.scheme.name == "plain" else "entities"
        answer: dict[str, Any] = {name: self._read(outputs["analyses"][0], sentence, threshold)}
        if "top_k" in outputs:
            answer["top_k"] = [
                {"score": analysis.score, name: self._read(analysis, sentence, threshold)}
                for analysis in outputs["top_k"]
            ]
        if "marginals" in outputs:
            answer["marginals"] = [
                {"word": sentence.text[a:b], "start": a, "end": b, "scores": dict(zip(self.scheme.tags, scores))}
                for (a, b), scores in zip(sentence.offsets, outputs["marginals"].tolist())
            ]
        if "entropy" in outputs:
            answer["entropy"] = outputs["entropy"]
        return answer

    def _read(self, analysis: Analysis, sentence: Sentence, threshold: float) -> list[dict[str, Any]]:
        read = self._tag if self.scheme.name == "plain" else self._entity
        return [
            read(span, score, sentence) for span, score in zip(analysis.spans, analysis.scores) if score >= threshold
        ]

    @staticmethod
    def _entity(span: Span, score: float, sentence: Sentence) -> dict[str, Any]:
        start, end = sentence.offsets[span.start][0], sentence.offsets[span.end - 1][1]
        return {
            "entity_group": span.type,
            "score": score,
            "word": sentence.text[start:end],
            "start": start,
            "end": end,
            "start_word": span.start,
            "end_word": span.end,
        }

    @staticmethod
    def _tag(span: Span, score: float, sentence: Sentence) -> dict[str, Any]:
        start, end = sentence.offsets[span.start]
        word = sentence.text[start:end]
        return {"tag": span.type, "score": score, "word": word, "start": start, "end": end, "index": span.start}


def _empty_output(forward: dict[str, Any]) -> dict[str, Any]:
    """The outputs for a text without words: the empty tag sequence has probability 1."""
    empty = [Analysis(1.0, [], [])]
    options = {"top_k": empty, "marginals": torch.zeros(0), "entropy": 0.0}
    return {"analyses": empty, **{name: value for name, value in options.items() if forward.get(name)}}


def _check_whole_number(name: str, value: Any) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}")


def _check_previous(previous: Any, model: Any) -> None:
    if not all(hasattr(previous, name) for name in ("model", "scheme", "padded")):
        raise TypeError(
            f"previous is the pipeline of the tagger that is replaced, pipeline({TASK!r}, model=...), not "
            f"{type(previous).__name__}"
        )
    label_order(model.tag_scheme.tags, previous.scheme.tags)


def _check_probability(name: str, value: Any) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} is a probability, 0 to 1, not {value!r}")
    if not 0 <= float(value) <= 1:
        raise ValueError(f"{name} is a probability, 0 to 1, not {value!r}")


def _check_switch(name: str, value: Any) -> None:
    if value is not None and not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {value!r}")
