"""Dangers: an entity that moves, or is lost without a word, between a text with character offsets and its words."""

import bz2
import csv
import io
import json
import logging
import lzma
import re
import zipfile
from pathlib import Path
from typing import ClassVar

import datasets
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hf_structkd import cli
from hf_structkd.data.corpora import load_corpora, load_corpus
from hf_structkd.data.readers import CorpusError
from hf_structkd.data.source_text import setting
from hf_structkd.data.unlabelled import load_sentences
from hf_structkd.modeling.segmenters import get_segmenter

TEXT = "Olu Ade hums in Kano."
SPANS = [(0, 7, "P"), (16, 20, "L")]
RIGHT = ["Olu/B-P Ade/I-P hums/O in/O Kano/B-L ./O"]
PRODIGY_TOKENS = [
    {"text": TEXT[a:b], "start": a, "end": b, "id": i}
    for i, (a, b) in enumerate([(0, 3), (4, 7), (8, 12), (13, 15), (16, 20), (20, 21)])
]
VALUES = [{"start": a, "end": b, "text": TEXT[a:b], "labels": [k]} for a, b, k in SPANS]
RESULT = [{"type": "labels", "from_name": "ner", "to_name": "t", "value": value} for value in VALUES]
EXPORTS = {
    "doccano, label": {"id": 1, "text": TEXT, "label": [list(span) for span in SPANS]},
    "doccano, labels": {"text": TEXT, "labels": [list(span) for span in SPANS]},
    "doccano, entities": {
        "text": TEXT,
        "entities": [{"id": 4, "label": k, "start_offset": a, "end_offset": b} for a, b, k in SPANS],
        "relations": [],
    },
    "doccano, annotations": {
        "text": TEXT,
        "annotations": [{"label": k, "start_offset": a, "end_offset": b, "user": 1} for a, b, k in SPANS],
    },
    "Prodigy": {
        "text": TEXT,
        "tokens": PRODIGY_TOKENS,
        "spans": [{"start": a, "end": b, "label": k} for a, b, k in SPANS],
        "answer": "accept",
    },
    "Prodigy without tokens": {"text": TEXT, "spans": [{"start": a, "end": b, "label": k} for a, b, k in SPANS]},
    "Label Studio": {
        "id": 1,
        "data": {"text": TEXT},
        "annotations": [{"was_cancelled": True, "result": []}, {"was_cancelled": False, "result": RESULT}],
    },
    "Label Studio, JSON-MIN": {"id": 1, "text": TEXT, "label": VALUES, "annotator": 2},
    "GLiNER": {"tokenized_text": [t["text"] for t in PRODIGY_TOKENS], "ner": [[0, 1, "P"], [4, 4, "L"]]},
}


def show(dataset):
    return [
        " ".join(f"{word}/{tag}" for word, tag in zip(row["tokens"], row["tags"] or ["?"] * len(row["tokens"])))
        for row in dataset
    ]


@pytest.fixture
def read(tmp_path):
    """Writes rows as JSON lines and reads them: the sentences as `word/tag word/tag`, `?` where there are no tags."""

    def read(*rows, name="export.jsonl", **options):
        path = tmp_path / name
        path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
        return show(load_corpus(path, language="xx", **options))

    return read


@pytest.mark.parametrize("row", EXPORTS.values(), ids=list(EXPORTS))
def test_exports_of_every_tool_give_the_same_tags(read, tmp_path, row, caplog):
    with caplog.at_level(logging.INFO):
        assert read(row) == RIGHT
    assert "entities: 1 L, 1 P" in caplog.text
    (tmp_path / "list.json").write_text(json.dumps([row], indent=1))
    assert show(load_corpus(tmp_path / "list.json", language="xx")) == RIGHT
    if not any(isinstance(span, list) for value in row.values() if isinstance(value, list) for span in value):
        # (Arrow holds no lists of numbers and texts.)
        assert show(load_corpus(datasets.Dataset.from_list([row]), language="xx")) == RIGHT
    words = load_sentences(tmp_path / "export.jsonl", language="xx")
    assert words["tokens"] == [[part.split("/")[0] for part in RIGHT[0].split()]]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("form", [json.dumps, str])
