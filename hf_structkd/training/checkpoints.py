"""Checkpoints that survive a crash: sealed with checksums when they are complete, verified before they are used.

`Trainer` writes a checkpoint file by file into its place. If a run is killed meanwhile, the folder looks like a new
checkpoint and cannot be loaded, or loads as something else. Here a file beside the checkpoint marks it as unfinished,
the last file written into it lists all others with their checksums, and older checkpoints are removed only then.
Whenever the run dies, one complete checkpoint remains, if there ever was one. A resumed training that would silently
differ from the run before (a new optimizer, another position in the epoch) is refused.
"""

import contextlib
import json
import logging
import math
import os
import re
import shutil
import time
from pathlib import Path, PurePosixPath
from typing import Any

from accelerate.data_loader import BatchSamplerShard
from torch import nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, has_length

from ..files import file_sha256, write_atomically

logger = logging.getLogger(__name__)
CHECKSUMS_FILE = "checksums.json"
TRAINING_FILE = "training.json"  # what a resumed training has to know about the run before
_READ_BY_TRAINING = (".safetensors", ".bin", ".pt", ".pth", ".json")
_UNFINISHED = "_unfinished-"  # names that begin with _ are not pushed to the Hub
_HOW_TO_RESUME = (
    "Start it with the batch size, gradient_accumulation_steps, number of processes and training data that it had, or "
    "set ignore_data_skip=True to go on with a new epoch"
)
_NUMBERED = re.compile(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)")


class CheckpointError(RuntimeError):
    """A checkpoint is damaged, could not be written, or cannot be resumed."""


def seal_checkpoint(folder: Path) -> None:
    """Write the sizes in bytes and the SHA-256 checksums of all files of a checkpoint into it, in one step."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != CHECKSUMS_FILE)
    sums = {path.relative_to(folder).as_posix(): _size_and_checksum(path) for path in files}
    write_atomically(folder / CHECKSUMS_FILE, json.dumps(sums, indent=2))


def is_sealed(folder: Path) -> bool:
    """Whether a checkpoint has its list of checksums; those of a stock `Trainer` never have one."""
    return (folder / CHECKSUMS_FILE).exists()


def check_checkpoint(folder: Path) -> None:
    """Verify a sealed checkpoint: its list names all files that training reads, and they are as they were written.

    Raises:
        CheckpointError: Naming the file that is damaged, missing or not listed, or lies outside the checkpoint.
    """
    file = folder / CHECKSUMS_FILE
    try:
        sums = json.loads(file.read_text(encoding="utf-8"))
        listed = [(folder / name, entry["bytes"], entry["sha256"]) for name, entry in sums.items()]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{file} is damaged: {error}") from error
    for name in sums:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\\" in name:
            raise CheckpointError(f"{file} is damaged: it names {name!r}, which is outside the checkpoint")
    read = [path.name for path in folder.iterdir() if path.suffix in _READ_BY_TRAINING and path.name != CHECKSUMS_FILE]
    if unlisted := sorted({TRAINER_STATE_NAME, *read} - sums.keys()):
        raise CheckpointError(f"{file} is damaged: it has no checksum of {', '.join(unlisted)}")
    for path, size, digest in listed:
        if not path.is_file():
            raise CheckpointError(f"{path} is missing: {size:,} bytes were written")
        if (current := _size_and_checksum(path)) != {"bytes": size, "sha256": digest}:
            raise CheckpointError(
                f"{path} is damaged: {size:,} bytes were written and their checksum kept; now there are "
                f"{current['bytes']:,} with another one"
            )


def is_unfinished(folder: Path) -> bool:
    """Whether a run ended while it wrote this checkpoint."""
    return not is_sealed(folder) and _note_beside(folder).exists()


def holds_training_state(folder: Path) -> bool:
    """Whether a checkpoint holds the optimizer and its schedule, in any of their formats.

    With `save_only_model` it does not, and `Trainer` would silently start with new ones.
    """
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    deepspeed = "latest" in names
    return deepspeed or ("scheduler.pt" in names and any("optimizer" in name for name in names))


def numbered_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a training's folder, newest first."""
    checkpoints = [path for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if _NUMBERED.fullmatch(path.name)]
    return sorted(checkpoints, key=lambda path: -int(path.name.rsplit("-", 1)[1]))


