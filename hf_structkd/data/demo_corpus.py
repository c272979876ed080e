"""The built-in corpus: persons, places and organisations in six languages and three scripts, written for it.

Sentences are made of hand-written templates and name lists (`demo.yaml`), and are the same for the same seed. The
corpus is small but not trivial: many names have several types, between which only the context decides (Washington
says, to Washington, Washington beat Boston); part of each name list occurs in dev and test only; some sentences have
no capitals; some consist of several sentences, and some have no entity.
"""

import random
import re
from collections.abc import Iterator
from functools import lru_cache
from importlib import resources
from typing import Any, NamedTuple
from zlib import crc32

import datasets
import yaml

from .readers import CorpusError

DEMO_LANGUAGES = ("en", "de", "es", "nl", "ru", "hi")
DEMO_SIZES = {"train": 1500, "dev": 200, "test": 400}

_SLOT = re.compile(r"\{(\w+)(?:\.(\w+))?\}")
_FORMS = {None: 0, "m": 0, "gen": 1, "f": 1, "loc": 2}  # which of an entry's slash-separated forms a slot takes
# Buckets of a hash of the sentence: whatever the sizes and seeds, no sentence is in two splits.
_BUCKETS = {"train": range(0, 14), "dev": range(14, 16), "test": range(16, 20)}
_HELD_OUT_NAMES = 0.2  # share of each name list that does not occur in train
_UNSEEN_IN_TEST = 0.12  # share of dev and test names drawn from these
_LOWER_CASED = 0.12
_LOWER_CASED_NAME = 0.04
_PLAIN = 0.12
_LONG = 0.04
_OPENED = 0.08
_CLOSED = 0.12


class _Language(NamedTuple):
    names: dict[str, tuple[list[str], list[str]]]  # list name -> (names that occur in train, names that do not)
    patterns: dict[str, list[str]]
    fillers: dict[str, list[str]]


@lru_cache
def _lists() -> dict[str, dict[str, Any]]:
    text = resources.files(__package__).joinpath("demo.yaml").read_text("utf-8")
    return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # ten times as fast, where PyYAML has it


@lru_cache
def _load(language: str) -> _Language:
    raw: dict[str, Any] = _lists()[language]
    names = {}
    for key in ("first_m", "first_f", "last", "city", "country", "org", "team"):
        entries = list(dict.fromkeys(raw[key].split(", ")))
        random.Random(f"{language} {key}").shuffle(entries)  # the same names are held out whatever the corpus seed
        held_out = max(1, round(len(entries) * _HELD_OUT_NAMES))
        names[key] = (entries[held_out:], entries[:held_out])
    lines = ("org_patterns", "street_patterns", "templates", "plain", "openers", "closers")
    return _Language(
        names=names,
        patterns={key: raw[key].splitlines() for key in lines},
        fillers={key: str(values).split(", ") for key, values in raw["fillers"].items()},
    )


