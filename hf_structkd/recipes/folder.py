"""A tagger trained into a folder, whole or not at all, and what makes it the model that it is."""

import copy
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, Trainer, set_seed
from transformers.trainer_utils import HubStrategy

from ..distillation.objectives import NO_DISTILLATION
from ..evaluation.resources import measured_energy, peak_memory
from ..files import LOCK_FILE, exclusive_lock, is_held, write_atomically
from ..settings import ABSENT, compare_settings, dump_settings
from ..teachers.answer_store import QUESTION_FILE
from ..teachers.checkpoint import Teacher
from ..training.arguments import StructKDTrainingArguments
from ..training.provenance import content_key, data_fingerprint, model_files
from ..training.trainer import StructKDTrainer
from .parser import RecipeError
from .progress import announce, make_brief

logger = logging.getLogger(__name__)
SETTINGS_FILE = "settings.json"
STATE_FILE = "trainer_state.json"
WORK_SETTINGS_FILE = "_settings.json"  # of a training that goes on; names with _ stay out of pushes to the Hub
_BEFORE_WORK = (SETTINGS_FILE, WORK_SETTINGS_FILE, QUESTION_FILE)
# What is not a field of a recipe, but recorded of what a run was made of.
RECORDED = ("data", "label_order", "encoder")
# What may differ between two runs that count as the same: where it lies, and how it is watched and paced.
FREE_SETTINGS = (
    *("output_dir", "teachers_dir", "baseline_dir", "annotation_dir", "run_name", "report_to", "disable_tqdm"),
    *("logging_steps", "logging_strategy", "logging_first_step", "log_level", "dataloader_num_workers"),
    *("per_device_eval_batch_size", "annotation_batch_size", "push_to_hub", "hub_model_id", "hub_private_repo"),
    *("hub_strategy", "hub_always_push", "hub_revision", "license", "label_examples"),
)


def holds_work(folder: Path) -> bool:
    """Whether a folder holds more than what is written before any work is done: settings and locks that nobody holds.

    What failed while it was set up must not stand in the way of the same thing with other settings.
    """
    files = [path for path in folder.rglob("*") if not path.is_dir()]
    return any(is_held(file.parent) if file.name == LOCK_FILE else file.name not in _BEFORE_WORK for file in files)


def train_tagger(
    model: PreTrainedModel,
    tokenizer: Any,
    train: Dataset,
    dev: Mapping[str, Dataset],
    args: StructKDTrainingArguments,
    teachers: Mapping[str, Teacher] | None = None,
    resume: bool = True,
    title: str | None = None,
) -> Trainer:
    """Train with either head; picks up the last checkpoint in `args.output_dir` if there is one.

    With a `title` a heading says, when training begins, on how many sentences and in how many updates an epoch.
    """
    model.config.languages = sorted(set(train["language"]))
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
    """Train a model and leave it in `folder`, whole or not at all; nothing is done if it is there already.

    Args:
        folder: where the finished model goes. A symbolic link is followed: the work folder lies beside what it names.
        settings: what makes it this model; kept beside it.
        args: the training arguments; `output_dir` becomes a work folder, removed at the end.
        train: does the training.
        title: how messages call the model; nothing is printed without.

    Returns:
        Seconds of training; those of the first time, if the model was there. `training_record` tells more.

    Raises:
        RecipeError: if the folder holds a model made with other settings; it says which. Also if the model in it is
            not the one that was trained there, if another process is training into it, or if it cannot be replaced by
            a finished one (a mount point).
    """
    folder = folder.resolve()
    settings = json.loads(json.dumps(settings))  # as they come back from a file: tuples are lists
    if (folder / SETTINGS_FILE).exists():
        seconds = _finished(folder, settings)
        if title is not None:
            announce(f"{title}: finished before, in {folder}")
        return seconds
    if not args.should_save:
        return _train_into(folder, settings, args, train)
    work = folder.with_name(folder.name + ".training")
    with exclusive_lock(work, RecipeError, f"training {folder}"):
        seconds = _train_into(folder, settings, args, train)
        if work.exists() and [path.name for path in work.iterdir()] == [LOCK_FILE]:
            shutil.rmtree(work)  # the other process finished just before this one got in
    return seconds


