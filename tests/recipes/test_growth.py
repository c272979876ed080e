"""Dangers: a tagger that grows forgets what it knew, is taught that unknown types are O, or starts from other labels
than the recipe says."""

import json

import pytest
from transformers import AutoConfig, AutoTokenizer

from hf_structkd import StructKDTrainingArguments, Teacher, load_corpora
from hf_structkd.recipes.folder import warn_of_unlearnt_types
from hf_structkd.recipes.parser import RecipeError
from hf_structkd.recipes.recipe import Recipe
from hf_structkd.recipes.run import DistillationRun

from ..conftest import draw_student
from ..pages import commands, programs, quickly, run_program

LANGUAGES = ["de", "en"]
OLD = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]


@pytest.fixture(scope="module")
def place(tmp_path_factory, tokenizer):
    """An old tagger of LOC and PER, and files with gold tags of ORG alone."""
    folder = tmp_path_factory.mktemp("growth")
    for language, splits in load_corpora("demo", LANGUAGES, max_sentences=24).items():
        for split, rows in splits.items():
            lines = [
                "\n".join(f"{word} {tag if tag.endswith('ORG') else 'O'}" for word, tag in zip(words, tags))
                for words, tags in zip(rows["tokens"], rows["tags"])
            ]
            (folder / f"{language}.{split}.conll").write_text("\n\n".join(lines) + "\n")
    draw_student(tokenizer, OLD, languages=["en", "fr"]).save_pretrained(folder / "old")
    tokenizer.save_pretrained(folder / "old")
    return folder


def recipe_of(place, tmp_path, **changes):
    fields = {
        **{"corpus": str(place / "{language}.{split}.conll"), "languages": LANGUAGES, "baseline": False},
        **{"model": str(place / "old"), "add_types": ["ORG"], "teachers": "{model}", "objective": "posterior"},
        **{"num_train_epochs": 1, "per_device_train_batch_size": 16, "use_cpu": True, "disable_tqdm": True},
        **{"output_dir": str(tmp_path / "run"), "report_to": "none"},
        **{"annotated_types": {language: ["ORG"] for language in LANGUAGES}},
    }
    return Recipe.from_mapping({name: value for name, value in (fields | changes).items() if value is not None})


def test_the_old_tagger_teaches_with_the_new_type_hidden_in_its_o(place, tmp_path):
    run = DistillationRun(recipe_of(place, tmp_path))
    run.run()
    for panel in run.teachers().values():
        ((teacher, weight),) = panel.members
        assert teacher.label_map == {"O": ["O", "ORG"]}
        assert weight == 1.0
    groups = run.annotate()["teacher_groups"][0]
    assert groups == [0, 1, 2, 3, 4, 0, 0], "O and ORG are one group"
    config = json.loads((tmp_path / "run" / "student" / "config.json").read_text())
    assert [config["id2label"][str(i)] for i in range(7)] == [*OLD, "B-ORG", "I-ORG"]
    assert config["languages"] == ["de", "en", "fr"], "the languages of the old tagger and of the new sentences"
    assert Teacher.from_pretrained(str(tmp_path / "run" / "student")).labels == [*OLD, "B-ORG", "I-ORG"]


def test_a_type_that_was_not_learnt_is_said_with_what_to_set(place, tmp_path, capsys):
    """Danger: a table of zeros, and nothing that tells why."""
    results = DistillationRun(recipe_of(place, tmp_path, learning_rate=1e-9, crf_learning_rate=1e-9)).run()
    seen = capsys.readouterr().out
    splits = results.scores.values()
    counts = [split["posterior"][language]["by_type"]["ORG"] for split in splits for language in LANGUAGES]
    assert not any(count["correct"] for count in counts)
    number = int(sum(count["number"] for count in counts))
    assert (
        f"WARNING: posterior has not learnt ORG (0 of {number} right). It was trained for 3 updates in 1 epoch with"
        in seen
    )
    assert "learning_rate 1e-09 and crf_learning_rate 1e-09" in seen
    assert (
        "set num_train_epochs: 134 (about 400 updates), and a larger rate, for instance learning_rate: 0.0003" in seen
    )
    remark = "types that the teachers do not know and never answer with"
    test = {language: results.scores["test"]["teachers"][language]["by_type"]["ORG"] for language in LANGUAGES}
    known = "; ".join(f"{language}: ORG ({count['number']:.0f})" for language, count in test.items())
    assert remark in seen
    assert known in seen
    example = {line[1:3]: line[5:] for line in seen.splitlines() if line[:4] in ("[de]", "[en]")}
    for language in LANGUAGES:  # the sentence that is shown has an entity to find
        gold = (place / f"{language}.test.conll").read_text().strip().split("\n\n")
        first = next(sentence for sentence in gold if "ORG" in sentence)
        words = [line.split()[0] for line in first.splitlines()]
        assert [word.rpartition("/")[0] or word for word in example[language].split()] == words
    assert remark in (tmp_path / "run" / "table.md").read_text()
    assert remark in (tmp_path / "run" / "student" / "README.md").read_text()


