"""Training into a folder: a finished model is there or not, with the settings that it was trained with."""

import copy
import json
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, Trainer, set_seed
from transformers.trainer_utils import HubStrategy

from ..distillation.weighted_objectives import NO_DISTILLATION
from ..evaluation.results import measured_energy, peak_memory
from ..evaluation.sentences import type_reports
from ..files import LOCK_FILE, exclusive_lock, is_held, write_atomically
from ..settings import ABSENT, compare_settings, dump_settings
from ..teachers.answer_store import QUESTION_FILE
from ..teachers.checkpoint import Teacher
from ..teachers.panel import Panel
from ..training.arguments import StructKDTrainingArguments
from ..training.provenance import content_key, data_fingerprint, model_files
from ..training.trainer import StructKDTrainer
from .parser import RecipeError
from .progress import announce, make_brief, show

logger = logging.getLogger(__name__)
# When a type counts as not learnt, and what to set then. Measured with a one-layer tagger that learns a type from 114
# sentences (61 entities): at 5e-5 it finds none after 480 updates; at 3e-4 (CRF 1e-2) none after 200, many after 400.
_ENOUGH_ENTITIES, _ENOUGH_UPDATES = 5, 400
_LARGE_RATE, _LARGE_CRF_RATE = 3e-4, 1e-2
SETTINGS_FILE = "settings.json"
STATE_FILE = "trainer_state.json"
WORK_SETTINGS_FILE = "_settings.json"  # of an unfinished training; names that begin with _ are not pushed to the Hub
# Files that are written before any work is done.
_BEFORE_WORK = (SETTINGS_FILE, WORK_SETTINGS_FILE, QUESTION_FILE)
# Settings that are no fields of a recipe; see `provenance`.
RECORDED = ("data", "label_order", "encoder")
# Fields that may differ between two runs that count as the same: places, logging, speed, and what the Hub shows.
FREE_SETTINGS = (
    *(
        "output_dir",
        "teachers_dir",
        "baseline_dir",
        "annotation_dir",
        "annotation_parts",
        "run_name",
        "report_to",
        "disable_tqdm",
    ),
    *("logging_steps", "logging_strategy", "logging_first_step", "log_level", "dataloader_num_workers"),
    *("per_device_eval_batch_size", "annotation_batch_size", "push_to_hub", "hub_model_id", "hub_private_repo"),
    *("hub_strategy", "hub_always_push", "hub_revision", "license", "hub_datasets", "label_examples"),
)
# Fields of distillation, which change nothing in a training on gold tags alone: teachers and baselines are the same
# whatever their student learns from.
_WITHOUT_TEACHERS = (
    *("objective_combination", "temperature", "temperature_mode", "top_k", "annotation_context", "documents"),
    *("lambda_schedule", "lambda_start", "lambda_end", "lambda_rate"),
)


def holds_work(folder: Path) -> bool:
    """Whether a folder holds more than is written before any work: settings, and locks that no process holds.

    A run that failed before it began must not block the same folder for a run with other settings.
    """
    files = [path for path in folder.rglob("*") if not path.is_dir()]
    return any(is_held(file.parent) if file.name == LOCK_FILE else file.name not in _BEFORE_WORK for file in files)


def train_tagger(
    model: PreTrainedModel,
    tokenizer: Any,
    train: Dataset,
    dev: Mapping[str, Dataset],
    args: StructKDTrainingArguments,
    teachers: Mapping[str, Teacher | Panel] | None = None,
    resume: bool = True,
    title: str | None = None,
) -> Trainer:
    """Train a tagger with a CRF or a softmax head.

    Args:
        model: The tagger, changed in place.
        tokenizer: Its tokenizer.
        train: Training sentences with a column `language`.
        dev: Language -> development sentences.
        args: The training arguments.
        teachers: Language -> its teachers; `None` if the sentences hold the answers already, or none are needed.
        resume: Whether to continue from the newest checkpoint in `args.output_dir`.
        title: The name of the model in a heading with the numbers of sentences and updates; `None` for no heading.

    Returns:
        The trainer after training.
    """
    trainer = StructKDTrainer(model, args, None, train, dict(dev), tokenizer, teachers=teachers)
    make_brief(trainer, title)
    checkpoints = list(Path(args.output_dir or ".").glob("checkpoint-*")) if resume else []
    trainer.train(resume_from_checkpoint=bool(checkpoints) or None)
    return trainer


