"""A student that starts from its teachers' weights: some of their layers, or the mean of several teachers.

Teachers that were trained from one encoder lie near each other, so that the mean of their weights is a good start for
a student that must learn what each of them knows ("Privileged Students", 2024). A student with fewer layers takes some
of the teachers'.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..modeling.configuration import label_names
from ..teachers.checkpoint import Teacher
from ..teachers.panel import Teachers, teachers_by_language
from .smaller_student import LAYER_LISTS, SPREAD, evenly_spaced

logger = logging.getLogger(__name__)

Weighted = list[tuple[Teacher, float]]
# Settings of an encoder that decide what its weights compute, and that their shapes do not show.
USES_OF_WEIGHTS = ("num_attention_heads", "hidden_act", "hidden_activation", "position_embedding_type")


def checkpoint_teachers(teachers: Teachers, purpose: str) -> Weighted:
    """Each teacher once, with the sum of its weights over all languages.

    Args:
        teachers: As for `annotate`.
        purpose: What a teacher must have, for the message.

    Raises:
        TypeError: If a teacher is not a checkpoint ([`Teacher`]), and so has neither weights nor vectors.
    """
    weighted: dict[int, tuple[Teacher, float]] = {}
    for panel in teachers_by_language(teachers).values():
        for teacher, weight in panel:
            if not isinstance(teacher, Teacher):
                raise TypeError(f"teacher {teacher.name} is no checkpoint: it has no {purpose}")
            key = id(teacher.model)  # the copies of a teacher for several languages share it
            weighted[key] = (teacher, weight + weighted.get(key, (teacher, 0.0))[1])
    return list(weighted.values())


@torch.no_grad()
def start_from_teachers(
    student: Any, tokenizer: Any, teachers: Teachers, layers: str | Sequence[int] = SPREAD
) -> None:
    """Give a student the weights of its teachers, or their mean, in place.

    Embeddings are taken piece by piece, so that vocabularies may differ, a trimmed one included; a piece that no
    teacher has keeps the student's own. The head is taken too if all have the student's labels in the same order.

    Args:
        student: The model before its training.
        tokenizer: Its fast tokenizer.
        teachers: As for `annotate`, all of them checkpoints ([`Teacher`]) of the student's family and width. All
            languages have the same weight, and the teachers of one language their own.
        layers: The numbers of the teachers' layers, from 0, one for each layer of the student; or `"spread"` for
            evenly spaced ones, the first and the last among them.

    Raises:
        TypeError: If a teacher is not a checkpoint, and so has no weights.
        ValueError: If teachers have other shapes than the student, a layer does not exist or cannot take another's
            place, there is not one layer for each of the student's, or the student's encoder is frozen.
    """
    weighted = checkpoint_teachers(teachers, "weights to start from")
    total = sum(weight for _, weight in weighted)
    shares = [(teacher, weight / total) for teacher, weight in weighted]
    base = student.base_model
    if not student.get_input_embeddings().weight.requires_grad:
        raise ValueError("the student's encoder is frozen: it cannot start from its teachers' weights and adapt")
    embedding = next(name for name, p in base.named_parameters() if p is student.get_input_embeddings().weight)
    means: dict[str, Tensor] = {}
    for teacher, share in shares:
        source = _placed(teacher, student, layers)
        for name, tensor in base.state_dict().items():
            if name == embedding or not tensor.is_floating_point():
                continue
            if name not in source or source[name].shape != tensor.shape:
                given = f"shape {tuple(source[name].shape)}" if name in source else "nothing"
                raise ValueError(
                    f"teacher {teacher.name} has {given} in the place of the student's {name}, {tuple(tensor.shape)}: "
                    "the student starts from teachers of its own family and width. hidden_weight learns the vectors "
                    "of teachers of any width"
                )
            means[name] = means.get(name, torch.zeros_like(tensor)) + share * source[name].to(tensor)
    base.load_state_dict(means, strict=False)
    vectors = _embed_pieces(student, tokenizer, shares)
    head = _take_head(student, shares)
    logger.info(
        "the student starts from the weights of %s; %s of its pieces are unknown to them; its head is %s",
        ", ".join(teacher.name for teacher, _ in shares),
        vectors,
        "theirs" if head else "new",
    )


def chosen_layers(teacher_layers: int, student_layers: int, layers: str | Sequence[int], name: str) -> list[int]:
    """The teacher's layer for each of the student's layers.

    Raises:
        ValueError: If there are no such layers, or not as many as the student has.
    """
    if isinstance(layers, str):
        if layers != SPREAD:
            raise ValueError(f"layers must be {SPREAD!r} or layer numbers from 0, not {layers!r}")
        if student_layers > teacher_layers:
            raise ValueError(
                f"teacher {name} has {teacher_layers} layers, and the student {student_layers}: give it keep_layers "
                f"of at most {teacher_layers}, or name a layer for each of its own"
            )
        return evenly_spaced(teacher_layers, student_layers)
    chosen = list(layers)
    if missing := [layer for layer in chosen if not 0 <= layer < teacher_layers]:
        raise ValueError(f"teacher {name} has the layers 0 to {teacher_layers - 1}, and no layer {missing[0]}")
    if len(chosen) != student_layers:
        raise ValueError(
            f"{len(chosen)} layers are named ({chosen}) for a student of {student_layers}: name each once"
        )
    return chosen


def _placed(teacher: Teacher, student: Any, layers: str | Sequence[int]) -> dict[str, Tensor]:
    """The teacher's encoder with its chosen layers in the places that they will have in the student."""
    model = teacher.model
    modules = dict(model.base_model.named_modules())
    lists = [name for name in LAYER_LISTS if name in modules]
    if not lists or lists[0] not in dict(student.base_model.named_modules()):
        raise ValueError(f"teacher {teacher.name}, a {type(model).__name__}, is of another family than the student")
    chosen = chosen_layers(model.config.num_hidden_layers, student.config.num_hidden_layers, layers, teacher.name)
    _refuse_other_use(teacher, student, chosen)
    state, prefix = model.base_model.state_dict(), f"{lists[0]}."
    placed = {name: tensor for name, tensor in state.items() if not name.startswith(prefix)}
    for place, layer in enumerate(chosen):
        inner = f"{prefix}{layer}."
        placed |= {
            f"{prefix}{place}.{name.removeprefix(inner)}": tensor
            for name, tensor in state.items()
            if name.startswith(inner)
        }
    return placed


