"""Dangers: a raw traceback where something else than a teacher is given, and a damaged checkpoint that teaches."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, TokenClassificationPipeline, XLMRobertaConfig, XLMRobertaForTokenClassification

from hf_structkd import StructKDTrainer, StructKDTrainingArguments, Teacher, annotate
from hf_structkd.recipes.fields import DataArguments, ModelArguments
from hf_structkd.recipes.growth import student_labels
from hf_structkd.recipes.models import check_model
from hf_structkd.recipes.parser import RecipeError
from hf_structkd.teachers.panel import Panel, load_teachers
from hf_structkd.training.teacher_embeddings import teacher_views
from tests.conftest import label_fields


@pytest.fixture
def folder(make_student, tokenizer, tmp_path):
    make_student(seed=1).save_pretrained(tmp_path / "tagger")
    tokenizer.save_pretrained(tmp_path / "tagger")
    return tmp_path / "tagger"


def softmax_tagger(tokenizer, labels):
    config = XLMRobertaConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=60, type_vocab_size=1, pad_token_id=tokenizer.pad_token_id, **label_fields(labels),
    )  # fmt: skip
    return XLMRobertaForTokenClassification(config).eval()


def test_a_folder_is_loaded_where_a_teacher_is_meant(folder, make_student, tokenizer, corpus, labels, tmp_path):
    few = corpus.select(range(6))
    options = {"label_names": labels, "targets": ["teacher_marginals"], "progress": False}
    expected = annotate(few, Teacher(make_student(seed=1), tokenizer), **options).to_dict()
    for given in (str(folder), folder, {"en": str(folder)}, [(folder, 2.0)]):
        assert annotate(few, given, **options).to_dict() == expected
    args = StructKDTrainingArguments(str(tmp_path / "run"), objective="posterior", use_cpu=True, report_to="none")
    trainer = StructKDTrainer(
        make_student(), args, None, few, processing_class=tokenizer, teachers={"en": str(folder)}
    )
    assert trainer.train_dataset["teacher_marginals"] == expected["teacher_marginals"]
    assert next(iter(trainer.teachers.values())).name == str(folder)


def test_a_pipeline_is_its_model_and_tokenizer(tokenizer, corpus, labels):
    model = softmax_tagger(tokenizer, labels)
    pipeline = TokenClassificationPipeline(model=model, tokenizer=tokenizer)
    sentences = corpus["tokens"][:3]
    assert Panel(pipeline).tag(sentences, labels) == Teacher(model, tokenizer).tag(sentences, labels)


class FlairTagger:
    __module__ = "flair.models"


@pytest.mark.parametrize("kind", ["model", "model and tokenizer", "function", "flair", "number", "weight", "none"])
def test_what_is_no_teacher_is_refused_with_the_way_to_make_one(
    kind, tokenizer, labels, make_student, tmp_path, corpus
):
    model = softmax_tagger(tokenizer, labels)
    given, message = {
        "model": (model, r"XLMRobertaForTokenClassification is no teacher: .*Teacher\(model, tokenizer\)"),
        "model and tokenizer": ((model, tokenizer), r"is no teacher: .*Teacher\(model, tokenizer\)"),
        "function": (lambda sentences: [], r"function is no teacher: give CallableTeacher\(function"),
        "flair": (FlairTagger(), r"flair.models.FlairTagger is no teacher: give CallableTeacher\(function"),
        "number": (3, "int is no teacher: give a Teacher"),
        "weight": ([(Teacher(model, tokenizer), "2")], r"stand teachers or \(teacher, weight\)"),
        "none": (None, "NoneType is no teacher"),
    }[kind]
    with pytest.raises(TypeError, match=message):
        annotate(corpus, {"en": given, "ru": given}, label_names=labels, targets=["teacher_marginals"])
    args = StructKDTrainingArguments(str(tmp_path), use_cpu=True, report_to="none")
    with pytest.raises(TypeError, match=message):
        StructKDTrainer(make_student(), args, None, corpus, processing_class=tokenizer, teachers={"en": given})
    with pytest.raises(TypeError, match="made of a transformers model and its fast tokenizer"):
        Teacher("some/model", tokenizer)


def test_a_teacher_in_training_mode_answers_without_dropout(make_student, tokenizer, corpus, labels):
    teacher = Teacher(make_student(seed=1, hidden_dropout_prob=0.5), tokenizer)
    sentences = corpus["tokens"][:4]
    calm = teacher.distribution(sentences, labels).marginals
    views = teacher_views(tokenizer, teacher)[0][0]
    teacher.model.train()
    modes = [module.training for module in teacher.model.modules()]
    torch.testing.assert_close(teacher.distribution(sentences, labels).marginals, calm)
    torch.testing.assert_close(teacher_views(tokenizer, teacher)[0][0], views)
    assert [module.training for module in teacher.model.modules()] == modes
    for ask in (lambda: teacher.tag(sentences, batch_size=0), lambda: teacher_views(tokenizer, teacher, batch_size=0)):
        with pytest.raises(ValueError, match="batch_size must be at least 1, not 0"):
            ask()


def change_config(folder, **fields):
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def change_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def excluding(mask):
    def change(weights):
        weights["crf.transitions"] = torch.where(mask, -torch.inf, weights["crf.transitions"])

    return change


def two_cycles(folder):
    """Tags follow each other in cycles of 2 and of 5: of all lengths, 10 words (20, ...) alone have no sequence."""

    def change(weights):
        for part in weights:
            if part.startswith("crf."):
                weights[part].fill_(-torch.inf)
        for cycle in ((0, 1), (2, 3, 4, 5, 6)):
            for tag, following in zip(cycle, (*cycle[1:], cycle[0])):
                weights["crf.transitions"][tag, following] = 0.0
        weights["crf.start_transitions"][[0, 2]] = 0.0
        weights["crf.end_transitions"][[0, 2, 3, 4, 5]] = 0.0

    change_config(folder, crf_constraints="none")
    change_weights(folder, change)


def larger_vocabulary(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"piece{number}" for number in range(50)])
    tokenizer.save_pretrained(folder)


def cut(name):
    def change(folder):
        file = folder / name
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: change_config(f, num_hidden_layers=0), "holds weights that its configuration has no place for"),
        (lambda f: change_config(f, num_hidden_layers=2), "lacks the weights"),
        (lambda f: change_config(f, hidden_size=32), "cannot be loaded; it may be damaged"),
        (lambda f: change_config(f, hidden_size="wide"), "tagger"),
        (lambda f: change_config(f, id2label={"0": "O", "5": "B-PER"}), "tagger"),
        (lambda f: change_weights(f, excluding(torch.ones(7, 7, dtype=torch.bool))), "exclude all tag .* of 2 word"),
        (two_cycles, "exclude all tag .* of 10 word"),
        (lambda f: change_weights(f, lambda w: w["crf.transitions"].fill_(float("nan"))), "crf.transitions holds NaN"),
        (lambda f: change_weights(f, lambda w: w["classifier.bias"].fill_(float("inf"))), "classifier.bias holds NaN"),
        (larger_vocabulary, "has a tokenizer with .* pieces and embeddings for"),
        (cut("model.safetensors"), r"cannot be loaded; it may be damaged \(SafetensorError"),
        (cut("config.json"), "config.json"),
        (cut("tokenizer.json"), "cannot be loaded; it may be damaged"),
    ],
)
def test_a_damaged_checkpoint_is_refused_by_name(folder, damage, message):
    """Danger: zeros or noise are taught for hours, or a traceback names neither checkpoint nor what is wrong."""
    damaged = folder.with_name("damaged tagger")
    shutil.copytree(folder, damaged)
    damage(damaged)
    with pytest.raises((ValueError, OSError), match="damaged tagger") as refused:
        Teacher.from_pretrained(str(damaged))
    assert refused.match(message)
    assert Teacher.from_pretrained(str(folder)).labels


def test_some_excluded_transitions_and_a_pooler_are_no_damage(folder, tokenizer, labels, tmp_path):
    """Danger: sound checkpoints are refused."""
    few = torch.zeros(7, 7, dtype=torch.bool)
    few[0, 2] = True
    change_weights(folder, excluding(few))
    assert Teacher.from_pretrained(str(folder)).model.crf.transitions[0, 2] == -torch.inf
    softmax_tagger(tokenizer, labels).save_pretrained(tmp_path / "pooled")
    tokenizer.save_pretrained(tmp_path / "pooled")
    change_weights(tmp_path / "pooled", lambda w: w.update({"roberta.pooler.dense.weight": torch.zeros(16, 16)}))
    assert Teacher.from_pretrained(str(tmp_path / "pooled")).labels == labels


def test_a_folder_that_is_not_there_is_said_to_be_no_teacher(tmp_path):
    """The Hub's message was about the form of repository names."""
    with pytest.raises(
        OSError, match=r"no teacher can be loaded from .*nowhere'.* neither the folder of a checkpoint"
    ):
        load_teachers({"en": str(tmp_path / "nowhere")})


