"""Reader of spaCy's DocBin files (`.spacy`), by spaCy."""

from collections.abc import Iterator
from pathlib import Path

from ..modeling.glued_words import glued_flags
from .source_text import CorpusError, RawSentence


def read_docbin(path: Path) -> Iterator[RawSentence]:
    """Read the documents of a DocBin file, in BIO: one sentence each, or several where their beginnings are marked.

    Tokens of blanks alone are no words. A document whose entities nobody annotated has no tags.

    Args:
        path: the file.

    Raises:
        CorpusError: if spaCy is not installed, or the file is no DocBin.
    """
    try:
        from spacy.tokens import DocBin
        from spacy.vocab import Vocab
    except ImportError as error:
        raise CorpusError(f"{path}: spaCy reads this file: pip install 'hf_structkd[spacy]' ({error}).") from error
    try:
        documents = list(DocBin().from_disk(path).get_docs(Vocab()))
    except FileNotFoundError:
        raise CorpusError(f"{path}: no such file.") from None
    except Exception as error:  # zlib's, msgpack's and spaCy's own errors
        raise CorpusError(f"{path}: not a DocBin file of spaCy, or a damaged one ({error}).") from error
    for number, document in enumerate(documents, 1):
        annotated = document.has_annotation("ENT_IOB")
        parts = document.sents if document.has_annotation("SENT_START") else [document[:]]
        for part in parts:
            words = [token for token in part if token.text.strip()]
            tags = [f"{t.ent_iob_}-{t.ent_type_}" if t.ent_type_ and t.ent_iob_ in "BI" else "O" for t in words]
            if words:
                offsets = [(t.idx - part.start_char, t.idx - part.start_char + len(t)) for t in words]
                yield RawSentence(
                    [t.text for t in words],
                    tags if annotated else None,
                    str(path),
                    document=f"{path}:{number}" if document.has_annotation("SENT_START") else None,
                    row=f", doc {number}",
                    text=part.text,
                    offsets=offsets,
                    glued=glued_flags(offsets),
                )
