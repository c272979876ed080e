"""Stanza pipelines as teachers: the exact distribution of their entity recogniser, a linear-chain CRF."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..files import json_sha256
from .function import CallableTeacher
from .label_map import LabelMap
from .optional_packages import import_package
from .weights import weights_hash


class StanzaTeacher(CallableTeacher):
    """The entity recogniser of a Stanza pipeline as a teacher (extra `stanza`).

    The recogniser is a linear-chain CRF over BIOES tags, and so is the teacher: its emissions and transitions are the
    recogniser's, without the four tags that its vocabulary reserves. Sequences that BIOES does not allow are read as
    `TagScheme.repair` reads them. Words are taken as they are; only the recogniser runs, not the tokenizer.

    Args:
        nlp: the pipeline, with the processor `ner`.
        name: for messages, the record and the card; by default the pipeline's language.
        label_map, scheme, temperature: as for [`~.base.TagTeacher`].

    Raises:
        ValueError: if the pipeline has no processor `ner`, or one of several models.
    """

    def __init__(
        self,
        nlp: Any,
        *,
        name: str | None = None,
        label_map: LabelMap | None = None,
        scheme: str | None = None,
        temperature: float = 1.0,
    ) -> None:
        import_package("stanza", extra="stanza")
        name = name or f"stanza:{nlp.lang}"
        if "ner" not in nlp.processors:
            raise ValueError(
                f"teacher {name} has no processor `ner`; it has {', '.join(nlp.processors) or 'none'}. Make the "
                "pipeline with processors='tokenize,ner'"
            )
        processor = nlp.processors["ner"]
        if len(processor.trainers) != 1:
            raise ValueError(
                f"teacher {name}: its `ner` has {len(processor.trainers)} models, whose answers are no one "
                "distribution: name one package, and give several as several teachers"
            )
        (self._recogniser,), (self._config,) = processor.trainers, processor.configs
        self._tagset = int(self._recogniser.args["predict_tagset"])
        tags = list(self._recogniser.vocab["tag"].items(self._tagset))
        self._reserved = _reserved_tags()
        known = tags[self._reserved :]
        # Training saw no word of these tags, so the model has no scores for them: they are impossible.
        types = dict.fromkeys(tag[2:] for tag in known if tag != "O")
        self._lacking = [tag for kind in types for tag in (f"{p}-{kind}" for p in "BIES") if tag not in known]
        vocabulary = _plain(self._recogniser.vocab.state_dict())
        super().__init__(
            self._scores,
            [*known, *self._lacking],
            name=name,
            revision=json_sha256([weights_hash(self._recogniser.model), vocabulary])[:40],
            answers="scores",
            label_map=label_map,
            scheme=scheme,
            temperature=temperature,
        )

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        *,
        package: str | None = None,
        model_dir: str | None = None,
        label_map: LabelMap | None = None,
        scheme: str | None = None,
        temperature: float = 1.0,
        device: Any = None,
    ) -> "StanzaTeacher":
        """Load the recogniser of a language; what Stanza does not have on disk yet, it downloads.

        Args:
            name: the language (`"en"`).
            package: the recogniser's package; by default the language's first choice.
            model_dir: Stanza's folder of models; by default its own.
            label_map, scheme, temperature: see the class.
            device: on which it runs; the CPU where `None`.

        Raises:
            ImportError: if Stanza is not installed.
            OSError: if there is no such recogniser.
        """
        stanza = import_package("stanza", extra="stanza")
        chosen = {} if model_dir is None else {"dir": model_dir}
        try:
            nlp = stanza.Pipeline(
                name,
                processors="tokenize,ner",
                package="default" if package is None else {"ner": package},
                tokenize_pretokenized=True,
                download_method=stanza.DownloadMethod.REUSE_RESOURCES,
                device=str(device or "cpu"),
                verbose=False,
                **chosen,
            )
        except (OSError, ValueError, KeyError) as error:
            wanted = f"{name!r}" + ("" if package is None else f" with the package {package!r}")
            raise OSError(f"Stanza has no entity recogniser for the language {wanted} ({error})") from error
        return cls(nlp, name=f"stanza:{name}", label_map=label_map, scheme=scheme, temperature=temperature)

    @torch.inference_mode()
    def _scores(self, sentences: Sequence[Sequence[str]]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Emissions (words, tags) and transitions (tags, tags) of each sentence, nats."""
        from stanza.models.common.doc import Document
        from stanza.models.ner.data import DataLoader
        from stanza.models.ner.trainer import unpack_batch

        model = self._recogniser.model.eval()
        document = Document([[{"id": i, "text": word} for i, word in enumerate(words, 1)] for words in sentences])
        batches = DataLoader(
            document,
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
                own = emissions[row, : lengths[row]]
                by_position[position] = (np.pad(own, impossible, constant_values=-np.inf), between)
            answers += by_position
        return answers


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
