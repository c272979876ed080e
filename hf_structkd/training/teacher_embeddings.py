"""Initial subword embeddings of a student, made from its teachers' vectors of every piece of its vocabulary.

A student sees fewer sentences than its teachers did, and learns nothing about pieces that do not occur in them. The
teachers can encode every piece, which takes minutes, while sentences take hours. Starting a smaller embedding from the
principal components of a larger one is common; here the larger one is the encoder's output, which decides the tags.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..data.augmentation import piece_texts
from ..modeling.words import pad_subwords, tokenize_words
from ..teachers.checkpoint import Teacher, evaluation_mode
from ..teachers.panel import Teachers
from .teacher_weights import checkpoint_teachers

_ROWS = 8192  # pieces per block of computation

View = tuple[Tensor, float]  # vectors (pieces, width) of every piece of a vocabulary, and their weight


def embed_from_teachers(
    student: Any, tokenizer: Any, teachers: Teachers, share: float = 0.5, *, batch_size: int = 512
) -> None:
    """Initialise a student's subword embeddings from its own and from its teachers' vectors of each piece.

    A teacher's vector is the last hidden state of its encoder for the piece alone. The teachers' vectors and the
    student's embeddings are concatenated. Their principal components, as many as the embeddings are wide, are
    rotated towards the student's own embeddings (orthogonal Procrustes) and scaled to their norm, so that the layers
    above can use them. Special tokens, and rows without a piece of the tokenizer, stay unchanged.

    Args:
        student: The model before its training, changed in place.
        tokenizer: Its fast tokenizer. A teacher that has all its pieces under the same ids reads the piece itself; any
            other teacher reads the text of the piece as a word.
        teachers: As for `annotate`, all of them checkpoints ([`Teacher`]). All languages have the same weight, and the
            teachers of one language their own.
        share: The teachers' share of the variance, in [0, 1); with 0 nothing changes.
        batch_size: Pieces per forward pass of a teacher.

    Raises:
        TypeError: If a teacher is not a checkpoint, and so has no vectors.
        ValueError: If `share` is out of its range, the student's encoder is frozen (its layers could not adapt to
            other embeddings), or the student has fewer embeddings than the tokenizer has pieces.
    """
    _check(student, tokenizer, share)
    if share:
        mix_embeddings(student, tokenizer, teacher_views(tokenizer, teachers, batch_size=batch_size), share)


def teacher_views(tokenizer: Any, teachers: Teachers, *, batch_size: int = 512) -> list[View]:
    """The vectors of every piece by each teacher, with the teacher's weight; see [`embed_from_teachers`].

    A teacher of several languages is asked once, with the sum of its weights.
    """
    weighted = checkpoint_teachers(teachers, "vectors to start embeddings from")
    pieces = _pieces(tokenizer)
    return [(piece_vectors(teacher, tokenizer, pieces, batch_size), weight) for teacher, weight in weighted]


@torch.no_grad()
def mix_embeddings(student: Any, tokenizer: Any, views: Sequence[View], share: float) -> None:
    """Change a student's subword embeddings in place, as [`embed_from_teachers`] describes."""
    _check(student, tokenizer, share)
    if share == 0.0:
        return
    embeddings = student.get_input_embeddings().weight
    pieces = _pieces(tokenizer).to(embeddings.device)
    student_vectors = embeddings[pieces].cpu().float()
    centre = student_vectors.mean(dim=0)
    student_vectors = student_vectors - centre
    total = sum(weight for _, weight in views)
    parts = [_scaled_to_variance(student_vectors, 1.0 - share)]
    parts += [_scaled_to_variance(vectors, share * weight / total) for vectors, weight in views]
    components = _principal_components(parts, student_vectors.shape[1])
    left, _, right = torch.linalg.svd(components.T @ student_vectors)
    rotated = components @ (left @ right)
    embeddings[pieces] = (centre + rotated * (student_vectors.norm() / rotated.norm())).to(embeddings)


