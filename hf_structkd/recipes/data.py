"""The corpora and the text of a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from datasets import Dataset, DatasetDict, concatenate_datasets

from ..data.corpora import label_inventory, load_corpora
from ..data.unlabelled import load_sentences, with_gold
from .fields import DataArguments
from .parser import RecipeError
from .recipe import Recipe


@dataclass
class RunData:
    """What a run reads.

    Args:
        whole: language -> its splits, with all training sentences: teachers may learn from more than the student.
        corpora: language -> its splits, with the student's training sentences, the first ones.
        unlabelled: language -> sentences that the student learns from teachers alone; languages without have none.
        labels: the label set, in the order of the ids.
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
        """language -> its development sentences."""
        return {language: splits["dev"] for language, splits in self.corpora.items()}

    def parts(self, *splits: str, unlabelled: bool = False) -> dict[str, dict[str, Dataset]]:
        """split -> language -> sentences; with `unlabelled` those too, where there are any."""
        chosen = {split: {language: own[split] for language, own in self.corpora.items()} for split in splits}
        return chosen | ({"unlabelled": self.unlabelled} if unlabelled and self.unlabelled else {})

    def sizes(self) -> str:
        """A line for each language: how many sentences each split has."""
        lines = []
        for language, splits in self.corpora.items():
            shown = {**splits, **({"unlabelled": self.unlabelled[language]} if language in self.unlabelled else {})}
            lines.append(f"{language}: " + ", ".join(f"{len(data):,} {split}" for split, data in shown.items()))
        return "\n".join(lines)


def read_run_data(recipe: Recipe) -> RunData:
    """The corpora and the text of a recipe. Raises RecipeError or CorpusError where they are not what it says."""
    whole = load_data(recipe.data, whole_train=True)
    corpora = {
        language: DatasetDict({**splits, "train": first(splits["train"], recipe.data.max_train_sentences)})
        for language, splits in whole.items()
    }
    return RunData(whole, corpora, unlabelled_part(whole, recipe), labels_of(recipe.data, whole))


def first(dataset: Dataset, count: int | None) -> Dataset:
    """The first `count` sentences; all where `None`."""
    return dataset if count is None else dataset.select(range(min(count, len(dataset))))


def load_data(
    args: DataArguments, splits: Sequence[str] = ("train", "dev", "test"), whole_train: bool = False
) -> dict[str, DatasetDict]:
    """language -> its splits; with `whole_train` all training sentences, whatever `max_train_sentences` says.

    Sentences without gold tags are trained on, but in dev and test nothing can be compared with: they are left out.
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
        # Of corpora that are rewritten in another scheme, the labels are those of the other scheme.
        label_names=None if args.corpus_scheme else args.labels,
    )
    return {
        language: DatasetDict({name: data if name == "train" else with_gold(data) for name, data in own.items()})
        for language, own in corpora.items()
    }


def labels_of(args: DataArguments, corpora: Mapping[str, DatasetDict]) -> list[str]:
    """The label set that a recipe gives, or else that of the corpora.

    Raises:
        RecipeError: if the corpora have labels that the recipe does not name.
    """
    found = label_inventory(corpora)
    if args.labels is None:
        return found
    if unknown := [label for label in found if label not in args.labels]:
        raise RecipeError(f"the corpora have {', '.join(unknown)}, which is not among the labels {args.labels}")
    return args.labels


def load_unlabelled(args: DataArguments, languages: Sequence[str]) -> dict[str, Dataset]:
    """language -> its sentences of `unlabelled_corpus`; languages that the field does not name have none."""
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
        # The corpora's columns are those of text in files like theirs, but plain text and CoNLL-U have no other.
        has_columns = not source.lower().removesuffix(".gz").endswith((".txt", ".conllu"))
        loaded[language] = load_sentences(
            source,
            language=language,
            max_sentences=args.unlabelled_sentences,
            tokens_column=args.tokens_column if has_columns else None,
        )
    return loaded


def unlabelled_part(whole: Mapping[str, DatasetDict], recipe: Recipe) -> dict[str, Dataset]:
    """language -> the training sentences whose gold tags the student is not to see; empty if none are asked for."""
    data_args, teacher_args, args = recipe.data, recipe.teachers, recipe.training
    given = [data_args.unlabelled_sentences, data_args.unlabelled_corpus, data_args.augmentation]
    if given == [None, None, None]:
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
        needed = [data_args.max_train_sentences]
        if not teacher_args.sources(language):
            needed.append(teacher_args.teacher_max_train_sentences)
        seen = [count for count in needed if count is not None]
        if len(seen) < len(needed):
            raise RecipeError(
                "unlabelled_sentences are those after max_train_sentences and teacher_max_train_sentences: give both"
            )
        train = splits["train"]
        start = max(seen)
        if start >= len(train):
            raise RecipeError(f"{language} has {len(train):,} training sentences, none after the first {start:,}")
        end = min(start + (data_args.unlabelled_sentences or 0), len(train))
        parts[language] = train.select(range(start, end))
    return parts