def test_tables_with_texts_and_spans(tmp_path, separator, form):
    """Danger: the list in a cell is a word; a text with a line break ends its row."""
    content = io.StringIO()
    writer = csv.writer(content, delimiter=separator)
    writer.writerow(["Text", "spans"])
    writer.writerow([TEXT, form([list(span) for span in SPANS])])
    writer.writerow(["Olu\nhums", form([[0, 3, "P"]])])
    path = tmp_path / ("a.tsv" if separator == "\t" else "a.csv")
    path.write_text(content.getvalue())
    assert show(load_corpus(path, language="xx")) == [*RIGHT, "Olu/B-P hums/O"]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("line_break", ["\n", "\r\n"])
def test_line_breaks_inside_of_a_cell_count_as_they_stand(tmp_path, end, line_break):
    """Two characters became one, so that every span behind them moved by one: to other words where each is one."""
    text = f"木水{line_break}火土金木水"
    content = io.StringIO(newline="")
    writer = csv.writer(content, lineterminator=end)
    writer.writerow(["text", "spans"])
    start = text.index("火土")
    writer.writerow([text, json.dumps([[start, start + 2, "P"]])])
    path = tmp_path / "a.csv"
    path.write_bytes(content.getvalue().encode())
    assert show(load_corpus(path, language="xx")) == ["木/O 水/O 火/B-P 土/I-P 金/O 木/O 水/O"]


def test_two_columns_of_one_name(tmp_path):
    """The second one was read, here an empty list: every word was O."""
    path = tmp_path / "a.csv"
    path.write_text('text,spans,Spans\nOlu hums,"[[0,3,""P""]]",[]\n')
    with pytest.raises(CorpusError, match="several columns are called 'spans'"):
        load_corpus(path, language="xx")
    path.write_text("word,tag,tag\nOlu,B-P,O\n")
    with pytest.raises(CorpusError, match="several columns are called 'tag'"):
        load_corpus(path, language="xx", tokens_column="word", tags_column="tag")


def test_a_table_of_label_studio(tmp_path, caplog):
    """Its CSV has an empty cell for a task that nobody annotated: an error, though JSON's null was none."""
    rows = [["id", "text", "label"], [1, "Kano hums", ""], [2, TEXT, json.dumps(VALUES)], [3, "", ""]]
    path = tmp_path / "a.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    with caplog.at_level(logging.INFO):
        assert show(load_corpus(path, language="xx")) == ["Kano/? hums/?", *RIGHT]
    assert "a.csv: format label-studio (" in caplog.text
    assert "1 sentence(s) without tags" in caplog.text
    path.write_text("id,text,label\n1,Olu hums,P\n")
    with pytest.raises(CorpusError, match=r"no column 'tokens'; there are id, text, label.*The file begins 'id,text"):
        load_corpus(path, language="xx")


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("a.jsonl.bz2", bz2.compress),
        ("a.jsonl.xz", lzma.compress),
        ("a.jsonl", bz2.compress),
        ("A.JSONL", lambda data: data),
        ("a.jsonl.zip", lambda data: zip_of({"inside.jsonl": data})),
    ],
)
def test_packed_files(tmp_path, name, pack):
    path = tmp_path / name
    path.write_bytes(pack(json.dumps(EXPORTS["Prodigy"]).encode()))
    assert show(load_corpus(path, language="xx")) == RIGHT
    assert show(load_corpora({"xx": {"train": path}}, splits=["train"])["xx"]["train"]) == RIGHT


