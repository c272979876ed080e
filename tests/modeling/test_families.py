"""Dangers, in every family: a CRF that is garbage after loading or cast with the encoder, words counted wrong by one
kind of tokenizer, texts longer than the window cut or mixed up, checkpoints that only load where they were made."""

import copy
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import processors
from transformers import AutoModelForTokenClassification, AutoTokenizer, BertConfig, pipeline

from hf_structkd import (
    DataCollatorForStructKD,
    TagScheme,
    Teacher,
    XLMRobertaForTokenClassificationCRF,
    crf_class_for,
    encode_corpus,
)
from hf_structkd.modeling.windows import encoder_window
from hf_structkd.modeling.words import tokenize_words
from tests.conftest import WITHOUT_COMPILED_LOOPS, label_fields
from tests.modeling.conftest import FAMILIES, POSITIONS, Family


@pytest.fixture
def batch(family, corpus):
    rows = [0, 31, 2, 33]  # both languages
    return DataCollatorForStructKD(family.tokenizer)(
        list(encode_corpus(corpus.select(rows), family.tokenizer, family.labels))
    )


@pytest.fixture
def long_text(family, corpus):
    """The first 12 sentences as one text, several windows long."""
    words = [word for sentence in corpus["tokens"][:12] for word in sentence]
    encoded = {name: torch.tensor(value) for name, value in tokenize_words([words], family.tokenizer).items()}
    assert encoded["input_ids"].shape[1] > 3 * POSITIONS
    return words, encoded


def test_a_config_finds_its_class_plain_or_not(family):
    assert crf_class_for(family.config()) is family.cls
    assert crf_class_for(family.cls.config_class.encoder_model_type) is family.cls
    assert family.cls.config_class.model_type.startswith(family.name)


def test_an_encoder_without_a_crf_class_is_named():
    config = BertConfig()
    config.model_type = "electra"
    with pytest.raises(ValueError, match=r"encoders of type 'electra'; there is one for xlm-roberta, bert,"):
        crf_class_for(config)


def test_another_familys_checkpoint_is_refused(family, tmp_path):
    # transformers warns, and goes on with an encoder of random weights.
    other = "bert" if family.name != "bert" else "modernbert"
    family.plain_encoder().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=rf"holds a model of type '{family.name}'.*crf_class_for"):
        crf_class_for(other).from_pretrained(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_plain_encoder_starts_a_student_with_fresh_finite_parameters(family, tmp_path, dtype):
    plain = family.plain_encoder()
    assert plain.config.model_type == family.name
    plain.save_pretrained(tmp_path)
    dirt = [torch.full((len(family.labels), len(family.labels)), float("nan")) for _ in range(50)]
    del dirt  # so that memory taken next is likely to hold NaN
    model = family.cls.from_pretrained(tmp_path, id2label=dict(enumerate(family.labels)), dtype=dtype)
    for name, parameter in model.crf.named_parameters():
        assert parameter.dtype == torch.float32, name
        assert (parameter == 0).all(), name
    assert model.classifier.weight.dtype == dtype
    assert model.classifier.weight.float().std().item() == pytest.approx(model.config.initializer_range, rel=0.5)
    assert (model.classifier.bias == 0).all()
    assert not model.word_starts.pieces.any()
    loaded = dict(model.base_model.named_parameters())
    for name, parameter in plain.named_parameters():
        if "pooler" not in name:
            assert torch.equal(loaded[name], parameter.to(dtype)), name


@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_padding_and_neighbours_change_nothing(family, batch, pooling):
    model = family.student(word_pooling=pooling)
    together = model(**batch)
    for row in range(len(batch["input_ids"])):
        length = int(batch["attention_mask"][row].sum())
        alone = model(**{name: value[row : row + 1, :length] for name, value in batch.items()})
        torch.testing.assert_close(together.logits[row, :length], alone.logits[0], atol=1e-4, rtol=1e-4)
        assert torch.equal(together.tags[row, :length], alone.tags[0])


def test_labels_mask_and_mean_pooling_see_the_same_words(family, batch, corpus):
    model = family.student()
    assert model(**batch).lengths.tolist() == [len(corpus["tokens"][row]) for row in (0, 31, 2, 33)]
    by_mask = model(**batch).tags
    del batch["word_mask"]
    assert torch.equal(model(**batch).tags, by_mask)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_training_reaches_every_parameter_and_half_precision_does_not_break_it(family, batch, dtype):
    model = family.student(word_pooling="mean").train().to(dtype)
    assert model.crf.transitions.dtype == torch.float32
    loss = model(**batch).loss
    assert loss.dtype == torch.float32
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_autocast_leaves_the_crf_exact(family, batch):
    model = family.student()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(**batch)
    assert output.emissions.dtype == output.loss.dtype == torch.float32
    torch.testing.assert_close(output.loss, model(**batch).loss, atol=0.1, rtol=0.05)


def test_gradient_checkpointing_gives_the_same_gradients(family, batch):
    fields = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}  # ModernBERT's are 0 already
    plain, checkpointed = family.student(**fields).train(), family.student(**fields).train()
    checkpointed.gradient_checkpointing_enable()
    assert any(getattr(module, "gradient_checkpointing", False) for module in checkpointed.modules())
    for model in (plain, checkpointed):
        model(**batch).loss.backward()
    for (name, one), other in zip(plain.named_parameters(), checkpointed.parameters()):
        torch.testing.assert_close(one.grad, other.grad, msg=name)


