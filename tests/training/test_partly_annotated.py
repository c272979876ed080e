"""Danger: what nobody annotated is learnt, or scored, as if somebody had found nothing there."""

import itertools
import json
import math

import pytest
import torch
from datasets import concatenate_datasets

from hf_structkd import (
    DataCollatorForStructKD,
    LinearChainCRF,
    StructKDTrainer,
    StructKDTrainingArguments,
    Teacher,
    encode_corpus,
    load_corpora,
    load_corpus,
)
from hf_structkd.data.source_text import CorpusError
from hf_structkd.distillation.losses import PartlyAnnotated, mixed_losses
from hf_structkd.distillation.targets import Targets
from hf_structkd.evaluation.compare import compare, declared_only
from hf_structkd.modeling.crf_head import gold_statistics
from hf_structkd.recipes.parser import RecipeError
from hf_structkd.recipes.run import DistillationRun

from ..recipes.test_unlabelled import TINY

LABELS = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
SCORES = ("emissions", "transitions", "start", "end")


def draw(seed, lengths):
    generator, tags = torch.Generator().manual_seed(seed), len(LABELS)
    shapes = [(len(lengths), max(lengths), tags), (tags, tags), (tags,), (tags,)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]


def open_of(*types):
    """The tags of all types but these, for one sentence; `None` declares all."""
    return [types != (None,) and tag != "O" and tag[2:] not in types for tag in LABELS]


@pytest.mark.parametrize("seed", range(4))
def test_the_loss_is_the_probability_of_everything_that_agrees(seed):
    lengths, declared = [4, 2, 3, 1], [("PER",), (None,), (), ("LOC", "PER")]
    scores = draw(seed, lengths)
    gold = [["O", "B-PER", "I-PER", "O"], ["O", "B-LOC"], ["O", "O", "O"], ["O"]]
    labels = torch.full((4, 4), -100)
    for row, tags in enumerate(gold):
        labels[row, : len(tags)] = torch.tensor([LABELS.index(tag) for tag in tags])
    open_tags = torch.tensor([open_of(*types) for types in declared])
    student = LinearChainCRF(*scores, lengths=torch.tensor(lengths))
    partly = PartlyAnnotated(open_tags, 0)
    weighted, _ = mixed_losses(student, labels, labels >= 0, Targets({}), {}, 0.0, partly)
    emissions, transitions, start, end = scores
    for row, (length, tags) in enumerate(zip(lengths, gold)):
        total, agreeing = [], []
        for path in itertools.product(range(len(LABELS)), repeat=length):
            score = start[path[0]] + end[path[-1]] + sum(emissions[row, i, tag] for i, tag in enumerate(path))
            score = score + sum(transitions[a, b] for a, b in itertools.pairwise(path))
            total.append(score)
            if all(
                LABELS[tag] == wanted or (wanted == "O" and open_tags[row, tag]) for tag, wanted in zip(path, tags)
            ):
                agreeing.append(score)
        expected = torch.stack(total).logsumexp(0) - torch.stack(agreeing).logsumexp(0)
        assert weighted["nll"][row].item() == pytest.approx(expected.item(), abs=1e-10)
        wanted = torch.autograd.grad(expected, scores, retain_graph=True, allow_unused=True)
        found = torch.autograd.grad(weighted["nll"][row], scores, retain_graph=True)
        for one, other, name in zip(wanted, found, SCORES):
            one = torch.zeros_like(other) if one is None else one  # a sentence of one word has no transitions
            torch.testing.assert_close(other, one, rtol=0, atol=1e-9, msg=name)


def test_with_all_types_declared_it_is_the_nll_to_the_bit():
    lengths = [3, 2]
    student = LinearChainCRF(*draw(5, lengths), lengths=torch.tensor(lengths))
    labels = torch.tensor([[0, 1, 2], [3, -100, -100]])[:, :3]
    labels[1, 1] = 0
    plain, _ = mixed_losses(student, labels, labels >= 0, Targets({}), {}, 0.0)
    nothing_open = PartlyAnnotated(torch.zeros(2, len(LABELS), dtype=torch.bool), 0)
    partly, _ = mixed_losses(student, labels, labels >= 0, Targets({}), {}, 0.0, nothing_open)
    assert torch.equal(plain["nll"], partly["nll"])


def test_it_agrees_with_another_library():
    other = pytest.importorskip("pytorch_partial_crf", reason="pytorch-partial-crf is not installed")
    lengths = [4, 4]
    scores = [part.detach().float().requires_grad_() for part in draw(3, lengths)]
    crf = other.PartialCRF(len(LABELS))
    with torch.no_grad():
        crf.transitions.copy_(scores[1])
        crf.start_transitions.copy_(scores[2])
        crf.end_transitions.copy_(scores[3])
    labels = torch.tensor([[0, 3, 4, 0], [1, 0, 0, 2]])
    student = LinearChainCRF(*scores, lengths=torch.tensor(lengths))
    gold, _ = gold_statistics(labels, labels >= 0, len(LABELS))
    # That library knows words with one tag (>= 0) and words with any tag (-1).
    any_tag = torch.ones(2, len(LABELS), dtype=torch.bool)
    found = PartlyAnnotated(any_tag, 0).nll(student, gold, student.cross_entropy(gold))
    theirs = crf(scores[0], labels.masked_fill(labels == 0, -1))
    assert found.sum().item() == pytest.approx(theirs.item(), rel=1e-4)


