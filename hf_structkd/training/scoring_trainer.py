"""A trainer that scores the decoded tags of a model, on one corpus or several, in the order of the sentences.

Sentences are read by length, which saves padding; the predictions come in the order of the corpus.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from datasets import Dataset, IterableDataset
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler, SequentialSampler
from transformers import EvalPrediction
from transformers.trainer_utils import EvalLoopOutput, PredictionOutput, has_length

from ..data.columns import IGNORED, SUBWORDS, column_lengths
from ..data.streams import first_rows
from ..data.unlabelled import has_any_gold
from .checks import MACRO
from .preparation import encoded, scorable
from .pushing_trainer import PushingTrainer


class ScoringTrainer(PushingTrainer):
    """[`transformers.Trainer`] whose predictions are tags, and whose corpora may be words that are not tokenised yet.

    Attributes:
        label_names_in_order: The model's labels in the order of the ids.
        glued_words: As in the model's configuration.
    """

    label_names_in_order: list[str]
    glued_words: bool
    _unwrapped: tuple[nn.Module, Any] | None = None  # a model, and the same without its wrappers

    def unwrapped(self, model: nn.Module) -> Any:
        """The model without what Accelerate wraps it in. `unwrap_model` looks for DeepSpeed's files at every call."""
        if self._unwrapped is None or self._unwrapped[0] is not model:
            self._unwrapped = model, self.accelerator.unwrap_model(model)
        return self._unwrapped[1]

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """As in `Trainer`; also for a corpus of words. One process reads the longest sentences first."""
        if eval_dataset is not None and not isinstance(eval_dataset, str):
            # With persistent workers `Trainer` would reuse the loader of the first corpus for all others.
            getattr(self, "_eval_dataloaders", {}).pop("eval", None)
            eval_dataset = scorable(
                eval_dataset, self.processing_class, self.label_names_in_order, None, self.glued_words
            )
        with self._no_sentence_dropped():
            return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader:
        """As in `Trainer`; also for a corpus of words.

        Raises:
            TypeError: If several corpora are given.
        """
        if isinstance(test_dataset, Mapping):
            raise TypeError(f"predict takes one corpus, not a mapping of {', '.join(test_dataset)}: call it for each")
        test_dataset = encoded(test_dataset, self.processing_class, self.label_names_in_order, self.glued_words)
        with self._no_sentence_dropped():
            return super().get_test_dataloader(test_dataset)

    @contextmanager
    def _no_sentence_dropped(self) -> Iterator[None]:
        """`Trainer` obeys `dataloader_drop_last` in evaluations too: scores would lack the last sentences."""
        drop_last, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            yield
        finally:
            self.args.dataloader_drop_last = drop_last

    def _get_eval_sampler(self, eval_dataset: Any) -> torch.utils.data.Sampler | None:
        # `group_by_length` of `Trainer` is for training; predictions keep, or get back, the order of the corpus.
        if eval_dataset is None or not has_length(eval_dataset) or self.args.world_size > 1:
            return None
        if not isinstance(eval_dataset, Dataset) or SUBWORDS not in eval_dataset.column_names:
            return SequentialSampler(eval_dataset)
        seen_in_between = self.args.batch_eval_metrics or self.args.include_for_metrics
        if seen_in_between or not self.args.eval_do_concat_batches:
            return SequentialSampler(eval_dataset)
        return LongestFirst(column_lengths(eval_dataset, SUBWORDS))

    def evaluation_loop(self, dataloader: DataLoader, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """As in `Trainer`; sentences that were read by length are scored and returned in the order of the corpus."""
        sampler = getattr(dataloader.batch_sampler, "sampler", None)
        if not isinstance(sampler, LongestFirst):
            return super().evaluation_loop(dataloader, *args, **kwargs)
        compute_metrics = self.compute_metrics
        self.compute_metrics = sampler.scored_in_corpus_order(compute_metrics)
        try:
            output = super().evaluation_loop(dataloader, *args, **kwargs)
        finally:
            self.compute_metrics = compute_metrics
        predictions, labels = (sampler.corpus_order(part) for part in (output.predictions, output.label_ids))
        return output._replace(predictions=predictions, label_ids=labels)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Any, Tensor | None]:
        """As in `Trainer`, with the decoded tags as predictions: (batch, subwords), -100 off the words.

        `preprocess_logits_for_metrics`, if given, gets the logits; `ignore_keys` chooses among `logits` and `tags`.
        Labels count only on the first subword of each word, in the metrics as in the loss. Where a sentence that has
        labels was annotated for some types only, predictions of other types count as O: nobody knows whether they are
        right.
        """
        inputs = self._prepare_inputs(inputs)
        labels, open_tags = inputs.get("labels"), inputs.get("open_tags")
        with torch.no_grad(), self.compute_loss_context_manager():
            items = self._get_num_items_in_batch([inputs], self.args.device) if labels is not None else None
            loss, outputs = self.compute_loss(model, inputs, return_outputs=True, num_items_in_batch=items)
        loss = None if labels is None else loss.detach().mean()
        if prediction_loss_only:
            return loss, None, None
        if ignore_keys is None:
            ignore_keys = ["logits" if self.preprocess_logits_for_metrics is None else "tags"]
        if labels is not None and open_tags is not None and "tags" in outputs:
            tags = outputs["tags"]
            unknown = open_tags.gather(1, tags.clamp(min=0)) & (tags >= 0)
            outputs["tags"] = torch.where(unknown, self.label_names_in_order.index("O"), tags)
        predictions = tuple(value.detach() for name, value in outputs.items() if name not in ("loss", *ignore_keys))
        if labels is not None and inputs.get("word_mask") is not None:
            labels = torch.where(inputs["word_mask"].bool(), labels, IGNORED)
        return loss, predictions[0] if len(predictions) == 1 else predictions, labels

    def predict(
        self, test_dataset: Any, ignore_keys: list[str] | None = None, metric_key_prefix: str = "test"
    ) -> PredictionOutput:
        """As in `Trainer`; also for a corpus of words. A corpus without any gold tags is tagged and not scored.

        Of a stream the first sentences (`SENTENCES_CHECKED`) tell whether it has any.
        """
        compute_metrics = self.compute_metrics
        known = first_rows(test_dataset) if isinstance(test_dataset, IterableDataset) else test_dataset
        if isinstance(known, Dataset) and not has_any_gold(known):
            self.compute_metrics = None  # without gold tags the score would be 0
        try:
            return super().predict(test_dataset, ignore_keys, metric_key_prefix)
        finally:
            self.compute_metrics = compute_metrics

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """As in `Trainer`; also for corpora of words. Several corpora also have a macro average.

        `{prefix}_macro_{metric}` is the average over corpora of the headline metric, of the loss and of the score in
        `metric_for_best_model`.

        Raises:
            ValueError: If a corpus has no gold tags, or lacks the score that chooses the best model.
        """
        if isinstance(eval_dataset, Mapping):
            eval_dataset = dict(eval_dataset)
        metrics = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        data = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(data, Mapping):
            averages = self._macro_averages(metrics, list(data), metric_key_prefix)
            self.log(averages)
            metrics.update(averages)
            # Callbacks have received the scores of each language; EarlyStoppingCallback may need the average.
            self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, averages)
        return metrics

    def _macro_averages(self, metrics: Mapping[str, float], corpora: list[str], prefix: str) -> dict[str, float]:
        wanted = (self.args.metric_for_best_model or "").removeprefix("eval_")
        chosen = wanted.removeprefix(f"{MACRO}_") if wanted.startswith(f"{MACRO}_") else None
        averages = {}
        for name in dict.fromkeys((getattr(self.compute_metrics, "metric_name", None), "loss", chosen)):
            scores = {corpus: metrics.get(f"{prefix}_{corpus}_{name}") for corpus in corpora}
            values = [score for score in scores.values() if score is not None]
            if len(values) == len(corpora):
                averages[f"{prefix}_{MACRO}_{name}"] = sum(values) / len(values)
            elif name == chosen is not None and self.is_in_train:
                lacking = [corpus for corpus, score in scores.items() if score is None]
                raise ValueError(f"metric_for_best_model={wanted!r}: there is no {name} for {', '.join(lacking)}")
        return averages


