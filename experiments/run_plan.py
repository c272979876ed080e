"""Run steps that build on each other, as a growing tagger takes them, for several seeds, and score every one.

    python -m experiments.run_plan PLAN.yaml --define DATA=... ENCODERS=... [--output_dir runs/plans] [--seeds 1]

A plan (experiments/plans/) names corpora, cut by entity types and sentences, and steps, each a `structkd teacher` or
`structkd distill` with fields of its own; `step:NAME` is the tagger of an earlier step, `{NAME}` the folder of a
corpus. A step `evaluate` trains nothing: its `checkpoint` is a tagger that exists and its `languages` those that the
tagger was made for; it is scored once, not per seed. `structkd evaluate` scores every tagger with each member of
`scored`.
Every step leaves OUTPUT_DIR/PLAN/seed-N/STEP; started again, the runner does what is not done. The table has means
and standard deviations over seeds; `--keep FOLDER` leaves the scores in FOLDER/PLAN.json, to be committed, and
`--write` puts the table into the places `<!-- results: plan PLAN --><!-- end -->` of documents. `--from FOLDER` reads
kept scores instead of running anything.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from string import Template
from typing import Any

import yaml

from hf_structkd import load_corpora
from hf_structkd.evaluation import markdown, read_results
from hf_structkd.evaluation.markdown import fill_file, key
from hf_structkd.files import write_atomically
from hf_structkd.modeling.tag_scheme import split_tag

STEP = "step:"
MEMBERS = {"description", "seeds", "corpora", "fields", "steps", "scored"}


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("plan", type=Path)
    options.add_argument("--define", nargs="*", default=[])
    options.add_argument("--output_dir", type=Path, default=Path("runs/plans"))
    options.add_argument("--seeds", type=int, help="fewer seeds than the plan has")
    options.add_argument("--sentences", type=int, help="at most so many sentences of each split, for a trial")
    options.add_argument("--max_steps", type=int, help="updates per training, for a trial")
    options.add_argument("--keep", type=Path, metavar="FOLDER", help="where the scores are kept, in PLAN.json")
    options.add_argument("--write", nargs="+", type=Path, default=[], help="documents whose marked places are filled")
    options.add_argument("--from", type=Path, metavar="FOLDER", dest="kept", help="read kept scores, and run nothing")
    arguments = options.parse_args()
    if arguments.kept is not None:
        kept = json.loads((arguments.kept / f"{arguments.plan.stem}.json").read_text(encoding="utf-8"))
    else:
        kept = run(arguments)
    table = table_of(kept)
    print(table)
    place = key(f"plan {arguments.plan.stem}")
    for document in arguments.write:
        fill_file(document, place, {place: table})
    return 0


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Do what is not done of a plan, and return its scores as `table_of` reads them."""
    plan = read_plan(arguments.plan, dict(item.split("=", 1) for item in arguments.define))
    output = arguments.output_dir.resolve() / arguments.plan.stem
    for name, corpus in plan["corpora"].items():
        write_corpus(corpus, output / "corpora" / name, arguments.sentences)
    seeds = range(1, (arguments.seeds or plan["seeds"]) + 1)
    for seed in seeds:
        for step in steps_of(plan, seed):
            run_step(plan, step, output, seed, arguments.max_steps)
    scores = {"description": plan["description"], "steps": scores_of_steps(plan, output, list(seeds))}
    for folder in (output, arguments.keep):
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / f"{output.name}.json", json.dumps(scores, indent=1, ensure_ascii=False) + "\n")
    return scores


def read_plan(file: Path, definitions: Mapping[str, str]) -> dict[str, Any]:
    """Read a plan, with `${NAME}` replaced. Raises ValueError for unknown members and steps that do not exist."""
    plan = yaml.safe_load(Template(file.read_text(encoding="utf-8")).substitute(definitions))
    if set(plan) != MEMBERS:
        raise ValueError(f"{file}: a plan has {sorted(MEMBERS)}, not {sorted(plan)}")
    before: list[str] = []
    for name, step in plan["steps"].items():
        for used in [text[len(STEP) :] for text in _texts(step) if text.startswith(STEP)]:
            if used not in before:
                raise ValueError(f"{file}: step {name!r} builds on {used!r}, which is no earlier step")
        before.append(name)
    return plan


