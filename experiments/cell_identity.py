"""What makes a cell's results its own, and which of it differs: settings, sentences, labels, encoder, teachers."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_structkd.evaluation.results import to_json_types
from hf_structkd.recipes.folder import differences
from hf_structkd.recipes.models import encoder_of
from hf_structkd.training.provenance import content_key, same_data

from .grid import RESULTS_FILE, Cell, Grid, GridError
from .grid_corpora import GridCorpora
from .teacher_sets import TeacherSets


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
