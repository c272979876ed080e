"""Where an encoder came from: its id on the Hub, for the card of a student that was made from it.

Nothing is looked up on the Hub, and a folder's own name is no evidence. What counts is an id that was loaded from the
Hub, the place of a folder in the Hub's cache, the folder's model card, and what its configuration remembers.
"""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import ModelCard

from .provenance import hub_commit

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)
_CACHED = re.compile(r"models--([\w.-]+?)--([\w.-]+)", re.ASCII)
# Words that folders begin with, not owners on the Hub: `runs/encoder` in a configuration was a path, elsewhere.
_FOLDERS = re.compile(
    r"(?i)(\.+|cache|checkpoints?|data|encoders?|experiments?|home|models?|outputs?|results?|runs?|save[ds]?|students?|"
    r"teachers?|tmp|trained|weights|work)[_-]?\d*/.*"
)


class Origin(NamedTuple):
    """Where an encoder came from.

    Args:
        name: Its id on the Hub; `None` if nothing tells.
        commit: Its commit, if that is known of the encoder itself.
    """

    name: str | None = None
    commit: str | None = None


def encoder_origin(model: str, revision: str | None = None) -> Origin:
    """The id on the Hub of an encoder, or of the model that a local encoder was made from.

    Args:
        model: What the encoder was loaded from: an id on the Hub, or a folder.
        revision: Branch, tag or commit of an id.
    """
    folder = Path(model)
    if not folder.exists():
        return Origin(model, hub_commit(model, revision)) if _is_id(model) else Origin()
    # .../models--owner--name/snapshots/COMMIT in the Hub's cache
    parts = folder.absolute().parts
    if len(parts) > 2 and parts[-2] == "snapshots" and (cached := _CACHED.fullmatch(parts[-3])):
        return Origin(f"{cached[1]}/{cached[2]}", parts[-1])
    named = (_base_on_card(folder), _name_in_config(folder))
    return Origin(next((name for name in named if name is not None and _is_id(name)), None))


def _is_id(name: str) -> bool:
    return bool(_HUB_ID.fullmatch(name)) and not _FOLDERS.fullmatch(name) and not Path(name).exists()


def _base_on_card(folder: Path) -> str | None:
    try:
        base: Any = ModelCard.load(folder / "README.md", ignore_metadata_errors=True).data.base_model
    except Exception:  # there is none, or it is a stranger's and broken
        return None
    if isinstance(base, list) and len(base) == 1:
        base = base[0]
    return base if isinstance(base, str) else None


def _name_in_config(folder: Path) -> str | None:
    """What transformers before version 5 wrote into `config.json`: the name that the model was loaded by."""
    try:
        name = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("_name_or_path")
    except (OSError, ValueError, AttributeError):
        return None
    return name if isinstance(name, str) else None
