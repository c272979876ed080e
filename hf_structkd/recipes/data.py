"""What a recipe reads: its corpora, and its sentences without gold tags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset, DatasetDict, concatenate_datasets

from ..data.corpora import label_inventory, load_corpora
from ..data.sources import file_suffix
from ..data.unlabelled import load_sentences, select_gold
from .fields import DataArguments
from .parser import RecipeError
from .recipe import Recipe


@dataclass
class RunData:
    """Everything that a run reads.

    Args:
        whole: Language -> its splits with all training sentences. Teachers may learn from more than the student.
        corpora: Language -> its splits with the student's training sentences, the first ones.
        unlabelled: Language -> sentences that the student learns from teachers alone; some languages may have none.
        labels: The label set, in the order of the ids.
    """

    whole: dict[str, DatasetDict]
    corpora: dict[str, DatasetDict]
    unlabelled: dict[str, Dataset]
    labels: list[str]

    @property
    def train(self) -> Dataset:
        """The student's training sentences with gold tags, of all languages."""
        return concatenate_datasets([splits["train"] for splits in self.corpora.values()])

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
            split: {language: by_split[split] for language, by_split in self.corpora.items()} for split in splits
        }
        return chosen | ({"unlabelled": self.unlabelled} if unlabelled and self.unlabelled else {})

    def sizes(self) -> str:
        """One line per language with the number of sentences in each split."""
        lines = []
        for language, splits in self.corpora.items():
            parts = {**splits, **({"unlabelled": self.unlabelled[language]} if language in self.unlabelled else {})}
            lines.append(f"{language}: " + ", ".join(f"{len(data):,} {part}" for part, data in parts.items()))
        return "\n".join(lines)


def read_run_data(recipe: Recipe) -> RunData:
    """Read the corpora and the sentences without gold tags of a recipe.

    Raises:
        RecipeError: If the recipe does not fit what is read.
        CorpusError: If a corpus cannot be read; the message names file and line.
    """
    whole = load_data(recipe.data, whole_train=True)
    corpora = {
        language: DatasetDict({**splits, "train": first_sentences(splits["train"], recipe.data.max_train_sentences)})
        for language, splits in whole.items()
    }
    return RunData(whole, corpora, unlabelled_part(whole, recipe), labels_of(recipe.data, whole))


def first_sentences(dataset: Dataset, count: int | None) -> Dataset:
    """The first `count` sentences of a corpus; all of them if `count` is `None`."""
    return dataset if count is None else dataset.select(range(min(count, len(dataset))))


def load_data(
    args: DataArguments, splits: Sequence[str] = ("train", "dev", "test"), whole_train: bool = False
) -> dict[str, DatasetDict]:
    """Load the corpora of a recipe.

    Sentences without gold tags stay in train, where teachers answer for them. In dev and test there is nothing to
    compare with: they are left out.

    Args:
        args: The fields of the recipe.
        splits: The splits to load.
        whole_train: Whether to load all training sentences, whatever `max_train_sentences` says.

    Returns:
        Language -> its splits.

    Raises:
        CorpusError: If a corpus cannot be read; the message names file and line.
    """
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
        )
    return loaded


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
        parts[language] = train.select(range(start, end))
    return parts
