"""Stanza pipelines as teachers: their entity recogniser, exactly, or their tagger of parts of speech."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from ..files import json_sha256
from .base import import_package, weights_hash
from .function import CallableTeacher
from .label_map import LabelMap

Annotation = Literal["ner", "pos"]
# What answers, its labels, how (see CallableTeacher), the model and the vocabulary.
_Opened = tuple[Any, list[str], Any, torch.nn.Module, Any]


class StanzaTeacher(CallableTeacher):
    """The entity recogniser, or the tagger, of a Stanza pipeline as a teacher (extra `stanza`).

    Entities: the recogniser is a linear-chain CRF over BIOES tags, and so is the teacher: its emissions and
    transitions are the recogniser's, without the four tags that its vocabulary reserves. Sequences that BIOES does not
    allow are read as `TagScheme.repair` reads them. Parts of speech (universal): the tagger's softmax for each word,
    without those four. Words are taken as they are; only the recogniser or the tagger runs, not the tokenizer.

    Args:
        nlp: the pipeline, with the processor `ner` or `pos`.
        annotation: `"ner"` or `"pos"`.
        name: for messages, the record and the card; by default the pipeline's language.
        label_map, scheme, temperature: as for [`~.base.TagTeacher`].

    Raises:
        ValueError: if the pipeline has no such processor, or a `ner` of several models.
    """

    def __init__(
        self,
        nlp: Any,
        *,
        annotation: Annotation = "ner",
        name: str | None = None,
        label_map: LabelMap | None = None,
        scheme: str | None = None,
        temperature: float = 1.0,
    ) -> None:
        import_package("stanza", extra="stanza")
        name = name or f"stanza:{nlp.lang}"
        if annotation not in ("ner", "pos"):
            raise ValueError(f"teacher {name}: annotation must be ner or pos, not {annotation!r}")
        if annotation not in nlp.processors:
            raise ValueError(
                f"teacher {name} has no processor `{annotation}`; it has {', '.join(nlp.processors) or 'none'}. Make "
                f"the pipeline with processors='tokenize,{annotation}'"
            )
        self._reserved = _reserved_tags()
        opened = self._open_recogniser if annotation == "ner" else self._open_tagger
        function, labels, answers, model, vocabulary = opened(nlp.processors[annotation], name)
        super().__init__(
            function,
            labels,
            name=name,
            revision=json_sha256([weights_hash(model), _plain(vocabulary.state_dict())])[:40],
            answers=answers,
            label_map=label_map,
            scheme=scheme,
            temperature=temperature,
        )

    def _open_recogniser(self, processor: Any, name: str) -> _Opened:
        if len(processor.trainers) != 1:
            raise ValueError(
                f"teacher {name}: its `ner` has {len(processor.trainers)} models, whose answers are no one "
                "distribution: name one package, and give several as several teachers"
            )
        (self._recogniser,), (self._config,) = processor.trainers, processor.configs
        self._tagset = int(self._recogniser.args["predict_tagset"])
        tags = list(self._recogniser.vocab["tag"].items(self._tagset))
        known = tags[self._reserved :]
        # Training saw no word of these tags, so the model has no scores for them: they are impossible.
        types = dict.fromkeys(tag[2:] for tag in known if tag != "O")
        self._lacking = [tag for kind in types for tag in (f"{p}-{kind}" for p in "BIES") if tag not in known]
        labels = [*known, *self._lacking]
        return self._scores, labels, "scores", self._recogniser.model, self._recogniser.vocab

    def _open_tagger(self, processor: Any, name: str) -> _Opened:
        self._processor = processor
        vocabulary = processor.vocab
        labels = [vocabulary["upos"].id2unit(tag) for tag in range(self._reserved, len(vocabulary["upos"]))]
        return self._pos_probabilities, labels, "probabilities", processor.trainer.model, vocabulary

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        *,
        annotation: Annotation = "ner",
        package: str | None = None,
        model_dir: str | None = None,
        label_map: LabelMap | None = None,
        scheme: str | None = None,
        temperature: float = 1.0,
        device: Any = None,
    ) -> "StanzaTeacher":
        """Load the recogniser or tagger of a language; what Stanza does not have on disk yet, it downloads.

        Args:
            name: the language (`"en"`).
            annotation: see the class.
            package: the recogniser's or tagger's package; by default the language's first choice.
            model_dir: Stanza's folder of models; by default its own.
            label_map, scheme, temperature: see the class.
            device: on which it runs; the CPU where `None`.

        Raises:
            ImportError: if Stanza is not installed.
            OSError: if there is no such recogniser or tagger.
        """
        stanza = import_package("stanza", extra="stanza")
        if annotation not in ("ner", "pos"):
            raise ValueError(f"teacher stanza:{name}: annotation must be ner or pos, not {annotation!r}")
        chosen = {} if model_dir is None else {"dir": model_dir}
        try:
            nlp = stanza.Pipeline(
                name,
                processors=f"tokenize,{annotation}",
                package="default" if package is None else {annotation: package},
                tokenize_pretokenized=True,
                download_method=stanza.DownloadMethod.REUSE_RESOURCES,
                device=str(device or "cpu"),
                verbose=False,
                **chosen,
            )
        except (OSError, ValueError, KeyError) as error:
            wanted = f"{name!r}" + ("" if package is None else f" with the package {package!r}")
            kind = {"ner": "entity recogniser", "pos": "tagger of parts of speech"}[annotation]
            raise OSError(f"Stanza has no {kind} for the language {wanted} ({error})") from error
        reading: dict[str, Any] = {"label_map": label_map, "scheme": scheme, "temperature": temperature}
        return cls(nlp, annotation=annotation, name=f"stanza:{name}", **reading)

    @torch.inference_mode()
    def _scores(self, sentences: Sequence[Sequence[str]]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Emissions (words, tags) and transitions (tags, tags) of each sentence, nats."""
        from stanza.models.ner.data import DataLoader
        from stanza.models.ner.trainer import unpack_batch

        model = self._recogniser.model.eval()
        batches = DataLoader(
            _document(sentences),
            self._config["batch_size"],
            self._config,
            vocab=self._recogniser.vocab,
            evaluation=True,
            preprocess_tags=False,
            bert_tokenizer=model.bert_tokenizer,
        )
        answers: list[tuple[np.ndarray, np.ndarray]] = []
        for batch in batches:
            inputs, order, words, chars, lengths, word_lengths, char_lengths, offsets = unpack_batch(
                batch, next(model.parameters()).device
            )
            word, word_chars, mask, char_ids, tags = inputs
            _, logits, transitions = model(
                word, word_chars, mask, tags, words, lengths, word_lengths, char_ids, offsets, char_lengths, chars
            )
            emissions = logits[self._tagset].double().cpu().numpy()[:, :, self._reserved :]
            between = transitions[self._tagset].double().cpu().numpy()[self._reserved :, self._reserved :]
            impossible = ((0, 0), (0, len(self._lacking)))
            between = np.pad(between, (impossible[1], impossible[1]))
            by_position: list[Any] = [None] * len(order)
            for row, position in enumerate(order):
                scores = emissions[row, : lengths[row]]
                by_position[position] = (np.pad(scores, impossible, constant_values=-np.inf), between)
            answers += by_position
        return answers

    @torch.inference_mode()
    def _pos_probabilities(self, sentences: Sequence[Sequence[str]]) -> list[np.ndarray]:
        """Probabilities (words, tags) of each sentence."""
        from stanza.models.pos.data import Dataset

        config, trainer, vocabulary = self._processor.config, self._processor.trainer, self._processor.vocab
        data = Dataset(_document(sentences), config, self._processor.pretrain, vocab=vocabulary, evaluation=True)
        if len(data) != len(sentences):  # Stanza's transformers drop what they cannot read
            raise ValueError(f"{self.name} leaves out {len(sentences) - len(data)} of {len(sentences)} sentences")
        answers: list[Any] = [None] * len(sentences)
        logits: list[torch.Tensor] = []  # of one batch; the model returns its best tags only
        hook = trainer.model.upos_clf.register_forward_hook(lambda module, inputs, output: logits.append(output))
        try:
            for batch in data.to_length_limited_loader(config["batch_size"], config.get("batch_maximum_tokens", 5000)):
                trainer.predict(batch)
                # The words of a batch come packed: all first words of its sentences, then all second words, ...
                lengths = torch.as_tensor(batch.lens)
                words = pack_padded_sequence(torch.empty(len(lengths), int(lengths[0])), lengths, batch_first=True)
                packed = PackedSequence(logits.pop()[:, self._reserved :].double().softmax(dim=1), words.batch_sizes)
                probabilities = pad_packed_sequence(packed, batch_first=True)[0].cpu().numpy()
                for row, position in enumerate(batch.orig_idx):
                    answers[batch.idx[position]] = probabilities[row, : int(lengths[row])]
        finally:
            hook.remove()
        return answers


def _document(sentences: Sequence[Sequence[str]]) -> Any:
    from stanza.models.common.doc import Document

    return Document([[{"id": i, "text": word} for i, word in enumerate(words, 1)] for words in sentences])


def _reserved_tags() -> int:
    """How many tags at the start of every vocabulary are none: padding, unknown and the like."""
    from stanza.models.common.vocab import VOCAB_PREFIX_SIZE

    return int(VOCAB_PREFIX_SIZE)


def _plain(value: Any) -> Any:
    """A vocabulary as JSON values; sets, whose order differs between processes, are sorted."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
