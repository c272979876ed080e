"""Danger: a text that makes the pipeline crash, hang, lose words or say where nothing is."""

import json
import random
import shutil
from pathlib import Path
from tempfile import mkdtemp
from time import perf_counter

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from hf_structkd import AnnotationError, CRFTokenClassificationPipeline, annotate
from hf_structkd.data.columns import MARGINALS, TOPK_TAGS
from hf_structkd.files import sealed
from hf_structkd.modeling.words import split_words, tokenize_words
from hf_structkd.teachers.answer_store import ANSWERS_FILE, RECORD_FILE, SUMMARY_FILE, PartialAnswers
from hf_structkd.teachers.function import CallableTeacher
from tests.conftest import draw_student
from tests.fuzz.fuzzing import AWKWARD, TEXT, fuzz, only_our_errors

WORDS = st.lists(st.one_of(TEXT, st.sampled_from(AWKWARD), st.sampled_from(["a" * 300, "\u0301" * 200, "क्षि" * 60])),
                 max_size=8)  # fmt: skip
TEXTS = st.one_of(TEXT, WORDS.map(" ".join), WORDS.map("".join))
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "top_k": st.integers(1, 4),
        "marginals": st.booleans(),
        "entropy": st.booleans(),
        "threshold": st.floats(0, 1),
    },
)


@pytest.fixture(scope="module")
def pipe(tokenizer, labels):
    return CRFTokenClassificationPipeline(model=draw_student(tokenizer, labels), tokenizer=tokenizer)


def check_place(part, text):
    assert 0 <= part["start"] <= part["end"] <= len(text)
    assert text[part["start"] : part["end"]] == part["word"]


def check(answer, text, words, labels, options):
    """Probabilities are probabilities, places are places, and every word is accounted for."""
    analyses = [answer["entities"], *(analysis["entities"] for analysis in answer.get("top_k", []))]
    for entities in analyses:
        last = 0
        for entity in entities:
            check_place(entity, text)
            assert last <= entity["start_word"] < entity["end_word"] <= words
            assert options.get("threshold", 0) <= entity["score"] <= 1 + 1e-6
            last = entity["end_word"]
    scores = [analysis["score"] for analysis in answer.get("top_k", [])]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 + 1e-6 for score in scores)
    assert sum(scores) <= 1 + 1e-5
    if options.get("marginals"):
        assert len(answer["marginals"]) == words
        for word in answer["marginals"]:
            check_place(word, text)
            assert list(word["scores"]) == labels
            assert all(0 <= p <= 1 + 1e-6 for p in word["scores"].values())
            assert abs(sum(word["scores"].values()) - 1) < 1e-4
    if options.get("entropy"):
        assert answer["entropy"] >= 0


@fuzz(0.25)
@given(st.lists(TEXTS, min_size=1, max_size=3), OPTIONS)
def test_texts(pipe, labels, texts, options):
    for text, answer in zip(texts, pipe(texts, **options), strict=True):
        check(answer, text, len(split_words(text)), labels, options)


@fuzz(0.25)
@given(st.lists(WORDS, min_size=1, max_size=3), OPTIONS)
def test_sentences_of_words(pipe, labels, sentences, options):
    answers = pipe(sentences, is_split_into_words=True, **options)
    for words, answer in zip(sentences, answers, strict=True):
        check(answer, " ".join(words), len(words), labels, options)


@fuzz(0.1)
@given(st.recursive(st.one_of(st.none(), st.integers(), st.floats(), st.binary(max_size=3), TEXT),
                    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=2)),
                    max_leaves=4), st.one_of(st.none(), st.booleans()))  # fmt: skip
def test_inputs_of_any_type(pipe, inputs, split):
    with only_our_errors(kinds=(TypeError, ValueError)):
        list(pipe(inputs, is_split_into_words=split))


@fuzz()
@given(TEXTS)
def test_splitting(text):
    """Words follow one another, are not empty, and leave out nothing that can be seen."""
    position, rest = 0, []
    for start, end in split_words(text):
        assert position <= start < end <= len(text)
        rest.append(text[position:start])
        position = end
    rest.append(text[position:])
    assert not any(character.isalnum() for character in "".join(rest))


@fuzz()
@given(st.lists(WORDS, min_size=1, max_size=3))
def test_words_keep_their_places(tokenizer, sentences):
    with only_our_errors():
        encoded = tokenize_words(sentences, tokenizer)
        for words, mask in zip(sentences, encoded["word_mask"], strict=True):
            assert sum(mask) == len(words)
            assert (mask[0], mask[-1]) == (0, 0)


KINDS = {
    "zero-width": "a\u200bb",
    "only-zero-width": "\u200b",
    "combining": "e\u0301\u0301\u0301",
    "lone-combining": "\u0301 \u0301",
    "emoji": "👩\u200d👩\u200d👧 🇩🇪 ☺\ufe0f",
    "right-to-left": "שלום \u0645\u0631\u062d\u0628\u0627 \u202eabc",
    "control": "a\0b\x1b[0m",
    "surrogates": "\ud800 a \udc00",
    "long": "a" * 20_000,
    "long-combining": "\u0301" * 5_000,
    "long-han": "日" * 3_000,
    "blanks": " " * 10_000,
    "bom": "\ufeffAnna",
    "crlf": "a\r\nb\rc",
    "empty": "",
}


@pytest.mark.parametrize("text", KINDS.values(), ids=KINDS)
def test_named_kinds_of_text(pipe, labels, text):
    everything = {"top_k": 2, "marginals": True, "entropy": True}
    check(pipe(text, **everything), text, len(split_words(text)), labels, everything)
    words = text.split(" ")
    check(pipe(words, is_split_into_words=True, **everything), text, len(words), labels, everything)


