"""Languages that nobody tagged: the teachers of other languages answer about their text, the likest ones most."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from transformers import AutoModel

from ..files import json_sha256
from ..modeling.words import pad_subwords, tokenize_words
from ..teachers.panel import Panel
from .growth import SCRATCH
from .models import make_tokenizer
from .parser import RecipeError
from .progress import show
from .recipe import Recipe

SENTENCES = 200  # per language, from which its vector is made
_BATCH = 32
_LEAST = 0.01  # the weight of a teacher whose language is unlike, or the opposite

Texts = Mapping[str, Sequence[list[str]]]  # language -> sentences, lists of words


def borrow(panels: Mapping[str, Panel], languages: Sequence[str], texts: Texts, recipe: Recipe) -> dict[str, Panel]:
    """The teachers of languages that have none of their own: those of all other languages, by likeness.

    Args:
        panels: Language -> its own teachers.
        languages: All languages of the recipe.
        texts: Language -> sentences.
        recipe: The recipe.

    Returns:
        Language -> teachers, of all languages. A teacher that serves several languages is asked once, with the sum of
        its weights.

    Raises:
        RecipeError: If no language has teachers to lend, or there is nothing to borrow.
    """
    borrowers = [language for language in languages if language not in panels]
    if not borrowers:
        raise RecipeError("borrow_teachers: every language has a teacher of its own; leave the field out")
    lenders = [language for language in languages if language in panels]
    if not lenders:
        raise RecipeError("borrow_teachers: no language has teachers to lend; name them in `teachers`")
    alike = likeness(lenders, borrowers, texts, recipe)
    borrowed = {}
    for language in borrowers:
        weights: dict[str, float] = {}
        members = {}
        for lender in lenders:
            for teacher, weight in panels[lender].members:
                key = json_sha256(teacher.identity())
                members[key] = teacher
                weights[key] = weights.get(key, 0.0) + weight * alike[lender, language]
        listed = [(members[key], weight) for key, weight in weights.items()]
        borrowed[language] = Panel(listed, recipe.teachers.teacher_confidence)
        shares = ", ".join(f"{lender} {alike[lender, language]:.3f}" for lender in lenders)
        show(f"{language} has no teacher of its own; likeness of those that answer: {shares}")
    return {**panels, **borrowed}


def likeness(
    lenders: Sequence[str], borrowers: Sequence[str], texts: Texts, recipe: Recipe
) -> dict[tuple[str, str], float]:
    """(lender, borrower) -> the mean cosine between sentences of the two languages, at least 0.01.

    The vector of a sentence is the mean over its subwords of the last layer of the encoder that the student starts
    from. A model from scratch has no such vectors: all languages are then alike.
    """
    if recipe.model.model == SCRATCH:
        return {(lender, borrower): 1.0 for lender in lenders for borrower in borrowers}
    encode = _sentence_encoder(recipe)
    # The mean over all pairs of the cosine is the product of the mean unit vectors.
    vectors = {language: encode(list(texts[language])[:SENTENCES]) for language in (*lenders, *borrowers)}
    return {
        (lender, borrower): max(float(vectors[lender] @ vectors[borrower]), _LEAST)
        for lender in lenders
        for borrower in borrowers
    }


def _sentence_encoder(recipe: Recipe) -> Callable[[list[list[str]]], Tensor]:
    args = recipe.model
    common = {"revision": args.revision or "main", "trust_remote_code": args.trust_remote_code}
    encoder = AutoModel.from_pretrained(args.model, dtype=torch.float32, **common).eval().to(recipe.training.device)
    tokenizer = make_tokenizer(args, list)
    positions = getattr(encoder.config, "max_position_embeddings", 512)

    @torch.inference_mode()
    def encode(sentences: list[list[str]]) -> Tensor:
        """The mean over sentences of their vectors, each of length 1: (hidden,)."""
        units = []
        for start in range(0, len(sentences), _BATCH):
            ids = tokenize_words(sentences[start : start + _BATCH], tokenizer)["input_ids"]
            ids = [row[: positions - 2] for row in ids]  # the beginning of a very long sentence says enough
            encoded = {"input_ids": ids, "attention_mask": [[1] * len(row) for row in ids]}
            padded = pad_subwords(encoded, tokenizer.pad_token_id)
            mask = padded["attention_mask"].to(encoder.device)
            states = encoder(padded["input_ids"].to(encoder.device), attention_mask=mask).last_hidden_state
            means = (states * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
            units.append(torch.nn.functional.normalize(means, dim=-1).cpu())
        if not units:
            raise RecipeError("borrow_teachers: a language has no sentences to compare it with others")
        return torch.cat(units).mean(dim=0)

    return encode
