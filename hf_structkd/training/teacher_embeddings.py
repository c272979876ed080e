"""Subword embeddings for a student to start from: what its teachers make of every piece of its vocabulary.

A student sees fewer sentences than its teachers did, and learns nothing of a piece that they lack. Its teachers can be
asked about any piece, which costs minutes where sentences cost hours. Starting a smaller embedding from the principal
components of a larger one is common; here the larger one is what tells the tagger's decision.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..data.augmentation import piece_texts
from ..modeling.words import tokenize_words
from ..teachers.checkpoint import Teacher
from ..teachers.panel import Teachers, teachers_by_language
from ..teachers.soundness import evaluating

_ROWS = 8192  # pieces that are worked on at a time

View = tuple[Tensor, float]  # vectors (pieces, width) of every piece of a vocabulary, and their weight


def embed_from_teachers(
    student: Any, tokenizer: Any, teachers: Teachers, share: float = 0.5, *, batch_size: int = 512
) -> None:
    """Start a student's subword embeddings from its own and from its teachers' view of each piece.

    The teachers' view is the vector that each teacher's encoder ends with when it reads the piece alone. These and
    the student's own embeddings stand side by side; their principal components, as many as the student is wide, are
    turned (orthogonal Procrustes) to where its own embeddings are and scaled to their size, so that the layers above
    still understand them. Special tokens, and rows that the tokenizer has no piece for, stay as they are.

    Args:
        student: a model, changed in place, before its training.
        tokenizer: its fast tokenizer. A teacher that has all its pieces, under the same ids, reads the piece itself,
            any other one the piece's text as a word.
        teachers: as for `annotate`, checkpoints all ([`Teacher`]). Languages count alike, the teachers of one by
            weight.
        share: of the variance that is the teachers', in [0, 1); with 0 nothing changes.
        batch_size: pieces that a teacher reads at a time.

    Raises:
        TypeError: if a teacher is not a checkpoint, and so has no vectors.
        ValueError: if `share` is out of its range, the student's encoder is frozen (its layers could not get used to
            other embeddings) or has fewer embeddings than the tokenizer pieces.
    """
    _check(student, tokenizer, share)
    if share:
        mix_embeddings(student, tokenizer, teacher_views(tokenizer, teachers, batch_size=batch_size), share)


def teacher_views(tokenizer: Any, teachers: Teachers, *, batch_size: int = 512) -> list[View]:
    """What each teacher makes of every piece, once where it teaches several languages; see [`embed_from_teachers`]."""
    asked: dict[int, tuple[Teacher, float]] = {}
    for panel in teachers_by_language(teachers).values():
        for teacher, weight in panel:
            if not isinstance(teacher, Teacher):
                raise TypeError(f"teacher {teacher.name} is no checkpoint: it has no vectors to start embeddings from")
            key = id(teacher.model)  # copies of a teacher, one for each language, share it
            asked[key] = (teacher, weight + asked.get(key, (teacher, 0.0))[1])
    pieces = _pieces(tokenizer)
    return [(piece_vectors(teacher, tokenizer, pieces, batch_size), weight) for teacher, weight in asked.values()]


@torch.no_grad()
def mix_embeddings(student: Any, tokenizer: Any, views: Sequence[View], share: float) -> None:
    """Change a student's subword embeddings in place, as [`embed_from_teachers`] says."""
    _check(student, tokenizer, share)
    if share == 0.0:
        return
    embeddings = student.get_input_embeddings().weight
    pieces = _pieces(tokenizer).to(embeddings.device)
    own = embeddings[pieces].cpu().float()
    centre = own.mean(dim=0)
    own = own - centre
    total = sum(weight for _, weight in views)
    parts = [_of_variance(own, 1.0 - share)]
    parts += [_of_variance(vectors, share * weight / total) for vectors, weight in views]
    found = _principal_components(parts, own.shape[1])
    left, _, right = torch.linalg.svd(found.T @ own)
    turned = found @ (left @ right)
    embeddings[pieces] = (centre + turned * (own.norm() / turned.norm())).to(embeddings)