def test_what_to_set_has_an_effect_where_max_steps_is_set(tmp_path, capsys):
    """Danger: more epochs are advised, but max_steps wins over them; and "1 updates in 1 epochs"."""
    (tmp_path / "trainer_state.json").write_text(
        json.dumps({"global_step": 1, "num_train_epochs": 1, "log_history": []})
    )
    args = StructKDTrainingArguments(str(tmp_path), max_steps=1, use_cpu=True)
    warn_of_unlearnt_types("student", [{"en": {"by_type": {"PER": {"number": 20, "correct": 0}}}}], tmp_path, args)
    seen = capsys.readouterr().out
    assert "trained for 1 update in 1 epoch with" in seen
    assert "set max_steps: 400, or leave max_steps out" in seen


@pytest.mark.parametrize(
    ("correct", "updates", "warned"),
    [
        ({"PER": 0, "LOC": 0}, 30, True),
        ({"PER": 5, "LOC": 0}, 30, True),
        ({"PER": 5, "LOC": 4}, 30, False),
        ({"PER": 5, "LOC": 3, "ORG": 0}, 5000, False),  # a rare type is no sign of a wrong setting
        ({"PER": 0, "LOC": 0, "ORG": 2}, 5000, True),
    ],
)
def test_what_counts_as_not_learnt(tmp_path, capsys, correct, updates, warned):
    state = {
        "global_step": updates,
        "num_train_epochs": 3,
        "log_history": [{"eval_macro_loss": x} for x in (2.5, 2.25)],
    }
    (tmp_path / "trainer_state.json").write_text(json.dumps(state))
    report = {"by_type": {kind: {"number": 20, "correct": right} for kind, right in correct.items()}}
    args = StructKDTrainingArguments(str(tmp_path), learning_rate=5e-4, crf_learning_rate=1e-3, use_cpu=True)
    warn_of_unlearnt_types("student", [{"en": report, "avg": {}}, {"en": report}], tmp_path, args)
    seen = capsys.readouterr().out
    assert ("WARNING: student has not learnt" in seen) == warned
    if warned:
        assert "its loss on dev went from 2.5 to 2.25" in seen
        assert ("num_train_epochs: 40" in seen) == (updates == 30)
        assert "crf_learning_rate: 0.01" in seen
        assert "for instance learning_rate" not in seen


def test_a_language_is_added_to_a_tagger_whose_types_the_corpus_has_in_part(place, tmp_path):
    run = DistillationRun(
        recipe_of(
            place,
            tmp_path,
            add_types=None,
            labels=None,
            corpus={"de": str(place / "plain.{split}.conll")},
            languages=["de"],
            **files_of(place, "plain", lambda tag: tag if tag.endswith("PER") else "O"),
            annotated_types={"de": ["PER"]},
        )
    )
    assert run.data.labels == OLD


