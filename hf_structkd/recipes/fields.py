"""The fields of a recipe, besides those of `StructKDTrainingArguments`. The scripts share them."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ..data.augmentation import Augmentation
from ..evaluation.calibration import DEFAULT_BINS
from ..training.argument_checks import check_numbers, refuse_addresses

Temperature = float | Literal["auto"]


def check_temperature(temperature: Temperature | None) -> None:
    """Raise ValueError if a temperature, where one is given, is neither above 0 nor 'auto'."""
    if temperature not in (None, "auto") and not float(temperature) > 0:
        raise ValueError(f"a teacher's temperature must be above 0, or auto, not {temperature}")


@dataclass
class DataArguments:
    """Corpora, one for each language."""

    corpus: str | dict[str, Any] = field(
        metadata={
            "help": "Where the corpora are: a path or Hub id (owner/name:config@revision) with {language} and {split} "
            "to be filled in, a mapping language -> such a template or language -> {train, dev, test}, or 'demo' for "
            "the built-in corpus."
        },
    )
    languages: list[str] | None = field(
        default=None, metadata={"help": "Languages to load; may be left out for 'demo' and for a mapping."}
    )
    tags_column: str | int | None = field(
        default=None,
        metadata={
            "help": "Tag column: a name in tables; a field of CoNLL-U (upos, misc:NER); in column files and CSV a "
            "number, from 0 or, negative, from the end, or a name where the first line names the columns."
        },
    )
    tokens_column: str | int | None = field(default=None, metadata={"help": "Word column, as tags_column."})
    sentence_column: str | int | None = field(
        default=None,
        metadata={
            "help": "In column files and CSV, a column with another value in every sentence, where no blank lines are "
            "between them."
        },
    )
    column: int = field(default=-1, metadata={"help": "tags_column of column files, as a number."})
    tag_scheme: Literal["BIO", "BIOES", "plain"] | None = field(
        default=None, metadata={"help": "BIO, BIOES or plain; found from the tags by default."}
    )
    corpus_scheme: Literal["BIO", "BIOES"] | None = field(
        default=None,
        metadata={
            "help": "Scheme of the corpora's tags where it is not tag_scheme: BIO corpora are rewritten as BIOES, or "
            "the reverse. The entities stay the same."
        },
    )
    labels: list[str] | None = field(
        default=None,
        metadata={
            "help": "The label set, in order; found in the corpora by default. Where corpora lack labels that others "
            "have, it lets a teacher of one language be trained with those of all. Tags that are numbers count in it."
        },
    )
    orphans: Literal["accept", "repair", "refuse"] = field(
        default="accept", metadata={"help": "What becomes of tag sequences the scheme forbids, an I- after O say."}
    )
    max_train_sentences: int | None = field(
        default=None, metadata={"help": "Training sentences of each language, the first ones."}
    )
    unlabelled_sentences: int | None = field(
        default=None,
        metadata={
            "help": "Further training sentences of each language that the student sees without their gold tags, to "
            "learn from the teachers alone: those after max_train_sentences and teacher_max_train_sentences, so that "
            "no trained teacher saw their tags either. unlabelled_rate says how often they come. See also "
            "unlabelled_corpus."
        },
    )
    unlabelled_corpus: str | dict[str, str] | None = field(
        default=None,
        metadata={
            "help": "Sentences without tags, for the student to learn from the teachers alone: a path or Hub id with "
            "{language}, or a mapping language -> one (other languages have none). A .txt file has one sentence a "
            "line, its words between blanks; of all else `corpus` reads, the words are taken and tags not looked at. "
            "unlabelled_sentences is then how many of each language, the first ones (default: all)."
        },
    )
    augmentation: Augmentation | None = field(
        default=None,
        metadata={
            "help": "Sentences made by rewriting those that the student sees, to learn from the teachers' answers: "
            "{copies: 3, mention_rate: 0.8, word_rate: 0.25, vocabulary_rate: 0.25}, each of which may be left out. "
            "They count as unlabelled ones."
        },
    )
    max_dev_sentences: int | None = field(default=None, metadata={"help": "Dev sentences of each language."})
    max_test_sentences: int | None = field(default=None, metadata={"help": "Test sentences of each language."})

    def __post_init__(self) -> None:
        sizes = ("max_dev_sentences", "max_test_sentences", "unlabelled_sentences")
        check_numbers(self, counts=sizes, not_negative=("max_train_sentences",))  # a grid's cell may have no gold
        if self.corpus_scheme is not None and self.tag_scheme not in ("BIO", "BIOES"):
            raise ValueError(
                f"corpus_scheme {self.corpus_scheme} is rewritten as tag_scheme: BIO or BIOES, not {self.tag_scheme}"
            )


@dataclass
class ModelArguments:
    """The tagger to train: the student of run_distill.py, the teacher of run_teacher.py."""

    model: str = field(
        default="FacebookAI/xlm-roberta-base",
        metadata={
            "help": "Encoder of the XLM-R, BERT, DeBERTa-v2 or ModernBERT kind, or a tagger trained with this package "
            "(a Hub id or a folder), or 'scratch' for an encoder and a tokenizer made from the training sentences."
        },
    )
    model_config: dict[str, Any] | None = field(
        default=None,
        metadata={
            "help": "Fields of the model's configuration to change, {freeze_encoder: true, lstm_hidden_size: 256} or "
            "{word_pooling: mean} say."
        },
    )
    keep_layers: int | list[int] | None = field(
        default=None,
        metadata={
            "help": "Make the model smaller: how many of its layers to keep, evenly spaced, or which, counted from 0. "
            "Everything else in it is kept, also the head of a model trained before."
        },
    )
    head: Literal["crf", "softmax"] = field(
        default="crf",
        metadata={
            "help": "crf or softmax; a softmax student is a CRF without transitions, distilled by every objective but "
            "substructure."
        },
    )
    vocab_size: int = field(default=8000, metadata={"help": "Pieces of a tokenizer trained from scratch."})
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the model on the Hub."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run code that comes with models from the Hub."})

    def __post_init__(self) -> None:
        check_numbers(self, counts=("vocab_size",))


@dataclass
class StartArguments:
    """Where a student starts from, besides its model."""

    teacher_embeddings: float | None = field(
        default=None,
        metadata={
            "help": "Start the student's subword embeddings from its own and what the teachers make of each piece "
            "alone: the share of their variance that is the teachers', below 1 (0.5 say). Default: its own alone."
        },
    )

    def __post_init__(self) -> None:
        if self.teacher_embeddings is not None and not 0.0 < self.teacher_embeddings < 1.0:
            raise ValueError(f"teacher_embeddings must be between 0 and 1, not {self.teacher_embeddings}")


@dataclass
class TeacherSource:
    """A given teacher, where a recipe says more of it than its checkpoint.

    Args:
        checkpoint: a Hub id or a folder.
        weight: against the other teachers of the language, above 0.
        temperature: divides its scores; `"auto"`: fitted on the dev sentences' gold tags. `teacher_temperature` where
            `None`.
        label_map: as in [`Teacher`]; `teacher_label_map` where `None`.
        scheme: its tag scheme, where it cannot be told from its labels.
        revision: branch, tag or commit on the Hub.
        trust_remote_code: run code that comes with the checkpoint; the recipe's `trust_remote_code` where `None`.
    """

    checkpoint: str
    weight: float = 1.0
    temperature: Temperature | None = None
    label_map: dict[str, str | list[str]] | None = None
    scheme: Literal["BIO", "BIOES", "plain"] | None = None
    revision: str | None = None
    trust_remote_code: bool | None = None

    def __post_init__(self) -> None:
        check_temperature(self.temperature)
        if not 0 < self.weight < float("inf"):
            raise ValueError(f"a teacher's weight must be above 0, not {self.weight}")


OneOrSeveralSources = str | TeacherSource | list[str | TeacherSource]


@dataclass
class TeacherArguments(StartArguments):
    """Where the teachers come from, and how those that are missing are trained."""

    teachers: dict[str, OneOrSeveralSources] | list[str | TeacherSource] | str | None = field(
        default=None,
        metadata={
            "help": "Language -> its teacher; languages without one have theirs trained. A teacher is a checkpoint (a "
            "Hub id or a folder), or a mapping {checkpoint, weight, temperature, label_map, scheme, revision, "
            "trust_remote_code}, or a list of such: several teachers of one language. One teacher or one list in "
            "place of the mapping of languages teaches all languages; runs/teachers/{language} names one for each."
        },
    )
    teacher_label_map: dict[str, str | list[str]] | None = field(
        default=None,
        metadata={
            "help": "Label of the given teachers -> label of the corpora, or a list of labels that they cannot tell "
            "apart, where names differ."
        },
    )
    teacher_temperature: Temperature | None = field(
        default=None,
        metadata={
            "help": "Divides the scores of all teachers, given and trained: calibrates their confidence. auto: fitted "
            "for each on the gold tags of the dev sentences. Default: 1."
        },
    )
    teacher_model: str | None = field(
        default=None, metadata={"help": "Encoder of the teachers to train (or 'scratch'); none are trained without."}
    )
    teacher_model_config: dict[str, Any] | None = field(
        default=None, metadata={"help": "As model_config, for the teachers."}
    )
    teacher_head: Literal["crf", "softmax"] = field(default="crf", metadata={"help": "crf or softmax."})
    teacher_max_train_sentences: int | None = field(
        default=None, metadata={"help": "Training sentences of each teacher, the first ones of its language."}
    )
    teacher_num_train_epochs: float | None = field(default=None, metadata={"help": "As num_train_epochs."})
    teacher_learning_rate: float | None = field(default=None, metadata={"help": "As learning_rate."})
    teacher_crf_learning_rate: float | None = field(default=None, metadata={"help": "As crf_learning_rate."})
    teacher_per_device_train_batch_size: int | None = field(
        default=None, metadata={"help": "As per_device_train_batch_size."}
    )
    teachers_dir: str | None = field(
        default=None,
        metadata={"help": "Where trained teachers are kept and found again; a folder of the output by default."},
    )
    baseline: bool = field(
        default=True, metadata={"help": "Also train the student on gold tags alone, to compare with."}
    )
    baseline_dir: str | None = field(
        default=None,
        metadata={"help": "Where the baseline is kept and found again; a folder of the output by default."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_temperature(self.teacher_temperature)
        check_numbers(
            self,
            counts=("teacher_max_train_sentences", "teacher_per_device_train_batch_size"),
            not_negative=("teacher_learning_rate",),
            above_zero=("teacher_num_train_epochs", "teacher_crf_learning_rate"),
        )
        refuse_addresses(self, ("teachers_dir", "baseline_dir"))

    def sources(self, language: str) -> list[TeacherSource]:
        """The teachers that the recipe gives a language; none where one is to be trained."""
        own = self.teachers.get(language) if isinstance(self.teachers, dict) else self.teachers
        listed = own if isinstance(own, list) else [own] if own else []
        sources = [TeacherSource(item) if isinstance(item, str) else item for item in listed]
        return [replace(source, checkpoint=source.checkpoint.replace("{language}", language)) for source in sources]


@dataclass
class EvaluationArguments:
    """What run_evaluate.py scores."""

    checkpoint: str = field(metadata={"help": "A token-classification checkpoint: a Hub id or a folder."})
    splits: list[str] = field(default_factory=lambda: ["test"], metadata={"help": "Splits to score."})
    label_map: dict[str, str] | None = field(
        default=None, metadata={"help": "Label of the checkpoint -> label of the corpora, where names differ."}
    )
    batch_size: int = field(default=64, metadata={"help": "Sentences a forward pass."})
    revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of the checkpoint on the Hub."}
    )
    trust_remote_code: bool = field(default=False, metadata={"help": "Run code that comes with the checkpoint."})
    output_file: str | None = field(default=None, metadata={"help": "Where the scores are written, as results.json."})

    def __post_init__(self) -> None:
        check_splits(self.splits)
        check_numbers(self, counts=("batch_size",))
        refuse_addresses(self, ("output_file",))


@dataclass
class CalibrationArguments:
    """What `structkd calibrate` measures, and where the results go."""

    checkpoint: str = field(metadata={"help": "A checkpoint of this package: Hub id or folder."})
    output_dir: str = field(metadata={"help": "calibration.json and calibration.png are written here."})
    split: str = field(default="test", metadata={"help": "Which split is scored."})
    bins: int = field(default=DEFAULT_BINS, metadata={"help": "Bins of equal width."})
    batch_size: int = field(default=64, metadata={"help": "Sentences a forward pass."})
    write: str | None = field(default=None, metadata={"help": "A Markdown file with a place for the table."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run the code that comes with the checkpoint."})

    def __post_init__(self) -> None:
        check_numbers(self, counts=("batch_size", "bins"))
        refuse_addresses(self, ("output_dir", "write"))


def check_splits(splits: Sequence[str]) -> None:
    """Raise ValueError unless there are splits to score, each named once."""
    if not splits or len(set(splits)) < len(splits):
        raise ValueError(f"splits must name what is scored, each once, not {list(splits)}")
