"""Dangers: scripts that do not go from a recipe to a student, lose work, or fail with a traceback."""

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from hf_structkd import Recipe, XLMRobertaForTokenClassificationCRF
from hf_structkd.data.demo_corpus import load_demo_corpus

ROOT = Path(__file__).parents[1]
TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
pytestmark = pytest.mark.slow


def run(
    script: str, *arguments: object, launcher: tuple[str, ...] = (sys.executable,), check: bool = True, **env: str
):
    done = subprocess.run(
        [*launcher, str(ROOT / "examples" / script), *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **env},
        timeout=280,
    )
    if check:
        assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def corpora(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("corpora")
    for language in ("en", "ru"):
        for split, count in {"train": 40, "dev": 8, "test": 12}.items():
            rows = load_demo_corpus(language, split, num_sentences=count)
            lines = ["".join(f"{w}\t{t}\n" for w, t in zip(row["tokens"], row["tags"])) for row in rows]
            (folder / f"{language}.{split}.conll").write_text("\n".join(lines), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def recipe(corpora) -> Path:
    path = corpora / "recipe.yaml"
    fields = {
        "corpus": f"{corpora}/{{language}}.{{split}}.conll", "languages": ["en", "ru"],
        "max_train_sentences": 20, "model": "scratch", "model_config": TINY, "vocab_size": 250,
        "teacher_model": "scratch", "teacher_model_config": TINY, "teacher_num_train_epochs": 2,
        "objective": "posterior+top_wk", "num_train_epochs": 2, "learning_rate": "5e-3",
        "per_device_train_batch_size": 8, "eval_strategy": "epoch", "save_strategy": "epoch", "save_total_limit": 1,
        "load_best_model_at_end": True, "metric_for_best_model": "macro", "report_to": "none", "use_cpu": True,
        "disable_tqdm": True,
    }  # fmt: skip
    path.write_text(yaml.safe_dump(fields).replace("'5e-3'", "5e-3"), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def finished(recipe, tmp_path_factory) -> tuple[Path, str]:
    """A finished run of run_distill.py, and what it printed."""
    output = tmp_path_factory.mktemp("runs") / "tiny"
    return output, run("run_distill.py", recipe, "--output_dir", output).stdout


def test_a_recipe_becomes_a_student_with_scores_and_a_card(finished):
    output, printed = finished
    for row in ("teachers", "baseline", "posterior+top_wk"):
        assert row in printed
    # Danger: teachers that are trained inside a run look like one that hangs.
    assert "== Teacher for en: 40 sentences, 5 updates per epoch\n" in printed
    assert "== Baseline, the student on gold tags alone: 40 sentences, 5 updates per epoch\n" in printed
    assert "== Teachers are asked about 40 sentences\n" in printed
    assert "== Student, posterior+top_wk: 40 sentences, 5 updates per epoch\n" in printed
    results = json.loads((output / "results.json").read_text())
    assert results["settings"]["learning_rate"] == 5e-3
    assert set(results["scores"]["test"]) == {"teachers", "baseline", "posterior+top_wk"}
    assert set(results["scores"]["dev"]["posterior+top_wk"]) == {"en", "ru", "avg"}
    assert results["train_sentences"] == {"en": 20, "ru": 20}
    assert "gap closed" in (output / "table.md").read_text()
    card = (output / "student" / "README.md").read_text()
    assert "posterior+top_wk" in card
    assert str(output.parent) not in card
    model = XLMRobertaForTokenClassificationCRF.from_pretrained(output / "student")
    assert model.word_starts.pieces.any()
    assert not list(output.rglob("*.training"))
    assert not list(output.rglob("checkpoint-*"))


def test_started_again_it_trains_nothing_again_and_says_the_same(finished, recipe, run_script):
    output, printed = finished
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*.safetensors")}
    again = run_script("run_distill.py", recipe, "--output_dir", output)
    assert again[again.index("== Scores") :] == printed[printed.index("== Scores") :]
    assert f"== Teacher for ru: finished before, in {output / 'teachers' / 'ru'}\n" in again
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*.safetensors")} == before


def test_a_folder_with_another_run_is_refused_and_left_alone(finished, recipe, refusal):
    output, _ = finished
    before = (output / "results.json").read_text()
    said = refusal("run_distill.py", recipe, "--output_dir", output, "--objective", "top_k")
    assert "already holds another run (objective: there 'posterior+top_wk', asked 'top_k')" in said
    assert (output / "results.json").read_text() == before


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_a_corpus_that_changed_under_the_same_path_is_noticed(finished, corpora, recipe, refusal, split):
    """Danger: the old model is 'finished', and is scored on other gold tags than it was trained and chosen by."""
    output, _ = finished
    before = (output / "results.json").read_text()
    file = corpora / f"ru.{split}.conll"
    text = file.read_text(encoding="utf-8")
    word, tag = text.split("\n", 1)[0].split("\t")
    other = "O" if tag != "O" else "B-" + next(part for part in text.split() if part.startswith("B-"))[2:]
    file.write_text(f"{word}\t{other}\n" + text.split("\n", 1)[1], encoding="utf-8")
    try:
        said = refusal("run_distill.py", recipe, "--output_dir", output)
    finally:
        file.write_text(text, encoding="utf-8")
    assert re.search(rf"already holds another run \(data\.{split}\.ru: there '\w+-\w+', asked '\w+-\w+'\)", said)
    assert (output / "results.json").read_text() == before


def test_any_checkpoint_is_scored_on_any_corpora(finished, corpora, tmp_path, run_script):
    output, _ = finished
    arguments = ("--corpus", f"{corpora}/{{language}}.{{split}}.conll", "--languages", "ru", "en")
    printed = run_script(
        "run_evaluate.py", *arguments, "--checkpoint", output / "student", "--output_file", tmp_path / "scores.json"
    )
    scores = json.loads((tmp_path / "scores.json").read_text())["scores"]["test"]["student"]
    expected = json.loads((output / "results.json").read_text())["scores"]["test"]["posterior+top_wk"]
    assert scores["en"]["f1"] == pytest.approx(expected["en"]["f1"])
    assert "avg" in printed


def test_a_softmax_teacher_is_trained_and_taken_by_name(recipe, tmp_path, run_script, refusal):
    options = ("--languages", "en", "--head", "softmax", "--output_dir", tmp_path / "teacher")
    fields = yaml.safe_load(recipe.read_text())
    own = {name: value for name, value in fields.items() if not name.startswith("teacher") and name != "objective"}
    (tmp_path / "teacher.yaml").write_text(yaml.safe_dump(own))
    run_script("run_teacher.py", tmp_path / "teacher.yaml", *options)
    given = json.dumps({"en": str(tmp_path / "teacher")})
    missing = refusal(
        "run_distill.py", recipe, "--teachers", given, "--teacher_model", "null", "--output_dir", tmp_path / "no"
    )
    assert "no teacher for language ru: name a checkpoint under `teachers`" in missing
    printed = run_script(
        "run_distill.py", recipe, "--teachers", given, "--languages", "en", "--output_dir", tmp_path / "yes",
        "--baseline", "false", "--objective", "posterior", "--teacher_model", "null",
        "--teacher_model_config", "null", "--teacher_num_train_epochs", "null",
    )  # fmt: skip
    assert "posterior" in printed
    assert not (tmp_path / "yes" / "teachers").exists()


def test_a_softmax_student_is_distilled_and_table_and_card_say_so(recipe, finished, tmp_path, run_script, refusal):
    """Danger: baseline and student are the same file, trained on gold alone, and called distilled."""
    teachers = finished[0] / "teachers" / "{language}"
    fields = yaml.safe_load(recipe.read_text())
    own = {name: value for name, value in fields.items() if not name.startswith("teacher")}
    own |= {"head": "softmax", "objective": "posterior", "tag_scheme": "BIO", "normalization": "sentence"}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**own, "language_sampling_temperature": 2.0, "seed": 5}))
    common = (tmp_path / "recipe.yaml", "--teachers", teachers, "--learning_rate", "5e-3", "--output_dir")
    said = refusal("run_distill.py", *common, tmp_path / "no", "--objective", "substructure")
    assert "objective 'substructure' compares transition scores, which head: softmax does not have" in said
    said = refusal("run_distill.py", *common, tmp_path / "no", "--crf_learning_rate", "0.1")
    assert "crf_learning_rate: head 'softmax' has no transition scores" in said
    printed = run_script("run_distill.py", *common, tmp_path / "out")
    weights = {row: (tmp_path / "out" / row / "model.safetensors").read_bytes() for row in ("baseline", "student")}
    assert weights["baseline"] != weights["student"]
    config = json.loads((tmp_path / "out" / "student" / "config.json").read_text())
    assert config["architectures"] == ["XLMRobertaForTokenClassification"]
    history = json.loads((tmp_path / "out" / "student" / "trainer_state.json").read_text())["log_history"]
    best = [log["eval_macro_f1"] for log in history if "eval_macro_f1" in log]
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["scores"]["dev"]["posterior"]["avg"]["f1"] == pytest.approx(max(best))
    assert {part["name"] for part in results["objective"]["parts"]} == {"posterior"}
    assert results["model"]["class_name"] == "XLMRobertaForTokenClassification"
    card = (tmp_path / "out" / "student" / "README.md").read_text()
    assert "posterior" in card
    assert "XLMRobertaForTokenClassificationCRF" not in card
    assert "posterior" in printed[printed.index("== Scores") :]


