"""`structkd evaluate`: score a checkpoint on any corpora, languages that it was not trained on included."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from datasets import Dataset

from ..data.corpora import label_inventory
from ..evaluation.compare import compare
from ..evaluation.results import RunResults, write_results
from ..modeling.tag_scheme import TagScheme, split_tag
from ..processes import refuse_several_processes
from ..settings import dump_settings
from ..teachers.checkpoint import Teacher
from .data import load_data
from .effects import refuse_idle_fields
from .fields import DataArguments, EvaluationArguments
from .parser import RecipeError, parse_recipe
from .progress import show


def main(arguments: Sequence[str], program: str) -> None:
    """Score the checkpoint that a recipe names, and print a table for each split."""
    refuse_several_processes(program)
    data_args, evaluation_args = parse_recipe(
        (DataArguments, EvaluationArguments),
        arguments,
        exit_on_error=True,
        check=refuse_idle_fields("evaluate"),
        program=program,
    )
    corpora = load_data(data_args, splits=evaluation_args.splits)
    try:
        tagger = Teacher.from_pretrained(
            evaluation_args.checkpoint,
            revision=evaluation_args.revision,
            label_map=evaluation_args.label_map,
            trust_remote_code=evaluation_args.trust_remote_code,
        )
    except (OSError, ValueError) as error:
        raise RecipeError(f"checkpoint {evaluation_args.checkpoint!r}: {error}") from error
    known = getattr(tagger.model.config, "languages", None)
    if known and (unseen := [language for language in corpora if language not in known]):
        show(f"zero-shot, not among the languages of its training ({', '.join(known)}): {', '.join(unseen)}\n")
    scheme = common_labels(tagger, corpora, data_args.tag_scheme)
    name = Path(evaluation_args.checkpoint).name
    started = time.perf_counter()
    scores, comparison = compare(
        {name: tagger},
        corpora,
        answer_labels(tagger, scheme),
        evaluation_args.splits,
        evaluation_args.batch_size,
        scheme.name,
    )
    seconds = {"evaluation": time.perf_counter() - started}
    for table in comparison.values():
        show(table.to_text() + "\n")
    if evaluation_args.output_file:
        results = RunResults(
            settings=dump_settings(data_args, evaluation_args),
            scores=scores,
            comparison={split: table.to_dict() for split, table in comparison.items()},
            seconds=seconds,
        )
        show(f"Scores: {write_results(results, evaluation_args.output_file)}")


def common_labels(tagger: Teacher, corpora: Mapping[str, Mapping[str, Dataset]], scheme: str | None) -> TagScheme:
    """What a checkpoint and corpora are compared in: the types of both, in the scheme of the corpora's tags.

    Predictions of a BIOES checkpoint are read as BIO where the corpora are BIO, and the reverse.

    Args:
        tagger: the checkpoint.
        corpora: language -> split -> sentences.
        scheme: of the corpora's tags; inferred from them where `None`.

    Raises:
        RecipeError: if one has entities and the other plain tags, or they name no label alike.
    """
    found = label_inventory(corpora)
    own = TagScheme(tagger.labels, tagger.scheme)  # type: ignore[arg-type]
    gold = TagScheme(found, scheme or (own.name if found == ["O"] else None))  # type: ignore[arg-type]
    if "plain" in (own.name, gold.name) and own.name != gold.name:
        raise RecipeError(
            f"the checkpoint's tags are {own.name}, those of the corpora {gold.name}: nothing to compare"
        )

    def types(tags: Sequence[str]) -> list[str]:
        if gold.name == "plain":
            return list(tags)
        return list(dict.fromkeys(split_tag(tag)[1] for tag in tags if tag != "O"))

    known, wanted = types(own.tags), types(gold.tags)
    missing = [name for name in wanted if name not in known]
    if wanted and missing == wanted:
        raise RecipeError(
            f"the checkpoint knows {', '.join(known)}, and the corpora have {', '.join(wanted)}: nothing to compare. "
            "Where the same things have two names, `structkd evaluate` takes a label_map"
        )
    if missing:
        show(f"not known to the checkpoint, and so always missed: {', '.join(missing)}\n")
    every = list(dict.fromkeys([*known, *wanted]))
    return TagScheme(every, "plain") if gold.name == "plain" else TagScheme.from_entity_types(every, gold.name)


def answer_labels(tagger: Teacher, scheme: TagScheme) -> list[str]:
    """What a checkpoint is asked to answer in: its own labels, or its types in the scheme of the corpora."""
    if TagScheme(tagger.labels, tagger.scheme).name == scheme.name:  # type: ignore[arg-type]
        return tagger.labels
    types = {split_tag(tag)[1] for tag in tagger.labels if tag != "O"}
    return [tag for tag in scheme.tags if tag == "O" or split_tag(tag)[1] in types]
