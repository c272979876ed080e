"""Model cards: true, runnable, without machine paths, and never the end of a training run."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard

from hf_structkd import XLMRobertaForTokenClassificationCRF
from hf_structkd.evaluation.report import ComparisonReport
from hf_structkd.evaluation.results import RunResults
from hf_structkd.hub import model_card
from hf_structkd.hub.describe import describe_student
from hf_structkd.hub.model_card import StudentCardData, TeacherCard, build_model_card, public_name, write_model_card
from hf_structkd.hub.snippets import example_sentence, snippets, widget_examples
from hf_structkd.modeling.configuration import label_names
from tests.hub.loopback_hub import card_errors


@pytest.fixture
def data(tmp_path) -> StudentCardData:
    return StudentCardData(
        model_name=str(tmp_path / "runs" / "student"),
        label_names=["O", "B-PER", "I-PER"],
        label_examples={"B-PER": ["Clara", "Weber"]},
        languages=["en", "de"],
        base_model="FacebookAI/xlm-roberta-base",
        base_model_revision="abc123",
        teachers=[
            TeacherCard(str(tmp_path / "teachers" / "en-crf"), "en", "f00d", 0.91234),
            TeacherCard("org/de-tagger", "de"),
        ],
        objective="posterior+top_wk",
        lambda_schedule="linear 1 -> 0",
        objective_parts=[
            {
                "name": "posterior",
                "weight": 1.0,
                "temperature": 2.0,
                "temperature_mode": "global",
                "source": "2004.03846",
            }
        ],
        top_k=8,
        type_scores={"student": {"PER": {"en": (0.81, 0.01), "de": (0.7, None)}}},
        seeds=[1, 2],
        memory={"peak_rss_mib": 1234.5},
        energy={"kwh": 0.5, "co2_kg": 0.2},
        citations=["@misc{a, eprint = {2004.03846}}", "@misc{b}"],
        comparison=ComparisonReport(
            "f1",
            students={"student": {"en": np.float64(0.8), "de": np.float32(0.7)}},
            teachers={"en": 0.91234, "de": 0.8},
            baseline={"en": 0.7, "de": 0.65},
            split="test",
        ),
        dataset_name="unimelb-nlp/wikiann",
        train_sentences={"en": 20000, "de": 5000},
        hyperparameters={
            "learning_rate": 5e-5,
            "output_dir": str(tmp_path / "runs"),
            "nested": {"x": [str(tmp_path)]},
        },
        versions={"torch": "2.13.0"},
        seconds=45.6,
    )


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the card reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_the_card_says_what_it_must(data, no_network):
    text = str(build_model_card(data))
    for part in (
        "# student\n",
        "FacebookAI/xlm-roberta-base",
        "abc123",
        'name = "student"',
        "| 1 | `B-PER` | Clara, Weber |",
        "| `posterior` | 1 | 2 | global | 2004.03846 |",
        "| `PER` | 81.00 ± 1.00 | 70.00 |",
        "2 runs with seeds 1, 2; these weights are of seed 1",
        "1,234 MiB",
        "0.5 kWh, 0.2 kg CO2",
        "No licence is stated",
        "| en | `en-crf` | f00d | 91.23 |",
        "| de | `org/de-tagger` | n/a | n/a |",
        "| objective | `posterior+top_wk` |",
        "linear 1 -&gt; 0",
        "| k best sequences | 8 |",
        "| student | 80.00 | 70.00 | 75.00 |",
        "en 20,000, de 5,000",
        "| `learning_rate` | `5e-05` |",
        "| torch | 2.13.0 |",
        "eprint = {2004.03846}",
        "## Limitations",
    ):
        assert part in text, f"{part!r} is missing"
    assert "None" not in text
    assert "\n\n\n" not in text.split("---", 2)[2]  # holes where a part was left out


def test_metadata_can_be_read_back_with_plain_numbers(data, tmp_path):
    # np.float64 in the YAML header makes a card that nobody can load
    path = write_model_card(tmp_path, data)
    card = ModelCard.load(path)
    assert card.data.language == ["en", "de"]
    assert card.data.base_model == "FacebookAI/xlm-roberta-base"
    assert card.data.license is None
    results = {result.dataset_config: result for result in card.data.eval_results}
    assert (results["en"].metric_value, results["de"].metric_type) == (0.8, "f1")
    assert results["de"].metric_value == pytest.approx(0.7)
    assert type(results["de"].metric_value) is float
    assert card.data.co2_eq_emissions["emissions"] == 200.0  # grams


def test_metadata_has_the_scores_of_these_weights_not_the_mean_over_seeds(data):
    data.own_scores = {"en": 0.5, "de": 0.4}
    assert [result.metric_value for result in build_model_card(data).data.eval_results] == [0.5, 0.4]


def test_metadata_names_what_was_scored_not_what_was_learnt_from(data):
    """Danger: a leaderboard shows the score of one dataset under the name of another."""
    data.dataset_name, data.dataset_ids = None, ["owner/text"]
    results = build_model_card(data).data.eval_results
    assert [(result.dataset_type, result.dataset_name) for result in results] == [
        ("unnamed corpora", "unnamed corpora (en)"),
        ("unnamed corpora", "unnamed corpora (de)"),
    ]
    data.scored_datasets = {"en": ["owner/english"], "de": ["owner/one", "owner/two"]}
    for name, of_german in ((None, "unnamed corpora"), ("my corpora", "my corpora")):
        data.dataset_name = name
        english, german = build_model_card(data).data.eval_results
        assert (english.dataset_type, english.dataset_name) == ("owner/english", f"{name or 'owner/english'} (en)")
        assert german.dataset_type == of_german  # of two, neither is the one
    assert build_model_card(data).data.datasets == ["owner/text"]


def test_languages_that_the_hub_does_not_know_cost_no_push(data):
    """Danger: the Hub refuses the card, and with it the push, for one language's name, after hours of training."""
    data.languages = ["pt-BR", "zh-Hans-CN", "de", "english", "zz_1", "DE", ""]
    card = build_model_card(data)
    assert not card_errors(str(card))
    assert card.data.language == ["pt", "zh", "de"]
    assert card.data.language_bcp47 == ["pt-BR", "zh-Hans-CN"]
    assert "english, zz_1" in card.text
    assert "em 1998" in card.text  # the example is in the first language that there is one for
    data.languages = ["klingon"]
    assert build_model_card(data).data.language is None


