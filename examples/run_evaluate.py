"""Score a token-classification checkpoint on any corpora, languages it was never trained on included.

python examples/run_evaluate.py --checkpoint runs/demo/student --corpus demo --splits test
"""

import time
from pathlib import Path

from hf_structkd import Teacher
from hf_structkd.data.readers import CorpusError
from hf_structkd.evaluation.compare import answer_labels, common_labels, compare
from hf_structkd.evaluation.results import RunResults, write_results
from hf_structkd.processes import ProcessesError, refuse_several_processes, run_main
from hf_structkd.recipes.data import load_data
from hf_structkd.recipes.effects import refuse_idle_fields
from hf_structkd.recipes.fields import DataArguments, EvaluationArguments
from hf_structkd.recipes.parser import RecipeError, parse_recipe
from hf_structkd.recipes.progress import quiet_libraries
from hf_structkd.settings import dump_settings


def main() -> None:
    refuse_several_processes("examples/run_evaluate.py")
    data_args, evaluation_args = parse_recipe(
        (DataArguments, EvaluationArguments),
        description=__doc__,
        exit_on_error=True,
        check=refuse_idle_fields("run_evaluate"),
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
        print(f"zero-shot, not among the languages of its training ({', '.join(known)}): {', '.join(unseen)}\n")
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
        print(table.to_text() + "\n")
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
    run_main(main, (RecipeError, CorpusError, ProcessesError))
