"""One cell: train its student, score it, leave `results.json` and the counts of every test sentence.

The results name what makes them their own: settings, sentences, labels, encoder, teachers.
"""

import contextlib
import io
import json
import resource
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import set_seed

from hf_structkd import Teacher
from hf_structkd.evaluation.aggregate import macro_average
from hf_structkd.evaluation.results import collect_versions, to_json_types
from hf_structkd.evaluation.significance import sentence_counts
from hf_structkd.evaluation.tagging_metrics import TaggingMetrics
from hf_structkd.files import write_atomically
from hf_structkd.recipes.folder import differences, replace_output
from hf_structkd.recipes.models import SCRATCH, encoder_of, make_tagger
from hf_structkd.teachers.panel import Panel
from hf_structkd.training.provenance import content_key, same_data
from hf_structkd.training.teacher_embeddings import mix_embeddings

from .grid import RESULTS_FILE, SENTENCES_FILE, Cell, Grid, GridError
from .grid_corpora import GridCorpora
from .pool import Pool
from .stored_runs import short_floats
from .teacher_sets import TeacherSets
from .trimming import train_trimmed

SCHEMA_VERSION = 1


def run_cell(cell: Cell, grid: Grid, pool: Pool, folder: Path) -> None:
    """Train and score one cell; nothing but `results.json` and what it names is left in `folder`."""
    corpora, teacher_sets = pool.corpora, pool.teacher_sets
    folder.mkdir(parents=True, exist_ok=True)
    work = folder / "work"
    shutil.rmtree(work, ignore_errors=True)  # of a run that was killed
    _reset_peak_memory()
    started = time.perf_counter()
    set_seed(cell.seed)
    scratch = cell.model.model == SCRATCH

    def sentences() -> list[list[str]]:
        drawn = ((language, np.concatenate(corpora.rows(language, cell))) for language in corpora.languages)
        return [
            words for language, rows in drawn for words in corpora.splits[language]["train"].select(rows)["tokens"]
        ]

    learnt = [corpora.splits[language]["train"] for language in corpora.languages]
    model, tokenizer = make_tagger(
        cell.model, corpora.labels, cell.data.tag_scheme, sentences, cell.data.words, learnt
    )
    key = None if scratch else content_key(cell.model.model, cell.model.revision)
    names = grid.teacher_set_of(cell)
    if cell.own.teacher_embeddings is not None:
        mix_embeddings(model, tokenizer, teacher_sets.views(names, tokenizer, key), cell.own.teacher_embeddings)
    train = pool.training_data(cell, tokenizer, key)
    dev = {language: pool.encoded(language, "dev", tokenizer, key) for language in corpora.languages}
    prepared = time.perf_counter()
    trainer = train_trimmed(model, tokenizer, train, dev, replace_output(cell.args, work), resume=False)
    trained = time.perf_counter()

    student = Teacher(trainer.model, tokenizer, name=str(cell))
    scores, counts = score(corpora, dict.fromkeys(corpora.languages, student), student)
    metrics = TaggingMetrics(corpora.labels, corpora.data_arguments.tag_scheme)
    results = {
        "schema_version": SCHEMA_VERSION,
        "grid": grid.name,
        "cell": cell.name,
        "seed": cell.seed,
        "settings": cell.settings,
        "versions": collect_versions(),
        "corpora": corpora.fingerprints,
        "zero_shot_corpora": corpora.zero_shot_fingerprints or None,
        "model_revision": key,
        "teacher_revisions": teacher_sets.revisions(names) if names else None,
        "gold_sentences": {language: len(corpora.rows(language, cell)[0]) for language in corpora.languages},
        "text_sentences": {language: sum(map(len, corpora.rows(language, cell))) for language in corpora.languages},
        "metric": metrics.metric_name,
        "scores": scores,
        "curve": dev_curve(trainer.state.log_history, metrics.metric_name),
        "losses": [entry for entry in trainer.state.log_history if "loss" in entry],
        "best_step": trainer.state.best_global_step,
        "updates": trainer.state.global_step,
        "student": {
            "class_name": type(trainer.model).__name__,
            "labels": corpora.labels,
            "scheme": metrics.scheme,
            "parameters": trainer.model.num_parameters(),
        },
        "seconds": {
            "prepare": prepared - started,
            "train": trained - prepared,
            "score": time.perf_counter() - trained,
        },
        "peak_memory_bytes": _peak_memory(trainer.args.device),
        "device": str(trainer.args.device),
        "threads": torch.get_num_threads(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    write_counts(counts, folder)
    shutil.rmtree(work)
    write_record(results, folder)


def score(
    corpora: GridCorpora, taggers: dict[str, Teacher | Panel], zero_shot: Teacher | None = None
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Reports by split and language, their macro averages, and the counts of every test sentence by language."""
    metrics = TaggingMetrics(corpora.labels, corpora.data_arguments.tag_scheme)
    scores: dict[str, Any] = {}
    counts: dict[str, np.ndarray] = {}

    def one(tagger: Any, data: Dataset) -> tuple[dict[str, Any], np.ndarray]:
        predictions = tagger.tag(list(data["tokens"]), corpora.labels)
        gold = list(data["tags"])
        return metrics.report(predictions, gold), sentence_counts(predictions, gold, metrics.scheme)

    for split in ("dev", "test"):
        scores[split] = {}
        for language, tagger in taggers.items():
            scores[split][language], counts_of_language = one(tagger, corpora.splits[language][split])
            if split == "test":
                counts[language] = counts_of_language
        scores[split]["avg"] = macro_average(scores[split])
    if zero_shot is not None and corpora.zero_shot:
        scores["zero_shot"] = {}
        for language, splits in corpora.zero_shot.items():
            scores["zero_shot"][language], counts[f"zero_shot/{language}"] = one(zero_shot, splits["test"])
        scores["zero_shot"]["avg"] = macro_average(scores["zero_shot"])
    return scores, counts


def score_teachers(teacher_sets: TeacherSets, name: str, folder: Path) -> None:
    """Score a set of teachers, each language's on its own test sentences and each on the zero-shot languages."""
    corpora = teacher_sets.corpora
    folder.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    scores, counts = score(corpora, {language: teacher_sets.panel(name, language) for language in corpora.languages})
    if corpora.zero_shot:
        metrics = TaggingMetrics(corpora.labels, corpora.data_arguments.tag_scheme)
        scores["zero_shot"] = {
            trained_on: {
                language: metrics.report(
                    teacher_sets.panel(name, trained_on).tag(list(splits["test"]["tokens"]), corpora.labels),
                    list(splits["test"]["tags"]),
                )
                for language, splits in corpora.zero_shot.items()
            }
            for trained_on in corpora.languages
        }
    results = {
        "schema_version": SCHEMA_VERSION,
        "grid": teacher_sets.grid.name,
        "teacher_set": name,
        "settings": teacher_sets.grid.content["teacher_sets"][name],
        "versions": collect_versions(),
        "corpora": corpora.fingerprints,
        "zero_shot_corpora": corpora.zero_shot_fingerprints or None,
        "teacher_revisions": teacher_sets.revisions(name),
        "metric": TaggingMetrics(corpora.labels, corpora.data_arguments.tag_scheme).metric_name,
        "scores": scores,
        "seconds": {"score": time.perf_counter() - started},
    }
    write_counts(counts, folder)
    write_record(results, folder)


def write_counts(counts: dict[str, np.ndarray], folder: Path) -> None:
    """Keep per-sentence counts, small: `counts[language]` is (sentences, 3) or (sentences, 2)."""
    small = {
        language: of_language.astype(np.min_scalar_type(of_language.max(initial=0)))
        for language, of_language in counts.items()
    }
    content = io.BytesIO()
    # column by column: numbers of a kind lie together and compress better
    np.savez_compressed(content, **{language: of_language.T.copy() for language, of_language in small.items()})
    write_atomically(folder / SENTENCES_FILE, content.getvalue())


def write_record(results: dict[str, Any], folder: Path) -> None:
    """Write `results.json`, a line for each member: small, and a diff shows what changed."""
    lines = [
        f"{json.dumps(name)}: {json.dumps(short_floats(member), ensure_ascii=False, allow_nan=False)}"
        for name, member in to_json_types(results).items()
    ]
    write_atomically(folder / RESULTS_FILE, "{\n" + ",\n".join(lines) + "\n}\n")


def dev_curve(history: list[dict[str, Any]], metric: str) -> list[dict[str, Any]]:
    """Epoch by epoch the score and the loss on dev, of each language and their macro average."""
    curve: dict[int, dict[str, Any]] = {}
    for entry in history:
        for name, value in entry.items():
            for kind in (metric, "loss"):
                if name.startswith("eval_") and name.endswith(f"_{kind}"):
                    point = curve.setdefault(entry["step"], {"step": entry["step"], "epoch": entry["epoch"]})
                    point.setdefault(kind, {})[name.removeprefix("eval_").removesuffix(f"_{kind}")] = value
    return list(curve.values())


def _reset_peak_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the high-water mark starts anew


def _peak_memory(device: torch.device) -> int:
    """Bytes: the GPU's where it trained on one, else the process's, corpora and teachers' answers included."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def sources_of(cell: Cell, corpora: GridCorpora) -> dict[str, Any]:
    """What a cell is made of besides its settings and its teachers, as its results record it."""
    encoder = encoder_of(cell.model)
    return {
        "corpora": corpora.fingerprints,
        "zero_shot_corpora": corpora.zero_shot_fingerprints or None,
        "model_revision": None if encoder is None else content_key(encoder, cell.model.revision),
        "labels": corpora.labels,
    }


def teachers_of(cell: Cell, grid: Grid, teacher_sets: TeacherSets) -> dict[str, Any]:
    """The revisions of a cell's teachers, as its results record them; the teachers must be there."""
    name = grid.teacher_set_of(cell)
    return {"teacher_revisions": teacher_sets.revisions(name) if name else None}


def differing(record: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    """Which members of a result are not those expected, in words; empty where none differs.

    Members that the first versions did not record are passed over.
    """
    messages = []
    for name, value in expected.items():
        expected_value = json.loads(json.dumps(to_json_types(value)))
        recorded_value = record.get("student", {}).get("labels") if name == "labels" else record.get(name)
        is_recorded = name not in ("labels", "zero_shot_corpora") or recorded_value is not None
        alike = (
            same_data(recorded_value, expected_value) if name.endswith("corpora") else recorded_value == expected_value
        )
        if is_recorded and not alike and not _same_encoder(name, recorded_value, expected_value):
            messages.append(differences({name: recorded_value}, {name: expected_value}))
    return "; ".join(messages)


def refuse_other_sources(cells: list[Cell], output: Path, expected: Any) -> None:
    """Raise GridError, saying which, if a finished cell was made of other data, encoders or teachers.

    Args:
        cells: whose results there are.
        output: the grid's folder.
        expected: cell -> what it is made of now: `sources_of`, `teachers_of`.
    """
    for cell in cells:
        file = output / cell.path / RESULTS_FILE
        if differ := differing(json.loads(file.read_text(encoding="utf-8")), expected(cell)):
            raise GridError(
                f"{file} holds results of other data or models ({differ}); remove its folder, and it is done again, "
                "or choose another --output_dir"
            )


def scores_are_those_of(folder: Path, name: str, teacher_sets: TeacherSets) -> bool:
    """Whether a folder holds the scores of a set of teachers as it is now: definition, teachers, corpora."""
    file = folder / RESULTS_FILE
    if not file.exists():
        return False
    record = json.loads(file.read_text(encoding="utf-8"))
    expected = {
        "settings": teacher_sets.grid.content["teacher_sets"][name],
        "corpora": teacher_sets.corpora.fingerprints,
        "zero_shot_corpora": teacher_sets.corpora.zero_shot_fingerprints or None,
        "teacher_revisions": teacher_sets.revisions(name),
    }
    if differ := differing(record, expected):
        print(f"teachers {name} are scored again: {differ}", flush=True)
    return not differ


def _same_encoder(name: str, recorded_value: Any, expected: Any) -> bool:
    """The first versions recorded a Hub id without its commit."""
    return (
        name == "model_revision"
        and isinstance(expected, str)
        and "@" in expected
        and recorded_value == expected.partition("@")[0]
    )
