"""The command `structkd`, with a subcommand for each thing that the package does.

Heavy libraries are imported only when a subcommand runs, so that help and typing errors are answered at once.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import NamedTuple

from . import __version__
from .processes import STOPPED, run_main

PROGRAM = "structkd"
NUM_PROCESSES = "--num_processes"
# What `--version` tells of beside the package itself; the optional ones only where they are installed.
PACKAGES = ("torch", "transformers", "tokenizers", "datasets", "accelerate", "huggingface_hub")
OPTIONAL_PACKAGES = ("numba", "onnxruntime", "spacy", "stanza", "flair", "gliner", "gradio", "peft")


class Command(NamedTuple):
    """A subcommand of `structkd`.

    Args:
        summary: One line for the overview.
        usage: The arguments, as the usage line shows them.
        description: The text of its help.
        function: `module:function` in this package; it is called with the arguments and the program's name.
        reads_recipe: Whether its arguments are recipes and `--field value`.
        launches: Whether `--num_processes` starts it in several processes.
    """

    summary: str
    usage: str
    description: str
    function: str
    reads_recipe: bool = True
    launches: bool = False


RECIPE_USAGE = "[RECIPE.yaml ...] [--field value ...]"
COMMANDS = {
    "distill": Command(
        "train teachers, baseline and student, score them, write the card",
        RECIPE_USAGE + " [--num_processes N]",
        "Loads the corpora, trains the teachers that the recipe does not give, asks every teacher once, trains a\n"
        "baseline on gold tags alone and the student on gold tags and the teachers' answers, scores all of them,\n"
        "and leaves the student with its card, a table and results.json in output_dir. Started again, it goes on\n"
        "where it stopped.\n\n"
        "  structkd distill demo                        the recipe of the built-in corpus\n"
        "  structkd distill my.yaml --output_dir runs/1 your own, one field changed\n"
        "  structkd distill --list-recipes              the recipes that come with the package",
        "recipes.run:main",
        launches=True,
    ),
    "teacher": Command(
        "train one tagger on gold tags, to be a teacher",
        RECIPE_USAGE + " [--num_processes N]",
        "Trains one tagger for one language (or several together), with a CRF or a softmax head.\n\n"
        "  structkd teacher my.yaml --languages en --output_dir teachers/en",
        "recipes.train_teacher:main",
        launches=True,
    ),
    "annotate": Command(
        "ask the teachers of a recipe and store their answers",
        RECIPE_USAGE + " [--num_processes N] [--part I/N]",
        "Runs the steps of `structkd distill` up to the teachers' answers and stores these in annotation_dir (by\n"
        "default output_dir/annotations), where `structkd distill` and StructKDTrainer read them.\n\n"
        "  --part I/N   ask about part I of N (from 0) alone, and store it in annotation_parts: a folder or an\n"
        "               address (it has no default) such as s3://bucket/folder, to which the jobs of\n"
        "               an array write independently",
        "recipes.run:annotate_only",
        launches=True,
    ),
    "evaluate": Command(
        "score a checkpoint on corpora",
        RECIPE_USAGE,
        "Scores a token-classification checkpoint on any corpora, languages that it was not trained on included.\n\n"
        "  structkd evaluate --checkpoint runs/demo/student --corpus demo --splits test",
        "recipes.evaluate:main",
    ),
    "calibrate": Command(
        "measure how honest a checkpoint's entity scores are",
        RECIPE_USAGE,
        "Measures the expected calibration error of a checkpoint's entity scores, and draws reliability diagrams.\n\n"
        "  structkd calibrate --checkpoint runs/demo/student --corpus demo --output_dir runs/demo/calibration",
        "recipes.calibrate:main",
    ),
    "convert": Command(
        "write a corpus in another format, and count what is in it",
        "SOURCE TARGET [--to FORMAT] [--shares TRAIN DEV TEST] [--to_scheme BIO|BIOES] [--words NAME] ...",
        "Reads a corpus in any format that recipes read, and writes it: conll, csv, jsonl, doccano, prodigy,\n"
        "label-studio, gliner or spacy, by the ending of TARGET or --to. The options are those of recipes: scheme,\n"
        "tags_column, tokens_column, sentence_column, labels, words, spans, offset_unit, orphans, split,\n"
        "max_sentences.\n\n"
        "  --format NAME            of SOURCE, in place of the one that is recognised: conll, uner, germeval,\n"
        "                           ontonotes, conllu, csv, jsonl, parquet, spacy, doccano, prodigy, label-studio,\n"
        "                           spans or gliner\n"
        "  --shares TRAIN DEV TEST  divide it: TARGET then has {split} in it. Parts of 1 (0.8 0.1 0.1) or percent\n"
        "                           (80 10 10). A hash of its words decides where a sentence goes, so it stays\n"
        "                           there when the file grows\n"
        "  --language NAME          of the built-in corpus, demo\n\n"
        "  structkd convert export.jsonl train.conll --words icu --spans drop\n"
        "  structkd convert export.jsonl 'data/en/{split}.jsonl' --to doccano --shares 0.8 0.1 0.1",
        "recipes.convert:main",
        reads_recipe=False,
    ),
    "card": Command(
        "make a card from the results of one run, or of several seeds",
        "FOLDER [RUN ...]",
        "Writes the card of the student in FOLDER: from FOLDER/results.json and FOLDER/runs.jsonl, or from the\n"
        "results.json of the RUNs, that of this student first. Use it before the student is pushed: the card holds\n"
        "no path of this machine.",
        "cli:make_card",
        reads_recipe=False,
    ),
    "export": Command(
        "write a checkpoint as ONNX and, on request, as int8",
        "CHECKPOINT FOLDER [--int8 FOLDER] [--trim_vocabulary] [--text [LANGUAGE=]FILE ...]",
        "Writes encoder and Viterbi decoding as one ONNX graph into FOLDER, together with the tokenizer and the\n"
        "labels. Needs the extra `onnx`.\n\n"
        "  --int8 FOLDER         also a quantized copy, whose tags are compared with those of the model\n"
        "  --trim_vocabulary [N] keep only the pieces that occur N times (1) in the text; says what is then cut\n"
        "                        otherwise, in percent, and refuses to lose most of a language\n"
        "  --text [LANGUAGE=]FILE ...  sentences for both, in any format that recipes read without tags (a .txt file\n"
        "                        has one sentence per line); without it int8 is compared on the demo corpus\n\n"
        "  structkd export runs/1/student small --int8 small-int8 --trim_vocabulary --text en=en.txt es=es.txt",
        "cli:export_checkpoint",
        reads_recipe=False,
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line.

    Args:
        arguments: The arguments of `structkd`; by default `sys.argv[1:]`.

    Returns:
        The exit status: 0 for success, 1 for an error, 2 for wrong usage, 130 after Ctrl-C.
    """
    try:
        return _main(list(sys.argv[1:] if arguments is None else arguments))
    except BrokenPipeError:  # `structkd --help | head`: whoever reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that Python's own flush does not fail
        return 0


