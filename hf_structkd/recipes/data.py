"""What a recipe reads: its corpora, and its sentences without gold tags."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, concatenate_datasets

from ..data.columns import ANNOTATED_TYPES, DOCUMENT, GLUED
from ..data.corpora import (
    FEATURES,
    OPTIONAL_FEATURES,
    label_inventory,
    load_corpora,
    with_columns,
    with_common_columns,
)
from ..data.sources import file_suffix
from ..data.unlabelled import load_sentences, select_gold
from ..data.word_agreement import WordAgreement
from ..modeling.glued_words import sentences_of
from ..modeling.tag_scheme import infer_scheme, split_tag
from ..teachers.panel import Panel
from .fields import DataArguments
from .growth import refuse_silent_gold, student_labels
from .parser import RecipeError
from .recipe import Recipe

_NOTHING = Dataset.from_dict({"tokens": [], "tags": [], "language": []}, features=FEATURES)


@dataclass
class RunData:
    """Everything that a run reads.

    Args:
        whole: Language -> its splits with all training sentences. Teachers may learn from more than the student.
        corpora: Language -> its splits with the student's training sentences, the first ones.
        unlabelled: Language -> sentences that the student learns from teachers alone; some languages may have none.
        labels: The label set, in the order of the ids.
        agreement: The languages whose dev sentences have no gold tags, but those of the teachers.
        word_agreement: Language -> how far its corpus has the words that the pipeline finds in its texts, where it has
            both.
    """

    whole: dict[str, DatasetDict]
    corpora: dict[str, DatasetDict]
    unlabelled: dict[str, Dataset]
    labels: list[str]
    agreement: tuple[str, ...] = ()
    word_agreement: dict[str, WordAgreement] = field(default_factory=dict)

    @property
    def train(self) -> Dataset:
        """The student's training sentences with gold tags, of all languages."""
        return concatenate_datasets([splits["train"] for splits in self.corpora.values()])

    def annotated_types(self, language: str) -> str:
        """The types that a language's training corpus declares, for a message; empty if it declares all."""
        train = self.corpora[language]["train"]
        declared = train[ANNOTATED_TYPES] if ANNOTATED_TYPES in train.column_names else []
        return ", ".join(sorted({kind for types in declared for kind in types or ()}))

    @property
    def without_gold(self) -> set[tuple[str, str]]:
        """(split, language) of the sentences to score on that have no gold tags."""
        return {("dev", language) for language in self.agreement}

    def words(self) -> list[list[str]]:
        """The sentences that a tokenizer is trained on: those with gold tags, or all if there are none."""
        gold = list(self.train["tokens"])
        return gold or [words for text in self.unlabelled.values() for words in text["tokens"]]

    @property
    def dev(self) -> dict[str, Dataset]:
        """Language -> its development sentences."""
        return {language: splits["dev"] for language, splits in self.corpora.items()}

    def parts(self, *splits: str, unlabelled: bool = False) -> dict[str, dict[str, Dataset]]:
        """Split -> language -> sentences.

        Args:
            splits: The splits to return.
            unlabelled: Whether to add the sentences without gold tags, as the split `"unlabelled"`, if there are any.
        """
        chosen = {
            split: {language: by_split[split] for language, by_split in self.corpora.items() if split in by_split}
            for split in splits
        }
        return chosen | ({"unlabelled": self.unlabelled} if unlabelled and self.unlabelled else {})

    def sizes(self) -> str:
        """One line per language with the number of sentences in each split."""
        lines = []
        for language, splits in self.corpora.items():
            parts = {**splits, **({"unlabelled": self.unlabelled[language]} if language in self.unlabelled else {})}
            names = {"dev": "to compare with the teachers"} if language in self.agreement else {}
            types = self.annotated_types(language)
            lines.append(
                f"{language}{f' ({types} only)' if types else ''}: "
                + ", ".join(f"{len(data):,} {names.get(part, part)}" for part, data in parts.items())
            )
        return "\n".join(lines)


