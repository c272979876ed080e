"""The text of a corpus file, line by line, and the sentences that readers make of it."""

import bz2
import codecs
import gzip
import lzma
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from io import BufferedReader
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from .foreign_formats import describe_foreign_file

GZIP, BZIP2, XZ, ZIP, EMPTY_ZIP = b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"PK\x03\x04", b"PK\x05\x06"
PACKED_ENDINGS = (".gz", ".bz2", ".xz", ".zip")
LONGEST_LINE = 1 << 26  # bytes; far longer than a line of words, or a JSON line of one sentence
_Sentence = TypeVar("_Sentence")  # one, or many at a time
_PART, _FIRST_PART = 1 << 17, 1 << 12  # bytes; before the first blank line the first part is read line by line
_NO_TEXT = re.compile("[\0\ud800-\udfff]")  # JSON can escape halves of surrogate pairs; no file can store them


_IN_RECIPES = {
    "label_names": "labels",
    "scheme": "tag_scheme",
    "format": "corpus_format",
}  # fields that have another name there
_OPTIONS = {"label_names": "labels"}  # options of `structkd convert` that have another name
_as_options: ContextVar[bool] = ContextVar("as_options", default=False)


@contextmanager
def settings_as_options() -> Iterator[None]:
    """Within it, messages spell settings as options of the shell, as whoever typed a command has to."""
    token = _as_options.set(True)
    try:
        yield
    finally:
        _as_options.reset(token)


def setting(name: str, value: str | None = None) -> str:
    """How the reader of a message sets an argument of [`load_corpus`].

    Args:
        name: The argument.
        value: What to give it; `None` where the message says what there is to choose from.

    Returns:
        An option for those who typed `structkd convert`; else the argument in Python, and the field in recipes.
    """
    if _as_options.get():
        return " ".join([f"--{_OPTIONS.get(name, name)}", *([] if value is None else [value])])
    field = _IN_RECIPES.get(name, name)
    if value is None:
        return f"{name}=" if field == name else f"{name}= (in recipes: {field})"
    return f"{name}={value!r} (in recipes {field}: {value})"


class CorpusError(ValueError):
    """A corpus that cannot be read as asked. The message names the place (file and line, or row) and what to do."""


@dataclass
class RawSentence:
    """A sentence as its source has it, and its place there.

    Attributes:
        tokens: the words.
        tags: one tag per word; `None` where the sentence has no tags.
        source: the file or dataset.
        lines: the line of each word, in formats with one word per line.
        row: in other formats the row (or line) of the sentence, as text: `":12"` or `", row 12"`.
        text: the text that the words were cut out of, where the source has it.
        offsets: the first character and one past the last of each word in `text`; `None` for a word that is no part
            of it, such as those of a contraction (`del` as `de` and `el`).
        own_words: whether the words are the source's own, and not those of a segmenter.
        glued: whether each word follows the one before without a blank; `None` where the source does not tell.
        annotated_types: the entity types that its annotators looked for; `None` where they looked for all.
        document: the number or name of its document, where the source marks documents.
    """

    tokens: list[str]
    tags: list[str] | None
    source: str
    lines: Sequence[int] = ()
    row: str = ""
    text: str | None = None
    offsets: Sequence[tuple[int, int] | None] = ()
    own_words: bool = True
    glued: list[bool] | None = None
    annotated_types: list[str] | None = None
    document: str | None = None

    def place(self, word: int) -> str:
        """The place of word number `word`, for messages: `train.conll:17` or `train.jsonl:3, word 5`."""
        return f"{self.source}:{self.lines[word]}" if self.lines else f"{self.source}{self.row}, word {word + 1}"


def is_text(value: Any) -> bool:
    """Whether a value of a table is text that every file can store: no NUL, no half of a surrogate pair."""
    return isinstance(value, str) and not _NO_TEXT.search(value)


