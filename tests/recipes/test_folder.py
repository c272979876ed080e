"""Dangers: two jobs that train into one folder tear each other's checkpoints apart; a dead one holds it for ever."""

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import torch
import yaml
from datasets import Dataset
from transformers import XLMRobertaConfig, XLMRobertaForTokenClassification

from hf_structkd import StructKDTrainer, StructKDTrainingArguments
from hf_structkd.data.corpora import label_inventory, load_corpora
from hf_structkd.data.demo_corpus import load_demo_corpus
from hf_structkd.data.readers import CorpusError
from hf_structkd.data.tokenizer import train_tokenizer
from hf_structkd.files import exclusive_lock
from hf_structkd.modeling.tag_scheme import TagScheme
from hf_structkd.recipes.data import load_unlabelled
from hf_structkd.recipes.fields import DataArguments, TeacherArguments, TeacherSource
from hf_structkd.recipes.folder import (
    SETTINGS_FILE,
    differences,
    holds_work,
    provenance,
    replace_output,
    settings_of,
    train_into,
)
from hf_structkd.recipes.parser import RecipeError, parse_recipe

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def arguments(tmp_path) -> StructKDTrainingArguments:
    return StructKDTrainingArguments(
        output_dir=str(tmp_path), objective="none", max_steps=1, report_to="none", use_cpu=True, disable_tqdm=True
    )


@pytest.fixture
def train(make_student, corpus, tokenizer):
    def train(args, only_make=False):
        if only_make:
            return make_student(), corpus, tokenizer
        trainer = StructKDTrainer(make_student(), args, train_dataset=corpus, processing_class=tokenizer)
        trainer.train()
        return trainer

    return train


def test_a_second_job_is_told_and_a_killed_one_holds_nobody_up(tmp_path, arguments, train):
    folder, started = tmp_path / "student", tmp_path / "started"

    def endless(args):
        started.touch()
        time.sleep(300)

    first = FORK.Process(target=train_into, args=(folder, {"seed": 1}, arguments, endless))
    first.start()
    while not started.exists():
        time.sleep(0.01)
    try:
        with pytest.raises(RecipeError, match=r"another process is training .*student .*wait until it has finished"):
            train_into(folder, {"seed": 1}, arguments, lambda args: pytest.fail("trained beside the other"))
        assert not folder.exists()
    finally:
        os.kill(first.pid, signal.SIGKILL)
        first.join()
    train_into(folder, {"seed": 1}, arguments, train)
    assert (folder / "model.safetensors").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["started", "student"]


def test_a_job_that_comes_when_the_other_has_just_finished_takes_its_model(tmp_path, arguments, train, monkeypatch):
    """Danger: it looked before the end, got the lock after it, and trains again or leaves its work folder behind."""
    from hf_structkd.recipes import folder as recipe_training

    enter = recipe_training.exclusive_lock

    def late(*args):
        monkeypatch.undo()
        train_into(tmp_path / "student", {"seed": 1}, arguments, train)  # the other job
        return enter(*args)

    monkeypatch.setattr(recipe_training, "exclusive_lock", late)
    seconds = train_into(tmp_path / "student", {"seed": 1}, arguments, lambda args: pytest.fail("trained again"))
    assert seconds > 0
    assert (tmp_path / "student" / SETTINGS_FILE).exists()
    assert [path.name for path in tmp_path.iterdir()] == ["student"]
    with pytest.raises(RecipeError, match=r"already holds another run \(seed: there 1, asked 2\)"):
        train_into(tmp_path / "student", {"seed": 2}, arguments, train)