def zip_of(files):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (zip_of({"a": b"x", "b": b"y"}), r"a zip archive of 2 files \(a, b\)"),
        (zip_of({}), "a zip archive of 0 files"),
        (bz2.compress(b"a O\n" * 9)[:-9], "cannot be read"),
        (lzma.compress(b"a O\n" * 9)[:-9], "cannot be read"),
    ],
)
def test_damaged_archives(tmp_path, content, message):
    (tmp_path / "a.conll.zip").write_bytes(content)
    with pytest.raises(CorpusError, match=rf"a.conll.zip: {message}"):
        load_corpus(tmp_path / "a.conll.zip", language="xx")


def row_of(text, *spans):
    return {"text": text, "label": [list(span) for span in spans]}


@pytest.mark.parametrize(
    ("span", "problem"),
    [
        ((0, 2, "P"), r"the span P 'Ol' \[0, 2\] is cutting a word.*The words there are \['Olu'\].*words: characters"),
        ((1, 3, "P"), "is cutting a word"),
        ((3, 4, "P"), "is empty"),
        ((5, 5, "P"), "is empty"),
        ((0, 99, "P"), "is outside of its text"),
        ((-1, 3, "P"), "is outside of its text"),
        ((8, 3, "P"), "is reversed.*Its end comes before its start"),
    ],
)
def test_spans_that_no_words_fit(read, caplog, span, problem):
    with pytest.raises(CorpusError, match=f"export.jsonl:1: .*{problem}"):
        read(row_of(TEXT, span, (16, 20, "L")))
    assert read(row_of(TEXT, span, (16, 20, "L")), spans="drop") == ["Olu/O Ade/O hums/O in/O Kano/B-L ./O"]
    assert f"1 spans dropped, each {problem.split('is ')[1].split('.*')[0]}" in caplog.text
    assert "export.jsonl:1: P" in caplog.text


@pytest.mark.parametrize(
    ("start", "end", "meant"),
    [
        (0, 2, r"Is 'Olu' \[0, 3\] meant \(the end is one past the last character\)\?"),
        (16, 19, r"Is 'Kano' \[16, 20\] meant \(the end is one past the last character\)\?"),
        (20, 20, r"is empty. Is '.' \[20, 21\] meant"),
        (4, 6, r"Is 'Ade' \[4, 7\] meant"),
        (5, 8, r"Is 'Ade' \[4, 7\] meant \(the first character is 0\)\?"),
        (3, 9, None),
    ],
)
def test_an_end_that_misses_its_word_by_one_character_is_asked_about(read, start, end, meant):
    """Danger: a tool's inclusive ends are dropped as broken spans, one by one."""
    with pytest.raises(CorpusError) as caught:
        read(row_of(TEXT, (start, end, "P")))
    if meant is None:
        assert " meant" not in str(caught.value)
    else:
        assert re.search(meant, str(caught.value))
    assert "?," not in str(caught.value)


