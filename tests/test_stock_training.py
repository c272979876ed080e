"""Danger: a model that only our trainer can train. A script for the stock `Trainer` must do with it what it does with
any tagger: stock collator, -100 labels, argmax of logits, evaluate, predict, save, reload."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoConfig, XLMRobertaConfig, XLMRobertaModel

from hf_structkd import TagScheme, XLMRobertaCRFConfig, XLMRobertaForTokenClassificationCRF
from hf_structkd.data.demo_corpus import load_demo_corpus
from hf_structkd.data.tokenizer import train_tokenizer
from hf_structkd.evaluation import seqeval_metric
from tests.conftest import WITHOUT_COMPILED_LOOPS, label_fields

SCRIPT = Path(__file__).parent / "stock" / "run_ner.py"
SIZE = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[str]:
    """A corpus as JSON lines, and the arguments that name it."""
    folder, arguments = tmp_path_factory.mktemp("corpus"), []
    for name, split, count in (("train", "train", 300), ("validation", "dev", 40), ("test", "test", 40)):
        rows = load_demo_corpus("en", split, num_sentences=count)
        lines = [json.dumps({"tokens": row["tokens"], "ner_tags": row["tags"]}) for row in rows]
        (folder / f"{name}.json").write_text("\n".join(lines), encoding="utf-8")
        arguments += [f"--{name}_file", str(folder / f"{name}.json")]
    return arguments


@pytest.fixture
def save_start(tmp_path):
    """Saves what a script starts from, weights drawn at random, with a tokenizer."""

    def save(encoder_alone: bool) -> Path:
        tokenizer = train_tokenizer(load_demo_corpus("en", "train", num_sentences=300)["tokens"], vocab_size=1500)
        tags = ["B-LOC", "B-ORG", "B-PER", "I-LOC", "I-ORG", "I-PER", "O"]
        shape = {
            "vocab_size": len(tokenizer), "max_position_embeddings": 40, "type_vocab_size": 1,
            "pad_token_id": tokenizer.pad_token_id, **SIZE,
        }  # fmt: skip
        if encoder_alone:
            model = XLMRobertaModel(XLMRobertaConfig(**shape))
        else:
            model = XLMRobertaForTokenClassificationCRF(XLMRobertaCRFConfig(**shape, **label_fields(tags)))
        model.save_pretrained(tmp_path / "start")
        tokenizer.save_pretrained(tmp_path / "start")
        return tmp_path / "start"

    return save


def run_script(checkpoint: Path, output: Path, files: list[str], *more: str, cache: Path) -> dict:
    options = {
        "metric": seqeval_metric.__file__, "learning_rate": 2e-2, "num_train_epochs": 8, "use_cpu": True,
        "per_device_train_batch_size": 8, "gradient_accumulation_steps": 2, "eval_strategy": "epoch",
        "report_to": "none", "save_strategy": "no", "disable_tqdm": True,
    }  # fmt: skip
    given = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    done = subprocess.run(
        [sys.executable, SCRIPT, "--model_name_or_path", checkpoint, "--output_dir", output, *files, *given, *more],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            **WITHOUT_COMPILED_LOOPS,
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(cache),
        },
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.mark.parametrize("start", ["tagger with its own code", "plain encoder"])
def test_a_script_for_the_stock_trainer_trains_evaluates_predicts_and_reloads(start, files, save_start, tmp_path):
    encoder_alone = start == "plain encoder"
    how = ("--with_crf", "true") if encoder_alone else ("--trust_remote_code", "true")
    output = tmp_path / "output"
    said = run_script(save_start(encoder_alone), output, files, *how, cache=tmp_path / "home")
    assert said["model"] == "XLMRobertaForTokenClassificationCRF"
    assert said["package_imported"] == encoder_alone
    # It learns: with accumulation, a loss whose scale is wrong would show here first.
    assert said["after"]["eval_f1"] > said["before"]["eval_f1"] + 0.3
    assert said["after"]["eval_loss"] < said["before"]["eval_loss"] / 2
    assert said["predict"]["predict_f1"] > 0.3
    assert said["difference_after_reload"] < 1e-5
    # argmax of logits is the Viterbi path, which the constraints keep legal; argmax of emissions would not be
    config = AutoConfig.from_pretrained(output)
    scheme = TagScheme([config.id2label[i] for i in range(config.num_labels)])
    assert len(said["predictions"]) == 40
    assert not [tags for tags in said["predictions"] if scheme.violations(tags)]
