"""The card of a student: what it is, how to run it, what it scored, how it was made."""

import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..evaluation.report import ComparisonReport
from ..evaluation.results import collect_versions, write_atomically

logger = logging.getLogger(__name__)

TEMPLATE_PATH = Path(__file__).with_name("model_card_template.md")
CARD_NAME = "README.md"

CITATION = """\
@inproceedings{wang-etal-2020-structure,
  title = {Structure-Level Knowledge Distillation For Multilingual Sequence Labeling},
  author = {Wang, Xinyu and Jiang, Yong and Bach, Nguyen and Wang, Tao and Huang, Fei and Tu, Kewei},
  booktitle = {Proceedings of the 58th Annual Meeting of the Association for Computational Linguistics},
  year = {2020},
  url = {https://arxiv.org/abs/2004.03846},
  eprint = {2004.03846},
  archivePrefix = {arXiv}
}"""

_SNIPPET = """\
import torch
from transformers import AutoTokenizer

from hf_structkd import {class_name}

name = {model_id!r}
tokenizer = AutoTokenizer.from_pretrained(name)
model = {class_name}.from_pretrained(name).eval()

words = {words!r}
inputs = tokenizer(words, is_split_into_words=True, return_tensors="pt")
with torch.inference_mode():
    tags = model(**inputs).tags[0]
print([(word, model.config.id2label[tag]) for word, tag in zip(words, tags[tags != -100].tolist())])"""


@dataclass
class TeacherCard:
    """What the card says of a teacher.

    Args:
        name: Hub id, or path; of a path only the last part is shown.
        language: The language it taught; ``None`` for all.
        revision: Commit or fingerprint of its weights.
        score: Its own headline score in [0, 1], where known.
    """

    name: str
    language: str | None = None
    revision: str | None = None
    score: float | None = None


@dataclass
class StudentCardData:
    """What the card of a student says. Everything but the name may be left out; the card is then shorter.

    Args:
        model_name: Name of the student.
        label_names: The labels in the model's order.
        scheme: ``"BIO"``, ``"BIOES"`` or ``"plain"``.
        languages: Language codes it was trained on.
        model_id: Hub id for the snippet; by default ``model_name``.
        class_name: Class to load it with.
        base_model: The encoder it started from, a Hub id or a path.
        base_model_revision: That encoder's commit.
        teachers: Its teachers; none for a baseline.
        objective: The distillation objective by name, ``"none"`` for a baseline.
        lambda_schedule: How the weight of distillation went over training, in words (``"linear 1 -> 0"``).
        temperature: Temperature of the objective.
        top_k: Number of the teachers' best sequences.
        comparison: Scores of student, teachers and baseline.
        student_row: The student's row in ``comparison``; by default its first student.
        dataset_name: Name of the corpora, or their Hub id.
        train_sentences: Language -> number of training sentences.
        hyperparameters: Name -> value, in the order to show.
        versions: Package -> version; by default those of this process.
        seconds: Training time in seconds.
        license: Licence of the weights, as the Hub names it; none is claimed by default.
    """

    model_name: str
    label_names: Sequence[str] = ()
    scheme: str = "BIO"
    languages: Sequence[str] = ()
    model_id: str | None = None
    class_name: str = "XLMRobertaForTokenClassificationCRF"
    base_model: str | None = None
    base_model_revision: str | None = None
    teachers: Sequence[TeacherCard] = ()
    objective: str = "none"
    lambda_schedule: str | None = None
    temperature: float | None = None
    top_k: int | None = None
    comparison: ComparisonReport | None = None
    student_row: str | None = None
    dataset_name: str | None = None
    train_sentences: Mapping[str, int] = field(default_factory=dict)
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=collect_versions)
    seconds: float | None = None
    license: str | None = None


def build_model_card(data: StudentCardData) -> ModelCard:
    """Render a student's card; touches neither network nor disk except the template.

    Args:
        data: What to say.

    Returns:
        The card, with ``model-index`` metadata where there are scores. Paths are reduced to their last part.

    Raises:
        ValueError: If ``student_row`` is not in the comparison. Call :func:`write_model_card` where an error must not
            end a training run.

    Source: huggingface_hub's model card guide; the ``model-index`` specification of hub-docs.
    """
    name = public_name(data.model_name)
    distilled = data.objective != "none" and bool(data.teachers)
    languages = list(data.languages)
    words = ["Angela", "Merkel", "was", "born", "in", "Hamburg", "."]
    return ModelCard.from_template(
        _metadata(data, name, distilled),
        template_path=str(TEMPLATE_PATH),
        model_name=name,
        language_list=", ".join(languages) or "unstated languages",
        task="part-of-speech or other word tagging" if data.scheme == "plain" else "entity recognition",
        distilled=distilled,
        base_model=_code(public_name(data.base_model)) if data.base_model else None,
        teachers=list(data.teachers),
        objective=data.objective,
        snippet=_SNIPPET.format(class_name=data.class_name, model_id=public_name(data.model_id or name), words=words),
        scheme=data.scheme,
        label_table=_table(("id", "label"), ((i, _code(label)) for i, label in enumerate(data.label_names))),
        metric_line=_metric_line(data),
        score_table=data.comparison.to_markdown() if data.comparison else None,
        training_table=_table(("", ""), _training_rows(data)),
        teacher_table=_table(
            ("language", "teacher", "revision", "own score"),
            (
                (t.language or "all", _code(public_name(t.name)), t.revision or "n/a", _percent(t.score))
                for t in data.teachers
            ),
        ),
        hyperparameter_table=_table(
            ("setting", "value"), ((_code(k), _code(_public_value(v))) for k, v in data.hyperparameters.items())
        ),
        version_table=_table(("package", "version"), data.versions.items()),
        citation=CITATION,
    )


