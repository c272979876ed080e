"""Danger: the recipes at real size do not run, or train something else than they say. Every file of them goes from its
own `corpus` to the student's card, in this process, with tiny encoders and corpora that look like the real ones.

Each corpus meets one student, in two of its languages; ALL_PAPER_RECIPES=1 lets each meet all, in all languages.
"""

import json
import os
import sys
from itertools import product
from pathlib import Path

import datasets
import pytest
import yaml
from transformers import AutoConfig, BertConfig, BertModel, XLMRobertaConfig, XLMRobertaModel

from benchmarks import training_cost
from experiments import semeval_columns
from hf_structkd import StructKDTrainingArguments, cli
from hf_structkd.data.demo_corpus import load_demo_corpus
from hf_structkd.data.source_text import CorpusError
from hf_structkd.data.tokenizer import train_tokenizer
from hf_structkd.recipes.data import labels_of, load_data
from hf_structkd.recipes.effects import IDLE_FIELDS
from hf_structkd.recipes.fields import DataArguments, ModelArguments, TeacherArguments, TeacherSource
from hf_structkd.recipes.parser import RecipeError, parse_recipe
from tests.modeling.conftest import wordpiece

PAPER = Path(__file__).parents[1] / "examples" / "recipes" / "paper"
CORPORA = ("conll", "wikiann", "ud_pos", "semeval2016")
STUDENTS = ("xlmr", "mbert", "mbert_bilstm")
EVERYTHING = bool(os.environ.get("ALL_PAPER_RECIPES"))
PAIRS = list(product(CORPORA, STUDENTS) if EVERYTHING else zip(CORPORA, ("mbert", "xlmr", "mbert_bilstm", "mbert")))
SIZES = {"train": 6, "dev": 2, "test": 2}
SHORT = ["--use_cpu", "--disable_tqdm", "--num_train_epochs", 1, "--logging_steps", 1]
NER = [
    *(("Anna", "B-PER"), ("Berg", "I-PER"), ("saw", "O"), ("Rome", "B-LOC"), ("and", "O"), ("New", "B-LOC")),
    *(("York", "I-LOC"), ("with", "O"), ("Ann", "B-PER"), ("of", "O"), ("Ikea", "B-ORG"), ("Oslo", "I-ORG")),
    *((",", "O"), ("Ikea", "B-ORG")),
]
ABSA = {"Anna": "B-TARGET", "Berg": "I-TARGET", "Rome": "B-TARGET"}


def fields_of(recipe: str) -> dict:
    return yaml.safe_load((PAPER / f"{recipe}.yaml").read_text())


def languages_of(corpus: str) -> list[str]:
    fields = fields_of(corpus)
    return fields.get("languages") or list(fields["corpus"])


def iob1(before: str, tag: str) -> str:
    """BIO as the files of CoNLL-2003 write it: B- between neighbours of one type alone."""
    return "I" + tag[1:] if tag[0] == "B" and before[2:] != tag[2:] else tag


def sentences(split: str, kind: str) -> dict[str, list]:
    """A few sentences tagged as corpora of a kind are: `bio`, `iob1`, `upos` or `targets`."""
    rows = load_demo_corpus("en", split, num_sentences=SIZES[split])
    tokens, tags = list(rows["tokens"]), list(rows["tags"])
    tokens[0], tags[0] = map(list, zip(*NER))  # every kind of entity, of one word and of two
    if kind == "targets":
        tags = [[ABSA.get(word, "O") for word in words] for words in tokens]
    elif kind == "iob1":
        tags = [[iob1(row[i - 1] if i else "O", tag) for i, tag in enumerate(row)] for row in tags]
    elif kind == "upos":
        tags = [["NOUN" if tag == "O" else "PROPN" for tag in row] for row in tags]
    return {"tokens": tokens, "tags": tags}


