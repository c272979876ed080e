"""The tables of a card, in Markdown."""

import re
from collections.abc import Iterable, Mapping, Sequence

from ..evaluation import markdown
from ..evaluation.markdown import code, escaped
from ..evaluation.report import MISSING, percent
from .card_data import StudentCardData, TypeScores
from .public import public_name, public_value

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)


def is_hub_id(name: str | None) -> bool:
    """Whether a name has the form of an id on the Hub, `owner/name`; it may be a path, see [`public_name`]."""
    return name is not None and _HUB_ID.fullmatch(name) is not None


def hub_link(name: str, kind: str = "") -> str:
    """A link to a model on the Hub, or with `datasets/` to a dataset; only for ids."""
    return f"[{escaped(name)}](https://huggingface.co/{kind}{name})"


def card_facts(data: StudentCardData) -> list[str]:
    """What a reader asks first: languages, types, size, licence; those that are known."""
    plain = data.scheme == "plain"
    types = dict.fromkeys(
        label if plain else label.split("-", 1)[-1] for label in data.label_names if plain or label != "O"
    )
    what = "Tags" if plain else "Entity types"
    facts = {
        "Languages": ", ".join(map(escaped, data.languages)),
        what: ", ".join(map(code, types)),
        "Size": "" if data.parameters is None else f"{data.parameters:,} parameters",
        "Licence": escaped(data.license) if data.license else "none stated, see the limitations",
    }
    return [f"{name}: {value}" for name, value in facts.items() if value]


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str | None:
    """A Markdown table; `None` without rows."""
    body = list(rows)
    return markdown.table(header, body) if body else None


def label_table(data: StudentCardData) -> str | None:
    """Ids, labels and, where there are any, examples."""
    if not data.label_examples:
        return table(("id", "label"), ((str(i), code(label)) for i, label in enumerate(data.label_names)))
    rows = (
        (str(i), code(label), ", ".join(map(escaped, data.label_examples.get(label, ()))))
        for i, label in enumerate(data.label_names)
    )
    return table(("id", "label", "frequent examples"), rows)


def training_table(data: StudentCardData) -> str | None:
    """Data, base model and cost of training."""
    base = code(public_name(data.base_model)) if data.base_model else None
    if base and data.base_model_revision:
        base += f" at {escaped(data.base_model_revision)}"
    rows = {
        "base model": base,
        "parameters": None if data.parameters is None else f"{data.parameters:,}",
        "data": ", ".join(escaped(public_name(name)) for name in _data_names(data)) or None,
        "training sentences": _by_language(data.train_sentences),
        "of these with gold tags": _by_language(data.gold_sentences)
        if data.gold_sentences and dict(data.gold_sentences) != dict(data.train_sentences)
        else None,
        "objective": code(data.objective),
        "parts of the objective": {"sum": "added up by weight", "average": "averaged by weight"}.get(
            str(data.objective_combination)
        ),
        "lambda (distillation against gold)": None if data.lambda_schedule is None else escaped(data.lambda_schedule),
        "k best sequences": None if data.top_k is None else escaped(data.top_k),
        "seed": escaped(data.seeds[0]) if data.seeds else None,
        "training time": None if data.seconds is None else f"{data.seconds:,.0f} s",
        "peak memory": _memory(data.memory),
        "energy": _energy(data.energy),
    }
    return table(("", ""), ((name, value) for name, value in rows.items() if value is not None))


def objective_table(data: StudentCardData) -> str | None:
    """The parts of the objective with their weights and temperatures."""
    return table(
        ("part", "weight", "temperature", "temperature mode", "source"),
        (
            (
                code(part.get("name")),
                f"{part.get('weight', 1.0):g}",
                f"{part.get('temperature', 1.0):g}",
                escaped(part.get("temperature_mode", "local")),
                escaped(part.get("source", "")),
            )
            for part in data.objective_parts
        ),
    )


def teacher_table(data: StudentCardData) -> str | None:
    """Teachers with their revisions and scores, and their weights where some language has several."""
    weighed = any(teacher.weight != 1 for teacher in data.teachers)
    header = ("language", "teacher", *(["weight"] if weighed else []), "revision", "own score")
    return table(
        header,
        (
            (
                escaped(teacher.language or "all"),
                code(public_name(teacher.name)),
                *([f"{teacher.weight:.3g}"] if weighed else []),
                escaped(teacher.revision or "n/a"),
                percent(teacher.score),
            )
            for teacher in data.teachers
        ),
    )


def hyperparameter_table(data: StudentCardData) -> str | None:
    """Settings of the training."""
    return table(
        ("setting", "value"), ((code(name), code(public_value(v))) for name, v in data.hyperparameters.items())
    )


def version_table(data: StudentCardData) -> str | None:
    """What it was trained with."""
    return table(("package", "version"), ((escaped(name), escaped(v)) for name, v in data.versions.items()))


def precision_recall_table(data: StudentCardData) -> str | None:
    """The student's precision and recall by language: whether it finds too much or too little, which F1 hides."""
    compared = data.comparison.languages or [] if data.comparison else []
    languages = [lang for lang in compared if any(lang in by for by in data.precision_recall.values())]
    body = (
        (name, *(percent(*by.get(language, (None, None))) for language in languages))
        for name, by in data.precision_recall.items()
    )
    return table(("", *map(escaped, languages)), body) if languages else None


def type_tables(scores: TypeScores, languages: Sequence[str]) -> list[tuple[str, str]]:
    """For each row of the comparison a table of entity types (or tags) by languages."""
    tables = []
    for row, types in scores.items():
        scored_languages = [language for language in languages if any(language in by for by in types.values())]
        body = (
            (code(name), *(percent(*by.get(language, (None, None))) for language in scored_languages))
            for name, by in types.items()
        )
        if text := table(("", *map(escaped, scored_languages)), body):
            tables.append((escaped(row) or MISSING, text))
    return tables


def _data_names(data: StudentCardData) -> list[str]:
    return list(dict.fromkeys(name for name in (data.dataset_name, *data.dataset_ids) if name))


def _by_language(counts: Mapping[str, int]) -> str | None:
    return ", ".join(f"{escaped(language)} {n:,}" for language, n in counts.items()) or None


def _memory(memory: Mapping[str, float]) -> str | None:
    names = {"peak_rss_mib": "main memory", "peak_gpu_mib": "GPU"}
    return ", ".join(f"{memory[key]:,.0f} MiB ({what})" for key, what in names.items() if key in memory) or None


def _energy(energy: Mapping[str, float]) -> str | None:
    if "kwh" not in energy:
        return None
    emitted = f", {energy['co2_kg']:.3g} kg CO2 equivalents" if "co2_kg" in energy else ""
    return f"{energy['kwh']:.3g} kWh{emitted} (codecarbon)"
