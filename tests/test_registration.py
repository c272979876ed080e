"""Danger: whichever module is imported first, transformers learns of the models, and no import goes in a circle."""

import subprocess
import sys

import pytest

# Each first import runs in a child of one process that has imported the heavy libraries, but not transformers.
CHILDREN = """
import os, sys
import torch, tokenizers, huggingface_hub
import hf_structkd
assert "transformers" not in sys.modules
for statement in sys.argv[1:]:
    if not (child := os.fork()):
        try:
            exec(statement)
            from transformers import AutoConfig, pipeline
            from transformers.pipelines import PIPELINE_REGISTRY
            AutoConfig.for_model("xlm-roberta-crf")
            assert "crf-token-classification" in PIPELINE_REGISTRY.supported_tasks
        except BaseException as error:
            print(f"{statement}: {error!r}", flush=True)
            os._exit(1)
        os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.mark.slow
def test_any_module_may_be_imported_first():
    # Each of these modules imports transformers itself, which has to wait for it with the registration.
    first = ["modeling.pipeline", "modeling.crf_head", "modeling.taggers"]
    statements = [f"import hf_structkd.{module}" for module in first]
    done = subprocess.run([sys.executable, "-c", CHILDREN, *statements], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


def test_training_imports_nothing_that_it_does_not_use():
    """Danger: seconds of every start go into libraries that only a metric for `evaluate.load`, a comparison of
    taggers or compiled loops need."""
    code = """
import sys
import torch, datasets
from transformers import Trainer
from hf_structkd import StructKDTrainer, StructKDTrainingArguments, TaggingMetrics, Teacher, annotate, load_corpora
print(sorted({"evaluate", "numba", "scipy.stats", "matplotlib", "sklearn", "onnx"} & set(sys.modules)))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
