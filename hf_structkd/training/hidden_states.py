"""Hidden-state distillation: the student's word vectors come near those of its teachers.

The loss of a sentence is the sum over its words of |W h - t|² / d: h is the student's last hidden state of the word, t
the teacher's, of width d. Where the widths differ, the projection W is learnt with the student and thrown away; where
they are the same there is none. Words, not subwords, are compared, so that the tokenizers may differ. The teachers are
asked while the student learns, each about the sentences of its languages. Source: XtremeDistil (Mukherjee and
Awadallah 2020), where it is the first stage.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..data.columns import GLUED, LANGUAGE, TOKENS
from ..modeling.glued_words import sentences_of
from ..modeling.windows import encode_in_windows, encoder_window
from ..modeling.word_tensors import compact, mean_over_subwords
from ..modeling.words import pad_subwords, tokenize_words
from ..teachers.checkpoint import Teacher, evaluation_mode
from ..teachers.panel import Teachers, teachers_by_language
from .teacher_weights import checkpoint_teachers

logger = logging.getLogger(__name__)
TEACHER_BATCHES = "teacher_batches"  # key of a training batch: what each teacher reads of it


def check_hidden_layer(teachers: Teachers, layer: int | None) -> None:
    """Refuse teachers without vectors, and a layer that one of them lacks.

    Args:
        teachers: As for `annotate`.
        layer: The number of the layer, from 0; `None` for the last.

    Raises:
        TypeError: If a teacher is not a checkpoint ([`Teacher`]).
        ValueError: If a teacher has no such layer.
    """
    for teacher, _ in checkpoint_teachers(teachers, "word vectors to learn"):
        layers = teacher.model.config.num_hidden_layers
        if layer is not None and not 0 <= layer < layers:
            raise ValueError(f"hidden_layer: teacher {teacher.name} has the layers 0 to {layers - 1}, and no {layer}")


class HiddenStateTeachers(nn.Module):
    """Teachers' word vectors, and the projections to them.

    Its parameters are the projections alone; they are no part of the student, and are not saved with it.

    Args:
        teachers: As for `annotate`, all of them checkpoints.
        width: The student's hidden size.
        layer: The teachers' layer, from 0; `None` for the last.
        seed: Of the projections' first values, the same in all processes.

    Raises:
        TypeError, ValueError: As [`check_hidden_layer`].
    """

    def __init__(self, teachers: Teachers, width: int, layer: int | None = None, seed: int = 0) -> None:
        super().__init__()
        check_hidden_layer(teachers, layer)
        self.layer, self.seed = layer, seed
        self._teachers = [teacher for teacher, _ in checkpoint_teachers(teachers, "word vectors to learn")]
        self._weights: dict[str | None, dict[int, float]] = {}  # language -> teacher -> weight
        places = {id(teacher.model): place for place, teacher in enumerate(self._teachers)}
        for language, panel in teachers_by_language(teachers).items():
            shares = self._weights.setdefault(language, {})
            for teacher, weight in panel:
                assert isinstance(teacher, Teacher)  # `checkpoint_teachers` has refused all others
                place = places[id(teacher.model)]
                shares[place] = shares.get(place, 0.0) + weight
        self.projections = nn.ModuleList()
        for teacher in self._teachers:
            theirs = teacher.model.config.hidden_size
            self.projections.append(nn.Identity() if theirs == width else nn.Linear(width, theirs))
            if theirs != width:
                logger.warning(
                    "the word vectors of teacher %s have %s numbers, and the student's %s: a projection from these to "
                    "those is learnt and thrown away",
                    *(teacher.name, theirs, width),
                )
        self.reset()

    def reset(self) -> None:
        """Draw the projections' first values again."""
        generator = torch.Generator().manual_seed(self.seed)
        for projection in self.projections:
            if isinstance(projection, nn.Linear):
                values = nn.init.orthogonal_(torch.empty(projection.weight.shape), generator=generator)
                with torch.no_grad():
                    projection.weight.copy_(values)
                    projection.bias.zero_()

    def to_device(self, device: torch.device) -> None:
        """Move projections and teachers to a device."""
        self.to(device)
        for teacher in self._teachers:
            teacher.model.to(device)

    def batches(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Tensor]]:
        """What each teacher reads of a batch.

        Args:
            rows: Rows of a corpus, with the columns `tokens` and, if teachers are of single languages, `language`.

        Returns:
            For each teacher `rows` (its rows of the batch), `weights` (its weight for each), and `input_ids`,
            `attention_mask` and `word_mask` (rows, subwords) in its own subwords.
        """
        batches = []
        for place, teacher in enumerate(self._teachers):
            weights = [self._weight(row.get(LANGUAGE), place) for row in rows]
            asked = [row for row, weight in enumerate(weights) if weight]
            batch = {
                "rows": torch.tensor(asked, dtype=torch.long),
                "weights": torch.tensor([weights[row] for row in asked], dtype=torch.float32),
            }
            if asked:
                sentences = sentences_of({name: [rows[row].get(name) for row in asked] for name in (TOKENS, GLUED)})
                encoded = tokenize_words(sentences, teacher.tokenizer, teacher.glued_words)
                batch |= pad_subwords(encoded, teacher.tokenizer.pad_token_id)
            batches.append(batch)
        return batches

    def _weight(self, language: str | None, place: int) -> float:
        shares = self._weights.get(language, self._weights.get(None, {}))
        return shares.get(place, 0.0)

    def losses(self, vectors: Tensor, batches: Sequence[Mapping[str, Tensor]]) -> Tensor:
        """The loss of each sentence; 0 for one that no teacher reads.

        Args:
            vectors: (batch, words, hidden), the student's word vectors, compacted.
            batches: Of [`batches`], for the same sentences.

        Returns:
            (batch,), float32.
        """
        losses = vectors.new_zeros(len(vectors), dtype=torch.float32)
        for teacher, projection, batch in zip(self._teachers, self.projections, batches):
            # Every projection takes part in every batch, so that it has a gradient in every process.
            losses = losses + 0.0 * sum((p.sum() for p in projection.parameters()), start=losses.new_zeros(()))
            rows = batch["rows"]
            if not len(rows):
                continue
            words = batch["word_mask"].bool()
            targets = word_vectors(teacher, batch["input_ids"], batch["attention_mask"], words, self.layer)
            with torch.autocast(vectors.device.type, enabled=False):
                projected = projection(vectors[rows, : targets.shape[1]].float())
                distances = (projected - targets).square().mean(dim=-1)
            lengths = words.sum(dim=1, keepdim=True)
            inside = torch.arange(targets.shape[1], device=rows.device) < lengths
            losses = losses.index_add(0, rows, batch["weights"] * (distances * inside).sum(dim=1))
        return losses


