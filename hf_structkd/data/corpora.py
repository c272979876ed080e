"""Loading corpora of all formats as datasets with the columns `tokens`, `tags`, `language`.

Tags are strings, not `ClassLabel`: languages whose corpora have different label inventories then have the same
features and can be concatenated, and a class index can never be read with another language's names. Tags become
indices only when the model's label order is known (see [`label_inventory`]).
"""

import logging
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice, repeat
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast, get_args

import datasets
import pyarrow as pa

from ..modeling.segmenters import get_segmenter
from ..modeling.tag_scheme import SchemeName, infer_scheme, split_tag, tag_type
from .columns import ANNOTATED_TYPES, DOCUMENT, GLUED, column_values
from .default_words import DefaultSegmenter, segmenter_name
from .demo_corpus import DEMO_LANGUAGES
from .hub_datasets import source_info
from .offset_spans import OffsetUnit, SpanChoice
from .sentence_table import SentenceColumns, SentenceTable, arrow_dataset
from .source_text import CorpusError, RawSentence, setting
from .sources import FILE_NAME, ReadingOptions, Source, is_one_table, open_source, source_name
from .tag_checks import CORPUS_SCHEMES, CorpusScheme, Orphans, check_labels, convert, read_scheme, treat_orphans
from .word_agreement import SENTENCES_COMPARED, WordAgreement, compare_words, log_agreement
from .words import tag_column, tag_names

logger = logging.getLogger(__name__)

FEATURES = datasets.Features(
    {
        "tokens": datasets.List(datasets.Value("string")),
        "tags": datasets.List(datasets.Value("string")),
        "language": datasets.Value("string"),
    }
)
# The columns that only some corpora have.
OPTIONAL_FEATURES = datasets.Features(
    {
        ANNOTATED_TYPES: datasets.List(datasets.Value("string")),
        DOCUMENT: datasets.Value("string"),
        GLUED: datasets.List(datasets.Value("bool")),
    }
)
Documents: TypeAlias = Literal["marked", "source"]
SPLITS = ("train", "dev", "test")


