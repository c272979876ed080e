"""Prepares training data: checks gold tags, adds teachers' answers and subwords, and orders the sentences."""

from collections.abc import Iterator
from typing import Any

import torch
from datasets import Dataset, IterableDataset, concatenate_datasets
from transformers import PreTrainedConfig
from transformers.trainer_utils import has_length

from ..data.columns import IGNORED, LANGUAGE, SUBWORDS, TAG_COLUMNS, column_lengths, column_values, target_of
from ..data.sampling import MixedSampler
from ..data.streams import encode_stream, first_rows
from ..data.unlabelled import has_any_gold, has_gold
from ..data.words import check_corpus, encode_corpus, gold_tags, is_tokenised, reorder_labels, tag_column
from ..distillation.targets import missing_columns_advice
from ..distillation.weighted_objectives import WeightedObjectives, annotation_temperatures
from ..modeling.configuration import label_names
from ..modeling.tag_scheme import TagScheme
from ..teachers.annotate import Teachers, annotate
from .arguments import DRAWN_ORDERS, StructKDTrainingArguments
from .checks import check_answers, refuse_untokenised

_NO_TOKENIZER = "the corpora are not tokenised: give StructKDTrainer the tokenizer as processing_class"


def encoded(dataset: Any, tokenizer: Any, labels: list[str], glued_words: bool = False) -> Any:
    """Tokenise a corpus and number its labels as the model does.

    Args:
        dataset: A corpus or a stream, tokenised or not; a stream is tokenised while it is read. Other data are
            returned unchanged.
        tokenizer: The student's tokenizer.
        labels: The model's labels in the order of the ids.
        glued_words: As in the model's configuration.

    Raises:
        ValueError: If there is no tokenizer, or if the corpus has neither words nor subwords, or has labels that the
            model lacks; of a stream, if its first sentences have.
    """
    refuse_untokenised(dataset)
    if isinstance(dataset, IterableDataset):
        if tokenizer is None and not is_tokenised(first_rows(dataset)):
            raise ValueError(_NO_TOKENIZER)
        return encode_stream(dataset, tokenizer, labels, glued_words)
    if not isinstance(dataset, Dataset):
        return dataset
    if is_tokenised(dataset):
        return reorder_labels(dataset, labels)
    check_corpus(dataset)
    if tokenizer is None:
        raise ValueError(_NO_TOKENIZER)
    # `map` of `datasets` stores its output in files that nothing verifies, so the teachers' answers bypass it.
    answers = [name for name in dataset.column_names if target_of(name)]
    if not answers:
        return encode_corpus(dataset, tokenizer, labels, glued_words=glued_words)
    words = encode_corpus(dataset.remove_columns(answers), tokenizer, labels, glued_words=glued_words)
    answer_columns = dataset.select_columns(answers).flatten_indices(keep_in_memory=True)  # a file would be a copy too
    return concatenate_datasets([words, answer_columns], axis=1)


def scorable(
    dataset: Any, tokenizer: Any, labels: list[str], name: str | None = None, glued_words: bool = False
) -> Any:
    """Tokenise a corpus that is to be scored.

    Args:
        dataset, tokenizer, labels, glued_words: As for [`encoded`].
        name: The name of the corpus in messages.

    Raises:
        ValueError: As [`encoded`]; also if there are no sentences, or none with gold tags: the score would be 0.
    """
    if isinstance(dataset, Dataset) and not len(dataset):
        raise ValueError(f"the corpus{f' {name!r}' if name else ''} cannot be evaluated: it has no sentences")
    dataset = encoded(dataset, tokenizer, labels, glued_words)
    known = first_rows(dataset) if isinstance(dataset, IterableDataset) else dataset
    if isinstance(known, Dataset) and not has_any_gold(known):
        which = (
            "no sentence has" if known is dataset else f"none of the first {len(known):,} sentences of the stream has"
        )
        raise ValueError(
            f"the corpus{f' {name!r}' if name else ''} cannot be evaluated: {which} gold tags. The columns "
            f"are {', '.join(known.column_names)}; predict tags a corpus without scoring it"
        )
    return dataset