def read_lines(path: Path, longest: int | None = None, keep_ends: bool = False) -> Iterator[tuple[int, str]]:
    """Read the lines of a UTF-8 file, without byte order mark and line ends, as they are asked for.

    The file may be packed: gzip, bzip2, xz, or a zip archive of one file.

    Only `\\n` (and carriage returns before it) ends a line: U+2028, U+0085 and the like occur inside words.

    Args:
        path: the file.
        longest: the most bytes that a line may have, by default `LONGEST_LINE`.
        keep_ends: Keep the line ends, `\\n` or `\\r\\n`: inside of a quoted cell they are characters of a text.

    Returns:
        Pairs of line number, from 1, and line.

    Raises:
        CorpusError: if the file is missing, a broken gzip file, not UTF-8, no corpus (a Git LFS pointer, a web page,
            an archive), or holds NUL characters, lines that end with a carriage return alone, or lines longer than
            `longest`.
    """
    longest = longest or LONGEST_LINE
    with _opened(path) as stream:
        start = stream.peek(512)[:512]
        if description := describe_foreign_file(start):
            raise CorpusError(f"{path}: {description}")
        offset = 0
        for number in count(1):
            data = stream.readline(longest + 1)
            if not data:
                return
            line = _decode(path, number, offset, data, start, longest)
            if keep_ends:
                line += "\r\n" if data.endswith(b"\r\n") else "\n"
            yield number, line
            offset += len(data)


@dataclass
class TextPart:
    """Whole lines of a file, as they stand there.

    Attributes:
        path: the file.
        number: of the first line, from 1.
        offset: of the first byte.
        data: the lines' bytes.
        whole: whether the last line is known to be blank, or the file's last one.
    """

    path: Path
    number: int
    offset: int
    data: bytes
    whole: bool

    def lines(self) -> Iterator[tuple[int, str]]:
        """The lines, as [`read_lines`] gives them.

        Raises:
            CorpusError: as `read_lines`.
        """
        offset = self.offset
        for number, line in enumerate(_split(self.data), self.number):
            yield number, _decode(self.path, number, offset, line, b"", LONGEST_LINE)
            offset += len(line)


def read_parts(path: Path, skip: int) -> Iterator[TextPart]:
    """The rest of a file in parts that end after a blank line, where they have one.

    Args:
        path: the file.
        skip: how many lines have been read, one at least.

    Raises:
        CorpusError: as [`read_lines`], if the file cannot be read; its lines are not looked at.
    """
    with _opened(path) as stream:
        number, offset = skip + 1, sum(len(stream.readline(LONGEST_LINE + 1)) for _ in range(skip))
        rest, size = b"", _FIRST_PART
        while new := stream.read(size):
            data, size = rest + new + stream.readline(LONGEST_LINE + 1), _PART
            cut = max(data.rfind(b"\n\n") + 2, data.rfind(b"\n\r\n") + 3)
            data, rest = (data[:cut], data[cut:]) if cut > 2 else (data, b"")
            yield TextPart(path, number, offset, data, whole=cut > 2)
            number, offset = number + data.count(b"\n"), offset + len(data)
        if rest:
            yield TextPart(path, number, offset, rest, whole=True)