def test_two_processes_train_one_student(recipe, tmp_path):
    """Dangers: each takes the whole epoch, or counts the sentences without gold otherwise than the other."""
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    run(
        "run_distill.py", recipe, "--output_dir", tmp_path / "out", "--baseline", "false", "--num_train_epochs", "1",
        "--teacher_max_train_sentences", "20", "--unlabelled_sentences", "10", "--unlabelled_rate", "0.5",
        launcher=launcher, ACCELERATE_USE_CPU="true",
    )  # fmt: skip
    state = json.loads((tmp_path / "out" / "student" / "trainer_state.json").read_text())
    # 40 sentences with gold and as many draws of the 20 without, in batches of 8 on each of two processes
    assert state["max_steps"] == state["global_step"] == 5
    assert (tmp_path / "out" / "results.json").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--leraning_rate", "1"), "did you mean"),
        (("--top_k", "0"), "top_k must be at least 1, not 0"),
        (("--objective", "posterior+topk"), "Did you mean 'top_k'?"),
        (
            ("--teachers", '{"en": {"checkpointt": "x"}}'),
            "unknown 'checkpointt' (did you mean 'checkpoint'?); there are",
        ),
        (("--model", "/nowhere/encoder"), "model '/nowhere/encoder'"),
        (("--teachers", '{"en": "/nowhere/teacher"}'), "teacher for en, '/nowhere/teacher'"),
        (("--corpus", "nowhere/{language}.{split}.conll"), "no such file: nowhere/en.train.conll"),
    ],
)
def test_bad_input_is_one_clear_message_and_nothing_written(recipe, tmp_path, options, message, refusal):
    assert message in refusal("run_distill.py", recipe, "--output_dir", tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


def test_a_run_that_failed_while_it_was_set_up_can_be_corrected(recipe, tmp_path, refusal):
    """Danger: the settings of the wrong command stay, and the right one is refused as another run."""
    for size in ("5", "6"):
        said = refusal("run_distill.py", recipe, "--output_dir", tmp_path / "out", "--vocab_size", size)
        assert f"vocab_size={size} is too small" in said


def test_in_a_shell_bad_input_is_one_message_too(recipe, tmp_path):
    """Danger: the scripts' own process ends with a traceback, or as if all were well."""
    done = run("run_distill.py", recipe, "--output_dir", tmp_path / "out", "--top_k", "0", check=False)
    assert done.returncode != 0
    assert "top_k must be at least 1, not 0" in done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_is_one_line_and_the_run_goes_on_where_it_stopped(recipe, tmp_path):
    """Danger: thirty lines of traceback, or a folder that cannot be gone on with."""
    more = ("--output_dir", tmp_path / "out", "--languages", "en", "--teacher_num_train_epochs", "20000")
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "examples" / "run_distill.py"), str(recipe), *map(str, more)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # shells' background jobs ignore it
    )  # fmt: skip
    for line in process.stdout:
        if line.startswith("== Teacher for en: "):
            break
    for patience in (20, 20, 40):  # Python loses a signal that comes while it finalizes an object: people press again
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            _, said = process.communicate(timeout=patience)
            break
    assert process.returncode == 130
    assert said.strip().splitlines()[-1] == "stopped; started again, it goes on where it stopped"
    assert "Traceback" not in said
    assert (tmp_path / "out" / "teachers" / "en.training").exists()


@pytest.mark.parametrize("script", ["run_distill.py", "run_teacher.py", "run_evaluate.py"])
def test_help_is_complete(script, run_script):
    printed = run_script(script, "--fields")
    assert "--corpus" in printed
    assert "--languages" in printed


@pytest.mark.parametrize("recipe_file", sorted((ROOT / "examples" / "recipes").glob("*.yaml")), ids=lambda p: p.name)
def test_committed_recipes_are_read(recipe_file, monkeypatch):
    """Danger: a recipe names a field that no longer exists, or says to be used by a command that is refused."""
    monkeypatch.chdir(ROOT)
    command = re.search(r"^#   structkd distill ((?:.*\\\n)*.*)$", recipe_file.read_text(), re.MULTILINE)
    written = re.sub(r"\\\n#", " ", command[1]) if command else f"'{recipe_file}'"
    assert recipe_file.stem in written
    recipe = Recipe.from_command_line([*shlex.split(written, comments=True), "--use_cpu"], "structkd distill")
    assert recipe.data.corpus or recipe.data.unlabelled_corpus
    assert recipe.teachers.teacher_model or recipe.teachers.teachers
    assert recipe.training.metric_for_best_model == "macro"