def test_a_link_is_followed_and_the_work_lies_beside_what_it_names(tmp_path, arguments, train):
    """Danger: hours of training that end in a raw OSError at the last rename."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "student").mkdir()
    (tmp_path / "student").symlink_to(tmp_path / "disk" / "student", target_is_directory=True)

    def seen(args):
        assert Path(args.output_dir) == tmp_path / "disk" / "student.training"
        return train(args)

    train_into(tmp_path / "student", {"seed": 1}, arguments, seen)
    assert (tmp_path / "student").is_symlink()
    assert (tmp_path / "disk" / "student" / SETTINGS_FILE).exists()
    assert sorted(path.name for path in tmp_path.rglob("student*")) == ["student", "student"]


def test_a_folder_that_cannot_be_replaced_is_refused_before_any_training(tmp_path, arguments, monkeypatch):
    """As a container's volume: a mount point can be neither removed nor renamed over."""
    folder = tmp_path / "volume"
    folder.mkdir()
    rmdir = Path.rmdir

    def busy(path):
        if path == folder:
            raise OSError(16, "Device or resource busy")
        rmdir(path)

    monkeypatch.setattr(Path, "rmdir", busy)
    with pytest.raises(RecipeError, match=r"volume cannot be replaced .*busy.*mount point.*volume/model for instance"):
        train_into(folder, {"seed": 1}, arguments, lambda args: pytest.fail("trained in vain"))
    assert list(folder.iterdir()) == []


def test_another_model_in_a_finished_folder_is_not_taken_for_the_one_trained_there(tmp_path, arguments, train):
    folder = tmp_path / "student"
    train_into(folder, {"seed": 1}, arguments, train)
    (folder / "README.md").write_text("a card changes nothing")
    train_into(folder, {"seed": 1}, arguments, lambda args: pytest.fail("trained again"))
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    with pytest.raises(RecipeError, match=r"another model than the one that was trained there: model\.safetensors"):
        train_into(folder, {"seed": 1}, arguments, train)
    record = json.loads((folder / SETTINGS_FILE).read_text())
    del record["files"]  # as the first versions left it
    (folder / SETTINGS_FILE).write_text(json.dumps(record))
    train_into(folder, {"seed": 1}, arguments, lambda args: pytest.fail("trained again"))


def test_what_a_model_was_made_of_is_compared_and_named(tmp_path, arguments, train, corpus, labels):
    """Danger: a corpus that changed under the same path; the old model is 'finished' and scored on the new one."""

    def made(data, names=labels, encoder=None):
        return provenance({"train": {"en": data}, "dev": {"en": corpus}}, names, encoder)

    folder = tmp_path / "student"
    train_into(folder, made(corpus), arguments, train)
    tags = [list(row) for row in corpus["tags"]]
    tags[3][0] = next(label for label in labels if label != tags[3][0])
    retagged = Dataset.from_dict({**corpus.to_dict(), "tags": tags}, features=corpus.features)
    for other, words in (
        (made(retagged), r"data\.train\.en: there '\w+-\w+', asked '\w+-\w+'"),
        (made(corpus.select(range(59))), r"data\.train\.en: "),
        (made(corpus, labels[::-1]), r"label_order: there \['O'"),
        (made(corpus, encoder="owner/name"), "encoder"),
    ):
        with pytest.raises(RecipeError, match=rf"already holds another run \({words}"):
            train_into(folder, other, arguments, train)
    record = json.loads((folder / SETTINGS_FILE).read_text())
    record["settings"].pop("data")
    (folder / SETTINGS_FILE).write_text(json.dumps(record))
    with pytest.raises(RecipeError, match="data was not recorded there by an earlier version"):
        train_into(folder, made(corpus), arguments, train)


OF_DISTILLATION = {
    **{"top_k": 3, "temperature": 2.0, "temperature_mode": "global", "objective_combination": "average"},
    **{"lambda_schedule": "linear_per_epoch", "lambda_start": 0.5, "lambda_end": 0.1, "lambda_rate": 0.01},
    "annotation_context": 1,
}


