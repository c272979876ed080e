"""What the card of a student says, before it is put into words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..evaluation.report import ComparisonReport
from ..evaluation.results import collect_versions

# row ("teachers", "baseline", a student's name) -> entity type or tag -> language -> (mean F1, deviation over runs)
TypeScores = Mapping[str, Mapping[str, Mapping[str, tuple[float, float | None]]]]


@dataclass
class TeacherCard:
    """What the card says of a teacher.

    Args:
        name: Hub id, or path; of a path only the last part is shown.
        language: The language it taught; ``None`` for all.
        revision: Commit or fingerprint of its weights.
        score: Its own headline score in [0, 1], where known.
        weight: Its weight among the teachers of its language, which add up to 1.
    """

    name: str
    language: str | None = None
    revision: str | None = None
    score: float | None = None
    weight: float = 1.0


@dataclass
class StudentCardData:
    """What the card of a student says. Everything but the name may be left out; the card is then shorter.

    Args:
        model_name: Name of the student.
        label_names: The labels in the model's order.
        label_examples: Label -> words that show what it means.
        scheme: ``"BIO"``, ``"BIOES"`` or ``"plain"``.
        languages: Language codes it was trained on.
        model_id: Hub id for the snippets; by default ``model_name``.
        class_name: Class to load it with.
        parameters: Their number.
        base_model: The encoder it started from, a Hub id or a path.
        base_model_revision: That encoder's commit.
        teachers: Its teachers; none for a baseline.
        objective: The distillation objective by name, ``"none"`` for a baseline.
        objective_parts: What each of its parts says of itself: ``name``, ``weight``, ``temperature``,
            ``temperature_mode``, ``source``.
        objective_combination: ``"sum"`` or ``"average"``, where there are several parts.
        lambda_schedule: How the weight of distillation went over training, in words (``"linear 1 -> 0"``).
        top_k: Number of the teachers' best sequences.
        comparison: Scores of student, teachers and baseline to show, means where there were several runs.
        own_scores: Language -> score of these very weights, for the metadata; by default those of ``comparison``.
        type_scores: Scores of each entity type, or tag.
        student_row: The student's row in ``comparison``; by default its first student.
        seeds: Of the runs that were scored, that of these weights first.
        dataset_name: Name of the corpora, or their Hub id.
        train_sentences: Language -> number of training sentences.
        gold_sentences: Language -> number of those with gold tags; by default all.
        hyperparameters: Name -> value, in the order to show.
        images: Title -> place of a picture relative to the card.
        versions: Package -> version; by default those of this process.
        seconds: Training time in seconds.
        memory: ``peak_rss_mib`` and ``peak_gpu_mib`` of training.
        energy: ``kwh`` and ``co2_kg`` of training.
        license: Licence of the weights, as the Hub names it; none is claimed by default.
        tags: Tags for the Hub's search, on top of the card's own.
        citations: BibTeX of what was used.
        limitations: Sentences that the limitations begin with.
        rewritten: Whether the card is one that later pushes of the same training write anew.
    """

    model_name: str
    label_names: Sequence[str] = ()
    label_examples: Mapping[str, Sequence[str]] = field(default_factory=dict)
    scheme: str = "BIO"
    languages: Sequence[str] = ()
    model_id: str | None = None
    class_name: str = "XLMRobertaForTokenClassificationCRF"
    parameters: int | None = None
    base_model: str | None = None
    base_model_revision: str | None = None
    teachers: Sequence[TeacherCard] = ()
    objective: str = "none"
    objective_parts: Sequence[Mapping[str, Any]] = ()
    objective_combination: str | None = None
    lambda_schedule: str | None = None
    top_k: int | None = None
    comparison: ComparisonReport | None = None
    own_scores: Mapping[str, float] | None = None
    type_scores: TypeScores = field(default_factory=dict)
    student_row: str | None = None
    seeds: Sequence[int] = ()
    dataset_name: str | None = None
    train_sentences: Mapping[str, int] = field(default_factory=dict)
    gold_sentences: Mapping[str, int] = field(default_factory=dict)
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    images: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=collect_versions)
    seconds: float | None = None
    memory: Mapping[str, float] = field(default_factory=dict)
    energy: Mapping[str, float] = field(default_factory=dict)
    license: str | None = None
    tags: Sequence[str] = ()
    citations: Sequence[str] = ()
    limitations: Sequence[str] = ()
    rewritten: bool = False

    @property
    def has_crf(self) -> bool:
        """Whether the model has a CRF head; a stock class, whose softmax was trained, has none."""
        return self.class_name.endswith("CRF")