@pytest.mark.parametrize("name", ["{}/nowhere", "./nowhere", "runs/one/nowhere", "{}/a file"])
def test_a_path_without_a_folder_is_told_as_such(name, tmp_path):
    """The Hub's message was about the form of repository names, wherever a checkpoint is named by its path."""
    (tmp_path / "a file").touch()
    path = name.format(tmp_path)
    with pytest.raises(OSError, match=f"there is no folder '{path}' \\((it is a file|there is nothing of this name)"):
        Teacher.from_pretrained(path)
    for check in (check_model, lambda args: student_labels(args, ["O"], DataArguments("demo"))):
        with pytest.raises(RecipeError, match=f"model '{path}': there is no folder '{path}'"):
            check(ModelArguments(model=path))


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("./my_modle", "./my_model"),
        ("runs/x/student", "runs/xx/student"),
        ("runs/xx/studnet/", "runs/xx/student"),
        ("my_modle", "my_model"),  # may be a name on the Hub: the Hub's answer comes first
        ("rnus/first", "runs/first"),
        ("somebody/tagger", None),
        ("./nowhere", None),
    ],
)
def test_the_nearest_folder_is_named(name, near, tmp_path, monkeypatch):
    """Danger: a slip of the finger is answered with rules for the names of repositories."""
    for folder in ("my_model", "runs/xx/student", "runs/first"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for load in (Teacher.from_pretrained, lambda name: check_model(ModelArguments(model=name))):
        with pytest.raises((OSError, RecipeError)) as caught:
            load(name)
        message = str(caught.value)
        is_path = name.startswith(".") or name.count("/") > 1
        assert ("there is no folder" in message) == is_path
        assert ("huggingface.co" in message) == (not is_path)
        assert "Repo id" not in message
        assert (f"the nearest is '{near}'" in message) == (near is not None)