def train_into(
    folder: Path,
    settings: Mapping[str, Any],
    args: StructKDTrainingArguments,
    train: Callable[[StructKDTrainingArguments], Trainer],
    title: str | None = None,
) -> float:
    """Train a model into a folder, which then holds all of it or nothing. A finished model is not trained again.

    Args:
        folder: The folder of the finished model. A symbolic link is followed: the work folder lies beside its target.
        settings: The settings that identify the model; they are stored with it.
        args: The training arguments. A work folder, removed at the end, takes the place of their `output_dir`.
        train: Does the training: arguments -> trainer.
        title: The name of the model in messages; `None` for no messages.

    Returns:
        Seconds of the training, an earlier one included. [`training_record`] returns more.

    Raises:
        RecipeError: If the folder holds a model with other settings (the message names them), if the model in it was
            changed since, if another process is training into it, or if it cannot be replaced by the finished model
            (a mount point).
    """
    folder = folder.resolve()
    settings = json.loads(json.dumps(settings))  # as a file gives them back: tuples become lists
    if (folder / SETTINGS_FILE).exists():
        seconds = _finished_seconds(folder, settings)
        if title is not None:
            announce(f"{title}: finished before, in {folder}")
        return seconds
    if not args.should_save:
        return _train_into(folder, settings, args, train)
    work = folder.with_name(folder.name + ".training")
    with exclusive_lock(work, RecipeError, f"training {folder}"):
        seconds = _train_into(folder, settings, args, train)
        if work.exists() and [path.name for path in work.iterdir()] == [LOCK_FILE]:
            shutil.rmtree(work)  # another process finished just before this one got the lock
    return seconds


def _train_into(
    folder: Path,
    settings: Mapping[str, Any],
    args: StructKDTrainingArguments,
    train: Callable[[StructKDTrainingArguments], Trainer],
) -> float:
    if (folder / SETTINGS_FILE).exists():
        return _finished_seconds(folder, settings)
    if folder.exists() and any(folder.iterdir()):
        raise RecipeError(
            f"{folder} is not empty and holds no finished model ({SETTINGS_FILE}); choose another folder"
        )
    work = folder.with_name(folder.name + ".training")
    if (work / WORK_SETTINGS_FILE).exists() and any(work.glob("checkpoint-*")):
        refuse_other_settings(work, json.loads((work / WORK_SETTINGS_FILE).read_text())["settings"], settings)
    # The command pushes the finished model with all scores on its card; checkpoints go only if hub_strategy says so.
    args = replace_output(args, work, push_to_hub=args.push_to_hub and args.hub_strategy != HubStrategy.END)
    if args.should_save:
        _remove_empty_folder(folder)
        work.mkdir(parents=True, exist_ok=True)
        write_atomically(work / WORK_SETTINGS_FILE, json.dumps({"settings": settings}, indent=2))
    set_seed(args.seed)
    started = time.perf_counter()
    trainer = train(args)
    seconds = time.perf_counter() - started + getattr(trainer, "earlier_seconds", 0.0)  # of the runs before this one
    finished = folder.with_name(folder.name + ".finished")
    trainer.args.push_to_hub = False
    trainer.save_model(str(finished), _internal_call=True)  # the run writes the card, with all scores
    if args.should_save:
        trainer.state.save_to_json(str(finished / STATE_FILE))
        record = {
            **{"settings": settings, "seconds": seconds, "memory": peak_memory(), "energy": measured_energy(work)},
            "files": model_files(finished),
        }
        write_atomically(finished / SETTINGS_FILE, json.dumps(record, indent=2))
        _remove_empty_folder(folder)
        os.replace(finished, folder)
        shutil.rmtree(work)
    trainer.accelerator.wait_for_everyone()
    return seconds