@pytest.mark.parametrize("field", OF_DISTILLATION)
def test_runs_that_distil_otherwise_share_teachers_and_baseline(tmp_path, field):
    """Danger: `teachers_dir`, "where later runs find them", is refused to a run with another lambda or top_k."""
    schedule = {"lambda_schedule": "linear_per_epoch"} if field == "lambda_rate" else {}
    softened = {"temperature": 2.0} if field == "temperature_mode" else {}
    fields = {"output_dir": str(tmp_path), "objective": "posterior", "report_to": "none", "use_cpu": True}
    one = StructKDTrainingArguments(**fields, **schedule, **softened)
    other = StructKDTrainingArguments(**fields, **schedule, **softened, **{field: OF_DISTILLATION[field]})
    teachers = [replace_output(args, tmp_path / "teacher", objective="none") for args in (one, other)]
    assert differences(*map(settings_of, teachers)) == ""
    assert field in differences(*map(settings_of, (one, other)))
    faster = replace_output(one, tmp_path / "teacher", objective="none", learning_rate=1.0)
    assert "learning_rate" in differences(settings_of(teachers[0]), settings_of(faster))


def test_progress_is_told_in_lines_where_there_is_no_bar(tmp_path, arguments, train, capsys, monkeypatch):
    """Danger: a training that takes hours looks like one that hangs."""
    from hf_structkd.recipes import progress as progress
    from hf_structkd.recipes.folder import train_tagger

    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    arguments.max_steps, arguments.gradient_accumulation_steps = 3, 2

    def fit(args):
        model, data, tokenizer = train(args, only_make=True)
        return train_tagger(model, tokenizer, data, {"en": data.select(range(2))}, args, title="Teacher for xx")

    train_into(tmp_path / "student", {}, arguments, fit, "Teacher for xx")
    printed = capsys.readouterr().out
    assert "== Teacher for xx: 60 sentences, 4 updates per epoch\n" in printed  # 8 batches of 8, two an update
    assert "  1 of 3 updates, about " in printed
    train_into(tmp_path / "student", {}, arguments, fit, "Teacher for xx")
    assert f"== Teacher for xx: finished before, in {tmp_path / 'student'}\n" in capsys.readouterr().out


def test_what_is_written_before_any_work_is_no_work(tmp_path):
    """Danger: a run that failed while it was set up blocks the folder for the corrected one."""
    teacher = tmp_path / "run" / "teachers" / "en.training"
    teacher.mkdir(parents=True)
    (tmp_path / "run" / "settings.json").write_text("{}")
    (teacher / "_settings.json").write_text("{}")
    with exclusive_lock(teacher, RecipeError, "training"):
        assert holds_work(tmp_path / "run"), "another process is at it"
    assert not holds_work(tmp_path / "run")
    (teacher / "checkpoint-1").mkdir()
    (teacher / "checkpoint-1" / "model.safetensors").touch()
    assert holds_work(tmp_path / "run")


def test_settings_of_a_training_that_saved_nothing_are_forgotten(tmp_path, arguments, train):
    def fails(args):
        raise ValueError("too small")

    with pytest.raises(ValueError, match="too small"):
        train_into(tmp_path / "model", {"vocab_size": 5}, arguments, fails)
    train_into(tmp_path / "model", {"vocab_size": 300}, arguments, train)
    assert (tmp_path / "model" / "settings.json").exists()


# Dangers: a recipe's teachers that are mixed up, left out, weighted or calibrated otherwise than it says.


ROOT = Path(__file__).parents[2]
SEVERAL = """
teachers:
  en:
    - one/model
    - {checkpoint: other/model, weight: 2, temperature: auto, revision: v1, label_map: {PERSON: PER, O: [O, MISC]}}
  de: {checkpoint: third/model, temperature: 1.5, trust_remote_code: true}
"""


def read(*argv: str) -> TeacherArguments:
    (arguments,) = parse_recipe((TeacherArguments,), list(argv))
    return arguments


