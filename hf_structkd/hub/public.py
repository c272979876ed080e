"""What may leave this machine: names without paths, texts without access tokens."""

import os
import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ..evaluation.results import RunResults

_TOKEN = re.compile(r"(?<![A-Za-z0-9])(hf|api_org)_[A-Za-z0-9]{20,}")  # longer than `hf_structkd` by far


def public_name(name: str | os.PathLike[str]) -> str:
    """A model's name without its place on this machine.

    Args:
        name: A Hub id (``owner/model`` or ``model``) or a path.

    Returns:
        A Hub id as it is; of a path, and of anything that exists here as a path, the last part.
    """
    text = os.fspath(name).replace("\\", "/").rstrip("/")
    is_id = re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", text) is not None
    return text if is_id and not os.path.exists(text) else text.rsplit("/", 1)[-1]


def public_value(value: Any) -> Any:
    """A setting with every path in it, however deep, reduced to its last part."""
    if isinstance(value, Mapping):
        return {key: public_value(member) for key, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [public_value(member) for member in value]
    if isinstance(value, (str, os.PathLike)) and str(value):
        return without_tokens(public_name(value))
    return value


def publishable(results: RunResults) -> RunResults:
    """A run's results as they may be pushed and committed: no path of this machine, no access token.

    Args:
        results: of a run; stays as it is.

    Returns:
        A copy. Labels, citations and curves, which hold neither, are taken over word for word.
    """
    untouched = ("citations", "history", "label_examples")
    values = {member.name: getattr(results, member.name) for member in fields(results)}
    public = RunResults(**{name: v if name in untouched else public_value(v) for name, v in values.items()})
    if labels := results.model.get("labels"):
        public.model["labels"] = list(labels)  # `B-person/artist` is no path
    return public


def without_tokens(text: str, *tokens: str | bool | None) -> str:
    """A text with Hub access tokens blanked.

    Args:
        text: the text.
        tokens: tokens that are known; whatever else looks like one is blanked too.
    """
    for token in tokens:
        if isinstance(token, str) and token.strip():
            text = text.replace(token.strip(), "<token>")
    return _TOKEN.sub("<token>", text)