def test_hidden_states_and_attentions_are_handed_through(family, batch):
    model = family.student(attn_implementation="eager", max_position_embeddings=150)
    output = model(**batch, output_hidden_states=True, output_attentions=True)
    layers = model.config.num_hidden_layers
    assert (len(output.hidden_states), len(output.attentions)) == (layers + 1, layers)
    assert output.hidden_states[0].shape == (*batch["input_ids"].shape, 16)
    assert model(**batch).hidden_states is None


# ---- long texts ----


def test_a_text_longer_than_the_window_is_one_chain_over_all_words(family, long_text):
    words, encoded = long_text
    model = family.student()
    output = model(**encoded)
    assert output.emissions.shape[:2] == (1, len(words))
    assert (output.tags != -100).sum() == len(words)
    with torch.no_grad():
        model.train()(**encoded)


def test_windows_give_what_each_window_alone_gives(family, long_text):
    _, encoded = long_text
    window = encoder_window(family.student())
    assert window == POSITIONS - (family.tokenizer.pad_token_id + 1 if family.name == "xlm-roberta" else 0)
    model = family.student(window_overlap=0)
    ids = encoded["input_ids"]
    vectors, _ = model.encode(ids, encoded["attention_mask"])
    size = window - 2
    second = torch.cat((ids[:, :1], ids[:, 1 + size : 1 + 2 * size], ids[:, -1:]), dim=1)
    alone, _ = model.encode(second, torch.ones_like(second))
    torch.testing.assert_close(vectors[:, 1 + size : 1 + 2 * size], alone[:, 1:-1])


def test_the_encoder_takes_a_full_window(family):
    model = family.student()
    ids = torch.full((1, encoder_window(model)), 7)
    model(ids, word_mask=torch.ones_like(ids))


def test_long_texts_have_hidden_states_but_no_attentions(family, long_text):
    _, encoded = long_text
    model = family.student()
    output = model(**encoded, output_hidden_states=True)
    assert len(output.hidden_states) == model.config.num_hidden_layers + 1
    assert {layer.shape for layer in output.hidden_states} == {(*encoded["input_ids"].shape, 16)}
    torch.testing.assert_close(output.emissions, model(**encoded).emissions)
    with pytest.raises(ValueError, match="no attentions over a text longer"):
        model(**encoded, output_attentions=True)
    with pytest.raises(ValueError, match="not position_ids"):
        model(**encoded, position_ids=torch.arange(encoded["input_ids"].shape[1])[None])


