"""The settings of a run: dataclasses to plain JSON values, the differences between two runs, access tokens blanked.

- [`dump_settings`] turns the dataclasses of a recipe into one flat mapping that is a recipe again.
- [`compare_settings`] says which settings of two such mappings differ.
- [`without_tokens`] blanks access tokens in a text. No setting that is stored, shown or pushed holds one.

The module imports nothing else of the package.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

ABSENT = "<absent>"  # stands for a setting that one of two runs lacks
_TOKEN = re.compile(r"(?<![A-Za-z0-9])(hf|api_org)_[A-Za-z0-9]{20,}")  # longer than `hf_structkd` by far
_SECRET = re.compile(r"(^|_)(token|password|secret|api_key)$")


def dump_settings(*instances: Any) -> dict[str, Any]:
    """The resolved settings of a run, safe for JSON and YAML, as one flat mapping that is a recipe again.

    Args:
        instances: Dataclass instances, as `parse_recipe` returns them.

    Returns:
        Field name -> value. Access tokens are never in it: fields (and mapping keys) named `token`, `..._token`,
        `password`, `secret` or `api_key` are left out, strings that look like a Hub token are blanked.

    Raises:
        TypeError: If something is not a dataclass instance.
    """
    settings: dict[str, Any] = {}
    for instance in instances:
        if not dataclasses.is_dataclass(instance) or isinstance(instance, type):
            raise TypeError(f"Settings are dataclass instances, not {type(instance).__name__}.")
        settings |= {f.name: getattr(instance, f.name) for f in dataclasses.fields(instance) if f.init}
    return _json_safe(settings)


def compare_settings(
    old: Mapping[str, Any], new: Mapping[str, Any], ignore: Sequence[str] = ()
) -> dict[str, tuple[Any, Any]]:
    """Which settings of two runs differ.

    Args:
        old: What [`dump_settings`] returned for one run.
        new: The same for the other.
        ignore: Names of fields that may differ, for instance `output_dir`.

    Returns:
        Name -> (old value, new value) of every difference, members of mappings as `field.key`; a setting that one
        side lacks is `"<absent>"` there. Empty if the runs agree.
    """
    differences: dict[str, tuple[Any, Any]] = {}
    for name in dict.fromkeys((*old, *new)):
        old_value, new_value = old.get(name, ABSENT), new.get(name, ABSENT)
        if name in ignore or old_value == new_value:
            continue
        if isinstance(old_value, Mapping) and isinstance(new_value, Mapping):
            members = compare_settings(old_value, new_value)
            differences |= {f"{name}.{key}": pair for key, pair in members.items()}
        else:
            differences[name] = (old_value, new_value)
    return differences


def without_tokens(text: str, *tokens: str | bool | None) -> str:
    """A text with Hub access tokens blanked.

    Args:
        text: The text.
        tokens: Known access tokens; whatever else looks like one is blanked too.
    """
    for token in tokens:
        if isinstance(token, str) and token.strip():
            text = text.replace(token.strip(), "<token>")
    return _TOKEN.sub("<token>", text)


def _json_safe(value: Any) -> Any:
    if isinstance(value, Enum):
        return _json_safe(value.value)
    if isinstance(value, str):
        return without_tokens(value)
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _json_safe({f.name: getattr(value, f.name) for f in dataclasses.fields(value)})
    if isinstance(value, Mapping):
        return {str(k): _json_safe(member) for k, member in value.items() if not _SECRET.search(str(k).lower())}
    if isinstance(value, (list, tuple)):
        return [_json_safe(member) for member in value]
    if isinstance(value, (set, frozenset)):
        return sorted(_json_safe(member) for member in value)
    return str(value)  # paths, torch.dtype and the like
