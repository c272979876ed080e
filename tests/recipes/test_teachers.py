"""Dangers: a recipe's teachers that are mixed up, left out, weighted or calibrated otherwise than it says."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from transformers import XLMRobertaConfig, XLMRobertaForTokenClassification

from hf_structkd.data.corpora import label_inventory, load_corpora
from hf_structkd.data.demo_corpus import load_demo_corpus
from hf_structkd.data.readers import CorpusError
from hf_structkd.data.tokenizer import train_tokenizer
from hf_structkd.modeling.tag_scheme import TagScheme
from hf_structkd.recipes.data import load_unlabelled
from hf_structkd.recipes.fields import DataArguments, TeacherArguments, TeacherSource
from hf_structkd.recipes.parser import RecipeError, parse_recipe

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
