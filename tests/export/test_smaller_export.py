"""Dangers: an exported model with fewer pieces that tags otherwise; int8 whose price nobody says; a text that has no
effect, or that would cost a language."""

import re

import pytest

pytest.importorskip("onnxscript", reason="needs the onnx extra: onnx, onnxruntime, onnxscript")
pytest.importorskip("onnxruntime", reason="needs the onnx extra: onnx, onnxruntime, onnxscript")

from hf_structkd import Teacher
from hf_structkd.export.onnx import OnnxTagger, compare_tags
from tests.conftest import draw_student


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
