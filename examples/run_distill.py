"""Corpora and teachers in, one multilingual tagger out.

    accelerate launch examples/run_distill.py RECIPE.yaml [--field value ...]

Loads the corpora, trains the teachers that are not given, asks every teacher once, trains a baseline on gold tags
alone and the student on gold tags and the teachers' answers, scores all of them on dev and test, and leaves the
student with its card, a table and results.json in output_dir. Started again, it goes on where it stopped.
"""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import Dataset, DatasetDict, concatenate_datasets

from hf_structkd import StructKDTrainingArguments, Teacher, annotate, embed_from_teachers
from hf_structkd.data.augmentation import augment
from hf_structkd.data.readers import CorpusError
from hf_structkd.data.unlabelled import mix_unlabelled
from hf_structkd.distillation.objectives import annotation_temperatures, needed_columns
from hf_structkd.evaluation.compare import compare
from hf_structkd.evaluation.results import RunResults, write_results
from hf_structkd.files import write_atomically
from hf_structkd.hub.describe import describe_student
from hf_structkd.hub.push import PushError
from hf_structkd.processes import run_main
from hf_structkd.recipes.data import labels_of, load_data, load_unlabelled
from hf_structkd.recipes.effects import refuse_idle_fields
from hf_structkd.recipes.fields import DataArguments, ModelArguments, TeacherArguments
from hf_structkd.recipes.folder import (
    RECORDED,
    SETTINGS_FILE,
    made_of,
    refuse_other_settings,
    replace_output,
    settings_of,
    train_into,
    train_tagger,
    training_record,
)
from hf_structkd.recipes.models import (
    check_head,
    check_model,
    encoder_of,
    make_tagger,
    make_tokenizer,
    model_arguments_of_teacher,
)
from hf_structkd.recipes.parser import RecipeError, parse_recipe
from hf_structkd.recipes.progress import announce, quiet_libraries
from hf_structkd.recipes.publishing import describe, push_student, student_repository
from hf_structkd.recipes.teachers import calibrate_teachers, given_teachers, trained_teacher
from hf_structkd.settings import dump_settings
from hf_structkd.teachers.annotate import AnnotationError
from hf_structkd.training.card import examples_of, gold_by_language, objective_name, sentences_by_language
from hf_structkd.training.checkpoints import CheckpointError
from hf_structkd.training.loss_watch import NonFiniteLossError

Corpora = dict[str, DatasetDict]


def first(dataset: Dataset, count: int | None) -> Dataset:
    return dataset if count is None else dataset.select(range(min(count, len(dataset))))


def unlabelled_part(
    whole: Corpora, data_args: DataArguments, teacher_args: TeacherArguments, args: StructKDTrainingArguments
) -> dict[str, Dataset]:
    """language -> the training sentences whose gold tags the student is not to see; empty if none are asked for."""
    given = [data_args.unlabelled_sentences, data_args.unlabelled_corpus, data_args.augmentation]
    if given == [None, None, None]:
        if args.unlabelled_rate is not None:
            raise RecipeError(
                "unlabelled_rate needs unlabelled_sentences, which says how many there are, unlabelled_corpus or "
                "augmentation"
            )
        return {}
    if not args.chosen_objectives():
        raise RecipeError("unlabelled sentences are learnt from teachers alone, and objective 'none' asks no teacher")
    if data_args.unlabelled_sentences is None and data_args.unlabelled_corpus is None:
        return {}
    if data_args.unlabelled_corpus is not None:
        return load_unlabelled(data_args, list(whole))
    parts = {}
    for language, splits in whole.items():
        seen = [data_args.max_train_sentences]
        if not teacher_args.sources(language):
            seen.append(teacher_args.teacher_max_train_sentences)
        if None in seen:
            raise RecipeError(
                "unlabelled_sentences are those after max_train_sentences and teacher_max_train_sentences: give both"
            )
        train = splits["train"]
        start = max(seen)
        if start >= len(train):
            raise RecipeError(f"{language} has {len(train):,} training sentences, none after the first {start:,}")
        parts[language] = train.select(range(start, min(start + data_args.unlabelled_sentences, len(train))))
    return parts


