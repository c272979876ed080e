"""spaCy pipelines as teachers: entities as weighted tag sequences, parts of speech as probabilities."""

import hashlib
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from .base import import_package
from .function import CallableTeacher
from .label_map import LabelMap

Annotation = Literal["ner", "pos", "tag"]
OTHER = "X"  # the universal part of speech of what has no other
_UNIVERSAL = "ADJ ADP ADV AUX CCONJ DET INTJ NOUN NUM PART PRON PROPN PUNCT SCONJ SYM VERB X"
UNIVERSAL_TAGS = tuple(_UNIVERSAL.split())
_RECOGNISERS = ("ner", "beam_ner")  # the factories of entity recognisers, whatever their components are called
# A hypothesis this much less probable than the best one of its sentence (in nats) is given up.
_HOPELESS = 12.0


class SpacyTeacher(CallableTeacher):
    """A spaCy pipeline as a teacher (extra `spacy`).

    Entities (`annotation="ner"`): the component decides word by word, and each decision depends on the entity that is
    open. Its scores are normalised over the decisions that are possible there, and a beam search finds the most
    probable sequences of decisions: these are the teacher's paths, with their probabilities renormalised over the
    beam. (spaCy's own beam adds up scores that were not normalised; for pipelines trained without a beam, as the
    published ones are, its best sequence is often a bad one.) Each list of words is one sentence: the components
    before `ner` that it needs run, a parser's sentence bounds do not split it.

    Parts of speech (`"pos"`, universal; `"tag"`, the treebank's own): the tagger's or the morphologizer's softmax, the
    probabilities of tags with one part of speech added. Where `pos` is made by rules (an attribute ruler, as in
    English), it is one tag per word, with probability 1.

    Args:
        nlp: the pipeline.
        annotation: `"ner"`, `"pos"` or `"tag"`.
        beam_width: how many sequences are followed; 1 gives the greedy answer with probability 1.
        name: for messages, the record and the card; by default the language and name of the pipeline.
        label_map, scheme, temperature: as for [`~.base.TagTeacher`].

    Raises:
        ValueError: if the pipeline lacks the component, another component changes its entities (an entity ruler; give
            beam_width 1), or `beam_width` is below 1.
    """

    def __init__(
        self,
        nlp: Any,
        *,
        annotation: Annotation = "ner",
        beam_width: int = 16,
        name: str | None = None,
        label_map: LabelMap | None = None,
        scheme: str | None = None,
        temperature: float = 1.0,
    ) -> None:
        import_package("spacy", extra="spacy")
        name = name or f"{nlp.meta['lang']}_{nlp.meta['name']}"
        self.nlp, self.annotation, self.beam_width = nlp, annotation, beam_width
        if annotation not in ("ner", "pos", "tag"):
            raise ValueError(f"teacher {name}: annotation must be ner, pos or tag, not {annotation!r}")
        if beam_width < 1:
            raise ValueError(f"teacher {name}: beam_width must be at least 1, not {beam_width}")
        if annotation == "ner":
            function, labels, answers = self._open_ner(name)
        else:
            function, labels, answers = self._open_tagger(name)
        super().__init__(
            function,
            labels,
            name=name,
            revision=_revision(nlp),
            answers=answers,
            label_map=label_map,
            scheme=scheme,
            temperature=temperature,
        )

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        *,
        label_map: LabelMap | None = None,
        scheme: str | None = None,
        temperature: float = 1.0,
        device: Any = None,
        **options: Any,
    ) -> "SpacyTeacher":
        """Load an installed pipeline package, or a folder that `nlp.to_disk` wrote.

        Args:
            name: the package or the folder.
            label_map, scheme, temperature: see the class.
            device: ignored unless it is a GPU, which spaCy is then asked to use.
            options: `annotation` and `beam_width`.

        Raises:
            ImportError: if spaCy is not installed.
            OSError: if there is no such pipeline.
        """
        spacy = import_package("spacy", extra="spacy")
        if device is not None and str(device).startswith("cuda"):
            spacy.require_gpu()
        try:
            nlp = spacy.load(name)
        except OSError as error:
            raise OSError(
                f"spaCy finds no pipeline {name!r}: install its package (python -m spacy download {name}, or pip "
                f"install), or give the folder that holds it ({error})"
            ) from error
        reading: dict[str, Any] = {"label_map": label_map, "scheme": scheme, "temperature": temperature}
        return cls(nlp, name=f"spacy:{name}", **reading, **options)

    def identity(self) -> dict[str, Any]:
        beam = {"beam_width": self.beam_width} if self.annotation == "ner" else {}
        return {**super().identity(), "annotation": self.annotation, **beam}

    # ---- entities ----

    def _open_ner(self, name: str) -> tuple[Any, list[str], Any]:
        recognisers = [pipe for pipe in self.nlp.pipe_names if self.nlp.get_pipe_meta(pipe).factory in _RECOGNISERS]
        self._ner = recognisers[0] if recognisers else "ner"
        self._require(self._ner, name)
        labels = ["O"] + [f"{prefix}-{label}" for label in self.nlp.get_pipe(self._ner).labels for prefix in "BI"]
        others = [
            pipe
            for pipe in self.nlp.pipe_names
            if pipe != self._ner and "doc.ents" in self.nlp.get_pipe_meta(pipe).assigns
        ]
        if self.beam_width == 1:
            return self._greedy_entities, labels, "paths"
        if others:
            raise ValueError(
                f"teacher {name}: {', '.join(others)} changes the entities beside `{self._ner}`, so the pipeline's "
                "answers are no weighted sequences: give beam_width 1"
            )
        return self._beam_entities, labels, "paths"

    def _docs(self, sentences: Sequence[Sequence[str]], until: str | None) -> list[Any]:
        """Sentences as spaCy's documents, after the components before `until` that give it its input."""
        from spacy.tokens import Doc

        docs = [Doc(self.nlp.vocab, words=list(words)) for words in sentences]
        for name, pipe in self.nlp.pipeline:
            if name == until:
                break
            factory = self.nlp.get_pipe_meta(name).factory
            if until is None or "tok2vec" in factory or "transformer" in factory:
                docs = list(pipe.pipe(docs) if hasattr(pipe, "pipe") else map(pipe, docs))
        return docs

    def _greedy_entities(self, sentences: Sequence[Sequence[str]]) -> list[Any]:
        skipped = ("parser", "senter", "sentencizer", "lemmatizer")
        with self.nlp.select_pipes(disable=[name for name in skipped if name in self.nlp.pipe_names]):
            docs = self._docs(sentences, until=None)
        probabilities = []
        for doc in docs:
            spans = [(span.start, span.end, span.label_) for span in doc.ents]
            unknown = sorted({label for _, _, label in spans} - set(self.nlp.get_pipe(self._ner).labels))
            if unknown:
                raise ValueError(f"teacher {self.name}: another component adds entities of type {', '.join(unknown)}")
            probabilities.append([(_bio(len(doc), spans), 1.0)])
        return probabilities

    def _beam_entities(self, sentences: Sequence[Sequence[str]]) -> list[Any]:
        ner = self.nlp.get_pipe(self._ner)
        docs = self._docs(sentences, until=self._ner)
        beams = [[_Hypothesis(0.0, state, ())] for state in ner.moves.init_batch(docs)]
        step, moves = ner.model.predict(docs), _Moves(ner.moves)
        for word in range(max(len(words) for words in sentences)):
            active = [i for i, words in enumerate(sentences) if word < len(words)]
            states = [hypothesis.state for i in active for hypothesis in beams[i]]
            scores = np.asarray(_on_cpu(step.predict(states)), dtype=np.float64)
            row = 0
            for i in active:
                rows = scores[row : row + len(beams[i])]
                row += len(beams[i])
                last, blank = word + 1 == len(sentences[i]), sentences[i][word].isspace()
                beams[i] = moves.advance(beams[i], rows, self.beam_width, last, blank)
        return [
            [(_bio_of_actions(parse.actions), math.exp(parse.log_prob - beam[0].log_prob)) for parse in beam]
            for beam in beams
        ]

    # ---- parts of speech ----

    def _open_tagger(self, name: str) -> tuple[Any, list[str], Any]:
        names = self.nlp.pipe_names
        if self.annotation == "tag":
            self._require("tagger", name)
            return self._tag_probabilities, list(self.nlp.get_pipe("tagger").labels), "probabilities"
        rules = self.nlp.get_pipe("attribute_ruler").patterns if "attribute_ruler" in names else []
        # Published pipelines with a morphologizer have rules too, but these copy its `pos` into `tag`, or mark blanks.
        ruled = any(rule["attrs"].get("POS", "SPACE") != "SPACE" for rule in rules)
        if "morphologizer" in names and not ruled:
            return self._pos_probabilities, list(UNIVERSAL_TAGS), "probabilities"
        if "morphologizer" not in names and not (ruled and "tagger" in names):
            raise ValueError(
                f"teacher {name} has no parts of speech: its components are {', '.join(names) or 'none'}, and neither "
                "a morphologizer nor a tagger with an attribute_ruler is among them"
            )
        return self._ruled_pos, list(UNIVERSAL_TAGS), "paths"

    def _softmax(self, component: str, sentences: Sequence[Sequence[str]]) -> list[np.ndarray]:
        pipe = self.nlp.get_pipe(component)
        normalised = pipe.model.has_ref("softmax") and pipe.model.get_ref("softmax").attrs["softmax_normalize"]
        paths = []
        for scores in pipe.model.predict(self._docs(sentences, until=component)):
            values = np.asarray(_on_cpu(scores), dtype=np.float64)
            if not normalised:
                values = np.exp(values - values.max(axis=1, keepdims=True))
            paths.append(values / values.sum(axis=1, keepdims=True))
        return paths

    def _tag_probabilities(self, sentences: Sequence[Sequence[str]]) -> list[np.ndarray]:
        return self._softmax("tagger", sentences)

    def _pos_probabilities(self, sentences: Sequence[Sequence[str]]) -> list[np.ndarray]:
        pipe = self.nlp.get_pipe("morphologizer")
        to_pos = np.zeros((len(pipe.labels), len(UNIVERSAL_TAGS)))
        for row, label in enumerate(pipe.labels):
            features = dict(part.split("=", 1) for part in label.split("|") if "=" in part)
            pos = features.get("POS", OTHER)
            to_pos[row, UNIVERSAL_TAGS.index(pos if pos in UNIVERSAL_TAGS else OTHER)] = 1.0
        return [values @ to_pos for values in self._softmax("morphologizer", sentences)]

    def _ruled_pos(self, sentences: Sequence[Sequence[str]]) -> list[Any]:
        with self.nlp.select_pipes(disable=[name for name in ("ner", "lemmatizer") if name in self.nlp.pipe_names]):
            docs = self._docs(sentences, until=None)
        return [[([t.pos_ if t.pos_ in UNIVERSAL_TAGS else OTHER for t in doc], 1.0)] for doc in docs]

    def _require(self, component: str, name: str) -> None:
        if component not in self.nlp.pipe_names:
            advice = {"ner": "annotation: pos or tag", "tagger": "annotation: pos or ner"}[component]
            raise ValueError(
                f"teacher {name} has no component `{component}`; it has {', '.join(self.nlp.pipe_names) or 'none'}. "
                f"For its other annotations give {advice}"
            )


