"""Dangers: a softmax student that learns from gold alone while its card says distilled; updates lost in half
precision; a raw traceback for a model that is no tagger."""

import ast
import itertools
import logging
import math
import re

import pytest
import torch
from datasets import Dataset
from transformers import (
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
    XLMRobertaForTokenClassification,
    XLMRobertaModel,
)

from hf_structkd import StructKDTrainer, StructKDTrainingArguments, TaggingMetrics, Teacher
from hf_structkd.data.tokenizer import train_tokenizer
from hf_structkd.distillation.objectives import OBJECTIVES
from tests.conftest import draw_student, label_fields

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
TAGS = ["O", "B-TOOL", "I-TOOL"]
WORDS = [["a", "band", "saw"], ["hammers"], ["wood", "and", "nails"], ["lathe", "chisels"]]
GOLD = [["O", "B-TOOL", "I-TOOL"], ["B-TOOL"], ["O", "O", "B-TOOL"], ["B-TOOL", "I-TOOL"]]
DISTILLING = sorted(set(OBJECTIVES) - {"substructure"})


@pytest.fixture(scope="module")
def saw_tokenizer():
    return train_tokenizer(WORDS, vocab_size=60)


@pytest.fixture
def make_softmax(saw_tokenizer):
    """Makes stock token classifiers, every weight drawn at random, without dropout."""

    def make(seed=0, **fields):
        torch.manual_seed(seed)
        shape = {"max_position_embeddings": 24, "type_vocab_size": 1, "pad_token_id": saw_tokenizer.pad_token_id}
        dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        given = {"vocab_size": len(saw_tokenizer), **SMALL, **shape, **dropout, **label_fields(TAGS), **fields}
        model = XLMRobertaForTokenClassification(XLMRobertaConfig(**given))
        torch.nn.init.normal_(model.classifier.weight)
        return model

    return make


@pytest.fixture
def teacher(saw_tokenizer):
    return Teacher(draw_student(saw_tokenizer, TAGS, seed=4, crf_constraints="none"), saw_tokenizer)


@pytest.fixture
def corpus():
    return Dataset.from_dict({"tokens": WORDS, "tags": GOLD, "language": ["en", "en", "en", "xx"]})


@pytest.fixture
def make_trainer(saw_tokenizer, corpus, tmp_path):
    def make(model, train=None, dev=None, teachers=None, **more):
        options = {
            "output_dir": str(tmp_path / "out"), "objective": "none", "report_to": "none", "disable_tqdm": True,
            "use_cpu": True, "save_strategy": "no", "per_device_train_batch_size": 4, "learning_rate": 1e-2,
            "logging_steps": 1, "lambda_schedule": "constant", "max_grad_norm": 1e9,
        }  # fmt: skip
        args = StructKDTrainingArguments(**{**options, **more})
        return StructKDTrainer(model, args, None, train or corpus, dev, saw_tokenizer, teachers=teachers)

    return make


def first_loss(trainer):
    trainer.train()
    return next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry)


def sequences(words):
    return list(itertools.product(range(len(TAGS)), repeat=len(words)))


def log_probs_of(model, tokenizer, words):
    """Every tag sequence's log probability as a product of the words' softmax, by enumeration."""
    encoded = tokenizer(words, is_split_into_words=True, return_tensors="pt")
    firsts = [encoded.word_ids().index(word) for word in range(len(words))]
    with torch.no_grad():
        local = model.eval()(**encoded).logits[0, firsts].double().log_softmax(dim=-1)
    return {tags: sum(local[i, tag].item() for i, tag in enumerate(tags)) for tags in sequences(words)}, local