@pytest.mark.parametrize(
    ("row", "arguments", "wanted"),
    [
        (row_of(TEXT, (0, 2, "P")), (), "--words characters; or drop such spans: --spans drop."),
        (row_of(TEXT, (8, 3, "P")), (), "is reversed. Its end comes before its start: swap them; or drop"),
        (row_of(TEXT, (0, 99, "P")), (), "its text has 21 characters; or drop such spans: --spans drop."),
        (
            {"tokenized_text": ["a", "b"], "ner": [[1, 0, "P"]]},
            (),
            "is reversed (its last word comes before its first)",
        ),
        ({"tokenized_text": ["a"], "ner": [[0, 1, "P"]]}, (), "or drop such spans: --spans drop."),
        (row_of("\U0001f600 Olu hums", (6, 10, "V")), (), "characters or utf-16: --offset_unit."),
        ({"tokens": ["a"], "tags": [1]}, (), "say what it means with --labels."),
        ({"tokens": ["a"], "ner": ["B-P"], "pos": ["N"]}, (), "Choose with --tags_column."),
        ({"tokens": ["a"], "tags": ["I-P"]}, ("--orphans", "refuse"), "--orphans repair or --orphans accept."),
        ({"tokens": ["a"], "tags": ["B-P"], "x": 1}, ("--sentence_column", "x"), "--sentence_column says nothing"),
    ],
)
def test_the_command_names_its_own_options(tmp_path, row, arguments, wanted):
    """Danger: whoever typed a command is told to write Python or a recipe."""
    source, target = tmp_path / "export.jsonl", tmp_path / "new.conll"
    source.write_text(json.dumps(row) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(SystemExit) as stopped:
        cli.main(["convert", str(source), str(target), *arguments])
    message = str(stopped.value.code)
    assert wanted in message
    assert not re.search(r"recipe|\w='|\w=\W|\?,", message.replace(str(tmp_path), "")), message
    assert not target.exists()
    assert setting("spans", "drop") == "spans='drop' (in recipes spans: drop)", "the next reader is in Python again"


@pytest.mark.parametrize("second", [(0, 3, "Q"), (4, 12, "Q"), (0, 7, "P"), (0, 12, "Q")])
def test_overlapping_spans(read, caplog, second):
    with pytest.raises(CorpusError, match=r"is overlapping another span\. A tagger needs"):
        read(row_of(TEXT, (0, 7, "P"), second))
    dropped = read(row_of(TEXT, (0, 7, "P"), second), spans="drop")[0]
    assert dropped.count("/B-") == 1
    assert "1 spans dropped, each overlapping" in caplog.text


def test_blanks_at_the_ends_are_trimmed_and_counted(read, caplog):
    with caplog.at_level(logging.INFO):
        assert read(row_of(TEXT, (0, 8, "P"), (15, 20, "L"))) == RIGHT
    assert "blanks trimmed from the ends of 2 spans" in caplog.text


class TestOffsetUnits:
    EMOJI = "\U0001f600 Olu hums"

    @pytest.mark.parametrize(("start", "unit"), [(2, "characters"), (3, "utf-16")])
    def test_the_spans_own_text_tells(self, read, start, unit):
        span = {"start": start, "end": start + 3, "label": "P", "text": "Olu"}
        assert read({"text": self.EMOJI, "spans": [span]}) == ["\U0001f600/O Olu/B-P hums/O"]
        assert read({"text": self.EMOJI, "spans": [span]}, offset_unit=unit) == ["\U0001f600/O Olu/B-P hums/O"]
        other = {"characters": "utf-16", "utf-16": "characters"}[unit]
        with pytest.raises(CorpusError, match="has the text 'Olu', but there the text reads"):
            read({"text": self.EMOJI, "spans": [span]}, offset_unit=other)

    def test_where_nothing_tells_it_is_asked_for(self, read):
        with pytest.raises(CorpusError, match=r"Say what offsets count, characters or utf-16: offset_unit="):
            read(row_of(self.EMOJI, (6, 10, "V")))
        assert read(row_of(self.EMOJI, (6, 10, "V")), offset_unit="characters")[0].endswith("hums/B-V")
        assert read(row_of(self.EMOJI, (7, 11, "V")), offset_unit="utf-16")[0].endswith("hums/B-V")

    def test_it_is_not_asked_for_where_it_does_not_matter(self, read):
        assert read(row_of("Olu \U0001f600", (0, 3, "P"))) == ["Olu/B-P \U0001f600/O"]

    def test_own_texts_that_stand_in_both_places(self, read):
        """Both units fit where a text repeats itself: characters were taken without asking."""
        row = {"text": "\U0001f600木木木", "spans": [{"start": 3, "end": 4, "label": "P", "text": "木"}]}
        with pytest.raises(CorpusError, match=r"own texts stand in both places\. Say what offsets count"):
            read(row)
        assert read(row, offset_unit="characters") == ["\U0001f600/O 木/O 木/O 木/B-P"]
        assert read(row, offset_unit="utf-16") == ["\U0001f600/O 木/O 木/B-P 木/O"]

    def test_a_span_that_is_outside_of_its_text_in_one_unit_alone(self, read):
        """What stands at the end of the text was dropped, or advised to be corrected, and fits in UTF-16 units."""
        row = row_of("hums \U0001f600", (5, 7, "P"))
        for choice in ("refuse", "drop"):
            with pytest.raises(CorpusError, match="Say what offsets count"):
                read(row, spans=choice)
        assert read(row, offset_unit="utf-16", spans="drop") == ["hums/O \U0001f600/B-P"]

    def test_offsets_of_another_text(self, read):
        span = {"start": 0, "end": 4, "label": "P", "text": "Hums"}
        with pytest.raises(CorpusError, match="has the text 'Hums', but there the text reads 'Olu '"):
            read({"text": TEXT, "spans": [span]})

    def test_wrong_choices(self, read):
        with pytest.raises(ValueError, match="offset_unit must be one of characters, utf-16, not 'bytes'"):
            read(row_of(TEXT), offset_unit="bytes")
        with pytest.raises(ValueError, match="spans must be one of refuse, drop, not 'ignore'"):
            read(row_of(TEXT), spans="ignore")


class TestWhatNobodyAccepted:
    def test_judged_spans_are_no_gold(self, read):
        # Prodigy's binary questions: nobody looked at the text's other words.
        judged = {**EXPORTS["Prodigy without tokens"], "_is_binary": True, "answer": "accept"}
        with pytest.raises(CorpusError, match=r":2: .*'_is_binary'.*spans='drop'"):
            read(EXPORTS["Prodigy"], judged)
        assert read(EXPORTS["Prodigy"], judged, spans="drop") == RIGHT

    def test_rejected_and_ignored_rows_are_counted(self, read, caplog):
        rejected = {**EXPORTS["Prodigy"], "answer": "reject"}
        assert read(EXPORTS["Prodigy"], rejected, {**rejected, "answer": "ignore"}) == RIGHT
        assert "1 texts left out: answer 'reject'" in caplog.text
        assert "1 texts left out: answer 'ignore'" in caplog.text

    def test_cancelled_tasks_and_tasks_without_annotation(self, read, caplog):
        task = EXPORTS["Label Studio"]
        cancelled = {**task, "annotations": [{"was_cancelled": True, "result": RESULT}]}
        assert read(task, cancelled, {**task, "annotations": []}) == [*RIGHT, RIGHT[0].replace("B-P", "?").replace(
            "I-P", "?").replace("B-L", "?").replace("/O", "/?")]  # fmt: skip
        assert "1 texts left out: cancelled by the annotator" in caplog.text

    def test_of_several_annotations_the_ground_truth_is_read(self, read, caplog):
        task = {"data": {"text": TEXT}, "annotations": [{"result": []}, {"result": RESULT, "ground_truth": True}]}
        assert read(task) == RIGHT
        assert "annotated several times" in caplog.text


class TestWhichColumnOrFieldIsRead:
    """Danger: an empty list, or the other text of a task, is read in place of the annotation."""

    SPANS: ClassVar = [list(span) for span in SPANS]

    def test_an_empty_list_of_spans_beside_a_filled_one(self, read):
        assert read({"text": TEXT, "spans": [], "entities": self.SPANS, "labels": []}) == RIGHT
        assert read({"text": TEXT, "spans": [], "entities": []}, EXPORTS["Prodigy"])[1:] == RIGHT

    def test_several_filled_lists_are_a_choice(self, read):
        row = {"text": TEXT, "spans": [[0, 3, "P"]], "entities": self.SPANS}
        with pytest.raises(CorpusError, match=r"export.jsonl:1: several columns of spans \(spans, entities\).*tags_"):
            read(row)
        assert read(row, tags_column="entities") == RIGHT

    def test_columns_with_other_names(self, read):
        row = {"id": 1, "content": TEXT, "marks": self.SPANS}
        assert read(row, tokens_column="content", tags_column="marks") == RIGHT
        with pytest.raises(CorpusError, match=r"no column 'tokens'.*The file begins '\{\"id\": 1, \"content\""):
            read(row)

    OTHER = "Nobody hums in here at all."

    @pytest.mark.parametrize(
        ("data", "to_name"),
        [
            ({"text": OTHER, "body": TEXT}, "body"),
            ({"text": OTHER, "body": TEXT}, "a name of the screen"),  # the spans' own texts tell
            ({"title": OTHER, "body": TEXT}, "a name of the screen"),
            ({"body": TEXT}, "a name of the screen"),
        ],
    )
    def test_the_field_that_was_annotated(self, read, data, to_name):
        result = [{**each, "to_name": to_name} for each in RESULT]
        task = {"data": data, "annotations": [{"result": result}]}
        assert read(task) == RIGHT
        assert read(task, tokens_column="body") == RIGHT

    def test_two_fields_of_one_task_are_two_texts(self, read, caplog):
        title = {"type": "labels", "to_name": "title", "value": {"start": 0, "end": 4, "labels": ["L"]}}
        body = [{**each, "to_name": "body"} for each in RESULT]
        task = {"data": {"title": "Kano hums", "body": TEXT}, "annotations": [{"result": [*body, title]}]}
        assert read(task) == [*RIGHT, "Kano/B-L hums/O"]
        assert "texts of several fields are read: 1 of body, 1 of title" in caplog.text
        assert read(task, tokens_column="title") == ["Kano/B-L hums/O"]
        assert "2 annotations of type labels of the field 'body' left out" in caplog.text

    def test_annotations_that_are_no_spans_are_counted(self, read, caplog):
        choice = {"type": "choices", "to_name": "t", "value": {"choices": ["x"]}}
        task = {"data": {"text": TEXT}, "annotations": [{"result": [*RESULT, choice, {"type": "relation"}]}]}
        assert read(task) == RIGHT
        assert "1 annotations of type choices left out: no spans of the text" in caplog.text
        assert "1 annotations of type relation left out" in caplog.text

    @pytest.mark.parametrize("kind", ["paragraphlabels", "hypertextlabels"])
    def test_spans_that_count_something_else_are_refused_or_dropped(self, read, caplog, kind):
        value = {"start": "0", "end": "0", "startOffset": 0, "endOffset": 3, kind: ["P"]}
        task = {"data": {"text": TEXT}, "annotations": [{"result": [*RESULT, {"type": kind, "value": value}]}]}
        with pytest.raises(CorpusError, match=f"export.jsonl:1: an annotation of type '{kind}' of"):
            read(task)
        assert read(task, spans="drop") == RIGHT
        assert f"1 spans dropped, each of type '{kind}'" in caplog.text

    def test_texts_without_a_column_of_spans_are_counted(self, read, caplog):
        """They were sentences without tags, without a word why; and as the first row an error."""
        row = {"text": "Kano hums", "tags": [[0, 4, "L"]]}
        assert read(row, EXPORTS["Prodigy"], row) == ["Kano/? hums/?", *RIGHT, "Kano/? hums/?"]
        assert "2 texts lack a column of spans (spans, entities" in caplog.text
        caplog.clear()
        assert read(EXPORTS["Prodigy"], {"text": "Kano hums", "spans": None}) == [*RIGHT, "Kano/? hums/?"]
        assert "lack a column" not in caplog.text


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "true", "0.5"])
@pytest.mark.parametrize("row", ['{"text": "Olu", "label": [[0, %s, "P"]]}',
                                 '{"text": "Olu", "label": [[%s, 3, "P"]]}',
                                 '{"tokenized_text": ["Olu"], "ner": [[0, %s, "P"]]}'])  # fmt: skip
