"""The training arguments of a distillation: those of `transformers.TrainingArguments`, and more.

Numbers are checked to be in their range, and folders to be no addresses.
"""

import copy
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import TrainingArguments

from ..data.columns import ENTROPY
from ..distillation.losses import check_focal_weights
from ..distillation.schedules import make_schedule
from ..distillation.weighted_objectives import WeightedObjectives, needed_columns, parse_objective
from ..processes import check_processes, prepare_processes
from .checks import refuse_without_effect

NORMALIZATIONS = ("word", "sentence")
DRAWN_ORDERS = (
    "random",
    "group_by_length",
)  # values of train_sampling_strategy with which sentences are drawn at random


@dataclass
class StructKDTrainingArguments(TrainingArguments):
    """[`TrainingArguments`] with the fields of structure-level distillation.

    The loss of a sentence is `lambda * KD + (1 - lambda) * NLL` (SLKD Algorithm 1), KD being the weighted sum of the
    objectives and NLL the negative log-likelihood of the gold tags. The loss of a sentence without gold tags is KD,
    with weight 1. All losses are sums over words, divided by one number; `normalization` chooses it.

    Raises:
        ValueError: For a value outside its range, an unknown objective or schedule, an argument of `TrainingArguments`
            that has no effect here, or launched processes that cannot work together.
    """

    objective: str | dict[str, Any] = field(
        default="posterior+top_wk",
        metadata={
            "help": "Distillation objectives: a name, names joined by '+', or a mapping name -> weight or name -> "
            "{weight, temperature, temperature_mode}. The names are token, emission, top_k, top_wk, posterior, "
            "structural, substructure, fuzzy, gate_word and gate_sentence; 'none' trains on gold tags alone."
        },
    )
    objective_combination: str = field(
        default="sum",
        metadata={
            "help": "sum: the weighted sum of the objectives, as in the official code. average: the weights are "
            "divided by their sum, as in the paper."
        },
    )
    temperature: float = field(
        default=1.0,
        metadata={
            "help": "Softens teacher and student in the objectives that have a temperature and no value of their own. "
            "Gradients keep their scale. temperature_mode says what it divides."
        },
    )
    temperature_mode: str = field(
        default="local",
        metadata={
            "help": "local: the temperature acts on the distribution of each word and of the k best sequences (token, "
            "emission, posterior, top_wk; the others stay at 1). global: on every score of both CRFs (all except "
            "substructure), and teachers answer at it."
        },
    )
    top_k: int = field(default=5, metadata={"help": "Number of best tag sequences that a teacher gives per sentence."})
    lambda_schedule: str = field(
        default="linear",
        metadata={
            "help": "Course of lambda, the weight of distillation against gold tags, over training: linear (changed "
            "every update), linear_per_epoch, cosine or constant."
        },
    )
    lambda_start: float = field(default=1.0, metadata={"help": "lambda at the first update, in [0, 1]."})
    lambda_end: float = field(default=0.0, metadata={"help": "lambda at the last update, in [0, 1]."})
    lambda_rate: float | None = field(
        default=None,
        metadata={"help": "For linear_per_epoch: the change of lambda per epoch (the paper's 1 %% is 0.01)."},
    )
    confidence_weight: float | None = field(
        default=None,
        metadata={
            "help": "gamma: in distillation a sentence weighs exp(-gamma * the teachers' entropy in nats per word), "
            "so that sentences of which they are unsure count less. Default: every sentence weighs 1."
        },
    )
    focal_weights: list[float] | None = field(
        default=None,
        metadata={
            "help": "Two numbers, alpha and beta: in distillation a word weighs alpha, and alpha + beta where the "
            "teachers' tag is the gold tag. With the previous tagger as teacher and 1 5, an update breaks less of "
            "what worked. For posterior, token and emission. Default: every word weighs 1."
        },
    )
    normalization: str = field(
        default="word",
        metadata={
            "help": "Divisor of the summed losses, of distillation and gold tags alike: word (the number of words) "
            "or, as in the paper, sentence (the number of sentences)."
        },
    )
    hidden_first: float | None = field(
        default=None,
        metadata={
            "help": "Hidden-state distillation, first stage: the share of the updates, in [0, 1), in which the "
            "student learns its teachers' word vectors and nothing else. Teachers are checkpoints and are asked while "
            "it learns. Where their hidden size is another, a projection is learnt and thrown away."
        },
    )
    hidden_weight: float | None = field(
        default=None,
        metadata={
            "help": "Weight of the loss of the teachers' word vectors (mean squared distance per word) beside the "
            "other losses, after the first stage."
        },
    )
    hidden_layer: int | None = field(
        default=None,
        metadata={"help": "The teachers' layer whose word vectors are learnt, counted from 0. Default: the last."},
    )
    hidden_thaw: float | None = field(
        default=None,
        metadata={
            "help": "After the first stage, the share of the remaining updates, in [0, 1], over which the encoder's "
            "layers are thawed one by one from the top; at first the head alone is trained."
        },
    )
    crf_learning_rate: float | None = field(
        default=None,
        metadata={
            "help": "Learning rate of the CRF's transition, start and end scores, which are not pretrained and need a "
            "larger one than the encoder. Default: crf_learning_rate of the model's configuration, else "
            "learning_rate."
        },
    )
    language_sampling_temperature: float | None = field(
        default=None,
        metadata={
            "help": "Draw languages in proportion to size ** (1 / temperature): 1 is proportional, larger values draw "
            "small languages more often. Default: plain shuffling, which is proportional too."
        },
    )
    unlabelled_rate: float | None = field(
        default=None,
        metadata={
            "help": "Share of sentences without gold tags in training, in [0, 1): an epoch is one pass over the "
            "sentences with gold tags, and as many others as make up that share. Default: an epoch is one pass over "
            "all sentences."
        },
    )
    annotation_dir: str | None = field(
        default=None,
        metadata={"help": "Folder in which the teachers' answers are stored, and from which later runs read them."},
    )
    annotation_batch_size: int = field(default=64, metadata={"help": "Sentences per forward pass of a teacher."})
    annotation_context: int = field(
        default=0,
        metadata={
            "help": "How many sentences before and after it in its document a teacher reads with each sentence; the "
            "student reads it alone. The corpus needs a column document (in recipes: documents)."
        },
    )
    license: str | None = field(
        default=None,
        metadata={"help": "Licence of the student on its card, as the Hub names it (apache-2.0). Default: none."},
    )
    hub_datasets: list[str] | None = field(
        default=None,
        metadata={
            "help": "Ids on the Hub (owner/name) of the corpora, for the card. Needed where they are files; corpora "
            "that are loaded from the Hub are named without it."
        },
    )
    label_examples: bool = field(
        default=True,
        metadata={
            "help": "Show frequent words of the training data for each label on the card. Turn this off if the data "
            "must not be quoted."
        },
    )

    def __getstate__(self) -> dict[str, Any]:
        """What pickling stores, in the `training_args.bin` of a checkpoint: all fields but the access token."""
        return {**{name: value for name, value in self.__dict__.items() if name != "_objectives"}, "hub_token": None}

    def __copy__(self) -> "StructKDTrainingArguments":
        # By default copying uses the pickled state; a copy in memory keeps the access token.
        copied = object.__new__(type(self))
        copied.__dict__.update(self.__dict__)
        return copied

    def __deepcopy__(self, memo: dict[int, Any]) -> "StructKDTrainingArguments":
        copied = memo[id(self)] = object.__new__(type(self))
        copied.__dict__.update({name: copy.deepcopy(value, memo) for name, value in self.__dict__.items()})
        return copied

    @property
    def objectives(self) -> WeightedObjectives:
        """name -> (objective, weight in the loss), as `parse_objective` reads the four fields.

        They are parsed once, and again when a field has changed, as a search over objectives changes them.
        """
        fields = (self.objective, self.temperature, self.temperature_mode, self.objective_combination)
        written, objectives = self.__dict__.get("_objectives", (None, {}))
        if written != repr(fields):  # a mapping may have changed in place
            objectives = parse_objective(*fields)
            self.__dict__["_objectives"] = repr(fields), objectives
        return objectives

    @property
    def learns_hidden_states(self) -> bool:
        """Whether the student learns its teachers' word vectors."""
        return bool(self.hidden_first or self.hidden_weight)

    @property
    def needed_columns(self) -> tuple[str, ...]:
        """The target columns that the loss reads: those of the objectives, and of `confidence_weight`."""
        entropy = () if self.confidence_weight is None else (ENTROPY,)
        return tuple(dict.fromkeys((*needed_columns(self.objectives), *entropy)))

    def __post_init__(self) -> None:
        prepare_processes()
        super().__post_init__()
        check_processes(self.use_cpu)
        self.check()

    def check(self) -> None:
        """Raise ValueError for a value outside its range, and for an argument that would have no effect."""
        check_training_numbers(self)
        refuse_addresses(self)
        refuse_without_effect(self)
        check_focal_weights(self.focal_weights, self.objectives)
        if self.confidence_weight is not None and not (0.0 <= self.confidence_weight < float("inf")):
            raise ValueError(f"confidence_weight must be a number of at least 0, not {self.confidence_weight}")
        if self.confidence_weight is not None and not self.objectives:
            raise ValueError("confidence_weight weighs distillation, and objective 'none' asks no teacher")
        make_schedule(self.lambda_schedule, self.lambda_start, self.lambda_end, self.lambda_rate)
        if self.normalization not in NORMALIZATIONS:
            raise ValueError(f"normalization must be one of {NORMALIZATIONS}, not {self.normalization!r}")
        if self.unlabelled_rate is not None and not 0 <= self.unlabelled_rate < 1:
            raise ValueError(f"unlabelled_rate must be in [0, 1), not {self.unlabelled_rate}")
        for name in ("language_sampling_temperature", "unlabelled_rate"):
            if getattr(self, name) is not None and self.train_sampling_strategy not in DRAWN_ORDERS:
                raise ValueError(
                    f"{name} has no effect with train_sampling_strategy={self.train_sampling_strategy!r}: leave it "
                    f"out, or choose one of {DRAWN_ORDERS}"
                )
        if self.hidden_first is not None and not 0 <= self.hidden_first < 1:
            raise ValueError(f"hidden_first must be in [0, 1), not {self.hidden_first}")
        if self.hidden_thaw is not None and not 0 <= self.hidden_thaw <= 1:
            raise ValueError(f"hidden_thaw must be in [0, 1], not {self.hidden_thaw}")
        if self.hidden_layer is not None and not self.learns_hidden_states:
            raise ValueError("hidden_layer has no effect without hidden_first or hidden_weight")
        if self.hidden_thaw and not self.hidden_first:
            raise ValueError("hidden_thaw has no effect without hidden_first: it follows the first stage")
        if self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, not {self.top_k}")
        if self.annotation_batch_size < 1:
            raise ValueError(f"annotation_batch_size must be at least 1, not {self.annotation_batch_size}")
        if self.annotation_context < 0:
            raise ValueError(f"annotation_context must be at least 0, not {self.annotation_context}")
        for name in ("crf_learning_rate", "language_sampling_temperature"):
            value = getattr(self, name)
            # An infinite sampling temperature is valid: it draws all languages equally often.
            if value is not None and not (value > 0 and (value < float("inf") or name != "crf_learning_rate")):
                raise ValueError(f"{name} must be above 0, not {value}")


