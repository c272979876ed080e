"""`structkd calibrate`: the expected calibration error of a checkpoint's entity scores, and reliability diagrams.

`--write` fills the table into its marked place (`<!-- results: calibration -->`) in a Markdown file.
"""

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from ..data.columns import ANNOTATED_TYPES
from ..evaluation.calibration import plot_reliability, reliability
from ..evaluation.markdown import escaped, fill_file, table
from ..files import write_atomically
from ..modeling.entities import analyses
from ..modeling.glued_words import sentences_of
from ..modeling.pipeline import CRFTokenClassificationPipeline
from ..modeling.tag_scheme import Span
from ..processes import refuse_several_processes
from ..teachers.checkpoint import Teacher
from .data import load_data
from .effects import refuse_idle_fields
from .evaluate import common_labels
from .fields import CalibrationArguments, DataArguments
from .parser import RecipeError, parse_recipe

SCORES = ("exact", "mean_marginal", "mean_softmax")


class ScoringPipeline(CRFTokenClassificationPipeline):
    """A pipeline that returns for each sentence its predicted spans, each with the three scores in `SCORES`."""

    def _forward(self, model_inputs: dict[str, torch.Tensor], **_: Any) -> Any:  # type: ignore[override]
        output = self.model(**model_inputs, decode=False)
        distribution = self.model.distribution(output, "decode")
        word_scores = {"mean_marginal": distribution.marginals, "mean_softmax": output.emissions.softmax(dim=-1)}
        sentences = []
        for row, (best,) in enumerate(analyses(distribution, self.scheme)):
            scored_spans = []
            for span, exact in zip(best.spans, best.scores):
                tags = torch.tensor(self.scheme.entity_path(span)[0], device=output.emissions.device)
                words = torch.arange(span.start, span.end, device=tags.device)
                means = {name: float(values[row, words, tags].mean()) for name, values in word_scores.items()}
                scored_spans.append((span, {"exact": exact, **means}))
            sentences.append(scored_spans)
        return {"sentences": sentences}

    def postprocess(self, outputs: dict[str, Any], sentence: Any, **_: Any) -> Any:  # type: ignore[override]
        return outputs.get("sentences", [])


def main(arguments: Sequence[str], program: str) -> None:
    """Measure the checkpoint that a recipe names; print the table, write figures and diagrams to `output_dir`."""
    refuse_several_processes(program)
    data_args, args = parse_recipe(
        (DataArguments, CalibrationArguments),
        arguments,
        exit_on_error=True,
        check=refuse_idle_fields("calibrate"),
        program=program,
    )
    if find_spec("matplotlib") is None:  # before the checkpoint is asked about every sentence
        raise RecipeError("reliability diagrams need matplotlib: pip install 'hf_structkd[plots]'")
    corpora = load_data(data_args, splits=[args.split], glued=True)
    try:
        loaded = Teacher.from_pretrained(args.checkpoint, trust_remote_code=args.trust_remote_code)
        tagger = ScoringPipeline(model=loaded.model, tokenizer=loaded.tokenizer, batch_size=args.batch_size)
    except (OSError, ValueError) as error:
        raise RecipeError(f"checkpoint {args.checkpoint!r}: {error}") from error
    gold_scheme = common_labels(loaded, corpora, data_args.tag_scheme)
    scores: dict[str, dict[str, list[float]]] = {}
    right: dict[str, list[bool]] = {}
    for language, splits in corpora.items():
        data = splits[args.split]
        scores[language], right[language] = {name: [] for name in SCORES}, []
        declared = data[ANNOTATED_TYPES] if ANNOTATED_TYPES in data.column_names else [None] * len(data)
        for predicted, tags, types in zip(tagger(sentences_of(data)), data["tags"], declared):
            gold_spans = set(gold_scheme.spans(tags))
            for span, span_scores in predicted:
                if types is not None and Span(*span).type not in types:
                    continue  # nobody looked for it: whether it is right is not known
                right[language].append(span in gold_spans)
                for name in SCORES:
                    scores[language][name].append(span_scores[name])
    if silent := [language for language, outcomes in right.items() if not outcomes]:
        raise RecipeError(
            f"checkpoint {args.checkpoint!r} finds no entity in the {args.split} sentences of {', '.join(silent)}: "
            "there are no scores to calibrate. Leave these languages out, or train it first"
        )
    all_scores = {name: [score for language in scores for score in scores[language][name]] for name in SCORES}
    scores["all"], right["all"] = all_scores, [outcome for language in right for outcome in right[language]]
    diagrams = {
        language: {name: reliability(scores[language][name], right[language], args.bins) for name in SCORES}
        for language in scores
    }
    folder = Path(args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    report = {
        "checkpoint": args.checkpoint,
        "corpus": data_args.corpus,
        "split": args.split,
        "languages": {
            language: {name: diagram.to_dict() for name, diagram in by_score.items()}
            for language, by_score in diagrams.items()
        },
    }
    write_atomically(folder / "calibration.json", json.dumps(report, indent=2) + "\n")
    plot_reliability(diagrams["all"], folder / "calibration.png", f"{Path(args.checkpoint).name}, {args.split}")
    text = table(
        ["language", "entities", "right", *(f"ECE {name}" for name in SCORES)],
        [
            [
                escaped(language),
                str(len(right[language])),
                f"{100 * sum(right[language]) / len(right[language]):.1f} %",
                *(f"{100 * by_score[name].ece:.2f} %" for name in SCORES),
            ]
            for language, by_score in diagrams.items()
        ],
        numbers=True,
    )
    print(text)
    if args.write:
        fill_file(Path(args.write), "calibration", {"calibration": text})
    print(f"\n{folder / 'calibration.json'}, {folder / 'calibration.png'}")
