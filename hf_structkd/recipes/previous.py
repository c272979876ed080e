"""The tagger that another one replaces: both are scored, and what changes is counted."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset

from ..data.columns import ANNOTATED_TYPES
from ..evaluation.compare import Tagger, declared_only
from ..evaluation.flips import ALL, flip_table, flips, pooled_flips
from ..modeling.congruence import congruent
from ..modeling.crf import LinearChainCRF
from ..modeling.glued_words import flags_of, sentences_of
from ..modeling.tag_scheme import TagScheme, split_tag
from ..teachers.base import TagTeacher, tag_sentences
from ..teachers.distribution import TagChain, TagDistribution
from .parser import RecipeError

PREVIOUS = "previous"  # the table row of the tagger that is replaced
Flips = dict[str, dict[str, dict[str, Any]]]  # row -> language -> what `flips` returns


class CachedTagger:
    """A tagger that is asked once about the same sentences, for its scores and for what it changes.

    Args:
        tagger: The tagger.
        labels: The labels that it answers with; by default those that it is asked for.
    """

    def __init__(self, tagger: Tagger, labels: Sequence[str] | None = None) -> None:
        self.tagger = tagger
        self.labels = None if labels is None else list(labels)
        self._answers: dict[tuple[tuple[str, ...], ...], list[list[str]]] = {}

    def tag(
        self, sentences: Sequence[Sequence[str]], label_names: Sequence[str] | None = None, *, batch_size: int = 64
    ) -> list[list[str]]:
        """The tags of each word, out of its own labels."""
        key = tuple((*words, *map(str, flags_of(words))) for words in sentences)
        if key not in self._answers:
            wanted = label_names if self.labels is None else self.labels
            self._answers[key] = self.tagger.tag(sentences, wanted, batch_size=batch_size)
        return self._answers[key]


class Congruent:
    """A tagger between a new one and the one that it replaces; see `modeling/congruence.py`.

    Args:
        new, old: The taggers, with the same labels in any order.
        congruence: The weight of the old one, 0 to 1.
    """

    def __init__(self, new: TagTeacher, old: TagTeacher, congruence: float) -> None:
        if set(new.labels) != set(old.labels):
            differing = sorted(set(new.labels) ^ set(old.labels))
            raise RecipeError(
                f"congruence decodes two taggers with the same labels, and one of them lacks {', '.join(differing)}: "
                "hf_structkd.extend_labels adds types to the previous one, and changes none of its answers"
            )
        self.new, self.old, self.congruence = new, old, congruence

    def tag(
        self, sentences: Sequence[Sequence[str]], label_names: Sequence[str] | None = None, *, batch_size: int = 64
    ) -> list[list[str]]:
        """The best tag sequence of each sentence under the distribution between the two."""
        labels = list(self.new.labels if label_names is None else label_names)

        def distribution(batch: list[Sequence[str]]) -> TagDistribution:
            new, old = (teacher.distribution(batch, labels) for teacher in (self.new, self.old))
            if not isinstance(new, LinearChainCRF) or not isinstance(old, LinearChainCRF):
                raise RecipeError("congruence needs two taggers that are chains over the labels of the corpora")
            return TagChain.from_crf(congruent(new, old, self.congruence))

        with torch.inference_mode():
            return tag_sentences(distribution, sentences, labels, batch_size)


def flips_by_split(
    rows: Mapping[str, Tagger],
    previous: Tagger,
    corpora: Mapping[str, Mapping[str, Dataset]],
    labels: Sequence[str],
    splits: Sequence[str],
    scheme: str,
    batch_size: int = 64,
) -> dict[str, Flips]:
    """What changes when a tagger is replaced.

    Args:
        rows: Row of the table -> tagger; a row `previous` is left out.
        previous: The tagger that is replaced.
        corpora: Language -> split -> sentences with gold tags.
        labels: The label set.
        splits: The splits to count on.
        scheme: The tag scheme.
        batch_size: Sentences per forward pass.

    Returns:
        Split -> row -> language -> what [`flips`] returns, all languages together under `"all"` if there are several.
    """
    counted: dict[str, Flips] = {}
    for split in splits:
        for row, tagger in rows.items():
            if row == PREVIOUS:
                continue
            reports = {}
            for language, parts in corpora.items():
                if split in parts:
                    sentences, gold = sentences_of(parts[split]), list(parts[split]["tags"])
                    before, now = (one.tag(sentences, labels, batch_size=batch_size) for one in (previous, tagger))
                    if ANNOTATED_TYPES in parts[split].column_names:
                        types = list(parts[split][ANNOTATED_TYPES])
                        before, now = (list(map(declared_only, answers, types)) for answers in (before, now))
                    reports[language] = flips(before, now, gold, scheme)
            if reports:
                everything = {ALL: pooled_flips(reports)} if len(reports) > 1 else {}
                counted.setdefault(split, {})[row] = {**reports, **everything}
    return counted


def flips_text(by_row: Flips, split: str) -> str:
    """A heading and the table of flips, for a terminal and for table.md."""
    heading = f"Against the previous tagger, on {split}: lost is right before and wrong now, gained the reverse"
    return f"{heading}\n\n{flip_table(by_row)}"


def answer_labels(tagger: TagTeacher, scheme: TagScheme) -> list[str]:
    """The labels that a tagger predicts: its own, or its types written in the tag scheme of the corpora."""
    if TagScheme(tagger.labels, tagger.scheme).name == scheme.name:
        return tagger.labels
    types = {split_tag(tag)[1] for tag in tagger.labels if tag != "O"}
    return [tag for tag in scheme.tags if tag == "O" or split_tag(tag)[1] in types]


def check_previous(previous: TagTeacher, name: str, labels: Sequence[str], scheme: str | None) -> list[str]:
    """The labels with which the tagger that is replaced answers, out of the student's.

    Args:
        previous: The tagger; it may know fewer types than the student.
        name: What the recipe calls it.
        labels: The student's labels.
        scheme: The student's tag scheme; by default inferred.

    Raises:
        RecipeError: If it has types that the student lacks, or one has entities and the other plain tags.
    """
    student = TagScheme(labels, scheme)
    previous_scheme = TagScheme(previous.labels, previous.scheme)
    if "plain" in (student.name, previous_scheme.name) and student.name != previous_scheme.name:
        raise RecipeError(
            f"previous {name!r} has {previous_scheme.name} tags and the student {student.name}: nothing to compare"
        )
    if unknown := [kind for kind in previous_scheme.entity_types if kind not in student.entity_types]:
        raise RecipeError(
            f"previous {name!r} has {', '.join(unknown)}, which the student lacks: say in previous_label_map what "
            f"the student calls it, or {{{unknown[0]}: O}}"
        )
    return answer_labels(previous, student)
