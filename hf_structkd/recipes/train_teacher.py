"""`structkd teacher`: train one tagger for one language, or for several together, with a CRF or a softmax head."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import concatenate_datasets

from ..data.word_agreement import WordAgreement
from ..evaluation.compare import compare
from ..evaluation.results import RunResults, write_results
from ..settings import dump_settings
from ..teachers.checkpoint import Teacher
from ..training.arguments import StructKDTrainingArguments
from .data import labels_of, load_data
from .effects import refuse_idle_fields
from .fields import DataArguments, ModelArguments
from .folder import provenance, settings_of, train_into, train_tagger, warn_of_unlearnt_types
from .growth import refuse_silent_gold, student_labels
from .models import check_head, check_model, encoder_of, make_tagger, trim_tagger
from .parser import RecipeError, parse_recipe
from .progress import show


def main(arguments: Sequence[str], program: str) -> None:
    """Train the tagger of a recipe, score it, and leave it in `output_dir`."""
    data_args, model_args, args = parse_recipe(
        (DataArguments, ModelArguments, StructKDTrainingArguments),
        arguments,
        exit_on_error=True,
        check=refuse_idle_fields("teacher"),
        program=program,
    )
    if data_args.max_train_sentences == 0:
        raise RecipeError("max_train_sentences 0 leaves nothing to learn from: give at least 1, or leave it out")
    args.objective = "none"
    check_head(model_args.head, args)
    word_agreement: dict[str, WordAgreement] = {}
    corpora = load_data(data_args, word_agreement=word_agreement)
    labels = student_labels(model_args, labels_of(data_args, corpora), data_args)
    refuse_silent_gold(model_args, {language: splits["train"] for language, splits in corpora.items()}, labels)
    train = concatenate_datasets([splits["train"] for splits in corpora.values()])
    dev = {language: splits["dev"] for language, splits in corpora.items()}
    check_model(model_args)
    learnt_from = {
        split: {language: splits[split] for language, splits in corpora.items()} for split in ("train", "dev")
    }
    settings = settings_of(data_args, model_args, args)
    settings |= provenance(learnt_from, labels, encoder_of(model_args), model_args.revision)
    folder, title = Path(args.output_dir or "."), f"Teacher for {', '.join(corpora)}"

    def fit(training_args: StructKDTrainingArguments) -> Any:
        tagger = make_tagger(
            model_args,
            labels,
            data_args.tag_scheme,
            lambda: list(train["tokens"]),
            data_args.words,
            [train],
            data_args.glued_words,
        )
        return train_tagger(*trim_tagger(*tagger, model_args, train, dev), train, dev, training_args, title=title)

    seconds = train_into(folder, settings, args, fit, title)
    if not args.should_save:
        return
    tagger = Teacher.from_pretrained(str(folder))
    scores, comparison = compare({folder.name: tagger}, corpora, labels, ("dev", "test"), scheme=data_args.tag_scheme)
    show(comparison["test"].to_text())
    warn_of_unlearnt_types(folder.name, [split[folder.name] for split in scores.values()], folder, args)
    results = RunResults(
        settings=dump_settings(data_args, model_args, args),
        scores=scores,
        comparison={split: table.to_dict() for split, table in comparison.items()},
        seed=args.seed,
        train_sentences={language: len(splits["train"]) for language, splits in corpora.items()},
        seconds={"training": seconds},
        word_agreement={language: agreement.summary() for language, agreement in word_agreement.items()},
    )
    show(f"\nModel and scores: {folder}, {write_results(results, folder)}")
