"""Dangers: an exported graph that is right only for the shapes it was traced with, or tags differently; int8 that
costs the scores; an export killed halfway that still runs, with a new graph and old labels; an example of
docs/pipeline.md that does not run."""

import os
import random
import re
import shutil
from pathlib import Path

import pytest

from hf_structkd import StructKDTrainer, StructKDTrainingArguments, TaggingMetrics, Teacher, load_corpus
from hf_structkd.export.exported_files import ExportError, read_settings, write_export
from hf_structkd.export.onnx import MODEL_FILE, OnnxTagger, compare_tags, export_onnx, quantize_onnx
from hf_structkd.modeling.glued_words import GluedWords
from hf_structkd.modeling.words import split_words
from tests.conftest import draw_student
from tests.modeling.conftest import Family, wordpiece
from tests.pages import programs, run_program

pytest.importorskip("onnxscript", reason="needs the onnx extra: onnx, onnxruntime, onnxscript")
pytest.importorskip("onnxruntime", reason="needs the onnx extra: onnx, onnxruntime, onnxscript")


SHARED = Path(__file__).parents[3] / "shared" / "data" / "ner" / "wikiann"


@pytest.fixture(scope="module")
def teacher(corpus, tokenizer, labels, tmp_path_factory) -> Teacher:
    """A small tagger, trained until it knows its corpus: weights that have a shape, not those drawn at random."""
    size = {"hidden_size": 64, "intermediate_size": 256, "max_position_embeddings": 258}
    options = {
        "objective": "none", "learning_rate": 1e-2, "crf_learning_rate": 5e-2, "num_train_epochs": 25,
        "per_device_train_batch_size": 15,
        "report_to": "none", "save_strategy": "no", "disable_tqdm": True, "use_cpu": True,
    }  # fmt: skip
    args = StructKDTrainingArguments(str(tmp_path_factory.mktemp("training")), **options)
    trainer = StructKDTrainer(draw_student(tokenizer, labels, **size), args, None, corpus, None, tokenizer)
    trainer.train()
    return Teacher(trainer.model, tokenizer)


@pytest.fixture(scope="module")
def exported(teacher, tmp_path_factory) -> dict[str, OnnxTagger]:
    """Written as the page shows it."""
    (program,) = [each for each in programs("docs/pipeline.md") if "export_onnx" in each.text]
    folder = tmp_path_factory.mktemp("exported")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_program(program, {"model": teacher.model, "tokenizer": teacher.tokenizer})
    return {
        name: OnnxTagger(folder / place, threads=1)
        for name, place in {"full": "exported", "int8": "exported-int8"}.items()
    }


def shuffled(sentences) -> list[list[str]]:
    """Ragged, from one word to a long sentence, in no order."""
    some = [words[:length] for words, length in zip(sentences, [1, 2, 3, 30, 30, 5, 1, 30, 7, 30] * 4)]
    random.Random(0).shuffle(some)
    return some


def folder_of(tagger: OnnxTagger) -> Path:
    return Path(tagger.tokenizer.name_or_path)


@pytest.mark.slow
def test_the_graph_tags_like_the_model_whatever_the_batch(teacher, exported, corpus):
    sentences = shuffled(corpus["tokens"])
    expected = teacher.tag(sentences)
    assert len({tag for tags in expected for tag in tags}) == len(teacher.labels)  # it has learnt to use them all
    for batch_size in (1, 7, 40):
        assert exported["full"].tag(sentences, batch_size=batch_size) == expected
    assert exported["full"].tag([]) == []


