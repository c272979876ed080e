"""Corpora from anywhere, as one kind of dataset: ``tokens``, ``tags``, ``language``.

Tags are kept as strings, not as ``ClassLabel``: languages whose corpora have different label inventories then have the
same features and concatenate as they are, and a class index can never be read with another language's names. Indices
appear only once the model's label order is known (see :func:`label_inventory`).
"""

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import datasets

from ..modeling.tag_scheme import SchemeName, infer_scheme, split_tag
from .demo_corpus import DEMO_LANGUAGES
from .source_text import CorpusError, RawSentence
from .sources import FILE_NAME, Source, is_one_table, open_source, source_name
from .tag_checks import Orphans, check_labels, convert, treat_orphans
from .words import tag_column, tag_names

logger = logging.getLogger(__name__)

FEATURES = datasets.Features(
    {
        "tokens": datasets.List(datasets.Value("string")),
        "tags": datasets.List(datasets.Value("string")),
        "language": datasets.Value("string"),
    }
)
SPLITS = ("train", "dev", "test")


def load_corpus(
    source: Source,
    *,
    language: str,
    split: str | None = None,
    scheme: SchemeName | None = None,
    to_scheme: SchemeName | None = None,
    orphans: Orphans = "accept",
    tags_column: str | int | None = None,
    tokens_column: str | int | None = None,
    sentence_column: str | int | None = None,
    column: int = -1,
    max_sentences: int | None = None,
    label_names: Sequence[str] | None = None,
) -> datasets.Dataset:
    """Load the annotated sentences of one language.

    Args:
        source: A CoNLL column file, ``.csv``, ``.conllu``, ``.jsonl`` (``.ndjson``, ``.jsonlines``), ``.json`` (each
            of these possibly gzipped), ``.parquet``, a folder written by ``save_to_disk``, a Hub id
            (``"owner/name"``, ``"owner/name:config"``, either with ``"@revision"``), ``"demo"`` for the built-in
            corpus, or a ``Dataset`` or ``DatasetDict``. What exists on disk is never looked for on the Hub; any other
            file name is read as a column file.
        language: The value of the ``language`` column.
        split: Which split, for sources that have several. ``dev`` and ``validation`` are the same.
        scheme: The tag scheme, to judge legality; inferred from the tags by default.
        to_scheme: BIO tags are rewritten as BIOES, or the reverse, if this is the other one.
        orphans: What to do with tag sequences that the scheme does not allow (an ``I-`` after ``O``): ``"accept"``
            them as they are, ``"repair"`` them (see :meth:`TagScheme.repair`), or ``"refuse"`` them with an error
            naming the place. They are counted and logged. Unless they are to be refused, a corpus that is IOB1 as a
            whole (``B-`` only between two entities of one type, or nowhere) is read as such and becomes BIO.
        tags_column: The column of the tags: a name in tables (by default one of ``TAG_COLUMNS``: ``tags``,
            ``ner_tags``, ``labels`` and so on); in CoNLL-U a field (by default ``upos``), also ``misc:KEY`` and
            ``feats:KEY``; in column files and CSV a number, from 0, or from the end if negative (by default the last),
            or a name where the first line names the columns.
        tokens_column: The column of the words likewise (by default one of ``TOKEN_COLUMNS``, or the first).
        sentence_column: In column files and CSV, a column with another value in every sentence, where no blank lines
            are between them (by default one of ``SENTENCE_COLUMNS`` that the first line names).
        column: ``tags_column`` of column files, as a number.
        max_sentences: Take only this many, the first ones.
        label_names: The label set. Tags outside it are an error; class indices without names are read with it.

    Returns:
        A dataset with the columns ``tokens``, ``tags`` (lists of strings) and ``language`` (string). Sentences
        without words are left out; their number is logged.

    Raises:
        CorpusError: If the source is missing, empty or broken; the message names file and line, or row.
        ValueError: If an argument is not one of those listed, or a text where a list is meant.
    """
    if isinstance(label_names, str):
        raise ValueError(f"label_names is the text {label_names!r}, but must be a list of labels.")
    if orphans not in ("accept", "repair", "refuse"):
        raise ValueError(f"orphans must be 'accept', 'repair' or 'refuse', not {orphans!r}.")
    if max_sentences is not None and max_sentences < 1:
        raise ValueError(f"max_sentences must be at least 1, not {max_sentences}.")
    name = source_name(source)
    raw = open_source(source, language, split, tags_column, tokens_column, sentence_column, column, label_names)
    try:
        sentences, empty = _take(raw, max_sentences)
    except MemoryError:
        raise CorpusError(
            f"{name}: does not fit into memory. Take its first sentences (max_sentences=; a .json file that is one "
            "list has to be JSON lines for that), or split it."
        ) from None
    if empty:
        logger.warning("%s: %d sentence(s) without words left out.", name, empty)
    if not sentences:
        raise CorpusError(f"{name}: no sentences. Is it the right file, and complete?")
    tagged = [sentence for sentence in sentences if sentence.tags is not None]
    if not tagged:
        raise CorpusError(
            f"{name}: none of the {len(sentences)} sentences has tags. Sentences without tags are read by "
            "load_sentences (in recipes: unlabelled_corpus)."
        )
    if len(tagged) < len(sentences):
        logger.info("%s: %d sentence(s) without tags.", name, len(sentences) - len(tagged))
    if label_names is not None:
        check_labels(tagged, label_names)
    found = treat_orphans(name, tagged, scheme, orphans, label_names)
    if to_scheme not in (None, found):
        convert(name, tagged, found, to_scheme)
    columns = {
        "tokens": [sentence.tokens for sentence in sentences],
        "tags": [sentence.tags for sentence in sentences],
        "language": [language] * len(sentences),
    }
    return datasets.Dataset.from_dict(columns, features=FEATURES)