def show_examples(student: Teacher, corpora: Corpora, count: int = 1) -> None:
    """Tag a few test sentences and print them, entities in brackets."""
    announce("The student at work")
    for language, splits in corpora.items():
        sentences = list(splits["test"].select(range(min(count, len(splits["test"]))))["tokens"])
        for words, tags in zip(sentences, student.tag(sentences)):
            print(f"[{language}] " + " ".join(w if tag == "O" else f"{w}/{tag}" for w, tag in zip(words, tags)))


def main() -> None:
    data_args, model_args, teacher_args, args = parse_recipe(
        (DataArguments, ModelArguments, TeacherArguments, StructKDTrainingArguments),
        description=__doc__,
        exit_on_error=True,
        check=refuse_idle_fields("run_distill"),
    )
    if data_args.max_train_sentences == 0:
        raise RecipeError("max_train_sentences 0 leaves no gold tags to learn from: give at least 1, or leave it out")
    output = Path(args.output_dir)
    settings = settings_of(data_args, model_args, teacher_args, args)
    stored = json.loads((output / SETTINGS_FILE).read_text()) if (output / SETTINGS_FILE).exists() else None
    if stored is not None:
        # what the run was made of is compared once the corpora are read
        refuse_other_settings(output, {k: v for k, v in stored.items() if k not in RECORDED}, settings)
    elif output.exists() and any(output.iterdir()):
        raise RecipeError(f"{output} is not empty and was not written by this script; choose another output_dir")
    if teacher_args.teacher_embeddings is not None and (model_args.model_config or {}).get("freeze_encoder"):
        raise RecipeError("a frozen encoder (freeze_encoder) cannot get used to teacher_embeddings: leave one out")
    objectives = args.chosen_objectives()
    if args.push_to_hub and args.should_save:
        # hours before anything is pushed, a wrong token is told
        args.hub_model_id = student_repository(args)

    announce("Corpora")
    # Teachers may learn from more sentences than the student: its own are the first of theirs.
    whole = load_data(data_args, whole_train=True)
    corpora = {
        language: DatasetDict({**splits, "train": first(splits["train"], data_args.max_train_sentences)})
        for language, splits in whole.items()
    }
    labels = labels_of(data_args, whole)
    unlabelled = unlabelled_part(whole, data_args, teacher_args, args)
    for language, splits in corpora.items():
        if PartialState().is_main_process:
            shown = {**splits, **({"unlabelled": unlabelled[language]} if language in unlabelled else {})}
            print(f"{language}: " + ", ".join(f"{len(data):,} {split}" for split, data in shown.items()))
    check_model(model_args)
    check_head(model_args.head, args)
    if teacher_args.teacher_model:
        check_model(model_arguments_of_teacher(teacher_args, model_args))
    teachers = given_teachers(list(corpora), labels, model_args, teacher_args, args)
    parts = {split: {language: own[split] for language, own in corpora.items()} for split in ("train", "dev", "test")}
    learnt_from = {"train": parts["train"], "dev": parts["dev"]}
    everything = parts | ({"unlabelled": unlabelled} if unlabelled else {})
    settings |= made_of(everything, labels, encoder_of(model_args), model_args.revision)
    if stored is not None:
        refuse_other_settings(output, stored, settings)
    if args.should_save:
        output.mkdir(parents=True, exist_ok=True)
        write_atomically(output / SETTINGS_FILE, json.dumps(settings, indent=2))
    # Teachers and baseline see gold tags alone; they are the same with unlabelled sentences and without.
    gold_only = replace(data_args, unlabelled_sentences=None, unlabelled_corpus=None, augmentation=None)
    seconds = {"teachers": 0.0}
    for language, splits in whole.items():
        if language not in teachers:
            train = first(splits["train"], teacher_args.teacher_max_train_sentences)
            teachers[language], spent = trained_teacher(
                language, train, splits["dev"], labels, gold_only, model_args, teacher_args, args
            )
            seconds["teachers"] += spent
    if objectives:
        calibrate_teachers(teachers, corpora, labels, teacher_args)

    train = concatenate_datasets([splits["train"] for splits in corpora.values()])
    dev = {language: splits["dev"] for language, splits in corpora.items()}

    def student_settings(
        own_data: DataArguments, own_args: StructKDTrainingArguments, more: dict[str, dict[str, Dataset]]
    ) -> dict[str, Any]:
        made = made_of(learnt_from | more, labels, encoder_of(model_args), model_args.revision)
        return settings_of(own_data, model_args, own_args) | made

    def train_student(
        own_args: StructKDTrainingArguments, data: Dataset, title: str, share: float | None = None
    ) -> Any:
        model, tokenizer = make_tagger(model_args, labels, data_args.tag_scheme, lambda: list(train["tokens"]))
        if share is not None:
            embed_from_teachers(model, tokenizer, teachers, share)
        return train_tagger(model, tokenizer, data, dev, own_args, title=title)

    folders = {}
    if teacher_args.baseline:
        title = "Baseline, the student on gold tags alone"
        folders["baseline"] = Path(teacher_args.baseline_dir or output / "baseline")
        own_args = replace_output(args, folders["baseline"], objective="none", unlabelled_rate=None)
        settings_of_baseline = student_settings(gold_only, own_args, {})
        seconds["baseline"] = train_into(
            *(folders["baseline"], settings_of_baseline, own_args),
            lambda ready: train_student(ready, train, title),
            title,
        )

    name = objective_name(args.objective)
    annotated = mix_unlabelled(train, list(unlabelled.values())) if unlabelled else train
    if data_args.augmentation is not None:
        tokenizer = make_tokenizer(model_args, lambda: list(train["tokens"]))
        rewritten = augment(annotated, data_args.augmentation, tokenizer, args.seed)
        annotated = mix_unlabelled(annotated, rewritten)
        if PartialState().is_main_process:
            print(f"{len(rewritten):,} sentences rewritten for the teachers to answer")
    if objectives:
        announce(f"Teachers are asked about {len(annotated):,} sentences")
        started = time.perf_counter()
        annotated = annotate(
            annotated,
            teachers,
            label_names=labels,
            targets=needed_columns(objectives),
            top_k=args.top_k,
            temperature=annotation_temperatures(objectives),
            batch_size=args.annotation_batch_size,
            output_dir=args.annotation_dir or output / "annotations",
            progress=not args.disable_tqdm,
        )
        seconds["annotation"] = time.perf_counter() - started
    folders[name] = output / "student"
    own_args = replace_output(args, folders[name], push_to_hub=args.push_to_hub)
    settings_with_teachers = student_settings(
        data_args, own_args, {"unlabelled": unlabelled} if unlabelled else {}
    ) | {
        "teacher_embeddings": teacher_args.teacher_embeddings,
        "teachers": {language: panel.record() for language, panel in teachers.items()},
        "readings": {language: panel.settings() for language, panel in teachers.items() if any(panel.settings())}
        or None,
    }
    seconds[name] = train_into(
        folders[name],
        settings_with_teachers,
        own_args,
        lambda ready: train_student(ready, annotated, f"Student, {name}", teacher_args.teacher_embeddings),
        f"Student, {name}",
    )

    if not args.should_save:
        return
    announce("Scores")
    taggers: dict[str, Any] = {"teachers": teachers}
    taggers |= {row: Teacher.from_pretrained(str(folder), device=args.device) for row, folder in folders.items()}
    scores, tables = compare(taggers, corpora, labels, ("dev", "test"), scheme=data_args.tag_scheme)
    results = RunResults(
        settings=dump_settings(data_args, model_args, teacher_args, args),
        scores=scores,
        comparison={split: table.to_dict() for split, table in tables.items()},
        seed=args.seed,
        train_sentences=sentences_by_language(annotated),
        gold_sentences=gold_by_language(annotated),
        seconds=seconds,
        **training_record(folders[name]),
    )
    examples = examples_of(train, labels) if args.label_examples else {}
    results = describe(results, taggers[name], data_args, model_args, teacher_args, teachers, args, examples)
    results_file = write_results(results, output)
    write_atomically(output / "table.md", tables["test"].to_markdown() + "\n")
    print(tables["test"].to_text())
    show_examples(taggers[name], corpora)
    describe_student(folders[name], results)
    announce("Where everything is")
    print(f"student   {folders[name]}  (README.md is its card)")
    for language, teacher in teachers.items():
        print(f"teacher   {language}: {teacher.name}")
    print(f"scores    {results_file}\ntable     {output / 'table.md'}")
    if args.push_to_hub:
        print(f"pushed    {push_student(folders[name], args)}")


if __name__ == "__main__":
    quiet_libraries()
    errors = (RecipeError, CorpusError, AnnotationError, CheckpointError, NonFiniteLossError, PushError, OSError)
    run_main(main, errors)