class _Hypothesis:
    """A beginning of a sequence of decisions: its log-probability, spaCy's state after it, and the decisions."""

    __slots__ = ("actions", "log_prob", "state")

    def __init__(self, log_prob: float, state: Any, actions: tuple[tuple[str, str], ...]) -> None:
        self.log_prob, self.state, self.actions = log_prob, state, actions

    @property
    def open_type(self) -> str | None:
        """The type of the entity that goes on at the next word."""
        return self.actions[-1][1] if self.actions and self.actions[-1][0] in "BI" else None


class _Moves:
    """The decisions of an entity recogniser: BILUO prefixes with types."""

    def __init__(self, moves: Any) -> None:
        self.system = moves
        self.names = [moves.get_class_name(i) for i in range(moves.n_moves)]
        split = [name.split("-", 1) if "-" in name else [name, ""] for name in self.names]
        self.actions = [(prefix, kind) for prefix, kind in split]

    def allowed(self, open_type: str | None, last: bool) -> np.ndarray:
        """Which decisions are possible after an open entity, or none; `last` says whether the sentence ends."""
        if open_type is not None:
            prefixes = "L" if last else "IL"
            return np.array([bool(p) and p in prefixes and kind == open_type for p, kind in self.actions])
        prefixes = "U" if last else "BU"
        return np.array([p == "O" or (bool(kind) and bool(p) and p in prefixes) for p, kind in self.actions])

    def advance(
        self, beam: list[_Hypothesis], scores: np.ndarray, width: int, last: bool, blank: bool = False
    ) -> list[_Hypothesis]:
        """The `width` most probable continuations of a beam, most probable first.

        Args:
            beam: the beginnings.
            scores: (hypotheses, moves).
            width: how many to keep.
            last: whether the word is the sentence's last.
            blank: whether it consists of white space alone, where no entity may begin.
        """
        continued = []
        for hypothesis, row in zip(beam, scores):
            allowed = self.allowed(hypothesis.open_type, last)
            if blank:  # rare, so spaCy's own rules are asked, which takes long
                allowed &= [self.system.is_valid(hypothesis.state, name) for name in self.names]
            possible = np.flatnonzero(allowed)
            values = row[possible]
            log_probs = values - values.max()
            log_probs -= np.log(np.exp(log_probs).sum())
            best = np.argsort(-log_probs, kind="stable")[:width]
            continued += [(hypothesis.log_prob + float(log_probs[b]), hypothesis, int(possible[b])) for b in best]
        continued.sort(key=lambda item: -item[0])
        kept = [item for item in continued[:width] if item[0] > continued[0][0] - _HOPELESS]
        return [self._apply(hypothesis, move, log_prob) for log_prob, hypothesis, move in kept]

    def _apply(self, hypothesis: _Hypothesis, move: int, log_prob: float) -> _Hypothesis:
        state = hypothesis.state.copy()
        self.system.apply_transition(state, self.names[move])
        return _Hypothesis(log_prob, state, (*hypothesis.actions, self.actions[move]))


def _bio_of_actions(actions: Sequence[tuple[str, str]]) -> list[str]:
    prefixes = {"B": "B", "U": "B", "I": "I", "L": "I"}
    return [f"{prefixes[prefix]}-{kind}" if prefix in prefixes else "O" for prefix, kind in actions]


def _bio(length: int, spans: Sequence[tuple[int, int, str]]) -> list[str]:
    tags = ["O"] * length
    for start, end, label in spans:
        tags[start:end] = [f"B-{label}"] + [f"I-{label}"] * (end - start - 1)
    return tags


def _on_cpu(array: Any) -> Any:
    return array.get() if hasattr(array, "get") else array  # of cupy


def _revision(nlp: Any) -> str:
    """The pipeline's version, and a hash of its weights and rules."""
    digest = hashlib.sha256()
    for name, pipe in nlp.pipeline:
        digest.update(name.encode())
        if hasattr(pipe, "to_bytes"):
            digest.update(pipe.to_bytes(exclude=["vocab"]))
    if len(nlp.vocab.vectors):
        digest.update(nlp.vocab.vectors.to_bytes())
    return f"{nlp.meta['version']}-{digest.hexdigest()[:32]}"
