"""A grid of experiments in one YAML file: what is shared, and the cells that differ.

    description: what it is to show
    recipe: {...}           # fields of run_distill.py's recipes, the same for every cell
    pool_sentences: 20000   # training sentences of each language that gold and text are drawn from
    seeds: 10               # 1 to 10, or a list; each draws initialisation, data order and subset
    teacher_sets:           # name -> checkpoints that exist, or how they are trained, or an ensemble of sets
      lab: {model: ENCODER, max_train_sentences: 20000, num_train_epochs: 2, learning_rate: 5e-4, seeds: [1]}
    baseline: [none]        # what the others are compared with: of several cells the best one on dev
    cells:                  # name -> fields that differ, of the recipe or of `CellArguments`
      none: {objective: none}
      posterior: {objective: posterior}
      K={top_k}: {objective: top_wk, matrix: {top_k: [1, 2, 5]}}    # several at once, named by their fields
    curves: [...]           # what report.py draws

`${NAME}` stands for what `--define NAME=VALUE` says, so that grids and results name no folder of one machine.

Fields of recipes that have no effect in a grid are refused by name.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import yaml

from hf_structkd import StructKDTrainingArguments
from hf_structkd.data.columns import TOPK_TAGS
from hf_structkd.recipes.effects import IDLE_EVERYWHERE
from hf_structkd.recipes.fields import DataArguments, ModelArguments, StartArguments
from hf_structkd.recipes.parser import RecipeError, read_mapping
from hf_structkd.recipes.values import read_yaml

RESULTS_FILE, SENTENCES_FILE, FAILURE_FILE = "results.json", "sentences.npz", "failure.txt"
RUNS_FILE = "runs.jsonl"  # the results of all runs of a grid, packed
# What every cell and teacher is trained with unless the grid says otherwise: the best epoch on dev is kept.
DEFAULTS: dict[str, Any] = {
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "save_total_limit": 1,
    "save_only_model": True,
    "load_best_model_at_end": True,
    "metric_for_best_model": "macro",
    "logging_steps": 100,
    "report_to": "none",
    "disable_tqdm": True,
}


class GridError(RecipeError):
    """A grid that cannot be run; the message names the place, the value and what to do."""


@dataclass
class CellArguments(StartArguments):
    """The fields of a cell that are not a teacher's too."""

    text_sentences: int | None = field(
        default=None,
        metadata={
            "help": "Sentences of each language that the student sees, the max_train_sentences with gold tags (0 for "
            "none) among them; of the others it sees the teachers' answers alone. Default: those with gold tags."
        },
    )
    subset_seed: int | None = field(
        default=None, metadata={"help": "Which sentences of the pool these are. Default: the cell's seed."}
    )
    teacher_set: str | None = field(
        default=None, metadata={"help": "The teachers, a name under teacher_sets. Default: the first one."}
    )
    gold_pool: int | None = field(
        default=None,
        metadata={
            "help": "Sentences with gold tags are drawn from the first so many of the pool, text from the others. "
            "Default: both from the whole pool."
        },
    )


@dataclass
class TeacherSet:
    """The teachers of every language, in one of three ways.

    Args:
        checkpoints: language -> checkpoint, or several whose distributions are mixed.
        ensemble: names of other sets, whose teachers are mixed.
        recipe: how they are trained: fields of a recipe, on the first `max_train_sentences` of the pool. `corpus`
            names other corpora of the same languages and labels.
        seeds: one teacher is trained for each; several are mixed.
        together: one teacher for all languages, trained on all their corpora, instead of one for each.
        label_map: what becomes of the labels of `checkpoints`.
        folds: cross-fitting. Each teacher is trained so many times, each time without one part of its sentences, and
            answers about that part; about all other sentences they answer as a mixture.
        wrong_paths: answer with transitions read the wrong way round, without start and end scores and without
            constraints: what the k-best decoder of SLKD's official code does.
    """

    checkpoints: dict[str, str | list[str]] | None = None
    ensemble: list[str] | None = None
    recipe: dict[str, Any] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=lambda: [1])
    together: bool = False
    label_map: dict[str, Any] | None = None
    folds: int | None = None
    wrong_paths: bool = False


