"""`structkd evaluate`: score a tagger on any corpora, also in languages that it was not trained on."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset

from ..data.corpora import label_inventory
from ..evaluation.compare import Tagger, compare
from ..evaluation.results import RunResults, write_results
from ..modeling.tag_scheme import TagScheme, split_tag
from ..processes import refuse_several_processes
from ..settings import dump_settings
from ..teachers.base import TagTeacher
from ..teachers.checkpoint import Teacher
from ..teachers.kinds import load_teacher
from .data import load_data
from .effects import refuse_idle_fields
from .fields import DataArguments, EvaluationArguments
from .parser import RecipeError, parse_recipe
from .previous import PREVIOUS, CachedTagger, Congruent, answer_labels, flips_by_split, flips_text
from .progress import show


def main(arguments: Sequence[str], program: str) -> None:
    """Score the checkpoint that a recipe names, and print one table per split."""
    refuse_several_processes(program)
    data_args, evaluation_args = parse_recipe(
        (DataArguments, EvaluationArguments),
        arguments,
        exit_on_error=True,
        check=refuse_idle_fields("evaluate"),
        program=program,
    )
    corpora = load_data(data_args, splits=evaluation_args.splits, glued=True)
    tagger = load_tagger(
        evaluation_args, "checkpoint", evaluation_args.revision, evaluation_args.label_map, evaluation_args.options
    )
    trained_on = getattr(tagger.model.config, "languages", None) if isinstance(tagger, Teacher) else None
    if trained_on and (unseen := [language for language in corpora if language not in trained_on]):
        show(f"zero-shot, not among the languages of its training ({', '.join(trained_on)}): {', '.join(unseen)}\n")
    scheme = common_labels(tagger, corpora, data_args.tag_scheme)
    name = Path(evaluation_args.checkpoint).name  # of `spacy:NAME`, all of it
    if name == PREVIOUS:
        name = evaluation_args.checkpoint
    rows: dict[str, Tagger] = {name: CachedTagger(tagger, answer_labels(tagger, scheme))}
    if evaluation_args.previous is not None:
        rows = with_previous(rows, name, tagger, corpora, scheme, evaluation_args)
    started = time.perf_counter()
    splits, batch_size = evaluation_args.splits, evaluation_args.batch_size
    scores, comparison = compare(rows, corpora, list(scheme.tags), splits, batch_size, scheme.name)
    flips = {}
    if evaluation_args.previous is not None:
        flips = flips_by_split(rows, rows[PREVIOUS], corpora, scheme.tags, splits, scheme.name, batch_size)
    seconds = {"evaluation": time.perf_counter() - started}
    for split, table in comparison.items():
        show(table.to_text() + "\n")
        if split in flips:
            show(flips_text(flips[split], split) + "\n")
    if evaluation_args.output_file:
        results = RunResults(
            settings=dump_settings(data_args, evaluation_args),
            scores=scores,
            comparison={split: table.to_dict() for split, table in comparison.items()},
            seconds=seconds,
            flips=flips,
        )
        show(f"Scores: {write_results(results, evaluation_args.output_file)}")


def load_tagger(
    args: EvaluationArguments,
    field: str,
    revision: str | None,
    label_map: dict[str, str] | str | None,
    options: dict[str, Any] | None = None,
) -> TagTeacher:
    """The tagger that a field of the arguments names: a checkpoint, or `kind:NAME` of another library.

    Raises:
        RecipeError: If it cannot be loaded; the message names the field.
    """
    name = getattr(args, field)
    remote = args.trust_remote_code
    try:
        return load_teacher(name, revision=revision, label_map=label_map, trust_remote_code=remote, options=options)
    except (OSError, ValueError, ImportError) as error:
        raise RecipeError(f"{field} {name!r}: {error}") from error


def with_previous(
    rows: Mapping[str, Tagger],
    name: str,
    tagger: TagTeacher,
    corpora: Mapping[str, Mapping[str, Dataset]],
    scheme: TagScheme,
    args: EvaluationArguments,
) -> dict[str, Tagger]:
    """The rows of the table with the tagger that is replaced and, where `congruence` is given, the one in between.

    Raises:
        RecipeError: If the previous tagger cannot be loaded, or has nothing to be compared in.
    """
    previous = load_tagger(args, "previous", args.previous_revision, args.previous_label_map)
    common_labels(previous, corpora, scheme.name)
    all_rows: dict[str, Tagger] = {PREVIOUS: CachedTagger(previous, answer_labels(previous, scheme)), **rows}
    if args.congruence is not None:
        between = Congruent(tagger, previous, args.congruence)
        row = f"{name}, congruence {args.congruence:g}"
        all_rows[row] = CachedTagger(between, answer_labels(tagger, scheme))
    return all_rows


def common_labels(tagger: TagTeacher, corpora: Mapping[str, Mapping[str, Dataset]], scheme: str | None) -> TagScheme:
    """The labels in which a checkpoint and corpora are compared: the types of both, in the corpora's tag scheme.

    Predictions of a BIOES checkpoint are read as BIO if the corpora are BIO, and the reverse.

    Args:
        tagger: The checkpoint.
        corpora: Language -> split -> sentences.
        scheme: Tag scheme of the corpora; by default inferred from their tags.

    Raises:
        RecipeError: If one has entities and the other plain tags, or they have no label name in common.
    """
    corpus_labels = label_inventory(corpora)
    predicted = TagScheme(tagger.labels, tagger.scheme)
    gold_scheme = scheme or (predicted.name if corpus_labels == ["O"] else None)
    gold = TagScheme(corpus_labels, gold_scheme)
    if "plain" in (predicted.name, gold.name) and predicted.name != gold.name:
        raise RecipeError(
            f"the checkpoint's tags are {predicted.name}, those of the corpora {gold.name}: nothing to compare"
        )

    def types(tags: Sequence[str]) -> list[str]:
        if gold.name == "plain":
            return list(tags)
        return list(dict.fromkeys(split_tag(tag)[1] for tag in tags if tag != "O"))

    known, gold_types = types(predicted.tags), types(gold.tags)
    missing = [name for name in gold_types if name not in known]
    if gold_types and missing == gold_types:
        raise RecipeError(
            f"the checkpoint knows {', '.join(known)}, and the corpora have {', '.join(gold_types)}: nothing to "
            "compare. Where the same things have two names, `structkd evaluate` takes a label_map"
        )
    if missing:
        show(f"not known to the checkpoint, and so always missed: {', '.join(missing)}\n")
    all_types = list(dict.fromkeys([*known, *gold_types]))
    if gold.name == "plain":
        return TagScheme(all_types, "plain")
    return TagScheme.from_entity_types(all_types, gold.name)
