"""Teachers by name: checkpoints, and `kind:NAME` for taggers of other libraries.

    load_teacher("spacy:fr_core_news_sm")
    load_teacher("gliner:urchade/gliner_multi-v2.1", options={"types": ["person", "city"]})

A kind is a class with a method `from_pretrained(name, *, label_map, scheme, temperature, device, **options)`. Other
packages add kinds as entry points of the group `hf_structkd.teachers`: `kind = package.module:Class`.
"""

import difflib
import importlib
import re
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import torch

from .base import TagTeacher
from .checkpoint import Teacher
from .label_map import LabelMap

ENTRY_POINT_GROUP = "hf_structkd.teachers"
KINDS = {
    "spacy": ("spacy_pipeline", "SpacyTeacher"),
    "chat": ("chat", "ChatTeacher"),
    "flair": ("other_environments", "FlairTeacher"),
    "gliner": ("gliner_model", "GlinerTeacher"),
    "span_marker": ("other_environments", "SpanMarkerTeacher"),
    "stanza": ("stanza_pipeline", "StanzaTeacher"),
}
_KIND = re.compile(r"([a-z][a-z0-9_-]+):(?!//)(.+)", re.DOTALL)  # neither C:\\ nor an address


def split_kind(name: str) -> tuple[str | None, str]:
    """`"spacy:NAME"` as `("spacy", "NAME")`; the name of a checkpoint, or a folder, as `(None, name)`."""
    match = _KIND.fullmatch(name)
    return (None, name) if match is None or Path(name).exists() else (match[1], match[2])


def load_teacher(
    name: str,
    *,
    revision: str | None = None,
    label_map: LabelMap | None = None,
    scheme: str | None = None,
    temperature: float = 1.0,
    trust_remote_code: bool = False,
    device: str | torch.device | None = None,
    options: Mapping[str, Any] | None = None,
) -> TagTeacher:
    """Load a teacher.

    Args:
        name: the folder or Hub id of a token-classification checkpoint, or `kind:NAME`.
        revision: branch, tag or commit on the Hub.
        label_map, scheme, temperature: as for [`TagTeacher`].
        trust_remote_code: whether a checkpoint may run the code that comes with it.
        device: on which it runs.
        options: what a kind takes beside these; see its class.

    Raises:
        ImportError: if the kind's library is not installed; the message names the extra.
        OSError: if there is no such model.
        ValueError: for an unknown kind, map or option.
    """
    reading: dict[str, Any] = {"label_map": label_map, "scheme": scheme, "temperature": temperature, "device": device}
    kind, rest = split_kind(name)
    options = dict(options or {})
    if kind is None:
        if options:
            raise ValueError(f"teacher {name} is a checkpoint and takes no options, not {', '.join(options)}")
        return Teacher.from_pretrained(name, revision=revision, trust_remote_code=trust_remote_code, **reading)
    if revision is not None:
        options["revision"] = revision
    try:
        return _class_of(kind, name).from_pretrained(rest, **reading, **options)
    except TypeError as error:
        if (unexpected := re.search(r"unexpected keyword argument '(\w+)'", str(error))) is None:
            raise
        raise ValueError(f"teacher {name}: kind {kind} has no option {unexpected[1]}") from error


def _class_of(kind: str, name: str) -> Any:
    if kind in KINDS:
        module, attribute = KINDS[kind]
        return getattr(importlib.import_module(f".{module}", __package__), attribute)
    added = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    if kind in added:
        return added[kind].load()
    known = sorted({*KINDS, *added})
    near = difflib.get_close_matches(kind, known, n=1)
    advice = f"did you mean {near[0]}:?" if near else f"the kinds are {', '.join(known)}"
    raise ValueError(f"teacher {name}: there is no kind of teacher {kind!r}; {advice}")