def load_corpus(
    source: Source,
    *,
    language: str,
    split: str | None = None,
    scheme: CorpusScheme | None = None,
    to_scheme: SchemeName | None = None,
    orphans: Orphans = "accept",
    tags_column: str | int | None = None,
    tokens_column: str | int | None = None,
    sentence_column: str | int | None = None,
    column: int = -1,
    max_sentences: int | None = None,
    label_names: Sequence[str] | None = None,
    words: str | Callable[[str], Iterable[Any]] | None = None,
    spans: SpanChoice = "refuse",
    offset_unit: OffsetUnit | None = None,
    annotated_types: Sequence[str] | None = None,
    documents: Documents | None = None,
    measure_words: bool | dict[str, WordAgreement] = True,
    glued: bool = False,
    format: str | None = None,
) -> datasets.Dataset:
    """Load the annotated sentences of one language.

    Args:
        source: a CoNLL column file, `.csv`, `.conllu`, `.jsonl` (`.ndjson`, `.jsonlines`), `.json` (each
            of these possibly packed: gzip, bzip2, xz, zip; JSON also as doccano, Prodigy, Label Studio and GLiNER
            write it), `.parquet`, spaCy's `.spacy`, a folder written by `save_to_disk`, a Hub id
            (`"owner/name"`, `"owner/name:config"`, either with `"@revision"`), `"demo"` for the built-in
            corpus, or a `Dataset` or `DatasetDict`, also as a stream (`IterableDataset`), which is read to its end or
            `max_sentences`. A name that exists on disk is never looked up on the Hub; of a file with any other
            ending the content tells the format. The log says which format was recognised, and by what.
        language: the value of the `language` column.
        split: which split, for sources that have several. `dev` and `validation` are the same.
        scheme: the tag scheme of the source, one of `CORPUS_SCHEMES`: `"BIO"`, `"BIOES"`, `"plain"`, or `"BILOU"`,
            `"BMES"`, `"IOB1"`, `"IO"`, `"brackets"`, which are rewritten as BIO or BIOES. By default recognised from
            all tags, with suffixes (`PER-B`), other separators (`B_PER`) and another word for outside (`o`); what is
            rewritten is logged.
        to_scheme: the scheme in which to rewrite the tags, BIO as BIOES or the reverse.
        orphans: what to do with tag sequences that the scheme does not allow (an `I-` after `O`): `"accept"`
            leaves them as they are, `"repair"` repairs them (see [`TagScheme.repair`]), and `"refuse"` raises
            an error that names the place. They are counted and logged. Except with `"refuse"`, a corpus that is IOB1
            as a whole (`B-` only between two entities of one type, or nowhere) becomes BIO.
        tags_column: the column of the tags: a name in tables (by default one of `TAG_COLUMNS`: `tags`,
            `ner_tags`, `labels` and so on); in CoNLL-U a field (by default `upos`), also `misc:KEY` and
            `feats:KEY`; in column files and CSV a number, from 0, or from the end if negative (by default the last),
            or a name where the first line names the columns.
        tokens_column: the column of the words likewise (by default one of `TOKEN_COLUMNS`, or the first).
        sentence_column: in column files and CSV without blank lines between sentences, a column with another value in
            every sentence (by default one of `SENTENCE_COLUMNS` that the first line names).
        column: `tags_column` of column files, as a number.
        max_sentences: Load only so many, from the start.
        words: for texts with character offsets: how they become words, the name of a segmenter or a function, see
            [`~.modeling.segmenters.get_segmenter`]; by default `"rules"`. Exports that hold words keep their own.
            Give the student's configuration the same name (`words`).
        spans: for texts with spans: whether a span that no words fit (it cuts a word, overlaps another one, lies
            outside of its text, is empty) is an error (`"refuse"`) or left out, counted and logged (`"drop"`).
        offset_unit: what character offsets count, `"characters"` (code points, as Python) or `"utf-16"` (as
            JavaScript); by default recognised from the spans' own texts, and asked for where it matters and none
            tells.
        label_names: the label set. Tags outside it are an error; it gives class indices without names their names.
        annotated_types: the entity types that the annotators looked for, if these are not all that the student will
            know. A column `annotated_types` of a table says it sentence by sentence.
        documents: adds a column `document`, for teachers that read sentences with their neighbours (`annotate`,
            `context`): `"marked"`: as the source marks them (`-DOCSTART-` lines, `# newdoc` in CoNLL-U, a column
            `document` of tables); `"source"`: all its sentences, in their order, are one document.
        measure_words: where the source has texts and words of its own, log which share of the words `words` finds in
            the texts, with examples: a pipeline meets texts. A dictionary gets the comparison, by language.
        glued: adds a column `glued`, for models with `glued_words`: for each word whether it follows the word before
            it without a blank; `None` where the source does not tell. Texts with character offsets, DocBin and CoNLL-U
            (`# text`, `SpaceAfter=No`) do.
        format: the format of the file, or of a table's rows, in place of the one that is recognised: one of
            [`~.data.foreign_formats.FORMATS`].

    Returns:
        A dataset with the columns `tokens`, `tags` (lists of strings) and `language` (string), and `annotated_types`
        (a list of strings, or `None` for all) if any sentence says so. Sentences without words are left out; their
        number is logged.

    Raises:
        CorpusError: if the source is missing, empty, broken or not of the format; the message names file and line, or
            row, and shows how a file of another format begins.
        ValueError: if an argument has a value that is not listed here, or is a text in place of a list.
    """
    options = ReadingOptions(
        tags_column, tokens_column, sentence_column, column, label_names, words, spans, offset_unit, format
    )
    if isinstance(annotated_types, str):
        raise ValueError(f"annotated_types is the text {annotated_types!r}, but must be a list of entity types.")
    sentences = read_sentences(
        *(source, language, split, options, scheme, to_scheme, orphans, max_sentences),
        texts=0 if measure_words is False else SENTENCES_COMPARED,
        glued=glued,
    )
    if measure_words is not False:
        agreement = log_word_agreement(source_name(source), sentences, words)
        if isinstance(measure_words, dict) and agreement.words:
            measure_words[language] = agreement
    with_types = annotated_types is not None or sentences.any_value("annotated_types")
    if with_types:
        _refuse_undeclared(sentences, annotated_types)
    if documents is not None:
        _check_documents(source, sentences, documents)

    def batches() -> Iterator[dict[str, pa.Array]]:
        types, names = sentences.values("annotated_types"), sentences.values("document")
        flags = sentences.values(GLUED)
        prefix = f"{language}/{split or 'all'}"
        for batch in sentences.arrow_batches():
            count = len(batch["tokens"])
            columns = {**batch, "language": pa.repeat(pa.scalar(language, pa.string()), count)}
            if with_types:
                declared = [list(annotated_types)] * count if annotated_types is not None else islice(types, count)
                columns[ANNOTATED_TYPES] = pa.array(list(declared), pa.list_(pa.string()))
            if glued:
                columns[GLUED] = pa.array(list(islice(flags, count)), pa.list_(pa.bool_()))
            if documents == "source":
                columns[DOCUMENT] = pa.repeat(prefix, count)
            elif documents is not None:
                marked = [None if name is None else f"{prefix}/{name}" for name in islice(names, count)]
                columns[DOCUMENT] = pa.array(marked, pa.string())
            yield columns

    wanted = {ANNOTATED_TYPES: with_types, DOCUMENT: documents is not None, GLUED: glued}
    optional = {name: feature for name, feature in OPTIONAL_FEATURES.items() if wanted[name]}
    return arrow_dataset(batches(), source_info(source, datasets.Features({**FEATURES, **optional})))


