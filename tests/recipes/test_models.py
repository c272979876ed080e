"""Dangers: a recipe's encoder gets another family's class, or a trained tagger's labels are renamed by position."""

# ruff: noqa: F811 (a test's arguments are the fixtures that it imports)

import json

import pytest
import torch
from transformers import AutoTokenizer, ElectraConfig, ElectraModel

from hf_structkd import Teacher, load_corpora
from hf_structkd.evaluation import read_results
from hf_structkd.evaluation.flips import flips
from hf_structkd.recipes.fields import ModelArguments
from hf_structkd.recipes.folder import SETTINGS_FILE
from hf_structkd.recipes.models import check_model, make_tagger, trim_tagger
from hf_structkd.recipes.parser import RecipeError
from hf_structkd.recipes.recipe import Recipe
from hf_structkd.recipes.run import DistillationRun
from tests.modeling.conftest import family, tokenizers_by_family  # noqa: F401 (fixtures)

from ..conftest import draw_student


def no_sentences():
    raise AssertionError("only a tokenizer from scratch needs sentences")


@pytest.fixture
def saved(family, tmp_path):
    family.student().save_pretrained(tmp_path)
    family.tokenizer.save_pretrained(tmp_path)
    return str(tmp_path)


def test_every_family_is_taken_as_it_is(family, saved):
    model, tokenizer = make_tagger(ModelArguments(model=saved), family.labels, "BIO", no_sentences)
    assert type(model) is family.cls
    assert model.config.tag_scheme == "BIO"
    assert tokenizer.get_vocab() == family.tokenizer.get_vocab()
    assert model.word_starts.pieces.any()


def test_a_taggers_labels_are_not_renamed(family, saved):
    with pytest.raises(RecipeError, match="is trained on the labels"):
        make_tagger(ModelArguments(model=saved), family.labels[::-1], "BIO", no_sentences)


def test_too_few_embeddings_are_told_before_teachers_are_trained(family, saved):
    check_model(ModelArguments(model=saved))
    tokenizer = AutoTokenizer.from_pretrained(saved)
    tokenizer.add_tokens([f"<extra{number}>" for number in range(family.student().config.vocab_size)])
    tokenizer.save_pretrained(saved)
    with pytest.raises(RecipeError, match="embeddings and its tokenizer"):
        check_model(ModelArguments(model=saved))


def test_an_encoder_without_a_crf_class_is_an_error_of_the_recipe(tokenizers_by_family, labels, tmp_path):
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    ElectraModel(ElectraConfig(vocab_size=300, embedding_size=8, **shape)).save_pretrained(tmp_path)
    tokenizers_by_family["bert"].save_pretrained(tmp_path)
    with pytest.raises(RecipeError, match="no CRF head for encoders of type 'electra'"):
        make_tagger(ModelArguments(model=str(tmp_path)), labels, "BIO", no_sentences)


def test_a_softmax_teacher_of_any_family(family, tmp_path):
    family.plain_encoder().save_pretrained(tmp_path)
    family.tokenizer.save_pretrained(tmp_path)
    model, _ = make_tagger(ModelArguments(model=str(tmp_path), head="softmax"), family.labels, "BIO", no_sentences)
    assert type(model).__name__.endswith("ForTokenClassification")


def test_a_trained_tagger_starts_a_smaller_one_with_its_head(family, tmp_path):
    trained = family.student(num_hidden_layers=3)
    trained.save_pretrained(tmp_path)
    family.tokenizer.save_pretrained(tmp_path)
    model, _ = make_tagger(ModelArguments(model=str(tmp_path), keep_layers=2), family.labels, "BIO", no_sentences)
    assert model.config.num_hidden_layers == 2
    assert torch.equal(model.crf.transitions, trained.crf.transitions)
    assert torch.equal(model.classifier.weight, trained.classifier.weight)
    with pytest.raises(RecipeError, match="keep_layers must be from 1 to 3"):
        make_tagger(ModelArguments(model=str(tmp_path), keep_layers=4), family.labels, "BIO", no_sentences)


