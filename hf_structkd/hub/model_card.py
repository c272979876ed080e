"""The card of a student: what it is, how to run it, what it scored, how it was made."""

import hashlib
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..evaluation.flips import flip_table
from ..evaluation.markdown import code, escaped, fenced, one_line
from ..evaluation.report import AGREEMENT
from ..files import write_atomically
from .card_data import StudentCardData, TeacherCard
from .card_tables import (
    card_facts,
    hub_link,
    hyperparameter_table,
    is_hub_id,
    label_table,
    objective_table,
    precision_recall_table,
    teacher_table,
    training_table,
    type_tables,
    version_table,
)
from .public import log_failure, public_name
from .snippets import snippets, widget_examples

__all__ = [
    "CARD_NAME",
    "REWRITTEN",
    "StudentCardData",
    "TeacherCard",
    "build_model_card",
    "is_edited",
    "write_model_card",
]

logger = logging.getLogger(__name__)

TEMPLATE_PATH = Path(__file__).with_name("model_card_template.md")
CARD_NAME = "README.md"
REWRITTEN = "<!-- StructKDTrainer writes this card anew with every push, until somebody edits it. -->"

_SEAL = re.compile(r"\n<!-- card of hf_structkd ([0-9a-f]{64}); edit the page, and it is never written over -->\s*$")


def build_model_card(data: StudentCardData) -> ModelCard:
    """Render a student's card; touches neither network nor disk except the template.

    Args:
        data: What to say.

    Returns:
        The card, with `model-index` metadata where there are scores. Paths are reduced to their last part.

    Raises:
        ValueError: If `student_row` is not in the comparison. Call [`write_model_card`] where an error must not
            end a training run.

    Source: huggingface_hub's model card guide; the `model-index` specification of hub-docs.
    """
    name = public_name(data.model_name)
    distilled = data.objective != "none" and bool(data.teachers)
    languages = tuple(data.languages)
    return ModelCard.from_template(
        _metadata(data, name, distilled),
        template_path=str(TEMPLATE_PATH),
        model_name=escaped(name),
        language_list=", ".join(map(escaped, languages)) or "unstated languages",
        task="part-of-speech or other word tagging" if data.scheme == "plain" else "entity recognition",
        has_crf=data.has_crf,
        glued_words=data.glued_words,
        distilled=distilled,
        without_gold=bool(data.gold_sentences) and not any(data.gold_sentences.values()),
        base_model=_base_model(data),
        data=", ".join(hub_link(name, "datasets/") for name in _dataset_ids(data)),
        facts=card_facts(data),
        teachers=list(data.teachers),
        objective=code(data.objective),
        snippets={
            which: fenced(program, "python")
            for which, program in snippets(
                one_line(public_name(data.model_id or name)), data.class_name, languages, data.scheme, data.glued_words
            ).items()
        },
        scheme=escaped(data.scheme),
        label_table=label_table(data),
        metric_line=_metric_line(data),
        score_table=data.comparison.to_markdown() if data.comparison else None,
        precision_recall_table=precision_recall_table(data),
        type_tables=_type_tables(data),
        flip_table=flip_table(data.flips),
        type_name="tag" if data.scheme == "plain" else "entity type",
        images={which: quote(place) for which, place in data.images.items()},
        training_table=training_table(data),
        teacher_table=teacher_table(data),
        objective_table=objective_table(data),
        hyperparameter_table=hyperparameter_table(data),
        version_table=version_table(data),
        license=data.license,
        citations=fenced("\n\n".join(data.citations), "bibtex") if data.citations else None,
        limitations=[escaped(limitation) for limitation in data.limitations],
        rewritten=REWRITTEN if data.rewritten else None,
    )