def write_columns(path: Path, columns: dict[str, list], more: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = zip(columns["tokens"], columns["tags"])
    blocks = ["".join(f"{word}{more} {tag}\n" for word, tag in zip(*row)) for row in rows]
    path.write_text("-DOCSTART- -X- O O\n\n" * bool(more) + "\n".join(blocks), encoding="utf-8")


def hub(name: str, config: str | None, revision: str = "main", data_dir: str | None = None) -> datasets.DatasetDict:
    """The Hub's corpora by the ids under which they are there without script, with the columns they have there."""
    column, dev, known = {
        ("eriktks/conll2002", "refs/convert/parquet"): ("ner_tags", "validation", data_dir in ("es", "nl")),
        ("unimelb-nlp/wikiann", "main"): ("ner_tags", "validation", len(config or "") == 2),
        ("universal-dependencies/universal_dependencies", "2.15"): ("upos", "dev", "_" in (config or "")),
    }[name, revision]
    assert known, (config, data_dir)
    found = {}
    for split in SIZES:
        columns = sentences(split, "upos" if column == "upos" else "bio")
        data = datasets.Dataset.from_dict({"tokens": columns["tokens"], column: columns["tags"]})
        if column == "ner_tags":
            names = ["O", *(f"{prefix}-{name}" for name in ("PER", "ORG", "LOC", "MISC") for prefix in "BI")]
            data = data.cast_column(column, datasets.List(datasets.ClassLabel(names=names)))
        found[dev if split == "dev" else split] = data
    return datasets.DatasetDict(found)


def run(command: str, *arguments: object) -> None:
    assert cli.main([command, *map(str, arguments)]) == 0


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with `data/` as the recipes name it and two encoders; the current one, without the real Hub."""
    folder = tmp_path_factory.mktemp("paper")
    for split, name in {"train": "train", "dev": "testa", "test": "testb"}.items():
        for prefix, more in (("eng", " NNP I-NP"), ("deu", " lemma NE I-NC")):
            write_columns(folder / "data" / "conll2003" / f"{prefix}.{name}", sentences(split, "iob1"), more)
        for language in languages_of("semeval2016"):
            write_columns(folder / "data" / "semeval2016" / language / f"{split}.conll", sentences(split, "targets"))
    words = sentences("train", "bio")["tokens"]
    tiny = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    for kind, tokenizer in {"xlmr": train_tokenizer(words, vocab_size=200), "mbert": wordpiece(words)}.items():
        tiny |= {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "max_position_embeddings": 130}
        encoder = (
            XLMRobertaModel(XLMRobertaConfig(type_vocab_size=1, **tiny))
            if kind == "xlmr"
            else BertModel(BertConfig(**tiny))
        )
        encoder.save_pretrained(folder / kind)
        tokenizer.save_pretrained(folder / kind)
    before = Path.cwd()
    os.chdir(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "load_dataset", hub)
        yield folder
    os.chdir(before)


@pytest.fixture(scope="module")
def teachers(place):
    """Trains the teacher of a corpus's last language, once, and lets it teach the others too."""
    made = {}

    def make(corpus: str) -> str:
        if corpus not in made:
            languages, folder = languages_of(corpus), place / "teachers" / corpus
            recipes = (PAPER / f"{corpus}.yaml", PAPER / "teacher.yaml", *SHORT)
            last = ("--languages", languages[-1], "--output_dir", folder / languages[-1])
            run("teacher", *recipes, "--model", "xlmr", *last)
            for language in languages[:-1]:
                (folder / language).symlink_to(folder / languages[-1])
            made[corpus] = str(folder / "{language}")
        return made[corpus]

    return make


@pytest.mark.slow
@pytest.mark.parametrize("corpus", CORPORA)
def test_every_corpus_is_there_in_all_languages(place, corpus):
    for student in STUDENTS:
        types = (DataArguments, ModelArguments, TeacherArguments, StructKDTrainingArguments)
        recipes = [str(PAPER / f"{corpus}.yaml"), str(PAPER / f"{student}.yaml"), "--output_dir", "x", "--use_cpu"]
        args, *_ = parse_recipe(types, recipes)
    loaded = load_data(args)
    assert list(loaded) == languages_of(corpus)
    for splits in loaded.values():
        assert {split: len(data) for split, data in splits.items()} == SIZES
        first = splits["train"][0]["tags"]
        assert first[:5] == {
            **{"ud_pos": ["PROPN", "PROPN", "NOUN", "PROPN", "NOUN"]},
            **{"semeval2016": ["B-TARGET", "E-TARGET", "O", "S-TARGET", "O"]},
        }.get(corpus, ["B-PER", "E-PER", "O", "S-LOC", "O"])
    assert set(labels_of(args, loaded)) >= {tag for splits in loaded.values() for tag in splits["test"][0]["tags"]}


def test_a_tag_outside_the_labels_of_a_recipe_is_named(place):
    (args,) = parse_recipe((DataArguments,), [str(PAPER / "ud_pos.yaml"), "--labels", "NOUN", "VERB"])
    with pytest.raises(
        CorpusError, match=r"language 'en', split 'train': .* row 1, word 1: tag 'PROPN' of .* not in the"
    ):
        load_data(args)
    with pytest.raises(RecipeError, match="the corpora have PROPN, which is not among the labels"):
        labels_of(args, {"en": datasets.Dataset.from_dict({"tokens": [["Ada"]], "tags": [["PROPN"]]})})


@pytest.mark.slow
@pytest.mark.parametrize(("corpus", "student"), PAIRS)
def test_from_a_teacher_to_a_card(place, teachers, corpus, student):
    output = place / "runs" / corpus / student
    encoder = ("--model", "xlmr" if student == "xlmr" else "mbert")
    languages = languages_of(corpus) if EVERYTHING else languages_of(corpus)[-2:]
    recipes = (PAPER / f"{corpus}.yaml", PAPER / f"{student}.yaml", *SHORT, "--languages", *languages)
    run("distill", *recipes, *encoder, "--teachers", teachers(corpus), "--output_dir", output)
    asked = fields_of(corpus) | fields_of(student)

    config = AutoConfig.from_pretrained(output / "student")
    tags = set(config.id2label.values())
    if corpus == "ud_pos":
        assert tags == set(asked["labels"])
    else:
        types = ("TARGET",) if corpus == "semeval2016" else ("LOC", "ORG", "PER")
        assert {f"{prefix}-{types[0]}" for prefix in "BES"} < tags
        assert tags <= {"O", *(f"{prefix}-{name}" for name in types for prefix in "BIES")}
    own = asked.get("model_config", {})
    assert {name: getattr(config, name) for name in own} == own
    results = json.loads((output / "results.json").read_text())
    assert results["history"][0]["kd_lambda"] == 1.0
    for by_tagger in results["scores"].values():
        assert set(by_tagger) == {"teachers", "baseline", asked["objective"]}
    for name in ("corpus", "model", "num_train_epochs", "languages", "report_to"):
        asked.pop(name, None)  # given otherwise, or written otherwise
    for name in {"learning_rate", "crf_learning_rate"} & set(asked):
        asked[name] = float(asked[name])  # 1e-2 is text to YAML 1.1, which this test reads
    assert {name: results["settings"][name] for name in asked} == asked
    card = (output / "student" / "README.md").read_text()
    assert "Berg" not in card  # a word of the corpora, which are not to be quoted


@pytest.mark.slow
def test_a_plateau_halves_the_rate_of_the_frozen_student(place):
    output = place / "plateau"
    # Too slow to change a score: every evaluation but the first brings nothing.
    slow = ("--num_train_epochs", 4, "--learning_rate", 1e-6, "--lr_scheduler_kwargs")
    kwargs = json.dumps({**fields_of("mbert_bilstm")["lr_scheduler_kwargs"], "patience": 0})
    # `structkd teacher` takes no field that is about teachers
    own = {name: value for name, value in fields_of("mbert_bilstm").items() if name not in IDLE_FIELDS["teacher"]}
    (place / "frozen.yaml").write_text(yaml.safe_dump(own))
    recipes = (PAPER / "semeval2016.yaml", place / "frozen.yaml", "--use_cpu", "--disable_tqdm")
    chosen = ("--model", "mbert", "--languages", "tr", "--logging_steps", 1, "--output_dir", output)
    run("teacher", *recipes, *slow, kwargs, *chosen)
    history = json.loads((output / "trainer_state.json").read_text())["log_history"]
    rates = [entry["learning_rate"] for entry in history if "learning_rate" in entry]
    assert rates == pytest.approx([1e-6, 1e-6, 0.5e-6, 0.25e-6])


def test_one_path_names_a_teacher_for_every_language():
    args = TeacherArguments(teachers="runs/{language}/teacher")
    assert args.sources("en") == [TeacherSource("runs/en/teacher")]
    assert args.sources("nl") == [TeacherSource("runs/nl/teacher")]


def opinion(text: str, target: str, start: int | None = None) -> str:
    start = text.index(target) if start is None else start
    return f'<Opinion target="{target}" from="{start}" to="{start + len(target)}"/>'


def reviews(*sentence: str) -> str:
    return "<Reviews>" + f"<Review><sentences>{''.join(sentence)}</sentences></Review>" * 10 + "</Reviews>"


def test_reviews_become_columns(tmp_path, monkeypatch, capsys):
    text = "Le sushi-bar, très bon: pad thai!"
    opinions = [opinion(text, "sushi"), opinion(text, "pad thai"), opinion(text, "thai"), opinion(text, "pad thai")]
    opinions.append('<Opinion target="NULL" from="0" to="0"/>')
    kept = f"<sentence><text>{text}</text><Opinions>{''.join(opinions)}</Opinions></sentence>"
    left = '<sentence OutOfScope="TRUE"><text>Hors sujet</text></sentence>'
    (tmp_path / "a.xml").write_text(reviews(kept, left), encoding="utf-8")
    (tmp_path / "b.xml").write_text(reviews(kept), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["", *(str(tmp_path / name) for name in ("a.xml", "b.xml", "fr"))])
    semeval_columns.main()
    said = capsys.readouterr().out
    assert "10 targets that no text stands for" in said
    assert "10 targets inside or across another" in said
    assert "10 sentences out of scope" in said
    loaded = {split: datasets_of(tmp_path / "fr" / f"{split}.conll") for split in SIZES}
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 9, "dev": 1, "test": 10}
    words, tags = loaded["dev"][0]
    assert words == ["Le", "sushi", "-", "bar", ",", "très", "bon", ":", "pad", "thai", "!"]
    assert tags == ["O", "B-TARGET", *["O"] * 6, "B-TARGET", "I-TARGET", "O"]


