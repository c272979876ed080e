"""Dangers: a tagger between two that is neither of them, an old tagger that reads other words, or labels in another
order."""

import itertools

import pytest
import torch

from hf_structkd import CRFTokenClassificationPipeline, LinearChainCRF, extend_labels
from hf_structkd.modeling.congruence import congruent
from tests.conftest import label_fields
from tests.modeling.conftest import Family

NAMES = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]


def chain(seed, tags=3, words=3, forbidden=None):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    transitions = draw(tags, tags)
    if forbidden is not None:
        transitions[forbidden] = -torch.inf
    return LinearChainCRF(draw(2, words, tags), transitions, draw(tags), draw(tags), lengths=torch.tensor([words, 2]))


@pytest.mark.parametrize("congruence", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("forbidden", [None, (0, 1)])
def test_it_is_the_normalised_product_of_powers(congruence, forbidden):
    new, old = chain(0, forbidden=forbidden), chain(1, forbidden=forbidden)
    order = [2, 0, 1]
    mixed = congruent(new, old, congruence, order)
    for row, length in enumerate([3, 2]):
        paths = torch.tensor(list(itertools.product(range(3), repeat=length)))
        padded = torch.zeros(1, len(paths), 3, dtype=torch.long)  # what stands on padding is ignored
        padded[0, :, :length] = paths
        both = padded.expand(2, -1, -1)
        elsewhere = torch.tensor(order)[both]
        logs = [new.log_prob(both, allow_illegal=True)[row], old.log_prob(elsewhere, allow_illegal=True)[row]]
        weights = [1.0 - congruence, congruence]
        product = sum(weight * log for weight, log in zip(weights, logs) if weight > 0)
        expected = product.log_softmax(dim=0)
        torch.testing.assert_close(mixed.log_prob(both, allow_illegal=True)[row], expected, atol=1e-10, rtol=0)
        best, _ = mixed.argmax()
        assert best[row, :length].tolist() == paths[expected.argmax()].tolist()


def test_sentences_of_other_lengths_are_refused():
    other = LinearChainCRF(torch.zeros(2, 3, 3), torch.zeros(3, 3))
    with pytest.raises(ValueError, match="read sentences of"):
        congruent(chain(0), other, 0.5)


@pytest.fixture
def pipes(make_student, tokenizer, tokenizers_by_family):
    """A new tagger, and an old one of another family, with another tokenizer and labels in another order."""
    new = make_student(**label_fields(NAMES))
    old = Family("bert", tokenizers_by_family["bert"], NAMES[::-1]).student(seed=5)
    return (
        CRFTokenClassificationPipeline(model=new, tokenizer=tokenizer),
        CRFTokenClassificationPipeline(model=old, tokenizer=tokenizers_by_family["bert"]),
    )


def test_the_pipeline_goes_from_the_new_tagger_to_the_old_one(pipes, corpus):
    new, old = pipes
    sentences = [list(words) for words in corpus["tokens"][:20]] + [[]]
    options = {"is_split_into_words": True, "marginals": True}

    def entities(answers):
        return [[(e["entity_group"], e["start"], e["end"]) for e in answer["entities"]] for answer in answers]

    ends = entities(new(sentences, **options)), entities(old(sentences, **options))
    assert ends[0] != ends[1], "the two disagree, so that there is something to test"
    assert entities(new(sentences, previous=old, congruence=0.0, **options)) == ends[0]
    assert entities(new(sentences, previous=old, congruence=1.0, **options)) == ends[1]
    half = new(sentences, previous=old, batch_size=3, **options)
    assert entities(half) == entities(new(sentences, previous=old, congruence=0.5, batch_size=1, **options))
    assert set(half[0]["marginals"][0]["scores"]) == set(NAMES)
    kept = CRFTokenClassificationPipeline(model=new.model, tokenizer=new.tokenizer, previous=old, congruence=1.0)
    assert entities(kept(sentences, is_split_into_words=True)) == ends[1]
    assert entities(kept(sentences, is_split_into_words=True, congruence=0.0)) == ends[0]


def test_what_cannot_be_decoded_together_is_refused(pipes, make_student, tokenizer):
    new, old = pipes
    with pytest.raises(ValueError, match="give previous="):
        new("Anna", congruence=0.5)
    with pytest.raises(ValueError, match="0 to 1"):
        new("Anna", previous=old, congruence=1.5)
    with pytest.raises(TypeError, match="is the pipeline of the tagger that is replaced"):
        new("Anna", previous=old.model)
    larger = CRFTokenClassificationPipeline(model=extend_labels(new.model, ["X"]), tokenizer=tokenizer)
    with pytest.raises(ValueError, match=r"the previous tagger lacks B-X, I-X.*extend_labels"):
        larger("Anna", previous=old)
    grown = CRFTokenClassificationPipeline(model=extend_labels(old.model, ["X"]), tokenizer=old.tokenizer)
    assert larger("Anna", previous=grown)["entities"] is not None
