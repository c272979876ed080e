"""Training data before the first step: legal gold tags, teachers' answers, subwords, and the order they come in."""

from typing import Any

import torch
from datasets import Dataset, concatenate_datasets
from transformers import PreTrainedConfig
from transformers.trainer_utils import has_length

from ..data.columns import IGNORED, LANGUAGE, TAG_COLUMNS, TARGET_COLUMNS
from ..data.sampling import MixedSampler
from ..data.unlabelled import has_any_gold, has_gold
from ..data.words import check_corpus, encode_corpus, is_tokenised, relabelled, tag_column, tag_names
from ..distillation.objectives import Chosen, annotation_temperatures, needed_columns
from ..distillation.targets import how_to_make
from ..modeling.configuration import label_names
from ..modeling.tag_scheme import TagScheme
from ..teachers.annotate import Teachers, annotate
from .answer_checks import check_answers
from .arguments import DRAWN_ORDERS, StructKDTrainingArguments
from .checks import refuse_untokenised


def encoded(dataset: Any, tokenizer: Any, labels: list[str]) -> Any:
    """A corpus with subwords and labels counted as the model counts them.

    Args:
        dataset: a corpus, tokenised or not; what is no corpus (a stream, say) stays as it is.
        tokenizer: the student's.
        labels: the model's, in the order of their ids.

    Raises:
        ValueError: if there is no tokenizer, if the corpus is a stream of words, has neither words nor subwords, or
            labels that the model lacks.
    """
    refuse_untokenised(dataset)
    if not isinstance(dataset, Dataset):
        return dataset
    if is_tokenised(dataset):
        return relabelled(dataset, labels)
    check_corpus(dataset)
    if tokenizer is None:
        raise ValueError("the corpora are not tokenised: give StructKDTrainer the tokenizer as processing_class")
    # `datasets` keeps what `map` makes in files that nothing verifies: teachers' answers do not go through it.
    answers = [name for name in dataset.column_names if name in TARGET_COLUMNS]
    if not answers:
        return encode_corpus(dataset, tokenizer, labels)
    words = encode_corpus(dataset.remove_columns(answers), tokenizer, labels)
    kept = dataset.select_columns(answers).flatten_indices(keep_in_memory=True)  # in a file it would be a copy too
    return concatenate_datasets([words, kept], axis=1)


def scorable(dataset: Any, tokenizer: Any, labels: list[str], name: str | None = None) -> Any:
    """A corpus to be scored, with subwords.

    Args:
        dataset, tokenizer, labels: as for `encoded`.
        name: the corpus', for the message.

    Raises:
        ValueError: as `encoded`, and if there are no sentences, or none with gold tags, which would be a score of 0.
    """
    if isinstance(dataset, Dataset) and not len(dataset):
        raise ValueError(f"the corpus{f' {name!r}' if name else ''} cannot be evaluated: it has no sentences")
    dataset = encoded(dataset, tokenizer, labels)
    if isinstance(dataset, Dataset) and not has_any_gold(dataset):
        raise ValueError(
            f"the corpus{f' {name!r}' if name else ''} cannot be evaluated: no sentence has gold tags. The columns "
            f"are {', '.join(dataset.column_names)}; predict tags a corpus without scoring it"
        )
    return dataset


def annotated(
    dataset: Any,
    teachers: Teachers | None,
    objectives: Chosen,
    args: StructKDTrainingArguments,
    config: PreTrainedConfig,
) -> Any:
    """Training data with the answers that the objectives read; teachers are asked where they are missing.

    Raises:
        ValueError: if there are neither answers nor teachers, answers that do not fit (see `check_answers`), no gold
            tags where nothing else is learnt from, or gold tags that the model's constraints exclude.
    """
    if not objectives and isinstance(dataset, Dataset) and len(dataset) and not has_any_gold(dataset):
        raise ValueError(
            f"objective {args.objective!r} learns from gold tags alone, and no sentence has any. They stand in one of "
            f"the columns {', '.join(TAG_COLUMNS)}; the columns here are {', '.join(dataset.column_names)}"
        )
    _refuse_illegal_gold(dataset, config)
    needed = needed_columns(objectives)
    columns = getattr(dataset, "column_names", None) or []
    if missing := [name for name in needed if name not in columns]:
        if teachers is None:
            raise ValueError(
                f"objective {args.objective!r} needs the columns {missing}, and there are no teachers to ask: "
                + how_to_make(missing)
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
            progress=not args.disable_tqdm,
        )
    if needed and isinstance(dataset, Dataset):
        check_answers(dataset, objectives, label_names(config), args.top_k)
    return dataset


def train_sampler(data: Any, args: StructKDTrainingArguments) -> torch.utils.data.Sampler | None:
    """The order in which training data come; it depends on the seed and the epoch alone.

    So a training that is resumed goes on with the sentences that come next, and several processes share one order,
    whatever random numbers each has drawn. `None` where the order is the data's own or `Trainer`'s business: streams,
    and the strategies `sequential` and `batch_rebalance`.

    Raises:
        ValueError: if languages are to be balanced and the data do not tell them.
    """
    temperature, rate, strategy = (
        args.language_sampling_temperature,
        args.unlabelled_rate,
        args.train_sampling_strategy,
    )
    if strategy not in DRAWN_ORDERS or not has_length(data):
        return None
    rows: Any = data  # has_length would have it something that has no rows
    columns = getattr(rows, "column_names", None) or []
    if temperature is not None and LANGUAGE not in columns:
        raise ValueError(f"language_sampling_temperature needs a column {LANGUAGE!r} in the training data")
    lengths = None
    if args.train_sampling_strategy == "group_by_length":
        given = args.length_column_name in columns
        lengths = rows[args.length_column_name] if given else [len(ids) for ids in _column(rows, "input_ids")]
    return MixedSampler(
        rows[LANGUAGE] if LANGUAGE in columns else [""] * len(rows),
        temperature or 1.0,
        args.data_seed if args.data_seed is not None else args.seed,
        labelled=None if rate is None else has_gold(rows),
        unlabelled_rate=rate,
        lengths=lengths,
        batch_size=args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
    )


def _column(data: Any, name: str) -> Any:
    return data[name] if isinstance(data, Dataset) else (row[name] for row in data)


def _refuse_illegal_gold(dataset: Any, config: PreTrainedConfig) -> None:
    """With constraints in training an illegal gold sequence has probability 0, and its loss is infinite."""
    column = tag_column(dataset) if isinstance(dataset, Dataset) else None
    if getattr(config, "crf_constraints", "none") != "train" or column is None:
        return
    scheme, names = TagScheme(label_names(config), config.tag_scheme), tag_names(dataset)
    for row, tags in enumerate(dataset[column]):
        known = [names[tag] if names else tag for tag in tags or [] if tag not in (None, IGNORED)]
        if wrong := scheme.violations(known):
            raise ValueError(
                f"row {row} of the training data has tags that {scheme.name} does not allow, first at word "
                f"{wrong[0]}: {known}. With crf_constraints='train' they have probability 0: repair the corpus "
                "(orphans='repair'), or use crf_constraints='decode'"
            )