def log_word_agreement(
    name: str, sentences: SentenceTable, words: str | Callable[[str], Iterable[Any]] | None
) -> WordAgreement:
    """Log which share of a source's own words a segmenter finds in its texts; nothing where it lacks either.

    Args:
        name: of the source.
        sentences: its sentences.
        words: as for [`load_corpus`].
    """
    segment = DefaultSegmenter() if words is None else get_segmenter(words)
    agreement = compare_words(sentences.with_texts(), segment)
    agreement.segmenter = segmenter_name(words, segment)  # of the default one known when it has seen the texts
    log_agreement(name, agreement)
    return agreement


def _check_documents(source: Source, sentences: SentenceTable, documents: str) -> None:
    """Refuse a way to find documents that does not exist, or that this source does not have."""
    if documents not in get_args(Documents):
        raise ValueError(f"documents must be one of {', '.join(get_args(Documents))}, not {documents!r}.")
    if documents == "marked" and not sentences.any_value("document"):
        raise CorpusError(
            f"{source_name(source)}: documents='marked', but nothing marks documents: neither -DOCSTART- lines, "
            "# newdoc comments of CoNLL-U nor a column 'document' of a table. If it is one document, or its sentences "
            "follow each other throughout, say documents='source'."
        )


def _refuse_undeclared(sentences: SentenceTable, annotated_types: Sequence[str] | None) -> None:
    """Raise CorpusError for a gold entity of a type that the sentence's annotators did not look for."""
    types_of = sentences.values("annotated_types") if annotated_types is None else repeat(annotated_types)
    for row, (tags, types) in enumerate(zip(sentences.tags(), types_of)):
        for word, tag in enumerate(tags or () if types is not None else ()):
            if (kind := tag_type(tag)) is not None and kind not in types:
                declared = ", ".join(types) or "none"
                raise CorpusError(
                    f"{sentences[row].place(word)}: the tag {tag}, but annotated_types has only {declared}."
                )


def read_sentences(
    source: Source,
    language: str,
    split: str | None,
    options: ReadingOptions,
    scheme: CorpusScheme | None = None,
    to_scheme: SchemeName | None = None,
    orphans: Orphans = "accept",
    max_sentences: int | None = None,
    texts: int | None = None,
    glued: bool = True,
) -> SentenceTable:
    """The sentences of [`load_corpus`] with their places and, where the source has it, their text.

    Args:
        options: the arguments of `load_corpus` that say how the source is read.
        texts, glued: of how many sentences the text is kept, and whether it is kept which words are glued, as for
            [`SentenceTable`].
        source, language, split, scheme, to_scheme, orphans, max_sentences: as for `load_corpus`.

    Raises:
        CorpusError, ValueError: as `load_corpus`.
    """
    label_names = options.label_names
    if isinstance(label_names, str):
        raise ValueError(f"label_names is the text {label_names!r}, but must be a list of labels.")
    if scheme not in (None, *CORPUS_SCHEMES):
        raise ValueError(f"scheme must be one of {', '.join(CORPUS_SCHEMES)}, not {scheme!r}.")
    if orphans not in ("accept", "repair", "refuse"):
        raise ValueError(f"orphans must be 'accept', 'repair' or 'refuse', not {orphans!r}.")
    if max_sentences is not None and max_sentences < 1:
        raise ValueError(f"max_sentences must be at least 1, not {max_sentences}.")
    name = source_name(source)
    raw = open_source(source, language, split, options)
    filled = _Filled(raw)
    try:
        sentences = SentenceTable(_first(filled, max_sentences), texts, glued)
    except MemoryError:
        raise CorpusError(
            f"{name}: does not fit into memory. Take its first sentences ({setting('max_sentences')}; a .json file "
            "that is one list has to be JSON lines for that), or split it."
        ) from None
    if filled.empty:
        logger.warning("%s: %d sentence(s) without words left out.", name, filled.empty)
    if not sentences:
        raise CorpusError(f"{name}: no sentences. Is it the right file, and complete?")
    tagged = sentences.num_tagged
    if not tagged:
        raise CorpusError(
            f"{name}: none of the {len(sentences)} sentences has tags. Sentences without tags are read by "
            "load_sentences (in recipes: unlabelled_corpus)."
        )
    if tagged < len(sentences):
        logger.info("%s: %d sentence(s) without tags.", name, len(sentences) - tagged)
    read_scheme(name, sentences, scheme, label_names)
    if label_names is not None:
        check_labels(sentences, label_names)
    present_scheme = treat_orphans(name, sentences, scheme, orphans, label_names)
    if to_scheme not in (None, present_scheme):
        convert(name, sentences, present_scheme, to_scheme)
    return sentences