def annotated(
    dataset: Any,
    teachers: Teachers | None,
    objectives: WeightedObjectives,
    args: StructKDTrainingArguments,
    config: PreTrainedConfig,
) -> Any:
    """Training data with the teachers' answers that the objectives read; missing answers are asked for.

    Args:
        dataset: The training data. A stream that lacks answers is annotated into `annotation_dir`, see `annotate`.
        teachers: As for `annotate`; `None` if the data hold the answers.
        objectives: The objectives with their weights.
        args: The training arguments.
        config: The student's configuration.

    Raises:
        ValueError: If there are neither answers nor teachers, if answers do not fit (see [`check_answers`]), if there
            are no gold tags and no objective, or if the model's constraints exclude the gold tags.
    """
    known = first_rows(dataset) if isinstance(dataset, IterableDataset) else dataset
    if not objectives and isinstance(known, Dataset) and len(known) and not has_any_gold(known):
        which = "no sentence" if known is dataset else f"none of the first {len(known):,} sentences of the stream"
        raise ValueError(
            f"objective {args.objective!r} learns from gold tags alone, and {which} has any. They stand in one of "
            f"the columns {', '.join(TAG_COLUMNS)}; the columns here are {', '.join(known.column_names)}"
        )
    _refuse_illegal_gold(known, config)
    needed = args.needed_columns
    columns = getattr(known, "column_names", None) or []
    if missing := [name for name in needed if name not in columns]:
        if teachers is None:
            raise ValueError(
                f"objective {args.objective!r} needs the columns {missing}, and there are no teachers to ask: "
                + missing_columns_advice(missing)
            )
        dataset = annotate(
            dataset,
            teachers,
            label_names=label_names(config),
            targets=needed,
            top_k=args.top_k,
            temperature=annotation_temperatures(objectives),
            batch_size=args.annotation_batch_size,
            output_dir=args.annotation_dir,
            context=args.annotation_context,
            progress=not args.disable_tqdm,
        )
        known = dataset  # a stream has become a file
    if isinstance(dataset, IterableDataset) and args.max_steps <= 0:
        raise ValueError(
            "the training data are a stream, whose length nobody knows: say after how many updates training ends "
            "(max_steps), and pass stream.shuffle(buffer_size=...) if its sentences are in an order"
        )
    if needed and isinstance(known, Dataset):
        check_answers(known, objectives, label_names(config), args.top_k)
    return dataset


def train_sampler(data: Any, args: StructKDTrainingArguments) -> torch.utils.data.Sampler | None:
    """The order of the training data, which depends on the seed and the epoch alone.

    A resumed training therefore continues with the sentences that come next, and several processes share one order.

    Args:
        data: The training data.
        args: The training arguments.

    Returns:
        The sampler; `None` if the data or `Trainer` decide the order: for streams, and for the strategies `sequential`
        and `batch_rebalance`.

    Raises:
        ValueError: If languages are to be balanced and there is no column `language`.
    """
    temperature, rate, strategy = (
        args.language_sampling_temperature,
        args.unlabelled_rate,
        args.train_sampling_strategy,
    )
    if strategy not in DRAWN_ORDERS or not has_length(data):
        return None
    rows: Any = data  # for the type checker, has_length hides that it has rows
    columns = getattr(rows, "column_names", None) or []
    if temperature is not None and LANGUAGE not in columns:
        raise ValueError(f"language_sampling_temperature needs a column {LANGUAGE!r} in the training data")
    lengths = None
    if args.train_sampling_strategy == "group_by_length":
        has_column = args.length_column_name in columns
        lengths = list(_column(rows, args.length_column_name)) if has_column else _lengths(rows)
    return MixedSampler(
        list(_column(rows, LANGUAGE)) if LANGUAGE in columns else [""] * len(rows),
        temperature or 1.0,
        args.data_seed if args.data_seed is not None else args.seed,
        labelled=None if rate is None else has_gold(rows),
        unlabelled_rate=rate,
        lengths=lengths,
        batch_size=args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
    )


def _column(data: Any, name: str) -> Iterator[Any]:
    return column_values(data, name) if isinstance(data, Dataset) else (row[name] for row in data)


def _lengths(data: Any) -> list[int]:
    if isinstance(data, Dataset):
        return column_lengths(data, SUBWORDS).tolist()
    return [len(row[SUBWORDS]) for row in data]


def _refuse_illegal_gold(dataset: Any, config: PreTrainedConfig) -> None:
    """Refuse illegal gold tags if training uses constraints: their probability is 0, and the loss infinite."""
    column = tag_column(dataset) if isinstance(dataset, Dataset) else None
    if getattr(config, "crf_constraints", "none") != "train" or column is None:
        return
    scheme = TagScheme(label_names(config), config.tag_scheme)
    for row, tags in enumerate(gold_tags(dataset)):
        known = [tag for tag in tags or [] if tag not in (None, IGNORED)]
        if wrong := scheme.violations(known):
            raise ValueError(
                f"row {row} of the training data has tags that {scheme.name} does not allow, first at word "
                f"{wrong[0]}: {known}. With crf_constraints='train' they have probability 0: repair the corpus "
                "(orphans='repair'), or use crf_constraints='decode'"
            )