def write_model_card(output_dir: str | os.PathLike[str], data: StudentCardData) -> Path | None:
    """Write ``README.md`` into a model's folder, whatever happens.

    A card must never cost a training run: if rendering fails, the failure is logged and a minimal card written; if
    even that cannot be written, it is logged and there is none.

    Args:
        output_dir: The model's folder, made if missing.
        data: What to say.

    Returns:
        The card's path, or ``None`` if nothing could be written.
    """
    target = Path(output_dir) / CARD_NAME
    try:
        text = str(build_model_card(data))
    except Exception:
        logger.exception("The model card could not be rendered; a minimal one is written instead.")
        text = _minimal_card(data)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, text)
    except OSError:
        logger.exception("The model card could not be written.")
        return None
    return target


def public_name(name: str) -> str:
    """A model's name without its place on this machine.

    Args:
        name: A Hub id (``owner/model`` or ``model``) or a path.

    Returns:
        A Hub id as it is; of a path, and of anything that exists here as a path, the last part.
    """
    text = os.fspath(name).replace("\\", "/").rstrip("/")
    is_id = re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", text) is not None
    return text if is_id and not os.path.exists(text) else text.rsplit("/", 1)[-1]


def _metadata(data: StudentCardData, name: str, distilled: bool) -> ModelCardData:
    base_model = public_name(data.base_model) if data.base_model else None
    metric = data.comparison.metric if data.comparison else ("accuracy" if data.scheme == "plain" else "f1")
    return ModelCardData(
        language=list(data.languages) or None,
        license=data.license,
        library_name="transformers",
        pipeline_tag="token-classification",
        # the Hub resolves base_model: the bare name of a local folder would link to somebody else's model
        base_model=base_model if base_model and "/" in base_model else None,
        tags=["hf_structkd", "crf", "sequence-labelling", *(["knowledge-distillation"] if distilled else [])],
        metrics=[metric],
        model_name=name,
        eval_results=_eval_results(data) or None,
    )


def _eval_results(data: StudentCardData) -> list[EvalResult]:
    report = data.comparison
    if report is None or not report.students:
        return []
    row = data.student_row or next(iter(report.students))
    if row not in report.students:
        raise ValueError(f"The comparison has no student {row!r}; it has {list(report.students)}.")
    dataset = public_name(data.dataset_name) if data.dataset_name else "unnamed corpora"
    return [
        EvalResult(
            task_type="token-classification",
            task_name="Token Classification",
            dataset_type=dataset,
            dataset_name=f"{dataset} ({language})",
            dataset_config=language,
            dataset_split=report.split,
            metric_type=report.metric,
            metric_name=f"{report.metric}, strict" if report.metric == "f1" else report.metric,
            metric_value=round(float(score), 6),
        )
        for language, score in report.students[row].items()
    ]


def _metric_line(data: StudentCardData) -> str:
    if data.comparison is None:
        return ""
    what = "Word accuracy" if data.comparison.metric == "accuracy" else "Strict entity F1 (seqeval)"
    split = f" on {data.comparison.split}" if data.comparison.split else ""
    return f"{what} x 100{split}; `avg` is the macro average over languages."


def _training_rows(data: StudentCardData) -> Iterable[tuple[str, Any]]:
    base = _code(public_name(data.base_model)) if data.base_model else None
    if base and data.base_model_revision:
        base += f" at {data.base_model_revision}"
    rows = {
        "base model": base,
        "data": public_name(data.dataset_name) if data.dataset_name else None,
        "training sentences": ", ".join(f"{language} {n:,}" for language, n in data.train_sentences.items()) or None,
        "objective": _code(data.objective),
        "lambda (distillation against gold)": data.lambda_schedule,
        "temperature": data.temperature,
        "k best sequences": data.top_k,
        "training time": None if data.seconds is None else f"{data.seconds:,.0f} s",
    }
    return [(name, value) for name, value in rows.items() if value is not None]


def _public_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _public_value(member) for key, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [_public_value(member) for member in value]
    return public_name(str(value)) if isinstance(value, (str, os.PathLike)) and str(value) else value


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str | None:
    lines = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    if not lines:
        return None
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (list(header), ["---"] * len(header), *lines))


def _code(value: Any) -> str:
    return f"`{value}`"


def _percent(score: float | None) -> str:
    return "n/a" if score is None else f"{100 * score:.2f}"


def _minimal_card(data: StudentCardData) -> str:
    try:
        title = public_name(data.model_name)
    except Exception:  # whatever broke the card may be the name itself
        title = "hf_structkd model"
    metadata = "library_name: transformers\npipeline_tag: token-classification"
    return f"---\n{metadata}\n---\n\n# {title}\n\n```bibtex\n{CITATION}\n```\n"