def test_offsets_that_are_no_whole_numbers(tmp_path, row, number):
    """Python's JSON reads NaN and Infinity; int() raised a raw error."""
    path = tmp_path / "a.jsonl"
    path.write_text(row % number)
    with pytest.raises(CorpusError, match=r"a.jsonl:1: \[.*\] is no span"):
        load_corpus(path, language="xx")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": TEXT, "spans": [{"start": 0, "end": 3}]}, "is no span with a start, an end and a label"),
        ({"text": TEXT, "label": [[0, 3]]}, "is no span"),
        ({"text": TEXT, "label": [["a", "b", "P"]]}, "is no span"),
        ({"text": TEXT, "entities": [{"label": 3, "start_offset": 0, "end_offset": 3}]}, "label 3 .* is a number"),
        ({"text": TEXT, "label": [{"start": 0, "end": 3, "labels": ["P", "Q"]}]}, "has 2 labels"),
        ({"text": TEXT, "spans": [], "tokens": [{"text": "Kano", "start": 0, "end": 99}]}, "does not fit its text"),
        ({"data": {"a": "x", "b": "y"}, "annotations": []}, "which of the data is the text"),
        ({"tokenized_text": ["Olu"], "ner": [[0, 1, "P"]]}, r"the span P \[0, 1\] of words is outside"),
        ({"tokenized_text": ["Olu"], "ner": [[0, 0, "P"], [0, 0, "Q"]]}, "is overlapping"),
        ({"tokenized_text": ["Olu", " "], "ner": []}, "word 2: ' ' is not a word"),
    ],
)
def test_broken_exports_are_named(read, row, message):
    with pytest.raises(CorpusError, match=f"export.jsonl:1.*{message}"):
        read(row)


