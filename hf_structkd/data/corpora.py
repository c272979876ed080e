"""Corpora from anywhere, as one kind of dataset: ``tokens``, ``tags``, ``language``.

Tags are kept as strings, not as ``ClassLabel``: languages whose corpora have different label inventories then have the
same features and concatenate as they are, and a class index can never be read with another language's names. Indices
appear only once the model's label order is known (see :func:`label_inventory`).
"""

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import datasets

from ..modeling.tag_scheme import SchemeName, TagScheme, convert_tags, infer_scheme, split_tag
from .demo_corpus import DEMO_LANGUAGES
from .readers import CorpusError, RawSentence
from .sources import FILE_NAME, open_source

logger = logging.getLogger(__name__)

Orphans = Literal["accept", "repair", "refuse"]

FEATURES = datasets.Features(
    {
        "tokens": datasets.List(datasets.Value("string")),
        "tags": datasets.List(datasets.Value("string")),
        "language": datasets.Value("string"),
    }
)
SPLITS = ("train", "dev", "test")


def load_corpus(
    source: str | Path,
    *,
    language: str,
    split: str | None = None,
    scheme: SchemeName | None = None,
    to_scheme: SchemeName | None = None,
    orphans: Orphans = "accept",
    tags_column: str | None = None,
    tokens_column: str | int | None = None,
    column: int = -1,
    max_sentences: int | None = None,
    label_names: Sequence[str] | None = None,
) -> datasets.Dataset:
    """Load the annotated sentences of one language.

    Args:
        source: A CoNLL column file, ``.conllu``, ``.jsonl``, ``.json`` (each of these possibly gzipped),
            ``.parquet``, a folder written by ``save_to_disk``, a Hub id (``"owner/name"``,
            ``"owner/name:config"``, either with ``"@revision"``), or ``"demo"`` for the built-in corpus. What exists
            on disk is never looked for on the Hub; any other file name is read as a column file.
        language: The value of the ``language`` column.
        split: Which split, for sources that have several. ``dev`` and ``validation`` are the same.
        scheme: The tag scheme, to judge legality; inferred from the tags by default.
        to_scheme: BIO tags are rewritten as BIOES, or the reverse, if this is the other one.
        orphans: What to do with tag sequences that the scheme does not allow (an ``I-`` after ``O``): ``"accept"``
            them as they are, ``"repair"`` them (see :meth:`TagScheme.repair`; this makes BIO out of IOB1), or
            ``"refuse"`` them with an error naming the place. They are counted and logged.
        tags_column: The column of the tags in tables (by default ``tags``, ``ner_tags``, ``upos`` or ``labels``);
            in CoNLL-U the field (by default ``upos``), also ``misc:KEY`` and ``feats:KEY``.
        tokens_column: The column of the words: a name in tables (by default ``tokens`` or ``words``), a number in
            column files (by default 0).
        column: The column of the tags in column files, counted from 0, or from the end if negative.
        max_sentences: Take only this many, the first ones.
        label_names: The label set. Tags outside it are an error; class indices without names are read with it.

    Returns:
        A dataset with the columns ``tokens``, ``tags`` (lists of strings) and ``language`` (string). Sentences
        without words are left out; their number is logged.

    Raises:
        CorpusError: If the source is missing, empty or broken; the message names file and line, or row.
        ValueError: If an argument is not one of those listed.
    """
    if orphans not in ("accept", "repair", "refuse"):
        raise ValueError(f"orphans must be 'accept', 'repair' or 'refuse', not {orphans!r}.")
    if max_sentences is not None and max_sentences < 1:
        raise ValueError(f"max_sentences must be at least 1, not {max_sentences}.")
    raw = open_source(source, language, split, tags_column, tokens_column, column, label_names)
    sentences, empty = _take(raw, max_sentences)
    if empty:
        logger.warning("%s: %d sentence(s) without words left out.", source, empty)
    if not sentences:
        raise CorpusError(f"{source}: no sentences. Is it the right file, and complete?")
    if label_names is not None:
        _check_labels(sentences, label_names)
    found = _treat_orphans(source, sentences, scheme, orphans, label_names)
    if to_scheme not in (None, found):
        _convert(source, sentences, found, to_scheme)
    columns = {
        "tokens": [sentence.tokens for sentence in sentences],
        "tags": [sentence.tags for sentence in sentences],
        "language": [language] * len(sentences),
    }
    return datasets.Dataset.from_dict(columns, features=FEATURES)