_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")

# Fields of `TrainingArguments`. transformers accepts any number and fails late, or trains in the wrong direction.
COUNTS = (
    *("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps", "save_total_limit"),
    *("eval_accumulation_steps", "torch_empty_cache_steps", "dataloader_prefetch_factor"),
)
NOT_NEGATIVE = (
    *("learning_rate", "weight_decay", "warmup_steps", "max_grad_norm", "adam_beta1", "adam_beta2", "adam_epsilon"),
    *(
        "label_smoothing_factor",
        "hidden_first",
        "hidden_weight",
        "hidden_thaw",
        "hidden_layer",
        "eval_delay",
        "dataloader_num_workers",
        "seed",
        "data_seed",
    ),
)
ABOVE_ZERO = ("num_train_epochs", "logging_steps", "eval_steps", "save_steps", "neftune_noise_alpha")
FOLDERS = ("output_dir", "annotation_dir")


def check_numbers(
    arguments: Any,
    *,
    counts: Sequence[str] = (),
    not_negative: Sequence[str] = (),
    above_zero: Sequence[str] = (),
) -> None:
    """Raise ValueError, naming the field, for a number that is not finite or outside its range.

    Args:
        arguments: A dataclass instance. Fields that it lacks are skipped, and so are values that are no numbers.
        counts: Fields that must be at least 1.
        not_negative: Fields that must be at least 0.
        above_zero: Fields that must be above 0.
    """
    for names, condition, is_valid in (
        (counts, "at least 1", lambda number: number >= 1),
        (not_negative, "at least 0", lambda number: number >= 0),
        (above_zero, "above 0", lambda number: number > 0),
    ):
        for name in names:
            value = getattr(arguments, name, None)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                continue
            if not math.isfinite(value) or not is_valid(value):
                raise ValueError(f"{name} must be a number {condition}, not {value}")


def check_training_numbers(arguments: Any) -> None:
    """Raise ValueError, naming the field, for a field of `TrainingArguments` outside its range."""
    check_numbers(arguments, counts=COUNTS, not_negative=NOT_NEGATIVE, above_zero=ABOVE_ZERO)
    for name in ("adam_beta1", "adam_beta2"):
        if not getattr(arguments, name) < 1:
            raise ValueError(f"{name} must be below 1, not {getattr(arguments, name)}")
    if arguments.max_steps != -1 and not arguments.max_steps >= 1:
        raise ValueError(
            f"max_steps must be at least 1, or -1 for as many as num_train_epochs, not {arguments.max_steps}"
        )


def refuse_addresses(arguments: Any, fields: Sequence[str] = FOLDERS) -> None:
    """Raise ValueError if a field for a folder or a file holds an address, such as `s3://...`.

    Everything is written to folders of this machine: an address would become a folder named `s3:`.
    """
    for name in fields:
        value = getattr(arguments, name, None)
        if value is not None and _ADDRESS.match(str(value)):
            raise ValueError(
                f"{name} must be a folder of this machine, not the address {value!r}: write to a folder and copy it "
                "there afterwards"
            )