def test_teachers_are_read_alike_from_yaml_and_from_the_command_line(tmp_path):
    (tmp_path / "recipe.yaml").write_text(SEVERAL)
    found = read(str(tmp_path / "recipe.yaml"))
    assert found.sources("en") == [
        TeacherSource("one/model"),
        TeacherSource("other/model", 2.0, "auto", label_map={"PERSON": "PER", "O": ["O", "MISC"]}, revision="v1"),
    ]
    assert found.sources("de") == [TeacherSource("third/model", temperature=1.5, trust_remote_code=True)]
    assert found.sources("nl") == []
    assert read("--teachers", json.dumps(yaml.safe_load(SEVERAL)["teachers"])).teachers == found.teachers
    assert read("--teachers", "one/model").sources("nl") == [TeacherSource("one/model")]
    both = read("--teachers", '["one/model", {"checkpoint": "b", "weight": 3}]')
    assert both.sources("xx") == [TeacherSource("one/model"), TeacherSource("b", 3.0)]
    assert read("--teacher_temperature", "auto").teacher_temperature == "auto"
    assert read("--teacher_temperature", "1.5").teacher_temperature == 1.5


@pytest.mark.parametrize(
    ("teachers", "message"),
    [
        (
            {"en": {"checkpoint": "a", "wght": 2}},
            r"en: unknown 'wght' \(did you mean 'weight'\?\); there are checkpoint, weight",
        ),
        ({"en": {"weight": 2}}, "en: 'checkpoint' is missing"),
        ({"en": ["a", {"checkpoint": "b", "weight": 0}]}, r"en\[1\]: a teacher's weight must be above 0, not 0"),
        ({"en": {"checkpoint": "a", "temperature": -1}}, "en: a teacher's temperature must be above 0, or auto"),
        ({"en": {"checkpoint": "a", "temperature": "hot"}}, "en.temperature is 'hot'"),
        ({"en": 5}, "en is 5"),
    ],
)
def test_a_wrong_teacher_is_refused_by_name(teachers, message):
    with pytest.raises(RecipeError, match=message):
        read("--teachers", json.dumps(teachers))


def test_text_and_tables_without_tags_are_corpora_to_learn_from_teachers_alone(tmp_path):
    (tmp_path / "en.txt").write_text("Anna sang .\n\nIt  rains .\r\nlast one\n")
    (tmp_path / "ru.jsonl").write_text('{"tokens": ["a", "b"]}\n{"tokens": ["c"]}\n')
    (tmp_path / "nl.conll").write_text("Jan\tB-PER\nzingt\tO\n")
    sources = {name: str(next(tmp_path.glob(f"{name}.*"))) for name in ("en", "ru", "nl")}
    found = load_unlabelled(
        DataArguments("demo", unlabelled_corpus=sources, unlabelled_sentences=2), ["en", "ru", "nl", "de"]
    )
    assert {language: list(data["tokens"]) for language, data in found.items()} == {
        "en": [["Anna", "sang", "."], ["It", "rains", "."]],
        "ru": [["a", "b"], ["c"]],
        "nl": [["Jan", "zingt"]],
    }
    assert set(found["en"]["language"]) == {"en"}
    (tmp_path / "de.txt").write_text("Jan\tB-PER\n")
    template = DataArguments("demo", unlabelled_corpus=f"{tmp_path}/{{language}}.txt")
    with pytest.raises(CorpusError, match=r"de\.txt:1: a tab; .*another ending"):
        load_unlabelled(template, ["de"])
    with pytest.raises(CorpusError, match=r"xx\.txt: no such file"):
        load_unlabelled(template, ["xx"])
    with pytest.raises(RecipeError, match="names ru, nl, but no such language"):
        load_unlabelled(DataArguments("demo", unlabelled_corpus=sources), ["en"])
    with pytest.raises(RecipeError, match="the same sentences"):
        load_unlabelled(DataArguments("demo", unlabelled_corpus="a.txt"), ["en", "de"])