def _main(arguments: list[str]) -> int:
    if not arguments:
        print(overview(), file=sys.stderr)
        return 2
    name, *rest = arguments
    if name in ("-h", "--help", "help"):
        print(overview())
        return 0
    if name == "--version":
        print(version_text())
        return 0
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        advice = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(COMMANDS)}"
        print(f"{PROGRAM}: error: no command {name!r}; {advice}", file=sys.stderr)
        return 2
    if any(argument in ("-h", "--help") for argument in rest):
        print(help_text(name))
        return 0
    return run_command(name, rest)


def run_command(name: str, arguments: list[str]) -> int:
    """Run one subcommand with its arguments; returns the exit status."""
    command, program = COMMANDS[name], f"{PROGRAM} {name}"
    if "--list-recipes" in arguments and command.reads_recipe:
        from .recipes.shipped import listing

        print(listing())
        return 0
    if command.launches and any(argument.partition("=")[0] == NUM_PROCESSES for argument in arguments):
        return launch(name, arguments)
    if "--fields" in arguments and command.reads_recipe:
        arguments = ["--help"]  # of the recipe parser, which lists all fields
    module, _, function = command.function.partition(":")
    try:
        run = getattr(importlib.import_module(f".{module}", __package__), function)
        if command.reads_recipe:
            from .recipes.progress import quiet_libraries

            quiet_libraries()
        run_main(lambda: _with_extras(run, arguments, program), errors_for_users(), program)
    except KeyboardInterrupt:  # before the command's own work began
        print(f"\n{program}: stopped", file=sys.stderr)
        return STOPPED
    return 0