def test_token_types_follow_their_subwords_into_the_windows(family, long_text):
    _, encoded = long_text
    model = family.student()
    types = torch.zeros_like(encoded["input_ids"])
    torch.testing.assert_close(model(**encoded, token_type_ids=types).emissions, model(**encoded).emissions)
    if family.name == "bert":
        types[:, 50:-1] = 1
        changed = (model(**encoded, token_type_ids=types).emissions != model(**encoded).emissions).any(dim=-1)
        first_changed = int(changed[0].nonzero()[0])
        assert changed[0, -1]
        assert first_changed > 0  # words whose window holds no subword of type 1 are as before


# ---- saved and loaded ----


LOAD_ELSEWHERE = """
import json, os, sys
os.environ["HF_MODULES_CACHE"] = sys.argv[1] + "/modules"
from transformers import AutoModelForTokenClassification, AutoTokenizer

def tags_of(trust):
    tags = {}
    for name in sys.argv[2:]:
        folder = sys.argv[1] + "/" + name
        model = AutoModelForTokenClassification.from_pretrained(folder, trust_remote_code=trust).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust)
        tags[name] = model(**tokenizer("Anna flew from Boston", return_tensors="pt")).tags.tolist()
    return tags

by_its_own_code = tags_of(trust=True)
assert "hf_structkd" not in sys.modules
import hf_structkd
print(json.dumps([by_its_own_code, tags_of(trust=False)]))
"""


@pytest.mark.slow
def test_checkpoints_load_in_a_new_process_with_and_without_the_package(tokenizers_by_family, labels, tmp_path):
    expected = {}
    for name in FAMILIES:
        family = Family(name, tokenizers_by_family[name], labels)
        model = family.student(lstm_hidden_size=8 if name == "bert" else None)
        model.save_pretrained(tmp_path / name)
        family.tokenizer.save_pretrained(tmp_path / name)
        expected[name] = model(**family.tokenizer("Anna flew from Boston", return_tensors="pt")).tags.tolist()
    ran = subprocess.run(
        [sys.executable, "-c", LOAD_ELSEWHERE, str(tmp_path), *FAMILIES], capture_output=True, text=True, check=False,
        env={**os.environ, **WITHOUT_COMPILED_LOOPS},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout.splitlines()[-1]) == [expected, expected]


def test_saving_and_loading_changes_nothing(family, batch, tmp_path):
    model = family.student()
    model.save_pretrained(tmp_path)
    for cls in (family.cls, AutoModelForTokenClassification):
        again, info = cls.from_pretrained(tmp_path, output_loading_info=True)
        assert not any(info.values()), info
        torch.testing.assert_close(again.eval()(**batch).logits, model(**batch).logits)


def test_the_stock_pipeline_reads_the_model(family, tmp_path):
    family.student().save_pretrained(tmp_path)
    family.tokenizer.save_pretrained(tmp_path)
    model = AutoModelForTokenClassification.from_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    entities = pipeline("token-classification", model=model, tokenizer=tokenizer, aggregation_strategy="simple")
    text = "Anna flew from Boston to Paris , said Maria ."
    for entity in entities(text):
        assert text[entity["start"] : entity["end"]].strip()
        assert 0 < entity["score"] <= 1


def test_a_tokenizer_without_special_tokens_is_refused(family):
    # The first and the last subword of a text are taken for them: two words would be lost.
    model, bare = family.student(), copy.deepcopy(family.tokenizer)
    bare.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    with pytest.raises(ValueError, match="special tokens before and after"):
        model.set_word_starts(bare)


def test_every_family_can_teach(family, corpus):
    model = family.student()
    sentences = [corpus["tokens"][row] for row in (0, 31)]
    tagged = Teacher(model, family.tokenizer).tag(sentences)
    encoded = encode_corpus(corpus.select([0, 31]), family.tokenizer, family.labels)
    output = model(**DataCollatorForStructKD(family.tokenizer)(list(encoded)))
    expected = [[family.labels[tag] for tag in row if tag != -100] for row in output.tags.tolist()]
    assert tagged == expected