class LongestFirst(Sampler[int]):
    """Sentences from the longest to the shortest.

    Args:
        lengths: (sentences,), in the order of the corpus.
    """

    def __init__(self, lengths: np.ndarray) -> None:
        self.order = np.argsort(-lengths, kind="stable")

    def __iter__(self) -> Iterator[int]:
        return iter(self.order.tolist())

    def __len__(self) -> int:
        return len(self.order)

    def corpus_order(self, predictions: Any) -> Any:
        """Rows that were predicted in this order, in the order of the corpus.

        Args:
            predictions: Arrays with a row per sentence, or tuples, lists and mappings of such arrays.
        """
        if isinstance(predictions, tuple | list):
            return type(predictions)(self.corpus_order(part) for part in predictions)
        if isinstance(predictions, dict):
            return {name: self.corpus_order(part) for name, part in predictions.items()}
        if predictions is None:
            return None
        restored = np.empty_like(predictions)
        restored[self.order] = predictions
        return restored

    def scored_in_corpus_order(
        self, compute_metrics: Callable[[EvalPrediction], dict] | None
    ) -> Callable[[EvalPrediction], dict] | None:
        """`compute_metrics` for predictions in this order: it gets them in the order of the corpus."""
        if compute_metrics is None:
            return None
        return lambda prediction: compute_metrics(
            EvalPrediction(self.corpus_order(prediction.predictions), self.corpus_order(prediction.label_ids))
        )