def test_a_frozen_encoder_with_an_lstm_is_two_fields_of_the_recipe(family, tmp_path):
    family.plain_encoder().save_pretrained(tmp_path)
    family.tokenizer.save_pretrained(tmp_path)
    fields = {"freeze_encoder": True, "lstm_hidden_size": 4}
    model, _ = make_tagger(ModelArguments(model=str(tmp_path), model_config=fields), family.labels, None, no_sentences)
    assert model.lstm.layers.hidden_size == 4
    assert not any(p.requires_grad for p in model.base_model.parameters())
    arguments = ModelArguments(model=str(tmp_path), model_config=fields, head="softmax")
    with pytest.raises(RecipeError, match="freeze_encoder, lstm_hidden_size need a model with head: crf"):
        make_tagger(arguments, family.labels, None, no_sentences)


def test_a_recipe_trims_the_vocabulary_and_says_what_is_cut_otherwise(family, saved, corpus, capsys):
    arguments = ModelArguments(model=saved, trim_vocabulary=1)
    model, tokenizer = make_tagger(arguments, family.labels, "BIO", no_sentences)
    train = corpus.select(range(10))
    smaller, its_tokenizer = trim_tagger(model, tokenizer, arguments, train, {"ru": corpus.select(range(50, 60))})
    assert smaller.config.vocab_size == len(its_tokenizer) < len(tokenizer)
    said = capsys.readouterr().out
    assert "pieces kept" in said
    assert "in the dev sentences of ru: " in said
    assert "A word that had one is cut into smaller pieces, so its tags may differ" in said
    starts = its_tokenizer.convert_ids_to_tokens(smaller.word_starts.pieces.nonzero().flatten().tolist())
    assert set(starts) <= set(tokenizer.convert_ids_to_tokens(model.word_starts.pieces.nonzero().flatten().tolist()))
    same = trim_tagger(model, tokenizer, ModelArguments(model=saved), train, {})
    assert same == (model, tokenizer)


# Dangers: a tagger is compared with the one that it replaces on other labels, or on answers that are not its own; a
# card that hides what an update breaks.


OLD = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]  # in another order than the corpora's, and without ORG


@pytest.fixture(scope="module")
def place(tmp_path_factory, tokenizer, labels):
    folder = tmp_path_factory.mktemp("previous")
    for name, seed, own in (("old", 1, OLD), ("same", 1, labels[::-1]), ("new", 2, labels)):
        draw_student(tokenizer, own, seed=seed).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


def test_evaluate_counts_what_an_update_loses(place, run_script, tmp_path):
    printed = run_script(
        "structkd evaluate",
        *("--checkpoint", place / "new", "--previous", place / "old", "--corpus", "demo", "--languages", "de", "en"),
        *("--splits", "test", "--max_test_sentences", 30, "--output_file", tmp_path / "scores.json"),
    )
    results = read_results(tmp_path / "scores.json")
    assert set(results.scores["test"]) == {"previous", "new"}
    old, new = (Teacher.from_pretrained(str(place / name)) for name in ("old", "new"))
    rows = load_corpora("demo", ["de"], ["test"], max_sentences=30)["de"]["test"]
    words = list(rows["tokens"])
    assert results.flips["test"]["new"]["de"] == flips(old.tag(words), new.tag(words), list(rows["tags"]))
    assert set(results.flips["test"]["new"]) == {"de", "en", "all"}
    assert "Against the previous tagger, on test" in printed


def test_evaluate_scores_the_two_decoded_together(place, run_script, tmp_path, refusal):
    common = ("--corpus", "demo", "--languages", "de", "--splits", "test", "--max_test_sentences", 30)
    lost = {}
    for congruence in (0.0, 0.5, 1.0):
        run_script(
            "structkd evaluate",
            *("--checkpoint", place / "new", "--previous", place / "same", "--congruence", congruence, *common),
            *("--output_file", tmp_path / "scores.json"),
        )
        row = f"new, congruence {congruence:g}"
        lost[congruence] = read_results(tmp_path / "scores.json").flips["test"][row]["de"]["entities"]["lost"]
    reference = read_results(tmp_path / "scores.json").flips["test"]["new"]["de"]["entities"]["lost"]
    assert lost[0.0] == reference
    assert lost[1.0] == 0
    message = refusal(
        "structkd evaluate",
        *("--checkpoint", place / "new", "--previous", place / "old", "--congruence", 0.5, *common),
    )
    assert "one of them lacks B-ORG, I-ORG" in message
    assert "there is no previous tagger" in refusal(
        "structkd evaluate", "--checkpoint", place / "new", "--congruence", 0.5, *common
    )