def expected_loss(name, student, teacher, tokenizer, words):
    """The objective's equation over all tag sequences of one sentence; the teacher's k is 2."""
    own, local = log_probs_of(student, tokenizer, words)
    chain = teacher.distribution([words], TAGS)
    theirs = {tags: chain.log_prob(torch.tensor([tags])).exp().item() for tags in own}
    best = sorted(theirs, key=theirs.get, reverse=True)[:2]
    mass = sum(theirs[tags] for tags in best)
    if name == "structural":
        return -sum(theirs[tags] * own[tags] for tags in own)
    if name == "top_k":
        return -sum(own[tags] / len(best) for tags in best)
    if name == "top_wk":
        return -sum(theirs[tags] / mass * own[tags] for tags in best)
    if name == "fuzzy":
        allowed = [{tags[i] for tags in best} for i in range(len(words))]
        inside = [own[tags] for tags in own if all(tag in allowed[i] for i, tag in enumerate(tags))]
        return -torch.tensor(inside).logsumexp(0).item()
    if name.startswith("gate"):  # a softmax student's words do not depend on each other
        q = torch.tensor([[sum(theirs[t] for t in own if t[i] == tag) for tag in range(3)] for i in range(len(words))])
        gates = (q * q.log()).sum(dim=-1).exp()
        if name == "gate_sentence":
            gates = torch.full_like(gates, math.exp(sum(p * math.log(p) for p in theirs.values()) / len(words)))
        paths = sum(theirs[tags] / mass * torch.stack([local[i, tag] for i, tag in enumerate(tags)]) for tags in best)
        return -(gates * (q * local).sum(dim=-1) + (1 - gates) * paths).sum().item()
    if name == "emission":
        q = chain.scores.emissions[0].double().softmax(dim=-1)
    else:
        q = torch.tensor([[sum(theirs[t] for t in own if t[i] == tag) for tag in range(3)] for i in range(len(words))])
    return -(q * local).sum().item()


@pytest.mark.parametrize("name", DISTILLING)
def test_a_softmax_student_is_distilled_by_what_the_objective_says(
    name, make_trainer, make_softmax, teacher, saw_tokenizer
):
    student = make_softmax()
    expected = sum(expected_loss(name, student, teacher, saw_tokenizer, words) for words in WORDS)
    trainer = make_trainer(student, teachers=teacher, objective=name, top_k=2, max_steps=1)
    assert first_loss(trainer) == pytest.approx(expected / sum(map(len, WORDS)), rel=2e-3)  # marginals are float16


def test_gold_tags_and_lambda_weigh_the_same_for_a_softmax_student(make_trainer, make_softmax, teacher, saw_tokenizer):
    ids = [tuple(TAGS.index(tag) for tag in tags) for tags in GOLD]
    student = make_softmax()
    nll = -sum(log_probs_of(student, saw_tokenizer, words)[0][tags] for words, tags in zip(WORDS, ids))
    kd = sum(expected_loss("posterior", student, teacher, saw_tokenizer, words) for words in WORDS)
    assert first_loss(make_trainer(make_softmax(), max_steps=1)) == pytest.approx(nll / 9, rel=1e-4)
    mixed = {"teachers": teacher, "objective": "posterior", "lambda_start": 0.25, "max_steps": 1}
    by_word = first_loss(make_trainer(make_softmax(), **mixed))
    assert by_word == pytest.approx((0.25 * kd + 0.75 * nll) / 9, rel=1e-3)
    by_sentence = first_loss(make_trainer(make_softmax(), normalization="sentence", **mixed))
    assert by_sentence == pytest.approx(by_word * 9 / 4, rel=1e-5)


def test_a_distilled_softmax_student_is_another_one_than_its_baseline(make_trainer, make_softmax, teacher):
    weights = {}
    for objective in ("none", *DISTILLING):
        trainer = make_trainer(make_softmax(), teachers=teacher, objective=objective, max_steps=3)
        trainer.train()
        weights[objective] = trainer.model.classifier.weight.detach().clone()
    same = [name for name in DISTILLING if torch.allclose(weights["none"], weights[name], atol=1e-4)]
    assert not same