def _texts(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [text for member in value.values() for text in _texts(member)]
    if isinstance(value, list):
        return [text for member in value for text in _texts(member)]
    return [value] if isinstance(value, str) else []


def write_corpus(corpus: Mapping[str, Any], folder: Path, sentences: int | None) -> None:
    """Write the files of a corpus, {language}.{split}.conll and .txt, once; `join` puts so many sentences into one."""
    done = folder / "done.json"
    description = json.dumps([corpus, sentences])
    if done.exists():
        if done.read_text(encoding="utf-8") != description:
            raise ValueError(f"{folder} holds another corpus than the plan names: remove it, or take another folder")
        return
    splits = corpus.get("splits", ["train", "dev", "test"])
    loaded = load_corpora(corpus["source"], corpus["languages"], splits)
    folder.mkdir(parents=True, exist_ok=True)
    for language, parts in loaded.items():
        for split, rows in parts.items():
            first, last = corpus.get(split, [0, len(rows)])
            last = min(last, len(rows), first + (sentences or len(rows)))
            chosen = rows.select(range(first, last))
            keep = corpus.get("keep")
            tagged = [
                [(word, tag if keep is None or split_tag(tag)[1] in keep else "O") for word, tag in zip(words, tags)]
                for words, tags in zip(chosen["tokens"], chosen["tags"])
            ]
            joined = corpus.get("join", 1)
            texts = [list(chain(*tagged[i : i + joined])) for i in range(0, len(tagged), joined)]
            lines = ["\n".join(f"{word}\t{tag}" for word, tag in text) for text in texts]
            write_atomically(folder / f"{language}.{split}.conll", "\n\n".join(lines) + "\n")
            plain = "\n".join(" ".join(word for word, _ in text) for text in texts)
            write_atomically(folder / f"{language}.{split}.txt", plain + "\n")
    write_atomically(done, description)


def tagger_of(plan: Mapping[str, Any], name: str, folder: Path) -> Path | str:
    """A step's tagger: the folder that it leaves, or the name of a tagger that exists."""
    step = plan["steps"][name]
    if step["command"] == "evaluate":
        return str(step["checkpoint"])
    return folder / name / "student" if step["command"] == "distill" else folder / name


def steps_of(plan: Mapping[str, Any], seed: int) -> list[str]:
    """The steps of a seed: taggers that exist are scored under the first one alone."""
    return [name for name, step in plan["steps"].items() if seed == 1 or step["command"] != "evaluate"]


def scores_of(plan: Mapping[str, Any], name: str, folder: Path) -> dict[str, Path]:
    """Member of `scored` -> the file of a step's scores; those that have no language of the step are left out."""
    languages = plan["steps"][name].get("languages") if plan["steps"][name]["command"] == "evaluate" else None
    return {
        scored: folder / f"{name}.{scored}.json"
        for scored, fields in plan["scored"].items()
        if languages is None or set(languages) & set(fields["languages"])
    }


def run_step(plan: Mapping[str, Any], name: str, output: Path, seed: int, max_steps: int | None) -> None:
    """Train the tagger of a step and score it, unless that is done."""
    folder = output / f"seed-{seed}"
    missing = {scored: file for scored, file in scores_of(plan, name, folder).items() if not file.exists()}
    if not missing:
        return

    def placed(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: placed(member) for key, member in value.items()}
        if isinstance(value, list):
            return [placed(member) for member in value]
        if isinstance(value, str) and value.startswith(STEP):
            return str(tagger_of(plan, value[len(STEP) :], folder))
        if isinstance(value, str):
            for corpus in plan["corpora"]:
                value = value.replace(f"{{{corpus}}}", str(output / "corpora" / corpus))
        return value

    fields_of_step = {key: value for key, value in plan["steps"][name].items() if key not in ("command", "recipe")}
    print(f"seed {seed}: {name}", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    if plan["steps"][name]["command"] == "evaluate":
        languages = fields_of_step.pop("languages", None)
    else:
        common = dict(plan["fields"]) | ({"max_steps": max_steps} if max_steps else {})
        fields = placed(common | fields_of_step) | {"seed": seed, "output_dir": str(folder / name)}
        recipe = folder / f"{name}.yaml"
        write_atomically(recipe, yaml.safe_dump(fields, sort_keys=False))
        recipes = [plan["steps"][name]["recipe"]] if "recipe" in plan["steps"][name] else []
        _structkd(plan["steps"][name]["command"], *recipes, recipe)
        fields_of_step, languages = {"checkpoint": str(tagger_of(plan, name, folder))}, None
    for scored, file in missing.items():
        fields = placed(plan["scored"][scored] | fields_of_step) | {"output_file": str(file)}
        if languages is not None:
            fields["languages"] = [language for language in fields["languages"] if language in languages]
        if fields.get("previous") == fields["checkpoint"]:
            del fields["previous"]
        recipe = folder / f"{name}.{scored}.yaml"
        write_atomically(recipe, yaml.safe_dump(fields, sort_keys=False))
        _structkd("evaluate", recipe)


def _structkd(command: str, *arguments: Any) -> None:
    subprocess.run([sys.executable, "-m", "hf_structkd", command, *map(str, arguments)], check=True)


def scores_of_steps(plan: Mapping[str, Any], output: Path, seeds: list[int]) -> dict[str, dict[str, list[float]]]:
    """Step -> what is scored -> one value per seed, in percent, to two digits."""
    steps: dict[str, dict[str, list[float]]] = {}
    for name in plan["steps"]:
        values = steps.setdefault(name, {})
        for seed in [seed for seed in seeds if name in steps_of(plan, seed)]:
            for scored, file in scores_of(plan, name, output / f"seed-{seed}").items():
                row = Path(tagger_of(plan, name, output)).name
                scores = _scores(read_results(file), row, len(plan["scored"]) == 1)
                for what, value in scores.items():
                    what = what if len(plan["scored"]) == 1 else f"{scored}, {what}"
                    values.setdefault(what, []).append(round(value, 2))
    return steps


def _scores(results: Any, row: str, by_type: bool) -> dict[str, float]:
    """F1 per language, their mean, F1 per entity type over all languages' counts, and what is lost of the previous."""
    (split,) = results.scores
    reports = {language: report for language, report in results.scores[split][row].items() if language != "avg"}
    scores = {language: 100 * report["f1"] for language, report in reports.items()}
    if len(reports) > 1:
        scores["mean"] = statistics.fmean(scores.values())
    for name in sorted({name for report in reports.values() for name in report["by_type"]}) if by_type else []:
        parts = [report["by_type"][name] for report in reports.values() if name in report["by_type"]]
        correct = sum(part["correct"] for part in parts)
        total = sum(part["number"] + part["predicted"] for part in parts)
        scores[name] = 200 * correct / total if total else 0.0
    counted = results.flips.get(split, {}).get(row, {})
    lost = [report["entities"] for language, report in counted.items() if language != "all"]
    if right_before := sum(part["right_before"] for part in lost):
        scores["entities lost, %"] = 100 * sum(part["lost"] for part in lost) / right_before
    return scores


def table_of(scores: Mapping[str, Any]) -> str:
    """A row for each score, a column for each step."""
    steps = scores["steps"]
    rows = list(dict.fromkeys(what for values in steps.values() for what in values))
    cells = [[what, *(_cell(values.get(what, [])) for values in steps.values())] for what in rows]
    return markdown.table(["F1 x 100", *steps], cells, numbers=True)


def _cell(values: list[float]) -> str:
    if not values:
        return ""
    return f"{statistics.fmean(values):.2f}" + (f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else "")


if __name__ == "__main__":
    sys.exit(main())