def _refuse_other_use(teacher: Teacher, student: Any, chosen: Sequence[int]) -> None:
    """Raise ValueError if the same weights compute something else in the student, though their shapes fit."""
    teacher_config: Any = teacher.model.config
    student_config: Any = student.config
    for name in USES_OF_WEIGHTS:
        values = [getattr(config, name, None) for config in (teacher_config, student_config)]
        if None not in values and values[0] != values[1]:  # a version of transformers may lack a setting
            raise ValueError(
                f"teacher {teacher.name} has {name} {values[0]}, and the student {values[1]}: its weights would "
                "compute something else there. Give the student the teacher's (model_config), or leave the start out"
            )
    teacher_kinds: list[str] = getattr(teacher_config, "layer_types", None) or []
    student_kinds: list[str] = getattr(student_config, "layer_types", None) or []
    for place, layer in enumerate(chosen if teacher_kinds and student_kinds else ()):
        if teacher_kinds[layer] != student_kinds[place]:
            fitting = [other for other, kind in enumerate(teacher_kinds) if kind == student_kinds[place]]
            raise ValueError(
                f"layer {layer} of teacher {teacher.name} ({teacher_kinds[layer]}) cannot take place {place} of the "
                f"student ({student_kinds[place]}): name one of the layers {fitting} there, or keep other layers "
                "of the student"
            )


def _embed_pieces(student: Any, tokenizer: Any, shares: Sequence[tuple[Teacher, float]]) -> int:
    """Take the teachers' embeddings of the pieces that they know; returns how many pieces none of them knows."""
    weight = student.get_input_embeddings().weight
    vocabulary = {piece: index for piece, index in tokenizer.get_vocab().items() if index < len(weight)}
    sums = torch.zeros_like(weight, dtype=torch.float32)
    known = torch.zeros(len(weight), device=weight.device)
    for teacher, share in shares:
        rows = teacher.model.get_input_embeddings().weight
        if rows.shape[1] != weight.shape[1]:
            raise ValueError(
                f"teacher {teacher.name} has embeddings of {rows.shape[1]} numbers, and the student of "
                f"{weight.shape[1]}: it cannot start from them"
            )
        theirs = teacher.tokenizer.get_vocab()
        pairs = [(new, theirs[piece]) for piece, new in vocabulary.items() if theirs.get(piece, len(rows)) < len(rows)]
        new, old = (torch.tensor(ids, device=weight.device) for ids in zip(*pairs)) if pairs else (None, None)
        if new is not None and old is not None:
            sums[new] += share * rows[old.to(rows.device)].to(sums)
            known[new] += share
    taken = known > 0
    weight[taken] = (sums[taken] / known[taken, None]).to(weight)
    return len(vocabulary) - int(taken.sum())


def _take_head(student: Any, shares: Sequence[tuple[Teacher, float]]) -> bool:
    """Take the mean of the heads if all have the student's labels and the same layers; returns whether they do."""
    heads = [_head(teacher.model) for teacher, _ in shares]
    student_head = _head(student)
    same = all(label_names(teacher.model.config) == label_names(student.config) for teacher, _ in shares)
    same = same and all(_shapes(head) == _shapes(student_head) for head in heads)
    if same:
        means = {
            name: sum(share * head[name].to(tensor) for head, (_, share) in zip(heads, shares))
            for name, tensor in student_head.items()
        }
        student.load_state_dict(means, strict=False)
    return same


def _head(model: Any) -> dict[str, Tensor]:
    prefix = f"{model.base_model_prefix}."
    return {
        name: tensor
        for name, tensor in model.state_dict().items()
        if not name.startswith(prefix) and tensor.is_floating_point()
    }


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}