class TestWords:
    THAI = row_of("สมชายไปกรุงเทพ", (0, 5, "P"), (7, 14, "L"))

    def test_a_script_without_spaces_needs_other_words(self, read):
        with pytest.raises(CorpusError, match="cutting a word"):
            read(self.THAI, words="rules")
        characters = read(self.THAI, words="characters")[0]
        assert characters.startswith("ส/B-P ม/I-P")
        assert characters.count("/B-") == 2

    @pytest.mark.parametrize(("words", "package"), [("pythainlp", "pythainlp"), ("icu", "icu")])
    def test_words_of_a_dictionary(self, read, words, package):
        pytest.importorskip(package, reason=f"needs {package}, an extra of the package")
        pairs = [pair.split("/") for pair in read(self.THAI, words=words)[0].split()]
        assert 3 <= len(pairs) <= 4
        assert "".join(word for word, tag in pairs if tag.endswith("P")) == "สมชาย"
        assert [word for word, tag in pairs if tag == "B-L"] == ["กรุงเทพ"]

    def test_a_function_and_its_faults(self, read):
        row = row_of("Olu|hums", (0, 3, "P"))
        assert read(row, words=lambda text: [text[:3], "|", text[4:]]) == ["Olu/B-P |/O hums/O"]
        with pytest.raises(CorpusError, match=r"export.jsonl:1: .*lost the character '\|' at 3"):
            read(row, words=lambda text: text.split("|"))

    def test_a_tools_own_words_are_kept(self, read):
        row = {"text": "Olu-Ade", "spans": [{"start": 0, "end": 3, "label": "P"}], "tokens": PRODIGY_TOKENS[:1]}
        row["tokens"] = [{"start": 0, "end": 3}, {"start": 3, "end": 4}, {"start": 4, "end": 7}]
        assert read(row, words="whitespace") == ["Olu/B-P -/O Ade/O"]