def _check(student: Any, tokenizer: Any, share: float) -> None:
    """Raise ValueError before teachers are asked, which takes long."""
    if not 0.0 <= share < 1.0:
        raise ValueError(f"the teachers' share of the embeddings must be in [0, 1), not {share}")
    if not student.get_input_embeddings().weight.requires_grad:
        raise ValueError("the student's encoder is frozen: its layers could not get used to other embeddings")
    there, wanted = len(student.get_input_embeddings().weight), int(_pieces(tokenizer).max()) + 1
    if wanted > there:
        raise ValueError(
            f"the tokenizer has {wanted} pieces and the student {there} embeddings: call "
            "student.resize_token_embeddings(len(tokenizer)) first, or give the student's own tokenizer"
        )


def _pieces(tokenizer: Any) -> Tensor:
    return torch.tensor(sorted(set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids)))


@torch.no_grad()
def piece_vectors(teacher: Teacher, tokenizer: Any, pieces: Tensor, batch_size: int = 512) -> Tensor:
    """What a teacher's encoder makes of pieces that stand alone.

    Args:
        teacher: a checkpoint.
        tokenizer: whose pieces they are.
        pieces: (pieces,), their ids.
        batch_size: pieces that are read at a time.

    Returns:
        The last layer's vectors at each piece's first subword, (pieces, the teacher's width); float32, on the CPU.
        Pieces without text, a lone mark of a space say, have the others' mean.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    if _has_pieces(teacher.tokenizer, tokenizer, pieces):
        if int(pieces.max()) >= len(teacher.model.get_input_embeddings().weight):
            raise ValueError(f"teacher {teacher.name} has fewer embeddings than its tokenizer has pieces")
        first, last = _around(teacher.tokenizer)
        rows = [[*first, piece, *last] for piece in pieces.tolist()]
        place, readable = len(first), torch.ones(len(pieces), dtype=torch.bool)
    else:
        texts = piece_texts(tokenizer, pieces.tolist())
        rows = tokenize_words([[text or "a"] for text in texts], teacher.tokenizer)["input_ids"]
        place, readable = len(_around(teacher.tokenizer)[0]), torch.tensor([bool(text) for text in texts])
    model = teacher.model
    found = []
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        width = max(map(len, batch))
        padding = teacher.tokenizer.pad_token_id or 0
        ids = torch.tensor([row + [padding] * (width - len(row)) for row in batch], device=model.device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in batch], device=model.device)
        with evaluating(model):
            output = model.base_model(ids, attention_mask=mask).last_hidden_state[:, place]
        found.append(output.float().cpu())
    vectors = torch.cat(found)
    vectors[~readable] = vectors[readable].mean(dim=0)
    return vectors


def _has_pieces(teachers: Any, students: Any, pieces: Tensor) -> bool:
    """Whether a teacher's tokenizer has a student's pieces under the same ids."""
    ids = pieces.tolist()
    return teachers.convert_ids_to_tokens([i for i in ids if i < len(teachers)]) == students.convert_ids_to_tokens(ids)


def _around(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The special tokens before and after a text."""
    whole, bare = tokenizer("a")["input_ids"], tokenizer("a", add_special_tokens=False)["input_ids"]
    start = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
    return whole[:start], whole[start + len(bare) :]


def _of_variance(vectors: Tensor, variance: float) -> Tensor:
    """Vectors around 0 whose squared lengths have this mean; half precision, since there may be many and wide ones."""
    centred = vectors - vectors.mean(dim=0)
    return (centred * (variance**0.5 / centred.square().sum(dim=1).mean().sqrt())).half()


def _principal_components(views: list[Tensor], count: int) -> Tensor:
    """The first principal components of vectors that stand side by side, (vectors, count), float32."""
    size = sum(view.shape[1] for view in views)
    covariance = torch.zeros(size, size)
    blocks = range(0, len(views[0]), _ROWS)
    for start in blocks:
        block = torch.cat([view[start : start + _ROWS].float() for view in views], dim=1)
        covariance += block.T @ block
    directions = torch.linalg.eigh(covariance.double())[1][:, -count:].float()
    return torch.cat(
        [torch.cat([view[start : start + _ROWS].float() for view in views], dim=1) @ directions for start in blocks]
    )
