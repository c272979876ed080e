"""Score a token-classification checkpoint on any corpora, languages it was never trained on included.

python examples/run_evaluate.py --checkpoint runs/demo/student --corpus demo --splits test
"""

import sys
import time

from progress import quiet_libraries
from recipe_arguments import DataArguments, EvaluationArguments
from recipe_steps import load_data, score

from hf_structkd import Teacher
from hf_structkd.data.readers import CorpusError
from hf_structkd.evaluation.aggregate import macro_average
from hf_structkd.evaluation.report import ComparisonReport
from hf_structkd.evaluation.results import RunResults, write_results
from hf_structkd.evaluation.tagging_metrics import TaggingMetrics
from hf_structkd.training.recipe import RecipeError, dump_settings, parse_recipe


def main() -> None:
    data_args, evaluation_args = parse_recipe(
        (DataArguments, EvaluationArguments), description=__doc__, exit_on_error=True
    )
    corpora = load_data(data_args, splits=evaluation_args.splits)
    tagger = Teacher.from_pretrained(
        evaluation_args.checkpoint,
        revision=evaluation_args.revision,
        label_map=evaluation_args.label_map,
        trust_remote_code=evaluation_args.trust_remote_code,
    )
    metric = TaggingMetrics(tagger.labels).metric_name
    name = evaluation_args.checkpoint.rstrip("/").rsplit("/", 1)[-1]
    scores, comparison, seconds = {}, {}, {}
    for split in evaluation_args.splits:
        started = time.perf_counter()
        data = {language: splits[split] for language, splits in corpora.items()}
        reports = score(tagger, data, tagger.labels, evaluation_args.batch_size)
        seconds[split] = time.perf_counter() - started
        row = {language: report[metric] for language, report in reports.items()}
        comparison[split] = ComparisonReport(metric, students={name: row}, split=split)
        scores[split] = {name: {**reports, "avg": macro_average(reports)}}
        print(comparison[split].to_text() + "\n")
    if evaluation_args.output_file:
        results = RunResults(
            settings=dump_settings(data_args, evaluation_args),
            scores=scores,
            comparison={split: table.to_dict() for split, table in comparison.items()},
            seconds=seconds,
        )
        print(f"Scores: {write_results(results, evaluation_args.output_file)}")


if __name__ == "__main__":
    quiet_libraries()
    try:
        main()
    except (RecipeError, CorpusError) as error:
        sys.exit(f"error: {error}")