def write_model_card(output_dir: str | os.PathLike[str], data: StudentCardData) -> Path | None:
    """Write `README.md` into a model's folder, whatever happens.

    A card must never cost a training run: if rendering fails, the failure is logged and a minimal card written; if
    even that cannot be written, it is logged and there is none. A card that somebody has edited, or written, is not
    written over: a warning says so.

    Args:
        output_dir: The model's folder, made if missing.
        data: What to say.

    Returns:
        The card's path, of the edited one too, or `None` if nothing could be written.
    """
    target = Path(output_dir) / CARD_NAME
    try:
        if is_edited(target):
            logger.warning(
                "%s was edited, or is not a card of hf_structkd: it stays as it is. To have it made anew from the "
                "results beside it, remove it and describe the student again.",
                target,
            )
            return target
        try:
            text = str(build_model_card(data))
        except Exception:
            log_failure(logger, "The model card could not be rendered; a minimal one is written instead.")
            text = minimal_card(data)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, sealed(text))
    except (OSError, ValueError):
        log_failure(logger, "The model card could not be written.")
        return None
    return target


def sealed(text: str) -> str:
    """A card with a last line, which is not shown, that tells whether it was edited since."""
    text = text.rstrip("\n") + "\n"
    return f"{text}\n<!-- card of hf_structkd {_digest(text)}; edit the page, and it is never written over -->\n"


def is_edited(card: str | os.PathLike[str]) -> bool:
    """Whether there is a card that is not, to the last word, one that [`write_model_card`] wrote.

    Raises:
        OSError: If it is there and cannot be read.
    """
    path = Path(card)
    if not path.exists():
        return False
    text = path.read_text(encoding="utf-8", errors="replace")  # line ends of every kind become one
    seal = _SEAL.search(text)
    return seal is None or _digest(text[: seal.start()]) != seal[1]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def minimal_card(data: StudentCardData) -> str:
    """The card where no other can be made: metadata, the name, and that something went wrong is in the log."""
    try:
        title = public_name(data.model_name)
    except Exception:  # whatever broke the card may be the name itself
        title = "hf_structkd model"
    metadata = "library_name: transformers\npipeline_tag: token-classification\ntags:\n- hf_structkd"
    return f"---\n{metadata}\n---\n\n# {escaped(title)}\n\n{REWRITTEN}\n"


def _base_model(data: StudentCardData) -> str | None:
    """The model that it was made from, with a link if it is on the Hub."""
    origin = _base_id(data)
    if not data.base_model:
        return None
    name = public_name(data.base_model)
    if origin is None:
        return code(name)
    return hub_link(origin) if origin == name else f"{code(name)}, which goes back to {hub_link(origin)}"


def _base_id(data: StudentCardData) -> str | None:
    # The Hub resolves ids: the bare name of a local folder would link to somebody else's model.
    names = (data.base_model_id, public_name(data.base_model) if data.base_model else None)
    return next((name for name in names if is_hub_id(name)), None)


def _dataset_ids(data: StudentCardData) -> list[str]:
    names = [public_name(name) for name in (*data.dataset_ids, data.dataset_name) if name]
    return [name for name in dict.fromkeys(names) if is_hub_id(name)]


def _type_tables(data: StudentCardData) -> list[tuple[str, str]]:
    """The tables of types, the student's first: it is the one that readers came for."""
    languages = data.comparison.languages or [] if data.comparison else []
    scores = dict(sorted(data.type_scores.items(), key=lambda item: item[0] != data.student_row))
    return type_tables(scores, languages)