def last_whole_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that can be resumed, finished and undamaged; the log says why newer ones cannot.

    A checkpoint of a stock `Trainer`, which has no checksums, counts as finished if its last file exists.
    """
    for checkpoint in numbered_checkpoints(folder):
        if is_unfinished(checkpoint) or not (is_sealed(checkpoint) or (checkpoint / TRAINER_STATE_NAME).exists()):
            logger.warning("%s was never finished: it is left out", checkpoint)
            continue
        try:
            if is_sealed(checkpoint):
                check_checkpoint(checkpoint)
        except CheckpointError as error:
            logger.warning("%s; an older checkpoint is looked for", error)
            continue
        if not holds_training_state(checkpoint):
            logger.warning("%s: it is left out", _model_alone(checkpoint))
            continue
        if not is_sealed(checkpoint):
            _warn_of_stock(checkpoint)
        return checkpoint
    return None


class CheckpointedTrainer(Trainer):
    """[`transformers.Trainer`] whose checkpoints are sealed, and verified before they are used.

    Attributes:
        earlier_seconds: Seconds of training before the checkpoint that `train` resumed; 0 for a new training.
    """

    earlier_seconds: float = 0.0
    _started: float = 0.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.add_callback(_RefuseAnotherPosition())

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As in `Trainer`. With `resume_from_checkpoint=True` the newest complete checkpoint is resumed.

        If a run died before its first checkpoint was finished, training starts from the beginning, which the log says.

        Raises:
            CheckpointError: If the given checkpoint is damaged or holds the model alone, or if this training has other
                batches, processes or data than the one before, and would resume at another position in the data.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = self._whole_checkpoint()
        elif resume_from_checkpoint:
            named = Path(resume_from_checkpoint)
            if is_sealed(named):
                check_checkpoint(named)
            else:
                _warn_of_stock(named)
            if named.is_dir() and not holds_training_state(named):
                raise CheckpointError(
                    f"{_model_alone(named)}. Start a new training from it (from_pretrained), or name a checkpoint "
                    "saved without save_only_model"
                )
        checkpoint = resume_from_checkpoint if isinstance(resume_from_checkpoint, str | os.PathLike) else None
        record = _training_record(Path(checkpoint)) if checkpoint is not None else {}
        before, now = record.get("sentences_an_update"), self._sentences_per_update()
        if before not in (None, now) and not (self.args.ignore_data_skip or self.args.auto_find_batch_size):
            raise CheckpointError(
                f"{checkpoint} is of a training with {before} sentences per update, and this one has {now}: sentences "
                f"would be left out or repeated. {_HOW_TO_RESUME}"
            )
        self.earlier_seconds = float(record.get("seconds", 0.0))
        self._started = time.perf_counter()
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def _whole_checkpoint(self) -> str | bool:
        output = Path(str(self.args.output_dir))
        checkpoints = numbered_checkpoints(output)
        whole = last_whole_checkpoint(output)
        self.accelerator.wait_for_everyone()  # all processes look before anything is removed
        if self.args.should_save:
            for checkpoint in checkpoints:
                if is_unfinished(checkpoint):
                    shutil.rmtree(checkpoint, ignore_errors=True)
            for note in output.glob(f"{_UNFINISHED}*"):
                note.unlink(missing_ok=True)
        if whole is None and checkpoints:
            logger.warning("there is no checkpoint in %s to go on from: training starts from the beginning", output)
            return False
        return str(whole) if whole is not None else True  # with True, Trainer raises its own error

    def get_train_dataloader(self) -> DataLoader:
        """As in `Trainer`, with a sampler that receives the epoch of a resumed training on several processes too.

        `accelerate` sets the epoch of `batch_sampler.sampler`, two levels deep. If processes share batches and the
        first ones are skipped, the sampler is three levels deep, and the order of epoch 0 would be repeated.
        """
        loader = super().get_train_dataloader()
        shard = loader.batch_sampler
        if isinstance(shard, BatchSamplerShard):
            batches: Any = shard.batch_sampler
            shard.sampler = batches if hasattr(batches, "set_epoch") else batches.sampler
        return loader

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder = Path(self._get_output_dir(trial=trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        limit = self.args.save_total_limit
        try:
            if self.args.should_save:
                folder.parent.mkdir(parents=True, exist_ok=True)
                _note_beside(folder).touch()
                (folder / CHECKSUMS_FILE).unlink(missing_ok=True)  # of an earlier run that came as far
            self.args.save_total_limit = None  # nothing is removed before this one is sealed
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()  # every process has written its own random state
            if self.args.should_save:
                seconds = self.earlier_seconds + time.perf_counter() - self._started
                record = {"seconds": seconds, "sentences_an_update": self._sentences_per_update()}
                write_atomically(folder / TRAINING_FILE, json.dumps(record))
                seal_checkpoint(folder)
                _note_beside(folder).unlink(missing_ok=True)
        except Exception as error:
            if self.args.should_save:
                shutil.rmtree(folder, ignore_errors=True)  # the next attempt needs its space
                with contextlib.suppress(OSError):
                    _note_beside(folder).unlink(missing_ok=True)
            if not _is_about_files(error):
                raise
            raise CheckpointError(_not_written(folder, error)) from error
        finally:
            self.args.save_total_limit = limit
        if self.args.should_save and limit:
            self._remove_old_checkpoints(folder, limit)

    def _sentences_per_update(self) -> int:
        return self._train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size

    def _remove_old_checkpoints(self, newest: Path, limit: int) -> None:
        best = self.state.best_model_checkpoint
        always_kept = {newest, *([Path(best)] if best else [])}
        others = [path for path in numbered_checkpoints(newest.parent) if path not in always_kept]
        others.sort(key=os.path.getmtime, reverse=True)  # as in Trainer: those of earlier runs may have higher numbers
        for checkpoint in others[max(0, limit - len(always_kept)) :]:
            shutil.rmtree(checkpoint, ignore_errors=True)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As in `Trainer`. Raises CheckpointError, naming the folder, if the disk is full or may not be written to."""
        try:
            super().save_model(output_dir, _internal_call)
        except Exception as error:
            if not _is_about_files(error):
                raise
            raise CheckpointError(_not_written(Path(output_dir or str(self.args.output_dir)), error)) from error

    def _load_best_model(self) -> None:
        best = self.state.best_model_checkpoint
        if best and is_sealed(Path(best)):
            check_checkpoint(Path(best))
        super()._load_best_model()


