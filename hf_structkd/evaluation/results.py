"""`results.json`: the settings of a run, its scores, and the versions and resources that it used."""

import csv
import json
import math
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ..files import write_atomically

SCHEMA_VERSION = 1
RESULTS_NAME = "results.json"

_EMPTY: dict[str, Any] = {"object": {}, "list": []}
_PACKAGES = ("torch", "transformers", "datasets", "accelerate", "evaluate", "huggingface_hub", "hf_structkd")


@dataclass
class RunResults:
    """The contents of `results.json`, schema 1. docs/hub.md shows the layout; a card is made from it alone.

    Every member except the version of the schema may be empty. Files without the newer members are read too.

    Args:
        settings: Every resolved setting of the run, as `dump_settings` gives them (no access tokens).
        scores: Split (`"dev"`, `"test"`) -> row (`"teachers"`, `"baseline"`, a student's name) -> language ->
            report of [`TaggingMetrics.report`], scores in [0, 1]; the macro average under `"avg"`.
        comparison: Split -> `ComparisonReport.to_dict()`.
        flips: Split -> row -> language -> what [`~hf_structkd.evaluation.flips.flips`] counts against the tagger that
            was replaced, all languages together under `"all"`; empty where none was.
        seed: The run's seed.
        train_sentences: Language -> number of sentences trained on, with those that have no gold tags.
        gold_sentences: Language -> number of those with gold tags; empty if all have them.
        seconds: Phase (`"teachers"`, `"annotation"`, `"student"`, ...) -> wall-clock seconds.
        versions: Package -> version, `"python"` included; filled in when empty.
        model: The student: `name`, `class_name`, `labels`, `scheme`, `languages`, `parameters` (their
            number), `base_model`, `base_model_revision`, `base_model_id` (on the Hub, of the base model or of what
            that was made from), `license`, `model_id` (on the Hub), `dataset` (its name), `datasets` (ids on the Hub),
            `scored_datasets` (split -> language -> ids on the Hub of what was scored).
        teachers: Each with `name`, `language` (None: all), `revision`, `weight` in its language's mixture and
            `score` (its own headline score in [0, 1], None where unknown).
        objective: `name`, `combination` of several parts (`"sum"` or `"average"`), `parts` (each
            objective's `config()` and its `weight` in the loss), `lambda_schedule` in words, `top_k`; empty for a
            baseline.
        hyperparameters: Name -> value, for the card.
        history: What training logged: `step`, `epoch` and any of `loss`, `loss_<part>`, `kd_lambda`,
            `eval_<language>_<metric>`, `eval_macro_<metric>`.
        label_examples: Label -> words that often carry it in the training data.
        memory: `"peak_rss_mib"` and, on a GPU, `"peak_gpu_mib"` of the training process.
        energy: `"kwh"` and `"co2_kg"` of training, if codecarbon measured them.
        citations: BibTeX entries of what was used.
        word_agreement: Language -> how far the training corpus has the words that the pipeline finds in its texts:
            `segmenter`, `share`, and the number of `words` and `sentences` compared; without corpora that lack texts.
        limitations: Sentences at the beginning of the card's limitations, for instance uses that are not allowed.
        schema_version: Version of this layout.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, Any] = field(default_factory=dict)
    comparison: dict[str, Any] = field(default_factory=dict)
    flips: dict[str, Any] = field(default_factory=dict)
    seed: int | None = None
    train_sentences: dict[str, int] = field(default_factory=dict)
    gold_sentences: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    teachers: list[dict[str, Any]] = field(default_factory=list)
    objective: dict[str, Any] = field(default_factory=dict)
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    label_examples: dict[str, list[str]] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)
    energy: dict[str, float] = field(default_factory=dict)
    citations: list[str] = field(default_factory=list)
    word_agreement: dict[str, dict[str, Any]] = field(default_factory=dict)
    limitations: list[str] = field(default_factory=list)
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        self.versions = self.versions or collect_versions()


def collect_versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on.

    Returns:
        Name -> version. A package that is not installed as a distribution (a bare checkout) is `"unknown"`.
    """
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "unknown"
    return versions


def write_results(results: RunResults, path: str | os.PathLike[str]) -> Path:
    """Write the results of a run. A reader sees the old file or the new one, never half of one.

    Args:
        results: The run's results. Numpy numbers become Python's; NaN and infinities, which JSON does not know,
            become `null`.
        path: The file, or a folder in which `results.json` is written.

    Returns:
        The path of the file written.

    Raises:
        TypeError: If a member is of no JSON type; the message names where it is. Nothing is written.
        OSError: If the folder cannot be written to.
    """
    target = Path(path)
    if target.suffix != ".json":
        target = target / RESULTS_NAME
    text = json.dumps(to_json_types(asdict(results)), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, text)
    return target