def _train_into(
    folder: Path,
    settings: Mapping[str, Any],
    args: StructKDTrainingArguments,
    train: Callable[[StructKDTrainingArguments], Trainer],
) -> float:
    if (folder / SETTINGS_FILE).exists():
        return _finished(folder, settings)
    if folder.exists() and any(folder.iterdir()):
        raise RecipeError(
            f"{folder} is not empty and holds no finished model ({SETTINGS_FILE}); choose another folder"
        )
    work = folder.with_name(folder.name + ".training")
    if (work / WORK_SETTINGS_FILE).exists() and any(work.glob("checkpoint-*")):
        refuse_other_settings(work, json.loads((work / WORK_SETTINGS_FILE).read_text())["settings"], settings)
    # What is finished is pushed by the script, with all scores on its card; before that only where it is asked for.
    args = replace_output(args, work, push_to_hub=args.push_to_hub and args.hub_strategy != HubStrategy.END)
    if args.should_save:
        _make_way(folder)
        work.mkdir(parents=True, exist_ok=True)
        write_atomically(work / WORK_SETTINGS_FILE, json.dumps({"settings": settings}, indent=2))
    set_seed(args.seed)
    started = time.perf_counter()
    trainer = train(args)
    seconds = time.perf_counter() - started + getattr(trainer, "earlier_seconds", 0.0)  # before it was resumed
    finished = folder.with_name(folder.name + ".finished")
    trainer.args.push_to_hub = False
    trainer.save_model(str(finished))
    if args.should_save:
        trainer.state.save_to_json(str(finished / STATE_FILE))
        record = {
            **{"settings": settings, "seconds": seconds, "memory": peak_memory(), "energy": measured_energy(work)},
            "files": model_files(finished),
        }
        write_atomically(finished / SETTINGS_FILE, json.dumps(record, indent=2))
        _make_way(folder)
        os.replace(finished, folder)
        shutil.rmtree(work)
    trainer.accelerator.wait_for_everyone()
    return seconds


def _finished(folder: Path, settings: Mapping[str, Any]) -> float:
    """The seconds that a finished model's training took. Raises RecipeError if it is not the model asked for."""
    stored = json.loads((folder / SETTINGS_FILE).read_text())
    refuse_other_settings(folder, stored["settings"], settings)
    kept, there = stored.get("files"), model_files(folder)  # the first versions kept no checksums
    if kept is not None and (wrong := [name for name in {**kept, **there} if kept.get(name) != there.get(name)]):
        raise RecipeError(
            f"{folder} holds another model than the one that was trained there: {', '.join(sorted(wrong))} changed "
            f"since; remove the folder, or name the model by its path where a recipe takes one"
        )
    logger.info("%s is finished already", folder)
    return stored["seconds"]


def _make_way(folder: Path) -> None:
    """Remove an empty folder, whose place the finished model takes; now, not after hours, a refusal is told."""
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
    """What makes a trained tagger the one that it is, besides the fields of a recipe; for `train_into`'s settings.

    Args:
        data: split -> language -> sentences.
        labels: the label set, in the order of the ids.
        model: the encoder that training starts from; `None` for one from scratch.
        revision: of a Hub id.
    """
    return {
        "data": {
            split: {language: data_fingerprint(own) for language, own in by_language.items()}
            for split, by_language in data.items()
            if by_language
        },
        "label_order": list(labels),
        "encoder": None if model is None else content_key(model, revision),
    }


def training_record(folder: Path) -> dict[str, Any]:
    """What `train_into` keeps of a finished training, as members of `RunResults`: history, memory, energy."""
    stored = json.loads((folder / SETTINGS_FILE).read_text())
    history = json.loads((folder / STATE_FILE).read_text())["log_history"]
    return {"history": history, "memory": stored.get("memory") or {}, "energy": stored.get("energy") or {}}


def replace_output(args: StructKDTrainingArguments, folder: Path, **changes: Any) -> StructKDTrainingArguments:
    """A copy of training arguments for another model of the same run; only the final student is pushed."""
    if changes.get("objective") == NO_DISTILLATION:
        changes = {"temperature": 1.0, **changes}  # there is nothing that it could soften
    copied = copy.deepcopy(args)
    for name, value in {"output_dir": str(folder), "push_to_hub": False, **changes}.items():
        setattr(copied, name, value)
    return copied


def refuse_other_settings(folder: Path, stored: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Raise RecipeError, naming the settings that differ, if a folder was made with others than those asked."""
    if listed := differences(stored, asked):
        raise RecipeError(f"{folder} already holds another run ({listed}); choose another folder, or remove it")


def differences(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """What differs between the settings of a finished thing and those asked, in words; empty where nothing does."""
    # What is not set is as good as a field that there was not yet.
    stored, asked = ({k: v for k, v in json.loads(json.dumps(s)).items() if v is not None} for s in (stored, asked))
    found = compare_settings(stored, asked, ignore=FREE_SETTINGS)
    return "; ".join(
        f"{name} was not recorded there by an earlier version"
        if name in RECORDED and old == ABSENT
        else f"{name}: there {old!r}, asked {new!r}"
        for name, (old, new) in found.items()
    )


def settings_of(*instances: Any) -> dict[str, Any]:
    """The settings that make a run what it is."""
    return {name: value for name, value in dump_settings(*instances).items() if name not in FREE_SETTINGS}