def _finished_seconds(folder: Path, settings: Mapping[str, Any]) -> float:
    """Seconds that the training of a finished model took. Raises RecipeError if the folder holds another model."""
    stored = json.loads((folder / SETTINGS_FILE).read_text())
    refuse_other_settings(folder, stored["settings"], settings)
    old, new = stored.get("files"), model_files(folder)  # the first versions stored no checksums
    if old is not None and (changed := [name for name in {**old, **new} if old.get(name) != new.get(name)]):
        raise RecipeError(
            f"{folder} holds another model than the one that was trained there: {', '.join(sorted(changed))} changed "
            f"since; remove the folder, or name the model by its path where a recipe takes one"
        )
    logger.info("%s is finished already", folder)
    return stored["seconds"]


def _remove_empty_folder(folder: Path) -> None:
    """Remove an empty folder that the finished model will replace; called before training, so as to fail early."""
    if folder.exists():
        try:
            folder.rmdir()
        except OSError as error:
            raise RecipeError(
                f"{folder} cannot be replaced by the finished model ({error.strerror}), as a mount point cannot: "
                f"choose a folder inside it, {folder / 'model'} for instance"
            ) from error


def provenance(
    data: Mapping[str, Mapping[str, Dataset]], labels: Sequence[str], model: str | None = None, revision: Any = None
) -> dict[str, Any]:
    """Fingerprints of what a tagger is trained from, beside the fields of a recipe; for the settings of `train_into`.

    Args:
        data: Split -> language -> sentences.
        labels: The label set in the order of the ids.
        model: The encoder that training starts from, a folder or a Hub id; `None` for one made from scratch.
        revision: Branch, tag or commit of a Hub id.

    Returns:
        The settings named in `RECORDED`, as JSON values.
    """
    return {
        "data": {
            split: {language: data_fingerprint(sentences) for language, sentences in by_language.items()}
            for split, by_language in data.items()
            if by_language
        },
        "label_order": list(labels),
        "encoder": None if model is None else content_key(model, revision),
    }


def training_record(folder: Path) -> dict[str, Any]:
    """The record of a finished training as members of [`RunResults`]: `history`, `memory` and `energy`."""
    stored = json.loads((folder / SETTINGS_FILE).read_text())
    history = json.loads((folder / STATE_FILE).read_text())["log_history"]
    return {"history": history, "memory": stored.get("memory") or {}, "energy": stored.get("energy") or {}}


