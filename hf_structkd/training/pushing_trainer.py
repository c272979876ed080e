"""A trainer whose pushes to the Hub are complete: model, tokenizer, code, card, results and pictures."""

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import Trainer
from transformers.trainer_utils import HubStrategy

from ..evaluation.results import RunResults
from ..hub.describe import describe_student
from ..hub.model_card import CARD_NAME, REWRITTEN
from ..hub.push import pushing, reason
from ..teachers.panel import Teachers
from .arguments import StructKDTrainingArguments
from .card import base_model, trainer_results
from .checkpoints import CheckpointedTrainer

logger = logging.getLogger(__name__)


class PushingTrainer(CheckpointedTrainer):
    """[`transformers.Trainer`] with complete pushes, and errors of the Hub that lose no result.

    `save_model()` leaves the model, its code, `results.json`, pictures and the card in a folder. `push_to_hub()` and
    every `hub_strategy`, during training too, push the same.

    Attributes:
        teachers: The student's teachers, for the card; `None` without teachers.
    """

    args: StructKDTrainingArguments
    teachers: Teachers | None = None

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write `results.json`, pictures and the student's card into `output_dir`. Every push calls this.

        An existing card that this trainer may not replace stays as it is, with the files beside it: a card that was
        edited, or one that was made with more than the trainer knows (scores on test, or of the teachers).

        Args:
            args, kwargs: As for `Trainer`; `language`, `license`, `tags`, `model_name`, `finetuned_from` and `dataset`
                are shown on the card.
        """
        folder = Path(str(self.args.output_dir))
        if self.is_world_process_zero() and not is_foreign(folder / CARD_NAME):
            write_description(self, self.teachers, folder, *args, **kwargs)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As in `Trainer`; `results.json`, pictures and the card are written beside the model, as for a push.

        The checkpoints of a training have none of these. A card that the trainer may not replace stays as it is, see
        [`create_model_card`], and the log says so.
        """
        super().save_model(output_dir, _internal_call)
        folder = Path(output_dir or str(self.args.output_dir))
        pushed = self.args.push_to_hub and folder == Path(str(self.args.output_dir))
        if _internal_call or pushed or not self.is_world_process_zero():
            return
        if is_foreign(folder / CARD_NAME):
            logger.warning("%s is of other results, or was edited: it stays as it is", folder / CARD_NAME)
            return
        write_description(self, self.teachers, folder, model_name=None if self.args.hub_model_id else folder.name)

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """As in `Trainer`. Raises PushError, before any training where `push_to_hub` is set, if the Hub refuses."""
        refuse_private_files(self.args)
        with pushing(self._repo_id(), token or self.args.hub_token):
            super().init_hf_repo(token=token, private=private)

    def push_to_hub(self, *args: Any, **kwargs: Any) -> Any:
        """As in `Trainer`: model, tokenizer, code, card, results and pictures in one commit.

        Raises:
            PushError: If the Hub cannot be reached or refuses; `output_dir` then holds everything.
        """
        refuse_private_files(self.args)
        if not self.args.push_to_hub:
            # Save the model before the Hub is asked for a repository, which may fail.
            self.save_model(_internal_call=True)
        with pushing(self._repo_id(), kwargs.get("token") or self.args.hub_token, self.args.output_dir):
            return super().push_to_hub(*args, **kwargs)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        # Trainer pushes weights and configuration, but neither the model's code nor its card.
        if self.is_world_process_zero() and self.args.hub_strategy != HubStrategy.END:
            copy_code(checkpoint_folder, str(self.args.output_dir))
            self.create_model_card()
        super()._push_from_checkpoint(checkpoint_folder)

    def _finish_current_push(self) -> None:
        super()._finish_current_push()
        # Trainer does not check whether its pushes during training succeeded.
        warn_of_failed_pushes(getattr(self, "push_in_progress", None), self._repo_id(), self.args.hub_token)

    def _repo_id(self) -> str:
        args = self.args
        return self.hub_model_id or args.hub_model_id or Path(str(args.output_dir)).absolute().name


def is_foreign(card: Path) -> bool:
    """Whether there is a card that the trainer may not replace."""
    return card.exists() and REWRITTEN not in card.read_text(encoding="utf-8", errors="replace")


def write_description(
    trainer: Trainer,
    teachers: Teachers | None,
    folder: Path,
    language: str | Sequence[str] | None = None,
    license: str | None = None,
    tags: str | Sequence[str] | None = None,
    model_name: str | None = None,
    finetuned_from: str | None = None,
    tasks: Any = None,
    dataset_tags: str | Sequence[str] | None = None,
    dataset: str | Sequence[str] | None = None,
    dataset_args: Any = None,
) -> None:
    """Write results.json, pictures and card of a trainer's student into a folder; never raises.

    Args:
        trainer: A [`StructKDTrainer`].
        teachers: Its teachers.
        folder: The student's.
        language, license, tags, model_name, finetuned_from, dataset, dataset_tags: As for `Trainer.create_model_card`;
            they win over what the trainer knows.
        tasks, dataset_args: Not used; the task is always token classification.
    """
    given = {
        "languages": _listed(language),
        "license": license,
        "tags": _listed(tags),
        "name": model_name,
        "dataset": ", ".join(_listed(dataset) or _listed(dataset_tags)),
        "datasets": _listed(dataset_tags) or _listed(dataset),  # the card takes those that are ids
    }
    try:
        results = trainer_results(trainer, teachers)
        results.model.update({name: value for name, value in given.items() if value})
        results.model.update(base_model(finetuned_from))
    except Exception:
        logger.exception("What is known of the training could not be collected; the card is minimal.")
        results = RunResults(model={"name": model_name or folder.name})
    describe_student(folder, results, rewritten=True)


def copy_code(checkpoint: str, output_dir: str) -> None:
    """Copy the model's code, which `save_pretrained` left in a checkpoint, into the folder that is pushed."""
    for path in Path(checkpoint).glob("*.py"):
        shutil.copy(path, Path(output_dir) / path.name)


def refuse_private_files(args: StructKDTrainingArguments) -> None:
    """Raise ValueError if the teachers' answers, which contain the corpus, lie in the folder that is pushed."""
    if args.annotation_dir is None:
        return
    output, annotations = (Path(str(folder)).resolve() for folder in (args.output_dir, args.annotation_dir))
    if annotations.is_relative_to(output):
        raise ValueError(
            f"annotation_dir ({args.annotation_dir}) is inside output_dir, and a push takes all of output_dir to the "
            "Hub, the corpus with the teachers' answers too: choose another annotation_dir"
        )


def warn_of_failed_pushes(progress: Any, repo_id: str, token: str | None) -> None:
    """Log once per push during training that failed why it failed.

    Args:
        progress: The trainer's `push_in_progress`, whose jobs are futures.
        repo_id: The repository.
        token: The access token, which is blanked in the log.
    """
    for job in list(getattr(progress, "jobs", None) or []):
        if job.done() and not job.cancelled() and (error := job.exception()) is not None:
            logger.warning("A push to %s during training failed: %s", repo_id, reason(error, token))
            progress.jobs.remove(job)


def _listed(value: str | Sequence[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())