@pytest.fixture
def partly_annotated(corpus):
    """The Russian half of the corpus, whose annotators looked for places only."""
    english = corpus.filter(lambda row: row["language"] == "en")
    russian = corpus.filter(lambda row: row["language"] == "ru")

    def places(row):
        return {"tags": [tag if tag.endswith("LOC") else "O" for tag in row["tags"]], "annotated_types": ["LOC"]}

    russian = russian.map(places)
    empty = english.add_column("annotated_types", [None] * len(english), feature=russian.features["annotated_types"])
    return concatenate_datasets([empty, russian])


@pytest.mark.parametrize("objective", ["none", "posterior"])
def test_training_finds_what_the_other_corpus_taught(
    partly_annotated, corpus, labels, make_student, tokenizer, tmp_path, objective
):
    """Trained on the same sentences, a student that is told of the gaps keeps the types that fill them."""

    def persons(train):
        args = StructKDTrainingArguments(
            **{"output_dir": str(tmp_path), "report_to": "none", "disable_tqdm": True, "use_cpu": True},
            **{"save_strategy": "no", "per_device_train_batch_size": 8, "gradient_accumulation_steps": 2},
            **{"learning_rate": 0.01, "num_train_epochs": 8, "seed": 1, "objective": objective, "lambda_start": 0.3},
        )
        teachers = {language: Teacher(make_student(seed=4), tokenizer) for language in ("en", "ru")}
        trainer = StructKDTrainer(
            make_student(seed=3), args, None, train, {"ru": partly_annotated.select(range(30, 60))}, tokenizer,
            teachers=teachers if objective != "none" else None,
        )  # fmt: skip
        trainer.train()
        metrics = trainer.evaluate()
        russian = [row["tokens"] for row in partly_annotated if row["language"] == "ru"]
        found = Teacher(trainer.model, tokenizer).tag(russian)
        return sum(tag.endswith("PER") for tags in found for tag in tags), metrics

    told, metrics = persons(partly_annotated)
    misled, _ = persons(partly_annotated.remove_columns("annotated_types"))
    assert told > misled
    assert "eval_ru_f1_PER" not in metrics, "nobody looked for persons there, so nothing can be said of them"


def test_scores_count_what_was_declared(partly_annotated):
    russian = partly_annotated.filter(lambda row: row["language"] == "ru")

    class Oracle:
        def tag(self, sentences, label_names=None, *, batch_size=64):
            return [["B-PER" if tag == "O" else tag for tag in tags] for tags in russian["tags"]]

    labels = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
    scores, _ = compare({"x": Oracle()}, {"ru": {"test": russian}}, labels, ["test"])
    assert scores["test"]["x"]["ru"]["f1"] == 1.0
    scores, _ = compare({"x": Oracle()}, {"ru": {"test": russian.remove_columns("annotated_types")}}, labels, ["test"])
    assert scores["test"]["x"]["ru"]["f1"] < 0.9
    assert declared_only(["B-PER", "I-PER", "O", "S-LOC"], ["LOC"]) == ["O", "O", "O", "S-LOC"]
    assert declared_only(["B-PER"], None) == ["B-PER"]


def test_a_teacher_is_calibrated_on_sentences_whose_tags_are_all_known(partly_annotated, make_student, tokenizer):
    calibration = Teacher(make_student(seed=1), tokenizer).calibrate(partly_annotated)
    assert (calibration.sentences, calibration.left_out) == (30, 30)