def test_docbin(tmp_path):
    tokens = pytest.importorskip("spacy.tokens", reason="needs spaCy, the `spacy` extra")
    vocab = pytest.importorskip("spacy.vocab").Vocab()
    first = tokens.Doc(vocab, words=["Olu", "Ade", "\n", "hums"], sent_starts=[True, False, False, False])
    first.ents = [tokens.Span(first, 0, 2, label="P")]
    second = tokens.Doc(vocab, words=["Kano", "is"])
    path = tmp_path / "a.spacy"
    tokens.DocBin(attrs=["ENT_IOB", "ENT_TYPE", "SENT_START"], docs=[first, second]).to_disk(path)
    assert show(load_corpus(path, language="xx")) == ["Olu/B-P Ade/I-P hums/O", "Kano/? is/?"]
    # An entity may begin with a blank, which is no word: its first word begins it.
    first = tokens.Doc(vocab, words=["in", "\n", "Olu", "Ade"])
    first.ents = [tokens.Span(first, 1, 4, label="P")]
    second.ents = [tokens.Span(second, 0, 1, label="L")]
    tokens.DocBin(attrs=["ENT_IOB", "ENT_TYPE"], docs=[first, second]).to_disk(path)
    assert show(load_corpus(path, language="xx")) == ["in/O Olu/B-P Ade/I-P", "Kano/B-L is/O"]
    # Words that nobody annotated were O beside those that somebody did.
    second.set_ents([tokens.Span(second, 0, 1, label="L")], default="missing")
    tokens.DocBin(attrs=["ENT_IOB", "ENT_TYPE"], docs=[first, second]).to_disk(path)
    with pytest.raises(CorpusError, match=r"a\.spacy, doc 2: nobody annotated 'is'"):
        load_corpus(path, language="xx")
    assert load_sentences(path, language="xx")["tokens"][1] == ["Kano", "is"]
    path.write_bytes(b"garbage")
    with pytest.raises(CorpusError, match="not a DocBin file of spaCy"):
        load_corpus(path, language="xx")