def test_splitting_takes_time_in_proportion():
    """A regular expression that backtracks would take minutes where it takes milliseconds."""
    generator = random.Random(0)
    for unit in ("a'", "1.", "n't", "l'a", "a-", "U.", "'s", "e\u0301", "!?", "\u200d", "क्"):
        text = unit * 20_000
        started = perf_counter()
        split_words(text[: len(text) - generator.randrange(3)])
        assert perf_counter() - started < 10, unit


# Danger: kept answers that are damaged, or somebody else's, and are believed or end in a traceback of Arrow's.


LABELS = ["O", "B-X", "I-X"]
FOLDER = Path(mkdtemp())


def corpus(sentences: int) -> Dataset:
    return Dataset.from_dict({"tokens": [[f"w{row}-{i}" for i in range(1 + row % 4)] for row in range(sentences)]})


def ask(folder: Path, sentences: int = 12) -> Dataset:
    def answer(asked):
        return [np.full((len(words), 3), 1 / 3) for words in asked]

    teacher = CallableTeacher(answer, LABELS, name="even", revision="1")
    targets, quiet = [MARGINALS, TOPK_TAGS], {"progress": False, "shard_size": 5}
    return annotate(corpus(sentences), teacher, label_names=LABELS, targets=targets, output_dir=folder, **quiet)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished folder, one that was left half-way, and the answers."""
    done, left = tmp_path_factory.mktemp("whole") / "done", tmp_path_factory.mktemp("whole") / "left"
    answers = ask(done)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PartialAnswers, "finish", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            ask(left)
    shutil.copytree(left.with_name("left.partial"), done.with_name("left.partial"))
    return done, done.with_name("left.partial"), answers[:]


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=4)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=5,
)


def damage(draw, file: Path, resealed: bool) -> bool:
    """Change a file, and tell whether it is another one now. Resealed, its own checksum is right again."""
    before = data = file.read_bytes()
    if resealed and file.suffix == ".json":
        content = json.loads(data)
        name = draw(st.sampled_from([*content, "files", "sha256"]))
        content[name] = draw(JSON)
        content.pop("seal", None)
        file.write_text(json.dumps(sealed(content)))
        return True
    at = draw(st.integers(0, max(len(data) - 1, 0)))
    kind = draw(st.sampled_from(["flip", "cut", "put", "empty", "garbage"] if data else ["put", "garbage"]))
    if kind == "flip":
        data = data[:at] + bytes([data[at] ^ (1 << draw(st.integers(0, 7)))]) + data[at + 1 :]
    elif kind == "cut":
        data = data[:at]
    elif kind == "put":
        data = data[:at] + draw(st.binary(max_size=8)) + data[at:]
    else:
        data = b"" if kind == "empty" else draw(st.binary(max_size=50))
    file.write_bytes(data)
    return data != before


@fuzz(0.05)
@given(st.data(), st.booleans(), st.integers(1, 2))
@pytest.mark.slow
def test_finished_answers(whole, data, resealed, times):
    """What is damaged is refused by name; what is read is what was written."""
    done, _, answers = whole
    folder = FOLDER / "done"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(done, folder)
    for _ in range(times):
        damage(data.draw, folder / data.draw(st.sampled_from([ANSWERS_FILE, SUMMARY_FILE, RECORD_FILE])), resealed)
    with only_our_errors(folder):
        assert ask(folder)[:] == answers


@fuzz(0.05)
@given(st.data(), st.booleans())
@pytest.mark.slow
def test_answers_left_half_way(whole, data, resealed):
    """A damaged shard is asked again, a damaged question is refused by name, and the end is the same."""
    _, left, answers = whole
    folder, work = FOLDER / "left", FOLDER / "left.partial"
    for path in (folder, work):
        shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(left, work)
    damage(data.draw, work / data.draw(st.sampled_from(sorted(path.name for path in work.glob("[!_]*")))), resealed)
    with only_our_errors(work):
        assert ask(folder)[:] == answers


@pytest.mark.parametrize(("field", "value"), [("language", ""), ("language", None), ("sums", None), ("sums", {})])
def test_a_note_whose_seal_is_right_and_content_is_not(whole, field, value):
    _, left, answers = whole
    folder, work = FOLDER / "left", FOLDER / "left.partial"
    for path in (folder, work):
        shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(left, work)
    note = work / "shard-00000.json"
    content = {**json.loads(note.read_bytes()), field: value}
    content.pop("seal")
    note.write_text(json.dumps(sealed(content)))
    assert ask(folder)[:] == answers


def test_answers_to_somebody_elses_corpus(whole, tmp_path):
    """Answers in a folder whose record was copied from another one."""
    folder = tmp_path / "foreign"
    ask(folder, 7)
    shutil.copy(whole[0] / RECORD_FILE, folder)
    with pytest.raises(AnnotationError, match=f"{ANSWERS_FILE} is damaged"):
        ask(folder)


@pytest.mark.parametrize("name", ["../../outside", "/dev/zero", "nested/../../x"])
def test_a_record_cannot_send_the_reader_elsewhere(whole, tmp_path, name):
    """A record that names /dev/zero would have its checksum computed for ever."""
    folder = tmp_path / "hostile"
    shutil.copytree(whole[0], folder)
    record = json.loads((folder / RECORD_FILE).read_text())
    record.pop("seal")
    record["files"][name] = {"sha256": "x", "bytes": 1}
    (folder / RECORD_FILE).write_text(json.dumps(sealed(record)))
    with pytest.raises(AnnotationError, match=f"{RECORD_FILE} is damaged"):
        ask(folder)