def load_corpora(
    corpus: Source | Mapping[str, Any],
    languages: Sequence[str] | None = None,
    splits: Sequence[str] = SPLITS,
    *,
    max_sentences: int | Mapping[str, int] | None = None,
    **kwargs: Any,
) -> dict[str, datasets.DatasetDict]:
    """Load several languages.

    Args:
        corpus: ``"demo"``; a path or Hub id in which ``{language}`` and ``{split}`` are replaced, such as
            ``"wikiann/{language}/{split}.conll.gz"`` or ``"unimelb-nlp/wikiann:{language}"``; or a mapping from
            language to such a template, to a ``DatasetDict`` or to a mapping from split to source.
        languages: Which languages; may be left out for ``"demo"`` and if ``corpus`` is a mapping.
        splits: Which splits.
        max_sentences: At most this many of every split, or a mapping from split to its number (others: all).
        **kwargs: As for :func:`load_corpus`.

    Returns:
        Language -> ``DatasetDict`` with the splits.

    Raises:
        CorpusError: As for :func:`load_corpus`, with language and split named; and if a template would give several
            languages or splits the same sentences; and if languages are missing.
        ValueError: If a text stands where a list of languages or splits is meant.
    """
    for name, given, advice in (("languages", languages, "en"), ("splits", splits, "train")):
        if isinstance(given, str):
            raise ValueError(f"{name} is the text {given!r}, but must be a list, as in ['{advice}'].")
    if languages is None:
        if _is_mapping(corpus):
            languages = list(cast("Mapping[str, Any]", corpus))
        elif source_name(cast("Source", corpus)) == "demo":
            languages = DEMO_LANGUAGES
        else:
            raise CorpusError(f"{source_name(cast('Source', corpus))}: say which languages to load (languages).")
    # Every path is settled before anything is read: a missing last file should not cost the reading of the others.
    sources = {
        lang: {split: _source_of(corpus, lang, split, languages, splits) for split in splits} for lang in languages
    }
    for language, by_split in sources.items():
        for split, source in by_split.items():
            if isinstance(source, str) and FILE_NAME.fullmatch(source) and not _exists(source):
                raise CorpusError(f"language {language!r}, split {split!r}: no such file: {source}")
    _warn_of_doubles(sources)
    corpora = {}
    for language, by_split in sources.items():
        loaded = {}
        for split, source in by_split.items():
            limit = max_sentences.get(split) if isinstance(max_sentences, Mapping) else max_sentences
            try:
                loaded[split] = load_corpus(source, language=language, split=split, max_sentences=limit, **kwargs)
            except CorpusError as error:
                raise CorpusError(f"language {language!r}, split {split!r}: {error}") from error
        corpora[language] = datasets.DatasetDict(loaded)
    return corpora