def test_conllu_plus(tmp_path):
    path = tmp_path / "a.conllup"
    path.write_text("# global.columns = ID FORM LAB:NER\n# text = Olu hums\n1\tOlu\tB-P\n2-3\thums\t_\n2\thums\tO\n")
    assert show(load_corpus(path, language="xx", tags_column="LAB:NER")) == ["Olu/B-P hums/O"]
    with pytest.raises(
        CorpusError, match=r"choose the column of the tags with tags_column=; there are id, form, lab:ner"
    ):
        load_corpus(path, language="xx")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.text(st.sampled_from("abc é’'\n\r\u3000שלמ北京กรุงเ\u0e31\U0001f600\u200d\u200b\u0301.,-"), max_size=40),
    st.sampled_from(["rules", "whitespace", "characters"]),
    st.sampled_from(["characters", "utf-16"]),
    st.randoms(use_true_random=False),
)
@example("\U0001f600\U0001f600a b", "rules", "utf-16", __import__("random").Random(0))
def test_the_words_of_an_entity_are_its_text(tmp_path, text, words, unit, random):
    """Danger: offsets that drift behind an emoji, a mark or a line break; checked against the spans' own texts."""
    boundaries = get_segmenter(words)(text)
    spans, position = [], 0
    while position < len(boundaries):
        last = min(len(boundaries), position + random.randint(1, 3))
        if random.random() < 0.5:
            spans.append((boundaries[position][0], boundaries[last - 1][1], random.choice("PL")))
        position = last

    def count(offset):
        return len(text[:offset].encode("utf-16-le")) // 2 if unit == "utf-16" else offset

    path = Path(tmp_path) / "a.jsonl"
    path.write_text(json.dumps(row_of(text, *((count(a), count(b), kind) for a, b, kind in spans))))
    if not boundaries:
        return
    row = load_corpus(path, language="xx", words=words, offset_unit=unit)[0]
    assert row["tokens"] == [text[a:b] for a, b in boundaries]
    found, starts = [], [a for a, _ in boundaries]
    for (start, end), tag in zip(boundaries, row["tags"]):
        if tag.startswith("B-"):
            found.append([start, end, tag[2:]])
        elif tag.startswith("I-"):
            found[-1][1] = end
    assert [tuple(span) for span in found] == spans
    assert starts == sorted(starts)