def load_corpora(
    corpus: str | Path | Mapping[str, Any],
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
            language to such a template or to a mapping from split to source.
        languages: Which languages; may be left out for ``"demo"`` and if ``corpus`` is a mapping.
        splits: Which splits.
        max_sentences: At most this many of every split, or a mapping from split to its number (others: all).
        **kwargs: As for :func:`load_corpus`.

    Returns:
        Language -> ``DatasetDict`` with the splits.

    Raises:
        CorpusError: As for :func:`load_corpus`, with language and split named; and if a template would give several
            languages or splits the same sentences.
    """
    if languages is None:
        if not isinstance(corpus, Mapping) and corpus != "demo":
            raise ValueError("Say which languages to load.")
        languages = list(corpus) if isinstance(corpus, Mapping) else DEMO_LANGUAGES
    # Every path is settled before anything is read: a missing last file should not cost the reading of the others.
    sources = {
        lang: {split: _source_of(corpus, lang, split, languages, splits) for split in splits} for lang in languages
    }
    for language, by_split in sources.items():
        for split, source in by_split.items():
            if FILE_NAME.fullmatch(source) and not Path(source).exists():
                raise CorpusError(f"language {language!r}, split {split!r}: no such file: {source}")
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
        corpora: A dataset with a ``tags`` column, or any nesting of mappings and sequences of datasets, such as what
            :func:`load_corpora` returns.

    Returns:
        The label names.
    """
    found: set[str] = set()
    for dataset in _datasets_in(corpora):
        column = dataset.features["tags"]
        inner = getattr(column, "feature", None)
        if isinstance(inner, datasets.ClassLabel):
            found.update(inner.names)
        else:
            found.update(tag for tags in dataset["tags"] for tag in tags)
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


def _source_of(
    corpus: str | Path | Mapping[str, Any], language: str, split: str, languages: Sequence[str], splits: Sequence[str]
) -> str:
    """The source of one language and split, refusing templates that would read the same file twice."""
    template: Any = corpus
    if isinstance(corpus, Mapping):
        if language not in corpus:
            raise CorpusError(f"No corpus for language {language!r}; there are {', '.join(corpus) or 'none'}.")
        template = corpus[language]
        if isinstance(template, Mapping):
            if split not in template:
                raise CorpusError(f"language {language!r}: no {split!r} split; there are {', '.join(template)}.")
            return str(template[split])
    template = str(template)
    if template == "demo":
        return template
    unknown = set(re.findall(r"\{(\w*)\}", template)) - {"language", "split"}
    if unknown:
        raise CorpusError(f"{template}: unknown placeholder {unknown}; a template has {{language}} and {{split}}.")
    if not isinstance(corpus, Mapping) and "{language}" not in template and len(languages) > 1:
        raise CorpusError(f"{template}: every language would read the same sentences; write {{language}} into it.")
    if "{split}" not in template and len(splits) > 1 and (FILE_NAME.fullmatch(template)):
        raise CorpusError(f"{template}: {', '.join(splits)} would be the same sentences; write {{split}} into it.")
    return template.replace("{language}", language).replace("{split}", split)


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


def _check_labels(sentences: Iterable[RawSentence], label_names: Sequence[str]) -> None:
    known = set(label_names)
    for sentence in sentences:
        for i, tag in enumerate(sentence.tags):
            if tag not in known:
                near = get_close_matches(tag, label_names, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise CorpusError(
                    f"{sentence.place(i)}: tag {tag!r} of {sentence.tokens[i]!r} is not in the label set "
                    f"{list(label_names)}.{hint}"
                )


def _treat_orphans(
    source: str | Path,
    sentences: list[RawSentence],
    scheme: SchemeName | None,
    orphans: Orphans,
    label_names: Sequence[str] | None,
) -> SchemeName:
    """Count illegal tag sequences, and accept, repair (in place) or refuse them; the scheme that they follow."""
    tags = sorted({tag for sentence in sentences for tag in sentence.tags})
    name = scheme or infer_scheme(label_names or tags)
    if name == "plain":
        odd = [tag for tag in tags if tag != "O" and not split_tag(tag)[0]]
        if scheme is None and "O" in tags and len(odd) < len(tags) - 1:  # one mistyped tag undoes the inference
            logger.warning("%s: read as plain tags because of %s; give scheme= if it is BIO or BIOES.", source, odd)
        return name
    # Over the complete label set, so that an IOB1 corpus that never says B-PER is judged, and repaired, as BIO.
    types = sorted({split_tag(tag)[1] for tag in tags if split_tag(tag)[0]})
    full = TagScheme.from_entity_types(types, name)
    for sentence in sentences:
        if unreadable := [i for i, tag in enumerate(sentence.tags) if tag not in full.tags]:
            i = unreadable[0]
            raise CorpusError(f"{sentence.place(i)}: {sentence.tags[i]!r} is not a {name} tag.")
    legal = {(a, b) for a, row in zip(full.tags, full.allowed.tolist()) for b, ok in zip(full.tags, row) if ok}
    words = count = 0
    for sentence in sentences:
        before = ("O", *sentence.tags)
        after = (*sentence.tags, "O")
        if all(pair in legal for pair in zip(before, after)):
            continue
        illegal = full.violations(sentence.tags)
        if orphans == "refuse":
            i = illegal[0]
            raise CorpusError(
                f"{sentence.place(i)}: {sentence.tags[i]!r} after {before[i]!r} is not legal {name}. Correct "
                "it, or load with orphans='repair' or orphans='accept'."
            )
        words, count = words + len(illegal), count + 1
        if orphans == "repair":
            sentence.tags = full.repair(sentence.tags)
            missing = sorted(set(sentence.tags) - set(label_names)) if label_names is not None else []
            if missing:
                raise CorpusError(f"{sentence.place(illegal[0])}: the repair needs {missing}, not in label_names.")
    if count:
        outcome = "repaired" if orphans == "repair" else "accepted (strict evaluation sees no entity there)"
        logger.warning(
            "%s: %d illegal %s tag(s) in %d of %d sentences %s.", source, words, name, count, len(sentences), outcome
        )
    return name


def _convert(source: str | Path, sentences: list[RawSentence], scheme: Any, to_scheme: Any) -> None:
    """Rewrite tags in another scheme, in place."""
    if "plain" in (scheme, to_scheme):
        raise CorpusError(f"{source}: {scheme} tags cannot be rewritten as {to_scheme} tags.")
    for sentence in sentences:
        try:
            sentence.tags = convert_tags(sentence.tags, scheme, to_scheme)
        except ValueError as error:
            raise CorpusError(f"{sentence.place(0)}: {error} orphans='repair' does.") from error