def recipe_of(place, tmp_path, **changes):
    fields = {
        **{"corpus": "demo", "languages": ["de", "en"], "max_train_sentences": 20, "max_dev_sentences": 10},
        **{"max_test_sentences": 20, "model": str(place / "new"), "baseline": False, "objective": "posterior"},
        **{"previous": str(place / "same"), "teachers": "{previous}", "report_to": "none"},
        **{"num_train_epochs": 1, "per_device_train_batch_size": 16, "use_cpu": True, "disable_tqdm": True},
        **{"output_dir": str(tmp_path / "run")},
    }
    return Recipe.from_mapping({name: value for name, value in (fields | changes).items() if value is not None})


def test_a_student_is_compared_with_the_tagger_that_it_replaces(place, tmp_path, capsys):
    run = DistillationRun(recipe_of(place, tmp_path))
    results = run.run()
    assert run.teachers()["de"].name.endswith("same"), "the previous tagger teaches"
    assert set(results.flips) == {"test"}
    assert set(results.flips["test"]) == {"posterior"}
    assert list(results.scores["test"]) == ["previous", "teachers", "posterior"]
    stored = json.loads((tmp_path / "run" / "results.json").read_text())
    assert stored["flips"] == results.flips
    card = (tmp_path / "run" / "student" / "README.md").read_text()
    assert "### Against the previous tagger" in card
    assert "entities lost" in (tmp_path / "run" / "table.md").read_text()
    assert "Against the previous tagger, on test" in capsys.readouterr().out


def test_the_recipe_replace_weighs_what_the_old_tagger_has_right(place, tmp_path):
    recipe = Recipe.from_files(
        "replace",
        **{"previous": str(place / "same"), "model": str(place / "new"), "corpus": "demo", "languages": ["de"]},
        **{"max_train_sentences": 20, "max_dev_sentences": 10, "max_test_sentences": 10, "num_train_epochs": 1},
        **{"output_dir": str(tmp_path / "run"), "use_cpu": True, "disable_tqdm": True},
    )
    run = DistillationRun(recipe)
    results = run.run()
    assert set(results.flips["test"]) == {"baseline", "posterior"}
    seen = json.loads((run.folders["posterior"] / SETTINGS_FILE).read_text())["settings"]
    assert seen["focal_weights"] == [1, 5]
    assert recipe.training.objectives["posterior"][0].weighs_words


def test_a_previous_tagger_may_know_fewer_types_and_not_others(place, tmp_path, tokenizer):
    run = DistillationRun(recipe_of(place, tmp_path, previous=str(place / "old"), teachers=str(place / "same")))
    assert run.previous.labels == OLD
    draw_student(tokenizer, [*OLD, "B-GPE", "I-GPE"]).save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    common = {"previous": str(tmp_path / "other"), "teachers": str(place / "same")}
    with pytest.raises(RecipeError, match="has GPE, which the student lacks"):
        DistillationRun(recipe_of(place, tmp_path, **common)).teachers()
    mapped = DistillationRun(recipe_of(place, tmp_path, **common, previous_label_map={"GPE": "LOC"}))
    assert mapped.previous is not None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"previous": None}, "name it in `previous`"),
        ({"previous": "no/such/folder", "teachers": None, "teacher_model": "scratch"}, "previous 'no/such/folder'"),
    ],
)
def test_a_previous_tagger_that_is_not_there_is_an_error(place, tmp_path, changes, message):
    with pytest.raises(RecipeError, match=message):
        DistillationRun(recipe_of(place, tmp_path, **changes)).teachers()