def files_of(place, name, keep):
    for split, rows in load_corpora("demo", ["de"], max_sentences=24)["de"].items():
        lines = [
            "\n".join(f"{word} {keep(tag)}" for word, tag in zip(words, tags))
            for words, tags in zip(rows["tokens"], rows["tags"])
        ]
        (place / f"{name}.{split}.conll").write_text("\n\n".join(lines) + "\n")
    return {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"add_types": ["PER"]}, "knows the type 'PER' already"),
        ({"add_types": ["O"]}, "cannot be named 'O'"),
        ({"add_types": None}, r"to add what is new, give add_types: \[ORG\]"),
        ({"add_types": ["ORG"], "head": "softmax"}, "that of .* is crf: give head: crf"),
        ({"annotated_types": None}, "has no LOC, PER, which .* forget.*annotated_types: {de: \\[ORG\\]}"),
        ({"tag_scheme": "BIOES", "corpus_scheme": "BIO"}, "tag_scheme is BIOES, and the tagger .* has BIO tags"),
        ({"labels": ["O", "B-ORG", "I-ORG"]}, "leave the field out"),
        ({"teachers": "{model}/x"}, "stands for the whole name of a teacher"),
    ],
)
def test_what_cannot_grow_is_refused_before_any_training(place, tmp_path, changes, message):
    with pytest.raises(RecipeError, match=message):
        DistillationRun(recipe_of(place, tmp_path, **changes)).run()
    assert not (tmp_path / "run" / "student").exists()


def test_an_encoder_has_no_types_to_add_to(place, tmp_path, tokenizer):
    from transformers import XLMRobertaConfig, XLMRobertaModel

    config = XLMRobertaConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    XLMRobertaModel(config).save_pretrained(tmp_path / "encoder")
    tokenizer.save_pretrained(tmp_path / "encoder")
    with pytest.raises(RecipeError, match="adds types to a tagger"):
        DistillationRun(recipe_of(place, tmp_path, model=str(tmp_path / "encoder"), teachers=str(place / "old"))).run()
    with pytest.raises(RecipeError, match=r"no effect here.*add_types"):
        recipe_of(place, tmp_path, model="scratch", teachers=str(place / "old"))
    with pytest.raises(RecipeError, match="model is 'scratch'"):
        recipe_of(place, tmp_path, model="scratch", add_types=None)


def test_a_teacher_that_knows_the_new_type_is_read_as_it_is(place, tmp_path, tokenizer):
    draw_student(tokenizer, [*OLD, "B-ORG", "I-ORG"]).save_pretrained(tmp_path / "expert")
    tokenizer.save_pretrained(tmp_path / "expert")
    run = DistillationRun(
        recipe_of(place, tmp_path, teachers={"de": str(tmp_path / "expert"), "en": "{model}"}, add_types=["ORG"])
    )
    maps = {language: panel.members[0][0].label_map for language, panel in run.teachers().items()}
    assert maps == {"de": {}, "en": {"O": ["O", "ORG"]}}


def test_the_command_teacher_extends_a_tagger_too(place, tmp_path, run_script):
    run_script(
        "structkd teacher",
        *("--corpus", place / "{language}.{split}.conll", "--languages", '["de"]', "--model", place / "old"),
        *(
            "--add_types",
            '["ORG"]',
            "--annotated_types",
            '{"de": ["ORG"]}',
            "--output_dir",
            tmp_path / "naive",
            "--num_train_epochs",
            1,
            "--use_cpu",
        ),
        *("--disable_tqdm", "--report_to", "none"),
    )
    assert Teacher.from_pretrained(str(tmp_path / "naive")).labels == [*OLD, "B-ORG", "I-ORG"]


def test_old_languages_are_plain_text_and_the_new_one_has_gold_tags(place, tmp_path):
    """Some languages have gold tags and others only text: each is taught by its own teacher."""
    for language in LANGUAGES:
        words = load_corpora("demo", [language], ["train"], max_sentences=40)[language]["train"]["tokens"]
        (tmp_path / f"{language}.txt").write_text("\n".join(" ".join(sentence) for sentence in words))
    gold = {split: str(place / f"de.{split}.conll") for split in ("train", "dev", "test")}
    run = DistillationRun(
        recipe_of(
            place,
            tmp_path,
            **{"corpus": {"de": gold}, "unlabelled_corpus": str(tmp_path / "{language}.txt")},
            **{"languages": LANGUAGES, "annotated_types": {"de": ["ORG"]}, "unlabelled_rate": 0.5},
            teachers={"de": "{model}", "en": "{model}"},
        )
    )
    results = run.run()
    assert run.data.agreement == ("en",)
    assert results.gold_sentences == {"de": 24, "en": 0}


# Danger: a page that says how a tagger grows, and whose commands do not run.