def load_corpora(
    corpus: Source | Mapping[str, Any],
    languages: Sequence[str] | None = None,
    splits: Sequence[str] = SPLITS,
    *,
    max_sentences: int | Mapping[str, int] | None = None,
    annotated_types: Mapping[str, Sequence[str]] | Sequence[str] | None = None,
    documents: Mapping[str, Documents] | Documents | None = None,
    measure_words: bool | dict[str, WordAgreement] = True,
    format: Mapping[str, str] | str | None = None,
    **kwargs: Any,
) -> dict[str, datasets.DatasetDict]:
    """Load several languages.

    Args:
        corpus: `"demo"`; a path or Hub id in which `{language}` and `{split}` are replaced, such as
            `"wikiann/{language}/{split}.conll.gz"` or `"unimelb-nlp/wikiann:{language}"`; or a mapping from
            language to such a template, to a `DatasetDict` or to a mapping from split to source.
        languages: the languages to load; may be left out for `"demo"` and if `corpus` is a mapping.
        splits: the splits to load.
        max_sentences: at most so many per split, or a mapping from split to number (all of a missing split).
        annotated_types: as for [`load_corpus`], of all languages, or a mapping from language to types (all of a
            missing language).
        documents: as for [`load_corpus`], of all languages, or a mapping from language to it.
        measure_words: as for [`load_corpus`], of the first split of each language.
        format: as for [`load_corpus`], of all languages, or a mapping from language to format (the one that is
            recognised for a missing language).
        **kwargs: as for [`load_corpus`].

    Returns:
        Language -> `DatasetDict` with the splits. If any has a column `annotated_types`, `document` or `glued`, all
        have.

    Raises:
        CorpusError: as for [`load_corpus`], with language and split named; and if a template would give several
            languages or splits the same sentences; and if languages are missing.
        ValueError: if a text stands in place of a list of languages or splits.
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
    types_of = annotated_types
    if isinstance(types_of, Mapping) and (unknown := [language for language in types_of if language not in languages]):
        raise CorpusError(f"annotated_types names {', '.join(unknown)}, but the languages are {', '.join(languages)}.")
    for argument, by_language in (("documents", documents), ("format", format)):
        if isinstance(by_language, Mapping) and (unknown := [name for name in by_language if name not in languages]):
            raise CorpusError(f"{argument} names {', '.join(unknown)}, but the languages are {', '.join(languages)}.")
    # Every path is checked before anything is read: a missing last file should not cost reading the others.
    sources = {
        lang: {split: _source_of(corpus, lang, split, languages, splits) for split in splits} for lang in languages
    }
    for language, by_split in sources.items():
        for split, source in by_split.items():
            if isinstance(source, str) and FILE_NAME.fullmatch(source) and not _exists(source):
                raise CorpusError(f"language {language!r}, split {split!r}: no such file: {source}")
    _warn_of_duplicates(sources)
    corpora = {}
    for language, by_split in sources.items():
        loaded: dict[str, datasets.Dataset] = {}
        for split, source in by_split.items():
            limit = max_sentences.get(split) if isinstance(max_sentences, Mapping) else max_sentences
            try:
                loaded[split] = load_corpus(
                    source,
                    language=language,
                    split=split,
                    max_sentences=limit,
                    annotated_types=types_of.get(language) if isinstance(types_of, Mapping) else types_of,
                    documents=documents.get(language) if isinstance(documents, Mapping) else documents,
                    measure_words=False if loaded else measure_words,
                    format=format.get(language) if isinstance(format, Mapping) else format,
                    **kwargs,
                )
            except CorpusError as error:
                raise CorpusError(f"language {language!r}, split {split!r}: {error}") from error
        corpora[language] = datasets.DatasetDict(loaded)
    return with_common_columns(corpora)


def with_common_columns(corpora: Mapping[str, datasets.DatasetDict]) -> dict[str, datasets.DatasetDict]:
    """The same corpora; if any has one of `OPTIONAL_FEATURES`, all have: they can be concatenated."""
    present = {name for splits in corpora.values() for data in splits.values() for name in data.column_names}
    return {
        language: datasets.DatasetDict({split: with_columns(data, present) for split, data in splits.items()})
        for language, splits in corpora.items()
    }


def with_columns(data: datasets.Dataset, names: Collection[str]) -> datasets.Dataset:
    """A corpus with those of `OPTIONAL_FEATURES` that are among `names`, `None` in every row where they are new."""
    for name, feature in OPTIONAL_FEATURES.items():
        if name in names and name not in data.column_names:
            data = data.add_column(name, [None] * len(data), feature=feature)
    return data


def label_inventory(corpora: Any) -> list[str]:
    """The label names of corpora in an order that depends on nothing but the labels.

    `O` first; then BIO and BIOES tags by type, each type as B, I, E, S; plain tags alphabetically.

    Args:
        corpora: a dataset with a column of tags, or any nesting of mappings and sequences of datasets, such as what
            [`load_corpora`] returns.

    Returns:
        The label names.

    Raises:
        ValueError: if a dataset has no tags, or numbers without names.
    """
    inventory: set[str] = set()
    for dataset in _datasets_in(corpora):
        column, names = tag_column(dataset), tag_names(dataset)
        if column is None:
            raise ValueError(f"a corpus without tags has no labels; its columns are {dataset.column_names}")
        tags = names or {tag for row in column_values(dataset, column) for tag in row or ()} - {None}
        if not_strings := [tag for tag in tags if not isinstance(tag, str)]:
            raise ValueError(f"the tags in {column!r} are {not_strings[0]!r} and the like, and nothing names them")
        inventory.update(tags)
    if not inventory:
        return []
    if infer_scheme(sorted(inventory)) == "plain":
        return sorted(inventory, key=lambda tag: (tag != "O", tag))
    return sorted(inventory, key=lambda tag: (tag != "O", split_tag(tag)[1], "BIES".find(split_tag(tag)[0])))


def _datasets_in(corpora: Any) -> Iterator[datasets.Dataset]:
    if isinstance(corpora, datasets.Dataset):
        yield corpora
    else:
        for part in corpora.values() if isinstance(corpora, Mapping) else corpora:
            yield from _datasets_in(part)


def _is_mapping(corpus: Any) -> bool:
    """Whether a corpus maps languages, or splits, to sources; a dataset with splits is a source itself."""
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
        source_of_split = template[split]
        return str(source_of_split) if isinstance(source_of_split, Path) else source_of_split
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


def _warn_of_duplicates(sources: Mapping[str, Mapping[str, Source]]) -> None:
    """Warn where a mapping gives two splits, or languages, the same sentences: this is seldom intended."""
    first: dict[Any, str] = {}
    for language, by_split in sources.items():
        for split, source in by_split.items():
            if source == "demo" or not isinstance(source, (str, datasets.Dataset)) or not is_one_table(source):
                continue
            label, key = f"{language} {split}", source if isinstance(source, str) else id(source)
            if key in first:
                logger.warning("%s and %s are the same sentences: %s.", first[key], label, source_name(source))
            first.setdefault(key, label)


def _exists(source: str) -> bool:
    try:
        return Path(source).exists()
    except OSError:
        return True  # a name too long for any file: an error when it is opened


def _first(
    sentences: Iterable[RawSentence | SentenceColumns], count: int | None
) -> Iterator[RawSentence | SentenceColumns]:
    """The first sentences; the others are not read."""
    left = count
    for sentence in sentences:
        size = len(sentence) if isinstance(sentence, SentenceColumns) else 1
        if left is not None and size >= left:
            yield sentence.first(left) if isinstance(sentence, SentenceColumns) else sentence
            return
        left = None if left is None else left - size
        yield sentence


class _Filled:
    """The sentences that have words; the others are counted."""

    def __init__(self, sentences: Iterable[RawSentence | SentenceColumns]) -> None:
        self._sentences, self.empty = sentences, 0

    def __iter__(self) -> Iterator[RawSentence | SentenceColumns]:
        for sentence in self._sentences:
            if isinstance(sentence, SentenceColumns) or sentence.tokens:
                yield sentence
            else:
                self.empty += 1