@dataclass
class Cell:
    """A cell under one seed, its fields read and checked."""

    name: str
    seed: int
    settings: dict[str, Any]  # as the grid gives them, placeholders and all
    data: DataArguments
    model: ModelArguments
    own: CellArguments
    args: StructKDTrainingArguments

    @property
    def path(self) -> Path:
        return Path("cells") / re.sub(r"[^\w.+=-]", "_", self.name) / f"seed-{self.seed}"

    @property
    def gold_sentences(self) -> int | None:
        return self.data.max_train_sentences

    @property
    def text_sentences(self) -> int | None:
        return self.own.text_sentences if self.own.text_sentences is not None else self.gold_sentences

    @property
    def objectives(self) -> dict[str, Any]:
        return self.args.objectives

    def __str__(self) -> str:
        return f"{self.name}, seed {self.seed}"


class Grid:
    """A grid as its file says.

    Args:
        content: the file's mapping.
        name: of the grid; results lie in a folder of this name.
        definitions: what stands for the placeholders.

    Raises:
        GridError: for an unknown or missing member, a cell's wrong field, a name that nothing has.
    """

    MEMBERS = (
        *("description", "recipe", "pool_sentences", "seeds", "teacher_sets", "baseline", "cells", "zero_shot"),
        *("curves", "annotation_top_k", "limitations", "hub_datasets"),
    )

    def __init__(self, content: Mapping[str, Any], name: str, definitions: Mapping[str, str] | None = None) -> None:
        self.name, self.definitions = name, {} if definitions is None else definitions
        if unknown := [member for member in content if member not in self.MEMBERS]:
            raise GridError(f"grid {name}: unknown members {unknown}; there are {', '.join(self.MEMBERS)}")
        if not isinstance(content.get("cells"), Mapping) or not content["cells"]:
            raise GridError(f"grid {name} has no cells")
        self.content = dict(content)
        self.description: str = content.get("description", "")
        self.recipe: dict[str, Any] = {**DEFAULTS, **content.get("recipe", {})}
        self.pool_sentences: int | None = content.get("pool_sentences")
        seeds = content.get("seeds", 1)
        self.seeds: list[int] = list(range(1, seeds + 1)) if isinstance(seeds, int) else list(seeds)
        self.cells: dict[str, dict[str, Any]] = {}
        for cell, settings in content["cells"].items():
            for combined, fields_of_cell in _combinations(cell, dict(settings or {})):
                if combined in self.cells:
                    raise GridError(f"grid {name}: two cells are called {combined!r}")
                self.cells[combined] = fields_of_cell
        self.teacher_sets = {
            set_name: self._teacher_set(set_name, spec)
            for set_name, spec in (content.get("teacher_sets") or {}).items()
        }
        try:
            refuse_idle_members(content.get("recipe") or {}, self.cells, content.get("teacher_sets") or {})
        except RecipeError as error:
            raise GridError(f"grid {name}: {error}") from None
        self._refuse_folds_in_ensembles()
        baseline = content.get("baseline", next(iter(self.cells)))
        self.baselines: list[str] = [baseline] if isinstance(baseline, str) else list(baseline)
        self.zero_shot: dict[str, Any] = content.get("zero_shot") or {}
        self.curves: list[dict[str, Any]] = content.get("curves") or []
        self.limitations: list[str] = content.get("limitations") or []
        self.hub_datasets: list[str] = content.get("hub_datasets") or []
        self.annotation_top_k: int = content.get("annotation_top_k", 10)
        if missing := [cell for cell in self.baselines if cell not in self.cells]:
            raise GridError(f"grid {name}: the baseline names cells that it does not have: {missing}")

    @classmethod
    def read(cls, path: str | Path, definitions: Mapping[str, str] | None = None) -> "Grid":
        try:
            content = read_yaml(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise GridError(f"grid {path} cannot be read: {error}") from None
        if not isinstance(content, dict):
            raise GridError(f"grid {path} must be a mapping")
        return cls(content, Path(path).stem, definitions)

    def _teacher_set(self, name: str, spec: Mapping[str, Any]) -> TeacherSet:
        members = {member.name for member in fields(TeacherSet)} - {"recipe"}
        specified = {key: value for key, value in spec.items() if key in members}
        recipe = {key: value for key, value in spec.items() if key not in members}
        ways = [way for way in ("checkpoints", "ensemble") if spec.get(way)]
        if recipe:
            ways.append("training fields")
        if len(ways) != 1:
            raise GridError(f"teacher set {name!r} needs checkpoints, an ensemble or training fields; it has {ways}")
        if (folds := specified.get("folds")) is not None and (not recipe or not isinstance(folds, int) or folds < 2):
            raise GridError(
                f"teacher set {name!r}: folds are parts of what is trained on here, 2 or more, not {folds!r}"
            )
        return TeacherSet(**specified, recipe=recipe)

    def _refuse_folds_in_ensembles(self) -> None:
        for name, spec in self.teacher_sets.items():
            if folded := [n for n in spec.ensemble or () if n in self.teacher_sets and self.teacher_sets[n].folds]:
                raise GridError(
                    f"teacher set {name!r}: an ensemble would answer about sentences whose tags its members learnt; "
                    f"{', '.join(folded)} has folds so as not to"
                )

    def expand(self, value: Any) -> Any:
        """The value with its placeholders filled in. Raises GridError for one that nothing was defined for."""
        if isinstance(value, Mapping):
            return {key: self.expand(member) for key, member in value.items()}
        if isinstance(value, list):
            return [self.expand(member) for member in value]
        if not isinstance(value, str):
            return value

        def fill(match: re.Match) -> str:
            if match[1] not in self.definitions:
                raise GridError(f"grid {self.name} needs --define {match[1]}=VALUE, for {value!r}")
            return self.definitions[match[1]]

        return re.sub(r"\$\{(\w+)\}", fill, value)

    def teacher_set_of(self, cell: Cell) -> str | None:
        """The name of the set that a cell's teachers are; `None` where it asks none."""
        asks = cell.objectives or cell.own.teacher_embeddings is not None
        return self._set_name(cell.own.teacher_set, cell.name) if asks else None

    def _set_name(self, given_name: str | None, cell: str) -> str:
        name = given_name or next(iter(self.teacher_sets), None)
        if name not in self.teacher_sets:
            raise GridError(f"cell {cell!r} wants teacher set {name!r}; there are {list(self.teacher_sets)}")
        return name

    def cell(self, name: str, seed: int) -> Cell:
        """A cell, read and checked. Raises GridError, naming it, where a field is wrong."""
        settings = {**self.recipe, **self.cells[name], "seed": seed}
        try:
            data, model, own, args = read_mapping(
                (DataArguments, ModelArguments, CellArguments, StructKDTrainingArguments),
                {**self.expand(settings), "output_dir": "unused"},
            )
        except RecipeError as error:
            raise GridError(f"grid {self.name}, cell {name!r}: {error}") from error
        cell = Cell(name, seed, settings, data, model, own, args)
        if self.teacher_set_of(cell):
            spec = self.content["teacher_sets"][self.teacher_set_of(cell)]
            cell.settings = {**settings, "teacher_set": {self.teacher_set_of(cell): spec}}
        cell.settings["pool_sentences"] = self.pool_sentences
        gold, text = cell.gold_sentences, cell.text_sentences
        if text is not None and (gold is None or text < gold):
            raise GridError(f"cell {name!r}: text_sentences {text} are fewer than max_train_sentences {gold}")
        if cell.own.gold_pool is not None and (gold is None or gold > cell.own.gold_pool):
            raise GridError(
                f"cell {name!r}: max_train_sentences {gold} are more than the {cell.own.gold_pool} of gold_pool, "
                "which they are drawn from"
            )
        reads_paths = any(TOPK_TAGS in objective.needs for objective, _ in cell.objectives.values())
        if reads_paths and cell.args.top_k > self.annotation_top_k:
            raise GridError(
                f"cell {name!r}: top_k {cell.args.top_k} is above annotation_top_k, the {self.annotation_top_k} paths "
                "that teachers are asked for; raise it, and they are asked again"
            )
        if data.augmentation is not None and not cell.objectives:
            raise GridError(f"cell {name!r}: rewritten sentences are learnt from teachers alone, and it has none")
        if data.augmentation is not None and self.teacher_sets[self.teacher_set_of(cell)].folds:
            raise GridError(
                f"cell {name!r}: rewritten sentences are made of sentences of all parts, so teachers with folds would "
                "answer about what they learnt; use a set without folds"
            )
        if gold == 0 and not cell.objectives:
            raise GridError(f"cell {name!r} has neither gold tags nor teachers")
        return cell

    def all_cells(self, patterns: Sequence[str] = (), seeds: Sequence[int] = ()) -> list[Cell]:
        """The cells that match one of the patterns, seed by seed, so that the first results compare all cells."""
        for pattern in patterns:
            if not any(fnmatch(name, pattern) for name in self.cells):
                raise GridError(f"grid {self.name}: no cell matches {pattern!r}; there are {', '.join(self.cells)}")
        names = [cell for cell in self.cells if not patterns or any(fnmatch(cell, p) for p in patterns)]
        return [self.cell(name, seed) for seed in seeds or self.seeds for name in names]


def _combinations(name: str, settings: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """A cell, or those of its `matrix`: every combination of the values listed for some fields."""
    matrix = settings.pop("matrix", None)
    if matrix is None:
        return [(name, settings)]
    if not isinstance(matrix, Mapping) or not all(isinstance(values, list) and values for values in matrix.values()):
        raise GridError(f"cell {name!r}: a matrix is a mapping from fields to lists of values, not {matrix!r}")
    if missing := [field_name for field_name in matrix if f"{{{field_name}}}" not in name]:
        raise GridError(f"cell {name!r} needs {{{missing[0]}}} in its name, which tells its combinations apart")
    combined = [dict(zip(matrix, values)) for values in itertools.product(*matrix.values())]
    return [(name.format(**values), {**settings, **values}) for values in combined]


OWN_DATA = ("max_train_sentences", "augmentation")  # of a cell; all else about corpora is the grid's
READ_WITH_CORPUS = (
    "languages",
    "tags_column",
    "tokens_column",
    "sentence_column",
    "column",
    "corpus_scheme",
    "corpus_format",
    "orphans",
)
_DATA = tuple(field.name for field in fields(DataArguments))
_TRAINING = {field.name: field.default for field in fields(StructKDTrainingArguments)}
EVERYWHERE = {
    **IDLE_EVERYWHERE,
    "unlabelled_sentences": "a grid says text_sentences where a recipe has unlabelled_sentences",
    **dict.fromkeys(("unlabelled_corpus", "sentences"), "a grid's text comes from its pool: text_sentences"),
    "glued_words": "a grid's pool keeps words alone, not their blanks",
    "seed": "a grid says seeds",
    "output_dir": "run_grid.py has an option for it",
    **dict.fromkeys(("annotation_dir", "annotation_batch_size"), "run_grid.py keeps the answers under --cache_dir"),
    **dict.fromkeys(("push_to_hub", "hub_token", "hub_strategy", "hub_always_push"), "grids push nothing"),
    "label_examples": "cards of cells quote no data",
    "add_types": "a grid's label set is that of its corpora; plans (experiments/run_plan.py) add types",
    "trim_vocabulary": "a grid trains without the unused pieces by itself, and keeps no student",
    "annotation_context": "a grid's pool asks about each sentence alone",
    "confidence_weight": "a grid's pool keeps no entropies",
    **dict.fromkeys(
        ("hidden_first", "hidden_weight", "hidden_layer", "hidden_thaw"),
        "a grid's students learn from stored answers, and word vectors are asked for while they train",
    ),
}
OF_TEACHERS = {
    **dict.fromkeys(
        (
            *("temperature", "temperature_mode", "top_k", "lambda_schedule", "lambda_start", "lambda_end"),
            *("objective_combination", "lambda_rate", "unlabelled_rate", "augmentation", "objective"),
        ),
        "teachers are trained on gold tags alone",
    ),
    **dict.fromkeys(("labels", "max_dev_sentences", "max_test_sentences"), "these are the grid's"),
}


def refuse_idle_members(
    recipe: Mapping[str, Any], cells: Mapping[str, Mapping[str, Any]], teacher_sets: Mapping[str, Mapping[str, Any]]
) -> None:
    """Raise RecipeError, naming the place and the field, for what a grid says without effect."""
    for name, settings in (
        ("the recipe", recipe),
        *((f"cell {name!r}", settings) for name, settings in cells.items()),
    ):
        reasons = dict(EVERYWHERE)
        if name != "the recipe":
            reasons |= {
                field: "a grid's cells share their corpora; it belongs into the recipe"
                for field in _DATA
                if field not in (*OWN_DATA, *EVERYWHERE)
            }
        _refuse(name, settings, reasons)
    for name, spec in teacher_sets.items():
        reasons = EVERYWHERE | OF_TEACHERS
        if "corpus" not in spec:
            reasons |= dict.fromkeys(READ_WITH_CORPUS, "it is the grid's where the set has no corpus of its own")
        if spec.get("checkpoints") or spec.get("ensemble"):
            reasons |= dict.fromkeys(("seeds", "together", "folds"), "its teachers are not trained here")
        if spec.get("ensemble"):
            reasons |= dict.fromkeys(("label_map", "wrong_paths"), "the sets that it names say it")
        _refuse(f"teacher set {name!r}", spec, reasons)


def _refuse(place: str, settings: Mapping[str, Any], reasons: Mapping[str, str]) -> None:
    idle = [
        field
        for field in settings
        if field in reasons and settings[field] not in (None, False, "none", _TRAINING.get(field))
    ]
    if idle:
        listed = "; ".join(f"{field}: {reasons[field]}" for field in idle)
        raise RecipeError(f"{place} has fields without effect, leave them out: {listed}")