def _metadata(data: StudentCardData, name: str, distilled: bool) -> ModelCardData:
    metric = data.comparison.metric if data.comparison else ("accuracy" if data.scheme == "plain" else "f1")
    package_tags = [
        "hf_structkd",
        *(["crf"] if data.has_crf else []),
        "sequence-labelling",
        *(["knowledge-distillation"] if distilled else []),
    ]
    more: dict[str, Any] = {}
    languages, variants = hub_languages(data.languages)
    if variants:
        more["language_bcp47"] = variants
    if not data.glued_words and (examples := widget_examples(data.languages)):
        more["widget"] = examples
    if "co2_kg" in data.energy:
        grams = round(1000 * float(data.energy["co2_kg"]), 6)
        more["co2_eq_emissions"] = {"emissions": grams, "source": "codecarbon", "training_type": "fine-tuning"}
    return ModelCardData(
        language=languages or None,
        license=None if data.license is None else one_line(data.license),
        library_name="transformers",
        pipeline_tag="token-classification",
        base_model=_base_id(data),
        datasets=_dataset_ids(data) or None,
        tags=list(dict.fromkeys([*package_tags, *map(one_line, data.tags)])),
        metrics=[one_line(metric)],
        model_name=one_line(name),
        eval_results=_eval_results(data) or None,
        **more,
    )


def hub_languages(codes: Sequence[str]) -> tuple[list[str], list[str]]:
    """Languages as the Hub's metadata takes them; it refuses a whole card for one name that it does not know.

    Args:
        codes: what the corpora's languages are called, by whoever called them so.

    Returns:
        ISO 639 codes, and the BCP 47 tags that say more (`"pt-BR"`, whose code is `"pt"`). A name of another kind
        (`"english"`) is in neither; the card's text has it.

    Source: huggingface/datasets pull request 4753, which moved longer tags to `language_bcp47`.
    """
    tags = [code for code in codes if re.fullmatch(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*", code)]
    return list(dict.fromkeys(tag.split("-")[0] for tag in tags)), [tag for tag in tags if "-" in tag]


def _eval_results(data: StudentCardData) -> list[EvalResult]:
    report = data.comparison
    if report is None or not report.students or report.split == AGREEMENT:  # the metadata's scores are against gold
        return []
    row = data.student_row or next(iter(report.students))
    if row not in report.students:
        raise ValueError(f"The comparison has no student {row!r}; it has {list(report.students)}.")
    metric = one_line(report.metric)
    if not metric:
        raise ValueError("The comparison's metric has no name.")
    results = []
    for language, score in (data.own_scores or report.students[row]).items():
        dataset, name = _scored_dataset(data, language)
        results.append(
            EvalResult(
                task_type="token-classification",
                task_name="Token Classification",
                dataset_type=dataset,
                dataset_name=f"{name} ({one_line(language)})",
                dataset_config=one_line(language),
                dataset_split=None if report.split is None else one_line(report.split),
                metric_type=metric,
                metric_name=f"{metric}, strict" if metric == "f1" else metric,
                metric_value=round(float(score), 6),
            )
        )
    return results


def _scored_dataset(data: StudentCardData, language: str) -> tuple[str, str]:
    """The id of the corpus that a language was scored on, where the Hub has it, and its name.

    What the student learnt from is no help: that may be another language's corpus, or text without tags.
    """
    ids = [name for name in map(public_name, data.scored_datasets.get(language, ())) if is_hub_id(name)]
    known = ids[0] if len(ids) == 1 else None
    name = one_line(public_name(data.dataset_name or known or "unnamed corpora"))
    return known or name, name


def _metric_line(data: StudentCardData) -> str:
    if data.comparison is None:
        return ""
    what = "Word accuracy" if data.comparison.metric == "accuracy" else "Strict entity F1 (seqeval)"
    split = f" on {escaped(data.comparison.split)}" if data.comparison.split else ""
    line = f"{what} x 100{split}; `avg` is the macro average over languages."
    if data.comparison.split == AGREEMENT:
        line += " This is agreement with the teachers, on text that nobody tagged: it does not say who is right."
    if data.comparison.baseline is not None:
        line += " `baseline` is the same student trained on gold tags alone."
    if len(data.seeds) > 1:
        seeds = ", ".join(map(escaped, data.seeds))
        line += (
            f" Means and standard deviations over {len(data.seeds)} runs with seeds {seeds}; "
            f"these weights are of seed {escaped(data.seeds[0])}, and the metadata has their scores."
        )
    return line