def read_run_data(
    recipe: Recipe, teachers: Callable[[Mapping[str, Sequence[list[str]]]], Mapping[str, Panel]]
) -> RunData:
    """Read the corpora and the sentences without gold tags of a recipe.

    Without gold tags to learn from, the label set is that of the teachers. A language without a dev corpus gets
    sentences of its unlabelled text for dev, with the tags that its teachers find most probable: scores on them say
    how far the student agrees with its teachers.

    Args:
        recipe: The recipe.
        teachers: Loads the given teachers: language -> some sentences of it. Called where gold tags are missing.

    Raises:
        RecipeError: If the recipe does not fit what is read.
        CorpusError: If a corpus cannot be read; the message names file and line.
    """
    if recipe.training.annotation_context and recipe.objectives and recipe.data.documents is None:
        raise RecipeError(
            "annotation_context: say which sentences are neighbours: `documents: marked` where the corpora mark "
            "documents, `documents: source` where each file is one document"
        )
    word_agreement: dict[str, WordAgreement] = {}
    whole = load_gold_parts(recipe, word_agreement)
    corpora = {
        language: DatasetDict({**splits, "train": first_sentences(splits["train"], recipe.data.max_train_sentences)})
        for language, splits in whole.items()
    }
    unlabelled = unlabelled_part(whole, recipe)
    if any(DOCUMENT in text.column_names for text in unlabelled.values()):
        corpora = {
            language: DatasetDict({split: with_columns(part, [DOCUMENT]) for split, part in splits.items()})
            for language, splits in corpora.items()
        }
    texts = sample_texts(whole, unlabelled)
    if any(len(splits["train"]) for splits in whole.values()):
        corpus_labels = labels_of(recipe.data, whole)
    else:
        corpus_labels = recipe.data.labels or labels_of_teachers(teachers(texts), whole, recipe.data.tag_scheme)
    labels = student_labels(recipe.model, corpus_labels, recipe.data)
    refuse_silent_gold(recipe.model, {language: splits["train"] for language, splits in corpora.items()}, labels)
    without_dev = [language for language, splits in whole.items() if "dev" not in splits]
    panels = teachers(texts) if without_dev else {}
    for language in without_dev:
        if language not in unlabelled:
            raise RecipeError(f"{language} has neither a dev corpus nor text in unlabelled_corpus to hold out for it")
        text = unlabelled[language]
        count = recipe.data.max_dev_sentences or min(1000, len(text) // 10)
        if not 0 < count < len(text):
            raise RecipeError(f"{language} has {len(text):,} sentences without tags: too few to hold out {count:,}")
        held_out, unlabelled[language] = text.select(range(count)), text.select(range(count, len(text)))
        try:
            tags = panels[language].tag(sentences_of(held_out), labels)
        except ValueError as error:
            raise RecipeError(f"teacher for {language}, {panels[language].name}: {error}") from error
        dev = Dataset.from_dict(
            {"tokens": held_out["tokens"], "tags": tags, "language": held_out["language"]}, features=FEATURES
        )
        if GLUED in held_out.column_names:
            dev = dev.add_column(GLUED, list(held_out[GLUED]), feature=OPTIONAL_FEATURES[GLUED])
        corpora[language]["dev"] = dev
    return RunData(whole, corpora, unlabelled, labels, tuple(without_dev), word_agreement)


def sample_texts(whole: Mapping[str, DatasetDict], unlabelled: Mapping[str, Dataset]) -> dict[str, list[list[str]]]:
    """Language -> its first sentences, with gold tags or without, by which languages are compared."""
    return {
        language: [
            *first_sentences(unlabelled[language] if language in unlabelled else splits["train"], 200)["tokens"]
        ]
        for language, splits in whole.items()
    }


def load_gold_parts(recipe: Recipe, word_agreement: dict[str, WordAgreement] | None = None) -> dict[str, DatasetDict]:
    """Language -> the splits that have gold tags, all training sentences; `train` may be empty, others missing.

    Args:
        recipe: The recipe.
        word_agreement: Gets the corpora's comparison with the words of their texts.
    """
    data = recipe.data
    if data.corpus is None:
        return {language: DatasetDict(train=_NOTHING) for language in data.languages or []}
    if not isinstance(data.corpus, Mapping) or not any(isinstance(corpus, Mapping) for corpus in data.corpus.values()):
        splits = ["dev", "test"] if _learns_from_text_alone(recipe) else ["train", "dev", "test"]
        loaded = load_data(data, splits, whole_train=True, word_agreement=word_agreement)
        return with_common_columns(
            {language: DatasetDict({"train": _NOTHING, **parts}) for language, parts in loaded.items()}
        )
    parts = {}
    languages = data.languages or list(data.corpus)
    if data.unlabelled_corpus is not None and recipe.teachers.teachers:
        for language in [language for language in languages if language not in data.corpus]:
            parts[language] = DatasetDict(train=_NOTHING)
    for language in [language for language in languages if language not in parts]:
        corpus = data.corpus.get(language)
        splits = ["train", "dev", "test"]
        taught = recipe.teachers.sources(language) or recipe.teachers.borrow_teachers
        if isinstance(corpus, Mapping) and taught and data.unlabelled_corpus is not None:
            if unknown := [split for split in corpus if split not in splits]:
                raise RecipeError(f"the corpus of {language} has {', '.join(unknown)}; splits are train, dev and test")
            splits = [split for split in splits if split in corpus]
        if _learns_from_text_alone(recipe):
            splits = [split for split in splits if split != "train"]
        of_language = replace(
            data,
            corpus={language: corpus} if corpus is not None else data.corpus,
            languages=[language],
            annotated_types={key: types for key, types in (data.annotated_types or {}).items() if key == language},
            documents=_of_language(data.documents, language),
            corpus_format=_of_language(data.corpus_format, language),
        )
        loaded = load_data(of_language, splits, whole_train=True, word_agreement=word_agreement)[language]
        parts[language] = DatasetDict({"train": _NOTHING, **loaded})
    return with_common_columns({language: parts[language] for language in languages})


def _learns_from_text_alone(recipe: Recipe) -> bool:
    """Whether nobody reads the training corpora."""
    return recipe.data.max_train_sentences == 0 and not recipe.teachers.teacher_model


def labels_of_teachers(panels: Mapping[str, Panel], gold: Mapping[str, DatasetDict], scheme: str | None) -> list[str]:
    """The label set of teachers, through their label maps, and of gold tags that the student is scored on.

    Args:
        panels: Language -> its teachers.
        gold: Language -> corpora to score on.
        scheme: The tag scheme; by default the teachers', BIO where they have several.

    Returns:
        The labels, in the order of [`label_inventory`].

    Raises:
        RecipeError: If some teachers have entities and others plain tags.
    """
    names = [name for panel in panels.values() for teacher, _ in panel.members for name in teacher.names_of_labels()]
    scored = [splits[split] for splits in gold.values() for split in splits if len(splits[split])]
    names += label_inventory(scored) if scored else []
    schemes = {infer_scheme(teacher.labels) for panel in panels.values() for teacher, _ in panel.members}
    if len(schemes) > 1 and "plain" in schemes:
        raise RecipeError("some teachers give entities and others plain tags: they cannot teach one student")
    if scheme is None:
        scheme = schemes.pop() if len(schemes) == 1 else "BIO"
    if scheme == "plain":
        return sorted(set(names), key=lambda tag: (tag != "O", tag))
    types = sorted({split_tag(name)[1] if split_tag(name)[0] else name for name in names if name != "O"})
    prefixes = "BI" if scheme == "BIO" else "BIES"
    return ["O", *(f"{prefix}-{kind}" if kind else prefix for kind in types for prefix in prefixes)]


def first_sentences(dataset: Dataset, count: int | None) -> Dataset:
    """The first `count` sentences of a corpus; all of them if `count` is `None`."""
    return dataset if count is None else dataset.select(range(min(count, len(dataset))))


def load_data(
    args: DataArguments,
    splits: Sequence[str] = ("train", "dev", "test"),
    whole_train: bool = False,
    glued: bool | None = None,
    word_agreement: dict[str, WordAgreement] | None = None,
) -> dict[str, DatasetDict]:
    """Load the corpora of a recipe.

    Sentences without gold tags stay in train, where teachers answer for them. In dev and test there is nothing to
    compare with: they are left out.

    Args:
        args: The fields of the recipe.
        splits: The splits to load.
        whole_train: Whether to load all training sentences, whatever `max_train_sentences` says.
        glued: Whether to load where blanks are missing; by default where the models to train have `glued_words`.
        word_agreement: Gets, by language, how far corpora have the words of their texts; it is logged anyway.

    Returns:
        Language -> its splits.

    Raises:
        CorpusError: If a corpus cannot be read; the message names file and line.
    """
    if args.corpus is None:
        raise RecipeError("the recipe names no `corpus`")  # null, given on purpose
    limits = {"train": args.max_train_sentences, "dev": args.max_dev_sentences, "test": args.max_test_sentences}
    if whole_train:
        limits["train"] = None
    corpora = load_corpora(
        args.corpus,
        args.languages,
        splits=splits,
        max_sentences={split: limit for split, limit in limits.items() if limit is not None},
        scheme=args.corpus_scheme or args.tag_scheme,
        to_scheme=args.corpus_scheme and args.tag_scheme,
        orphans=args.orphans,
        tags_column=args.tags_column,
        tokens_column=args.tokens_column,
        sentence_column=args.sentence_column,
        column=args.column,
        # With corpus_scheme the recipe's labels are those after rewriting, not those in the files.
        label_names=None if args.corpus_scheme else args.labels,
        words=args.words,
        spans=args.spans,
        offset_unit=args.offset_unit,
        format=args.corpus_format,
        annotated_types=args.annotated_types,
        documents=args.documents,
        glued=bool(args.glued_words) if glued is None else glued,
        measure_words=True if word_agreement is None else word_agreement,
    )
    return {
        language: DatasetDict(
            {split: data if split == "train" else select_gold(data) for split, data in parts.items()}
        )
        for language, parts in corpora.items()
    }


def labels_of(args: DataArguments, corpora: Mapping[str, DatasetDict]) -> list[str]:
    """The label set that a recipe gives; by default that of the corpora.

    Raises:
        RecipeError: If the corpora have labels that the recipe does not name.
    """
    corpus_labels = label_inventory(corpora)
    if args.labels is None:
        return corpus_labels
    if unknown := [label for label in corpus_labels if label not in args.labels]:
        raise RecipeError(f"the corpora have {', '.join(unknown)}, which is not among the labels {args.labels}")
    return args.labels


def load_unlabelled(args: DataArguments, languages: Sequence[str]) -> dict[str, Dataset]:
    """Load the sentences of `unlabelled_corpus`.

    Args:
        args: The fields of the recipe.
        languages: The languages of the corpora.

    Returns:
        Language -> its sentences; without the languages that the field does not name.

    Raises:
        RecipeError: If the field names a language that the corpora lack, or gives all languages the same sentences.
    """
    corpus = args.unlabelled_corpus
    if isinstance(corpus, dict):
        if unknown := [language for language in corpus if language not in languages]:
            raise RecipeError(f"unlabelled_corpus names {', '.join(unknown)}, but no such language is in the corpora")
        sources = corpus
    elif "{language}" not in str(corpus) and len(languages) > 1:
        raise RecipeError(
            f"unlabelled_corpus {corpus!r} would give every language the same sentences: put {{language}} in it"
        )
    else:
        sources = {language: str(corpus).replace("{language}", language) for language in languages}
    loaded = {}
    for language, source in sources.items():
        # tokens_column holds for files like those of the corpora; plain text and CoNLL-U have no such column.
        has_columns = not file_suffix(Path(source)).endswith((".txt", ".conllu", ".conllup", ".spacy"))
        loaded[language] = load_sentences(
            source,
            language=language,
            max_sentences=args.unlabelled_sentences,
            tokens_column=args.tokens_column if has_columns else None,
            words=args.words,
            sentences=args.sentences,
            glued=bool(args.glued_words),
        )
        if _of_language(args.documents, language) == "source":
            name = [f"{language}/unlabelled"] * len(loaded[language])
            loaded[language] = loaded[language].add_column(DOCUMENT, name, feature=OPTIONAL_FEATURES[DOCUMENT])
    return loaded


def _of_language(field: Any, language: str) -> Any:
    """The value that a field has for a language."""
    return field.get(language) if isinstance(field, dict) else field


def unlabelled_part(whole: Mapping[str, DatasetDict], recipe: Recipe) -> dict[str, Dataset]:
    """The sentences that the student learns from teachers alone.

    Args:
        whole: Language -> its splits with all training sentences.
        recipe: The recipe.

    Returns:
        Language -> the sentences; empty if the recipe has none.

    Raises:
        RecipeError: If fields of the recipe contradict each other, or there are no such sentences.
    """
    data_args, teacher_args, args = recipe.data, recipe.teachers, recipe.training
    if not any(len(splits["train"]) for splits in whole.values()) and data_args.unlabelled_corpus is None:
        raise RecipeError("there are no training sentences: give a train corpus, or an unlabelled_corpus and teachers")
    sources = [data_args.unlabelled_sentences, data_args.unlabelled_corpus, data_args.augmentation]
    if sources == [None, None, None]:
        if args.unlabelled_rate is not None:
            raise RecipeError(
                "unlabelled_rate needs unlabelled_sentences, which says how many there are, unlabelled_corpus or "
                "augmentation"
            )
        return {}
    if not args.objectives:
        raise RecipeError("unlabelled sentences are learnt from teachers alone, and objective 'none' asks no teacher")
    if data_args.unlabelled_sentences is None and data_args.unlabelled_corpus is None:
        return {}
    if data_args.unlabelled_corpus is not None:
        return load_unlabelled(data_args, list(whole))
    parts = {}
    for language, splits in whole.items():
        limits = [data_args.max_train_sentences]
        if not teacher_args.sources(language):
            limits.append(teacher_args.teacher_max_train_sentences)
        labelled = [limit for limit in limits if limit is not None]
        if len(labelled) < len(limits):
            raise RecipeError(
                "unlabelled_sentences are those after max_train_sentences and teacher_max_train_sentences: give both"
            )
        train = splits["train"]
        start = max(labelled)
        if start >= len(train):
            raise RecipeError(f"{language} has {len(train):,} training sentences, none after the first {start:,}")
        end = min(start + (data_args.unlabelled_sentences or 0), len(train))
        parts[language] = _as_other_documents(train.select(range(start, end)))
    return parts


def _as_other_documents(text: Dataset) -> Dataset:
    """Sentences whose documents are others than those before them, from which the student's corpus is cut off."""
    if DOCUMENT not in text.column_names:
        return text
    names = [None if name is None else f"unlabelled/{name}" for name in text[DOCUMENT]]
    return text.remove_columns(DOCUMENT).add_column(DOCUMENT, names, feature=text.features[DOCUMENT])