def test_a_softmax_student_comes_to_tag_as_its_teacher(make_trainer, make_softmax, teacher, saw_tokenizer):
    trainer = make_trainer(make_softmax(), teachers=teacher, objective="posterior", num_train_epochs=60)
    trainer.train()
    # what it can learn is each word's best tag, whatever stands beside it
    marginals = teacher.distribution(WORDS, TAGS).marginals
    best = [[TAGS[i] for i in row[: len(words)].argmax(-1).tolist()] for row, words in zip(marginals, WORDS)]
    assert Teacher(trainer.model, saw_tokenizer).tag(WORDS) == best


def test_everything_else_holds_for_a_softmax_student_too(make_trainer, make_softmax, corpus, saw_tokenizer):
    """Language sampling, the macro average and the best model by it, predictions, long texts."""
    dev = {language: corpus.filter(lambda row, of=language: row["language"] == of) for language in ("en", "xx")}
    trainer = make_trainer(
        make_softmax(), dev=dev, language_sampling_temperature=float("inf"), eval_strategy="epoch",
        save_strategy="epoch", load_best_model_at_end=True, metric_for_best_model="macro", num_train_epochs=3,
    )  # fmt: skip
    drawn = [trainer.train_dataset[row]["language"] for row in trainer._get_train_sampler()]
    assert (drawn.count("en"), drawn.count("xx")) == (2, 2)
    trainer.train()
    metrics = trainer.evaluate()
    assert metrics["eval_macro_f1"] == pytest.approx((metrics["eval_en_f1"] + metrics["eval_xx_f1"]) / 2)
    assert metrics["eval_macro_f1"] == pytest.approx(trainer.state.best_metric)
    tagged = Teacher(trainer.model, saw_tokenizer).tag(WORDS[:3])
    assert metrics["eval_en_f1"] == pytest.approx(TaggingMetrics(TAGS).report(tagged, GOLD[:3])["f1"])
    predicted = trainer.predict(corpus.remove_columns("tags").select(range(3))).predictions
    assert [[TAGS[tag] for tag in row if tag != -100] for row in predicted] == tagged


def test_the_scheme_of_a_softmax_student_is_honoured(make_trainer, make_softmax, corpus):
    trainer = make_trainer(make_softmax(tag_scheme="plain"), dev=corpus)
    assert {"eval_accuracy"} == {name for name in trainer.evaluate() if name.endswith(("_f1", "_accuracy"))}


def test_a_softmax_student_reads_long_texts_through_windows(make_trainer, make_softmax, saw_tokenizer):
    words, gold = WORDS[0] * 12, GOLD[0] * 12
    long = Dataset.from_dict({"tokens": [words], "tags": [gold]})
    trainer = make_trainer(make_softmax(), train=long, dev=long, max_steps=2)
    trainer.train()
    tagged = Teacher(trainer.model, saw_tokenizer).tag([words])
    assert trainer.evaluate()["eval_f1"] == pytest.approx(TaggingMetrics(TAGS).report(tagged, [gold])["f1"])


def test_what_a_softmax_student_has_no_part_for_is_refused(make_trainer, make_softmax, teacher):
    with pytest.raises(ValueError, match=r"'posterior.substructure' compares transition scores, and a softmax"):
        make_trainer(make_softmax(), teachers=teacher, objective="posterior+substructure")
    with pytest.raises(ValueError, match="crf_learning_rate has no effect: the model has no transition scores"):
        make_trainer(make_softmax(), crf_learning_rate=0.1)


def test_other_models_are_refused_by_name(make_trainer, make_softmax, saw_tokenizer, tmp_path):
    config = make_softmax().config
    for model in (XLMRobertaModel(config), XLMRobertaForSequenceClassification(config), torch.nn.Linear(2, 2)):
        with pytest.raises(TypeError, match=f"{type(model).__name__} is neither"):
            make_trainer(model)
    args = StructKDTrainingArguments(str(tmp_path), objective="none", report_to="none", use_cpu=True)
    with pytest.raises(ValueError, match="a model or a model_init"):
        StructKDTrainer(args=args, processing_class=saw_tokenizer)


