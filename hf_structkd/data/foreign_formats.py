"""The formats of files: their names, what a file looks like, and advice where it is not what its name says."""

import json
import re
from difflib import get_close_matches

# The values of `format=`: of whole files, and of the rows that annotation tools write into JSON and tables.
FILE_FORMATS = {
    "conll": "one word per line in columns",
    "uner": "columns of Universal NER: number, word, tag",
    "germeval": "columns of GermEval 2014: number, word, outer entity, inner entity",
    "ontonotes": "columns of OntoNotes in CoNLL-2012: the fourth is the word, the eleventh the entity in brackets",
    "conllu": "CoNLL-U or CoNLL-U Plus",
    "csv": "a table with commas, semicolons or tabs",
    "jsonl": "JSON, lists of words and tags in each row",
    "parquet": "Parquet",
    "spacy": "DocBin of spaCy",
}
ROW_FORMATS = {
    "doccano": "texts with spans, as doccano writes them",
    "prodigy": "texts with spans, as Prodigy writes them",
    "label-studio": "texts with spans, as Label Studio writes them",
    "spans": "texts with spans of characters",
    "gliner": "words with spans of words, as GLiNER takes them",
}
FORMATS = {**FILE_FORMATS, **ROW_FORMATS}

_MAGIC = (
    (b"PK\x03\x04", "a zip archive (or an Office document). Unpack it and name the file inside."),
    (b"PAR1", "a Parquet file. Give it the ending .parquet."),
    (b"ARROW1", "an Arrow file. Name the folder that save_to_disk wrote."),
    (b"\x1f\x8b", "a gzip file inside a gzip file. Unpack it once."),
    (b"BZh", "a bzip2 file. Unpack it."),
    (b"\xfd7zXZ\0", "an xz file. Unpack it."),
    (b"7z\xbc\xaf\x27\x1c", "a 7-zip archive. Unpack it and name the file inside."),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file. Unpack it with `unzstd`."),
    (b"%PDF", "a PDF document, not a corpus."),
    (b"\xd0\xcf\x11\xe0", "an old Office document. Export it as CSV."),
)
_TEXT = (
    (
        re.compile(r"version https://git-lfs\.github\.com/spec"),
        "a Git LFS pointer, not the file itself. Fetch the file with `git lfs pull`, or download it again.",
    ),
    (re.compile(r"\s*<(!doctype html|html|head)\b", re.I), "a web page (HTML), not a corpus. Download the raw file."),
    (re.compile(r"\s*<(\?xml|!doctype|!--)", re.I), "XML, which is not read. Convert it to columns or JSON lines."),
    (
        re.compile(r"\s*(\d{3}: )?(not found|entry not found|repository not found|forbidden|unauthorized)\s*$", re.I),
        "a server's error message, saved as if it were the file. Download it again.",
    ),
)
_XML_LINE = re.compile(r"<[A-Za-z!?/][^<>]*>")
_CONLLU_ID = re.compile(r"\d+([-.]\d+)?")
# OntoNotes in CoNLL-2012: document, part, number, word, part of speech, ..., entities in the eleventh column.
_ONTONOTES_COLUMNS = 12


def check_format(name: str | None) -> None:
    """Raise ValueError for a format that does not exist, with the nearest name."""
    if name is None or name in FORMATS:
        return
    near = get_close_matches(str(name), FORMATS, n=1)
    advice = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"format must be one of {', '.join(FORMATS)}, not {name!r}.{advice}")


def describe_foreign_file(start: bytes) -> str | None:
    """A description, with advice, of a file that is no text file with a corpus; else `None`.

    Args:
        start: the file's first bytes.
    """
    for magic, description in _MAGIC:
        if start.startswith(magic):
            return description
    if start[257:262] == b"ustar":
        return "a tar archive. Unpack it and name the file inside."
    text = start.decode("utf-8-sig", "ignore")
    return next((description for pattern, description in _TEXT if pattern.match(text)), None)


def format_of_line(line: str) -> str | None:
    """What the first line with words tells of a file; `None` for columns in no format that is known by it.

    Args:
        line: the line.

    Returns:
        `conllu`, `ontonotes`, `jsonl`, `json`, `xml` or `None`.
    """
    cells = line.split("\t")
    if len(cells) == 10 and _CONLLU_ID.fullmatch(cells[0]):
        return "conllu"
    cells = line.split()
    if len(cells) >= _ONTONOTES_COLUMNS and cells[1].isdecimal() and cells[2] == "0" and "*" in cells[5]:
        return "ontonotes"
    if line.startswith(("{", "[")):
        try:
            if isinstance(json.loads(line), (dict, list)):
                return "jsonl"
        except (ValueError, RecursionError):
            pass
        if line in ("{", "[", "[{") or re.match(r'[\[{]+\s*"\w+"\s*:', line):
            return "json"
    return "xml" if _XML_LINE.fullmatch(line) else None


_ADVICE = {
    "conllu": "this looks like CoNLL-U: give the file the ending .conllu, or say the format conllu",
    "ontonotes": "this looks like OntoNotes (CoNLL-2012), whose words are in column 3: say the format ontonotes",
    "jsonl": "this looks like JSON lines: give the file the ending .jsonl, or say the format jsonl",
    "json": "this looks like JSON: give the file the ending .json, or say the format jsonl",
    "xml": "this looks like XML, which is not read: convert it to columns or JSON lines",
}


def describe_foreign_columns(line: str) -> str | None:
    """A description, with advice, of a file that is no column file; else `None`.

    Args:
        line: the first line with words.
    """
    name = format_of_line(line)
    return None if name is None else _ADVICE[name]


def advice_on_single_column(line: str) -> str:
    """Advice on a column file that has only one column.

    Args:
        line: the first line with words.
    """
    for separator, name, ending in ((",", "commas", ".csv"), (";", "semicolons", ".csv"), ("|", "bars", "")):
        if separator in line.strip(separator):
            advice = f"give the file the ending {ending}" if ending else "separate the columns by tabs"
            return f"there are {name} in it: if they separate columns, {advice}"
    return (
        "words without tags? Sentences without tags are text: `load_sentences` reads them, and unlabelled_corpus in "
        "recipes"
    )
