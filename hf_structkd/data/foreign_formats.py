"""Files that are not what their name says: names for what they look like, and advice, for error messages."""

import json
import re

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


def describe_foreign_columns(line: str) -> str | None:
    """A description, with advice, of a file that is no column file; else `None`.

    Args:
        line: the first line with words.
    """
    cells = line.split("\t")
    if len(cells) == 10 and _CONLLU_ID.fullmatch(cells[0]):
        return "this looks like CoNLL-U: give the file the ending .conllu"
    if line.startswith(("{", "[")):
        try:
            if isinstance(json.loads(line), (dict, list)):
                return "this looks like JSON lines: give the file the ending .jsonl"
        except (ValueError, RecursionError):
            pass
        if line == "{" or re.match(r'[\[{]+\s*"\w+"\s*:', line):
            return "this looks like JSON: give the file the ending .json"
    if _XML_LINE.fullmatch(line):
        return "this looks like XML, which is not read: convert it to columns or JSON lines"
    return None


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