def test_a_model_init_may_ask_for_the_trial(make_softmax, corpus, saw_tokenizer, tmp_path):
    args = StructKDTrainingArguments(str(tmp_path), objective="none", report_to="none", use_cpu=True)
    trainer = StructKDTrainer(
        model_init=lambda trial: make_softmax(), args=args, train_dataset=corpus, processing_class=saw_tokenizer
    )
    assert trainer.label_names_in_order == TAGS


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("head", ["crf", "softmax"])
def test_a_checkpoint_in_half_precision_is_trained_in_float32_and_says_so(
    head, dtype, make_trainer, make_softmax, saw_tokenizer, tmp_path, caplog
):
    cls = type(draw_student(saw_tokenizer, TAGS)) if head == "crf" else XLMRobertaForTokenClassification
    stored = (draw_student(saw_tokenizer, TAGS) if head == "crf" else make_softmax()).to(dtype)
    stored.save_pretrained(tmp_path / "stored")
    model = cls.from_pretrained(tmp_path / "stored")
    assert model.dtype == dtype  # as transformers 5 does where nobody says otherwise
    trainer = make_trainer(model, dev=Dataset.from_dict({"tokens": WORDS, "tags": GOLD}), num_train_epochs=25)
    trainer.evaluate()
    assert model.dtype == dtype  # what is only evaluated stays as it is
    with caplog.at_level(logging.WARNING):
        trainer.train()
    assert f"stored in {str(dtype).removeprefix('torch.')}" in caplog.text
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert all(torch.isfinite(p).all() for p in model.parameters())
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0] / 2
    trainer.save_model()
    assert cls.from_pretrained(trainer.args.output_dir).dtype == torch.float32


def test_a_frozen_encoder_in_half_precision_goes_with_a_head_in_float32(make_trainer, saw_tokenizer):
    for autocast in (False, True):
        model = draw_student(saw_tokenizer, TAGS).to(torch.bfloat16)
        model.freeze_encoder()
        trainer = make_trainer(model, max_steps=2, bf16=autocast)
        trainer.train()
        assert model.classifier.weight.dtype == torch.float32
        frozen = {p.dtype for p in model.base_model.parameters()}
        assert frozen == ({torch.bfloat16} if autocast else {torch.float32})


def test_teachers_in_half_precision_stay_as_they_are(make_trainer, make_softmax, saw_tokenizer):
    own = Teacher(make_softmax(seed=3).to(torch.bfloat16), saw_tokenizer)
    make_trainer(make_softmax(), teachers=own, objective="posterior", max_steps=1).train()
    assert own.model.dtype == torch.bfloat16


def test_the_card_of_a_softmax_student_says_what_it_is_and_its_program_runs(
    make_trainer, make_softmax, teacher, saw_tokenizer, corpus, tmp_path, monkeypatch, capsys
):
    bioes = ["O", "B-TOOL", "I-TOOL", "E-TOOL", "S-TOOL"]
    model = make_softmax(max_position_embeddings=80, **label_fields(bioes))
    train = corpus.map(lambda row: {"tags": ["S-TOOL"] * len(row["tags"])})
    trainer = make_trainer(model, train=train, max_steps=1)
    trainer.train()
    trainer.save_model()
    trainer.create_model_card()
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "a softmax over the tags of each word" in card
    assert "Scheme: BIOES." in card
    assert "- crf" not in card
    (program,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    exec(program, {})
    tagged = ast.literal_eval(capsys.readouterr().out.strip().splitlines()[-1])
    words = [word for word, _ in tagged]
    assert [tag for _, tag in tagged] == Teacher(trainer.model, saw_tokenizer).tag([words])[0]