class _RefuseAnotherPosition(TrainerCallback):
    """Refuses to resume at another position in the data.

    `Trainer` finds the position by counting updates, even if an update of the run before had another size.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **_: Any) -> None:
        if not state.global_step or args.ignore_data_skip or not has_length(train_dataloader):
            return
        batches = len(train_dataloader)
        epochs, updates = divmod(state.global_step, math.ceil(batches / args.gradient_accumulation_steps))
        position = epochs + updates * args.gradient_accumulation_steps / batches
        if abs(position - state.epoch) > 0.5 / batches:
            raise CheckpointError(
                f"the checkpoint of update {state.global_step} is at epoch {state.epoch:.4g}, and this training would "
                f"go on at epoch {position:.4g}, with sentences left out or repeated. {_HOW_TO_RESUME}"
            )


def _training_record(checkpoint: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((checkpoint / TRAINING_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}  # the checkpoint of a stock `Trainer`


def _model_alone(checkpoint: Path) -> str:
    return f"{checkpoint} holds the model alone (save_only_model), no optimizer and no schedule to go on with"


def _note_beside(checkpoint: Path) -> Path:
    return checkpoint.with_name(f"{_UNFINISHED}{checkpoint.name}")


def _warn_of_stock(checkpoint: Path) -> None:
    logger.warning("%s has no %s: whether it is whole is not known", checkpoint, CHECKSUMS_FILE)


def _is_about_files(error: Exception) -> bool:
    # safetensors and torch.save (by its "inline_container") have their own classes for errors of the system
    writing = ("inline_container", "writing file")
    of_torch = isinstance(error, RuntimeError) and any(part in str(error) for part in writing)
    return of_torch or isinstance(error, OSError) or type(error).__name__ == "SafetensorError"


def _not_written(folder: Path, error: Exception) -> str:
    return (
        f"{folder} could not be written ({error}): make room, or choose another folder, and start again; checkpoints "
        "that were finished are there to go on from"
    )


def _size_and_checksum(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
