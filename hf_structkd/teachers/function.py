"""Teachers that are not transformers: any function from sentences to probabilities, scores or tag sequences."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..modeling.crf import LinearChainCRF
from ..modeling.crf_reference import Scores
from ..modeling.tag_scheme import IGNORED
from ..modeling.words import as_sentences
from .base import TagTeacher, TeacherScores
from .distribution import TagDistribution
from .label_map import LabelMap
from .readings import KnownPaths

AnswerKind = Literal["probabilities", "scores", "paths"]
KINDS = ("probabilities", "scores", "paths")


class CallableTeacher(TagTeacher):
    """A teacher made of a function: a tagger of another library, a service, a rule book.

    Args:
        function: a list of sentences (lists of words) -> one answer for each, in order. An answer is, by `answers`,

            - `"probabilities"`: an array (words, labels), each word's probabilities, adding up to 1;
            - `"scores"`: `(emissions, transitions)` or `(emissions, transitions, start, end)` of a linear-chain CRF,
              (words, labels), (labels, labels) `[from, to]`, (labels,), (labels,), nats; all but the emissions the
              same for every sentence, start and end 0 where they are left out;
            - `"paths"`: a list of `(tags, probability)`, tags a list with one of `labels` for each word;
              probabilities above 0, of any common scale (they are renormalised over the list; those of a sequence
              that is listed twice are added).
        labels: the labels that rows and columns stand for, in order.
        name: for messages, the record and the card.
        revision: what tells this teacher from any other version of it (a version number, a hash): answers that are
            kept on disk are kept under its name, its revision, its labels in their order and how they are read, so
            change the revision whenever the function would answer differently.
        answers: what the function returns.
        label_map, scheme, temperature: as for [`TagTeacher`]. With `"probabilities"` and `"paths"` the temperature
            divides the log-probabilities.

    Raises:
        ValueError: for labels given twice, an unknown kind of answer, or an empty revision; later, when asked, for an
            answer that is not of that kind, naming the sentence.
    """

    def __init__(
        self,
        function: Callable[[list[list[str]]], Sequence[Any]],
        labels: Sequence[str],
        *,
        name: str,
        revision: str,
        answers: AnswerKind = "probabilities",
        label_map: LabelMap | None = None,
        scheme: str | None = None,
        temperature: float = 1.0,
    ) -> None:
        super().__init__(labels, name=name, label_map=label_map, scheme=scheme, temperature=temperature)
        if answers not in KINDS:
            raise ValueError(f"teacher {name}: answers must be one of {KINDS}, not {answers!r}")
        if len(set(labels)) < len(labels):
            raise ValueError(f"teacher {name}: labels must differ, got {list(labels)}")
        if not revision:
            raise ValueError(f"teacher {name} needs a revision, under which its answers are kept")
        self.function, self.answers, self._revision = function, answers, revision

    @property
    def revision(self) -> str:
        return self._revision

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "answers": self.answers}

    def _asked(self, sentences: Sequence[Sequence[str]]) -> list[Any]:
        answers = list(self.function([list(words) for words in sentences]))
        if len(answers) != len(sentences):
            raise ValueError(f"teacher {self.name} gave {len(answers)} answers to {len(sentences)} sentences")
        return answers

    def _wrong(self, words: Sequence[str], what: str) -> ValueError:
        return ValueError(f"teacher {self.name}, sentence {' '.join(words)[:80]!r}: {what}")

    def _rows(self, words: Sequence[str], rows: Any) -> Tensor:
        values = torch.as_tensor(np.asarray(rows), dtype=torch.float64)
        if values.shape != (len(words), len(self.own_labels)):
            shape = f"{len(words)} words x {len(self.own_labels)} labels"
            raise self._wrong(words, f"wanted an array of {shape}, got shape {tuple(values.shape)}")
        return values

    def own_scores(self, sentences: Sequence[Sequence[str]]) -> TeacherScores:
        count = len(self.own_labels)
        lengths = torch.tensor([len(words) for words in sentences])
        emissions = torch.zeros(len(sentences), int(lengths.max()), count, dtype=torch.float64)
        shared: tuple[Tensor, Tensor, Tensor] | None = None
        none = torch.zeros(count, dtype=torch.float64)
        for row, (words, answer) in enumerate(zip(sentences, self._asked(sentences))):
            if self.answers == "probabilities":
                values = self._rows(words, answer)
                sums = values.sum(dim=1)
                if not bool((values >= 0).all()) or not bool(((sums - 1).abs() < 1e-2).all()):
                    raise self._wrong(words, f"each word's probabilities must add up to 1; they add up to {sums}")
                emissions[row, : len(words)] = (values / sums[:, None]).log()
                continue
            own, *rest = answer
            emissions[row, : len(words)] = self._rows(words, own)
            parts = tuple(torch.as_tensor(np.asarray(part), dtype=torch.float64) for part in rest)
            if [tuple(part.shape) for part in parts] not in ([(count, count)], [(count, count), (count,), (count,)]):
                raise self._wrong(words, "wanted (emissions, transitions) or (emissions, transitions, start, end)")
            transitions, start, end = parts if len(parts) == 3 else (*parts, none, none)
            if shared is not None and not all(map(torch.equal, shared, (transitions, start, end))):
                raise self._wrong(
                    words,
                    "its transition, start or end scores differ from those of the sentences before; they must be the "
                    "same for all (add what differs to the first and the last word's emissions)",
                )
            shared = (transitions, start, end)
        return TeacherScores(Scores(emissions, *(shared or (none.expand(count, -1), none, none))), lengths, {})

    @torch.inference_mode()
    def distribution(
        self, sentences: Sequence[Sequence[str]], label_names: Sequence[str] | None = None
    ) -> TagDistribution:
        if self.answers != "paths":
            return super().distribution(sentences, label_names)
        sentences = as_sentences(sentences)
        reading = self.read_as(label_names)
        index = {label: i for i, label in enumerate(self.own_labels)}
        answers = [self._listed(words, answer) for words, answer in zip(sentences, self._asked(sentences))]
        lengths = torch.tensor([len(words) for words in sentences])
        most = max(1, *(len(answer) for answer in answers))
        tags = torch.full((len(sentences), most, int(lengths.max())), IGNORED)
        weights = torch.full((len(sentences), most), -torch.inf, dtype=torch.float64)
        for row, (words, answer) in enumerate(zip(sentences, answers)):
            for k, (path, probability) in enumerate(answer.items()):
                tags[row, k, : len(words)] = torch.tensor([index[tag] for tag in path])
                weights[row, k] = float(np.log(probability))
        # Each sequence of tags is one sequence of states: the only one that the reading's chain leaves possible.
        exists = tags[..., 0] >= 0
        states = torch.tensor(reading.tag_of_state)
        possible = tags.flatten(0, 1).unsqueeze(-1) == states
        emissions = torch.where(possible | ~exists.flatten()[:, None, None], 0.0, -torch.inf)
        chain = LinearChainCRF(
            emissions,
            torch.zeros(len(states), len(states)),
            lengths=lengths.repeat_interleave(most),
            allowed=reading.allowed,
            allowed_start=reading.allowed_start,
            allowed_end=reading.allowed_end,
        )
        best = chain.argmax()[0].view_as(tags)
        read = torch.where(tags < 0, IGNORED, torch.tensor(reading.read_as)[best.clamp(min=0)])
        paths = KnownPaths(read, weights, lengths, reading.num_tags)
        return paths if self.temperature == 1.0 else paths.with_temperature(self.temperature)

    def _listed(self, words: Sequence[str], answer: Any) -> dict[tuple[str, ...], float]:
        """Tag sequence -> probability, those of one that is listed twice added."""
        listed: dict[tuple[str, ...], float] = {}
        for path, probability in answer:
            if isinstance(path, str) or len(path) != len(words) or not set(path) <= set(self.own_labels):
                raise self._wrong(words, f"{list(path)} is not one of the labels for each of {len(words)} words")
            if not 0 < probability < float("inf"):
                raise self._wrong(words, f"the probability of a sequence must be above 0, not {probability}")
            listed[tuple(path)] = listed.get(tuple(path), 0.0) + probability
        if not listed:
            raise self._wrong(words, "the list of tag sequences is empty")
        return listed
