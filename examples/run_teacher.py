"""Train one tagger for one language (or several together), with a CRF or a softmax head.

accelerate launch examples/run_teacher.py RECIPE.yaml --languages en --output_dir runs/teacher-en
"""

from pathlib import Path
from typing import Any

from datasets import concatenate_datasets

from hf_structkd import StructKDTrainingArguments, Teacher
from hf_structkd.data.readers import CorpusError
from hf_structkd.evaluation.compare import compare
from hf_structkd.evaluation.results import RunResults, write_results
from hf_structkd.processes import run_main
from hf_structkd.recipes.data import labels_of, load_data
from hf_structkd.recipes.effects import refuse_idle_fields
from hf_structkd.recipes.fields import DataArguments, ModelArguments
from hf_structkd.recipes.folder import made_of, settings_of, train_into, train_tagger
from hf_structkd.recipes.models import check_head, check_model, encoder_of, make_tagger
from hf_structkd.recipes.parser import RecipeError, parse_recipe
from hf_structkd.recipes.progress import quiet_libraries
from hf_structkd.settings import dump_settings
from hf_structkd.training.checkpoints import CheckpointError
from hf_structkd.training.loss_watch import NonFiniteLossError


def main() -> None:
    data_args, model_args, args = parse_recipe(
        (DataArguments, ModelArguments, StructKDTrainingArguments),
        description=__doc__,
        exit_on_error=True,
        check=refuse_idle_fields("run_teacher"),
    )
    if data_args.max_train_sentences == 0:
        raise RecipeError("max_train_sentences 0 leaves nothing to learn from: give at least 1, or leave it out")
    args.objective = "none"
    check_head(model_args.head, args)
    corpora = load_data(data_args)
    labels = labels_of(data_args, corpora)
    train = concatenate_datasets([splits["train"] for splits in corpora.values()])
    dev = {language: splits["dev"] for language, splits in corpora.items()}
    check_model(model_args)
    learnt_from = {split: {language: own[split] for language, own in corpora.items()} for split in ("train", "dev")}
    made = made_of(learnt_from, labels, encoder_of(model_args), model_args.revision)
    folder, title = Path(args.output_dir), f"Teacher for {', '.join(corpora)}"

    def fit(own: StructKDTrainingArguments) -> Any:
        tagger = make_tagger(model_args, labels, data_args.tag_scheme, lambda: list(train["tokens"]))
        return train_tagger(*tagger, train, dev, own, title=title)

    seconds = train_into(folder, settings_of(data_args, model_args, args) | made, args, fit, title)
    if not args.should_save:
        return
    tagger = Teacher.from_pretrained(str(folder))
    scores, comparison = compare({folder.name: tagger}, corpora, labels, ("dev", "test"), scheme=data_args.tag_scheme)
    print(comparison["test"].to_text())
    results = RunResults(
        settings=dump_settings(data_args, model_args, args),
        scores=scores,
        comparison={split: table.to_dict() for split, table in comparison.items()},
        seed=args.seed,
        train_sentences={language: len(splits["train"]) for language, splits in corpora.items()},
        seconds={"training": seconds},
    )
    print(f"\nModel and scores: {folder}, {write_results(results, folder)}")


if __name__ == "__main__":
    quiet_libraries()
    run_main(main, (RecipeError, CorpusError, CheckpointError, NonFiniteLossError, OSError))