def _check(student: Any, tokenizer: Any, share: float) -> None:
    """Raise ValueError for wrong arguments, before the teachers are asked, which takes long."""
    if not 0.0 <= share < 1.0:
        raise ValueError(f"the teachers' share of the embeddings must be in [0, 1), not {share}")
    if not student.get_input_embeddings().weight.requires_grad:
        raise ValueError("the student's encoder is frozen: its layers could not get used to other embeddings")
    rows, pieces = len(student.get_input_embeddings().weight), int(_pieces(tokenizer).max()) + 1
    if pieces > rows:
        raise ValueError(
            f"the tokenizer has {pieces} pieces and the student {rows} embeddings: call "
            "student.resize_token_embeddings(len(tokenizer)) first, or give the student's own tokenizer"
        )


def _pieces(tokenizer: Any) -> Tensor:
    return torch.tensor(sorted(set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids)))


@torch.no_grad()
def piece_vectors(teacher: Teacher, tokenizer: Any, pieces: Tensor, batch_size: int = 512) -> Tensor:
    """Encode pieces, each alone, with a teacher.

    Args:
        teacher: A checkpoint.
        tokenizer: The tokenizer that the pieces belong to.
        pieces: (pieces,), their ids.
        batch_size: Pieces per forward pass.

    Returns:
        (pieces, width of the teacher), the last hidden state at the first subword of each piece; float32, on the CPU.
        A piece without text, for instance the mark of a space, has the mean of the others.

    Raises:
        ValueError: If `batch_size` is below 1, or the teacher has fewer embeddings than its tokenizer has pieces.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    if _has_pieces(teacher.tokenizer, tokenizer, pieces):
        if int(pieces.max()) >= len(teacher.model.get_input_embeddings().weight):
            raise ValueError(f"teacher {teacher.name} has fewer embeddings than its tokenizer has pieces")
        first, last = _special_tokens_around(teacher.tokenizer)
        rows = [[*first, piece, *last] for piece in pieces.tolist()]
        place, readable = len(first), torch.ones(len(pieces), dtype=torch.bool)
    else:
        texts = piece_texts(tokenizer, pieces.tolist())
        rows = tokenize_words([[text or "a"] for text in texts], teacher.tokenizer)["input_ids"]
        place, readable = (
            len(_special_tokens_around(teacher.tokenizer)[0]),
            torch.tensor([bool(text) for text in texts]),
        )
    model = teacher.model
    outputs = []
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        encoded = {"input_ids": batch, "attention_mask": [[1] * len(row) for row in batch]}
        padded = pad_subwords(encoded, teacher.tokenizer.pad_token_id)
        with evaluation_mode(model):
            output = model.base_model(
                padded["input_ids"].to(model.device), attention_mask=padded["attention_mask"].to(model.device)
            ).last_hidden_state[:, place]
        outputs.append(output.float().cpu())
    vectors = torch.cat(outputs)
    vectors[~readable] = vectors[readable].mean(dim=0)
    return vectors


def _has_pieces(teachers: Any, students: Any, pieces: Tensor) -> bool:
    """Whether a teacher's tokenizer has a student's pieces under the same ids."""
    ids = pieces.tolist()
    return teachers.convert_ids_to_tokens([i for i in ids if i < len(teachers)]) == students.convert_ids_to_tokens(ids)


def _special_tokens_around(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The ids of the special tokens before and after a text."""
    whole, bare = tokenizer("a")["input_ids"], tokenizer("a", add_special_tokens=False)["input_ids"]
    start = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
    return whole[:start], whole[start + len(bare) :]


def _scaled_to_variance(vectors: Tensor, variance: float) -> Tensor:
    """Centred vectors, scaled to this mean squared norm; in half precision, since there may be many and wide ones."""
    centred = vectors - vectors.mean(dim=0)
    return (centred * (variance**0.5 / centred.square().sum(dim=1).mean().sqrt())).half()


def _principal_components(views: list[Tensor], count: int) -> Tensor:
    """The first principal components of concatenated vectors: (vectors, count), float32."""
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
