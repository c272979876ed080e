"""The taggers of the page: their names, what they know, and their answers."""

import importlib
import json
import os
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig, pipeline

TASK = "crf-token-classification"
MAX_WORDS = 5000


class NoAnswerError(Exception):
    """What a visitor is told instead of an answer."""


class Taggers:
    """The checkpoints that the page offers, each loaded when it is first asked.

    Args:
        places: ids on the Hub, or folders.
        trust_remote_code: run the code that they carry; else the installed hf_structkd's.

    Attributes:
        names: what the page calls them: ids as they are, folders by the parts of their paths that tell them apart.
    """

    def __init__(self, places: Sequence[str], trust_remote_code: bool = False) -> None:
        places = list(dict.fromkeys(places))
        self._places = dict(zip(short_names(places), places))
        self.names = list(self._places)
        self.trust_remote_code = trust_remote_code
        self.load: Callable[[str], Any] = lru_cache(maxsize=4)(self._load)
        self.config: Callable[[str], dict[str, Any]] = cache(self._config)

    def languages(self) -> list[str]:
        """The languages that the taggers were trained on, as far as they say."""
        return list(dict.fromkeys(language for name in self.names for language in self.config(name)["languages"]))

    def facts(self, name: str) -> str:
        """A tagger in one line: its languages and types."""
        known = self.config(name)
        parts = [f"trained on {', '.join(known['languages'])}"] if known["languages"] else []
        return "; ".join([*parts, *([f"finds {', '.join(known['types'])}"] if known["types"] else [])])

    def answer(self, name: str, text: str, **options: Any) -> dict[str, Any]:
        """The pipeline's answer about a text.

        Raises:
            NoAnswerError: if there is no such tagger, no word, or too many words.
        """
        if not text or not text.strip():
            raise NoAnswerError("There is no text yet: type or paste a sentence above.")
        tagger = self.get(name)
        words = len(tagger.preprocess(text).words)
        if not words:
            raise NoAnswerError("There is no word in this text, only spaces or control characters.")
        if words > MAX_WORDS:
            raise NoAnswerError(f"This text has {words:,} words; this page tags up to {MAX_WORDS:,} at once.")
        return tagger(text, **options)

    def get(self, name: str) -> Any:
        """A tagger's pipeline.

        Raises:
            NoAnswerError: if the page has no such tagger, or it cannot be loaded.
        """
        if name not in self._places:
            raise NoAnswerError(f"{name} is not among the taggers of this page.")
        try:
            return self.load(name)
        except (OSError, ValueError, ImportError, RuntimeError) as error:
            reason = str(error).replace(self._places[name], name)  # visitors need no path of this machine
            raise NoAnswerError(f"{name} could not be loaded. {reason}") from error

    def _load(self, name: str) -> Any:
        place = self._places[name]
        if self.trust_remote_code:
            return pipeline(model=place, trust_remote_code=True)
        try:
            importlib.import_module("hf_structkd")  # registers models and task
        except ImportError:
            raise ImportError(
                "hf_structkd is not installed, and the code that the checkpoint carries is run with "
                "TRUST_REMOTE_CODE=1 only."
            ) from None
        # Said, not left out: transformers would ask on standard input whether to run unknown code.
        return pipeline(TASK, model=place, trust_remote_code=False)

    def _config(self, name: str) -> dict[str, Any]:
        """Languages and types, from the configuration alone: no weights, no code."""
        try:
            config, _ = PreTrainedConfig.get_config_dict(self._places[name])
        except (OSError, ValueError, json.JSONDecodeError):  # the page says so when the tagger is asked
            config = {}
        labels = [str(label) for label in (config.get("id2label") or {}).values()]
        plain = config.get("tag_scheme") == "plain"
        types = dict.fromkeys(label if plain else label.split("-", 1)[-1] for label in labels if plain or label != "O")
        return {"languages": [str(language) for language in config.get("languages") or []], "types": list(types)}


def short_names(places: Sequence[str]) -> list[str]:
    """Names without paths, one per place: of folders the last parts, as many as tell them apart."""
    named = [place if not os.path.exists(place) and place.count("/") < 2 else None for place in places]
    parts = [Path(place).absolute().parts for place in places]
    count = 1
    while True:
        names = [name or "/".join(folders[-count:]) for name, folders in zip(named, parts)]
        if len(set(names)) == len(names):
            return names
        count += 1