def word_vectors(
    teacher: Teacher, input_ids: Tensor, attention_mask: Tensor, word_mask: Tensor, layer: int | None = None
) -> Tensor:
    """A teacher's word vectors: (batch, words, hidden), float32, compacted, without a gradient.

    A word's vector is that of its first subword, or the mean over its subwords where the teacher reads it so. Long
    sentences are read in windows, as the teacher tags them.

    Args:
        teacher: A checkpoint.
        input_ids, attention_mask, word_mask: (batch, subwords), the last boolean, in the teacher's subwords.
        layer: The number of the layer, from 0; `None` for the last.
    """
    model = teacher.model

    def encode(ids: Tensor, mask: Tensor) -> Tensor:
        output = model.base_model(ids, attention_mask=mask, output_hidden_states=layer is not None)
        return output.last_hidden_state if layer is None else output.hidden_states[layer + 1]

    window = encoder_window(model)
    with torch.no_grad(), evaluation_mode(model):
        if window is None or input_ids.shape[1] <= window:
            vectors = encode(input_ids, attention_mask)
        else:
            padding = teacher.tokenizer.pad_token_id or 0
            vectors = encode_in_windows(encode, input_ids, attention_mask, window=window, pad_token_id=padding)
    if getattr(model.config, "word_pooling", "first") == "mean":
        return mean_over_subwords(vectors.float(), attention_mask, word_mask)
    return compact(vectors.float(), word_mask)
