"""Dangers: a script that measures fails after hours, or writes other figures into a document than it measured."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from benchmarks.growth_curves import slope
from hf_structkd import Teacher
from hf_structkd.data.demo_corpus import load_demo_corpus
from hf_structkd.modeling.configuration import label_names
from hf_structkd.modeling.tag_scheme import TagScheme, convert_tags
from tests.conftest import draw_student
from tests.recipes.test_unlabelled import TINY


@pytest.fixture
def checkpoint(make_student, tokenizer, tmp_path) -> Path:
    make_student(languages=["en", "ru"], max_position_embeddings=130).save_pretrained(tmp_path / "student")
    tokenizer.save_pretrained(tmp_path / "student")
    return tmp_path / "student"


@pytest.fixture
def page(tmp_path) -> Path:
    path = tmp_path / "page.md"
    places = "".join(f"<!-- results: {n} -->old<!-- end -->\n" for n in ("calibration", "throughput", "export"))
    path.write_text(f"before\n{places}after\n", encoding="utf-8")
    return path


@pytest.mark.slow
def test_calibration(run_script, checkpoint, page, tmp_path):
    pytest.importorskip("matplotlib", reason="reliability diagrams need the extra `plots`")
    printed = run_script(
        "structkd calibrate", "--checkpoint", checkpoint, "--corpus", "demo", "--languages", "en", "ru",
        "--max_test_sentences", 20, "--output_dir", tmp_path / "out", "--write", page,
    )  # fmt: skip
    report = json.loads((tmp_path / "out" / "calibration.json").read_text())
    assert set(report["languages"]) == {"en", "ru", "all"}
    for language, by_score in report["languages"].items():
        assert set(by_score) == {"exact", "mean_marginal", "mean_softmax"}
        eces = " | ".join(f"{100 * found['ece']:.2f} %" for found in by_score.values())
        (line,) = [line for line in printed.splitlines() if line.startswith(f"| {language} |")]
        assert line.endswith(f"{eces} |")
        assert line in page.read_text()
    assert (tmp_path / "out" / "calibration.png").read_bytes().startswith(b"\x89PNG")
    assert page.read_text().count("old") == 2  # what others measure is left as it is


def test_calibration_leaves_out_what_nobody_looked_for(run_script, make_student, tokenizer, tmp_path):
    """Whether an entity of a type that the annotators did not look for is right, nobody knows; it counted as wrong."""
    pytest.importorskip("matplotlib", reason="reliability diagrams need the extra `plots`")
    model = make_student()
    model.save_pretrained(tmp_path / "student")
    tokenizer.save_pretrained(tmp_path / "student")
    sentences = load_demo_corpus("en", "test").select(range(20))
    for name, keeps in (("all", "-"), ("persons", "-PER")):
        rows = [
            {"tokens": words, "tags": [tag if keeps in tag else "O" for tag in tags]}
            for words, tags in zip(sentences["tokens"], sentences["tags"])
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    scored = {}
    for name, types in (("all", {}), ("persons", {"en": ["PER"]})):
        run_script(
            "structkd calibrate", "--checkpoint", tmp_path / "student", "--split", "test",
            "--corpus", json.dumps({"en": {"test": str(tmp_path / f"{name}.jsonl")}}),
            "--output_dir", tmp_path / name, *(("--annotated_types", json.dumps(types)) if types else ()),
        )  # fmt: skip
        report = json.loads((tmp_path / name / "calibration.json").read_text())
        scored[name] = report["languages"]["en"]["exact"]["predictions"]
    tags = Teacher(model, tokenizer).tag(sentences["tokens"])
    found = [span.type for sentence in tags for span in TagScheme(label_names(model.config)).spans(sentence)]
    assert scored == {"all": len(found), "persons": found.count("PER")}
    assert 0 < found.count("PER") < len(found)


def test_a_tagger_that_finds_nothing_has_no_calibration(refusal, make_student, tokenizer, tmp_path):
    """It ended in a traceback about shapes."""
    model = make_student()
    with torch.no_grad():
        model.classifier.bias[model.config.label2id["O"]] += 1e3
    model.save_pretrained(tmp_path / "student")
    tokenizer.save_pretrained(tmp_path / "student")
    told = refusal(
        "structkd calibrate", "--checkpoint", tmp_path / "student", "--corpus", "demo", "--languages", "en",
        "--max_test_sentences", 3, "--output_dir", tmp_path / "out",
    )  # fmt: skip
    assert "finds no entity in the test sentences of en" in told
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_pipeline_throughput(run_script, page):
    printed = run_script(
        "benchmarks.pipeline_throughput", "--sentences", 4, "--hidden", 16, "--layers", 1, "--heads", 2,
        "--rounds", 1, "--batch-size", 2, "--write", page,
    )  # fmt: skip
    report = json.loads(printed)
    first, *others = report["contestants"].values()
    assert first["ratio"] == 1
    assert len(others) == 2
    assert all(each["ratio"] > 0 and each["sentences_per_s"] > 0 for each in others)
    assert f"{others[-1]['ratio']:.2f}" in page.read_text()


def test_the_throughput_of_taggers_that_exist(run_script, checkpoint):
    """Danger: a speed of other sentences than were tagged."""
    options = ("--sentences", 7, "--rounds", 2, "--batch-size", 3)
    report = json.loads(run_script("benchmarks.pipeline_throughput", "--taggers", checkpoint, *options))
    assert (report["sentences"], report["batch_size"]) == (7, 3)
    ((name, (low, middle, high)),) = report["sentences_per_s, quartiles"].items()
    assert name == str(checkpoint)
    assert 0 < low <= middle <= high


def test_training_steps_against_those_of_trainer(run_script):
    printed = run_script(
        "benchmarks.training_cost", "--stock", "--hidden", 16, "--rounds", 3, "--batch_size", 4, "--words", 6
    )
    report = json.loads(printed.splitlines()[-1])
    assert set(report["milliseconds"]) == {"stock", "ours", "lists", "arrays"}
    ratios = [value for name, value in report.items() if name.endswith("quartiles")]
    assert len(ratios) == 2
    assert all(0 < low <= middle <= high for low, middle, high in ratios)


@pytest.mark.slow
def test_export_cost(run_script, checkpoint, page, tmp_path):
    pytest.importorskip("onnxscript", reason="needs the onnx extra: onnx, onnxruntime, onnxscript")
    printed = run_script(
        "benchmarks.export_cost", "--checkpoint", checkpoint, "--corpus", "demo", "--languages", "en",
        "--max_test_sentences", 6, "--exported", tmp_path / "out", "--rounds", 1, "--write", page,
    )  # fmt: skip
    rows = {cells[1]: cells for line in printed.splitlines() if len(cells := [c.strip() for c in line.split("|")]) > 5}
    assert rows["ONNX"][5] == rows["PyTorch"][5] == "100.00 %"
    assert rows["ONNX"][4] == rows["PyTorch"][4]
    assert "6 sentences, batches of 32" in page.read_text()


@pytest.mark.slow
def test_smaller_students(run_script, checkpoint, tmp_path):
    pytest.importorskip("onnxscript", reason="needs the onnx extra: onnx, onnxruntime, onnxscript")
    printed = run_script(
        "benchmarks.smaller_students", "--model", checkpoint, "--corpus", "demo", "--languages", "en", "ru",
        "--max_train_sentences", 30, "--max_dev_sentences", 5, "--max_test_sentences", 6, "--layers", 1,
        "--epochs", 1, "--rounds", 1, "--work", tmp_path / "work",
    )  # fmt: skip
    rows = json.loads((tmp_path / "work" / "smaller_students.json").read_text())
    assert [(row["distilled"], row["trimmed"], row["numbers"]) for row in rows] == [
        (distilled, trimmed, numbers)
        for trimmed in (False, True) for distilled in (False, True) for numbers in ("float", "int8")
    ]  # fmt: skip
    assert rows[1]["mib"] < rows[0]["mib"]
    assert all(row["speed"] > 0 for row in rows)
    assert (tmp_path / "work" / "smaller_students.png").stat().st_size > 1000
    assert (tmp_path / "work" / "smaller_students.md").read_text().strip() in printed


def test_growth_curves(run_script, page, tmp_path):
    page.write_text("<!-- results: growth -->old<!-- end -->")
    results = tmp_path / "curves.json"
    common = ("--results", results, "--write", page)
    run_script("benchmarks.growth_curves", "--curves", "tag scheme", "k", "--largest", 30, *common)
    curves = json.loads(results.read_text())
    assert [point["size"] for point in curves["tag scheme"]["points"]] == [10, 30]
    assert all(point["seconds"] > 0 for curve in curves.values() for point in curve["points"])
    assert "| 1 to 10 k |" in page.read_text()
    curves["k"]["points"][-1]["size"] = 77
    results.write_text(json.dumps(curves))
    run_script("benchmarks.growth_curves", "--read", *common)
    assert "| 1 to 77 k |" in page.read_text(), "what was measured before is read"


@pytest.mark.parametrize("power", [1, 2])
def test_a_slope_is_the_power_of_the_growth(power):
    points = [{"size": size, "seconds": 1e-5 * size**power, "mib": 0.1} for size in (1, 10, 100, 1000)]
    assert slope(points, "seconds", 1e-4) == power
    assert slope(points, "mib", 1.0) is None, "too little to be measured"


@pytest.mark.slow
def test_run_profile(run_script, page, tmp_path):
    page.write_text("<!-- results: profile demo -->old<!-- end -->")
    fields = {
        **{"corpus": "demo", "languages": ["en"], "max_train_sentences": 20, "max_dev_sentences": 10},
        **{"max_test_sentences": 10, "objective": "top_wk", "model": "scratch", "model_config": TINY},
        **{"teacher_model": "scratch", "teacher_model_config": TINY, "vocab_size": 300, "num_train_epochs": 1},
        **{"use_cpu": True, "disable_tqdm": True, "output_dir": str(tmp_path / "run")},
    }
    recipe, report = tmp_path / "recipe.yaml", tmp_path / "report.json"
    recipe.write_text(json.dumps(fields))
    run_script("benchmarks.run_profile", recipe, "--report", report)
    measured = json.loads(report.read_text())
    assert {"teachers' training", "student", "report"} <= {row["phase"] for row in measured["phases"]}
    assert sum(row["seconds"] for row in measured["phases"]) == pytest.approx(measured["seconds"], abs=0.5)
    assert measured["functions"]["cli:main"] == pytest.approx(max(measured["functions"].values()), abs=0.1)
    run_script(
        "benchmarks.run_profile", "--read", report, "--before", report, "--write", page, "--place", "demo"
    )  # fmt: skip
    assert "| seconds before |" in page.read_text()


def test_languages_that_a_checkpoint_was_not_trained_on_are_named(run_script, checkpoint):
    """Danger: a zero-shot score taken for one that was trained for."""
    common = ("--checkpoint", checkpoint, "--corpus", "demo", "--max_test_sentences", 3, "--languages")
    printed = run_script("run_evaluate.py", *common, "en", "de")
    assert "zero-shot, not among the languages of its training (en, ru): de\n" in printed
    assert "zero-shot" not in run_script("run_evaluate.py", *common, "ru")


BIOES = ["O", "B-PER", "I-PER", "E-PER", "S-PER"]


@pytest.fixture
def bioes(tmp_path, tokenizer) -> tuple[Path, Path]:
    """A BIOES checkpoint, and a BIO corpus whose gold tags are what it says, so that all of its entities are right."""
    model = draw_student(tokenizer, BIOES, seed=3, tag_scheme="BIOES", max_position_embeddings=130)
    model.save_pretrained(tmp_path / "bioes")
    tokenizer.save_pretrained(tmp_path / "bioes")
    sentences = list(load_demo_corpus("en", "test", num_sentences=30)["tokens"])
    said = Teacher.from_pretrained(str(tmp_path / "bioes")).tag(sentences)
    assert {tag[0] for tags in said for tag in tags} >= {"B", "E", "S"}
    blocks = []
    for words, tags in zip(sentences, said):
        rows = zip(words, convert_tags(tags, "BIOES", "BIO"))
        blocks.append("".join(f"{word}\t{tag}\n" for word, tag in rows))
    (tmp_path / "en.test.conll").write_text("\n".join(blocks), encoding="utf-8")
    return tmp_path / "bioes", tmp_path / "{language}.{split}.conll"


def test_a_bioes_checkpoint_is_scored_on_a_bio_corpus_as_what_it_says(bioes, run_script, tmp_path):
    """Danger: 0 where all is right, because one says S-PER and the other B-PER."""
    checkpoint, corpus = bioes
    options = ("--checkpoint", checkpoint, "--corpus", corpus, "--languages", "en")
    run_script("run_evaluate.py", *options, "--output_file", tmp_path / "scores.json")
    scores = json.loads((tmp_path / "scores.json").read_text())["scores"]["test"]["bioes"]["en"]
    assert scores["f1"] == 1.0
    assert scores["by_type"]["PER"]["number"] > 5
    run_script("structkd calibrate", *options, "--output_dir", tmp_path / "out")
    report = json.loads((tmp_path / "out" / "calibration.json").read_text())["languages"]["en"]["exact"]
    assert {each["accuracy"] for each in report["bins"]} <= {1.0, None}
    assert report["predictions"] == scores["by_type"]["PER"]["number"]


def test_labels_that_checkpoint_and_corpus_do_not_share_are_named(bioes, run_script, refusal):
    checkpoint, template = bioes
    corpus = Path(str(template).format(language="en", split="test"))
    own = corpus.read_text(encoding="utf-8")
    options = ("--checkpoint", checkpoint, "--corpus", template, "--languages", "en")
    corpus.write_text(own + "\nOslo\tB-LOC\n", encoding="utf-8")
    assert "not known to the checkpoint, and so always missed: LOC\n" in run_script("run_evaluate.py", *options)
    corpus.write_text(own.replace("PER", "PERSON"), encoding="utf-8")
    assert "knows PER, and the corpora have PERSON" in refusal("run_evaluate.py", *options)
    printed = run_script("run_evaluate.py", *options, "--label_map", '{"PER": "PERSON"}')
    assert "100.00" in printed
    corpus.write_text("Oslo\tPROPN\nsings\tVERB\n", encoding="utf-8")
    assert "the checkpoint's tags are BIOES, those of the corpora plain" in refusal("run_evaluate.py", *options)


@pytest.mark.parametrize("script", ["run_evaluate.py", "structkd calibrate"])
def test_unknown_languages_and_checkpoints_are_named(run_script, checkpoint, tmp_path, script):
    more = ("--output_dir", tmp_path / "out") if "calibrate" in script else ()
    with pytest.raises(SystemExit, match=r"error: .*no language 'xx'; it has .*en"):
        run_script(script, "--checkpoint", checkpoint, "--corpus", "demo", "--languages", "en", "xx", *more)
    template = tmp_path / "{language}.{split}.conll"
    rows = load_demo_corpus("en", "test", num_sentences=2)
    lines = ["".join(f"{w}\t{t}\n" for w, t in zip(row["tokens"], row["tags"])) for row in rows]
    (tmp_path / "en.test.conll").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(SystemExit, match=r"error: language 'xx', split 'test': no such file"):
        run_script(script, "--checkpoint", checkpoint, "--corpus", template, "--languages", "en", "xx", *more)
    with pytest.raises(SystemExit, match=r"error: checkpoint '\S*nothing': "):
        run_script(script, "--checkpoint", tmp_path / "nothing", "--corpus", "demo", "--languages", "en", *more)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_glued_words(run_script, checkpoint, tmp_path):
    """Both readings of one corpus are trained and measured, and fill their place in a document."""
    rows = [{"text": f"Anna-{n},Boston!", "label": [[0, 4, "PER"]]} for n in range(12)]
    for split in ("train", "dev", "test"):
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    page = tmp_path / "page.md"
    page.write_text("<!-- results: glued_words / tiny -->\n<!-- end -->\n")
    encoder = tmp_path / "encoder"
    AutoModel.from_pretrained(checkpoint).save_pretrained(encoder)
    AutoTokenizer.from_pretrained(checkpoint).save_pretrained(encoder)
    printed = run_script(
        "benchmarks.glued_words", "--model", encoder, "--corpus", json.dumps({"en": f"{tmp_path}/{{split}}.jsonl"}),
        "--words", "characters", "--epochs", 1, "--seeds", 1, "--work", tmp_path / "work", "--write", page,
        "--place", "tiny",
    )  # fmt: skip
    between, running = json.loads((tmp_path / "work" / "glued_words.json").read_text())["rows"]
    assert (between["glued"], running["glued"]) == (False, True)
    assert between["pieces"] > running["pieces"] >= running["words"]
    assert between["words_found"] == running["words_found"] == running["same_in_text"] == 100.0
    assert (tmp_path / "work" / "glued_words.md").read_text().strip() in page.read_text()
    assert "as running text" in printed