def test_no_machine_path_reaches_the_card(data, tmp_path):
    data.base_model = data.model_id = str(tmp_path / "encoder")
    data.dataset_name = str(tmp_path / "corpora" / "ner")
    text = str(build_model_card(data))
    assert str(tmp_path.parent) not in text
    assert not re.search(r"(?<![\w/:.])/(?!\s)\w+/", text)
    assert build_model_card(data).data.base_model is None  # a bare folder name would link to somebody else's model


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("FacebookAI/xlm-roberta-base", "FacebookAI/xlm-roberta-base"),
        ("gpt2", "gpt2"),
        ("/home/someone/models/teacher/", "teacher"),
        ("../runs/teacher", "teacher"),
        ("~/teacher", "teacher"),
        ("C:\\models\\teacher", "teacher"),
        ("a/b/c", "c"),
    ],
)
def test_public_names(name, shown):
    assert public_name(name) == shown


def test_a_relative_folder_is_not_taken_for_a_hub_id(tmp_path, monkeypatch):
    (tmp_path / "runs" / "teacher").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert public_name("runs/teacher") == "teacher"


def test_models_and_datasets_of_the_hub_are_linked_and_only_these(data):
    """Danger: the Hub takes a local folder's name for somebody else's model, or does not hear what was trained on."""
    data.base_model, data.base_model_id = "/models/encoder", "FacebookAI/xlm-roberta-base"
    data.dataset_name, data.dataset_ids = "my corpora", ["eriktks/conll2002", "../corpora/mine", "mine"]
    card = build_model_card(data)
    assert (card.data.base_model, card.data.datasets) == ("FacebookAI/xlm-roberta-base", ["eriktks/conll2002"])
    beginning = card.text[: card.text.index("## Use")]
    for part in (
        "from `encoder`, which goes back to [FacebookAI/xlm-roberta-base](https://huggingface.co/FacebookAI/",
        "on [eriktks/conll2002](https://huggingface.co/datasets/eriktks/conll2002).",
        "- Languages: en, de\n- Entity types: `PER`\n",
        "- Licence: none stated",
    ):
        assert part in beginning, f"{part!r} is missing"
    data.base_model_id, data.dataset_ids, data.dataset_name = None, (), "mine"
    card = build_model_card(data)
    assert (card.data.base_model, card.data.datasets) == (None, None)
    assert "huggingface.co" not in card.text