def test_word_starts_follow_a_resized_vocabulary(family):
    model = family.student()
    before = model.word_starts.pieces.clone()
    model.resize_token_embeddings(len(family.tokenizer) + 8)
    assert torch.equal(model.word_starts.pieces[: len(before)], before)
    assert not model.word_starts.pieces[len(before) :].any()


# Danger: a checkpoint works only where it was made, because its code is incomplete or reaches for the package.


WORKER = Path(__file__).with_name("standalone_worker.py")
TEXT = "Anna flew from Boston to Paris , said Maria Lopez of the Helsinki Tram Museum ."
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def close(one, other, tolerance=1e-5) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(close(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(close(a, b) for a, b in zip(one, other))
    return abs(one - other) < tolerance if isinstance(one, float) else one == other


@pytest.mark.slow
def test_a_checkpoint_stands_alone(python_without_the_package, make_student, tokenizer, labels, tmp_path):
    bioes = TagScheme.from_entity_types(dict.fromkeys(label.partition("-")[2] for label in labels[1:]), "BIOES").tags
    repos = {"bio": labels, "bioes": bioes}
    for name, tags in repos.items():
        make_student(**label_fields(tags)).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    cached = tmp_path / "home" / "hub" / "models--someone--tagger"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(COMMIT)
    shutil.copytree(tmp_path / "bioes", cached / "snapshots" / COMMIT)

    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "HF_MODULES_CACHE")}
    ran = subprocess.run(
        [str(python_without_the_package), str(WORKER), str(tmp_path), TEXT, *repos, "someone/tagger"],
        env={**environment, **WITHOUT_COMPILED_LOOPS, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    seen = json.loads(ran.stdout.splitlines()[-1])
    assert seen["someone/tagger"]["first"] == seen["bioes"]["first"]
    for name in repos:
        stages = seen[name]
        assert all(close(stage, stages["first"]) for stage in stages.values()), name
        here = pipeline("crf-token-classification", model=str(tmp_path / name))(TEXT, top_k=2)
        assert close(stages["first"]["ours"], here)
        # Stock entities are the Viterbi path's: the same places (this tokenizer's pieces hold the space before them),
        # the same types.
        stock = [(e["entity_group"], TEXT[e["start"] : e["end"]].strip(), e["end"]) for e in stages["first"]["stock"]]
        assert stock == [(e["entity_group"], e["word"], e["end"]) for e in here["entities"]]
        assert stock
        assert all(0 < e["score"] <= 1 for e in stages["first"]["stock"])


def test_a_checkpoint_holds_safetensors_code_and_nothing_that_unpickles(make_student, tmp_path):
    make_student().save_pretrained(tmp_path)
    kinds = {path.suffix for path in tmp_path.iterdir()}
    assert kinds == {".json", ".py", ".safetensors"}
    assert (tmp_path / "pipeline.py").exists()
    pipelines = json.loads((tmp_path / "config.json").read_text())["custom_pipelines"]
    (info,) = pipelines.values()
    module, name = info["impl"].split(".")
    assert f"class {name}" in (tmp_path / f"{module}.py").read_text()


def test_missing_and_extra_crf_weights_are_named_and_never_garbage(make_student, tmp_path):
    make_student().save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    transitions = weights.pop("crf.transitions")
    save_file({**weights, "crf.other": torch.zeros(3)}, file, metadata={"format": "pt"})
    model, report = XLMRobertaForTokenClassificationCRF.from_pretrained(tmp_path, output_loading_info=True)
    assert report["missing_keys"] == {"crf.transitions"}
    assert report["unexpected_keys"] == {"crf.other"}
    assert (model.crf.transitions == 0).all()
    save_file({**weights, "crf.transitions": transitions[1:]}, file, metadata={"format": "pt"})
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        XLMRobertaForTokenClassificationCRF.from_pretrained(tmp_path)