def label_inventory(corpora: Any) -> list[str]:
    """The label names of corpora in an order that depends on nothing but the labels.

    ``O`` first; then BIO and BIOES tags by type, each type as B, I, E, S; plain tags alphabetically.

    Args:
        corpora: A dataset with a column of tags, or any nesting of mappings and sequences of datasets, such as what
            :func:`load_corpora` returns.

    Returns:
        The label names.

    Raises:
        ValueError: If a dataset has no tags, or numbers without names.
    """
    found: set[str] = set()
    for dataset in _datasets_in(corpora):
        column, names = tag_column(dataset), tag_names(dataset)
        if column is None:
            raise ValueError(f"a corpus without tags has no labels; its columns are {dataset.column_names}")
        tags = names or {tag for row in dataset.with_format(None)[column] for tag in row or ()} - {None}
        if not_strings := [tag for tag in tags if not isinstance(tag, str)]:
            raise ValueError(f"the tags in {column!r} are {not_strings[0]!r} and the like, and nothing names them")
        found.update(tags)
    if not found:
        return []
    if infer_scheme(sorted(found)) == "plain":
        return sorted(found, key=lambda tag: (tag != "O", tag))
    return sorted(found, key=lambda tag: (tag != "O", split_tag(tag)[1], "BIES".find(split_tag(tag)[0])))


def _datasets_in(corpora: Any) -> Iterator[datasets.Dataset]:
    if isinstance(corpora, datasets.Dataset):
        yield corpora
    else:
        for part in corpora.values() if isinstance(corpora, Mapping) else corpora:
            yield from _datasets_in(part)


def _is_mapping(corpus: Any) -> bool:
    """Whether this maps languages, or splits, to sources; a dataset with splits is a source itself."""
    return isinstance(corpus, Mapping) and not isinstance(corpus, (datasets.DatasetDict, datasets.IterableDatasetDict))


def _source_of(corpus: Any, language: str, split: str, languages: Sequence[str], splits: Sequence[str]) -> Source:
    """The source of one language and split, refusing what would give several of them the same sentences."""
    template = corpus
    if _is_mapping(corpus):
        if language not in corpus:
            raise CorpusError(f"No corpus for language {language!r}; there are {', '.join(corpus) or 'none'}.")
        template = corpus[language]
    if _is_mapping(template):
        if split not in template:
            raise CorpusError(f"language {language!r}: no {split!r} split; there are {', '.join(template)}.")
        own = template[split]
        return str(own) if isinstance(own, Path) else own
    name = source_name(template)
    if name == "demo":
        return name
    source: Source = template
    shared = not _is_mapping(corpus) and len(languages) > 1
    if isinstance(template, (str, Path)):
        unknown = set(re.findall(r"\{(\w*)\}", name)) - {"language", "split"}
        if unknown:
            raise CorpusError(f"{name}: unknown placeholder {unknown}; a template has {{language}} and {{split}}.")
        if shared and "{language}" not in name:
            raise CorpusError(f"{name}: every language would read the same sentences; write {{language}} into it.")
        source = name.replace("{language}", language).replace("{split}", split)
    elif shared:
        raise CorpusError(f"{name}: every language would read the same sentences; map each language to its own.")
    if "{split}" not in name and len(splits) > 1 and is_one_table(source):
        advice = "write {split} into it" if isinstance(source, str) else "give a DatasetDict"
        raise CorpusError(f"{name}: {', '.join(splits)} would be the same sentences; {advice}.")
    return source


def _warn_of_doubles(sources: Mapping[str, Mapping[str, Source]]) -> None:
    """Say where a mapping gives two splits, or languages, the same sentences: it may be meant, but seldom is."""
    first: dict[Any, str] = {}
    for language, by_split in sources.items():
        for split, source in by_split.items():
            if source == "demo" or not isinstance(source, (str, datasets.Dataset)) or not is_one_table(source):
                continue
            here, key = f"{language} {split}", source if isinstance(source, str) else id(source)
            if key in first:
                logger.warning("%s and %s are the same sentences: %s.", first[key], here, source_name(source))
            first.setdefault(key, here)


def _exists(source: str) -> bool:
    try:
        return Path(source).exists()
    except OSError:
        return True  # a name too long for any file is told when it is opened


def _take(raw: Iterable[RawSentence], max_sentences: int | None) -> tuple[list[RawSentence], int]:
    sentences: list[RawSentence] = []
    empty = 0
    for sentence in raw:
        if not sentence.tokens:
            empty += 1
            continue
        sentences.append(sentence)
        if len(sentences) == max_sentences:
            break
    return sentences, empty