def datasets_of(path: Path) -> list[tuple[list[str], list[str]]]:
    data = load_data(DataArguments(corpus={"fr": str(path)}), splits=("test",))["fr"]["test"]
    return list(zip(data["tokens"], data["tags"]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<Reviews><Review>", "not XML"),
        ("<Reviews/>", "no <Review>"),
        (
            reviews(f"<sentence id='7'><text>good tea</text><Opinions>{opinion('', 'tea', 4)}</Opinions></sentence>"),
            "sentence 7: target 'tea' is said to be at 4 to 7, but there is ' te'",
        ),
    ],
    ids=["broken", "empty", "elsewhere"],
)
def test_reviews_that_cannot_be_read_leave_nothing_behind(tmp_path, monkeypatch, content, message):
    (tmp_path / "a.xml").write_text(content)
    monkeypatch.setattr(sys, "argv", ["", *(str(tmp_path / name) for name in ("a.xml", "a.xml", "out"))])
    with pytest.raises(SystemExit, match=message):
        semeval_columns.main()
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_tables_are_what_the_script_makes_of_the_figures():
    before = (PAPER / "README.md").read_text(encoding="utf-8")
    training_cost.write()
    assert (PAPER / "README.md").read_text(encoding="utf-8") == before


@pytest.mark.slow
def test_operations_are_counted_right():
    # 12 layers: four square matrices and two four times as long; a multiplication and an addition each, and the
    # attention to 32 positions, once for the scores and once for the sum.
    forward = 12 * (2 * 12 * 768**2 + 2 * 2 * 32 * 768)
    frozen, tuned = ({"model": "FacebookAI/xlm-roberta-base", "model_config": {"freeze_encoder": f}} for f in (1, 0))
    assert training_cost.operations_a_subword(frozen, training=True) == forward
    assert training_cost.operations_a_subword(tuned, training=True) == pytest.approx(3 * forward, rel=0.01)
    reference = yaml.safe_load((training_cost.RESULTS / "reference.yaml").read_text())
    for corpus in CORPORA:
        assert set(reference["sizes"][corpus]) == set(languages_of(corpus))
    hours = training_cost.operations(reference, "conll", "mbert_bilstm") / 3600 / 15.7e12
    assert hours / training_cost.share_of_peak(reference) == pytest.approx(11)
