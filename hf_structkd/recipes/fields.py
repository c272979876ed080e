"""The fields of recipes, beside those of `StructKDTrainingArguments`; their help texts are those of `--fields`."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ..data.augmentation import Augmentation
from ..data.foreign_formats import check_format
from ..data.sentence_splitters import get_splitter
from ..data.tag_checks import CorpusScheme
from ..evaluation.calibration import DEFAULT_BINS
from ..modeling.congruence import check_congruence
from ..modeling.segmenters import get_segmenter
from ..training.arguments import check_numbers, refuse_addresses
from ..training.smaller_student import SPREAD

Temperature = float | Literal["auto"]


def check_temperature(temperature: Temperature | None) -> None:
    """Raise ValueError if a temperature is given that is neither above 0 nor 'auto'."""
    if temperature not in (None, "auto") and not float(temperature) > 0:
        raise ValueError(f"a teacher's temperature must be above 0, or auto, not {temperature}")


@dataclass
class DataArguments:
    """The corpora, one per language, and the sentences without gold tags."""

    corpus: str | dict[str, Any] | None = field(
        metadata={
            "help": "The corpora: a path or Hub id (owner/name:config@revision) with the placeholders {language} and "
            "{split}; or a mapping language -> such a path, or language -> {train, dev, test}; or 'demo' for the "
            "built-in corpus."
        },
    )
    languages: list[str] | None = field(
        default=None, metadata={"help": "Languages to load; optional for 'demo' and for a mapping."}
    )
    tags_column: str | int | None = field(
        default=None,
        metadata={
            "help": "Column of the tags: in tables a name; in CoNLL-U a field (upos, misc:NER); in column files and "
            "CSV a number, counted from 0 or, if negative, from the end, or a name if the first line names the "
            "columns."
        },
    )
    tokens_column: str | int | None = field(
        default=None, metadata={"help": "Column of the words, given like tags_column."}
    )
    sentence_column: str | int | None = field(
        default=None,
        metadata={
            "help": "In column files and CSV without blank lines between sentences: a column whose value changes with "
            "every sentence."
        },
    )
    column: int = field(
        default=-1, metadata={"help": "Column of the tags in column files, a number; tags_column is more general."}
    )
    tag_scheme: Literal["BIO", "BIOES", "plain"] | None = field(
        default=None, metadata={"help": "Tag scheme: BIO, BIOES or plain; by default inferred from the tags."}
    )
    corpus_scheme: CorpusScheme | None = field(
        default=None,
        metadata={
            "help": "Tag scheme of the files if it is not tag_scheme: BIO corpora are rewritten as BIOES, or the "
            "reverse; BILOU, BMES, IOB1, IO and brackets, which are recognised, can be forced. The entities stay the "
            "same."
        },
    )
    words: str | None = field(
        default=None,
        metadata={
            "help": "How raw text becomes words: rules, rules+icu (the default where PyICU is installed and the "
            "corpora have Thai, Lao, Khmer, Burmese or Japanese words; else rules), whitespace, characters, icu, "
            "jieba, pythainlp, spacy:LANGUAGE, or the entry point of another package. It cuts the texts of corpora "
            "with character offsets and of unlabelled_corpus, and the models that are trained store it for the texts "
            "they tag. Corpora that hold words keep them."
        },
    )
    glued_words: bool | None = field(
        default=None,
        metadata={
            "help": "Whether the models that are trained read words that follow their neighbour without a blank as "
            "running text, with fewer pieces: for Chinese, Japanese and Thai, and punctuation of all languages. The "
            "corpora must say where blanks are (character offsets, CoNLL-U, DocBin, raw text). It is stored with the "
            "model, whose pieces then do not tell its words: the stock pipeline refuses it. By default as the model "
            "that training starts from, else false."
        },
    )
    spans: Literal["refuse", "drop"] = field(
        default="refuse",
        metadata={
            "help": "For corpora with character offsets: whether a span that fits no words is an error (refuse) or "
            "left out and counted (drop)."
        },
    )
    offset_unit: Literal["characters", "utf-16"] | None = field(
        default=None,
        metadata={
            "help": "For corpora with character offsets: what these count; by default recognised, or asked for."
        },
    )
    corpus_format: dict[str, str] | str | None = field(
        default=None,
        metadata={
            "help": "The format of the files of corpus, in place of the one that is recognised: conll, uner, "
            "germeval, ontonotes, conllu, csv, jsonl, parquet, spacy, doccano, prodigy, label-studio, spans or "
            "gliner; or language -> one of these."
        },
    )
    annotated_types: dict[str, list[str]] | None = field(
        default=None,
        metadata={
            "help": "Language -> the entity types that the annotators of its corpus looked for, if these are not all "
            "types of the label set. A word outside of these types may then be of any other type, in the loss as in "
            "the scores. Rows of tables may have such a list themselves, in a column annotated_types."
        },
    )
    documents: dict[str, Literal["marked", "source"]] | Literal["marked", "source"] | None = field(
        default=None,
        metadata={
            "help": "For annotation_context: which sentences are neighbours. marked: those of one document, as "
            "-DOCSTART- lines, # newdoc (CoNLL-U) or a column document mark it; source: all of a file, in their "
            "order. Or language -> one of these."
        },
    )
    labels: list[str] | None = field(
        default=None,
        metadata={
            "help": "The label set in order; by default that of the corpora. Give it to train a teacher of one "
            "language with the labels of all. Tags that are numbers are positions in this list."
        },
    )
    orphans: Literal["accept", "repair", "refuse"] = field(
        default="accept",
        metadata={
            "help": "What to do with tag sequences that the scheme forbids, such as I- after O: accept, repair or "
            "refuse."
        },
    )
    max_train_sentences: int | None = field(
        default=None, metadata={"help": "Number of training sentences per language, the first ones."}
    )
    unlabelled_sentences: int | None = field(
        default=None,
        metadata={
            "help": "Number of further training sentences per language that the student sees without gold tags, to "
            "learn from the teachers alone. They follow after max_train_sentences and teacher_max_train_sentences, so "
            "that no trained teacher saw their tags either. unlabelled_rate sets how often they are drawn. See also "
            "unlabelled_corpus."
        },
    )
    unlabelled_corpus: str | dict[str, str] | None = field(
        default=None,
        metadata={
            "help": "Sentences without tags, from which the student learns by the teachers' answers alone: a path or "
            "Hub id with {language}, or a mapping language -> path (other languages have none). A .txt file has one "
            "sentence per line, its words separated by blanks unless `words` says how raw text becomes words; tables "
            "may have texts in a column `text`. Of all other formats of `corpus` the words are read and the tags are "
            "not. unlabelled_sentences then limits the sentences per language (default: all)."
        },
    )
    sentences: str | None = field(
        default=None,
        metadata={
            "help": "How the raw texts of unlabelled_corpus become sentences: icu, spacy:LANGUAGE, pythainlp, or the "
            "entry point of another package; by default each line or text is one sentence. The lines of a .txt file "
            "are then raw text, whose words are as `words` says."
        },
    )
    augmentation: Augmentation | None = field(
        default=None,
        metadata={
            "help": "Further sentences made by rewriting those of the student, to learn from the teachers' answers: "
            "{copies: 3, mention_rate: 0.8, word_rate: 0.25, vocabulary_rate: 0.25}, each key optional. They count "
            "as sentences without gold tags."
        },
    )
    max_dev_sentences: int | None = field(
        default=None,
        metadata={
            "help": "Number of dev sentences per language, the first ones. Of a language without a dev corpus: how "
            "many sentences of unlabelled_corpus are held out, on which the student is compared with its teachers "
            "(default: a tenth of them, at most 1,000)."
        },
    )
    max_test_sentences: int | None = field(
        default=None, metadata={"help": "Number of test sentences per language, the first ones."}
    )

    def __post_init__(self) -> None:
        sizes = ("max_dev_sentences", "max_test_sentences", "unlabelled_sentences")
        check_numbers(self, counts=sizes, not_negative=("max_train_sentences",))  # a grid may train without gold tags
        if self.words is not None:
            get_segmenter(self.words)
        formats = self.corpus_format
        for name in formats.values() if isinstance(formats, dict) else [formats]:
            check_format(name)
        if self.sentences is not None:
            get_splitter(self.sentences)
        if self.corpus_scheme is not None and self.tag_scheme not in ("BIO", "BIOES"):
            raise ValueError(
                f"corpus_scheme {self.corpus_scheme} is rewritten as tag_scheme: BIO or BIOES, not {self.tag_scheme}"
            )


@dataclass
class DistillationData(DataArguments):
    """The corpora of `structkd distill`, where teachers may stand in for gold tags."""

    corpus: str | dict[str, Any] | None = field(
        default=None,
        metadata={
            "help": "The corpora: a path or Hub id (owner/name:config@revision) with the placeholders {language} and "
            "{split}; or a mapping language -> such a path, or language -> {train, dev, test}; or 'demo' for the "
            "built-in corpus. To learn from teachers alone, give `teachers` and an unlabelled_corpus; then corpora "
            "may be left out, or have no train or no dev."
        },
    )


@dataclass
class ModelArguments:
    """The tagger to train: the student of `structkd distill`, the teacher of `structkd teacher`."""

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
            "help": "Fields of the model's configuration to change, for instance {freeze_encoder: true, "
            "lstm_hidden_size: 256} or {word_pooling: mean}."
        },
    )
    add_types: list[str] | None = field(
        default=None,
        metadata={
            "help": "Entity types (for plain tags: tags) to add to `model`, a tagger: its labels and their scores are "
            "kept, and new ones stand behind them. Given teachers that do not know these types leave them open: they "
            "hide in the teachers' O."
        },
    )
    keep_layers: int | list[int] | None = field(
        default=None,
        metadata={
            "help": "Make the model smaller: the number of layers to keep, evenly spaced, or their positions, counted "
            "from 0. Everything else is kept, the head of a trained tagger included."
        },
    )
    trim_vocabulary: int | None = field(
        default=None,
        metadata={
            "help": "Make the model smaller: keep the pieces of its vocabulary that occur at least so often in the "
            "sentences that it learns from, all single characters and special tokens. 1 keeps every piece that "
            "occurs. What is cut otherwise in the dev sentences is counted and shown."
        },
    )
    head: Literal["crf", "softmax"] = field(
        default="crf",
        metadata={
            "help": "crf or softmax. A softmax student is a CRF without transitions; every objective except "
            "substructure distils it."
        },
    )
    vocab_size: int = field(default=8000, metadata={"help": "Number of pieces of a tokenizer trained from scratch."})
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the model on the Hub."})
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Allow models from the Hub to run the code that comes with them."}
    )

    def __post_init__(self) -> None:
        check_numbers(self, counts=("vocab_size", "trim_vocabulary"))
        if self.add_types is not None and not self.add_types:
            raise ValueError("add_types names no type; leave the field out")


@dataclass
class StartArguments:
    """What a student starts from, beside its model."""

    teacher_embeddings: float | None = field(
        default=None,
        metadata={
            "help": "Start the student's subword embeddings from its own and from the teachers' vectors of each "
            "piece: the share of the variance that is the teachers', between 0 and 1, for instance 0.5. Default: its "
            "own alone."
        },
    )

    def __post_init__(self) -> None:
        if self.teacher_embeddings is not None and not 0.0 < self.teacher_embeddings < 1.0:
            raise ValueError(f"teacher_embeddings must be between 0 and 1, not {self.teacher_embeddings}")


@dataclass
class TeacherSource:
    """A teacher that a recipe gives, with its own settings.

    Args:
        checkpoint: A Hub id or a folder, or `kind:NAME` (`spacy:fr_core_news_sm`), see [`load_teacher`].
        weight: Its weight relative to the other teachers of the language, above 0.
        temperature: Divides its scores; `"auto"` fits it to the gold tags of the dev sentences. By default
            `teacher_temperature`.
        label_map: As in [`TagTeacher`], a mapping or a name; by default `teacher_label_map`.
        scheme: Its tag scheme, if it cannot be inferred from its labels.
        revision: Branch, tag or commit on the Hub.
        trust_remote_code: Whether to run the code that comes with the checkpoint; by default the recipe's
            `trust_remote_code`.
        options: What a kind of teacher takes beside these (`{annotation: pos}` of spaCy).
    """

    checkpoint: str
    weight: float = 1.0
    temperature: Temperature | None = None
    label_map: dict[str, str | list[str]] | str | None = None
    scheme: Literal["BIO", "BIOES", "plain"] | None = None
    revision: str | None = None
    trust_remote_code: bool | None = None
    options: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        check_temperature(self.temperature)
        if not 0 < self.weight < float("inf"):
            raise ValueError(f"a teacher's weight must be above 0, not {self.weight}")


OneOrSeveralSources = str | TeacherSource | list[str | TeacherSource]


@dataclass
class TeacherArguments(StartArguments):
    """The teachers that the recipe gives, the training of the others, and the baseline."""

    teachers: dict[str, OneOrSeveralSources] | list[str | TeacherSource] | str | None = field(
        default=None,
        metadata={
            "help": "Language -> its teacher; for a language without one a teacher is trained. A teacher is a "
            "checkpoint (a Hub id or a folder), a tagger of another library (spacy:NAME, gliner:NAME), a "
            "mapping {checkpoint, weight, temperature, label_map, scheme, revision, "
            "trust_remote_code, options}, or a list of these: several teachers of one language. One teacher or one "
            "list instead of the mapping teaches all languages; runs/teachers/{language} is one teacher per language, "
            "and {model} is the tagger that training starts from, as it was."
        },
    )
    teacher_layers: str | list[int] | None = field(
        default=None,
        metadata={
            "help": "Start the student from its teachers' weights, their mean if there are several: spread takes "
            "layers evenly spaced over theirs, as many as the student has; a list names a layer, counted from 0, for "
            "each of its own. The teachers must be of the student's family and width. Default: the model's own."
        },
    )
    teacher_label_map: dict[str, str | list[str]] | str | None = field(
        default=None,
        metadata={
            "help": "Label of the given teachers -> label of the corpora, if the names differ, or a list of labels "
            "that the teachers cannot tell apart. Or the name of a map: ontonotes-to-conll, ontonotes-to-wikiann, "
            "conll-to-wikiann."
        },
    )
    borrow_teachers: bool = field(
        default=False,
        metadata={
            "help": "A language without a teacher, of which there is only text, is taught by the given teachers of "
            "all other languages, weighted by likeness: the mean cosine between sentences of the two languages in the "
            "encoder that the student starts from."
        },
    )
    teacher_confidence: float | None = field(
        default=None,
        metadata={
            "help": "Where several teachers answer, each sentence listens most to those that are sure of it: the "
            "weight of a teacher is multiplied by exp(-its entropy per word / this number of nats). Default: the "
            "weights are the same for all sentences."
        },
    )
    teacher_temperature: Temperature | None = field(
        default=None,
        metadata={
            "help": "Divides the scores of all teachers, given and trained, to calibrate their confidence. auto: "
            "fitted for each teacher to the gold tags of the dev sentences. Default: 1."
        },
    )
    teacher_model: str | None = field(
        default=None,
        metadata={"help": "Encoder of the teachers to train, or 'scratch'. Without it no teacher is trained."},
    )
    teacher_model_config: dict[str, Any] | None = field(
        default=None, metadata={"help": "As model_config, for the teachers to train."}
    )
    teacher_head: Literal["crf", "softmax"] = field(
        default="crf", metadata={"help": "Head of the teachers to train: crf or softmax."}
    )
    teacher_max_train_sentences: int | None = field(
        default=None, metadata={"help": "Number of training sentences per teacher, the first ones of its language."}
    )
    teacher_num_train_epochs: float | None = field(
        default=None, metadata={"help": "As num_train_epochs, for the teachers to train."}
    )
    teacher_learning_rate: float | None = field(
        default=None, metadata={"help": "As learning_rate, for the teachers to train."}
    )
    teacher_crf_learning_rate: float | None = field(
        default=None, metadata={"help": "As crf_learning_rate, for the teachers to train."}
    )
    teacher_per_device_train_batch_size: int | None = field(
        default=None, metadata={"help": "As per_device_train_batch_size, for the teachers to train."}
    )
    teachers_dir: str | None = field(
        default=None,
        metadata={
            "help": "Folder of the trained teachers, where later runs find them; by default output_dir/teachers."
        },
    )
    previous: str | None = field(
        default=None,
        metadata={
            "help": "The tagger that the student replaces, a Hub id or a folder: it is scored too, and what it has "
            "right and the student wrong is counted, and the reverse. In `teachers`, {previous} stands for it."
        },
    )
    previous_label_map: dict[str, str | list[str]] | str | None = field(
        default=None, metadata={"help": "As teacher_label_map, of the previous tagger where it is scored."}
    )
    annotation_parts: str | None = field(
        default=None,
        metadata={
            "help": "Where the teachers' answers lie in parts: a folder, or an address such as s3://bucket/folder. "
            "`structkd annotate --part I/N` writes part I of N there (from 0), on any machine; `structkd distill` "
            "reads all of them."
        },
    )
    baseline: bool = field(
        default=True, metadata={"help": "Whether to train the same student on gold tags alone too, for comparison."}
    )
    baseline_dir: str | None = field(
        default=None,
        metadata={"help": "Folder of the baseline, where later runs find it; by default output_dir/baseline."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.teacher_layers, str):
            if self.teacher_layers.isdigit():  # one number on the command line
                self.teacher_layers = [int(self.teacher_layers)]
            elif self.teacher_layers != SPREAD:
                raise ValueError(f"teacher_layers must be {SPREAD} or layer numbers, not {self.teacher_layers!r}")
        if self.teacher_layers is not None and self.teacher_embeddings is not None:
            raise ValueError("teacher_layers brings the teachers' embeddings; leave out it or teacher_embeddings")
        check_temperature(self.teacher_temperature)
        check_numbers(
            self,
            counts=("teacher_max_train_sentences", "teacher_per_device_train_batch_size"),
            not_negative=("teacher_learning_rate",),
            above_zero=("teacher_num_train_epochs", "teacher_crf_learning_rate", "teacher_confidence"),
        )
        refuse_addresses(self, ("teachers_dir", "baseline_dir"))

    def sources(self, language: str) -> list[TeacherSource]:
        """The teachers that the recipe gives a language; empty if a teacher is to be trained."""
        given = self.teachers.get(language) if isinstance(self.teachers, dict) else self.teachers
        listed = given if isinstance(given, list) else [given] if given else []
        sources = [TeacherSource(item) if isinstance(item, str) else item for item in listed]
        return [replace(source, checkpoint=source.checkpoint.replace("{language}", language)) for source in sources]


@dataclass
class EvaluationArguments:
    """What `structkd evaluate` scores."""

    checkpoint: str = field(
        metadata={
            "help": "A token-classification checkpoint, a Hub id or a folder, or a tagger of another library "
            "(spacy:NAME, flair:NAME, ...)."
        }
    )
    splits: list[str] = field(default_factory=lambda: ["test"], metadata={"help": "Splits to score."})
    label_map: dict[str, str] | str | None = field(
        default=None,
        metadata={"help": "Label of the checkpoint -> label of the corpora, if the names differ, or a map's name."},
    )
    options: dict[str, Any] | None = field(
        default=None, metadata={"help": "What a tagger of another library takes beside these ({annotation: pos})."}
    )
    batch_size: int = field(default=64, metadata={"help": "Sentences per forward pass."})
    revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of the checkpoint on the Hub."}
    )
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Allow the checkpoint to run the code that comes with it."}
    )
    previous: str | None = field(
        default=None,
        metadata={
            "help": "The tagger that `checkpoint` replaces, a Hub id or a folder: it is scored too, and what it has "
            "right and the new one wrong is counted, and the reverse."
        },
    )
    previous_revision: str | None = field(default=None, metadata={"help": "As revision, of the previous tagger."})
    previous_label_map: dict[str, str] | str | None = field(
        default=None, metadata={"help": "As label_map, of the previous tagger."}
    )
    congruence: float | None = field(
        default=None,
        metadata={
            "help": "Score the two decoded together as well: the weight of the previous tagger, 0 to 1. The pipeline "
            "has the same option."
        },
    )
    output_file: str | None = field(
        default=None, metadata={"help": "File for the scores, in the layout of results.json."}
    )

    def __post_init__(self) -> None:
        check_splits(self.splits)
        if self.congruence is not None:
            check_congruence(self.congruence)
        check_numbers(self, counts=("batch_size",))
        refuse_addresses(self, ("output_file",))


@dataclass
class CalibrationArguments:
    """What `structkd calibrate` measures, and where it writes the results."""

    checkpoint: str = field(metadata={"help": "A checkpoint of this package: a Hub id or a folder."})
    output_dir: str = field(metadata={"help": "Folder for calibration.json and calibration.png."})
    split: str = field(default="test", metadata={"help": "Split to score."})
    bins: int = field(default=DEFAULT_BINS, metadata={"help": "Number of bins of equal width."})
    batch_size: int = field(default=64, metadata={"help": "Sentences per forward pass."})
    write: str | None = field(default=None, metadata={"help": "A Markdown file with a marked place for the table."})
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Allow the checkpoint to run the code that comes with it."}
    )

    def __post_init__(self) -> None:
        check_numbers(self, counts=("batch_size", "bins"))
        refuse_addresses(self, ("output_dir", "write"))


def check_splits(splits: Sequence[str]) -> None:
    """Raise ValueError unless there is a split to score and each is named once."""
    if not splits or len(set(splits)) < len(splits):
        raise ValueError(f"splits must name what is scored, each once, not {list(splits)}")