@pytest.mark.slow
def test_int8_is_smaller_and_costs_little(teacher, exported, corpus):
    sizes = {
        name: sum(f.stat().st_size for f in folder_of(tagger).glob("*.onnx*")) for name, tagger in exported.items()
    }
    assert sizes["int8"] < 0.7 * sizes["full"]
    words, gold = list(corpus["tokens"]), list(corpus["tags"])
    score = {
        name: TaggingMetrics(teacher.labels).report(tagger.tag(words), gold)["f1"] for name, tagger in exported.items()
    }
    assert score["full"] > 0.9
    assert score["int8"] > score["full"] - 0.1


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.exists(), reason="needs real sentences: ../shared/data/ner/wikiann")
def test_real_sentences_are_tagged_alike(teacher, exported):
    """Four languages, as they come: words of many pieces, marks, numbers, from one word to sixty."""
    sentences: list[list[str]] = []
    for language in ("en", "de", "es", "nl"):
        path = SHARED / language / "test.conll.gz"
        sentences += [words[:60] for words in load_corpus(path, language=language, max_sentences=100)["tokens"]]
    assert exported["full"].tag(sentences) == teacher.tag(sentences)
    tags = exported["int8"].tag(sentences)
    assert [len(path) for path in tags] == [len(words) for words in sentences]
    words = [pair for a, b in zip(tags, teacher.tag(sentences)) for pair in zip(a, b)]
    assert sum(one == other for one, other in words) > 0.9 * len(words)


@pytest.mark.slow
def test_another_family_with_mean_pooling_and_no_constraints(corpus, labels, tmp_path):
    family = Family("bert", wordpiece(list(corpus["tokens"])), labels)
    model = family.student(max_position_embeddings=200, word_pooling="mean", crf_constraints="none")
    export_onnx(model, family.tokenizer, tmp_path)
    sentences = shuffled(corpus["tokens"])
    tagger, expected = OnnxTagger(tmp_path, threads=1), Teacher(model, family.tokenizer).tag(sentences)
    for batch_size in (1, 40):
        assert tagger.tag(sentences, batch_size=batch_size) == expected


@pytest.mark.slow
def test_what_cannot_be_exported_or_run_is_said(exported, make_student, tokenizer, tmp_path):
    with pytest.raises(ValueError, match="BiLSTM between encoder and CRF cannot be exported"):
        export_onnx(make_student(lstm_hidden_size=8), tokenizer, tmp_path / "lstm")
    assert not (tmp_path / "lstm").exists()
    with pytest.raises(ValueError, match=r"sentence 1 has .* subwords; an exported model takes 256 at once"):
        exported["full"].tag([["a"], ["Paris"] * 300])
    with pytest.raises(ValueError, match="sentence 0 has no words"):
        exported["full"].tag([[]])
    with pytest.raises(TypeError, match=r"sentence 1 is no list of words, but str: 'Nadia sailed'"):
        exported["full"].tag([["Nadia"], "Nadia sailed"])
    with pytest.raises(TypeError, match=r"give a list of sentences, each a list of words, not a text"):
        exported["full"].tag("Nadia sailed")
    with pytest.raises(TypeError, match=r"sentence 0, word 1 is no string, but NoneType"):
        exported["full"].tag([["Nadia", None]])
    for batch_size in (0, -1):  # the latter gave no tags, and no word of it
        with pytest.raises(ValueError, match="batch_size must be at least 1"):
            exported["full"].tag([["Nadia"]], batch_size=batch_size)


@pytest.fixture(scope="module")
def other(exported, tmp_path_factory) -> Path:
    """An export of a model with other labels."""
    folder, source = tmp_path_factory.mktemp("other"), folder_of(exported["full"])
    settings = read_settings(source)
    files = settings.pop("files")
    with write_export(folder, {**settings, "labels": [f"{label}2" for label in settings["labels"]]}) as work:
        for name in files:
            shutil.copyfile(source / name, work / name)
    return folder


class Killed(BaseException):
    """What ends a process stands for a kill; nothing may be cleaned up after it."""


