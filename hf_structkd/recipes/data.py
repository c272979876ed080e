"""The corpora and the text of a recipe."""

from collections.abc import Mapping, Sequence

from datasets import Dataset, DatasetDict

from ..data.corpora import label_inventory, load_corpora
from ..data.unlabelled import load_sentences, with_gold
from .fields import DataArguments
from .parser import RecipeError


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
        own = {"tokens_column": args.tokens_column} if has_columns else {}
        loaded[language] = load_sentences(source, language=language, max_sentences=args.unlabelled_sentences, **own)
    return loaded
