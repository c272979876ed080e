"""Makes results public: names without paths of this machine, texts without access tokens."""

import logging
import os
import re
import traceback
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..evaluation.results import RunResults
from ..settings import without_tokens

_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
_ADDRESS = re.compile(r"(?i)(?!file:)[a-z][a-z0-9+.-]+://")
# Where a path of a machine begins: the root's folders, a home, the folder above, a drive, a share.
_ROOTS = (
    "bin|boot|content|data|dev|etc|export|gpfs|home|kaggle|lib|lustre|media|mnt|net|nfs|opt|private|proc|root|run|scratch"
    "|shared|srv|sys|tmp|usr|Users|var|Volumes|work|workspace"
)
_BEGINS = rf"(?:file:/+)?(?:/(?:{_ROOTS})/|~(?![\d.,]+/)[\w.-]*/|\.\.?/|[A-Za-z]:[\\/]+|\\\\)"
_PATH = re.compile(rf"(?i:{_BEGINS})")
_PATH_IN_TEXT = re.compile(rf"(?<![\w/\\:.<}}>-])(?i:{_BEGINS})[^\s\"'`<>|,;()\[\]]*[^\s\"'`<>|,;()\[\].:!?]")
_HOMES = {"home", "users"}
PROSE = ("citations", "limitations")  # members that are sentences; paths are looked for inside
UNTOUCHED = ("history", "label_examples")  # numbers, and words of corpora


def public_name(name: str | os.PathLike[str]) -> str:
    """A model's or a corpus' name without its place on this machine.

    Args:
        name: A Hub id (`owner/model` or `model`), an address (`https://...`) or a path.

    Returns:
        A Hub id or an address as it is; of a path, and of anything that exists here as a path, the last part; `~`
        for somebody's home, whose name is theirs.
    """
    text = os.fspath(name)
    if _ADDRESS.match(text):
        return text
    if _PATH.match(text) or os.path.exists(text):
        return _last_part(text)
    # A title may have a slash, and blanks as well (`UD 2.12 / PUD`); what is left is a path that is not here.
    return text if _HUB_ID.fullmatch(text) or re.search(r"\s", text) else _last_part(text)


def public_value(value: Any) -> Any:
    """A setting with every path in it, however deep, reduced to its last part, and access tokens blanked.

    Text that is no path stays as it is, slashes included (`PER/LOC`, `https://...`).
    """
    if isinstance(value, Mapping):
        public: dict[Any, Any] = {}
        for key, member in value.items():
            name = public_value(key)
            while name in public:
                name += "'"  # of two paths with the same last part
            public[name] = public_value(member)
        return public
    if isinstance(value, (list, tuple)):
        return [public_value(member) for member in value]
    if not isinstance(value, (str, os.PathLike)):
        return value
    text = os.fspath(value)
    # A relative path is one if it is there; a slash by itself makes none.
    if _PATH.match(text) or (re.search(r"[\\/]", text) and os.path.exists(text)):
        return without_tokens(_last_part(text))
    return public_text(text)


def public_text(text: str) -> str:
    """A sentence in which paths of a machine are reduced to their last part and access tokens blanked."""
    return without_tokens(_PATH_IN_TEXT.sub(lambda match: _last_part(match[0]), text))


def publishable(results: RunResults) -> RunResults:
    """A run's results as they may be pushed and committed: no path of this machine, no access token.

    Args:
        results: of a run; stays as it is.

    Returns:
        A copy. Labels, their examples and curves, which hold neither, are taken over word for word; so is whatever
        is neither a path nor a token in sentences and citations.
    """
    values = {member.name: getattr(results, member.name) for member in fields(results)}
    for name, value in values.items():
        if name in PROSE:
            values[name] = [public_text(text) if isinstance(text, str) else text for text in value]
        elif name not in UNTOUCHED:
            values[name] = public_value(value)
    public = RunResults(**values)
    for name in ("name", "base_model", "dataset"):
        if isinstance(given := results.model.get(name), str):
            public.model[name] = without_tokens(public_name(given))
    for teacher, given in zip(public.teachers, results.teachers):
        if isinstance(given, Mapping) and isinstance(given.get("name"), str):
            teacher["name"] = without_tokens(public_name(given["name"]))
    if labels := results.model.get("labels"):
        public.model["labels"] = list(labels)
    return public


def is_home(path: str) -> bool:
    """Whether a folder is somebody's home."""
    parts = [part for part in re.split(r"[\\/]+", path) if part]
    if len(parts) > 1 and parts[-2].lower() in _HOMES:
        return True
    try:
        return Path(path) == Path.home()
    except RuntimeError:  # nobody is logged in
        return False


def _last_part(path: str) -> str:
    path = path.rstrip("/\\")
    return "~" if is_home(path) else re.split(r"[\\/]", path)[-1]


def log_failure(logger: logging.Logger, message: str) -> None:
    """Log the exception that is being handled, with its traceback, in characters that any terminal can print.

    Its text may quote a stranger's results file, which can hold terminal commands and characters of no encoding.

    Args:
        logger: Where to log it, as an error.
        message: What failed.
    """
    characters = (c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in traceback.format_exc())
    logger.error("%s\n%s", message, "".join(characters))