def read_results(path: str | os.PathLike[str]) -> RunResults:
    """Read what [`write_results`] wrote.

    Args:
        path: The file, or the folder with `results.json`.

    Returns:
        The run's results.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not JSON or has another schema, or a member has the wrong type; the message names
            the file.
    """
    source = Path(path)
    if source.suffix != ".json":
        if not source.is_dir():
            raise FileNotFoundError(f"there is no folder {str(source)!r} with a {RESULTS_NAME}")
        source = source / RESULTS_NAME
    if not source.exists():
        raise FileNotFoundError(
            f"there is no {str(source)!r}, which `structkd distill` and `structkd teacher` write beside a model"
        )
    return _parse(source.read_bytes(), str(source))


def write_runs(runs: Sequence[RunResults], path: str | os.PathLike[str]) -> Path:
    """Write the results of several runs into one file, one line of JSON per run.

    Args:
        runs: The runs' results; what JSON does not know becomes what :func:`write_results` makes of it.
        path: The file.

    Returns:
        The path of the file written.

    Raises:
        TypeError, OSError: As :func:`write_results` does.
    """
    lines = [json.dumps(to_json_types(asdict(run)), ensure_ascii=False, allow_nan=False) + "\n" for run in runs]
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, "".join(lines))
    return target


def read_runs(path: str | os.PathLike[str]) -> list[RunResults]:
    """Read what :func:`write_runs` wrote.

    Args:
        path: The file.

    Returns:
        The runs' results, in the order of their lines.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: As :func:`read_results` does, or if the last line has no end, as where a file was cut short; the
            message names file and line.
    """
    *lines, rest = Path(path).read_bytes().split(b"\n")
    if rest:
        raise ValueError(f"{path}, line {len(lines) + 1}, has no end: the file was cut short.")
    return [_parse(line, f"{path}, line {number},") for number, line in enumerate(lines, start=1)]


def _parse(content: bytes, source: str) -> RunResults:
    """Results out of JSON; `source` is where they are from, for messages."""
    try:
        data = json.loads(content.decode("utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{source} is not JSON: {error}") from None
    schema = data.get("schema_version") if isinstance(data, dict) else None
    if schema != SCHEMA_VERSION:
        raise ValueError(f"{source} has results of schema {schema!r}; this version reads schema {SCHEMA_VERSION}.")
    if unknown := sorted(data.keys() - {member.name for member in fields(RunResults)}):
        raise ValueError(f"{source} has unknown members {unknown}.")
    for member in fields(RunResults):
        kind = {"dict": "object", "list": "list"}.get(str(member.type).split("[")[0])
        if kind and not isinstance(data.get(member.name, _EMPTY[kind]), type(_EMPTY[kind])):
            raise ValueError(f"{source}: {member.name} is {data[member.name]!r:.80}, but must be a JSON {kind}.")
    return RunResults(**data)


def to_json_types(value: Any, where: str = "results") -> Any:
    """Convert values, numpy and torch scalars included, to JSON types.

    Args:
        value: Nested mappings, sequences, numbers, strings, booleans, None.
        where: The name of the value in messages.

    Returns:
        The same with dicts, lists, Python numbers; non-finite numbers as `None`.

    Raises:
        TypeError: If something is of no JSON type.
    """
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")  # halves of characters, which UTF-8 cannot encode
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Mapping):
        return {to_json_types(str(key)): to_json_types(member, f"{where}.{key}") for key, member in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [to_json_types(member, f"{where}[{index}]") for index, member in enumerate(value)]
    if hasattr(value, "tolist"):  # numpy and torch, scalars and arrays
        return to_json_types(value.tolist(), where)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{where} is a {type(value).__name__}, which JSON cannot hold.")


EMISSIONS_FILE = "emissions.csv"  # written by transformers' codecarbon callback (report_to="codecarbon")
_BYTES_PER_MIB = 2**20


def peak_memory() -> dict[str, float]:
    """Peak memory of this process so far.

    Returns:
        `"peak_rss_mib"`, resident memory in MiB, if the system reports it, and `"peak_gpu_mib"`, tensors
        allocated on this process's GPU, if it used one.
    """
    peaks = {}
    try:
        import resource
    except ImportError:  # Windows
        pass
    else:
        unit = 1 if sys.platform == "darwin" else 1024
        peaks["peak_rss_mib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _BYTES_PER_MIB, 1)
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        peaks["peak_gpu_mib"] = round(torch.cuda.max_memory_allocated() / _BYTES_PER_MIB, 1)
    return peaks


def measured_energy(folder: str | os.PathLike[str]) -> dict[str, float]:
    """The energy of the training in a folder, as codecarbon measured it.

    Args:
        folder: the training's `output_dir`.

    Returns:
        `"kwh"` and `"co2_kg"`, summed over the trainings that went on in this folder; empty if nothing was
        measured, or the file is not codecarbon's.
    """
    path = Path(folder) / EMISSIONS_FILE
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        sums = {"kwh": sum(float(row["energy_consumed"]) for row in rows)}
        sums["co2_kg"] = sum(float(row["emissions"]) for row in rows)
    except (OSError, KeyError, TypeError, ValueError):
        return {}
    return sums if rows else {}
