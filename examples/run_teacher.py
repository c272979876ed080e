"""Train one tagger for one language (or several together), with a CRF or a softmax head.

accelerate launch examples/run_teacher.py RECIPE.yaml --languages en --output_dir runs/teacher-en
"""

from pathlib import Path

from datasets import concatenate_datasets
from progress import quiet_libraries
from recipe_arguments import DataArguments, ModelArguments
from recipe_data import labels_of, load_data
from recipe_models import check_head, make_tagger
from recipe_training import settings_of, train_into, train_tagger
from scoring import compare

from hf_structkd import StructKDTrainingArguments, Teacher
from hf_structkd.data.readers import CorpusError
from hf_structkd.distillation.processes import run_main
from hf_structkd.evaluation.results import RunResults, write_results
from hf_structkd.training.checkpoints import CheckpointError
from hf_structkd.training.loss_guard import NonFiniteLossError
from hf_structkd.training.recipe import RecipeError, dump_settings, parse_recipe


def main() -> None:
    data_args, model_args, args = parse_recipe(
        (DataArguments, ModelArguments, StructKDTrainingArguments), description=__doc__, exit_on_error=True
    )
    args.objective = "none"
    check_head(model_args.head, args)
    corpora = load_data(data_args)
    labels = labels_of(data_args, corpora)
    train = concatenate_datasets([splits["train"] for splits in corpora.values()])
    dev = {language: splits["dev"] for language, splits in corpora.items()}
    folder = Path(args.output_dir)
    seconds = train_into(
        folder,
        settings_of(data_args, model_args, args),
        args,
        lambda own: train_tagger(
            *make_tagger(model_args, labels, data_args.tag_scheme, lambda: list(train["tokens"])), train, dev, own
        ),
    )
    if not args.should_save:
        return
    tagger = Teacher.from_pretrained(str(folder))
    scores, comparison = compare({folder.name: tagger}, corpora, labels, ("dev", "test"))
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