def test_types_are_declared_per_language_or_per_sentence(tmp_path):
    file = tmp_path / "x.jsonl"
    rows = [
        {"tokens": ["Anna", "left"], "tags": ["B-PER", "O"], "annotated_types": ["PER"]},
        {"tokens": ["Bonn"], "tags": ["B-LOC"]},
        {"tokens": ["Ok"], "tags": None},
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    assert load_corpus(file, language="en")["annotated_types"] == [["PER"], None, None]
    rows[0]["annotated_types"] = ["LOC"]
    file.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(CorpusError, match=r"x.jsonl:1, word 1: the tag B-PER, but annotated_types has only LOC"):
        load_corpus(file, language="en")
    rows[0]["annotated_types"] = "PER"
    file.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(CorpusError, match="must be a list of entity types, not 'PER'"):
        load_corpus(file, language="en")
    corpora = load_corpora("demo", ["de", "en"], max_sentences=5, annotated_types={"de": ["LOC", "ORG", "PER"]})
    assert corpora["de"]["test"]["annotated_types"][0] == ["LOC", "ORG", "PER"]
    assert corpora["en"]["test"]["annotated_types"] == [None] * 5
    with pytest.raises(CorpusError, match="annotated_types names fr, but the languages are de"):
        load_corpora("demo", ["de"], annotated_types={"fr": ["PER"]})
    with pytest.raises(ValueError, match="is the text 'PER', but must be a list"):
        load_corpus("demo", language="de", annotated_types="PER")


def test_a_recipe_mixes_corpora_of_many_and_of_few_types(tmp_path, capsys):
    corpora = load_corpora("demo", ["de", "en"], max_sentences=40)
    for language, splits in corpora.items():
        for split, data in splits.items():
            kept = {"de": ("LOC",), "en": ("LOC", "ORG", "PER")}[language]
            rows = [
                {"tokens": words, "tags": [tag if tag[2:] in kept else "O" for tag in tags]}
                for words, tags in zip(data["tokens"], data["tags"])
            ]
            (tmp_path / f"{language}.{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    run = DistillationRun.from_recipe(
        corpus=str(tmp_path / "{language}.{split}.jsonl"), languages=["de", "en"], annotated_types={"de": ["LOC"]},
        model="scratch", model_config=TINY, vocab_size=300, teacher_model="scratch", teacher_model_config=TINY,
        teacher_num_train_epochs=1, num_train_epochs=1, objective="none", use_cpu=True, disable_tqdm=True,
        output_dir=str(tmp_path / "run"), baseline=False,
    )  # fmt: skip
    results = run.run()
    assert "de (LOC only): 40 train" in capsys.readouterr().out
    assert "B-PER" in run.data.labels
    assert not set(results.scores["test"]["none"]["de"]["by_type"]) - {"LOC"}
    assert math.isfinite(results.scores["test"]["none"]["en"]["f1"])


def test_a_teacher_that_a_recipe_trains_on_few_types_leaves_the_others_open(tmp_path):
    """Danger: what it never learnt, whether a word is O or of another type, is taught to the student as knowledge."""
    corpora = load_corpora("demo", ["de", "en"], max_sentences=20)
    for language, splits in corpora.items():
        for split, data in splits.items():
            rows = [
                {"tokens": w, "tags": [tag if language == "en" or tag.endswith("LOC") else "O" for tag in tags]}
                for w, tags in zip(data["tokens"], data["tags"])
            ]
            (tmp_path / f"{language}.{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    fields = {
        **{"corpus": str(tmp_path / "{language}.{split}.jsonl"), "languages": ["de", "en"], "model": "scratch"},
        **{"annotated_types": {"de": ["LOC"]}, "model_config": TINY, "vocab_size": 300, "teacher_model": "scratch"},
        **{"teacher_model_config": TINY, "teacher_num_train_epochs": 1, "use_cpu": True, "disable_tqdm": True},
        "teacher_temperature": "auto",
    }
    run = DistillationRun.from_recipe(**fields, objective="posterior", output_dir=str(tmp_path / "run"))
    annotated = run.annotate()
    labels = run.data.labels
    for row in (annotated[0], annotated[len(annotated) - 1]):
        open_types = () if row["language"] == "en" else ("ORG", "PER")
        representatives = [0 if tag[2:] in open_types else i for i, tag in enumerate(labels)]
        assert row["teacher_groups"] == representatives, row["language"]
    run = DistillationRun.from_recipe(**fields, objective="structural", output_dir=str(tmp_path / "other"))
    with pytest.raises(RecipeError, match="teacher for de is trained on a corpus that declares some types only"):
        run.teachers()


@pytest.mark.parametrize("labels", [["O", "LOC", "PER"], ["O", *(f"{p}-{t}" for t in ("LOC", "PER") for p in "BIES")]])
def test_plain_and_bioes_tags_are_types_too(labels, tokenizer, tmp_path):
    """Danger: in label sets without B- and I- what was declared has no effect, and nobody says so."""
    row = {"input_ids": [5, 6], "attention_mask": [1, 1], "word_mask": [1, 1], "labels": [0, 0]}
    batch = DataCollatorForStructKD(tokenizer, label_names=labels)([{**row, "annotated_types": ["LOC"]}, row])
    assert batch["open_tags"].tolist() == [[tag.endswith("PER") for tag in labels], [False] * len(labels)]
    person, place = ("PER", "LOC") if len(labels) == 3 else ("S-PER", "S-LOC")
    assert declared_only([person, "O", place], ["LOC"]) == ["O", "O", place]
    file = tmp_path / "x.jsonl"
    file.write_text(json.dumps({"tokens": ["Anna", "left"], "tags": [person, "O"], "annotated_types": ["LOC"]}))
    with pytest.raises(CorpusError, match=f"the tag {person}, but annotated_types has only LOC"):
        load_corpus(file, language="en", scheme="plain" if len(labels) == 3 else "BIOES")


def test_a_collator_without_names_is_refused(partly_annotated, tokenizer):
    encoded = encode_corpus(partly_annotated, tokenizer, sorted({t for row in partly_annotated["tags"] for t in row}))
    with pytest.raises(ValueError, match="annotated_types need a collator with label_names"):
        DataCollatorForStructKD(tokenizer)([encoded[40]])
