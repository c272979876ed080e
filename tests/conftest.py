"""Tiny real components, shared: a corpus, a tokenizer and a student made from it.

Imports that take seconds stand in the fixtures: the process that hands tests to workers reads this file too.
"""

from __future__ import annotations

import functools
import importlib.util
import runpy
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_structkd import XLMRobertaForTokenClassificationCRF

# For processes that run the code of checkpoints: each copy is a new file, which numba would compile for half a minute.
# tests/modeling/test_readers.py leaves the loops on.
WITHOUT_COMPILED_LOOPS = {"HF_STRUCTKD_NATIVE": "0"}
EXAMPLES = Path(__file__).parents[1] / "examples"


def space_module(name: str) -> ModuleType:
    """A module of examples/space, whose files import each other by their bare names, as a Space's do."""
    for needed in dict.fromkeys(("rendering", "sentences", "taggers", "comparison", name)):
        if needed not in sys.modules:
            spec = importlib.util.spec_from_file_location(needed, EXAMPLES / "space" / f"{needed}.py")
            sys.modules[needed] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(sys.modules[needed])
    return sys.modules[name]


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def corpus() -> Dataset:
    """60 sentences of English and Russian with gold tags."""
    from datasets import concatenate_datasets

    from hf_structkd.data.demo_corpus import load_demo_corpus

    return concatenate_datasets([load_demo_corpus(language, "train", num_sentences=30) for language in ("en", "ru")])


@pytest.fixture(scope="session")
def labels(corpus) -> list[str]:
    from hf_structkd.data.corpora import label_inventory

    return label_inventory(corpus)


@pytest.fixture(scope="session")
def tokenizer(corpus):
    from hf_structkd.data.tokenizer import train_tokenizer

    return train_tokenizer(corpus["tokens"], vocab_size=300)


def label_fields(labels) -> dict:
    """A label set as a configuration writes it."""
    return {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}


def draw_student(tokenizer, labels, seed: int = 0, **fields) -> XLMRobertaForTokenClassificationCRF:
    """A tiny student: one layer of 16, every parameter drawn at random, the CRF's too."""
    import torch

    from hf_structkd import XLMRobertaCRFConfig, XLMRobertaForTokenClassificationCRF

    torch.manual_seed(seed)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    common = {"max_position_embeddings": 40, "type_vocab_size": 1, "pad_token_id": tokenizer.pad_token_id}
    config = XLMRobertaCRFConfig(vocab_size=len(tokenizer), **{**common, **shape, **label_fields(labels), **fields})
    model = XLMRobertaForTokenClassificationCRF(config)
    for parameter in model.crf.parameters():
        torch.nn.init.normal_(parameter)
    torch.nn.init.normal_(model.classifier.weight)
    model.set_word_starts(tokenizer)
    return model.eval()


@pytest.fixture
def make_student(tokenizer, labels):
    """Makes tiny students: see `draw_student`."""
    return functools.partial(draw_student, tokenizer, labels)


@pytest.fixture
def run_script(monkeypatch, capsys):
    """Run a program as from the command line, in this process: a new one takes many seconds to import.

    A program is a script of examples/ (`run_distill.py`), a module (`experiments.report`) or a command
    (`structkd card`).
    Returns what it printed. A program that gives up raises `SystemExit`; see `refusal`.
    """

    from transformers.utils import logging

    def call(program: str, *arguments: object) -> str:
        verb = program.split()[1:]  # behind `structkd`
        monkeypatch.setattr(sys, "argv", [program, *verb, *map(str, arguments)])
        verbosity = logging.get_verbosity()
        try:
            if program.endswith(".py"):
                runpy.run_path(str(EXAMPLES / program), run_name="__main__")
            else:
                runpy.run_module("hf_structkd" if verb else program, run_name="__main__")
        except SystemExit as end:
            if end.code:
                raise
        finally:
            logging.set_verbosity(verbosity)
        return capsys.readouterr().out

    return call


@pytest.fixture
def refusal(run_script, capsys):
    """Run a program that must give up; returns what it says: its last message and what went to stderr before."""

    def call(program: str, *arguments: object) -> str:
        with pytest.raises(SystemExit) as stopped:
            run_script(program, *arguments)
        return f"{capsys.readouterr().err}{stopped.value.code}"

    return call
