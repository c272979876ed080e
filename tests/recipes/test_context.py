"""Danger: a recipe's teachers read other neighbours than those of the document, or none without a word about it."""

import json

import pytest

from hf_structkd import annotate, load_corpora
from hf_structkd.recipes.parser import RecipeError
from hf_structkd.recipes.recipe import Recipe
from hf_structkd.recipes.run import DistillationRun

from ..conftest import draw_student
from .test_no_gold import TINY


@pytest.fixture(scope="module")
def place(tmp_path_factory, tokenizer, labels):
    """Two languages: one with marked documents of three sentences, one without; plain text; and a teacher."""
    folder = tmp_path_factory.mktemp("context")
    for language, splits in load_corpora("demo", ["de", "en"], max_sentences=12).items():
        for split, data in splits.items():
            lines = []
            for number, (words, tags) in enumerate(zip(data["tokens"], data["tags"])):
                if language == "en" and number % 3 == 0:
                    lines += ["-DOCSTART- O", ""]
                lines += [*(f"{word} {tag}" for word, tag in zip(words, tags)), ""]
            (folder / f"{language}.{split}.conll").write_text("\n".join(lines))
        (folder / f"{language}.txt").write_text("\n".join(" ".join(words) for words in splits["train"]["tokens"]))
    draw_student(tokenizer, labels).save_pretrained(folder / "teacher")
    tokenizer.save_pretrained(folder / "teacher")
    return folder


def recipe_of(place, **changes):
    fields = {
        **{"languages": ["de", "en"], "corpus": str(place / "{language}.{split}.conll"), "objective": "posterior"},
        **{"teachers": str(place / "teacher"), "model": "scratch", "model_config": TINY, "vocab_size": 300},
        **{"num_train_epochs": 1, "use_cpu": True, "disable_tqdm": True, "annotation_context": 1},
        "documents": {"de": "source", "en": "marked"},
    }
    return Recipe.from_mapping({name: value for name, value in (fields | changes).items() if value is not None})


def test_a_recipes_teachers_read_the_neighbours(place, tmp_path):
    run = DistillationRun(
        recipe_of(
            place, output_dir=str(tmp_path), max_train_sentences=5, unlabelled_sentences=4, augmentation={"copies": 1}
        )
    )
    annotated = run.annotate()
    assert json.loads((tmp_path / "annotations" / "annotation.json").read_text())["context"]["sentences"] == 1
    documents = annotated["document"]
    assert documents[:10] == ["de/train"] * 5 + ["en/train/1"] * 3 + ["en/train/2"] * 2
    assert documents[10:18] == ["unlabelled/de/train"] * 4 + ["unlabelled/en/train/2"] + ["unlabelled/en/train/3"] * 3
    assert documents[18:] == [None] * 18  # rewritten sentences have no neighbours
    teacher = run.teachers()["en"]
    rows = annotated.to_list()[5:8]
    before, after = rows[0]["tokens"], rows[2]["tokens"]
    found = teacher.distribution([rows[1]["tokens"]], run.data.labels, [(before, after)]).marginals[0]
    assert abs(found.numpy(force=True) - rows[1]["teacher_marginals"]).max() < 1e-3


def test_a_text_is_one_document_where_the_recipe_says_so(place, tmp_path):
    recipe = recipe_of(
        place,
        corpus=None,
        unlabelled_corpus=str(place / "{language}.txt"),
        documents="source",
        output_dir=str(tmp_path),
    )
    run = DistillationRun(recipe)
    annotated = run.annotate()
    assert set(annotated["document"]) == {"de/unlabelled", "en/unlabelled"}
    own = annotated.select_columns(["tokens", "language", "document"])
    alone = annotate(
        own, run.teachers(), label_names=run.data.labels, targets=["teacher_marginals"], progress=False, context=1
    )
    assert alone["teacher_marginals"] == annotated["teacher_marginals"]


def test_a_run_with_context_ends_with_a_report(place, tmp_path):
    results = DistillationRun(recipe_of(place, output_dir=str(tmp_path))).run()
    assert set(results.scores["test"]) >= {"teachers", "posterior"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"documents": None}, "annotation_context: say which sentences are neighbours"),
        ({"annotation_context": 0}, "documents.*annotation_context is 0"),
        ({"annotation_context": -1}, "annotation_context must be at least 0"),
        ({"documents": "marked"}, "language 'de'.*nothing marks documents"),
        ({"documents": {"fr": "source"}}, "documents names fr"),
    ],
)
def test_what_means_nothing_is_refused(place, tmp_path, changes, message):
    with pytest.raises((RecipeError, ValueError), match=message):
        DistillationRun(recipe_of(place, output_dir=str(tmp_path), **changes)).annotate()