def warn_of_unlearnt_types(
    row: str, scores: Sequence[Mapping[str, Any]], folder: Path, args: StructKDTrainingArguments
) -> None:
    """Print what a finished training has not learnt at all, in words, with its figures and what to set.

    Few sentences make few updates, after which a tagger finds no entity of a type, whatever the teachers say: its
    score is 0, and nothing else tells why.

    Args:
        row: The name of the tagger in tables.
        scores: Of each split that was scored, language -> report.
        folder: The folder of the finished model.
        args: What it was trained with.
    """
    numbers: dict[str, float] = {}
    correct: dict[str, float] = {}
    for reports in scores:
        for language, report in reports.items():
            for kind, counts in type_reports(report).items() if language != "avg" else ():
                numbers[kind] = numbers.get(kind, 0) + counts.get("number", 0)
                correct[kind] = correct.get(kind, 0) + counts.get("correct", 0)
    unlearnt = {kind: number for kind, number in numbers.items() if number >= _ENOUGH_ENTITIES and not correct[kind]}
    state = json.loads((folder / STATE_FILE).read_text())
    updates, epochs = state["global_step"], state["num_train_epochs"]
    # After a long training, a few rare types are no sign of a wrong setting.
    if not unlearnt or (updates >= _ENOUGH_UPDATES and 2 * len(unlearnt) < len(numbers)):
        return
    losses = [entry["eval_macro_loss"] for entry in state["log_history"] if "eval_macro_loss" in entry]
    fell = f"; its loss on dev went from {losses[0]:.3g} to {losses[-1]:.3g}" if len(losses) > 1 else ""
    listed = ", ".join(f"{kind} (0 of {number:,.0f} right)" for kind, number in unlearnt.items())
    rates = f"learning_rate {args.learning_rate:g}"
    larger = [f"learning_rate: {_LARGE_RATE:g}"] if args.learning_rate < _LARGE_RATE else []
    if args.crf_learning_rate is not None:
        rates += f" and crf_learning_rate {args.crf_learning_rate:g}"
        larger += [f"crf_learning_rate: {_LARGE_CRF_RATE:g}"] if args.crf_learning_rate < _LARGE_CRF_RATE else []
    advice = "give more sentences that have these types, or train longer"
    if updates < _ENOUGH_UPDATES:
        more = math.ceil(_ENOUGH_UPDATES * epochs / max(updates, 1))
        advice = f"set num_train_epochs: {more} (about {_ENOUGH_UPDATES} updates)"
        if args.max_steps > 0:  # which wins over the number of epochs
            advice = f"set max_steps: {_ENOUGH_UPDATES}, or leave max_steps out and set num_train_epochs"
    if larger:
        advice += f", and a larger rate, for instance {', '.join(larger)}"
    trained = f"{updates:,} update{'s' * (updates != 1)} in {epochs} epoch{'s' * (epochs != 1)}"
    show(
        f"\nWARNING: {row} has not learnt {listed}. It was trained for {trained} with "
        f"{rates}{fell}. To learn more: {advice}."
    )


def replace_output(args: StructKDTrainingArguments, folder: Path, **changes: Any) -> StructKDTrainingArguments:
    """A copy of training arguments for another model of the same run.

    Args:
        args: The arguments of the run.
        folder: The new `output_dir`.
        changes: Other fields to change; `push_to_hub` is false unless it is among them.
    """
    if changes.get("objective") == NO_DISTILLATION:
        # Without distillation there is nothing to soften, no word to weigh, and no teacher to read with.
        nobody_asked = (
            "focal_weights",
            "confidence_weight",
            "hidden_first",
            "hidden_weight",
            "hidden_layer",
            "hidden_thaw",
        )
        changes = {"temperature": 1.0, **dict.fromkeys(nobody_asked), **changes}
    copied = copy.deepcopy(args)
    for name, value in {"output_dir": str(folder), "push_to_hub": False, **changes}.items():
        setattr(copied, name, value)
    return copied


def refuse_other_settings(folder: Path, stored: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Raise RecipeError, naming the differences, if the settings stored in a folder are not those of this run."""
    if listed := differences(stored, asked):
        raise RecipeError(f"{folder} already holds another run ({listed}); choose another folder, or remove it")


def differences(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """The differences between stored settings and those of this run, as text; empty if there are none.

    A field without a value counts as one that the version which stored the settings did not have.
    """
    stored, asked = ({k: v for k, v in json.loads(json.dumps(s)).items() if v is not None} for s in (stored, asked))
    gold_alone = stored.get("objective") == asked.get("objective") == NO_DISTILLATION
    pairs = compare_settings(stored, asked, ignore=(*FREE_SETTINGS, *(_WITHOUT_TEACHERS if gold_alone else ())))
    return "; ".join(
        f"{name} was not recorded there by an earlier version"
        if name in RECORDED and old == ABSENT
        else f"{name}: there {old!r}, asked {new!r}"
        for name, (old, new) in pairs.items()
    )


def settings_of(*instances: Any) -> dict[str, Any]:
    """The settings of a recipe's dataclasses that decide what a run computes, without `FREE_SETTINGS`."""
    return {name: value for name, value in dump_settings(*instances).items() if name not in FREE_SETTINGS}