class _Writer:
    """Writes random sentences of one language and split."""

    def __init__(self, language: str, split: str, rng: random.Random):
        self.language = _load(language)
        self.unseen = 0.0 if split == "train" else _UNSEEN_IN_TEST
        self.rng = rng

    def name(self, key: str, form: str | None = None) -> str:
        seen, held_out = self.language.names[key]
        entry = self.rng.choice(held_out if self.rng.random() < self.unseen else seen)
        forms = entry.split("/")
        return forms[min(_FORMS[form], len(forms) - 1)]

    def pattern(self, key: str) -> str:
        """A composed name, such as an organisation called after a city."""
        return _SLOT.sub(lambda slot: self.name(slot[1], slot[2]), self.rng.choice(self.language.patterns[key]))

    def person(self, gender: str | None) -> str:
        gender = gender or self.rng.choice("mf")
        first, last = self.name(f"first_{gender}"), self.name("last", gender)
        return self.rng.choices((f"{first} {last}", first, last), (45, 30, 25))[0]

    def entity(self, slot: str, form: str | None) -> tuple[str, str] | None:
        """The text and type of an entity slot; `None` for other slots."""
        if slot == "PER":
            return self.person(form), "PER"
        if slot == "LAST":
            return self.name("last", form), "PER"
        if slot in ("CITY", "COUNTRY"):
            return self.name(slot.lower(), form), "LOC"
        if slot == "LOC":
            return self.name(self.rng.choices(("city", "country"), (65, 35))[0], form), "LOC"
        if slot == "STREET":
            return self.pattern("street_patterns"), "LOC"
        if slot == "ORG":
            return (self.name("org") if self.rng.random() < 0.6 else self.pattern("org_patterns")), "ORG"
        if slot == "TEAM":
            return self.name("team"), "ORG"
        return None

    def clause(self) -> tuple[list[str], list[str]]:
        """The words and tags of one filled template."""
        rng, patterns = self.rng, self.language.patterns
        template = rng.choice(patterns["plain" if rng.random() < _PLAIN else "templates"]).split()
        if rng.random() < _OPENED:
            template = rng.choice(patterns["openers"]).split() + template
        if rng.random() < _CLOSED and template[-1] in (".", "।"):
            template = template[:-1] + rng.choice(patterns["closers"]).split() + template[-1:]
        tokens: list[str] = []
        tags: list[str] = []
        used: set[str] = set()
        for piece in template:
            slot = _SLOT.fullmatch(piece)
            entity = self.entity(slot[1], slot[2]) if slot else None
            while slot and entity is not None and entity[0] in used:  # nobody plays against themselves
                entity = self.entity(slot[1], slot[2])
            if entity is not None:
                used.add(entity[0])
                words, entity_type = entity[0].split(), entity[1]
                if rng.random() < _LOWER_CASED_NAME:
                    words = [word.lower() for word in words]
                tags += [f"B-{entity_type}"] + [f"I-{entity_type}"] * (len(words) - 1)
            else:
                words = (rng.choice(self.language.fillers[slot[1]]) if slot else piece).split()
                tags += ["O"] * len(words)
            tokens += words
        tokens[0] = tokens[0][0].upper() + tokens[0][1:]
        return tokens, tags

    def sentence(self) -> tuple[list[str], list[str]]:
        """The words and tags of a sentence; sometimes several sentences in one, as in badly split text."""
        tokens, tags = self.clause()
        if self.rng.random() < _LONG:
            for _ in range(self.rng.randint(2, 5)):
                more_tokens, more_tags = self.clause()
                tokens, tags = tokens + more_tokens, tags + more_tags
        if self.rng.random() < _LOWER_CASED:
            tokens = [token.lower() for token in tokens]
            if tokens[-1] in (".", "।") and self.rng.random() < 0.5:
                tokens, tags = tokens[:-1], tags[:-1]
        return tokens, tags


def _sentences(language: str, split: str, seed: int) -> Iterator[tuple[list[str], list[str]]]:
    """Distinct sentences of a split, until new ones have become rare."""
    writer = _Writer(language, split, random.Random(f"{language} {split} {seed}"))
    seen: set[str] = set()
    misses = 0
    while misses < 10_000:
        tokens, tags = writer.sentence()
        text = " ".join(tokens).casefold()
        if text in seen or crc32(text.encode()) % 20 not in _BUCKETS[split]:
            misses += 1
            continue
        seen.add(text)
        misses = 0
        yield tokens, tags


def load_demo_corpus(
    language: str, split: str = "train", num_sentences: int | None = None, seed: int = 13
) -> datasets.Dataset:
    """Sentences of the built-in corpus.

    Args:
        language: one of [`DEMO_LANGUAGES`].
        split: `"train"`, `"dev"` (also `"validation"`) or `"test"`. No sentence is in two of them, and a
            fifth of the names occur (as names of that kind) only in dev and test.
        num_sentences: how many; by default 1,500, 200 or 400. A smaller corpus is a prefix of a larger one.
        seed: another seed gives other sentences from the same templates and names.

    Returns:
        A dataset with the columns `tokens`, `tags` (BIO, `PER`, `LOC`, `ORG`; strings) and `language`.

    Raises:
        CorpusError: on an unknown language or split, or if the templates do not yield so many different sentences.
        ValueError: if `num_sentences` is below 1.
    """
    split = "dev" if split == "validation" else split
    if language not in DEMO_LANGUAGES:
        raise CorpusError(f"The demo corpus has no language {language!r}; it has {', '.join(DEMO_LANGUAGES)}.")
    if split not in DEMO_SIZES:
        raise CorpusError(f"The demo corpus has no split {split!r}; it has {', '.join(DEMO_SIZES)}.")
    wanted = DEMO_SIZES[split] if num_sentences is None else num_sentences
    if wanted < 1:
        raise ValueError(f"num_sentences must be at least 1, not {wanted}.")
    columns: dict[str, list[Any]] = {"tokens": [], "tags": [], "language": []}
    for _, (tokens, tags) in zip(range(wanted), _sentences(language, split, seed)):
        columns["tokens"].append(tokens)
        columns["tags"].append(tags)
        columns["language"].append(language)
    if len(columns["tokens"]) < wanted:
        raise CorpusError(f"The demo corpus has only {len(columns['tokens'])} {split} sentences in {language!r}.")
    string = datasets.Value("string")
    features = datasets.Features({"tokens": datasets.List(string), "tags": datasets.List(string), "language": string})
    return datasets.Dataset.from_dict(columns, features=features)