@pytest.fixture(scope="module")
def page_place(tmp_path_factory, tokenizer, labels):
    """What the pages take as given: taggers, and files of the demo corpus."""
    folder = tmp_path_factory.mktemp("pages")
    for language, splits in load_corpora("demo", ["de", "en", "es"], max_sentences=20).items():
        name = "fr" if language == "es" else language
        for split, rows in splits.items():
            for kind, keep in (("all", lambda tag: tag), ("new", lambda tag: tag if tag.endswith("ORG") else "O")):
                lines = [
                    "\n".join(f"{word} {keep(tag)}" for word, tag in zip(words, tags))
                    for words, tags in zip(rows["tokens"], rows["tags"])
                ]
                for target in (folder / kind / name, *([folder / name] if kind == "all" else [])):
                    target.mkdir(parents=True, exist_ok=True)
                    (target / f"{split}.conll").write_text("\n\n".join(lines) + "\n")
        (folder / "text").mkdir(exist_ok=True)
        text = "\n".join(" ".join(words) for words in splits["train"]["tokens"])
        for written in {name, language}:
            (folder / "text" / f"{written}.txt").write_text(text)
    return folder


@pytest.mark.parametrize(
    ("page", "old", "candidate"),
    [
        ("docs/add_a_type.md", OLD, None),
        ("docs/add_a_language.md", None, None),
        ("docs/update_it.md", None, 3),
        ("docs/calibration.md", None, None),
    ],
)
def test_the_commands_of_a_page_run(
    page, old, candidate, page_place, tokenizer, labels, run_script, monkeypatch, tmp_path
):
    for name in page_place.iterdir():
        (tmp_path / name.name).symlink_to(name)
    monkeypatch.chdir(tmp_path)
    for name, own, seed in (("old", old or labels, 1), ("candidate", labels, candidate or 2)):
        draw_student(tokenizer, own, seed=seed, languages=["de", "en"]).save_pretrained(f"runs/{name}")
        tokenizer.save_pretrained(f"runs/{name}")
    found = commands(page)
    assert found
    for command in found:
        assert command[0] == "structkd"
        printed = run_script(" ".join(command[:2]), *quickly(command))
        if command[1] == "evaluate":
            assert "Against the previous tagger" in printed
    for program in programs(page):
        run_program(program, {"__name__": "page"})


PAGE = "docs/make_it_smaller.md"
LITTLE = ("--max_train_sentences", "40", "--no_baseline", "--max_dev_sentences", "10", "--max_test_sentences", "10")


@pytest.mark.slow
def test_the_commands_of_the_page_about_smaller_taggers_run(tokenizer, labels, run_script, monkeypatch, tmp_path):
    """Danger: a page that says how a tagger becomes smaller, and whose commands do not run."""
    for library in ("onnxscript", "onnxruntime"):
        pytest.importorskip(library, reason="needs the onnx extra: onnx, onnxruntime, onnxscript")
    monkeypatch.chdir(tmp_path)
    shape = {"num_hidden_layers": 4, "max_position_embeddings": 66, "languages": ["de", "en"]}
    for seed, name in enumerate(("old", "teachers/de", "teachers/en")):
        draw_student(tokenizer, labels, seed=seed, **shape).save_pretrained(f"runs/{name}")
        tokenizer.save_pretrained(f"runs/{name}")
    (tmp_path / "text").mkdir()
    for language, splits in load_corpora("demo", ["de", "en"], max_sentences=20).items():
        text = "\n".join(" ".join(words) for words in splits["train"]["tokens"])
        (tmp_path / "text" / f"{language}.txt").write_text(text)
    printed = []
    for command in commands(PAGE):
        assert command[0] == "structkd"
        printed.append(run_script(" ".join(command[:2]), *quickly(command, *LITTLE)))
    assert "pieces kept" in printed[0]
    assert "in the dev sentences of de: " in printed[0]
    student = AutoConfig.from_pretrained("runs/small/student")
    assert student.num_hidden_layers == 1
    assert student.vocab_size == len(AutoTokenizer.from_pretrained("runs/small/student")) < len(tokenizer)
    assert AutoConfig.from_pretrained("runs/from_teachers/student").num_hidden_layers == 2
    assert "pieces kept" in printed[2]
    assert "int8 on the text: " in printed[2]
    for program in programs(PAGE):
        run_program(program, {"__name__": "page"})
    assert AutoConfig.from_pretrained("runs/trimmed").num_hidden_layers == 2