def _with_extras(run: Callable[[Sequence[str], str], object], arguments: list[str], program: str) -> None:
    """Run a command; a missing library that can be installed is an error for users, not a traceback."""
    from .recipes.parser import RecipeError

    try:
        run(arguments, program)
    except ImportError as error:
        if "pip install" not in str(error):
            raise
        raise RecipeError(str(error)) from error


def errors_for_users() -> tuple[type[Exception], ...]:
    """The exceptions whose messages tell the user what to do; all others keep their traceback."""
    from .data.source_text import CorpusError
    from .export.exported_files import ExportError
    from .hub.push import PushError
    from .processes import ProcessesError
    from .recipes.parser import RecipeError
    from .teachers.answer_store import AnnotationError
    from .training.checkpoints import CheckpointError
    from .training.loss_watch import NonFiniteLossError

    package_errors = (
        RecipeError,
        CorpusError,
        AnnotationError,
        CheckpointError,
        NonFiniteLossError,
        PushError,
        ExportError,
    )
    return (*package_errors, ProcessesError, OSError)


def launch(name: str, arguments: list[str]) -> int:
    """Start a subcommand in several processes through `accelerate launch`; returns the exit status."""
    positions = [i for i, argument in enumerate(arguments) if argument.partition("=")[0] == NUM_PROCESSES]
    if len(positions) > 1:  # each of the processes would start the others again
        print(f"{PROGRAM} {name}: error: {NUM_PROCESSES} is given twice", file=sys.stderr)
        return 2
    position = positions[0]
    _, equals, count = arguments[position].partition("=")
    rest = arguments[:position] + arguments[position + (1 if equals else 2) :]
    count = count if equals else "".join(arguments[position + 1 : position + 2])
    if not count.isdigit() or int(count) < 1:
        print(f"{PROGRAM} {name}: error: {NUM_PROCESSES} wants a number of at least 1, not {count!r}", file=sys.stderr)
        return 2
    if int(count) == 1:
        return run_command(name, rest)
    fixed = ["--multi_gpu", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    command = [sys.executable, "-m", "accelerate.commands.launch", *fixed, NUM_PROCESSES, count, "-m", "hf_structkd"]
    return subprocess.run([*command, name, *rest], check=False).returncode


def make_card(arguments: Sequence[str], program: str) -> None:
    """`structkd card`: write a card from the results of one run, or of several with different seeds."""
    from .evaluation.results import read_results
    from .hub.describe import describe_student, redescribe
    from .recipes.parser import RecipeError

    parser = argparse.ArgumentParser(prog=program, allow_abbrev=False)
    parser.add_argument("folder")
    parser.add_argument("runs", nargs="*")
    options = parser.parse_args(arguments)
    try:
        if options.runs:
            results, *others = [read_results(run) for run in options.runs]
            card = describe_student(options.folder, results, others)
        else:
            card = redescribe(options.folder)
    except ValueError as error:  # a damaged file, or runs that differ in more than their seeds
        raise RecipeError(str(error)) from error
    if card is None:
        raise OSError("the card could not be written; the log says why")
    print(card)


def export_checkpoint(arguments: Sequence[str], program: str) -> None:
    """`structkd export`: write a checkpoint as ONNX and, on request, with fewer pieces and as int8."""
    parser = argparse.ArgumentParser(prog=program, allow_abbrev=False)
    parser.add_argument("checkpoint")
    parser.add_argument("folder")
    parser.add_argument("--int8", metavar="FOLDER")
    parser.add_argument("--trim_vocabulary", metavar="N", type=int, nargs="?", const=1)
    parser.add_argument("--text", metavar="[LANGUAGE=]FILE", nargs="+")
    parser.add_argument("--revision")
    parser.add_argument("--trust_remote_code", action="store_true")
    options = parser.parse_args(arguments)
    if options.trim_vocabulary is not None and not options.text:
        parser.error(
            "--trim_vocabulary keeps the pieces that a text uses: give --text FILE, or --text en=FILE de=FILE"
        )
    if options.text and options.trim_vocabulary is None and not options.int8:
        parser.error("--text has no effect without --trim_vocabulary or --int8")

    from .data.demo_corpus import DEMO_LANGUAGES, load_demo_corpus
    from .export.onnx import OnnxTagger, compare_tags, export_onnx, quantize_onnx
    from .recipes.parser import RecipeError
    from .teachers.checkpoint import Teacher

    try:
        loaded = Teacher.from_pretrained(
            options.checkpoint, revision=options.revision, trust_remote_code=options.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise RecipeError(f"checkpoint {options.checkpoint!r}: {error}") from error
    model, tokenizer = loaded.model, loaded.tokenizer
    text = _read_text(options.text or [], getattr(model.config, "words", None))
    if options.trim_vocabulary is not None:
        from .training.smaller_student import TRIMMING_EXPLAINED, trim_vocabulary

        try:
            named = list(text) != [""]
            trimmed = trim_vocabulary(model, tokenizer, text if named else text[""], min_count=options.trim_vocabulary)
        except ValueError as error:
            raise RecipeError(f"{options.checkpoint}: {error}") from error
        print(f"{trimmed}\n{TRIMMING_EXPLAINED}")
        model, tokenizer = trimmed.model, trimmed.tokenizer
    print(export_onnx(model, tokenizer, options.folder))
    if options.int8:
        print(quantize_onnx(options.folder, options.int8))
        where = "the text" if text else "the demo corpus"
        text = text or {name: list(load_demo_corpus(name, "test")["tokens"]) for name in DEMO_LANGUAGES}
        sentences = [words for part in text.values() for words in part]
        print(f"int8 on {where}: {compare_tags(OnnxTagger(options.folder), OnnxTagger(options.int8), sentences)}")


def _read_text(sources: Sequence[str], words: str | None) -> dict[str, list[list[str]]]:
    """Language -> its sentences; the one key is empty if no languages are named."""
    from .data.source_text import CorpusError
    from .data.unlabelled import load_sentences

    text: dict[str, list[list[str]]] = {}
    for source in sources:
        language, separator, path = source.partition("=")
        name, path = (language, path) if separator else ("", source)
        text.setdefault(name, []).extend(load_sentences(path, language=name or "und", words=words)["tokens"])
    if "" in text and len(text) > 1:
        raise CorpusError("--text: name the language of every file (en=FILE), or of none")
    return text


def version_text() -> str:
    """The text of `structkd --version`: what a maintainer asks for when something is wrong. Imports none of it."""
    lines = [f"{PROGRAM} {__version__}", f"Python {platform.python_version()} on {platform.platform()}"]
    for package in (*PACKAGES, *OPTIONAL_PACKAGES):
        try:
            lines.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            if package in PACKAGES:
                lines.append(f"{package} is not installed")
    return "\n".join(lines)


def overview() -> str:
    """The text of `structkd --help`."""
    lines = [
        f"usage: {PROGRAM} COMMAND ...",
        "",
        "Several taggers for single languages in, one multilingual tagger out.",
        "",
    ]
    lines += [f"  {name:<10} {command.summary}" for name, command in COMMANDS.items()]
    lines += ["", f"`{PROGRAM} COMMAND --help` explains a command; `{PROGRAM} --version` prints the versions."]
    return "\n".join(lines)


def help_text(name: str) -> str:
    """The text of `structkd COMMAND --help`."""
    command = COMMANDS[name]
    text = f"usage: {PROGRAM} {name} {command.usage}\n\n{command.description}"
    if command.reads_recipe:
        text += (
            f"\n\n`{PROGRAM} {name} --fields` lists all fields of its recipes, with their types and defaults. Every "
            "field is\nan option too; options win over recipes, later recipes over earlier ones."
        )
    return text
