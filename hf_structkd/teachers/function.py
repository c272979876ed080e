"""Teachers made of a function from sentences to probabilities, scores or tag sequences."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..modeling.crf import LinearChainCRF
from ..modeling.crf_reference import Scores
from ..modeling.tag_scheme import IGNORED, TagScheme
from ..modeling.words import as_sentences
from .base import TagTeacher, TeacherScores
from .context import Context, with_context
from .distribution import TagDistribution
from .label_map import LabelMap
from .readings import KnownPaths

AnswerKind = Literal["probabilities", "scores", "paths"]
KINDS = ("probabilities", "scores", "paths")


class CallableTeacher(TagTeacher):
    """A teacher made of a function: a tagger of another library, a service, a set of rules.

    Args:
        function: a list of sentences (lists of words) -> one answer for each, in order. The form of an answer depends
            on `answers`:

            - `"probabilities"`: an array (words, labels), each word's probabilities, adding up to 1;
            - `"scores"`: `(emissions, transitions)` or `(emissions, transitions, start, end)` of a linear-chain CRF,
              (words, labels), (labels, labels) `[from, to]`, (labels,), (labels,), nats; all but the emissions are
              the same for every sentence; start and end are 0 where they are left out;
            - `"paths"`: a list of `(tags, probability)`, tags a list with one of `labels` for each word;
              probabilities above 0, of any common scale (they are renormalised over the list; those of a sequence
              that is listed twice are added).
        labels: the labels that rows and columns stand for, in order.
        name: for messages, the record and the card.
        revision: the version of the teacher (a version number, a hash). Answers on disk are stored under the
            teacher's name, its revision, its labels in their order and how they are read, so change the revision
            whenever the function would answer differently.
        answers: the form of the function's answers.
        label_map, scheme, temperature: as for [`TagTeacher`]. With `"probabilities"` and `"paths"` the temperature
            divides the log-probabilities.

    Raises:
        ValueError: for labels given twice, an unknown form of answers, or an empty revision; and, when the teacher is
            asked, for an answer of another form, naming the sentence.
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

    def _call_function(self, sentences: Sequence[Sequence[str]]) -> list[Any]:
        answers = list(self.function([list(words) for words in sentences]))
        if len(answers) != len(sentences):
            raise ValueError(f"teacher {self.name} gave {len(answers)} answers to {len(sentences)} sentences")
        return answers

    def _error(self, words: Sequence[str], problem: str) -> ValueError:
        return ValueError(f"teacher {self.name}, sentence {' '.join(words)[:80]!r}: {problem}")

    def _word_by_label(self, words: Sequence[str], answer: Any) -> Tensor:
        """An answer as a tensor (words, labels)."""
        values = torch.as_tensor(np.asarray(answer), dtype=torch.float64)
        if values.shape != (len(words), len(self.unmapped_labels)):
            shape = f"{len(words)} words x {len(self.unmapped_labels)} labels"
            raise self._error(words, f"wanted an array of {shape}, got shape {tuple(values.shape)}")
        return values

    def chain_scores(self, sentences: Sequence[Sequence[str]]) -> TeacherScores:
        count = len(self.unmapped_labels)
        lengths = torch.tensor([len(words) for words in sentences])
        emissions = torch.zeros(len(sentences), int(lengths.max()), count, dtype=torch.float64)
        shared: tuple[Tensor, Tensor, Tensor] | None = None
        zeros = torch.zeros(count, dtype=torch.float64)
        for row, (words, answer) in enumerate(zip(sentences, self._call_function(sentences))):
            if self.answers == "probabilities":
                values = self._word_by_label(words, answer)
                sums = values.sum(dim=1)
                if not bool((values >= 0).all()) or not bool(((sums - 1).abs() < 1e-2).all()):
                    raise self._error(words, f"each word's probabilities must add up to 1; they add up to {sums}")
                emissions[row, : len(words)] = (values / sums[:, None]).log()
                continue
            sentence_emissions, *rest = answer
            emissions[row, : len(words)] = self._word_by_label(words, sentence_emissions)
            parts = tuple(torch.as_tensor(np.asarray(part), dtype=torch.float64) for part in rest)
            if [tuple(part.shape) for part in parts] not in ([(count, count)], [(count, count), (count,), (count,)]):
                raise self._error(words, "wanted (emissions, transitions) or (emissions, transitions, start, end)")
            transitions, start, end = parts if len(parts) == 3 else (*parts, zeros, zeros)
            if shared is not None and not all(map(torch.equal, shared, (transitions, start, end))):
                raise self._error(
                    words,
                    "its transition, start or end scores differ from those of the sentences before; they must be the "
                    "same for all (add what differs to the first and the last word's emissions)",
                )
            shared = (transitions, start, end)
        return TeacherScores(Scores(emissions, *(shared or (zeros.expand(count, -1), zeros, zeros))), lengths, {})

    @torch.inference_mode()
    def distribution(
        self,
        sentences: Sequence[Sequence[str]],
        label_names: Sequence[str] | None = None,
        context: Context | None = None,
    ) -> TagDistribution:
        """As in [`TagTeacher`]; entities of listed sequences that cross a sentence's bounds are cut there."""
        if self.answers != "paths":
            return super().distribution(sentences, label_names, context)
        sentences = as_sentences(sentences)
        reading = self.reading(label_names)
        index = {label: i for i, label in enumerate(self.unmapped_labels)}
        read = with_context(sentences, context)
        answers = [self._listed_paths(words, answer) for words, answer in zip(read, self._call_function(read))]
        if context is not None:
            bounds = [(len(before), len(before) + len(words)) for words, (before, _) in zip(sentences, context)]
            answers = [self._cut(answer, *bound) for answer, bound in zip(answers, bounds)]
        lengths = torch.tensor([len(words) for words in sentences])
        longest_list = max(1, *(len(answer) for answer in answers))
        tags = torch.full((len(sentences), longest_list, int(lengths.max())), IGNORED)
        weights = torch.full((len(sentences), longest_list), -torch.inf, dtype=torch.float64)
        for row, (words, answer) in enumerate(zip(sentences, answers)):
            for k, (path, probability) in enumerate(answer.items()):
                tags[row, k, : len(words)] = torch.tensor([index[tag] for tag in path])
                weights[row, k] = float(np.log(probability))
        # Each sequence of tags is one sequence of states: the only one that the reading's constraints allow.
        exists = tags[..., 0] >= 0
        states = torch.tensor(reading.teacher_tags)
        possible = tags.flatten(0, 1).unsqueeze(-1) == states
        emissions = torch.where(possible | ~exists.flatten()[:, None, None], 0.0, -torch.inf)
        chain = LinearChainCRF(
            emissions,
            torch.zeros(len(states), len(states)),
            lengths=lengths.repeat_interleave(longest_list),
            allowed=reading.allowed,
            allowed_start=reading.allowed_start,
            allowed_end=reading.allowed_end,
        )
        states_of_paths = chain.decode().view_as(tags)
        student_tags = torch.tensor(reading.student_tags)[states_of_paths.clamp(min=0)]
        paths = KnownPaths(torch.where(tags < 0, IGNORED, student_tags), weights, lengths, reading.num_tags)
        return paths if self.temperature == 1.0 else paths.with_temperature(self.temperature)

    def _cut(self, answer: dict[tuple[str, ...], float], start: int, end: int) -> dict[tuple[str, ...], float]:
        """The tags of some of the words; sequences that are the same there are one, their probabilities added."""
        scheme = TagScheme(self.unmapped_labels, self.scheme if not self.label_map else None)
        cut: dict[tuple[str, ...], float] = {}
        for path, probability in answer.items():
            tags = tuple(scheme.repair(path[start:end]))
            cut[tags] = cut.get(tags, 0.0) + probability
        return cut

    def _listed_paths(self, words: Sequence[str], answer: Any) -> dict[tuple[str, ...], float]:
        """Tag sequence -> probability; of a sequence that is listed twice, the sum."""
        listed: dict[tuple[str, ...], float] = {}
        for path, probability in answer:
            if isinstance(path, str) or len(path) != len(words) or not set(path) <= set(self.unmapped_labels):
                raise self._error(words, f"{list(path)} is not one of the labels for each of {len(words)} words")
            if not 0 < probability < float("inf"):
                raise self._error(words, f"the probability of a sequence must be above 0, not {probability}")
            listed[tuple(path)] = listed.get(tuple(path), 0.0) + probability
        if not listed:
            raise self._error(words, "the list of tag sequences is empty")
        return listed