@pytest.fixture
def bioes_corpora(tmp_path) -> Path:
    """Corpora in BIO, plain text, and two teachers of plain transformers: BIOES labels, unlike tokenizers."""
    for split, count in {"train": 24, "dev": 12, "test": 8}.items():
        rows = load_demo_corpus("en", split, num_sentences=count)
        lines = ["".join(f"{w}\t{t}\n" for w, t in zip(row["tokens"], row["tags"])) for row in rows]
        (tmp_path / f"en.{split}.conll").write_text("\n".join(lines), encoding="utf-8")
    text = load_demo_corpus("en", "train", num_sentences=60)["tokens"][40:]
    (tmp_path / "en.txt").write_text("\n".join(" ".join(words) for words in text), encoding="utf-8")
    corpora = load_corpora(f"{tmp_path}/{{language}}.{{split}}.conll", ["en"])
    types = sorted({label.split("-")[1] for label in label_inventory(corpora) if label != "O"})
    labels = TagScheme.from_entity_types(types, "BIOES").tags
    for number, pieces in enumerate((200, 120)):
        torch.manual_seed(number)
        tokenizer = train_tokenizer(corpora["en"]["train"]["tokens"], vocab_size=pieces)
        config = XLMRobertaConfig(
            vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=32, max_position_embeddings=130, pad_token_id=1, type_vocab_size=1,
            id2label=dict(enumerate(labels)), label2id={label: i for i, label in enumerate(labels)},
        )  # fmt: skip
        model = XLMRobertaForTokenClassification(config)
        torch.nn.init.normal_(model.classifier.weight)
        model.save_pretrained(tmp_path / f"teacher{number}")
        tokenizer.save_pretrained(tmp_path / f"teacher{number}")
    return tmp_path


@pytest.mark.slow
def test_a_student_learns_from_two_bioes_teachers_and_from_text(bioes_corpora, run_script):
    """Two softmax teachers, BIOES, unlike tokenizers, weighted, one calibrated; a BIO student; text at a rate."""
    fields = {
        **{"corpus": f"{bioes_corpora}/{{language}}.{{split}}.conll", "languages": ["en"], "baseline": False},
        **{"unlabelled_corpus": f"{bioes_corpora}/{{language}}.txt", "unlabelled_rate": 0.5, "vocab_size": 250},
        "teachers": {
            "en": [
                {"checkpoint": f"{bioes_corpora}/teacher0", "weight": 3, "temperature": "auto"},
                f"{bioes_corpora}/teacher1",
            ]
        },
        "model": "scratch",
        "model_config": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32},
        **{"objective": "structural+top_wk", "top_k": 3, "num_train_epochs": 1, "per_device_train_batch_size": 4},
        **{"report_to": "none", "use_cpu": True, "disable_tqdm": True, "save_strategy": "no"},
        "output_dir": f"{bioes_corpora}/out",
    }
    (bioes_corpora / "recipe.yaml").write_text(yaml.safe_dump(fields))
    printed = run_script("run_distill.py", bioes_corpora / "recipe.yaml")
    assert "24 train, 12 dev, 8 test, 20 unlabelled" in printed
    summary = json.loads((bioes_corpora / "out" / "annotations" / "summary.json").read_text())["en"]
    first, second = summary["teachers"]
    assert (first["weight"], second["weight"], second["temperature"]) == (0.75, 0.25, 1.0)
    assert first["temperature"] > 1.0  # random weights are overconfident
    assert f"temperature {first['temperature']:g}, from 12 dev sentences" in printed
    assert summary["sentences"] == 44
    assert summary["unproven"] is not None
    state = json.loads((bioes_corpora / "out" / "student" / "trainer_state.json").read_text())
    # One pass over 24 sentences with gold and as many draws of the 20 without, in batches of 4.
    assert state["max_steps"] == 48 // 4
    assert not list((bioes_corpora / "out").rglob("*.training"))