@pytest.mark.parametrize("class_name", ["XLMRobertaForTokenClassificationCRF", "XLMRobertaForTokenClassification"])
def test_the_scores_are_within_two_screens(data, class_name):
    """A screen is 40 lines of 90 characters; the metadata are not shown."""
    data.class_name = class_name
    text = str(build_model_card(data)).split("---\n", 2)[2]
    above = text[: text.index("\n| ")].splitlines()
    assert sum(max(1, -(-len(line) // 90)) for line in above) < 80


def test_a_card_with_only_a_name_has_no_empty_parts():
    text = str(build_model_card(StudentCardData("tagger")))
    assert "## Scores" not in text
    assert "Teachers" not in text
    assert "without teachers" in text
    assert "## Citation" not in text
    assert "None" not in text


def test_a_failing_card_leaves_a_minimal_one(data, tmp_path, monkeypatch, caplog):
    def fail(*args, **kwargs):
        raise RuntimeError("template broken")

    monkeypatch.setattr(model_card, "build_model_card", fail)
    path = write_model_card(tmp_path / "new", data)
    assert "# student" in path.read_text()
    assert "template broken" in caplog.text
    assert ModelCard.load(path).data.pipeline_tag == "token-classification"


def test_a_folder_that_cannot_be_written_does_not_raise(data, tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    assert write_model_card(tmp_path / "file", data) is None
    assert "could not be written" in caplog.text


def test_a_wrong_row_is_named(data):
    data.student_row = "studnet"
    with pytest.raises(ValueError, match=r"'studnet'.*'student'"):
        build_model_card(data)


# Danger: a program on a card that does not run.


ROOT = Path(__file__).parents[2]
CODE = re.compile(r"```python\n(.*?)```", re.DOTALL)


def on_card(folder: Path) -> list[str]:
    return CODE.findall((folder / "README.md").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_every_program_on_a_card_runs(make_student, tokenizer, tmp_path):
    """Each as it is printed, in a process of its own; only the repository's name is that of a folder."""
    folder = tmp_path / "tagger"
    student = make_student(seed=1)
    student.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    model = {"name": "tagger", "class_name": type(student).__name__, "labels": label_names(student.config)}
    describe_student(folder, RunResults(model={**model, "languages": ["ru"]}))
    programs = on_card(folder)
    assert len(programs) == 3
    # The one that imports the package last: the others must do without it.
    first, second, last = sorted(programs, key=lambda program: "import XLMRobertaForTokenClassificationCRF" in program)
    assert "top_k=3" in programs[0]  # what most readers want comes first
    together = "\n".join([first, second, "import sys\nassert 'hf_structkd' not in sys.modules\n", last])
    done = subprocess.run(
        [sys.executable, "-c", together], cwd=tmp_path, capture_output=True, text=True, timeout=250,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    printed = done.stdout
    words = example_sentence(("ru",)).split()
    assert f"('{words[0]}', " in printed.splitlines()[-1]  # the class: every word with its tag
    best = [line for line in printed.splitlines() if re.match(r"[01]\.\d+ \[", line)]
    assert len(best) == 3  # the k best analyses
    probabilities = [float(line.split()[0]) for line in best]
    assert probabilities == sorted(probabilities, reverse=True)


def test_a_tagger_whose_pieces_do_not_tell_its_words(make_student, tokenizer, tmp_path, monkeypatch, capsys):
    """Danger: its card offers the stock pipeline, which refuses it."""
    student = make_student(max_position_embeddings=130)
    student.config.glued_words = True
    student.save_pretrained(tmp_path / "tagger")
    tokenizer.save_pretrained(tmp_path / "tagger")
    model = {"name": "tagger", "class_name": type(student).__name__, "labels": label_names(student.config)}
    describe_student(tmp_path / "tagger", RunResults(model={**model, "languages": ["ru"], "glued_words": True}))
    assert "The stock pipeline cannot run it" in (tmp_path / "tagger" / "README.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    programs = on_card(tmp_path / "tagger")
    assert len(programs) == 2
    for program in programs:
        exec(compile(program.replace(", trust_remote_code=True", ""), "card", "exec"), {})
    assert "('Вену', " in capsys.readouterr().out


@pytest.mark.parametrize("scheme", ["BIO", "plain"])
def test_programs_are_python_for_every_kind_of_tags(scheme):
    for program in snippets("org/it's", XLMRobertaForTokenClassificationCRF.__name__, ("xx",), scheme).values():
        compile(program, "card", "exec")
        assert ("aggregation_strategy" in program) <= (scheme == "BIO")


def test_a_page_on_the_hub_offers_a_text_in_each_language_that_is_known(tmp_path):
    assert [example["example_title"] for example in widget_examples(["xx", "pt-BR", "pt", "nl"])] == ["pt", "nl"]
    describe_student(tmp_path, RunResults(model={"name": "tagger", "languages": ["tr", "xx"]}))
    (example,) = ModelCard.load(tmp_path / "README.md").data.widget
    assert example == {"text": "Clara Weber 1998'de Bremen'den Viyana'ya taşındı.", "example_title": "tr"}
    describe_student(tmp_path, RunResults(model={"name": "tagger", "languages": ["xx"]}))
    assert "widget" not in ModelCard.load(tmp_path / "README.md").data.to_dict()