def _split(data: bytes) -> Iterator[bytes]:
    start = 0
    while start < len(data):
        end = data.find(b"\n", start) + 1 or len(data)
        yield data[start:end]
        start = end


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The content of a file, unpacked."""
    try:
        with path.open("rb") as file:
            yield _unpack(path, file)
    except FileNotFoundError:
        raise CorpusError(f"{path}: no such file.") from None
    except (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, NotImplementedError) as error:
        raise CorpusError(f"{path}: cannot be read ({error}). Is it complete?") from error
    except MemoryError:
        raise CorpusError(f"{path}: a line of it does not fit into memory. Is it the right file?") from None


def _unpack(path: Path, file: Any) -> Any:
    """The content of an open file, unpacked where it is packed.

    Judged by content: a download is often already unpacked, or packed, despite its name.

    Raises:
        CorpusError: for a zip archive of several files, or an encrypted one.
    """
    start = file.peek(6)[:6]
    if start[:2] == GZIP:
        return gzip.GzipFile(fileobj=file)
    if start[:3] == BZIP2:
        return bz2.BZ2File(file)
    if start[:6] == XZ:
        return lzma.LZMAFile(file)
    if start[:4] in (ZIP, EMPTY_ZIP):
        archive = zipfile.ZipFile(file)
        members = [info for info in archive.infolist() if not info.is_dir()]
        if any(info.filename == "[Content_Types].xml" for info in members):
            raise CorpusError(f"{path}: an Office document. Export it as CSV.")
        if len(members) != 1:
            names = ", ".join(info.filename for info in members[:5]) or "none"
            raise CorpusError(f"{path}: a zip archive of {len(members)} files ({names}). Unpack it and name the file.")
        if members[0].flag_bits & 1:
            raise CorpusError(f"{path}: an encrypted zip archive. Unpack it.")
        return BufferedReader(archive.open(members[0]))
    return file


def _decode(path: Path, number: int, offset: int, data: bytes, start: bytes, longest: int) -> str:
    if number == 1 and data.startswith(codecs.BOM_UTF8):
        data, offset = data[len(codecs.BOM_UTF8) :], offset + len(codecs.BOM_UTF8)
    if len(data) > longest and b"\0" not in data:
        raise CorpusError(f"{path}:{number}: a line of more than {longest:,} bytes. Is it the right file?")
    try:
        line = data.decode("utf-8")
    except UnicodeDecodeError as error:
        encoding = "UTF-16" if start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "LATIN1"
        raise CorpusError(
            f"{path}:{number}: byte {offset + error.start} (0x{data[error.start]:02x}) is not UTF-8. Convert the "
            f"file, for instance with `iconv -f {encoding} -t UTF-8`."
        ) from error
    if "\0" in line:
        raise CorpusError(f"{path}:{number}: a NUL character. The file is damaged or not a text file in UTF-8.")
    line = line.removesuffix("\n").rstrip("\r")  # a file that is converted twice has "\r\r\n"
    if "\r" in line:
        raise CorpusError(
            f"{path}:{number}: a carriage return inside a line. If it ends lines, as on old Macs, convert the file "
            "with `tr '\\r' '\\n'`."
        )
    return line


def with_first_line(path: Path, sentences: Iterable[_Sentence], asked: str | None = None) -> Iterator[_Sentence]:
    """The same sentences; an error before the first of them shows how the file begins: it may be of another format.

    Args:
        path: the file.
        sentences: what a reader makes of it.
        asked: the format that the user named.

    Raises:
        CorpusError: the reader's.
    """
    iterator = iter(sentences)
    try:
        first = next(iterator, None)
    except CorpusError as error:
        raise showing_first_line(path, error, asked) from error
    if first is not None:
        yield first
        yield from iterator


def showing_first_line(path: Path, error: CorpusError, asked: str | None = None) -> CorpusError:
    """An error with the format that the user named, and the first line of the file, at most 100 characters of it."""
    lines = start_of(path).decode("utf-8-sig", "replace").splitlines()
    line = next((line.strip()[:100] for line in lines if line.strip()), "")
    forced = "" if asked is None else setting("format", asked)
    parts = [f"{forced} was asked for"] if forced and forced not in str(error) else []
    if line and repr(line[:40])[1:-1] not in str(error):
        parts.append(f"{'the' if parts else 'The'} file begins {line!r}")
    return CorpusError(f"{str(error).rstrip('.')}. {', and '.join(parts)}.") if parts else error


def start_of(path: Path) -> bytes:
    """The first bytes of a file, unpacked, at most 512; none where it cannot be read."""
    try:
        with path.open("rb") as file:
            stream: Any = _unpack(path, file)
            return bytes(stream.peek(512)[:512])
    except (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, NotImplementedError, CorpusError):
        return b""


def blocks(lines: Iterable[tuple[int, str]]) -> Iterator[list[tuple[int, str]]]:
    """Blocks of (line number, line) between blank lines; only ASCII blanks count as blank."""
    block: list[tuple[int, str]] = []
    for number, line in lines:
        if line.strip(" \t"):
            block.append((number, line.rstrip(" \t")))
        elif block:
            yield block
            block = []
    if block:
        yield block