@pytest.mark.slow
def test_an_export_that_is_killed_leaves_the_old_model_or_the_new_one_or_a_refusal(
    exported, other, corpus, tmp_path, monkeypatch
):
    from onnxruntime import quantization

    sentences = list(corpus["tokens"][:5])
    new = tmp_path / "new"
    quantize_onnx(other, new)
    old_tags, new_tags = exported["full"].tag(sentences), OnnxTagger(new, threads=1).tag(sentences)
    assert old_tags != new_tags

    def half_written(source, target, **_):
        Path(target).write_bytes(b"")
        raise Killed

    def dies_at(moment):
        done = []

        def replace(*args):
            done.append(args)
            if len(done) > moment:
                raise Killed
            return real(*args)

        real = os.replace
        return replace

    seen = []
    moments = [("graph", half_written), *((number, dies_at(number)) for number in range(20))]
    for moment, death in moments:
        folder = tmp_path / f"killed {moment}"
        shutil.copytree(folder_of(exported["full"]), folder)
        (folder / "notes.txt").write_text("the user's")
        with monkeypatch.context() as patch:
            where = (quantization, "quantize_dynamic") if moment == "graph" else (os, "replace")
            patch.setattr(*where, death)
            patch.setattr(shutil, "rmtree", lambda *_, **__: None)
            try:
                quantize_onnx(other, folder)
            except Killed:
                finished = False
            else:
                finished = True
        try:
            tags = OnnxTagger(folder, threads=1).tag(sentences)
            seen.append({str(old_tags): "old", str(new_tags): "new"}[str(tags)])
        except ExportError as error:
            seen.append("refused" if "holds no finished export" in str(error) else str(error))
        quantize_onnx(other, folder)  # whatever was left
        assert OnnxTagger(folder, threads=1).tag(sentences) == new_tags
        assert (folder / "notes.txt").read_text() == "the user's"
        assert {path.name for path in folder.iterdir()} >= {path.name for path in new.iterdir()}
        assert not [path for path in folder.iterdir() if path.name.startswith("_")]
        if finished:
            break
    # Files inside the work folder are renamed too: a kill there leaves the old model as well.
    assert seen == sorted(seen, key=["old", "refused", "new"].index)
    assert (seen[0], seen[-1]) == ("old", "new")
    assert seen.count("refused") > 2


@pytest.mark.slow
def test_a_damaged_or_mixed_export_is_refused_by_file(exported, tmp_path):
    whole = folder_of(exported["full"])
    graph = (whole / MODEL_FILE).read_bytes()
    damages = {
        "cut short": (MODEL_FILE, graph[: len(graph) // 2]),
        "empty": (MODEL_FILE, b""),
        "of another model": (MODEL_FILE, (folder_of(exported["int8"]) / MODEL_FILE).read_bytes()),
        "settings": ("tagger.json", b"{}"),
        "labels": ("tagger.json", (whole / "tagger.json").read_bytes().replace(b'"O"', b'"X"')),
    }
    for name, (file, content) in damages.items():
        shutil.copytree(whole, tmp_path / name)
        (tmp_path / name / file).write_bytes(content)
        with pytest.raises(ExportError, match=re.escape(str(tmp_path / name / file))):
            OnnxTagger(tmp_path / name)
        with pytest.raises(ExportError, match="export the model again"):
            quantize_onnx(tmp_path / name, tmp_path / f"{name} int8")
        assert not (tmp_path / f"{name} int8").exists()
    with pytest.raises(ExportError, match="holds no finished export"):
        OnnxTagger(tmp_path / "nothing")


@pytest.mark.slow
def test_raw_text_is_cut_as_the_model_knows_words(exported, teacher):
    """Danger: an exported model meets other words than its pipeline finds."""
    text = "Anna-Lena isn't in\nParis."
    assert exported["full"].split(text) == split_words(text)
    folder = folder_of(exported["full"])
    settings = read_settings(folder)
    files = settings.pop("files")
    assert settings["words"] == teacher.model.config.words
    with write_export(folder.parent / "characters", {**settings, "words": "characters"}) as work:
        for name in files:
            shutil.copyfile(folder / name, work / name)
    assert OnnxTagger(folder.parent / "characters", threads=1).split("a b")[1] == (2, 3)


@pytest.mark.slow
def test_words_without_a_blank_before_them_are_read_as_the_model_does(exported, teacher):
    """The graph is the same for both readings; what is stored beside it says which one the model knows."""
    folder = folder_of(exported["full"])
    settings = read_settings(folder)
    files = settings.pop("files")
    assert settings["glued_words"] is False
    with write_export(folder.parent / "glued", {**settings, "glued_words": True}) as work:
        for name in files:
            shutil.copyfile(folder / name, work / name)
    glued, plain = OnnxTagger(folder.parent / "glued", threads=1), exported["full"]
    text = "Anna,Boston(Lopez)said:Paris!"
    words = GluedWords.of_text(text, glued.split(text))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teacher.model.config, "glued_words", True)
        assert glued.tag([words]) == teacher.tag([words])
    assert plain.tag([words]) == plain.tag([list(words)]) == teacher.tag([words])


# Dangers: an exported model with fewer pieces that tags otherwise; int8 whose price nobody says; a text that has no
# effect, or that would cost a language.


@pytest.fixture(scope="module")
def checkpoint(tokenizer, labels, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    model = draw_student(tokenizer, labels, languages=["en", "ru"], max_position_embeddings=66)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def texts(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    by_language = {"en": [], "ru": []}
    for words, language in zip(corpus["tokens"], corpus["language"]):
        if len(words) < 12:
            by_language[language].append(" ".join(words))
    for language, lines in by_language.items():
        (folder / f"{language}.txt").write_text("\n".join(lines[:10]) + "\n", encoding="utf-8")
    return {language: folder / f"{language}.txt" for language in by_language}


@pytest.mark.slow
def test_a_trimmed_export_tags_as_the_checkpoint_and_int8_is_compared(run_script, checkpoint, texts, tmp_path):
    named = [f"{language}={file}" for language, file in texts.items()]
    folders = tmp_path / "small", tmp_path / "int8"
    arguments = [checkpoint, folders[0], "--int8", folders[1], "--trim_vocabulary", "--text", *named]
    said = run_script("structkd export", *arguments)
    kept, before = (int(number) for number in re.search(r"(\d+) of (\d+) pieces kept", said).groups())
    assert kept < before
    assert re.search(r"en 0.00 % of \d+ words; ru 0.00 % of", said)
    sentences = [line.split() for line in texts["en"].read_text(encoding="utf-8").splitlines()]
    small = OnnxTagger(folders[0], threads=1)
    assert len(small.tokenizer) == kept
    assert small.tag(sentences) == Teacher.from_pretrained(str(checkpoint)).tag(sentences)
    read = [line.split() for file in texts.values() for line in file.read_text(encoding="utf-8").splitlines()]
    agreement = compare_tags(small, OnnxTagger(folders[1], threads=1), read)
    share = float(re.search(r"int8 on the text: ([\d.]+) % of", said)[1])
    assert share == pytest.approx(100 * agreement.same_words / agreement.words, abs=5)
    with pytest.raises(ValueError, match="no sentences"):
        compare_tags(small, small, [["long"] * 100])
    assert compare_tags(small, small, [["long"] * 100, ["a"]]).too_long == 1


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--trim_vocabulary"], "give --text"),
        (["--text", "some.txt"], "no effect without"),
    ],
)
def test_options_without_effect_are_refused(refusal, capsys, checkpoint, tmp_path, arguments, error):
    assert error in refusal("structkd export", checkpoint, tmp_path / "new", *arguments)
    assert not (tmp_path / "new").exists()


def test_a_language_that_would_be_lost_is_named(refusal, checkpoint, texts, tmp_path):
    arguments = ["--trim_vocabulary", "--text", f"en={texts['en']}"]
    assert "no sentences of ru" in refusal("structkd export", checkpoint, tmp_path / "new", *arguments)
    mixed = ["--trim_vocabulary", "--text", f"en={texts['en']}", texts["ru"]]
    assert "name the language of every file" in refusal("structkd export", checkpoint, tmp_path / "new", *mixed)
    assert not (tmp_path / "new").exists()
