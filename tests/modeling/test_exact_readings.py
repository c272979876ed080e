"""Dangers: a reading of the CRF that autocast rounds, that outlives its labels, or that costs their square."""

import itertools
import time
import warnings

import pytest
import torch
from transformers import AutoModel, AutoModelForTokenClassification, pipeline

from hf_structkd import CRFTokenClassificationPipeline, LinearChainCRF, TagScheme, extend_labels
from hf_structkd.modeling.congruence import congruent
from hf_structkd.modeling.entities import entity_log_probs
from hf_structkd.modeling.tag_scheme import Span
from hf_structkd.modeling.word_tensors import cap_below_chosen, merge_tags, spread
from hf_structkd.teachers.label_map import Reading
from hf_structkd.teachers.readings import ReadChain
from tests.conftest import label_fields
from tests.modeling.conftest import FAMILIES, Family

close = torch.testing.assert_close
BF16 = {"device_type": "cpu", "dtype": torch.bfloat16}


def label_sets() -> dict[str, list[str]]:
    types = ["PLACE", "BOAT", "STAR"]
    return {
        "BIO": list(TagScheme.from_entity_types(types).tags),
        "BIOES": list(TagScheme.from_entity_types(types, "BIOES").tags),
        "plain": ["NOUN", "VERB", "ADJ", "DET"],
    }


def random_batch(model, rows=12, width=20):
    """Inputs with words of one to three subwords."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(5, model.config.vocab_size, (rows, width), generator=generator)
    word_mask = torch.rand(rows, width, generator=generator) < 0.6
    word_mask[:, 1], word_mask[:, 0], word_mask[:, -1] = True, False, False
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "word_mask": word_mask}


# ---- autocast ----


def test_merged_tags_keep_their_order_and_their_digits_under_autocast():
    log_probs = torch.tensor([[0.4012, 0.3989, 0.1999]]).log()
    with torch.autocast(**BF16):
        merged = merge_tags(log_probs, torch.arange(3))
        close(merged, log_probs)
        assert cap_below_chosen(merged, torch.tensor([1])).argmax(dim=-1).tolist() == [1]
        together = merge_tags(log_probs, torch.tensor([0, 2, 2]))
    close(together, torch.tensor([[0.4012, 0.0, 0.5988]]).log().clamp(min=-1e4))


def test_merged_tags_far_below_the_smallest_float32_have_their_logarithm():
    merged = merge_tags(torch.tensor([0.0, -300.0, -301.0]), torch.tensor([0, 1, 1]))
    close(merged, torch.tensor([0.0, -299.68674, -1e4]))


@pytest.mark.parametrize("scheme", ["BIO", "BIOES", "plain"])
@pytest.mark.parametrize("told_by", ["labels", "word_mask", "pieces"])
def test_a_model_reads_its_own_emissions_the_same_with_and_without_autocast(make_student, scheme, told_by):
    """Under autocast the encoder rounds; what is read off its emissions must not, by as much as a tie."""
    model = make_student(**label_fields(label_sets()[scheme]))
    batch = random_batch(model)
    words, attention = batch["word_mask"], batch["attention_mask"]
    if told_by == "labels":
        tags = torch.randint(model.config.num_labels, words.shape)
        batch["labels"] = tags.masked_fill(~words, -100)
    elif told_by == "pieces":
        del batch["word_mask"]
        words = model.find_words(batch["input_ids"], attention, None, None)
    as_bio = told_by == "pieces"
    with torch.autocast(**BF16), torch.no_grad():
        output = model(**batch)
        logits, tags = model.decode(output, attention, words, as_bio=as_bio)
        inside = model.distribution(output, "decode").marginals
    again, same_tags = model.decode(output, attention, words, as_bio=as_bio)
    close(inside, model.distribution(output, "decode").marginals, rtol=0, atol=0)
    close(logits, again, rtol=0, atol=0)
    close(output.logits, again, rtol=0, atol=0)
    assert torch.equal(output.tags, same_tags)
    reading = torch.tensor(model.tag_scheme.bio_reading) if as_bio else torch.arange(model.config.num_labels)
    assert torch.equal(output.logits.argmax(dim=-1)[words], reading[output.tags[words]])
    if "labels" in batch:
        close(output.loss, model.gold_nll(output, batch["labels"], words)[0].sum() / words.sum())
    # Emissions themselves are not rounded to half precision: as good as no two tags of a word tie.
    within = torch.arange(output.emissions.shape[1]) < output.lengths[:, None]
    assert not torch.equal(output.emissions[within], output.emissions[within].bfloat16().float())
    with torch.no_grad():
        exact = model(**batch)
    close(output.emissions, exact.emissions, rtol=0.1, atol=0.25)


def test_a_chain_read_as_other_tags_is_the_same_under_autocast():
    generator = torch.Generator().manual_seed(1)
    crf = LinearChainCRF(torch.randn(3, 7, 5, generator=generator), torch.randn(5, 5, generator=generator))
    chain = ReadChain(crf, Reading(4, tuple(range(5)), (0, 1, 1, 2, 0)))
    marginals, edges = chain.marginals, chain.edge_counts
    with torch.autocast(**BF16):
        close(chain.marginals, marginals, rtol=0, atol=1e-7)
        close(chain.edge_counts, edges, rtol=0, atol=1e-6)
    close(marginals.sum(-1), torch.ones(3, 7))
    close(edges.sum((1, 2)), torch.full((3,), 6.0))
    close(marginals[..., 1], crf.marginals[..., 1:3].sum(-1))
    close(edges[:, 1, 0], crf.edge_counts[:, 1:3][..., [0, 4]].sum((1, 2)))


def test_a_flatter_chain_of_half_precision_scores_is_not_rounded_again():
    scores = [part.bfloat16() for part in (torch.randn(2, 9, 4) * 20, torch.randn(4, 4) * 3)]
    close(
        LinearChainCRF(*scores).with_temperature(3.0).log_partition,
        LinearChainCRF(*(part.float() for part in scores)).with_temperature(3.0).log_partition,
    )


# ---- labels that change, labels that are many ----


def test_constraints_follow_the_labels_and_the_scheme(make_student):
    labels = label_sets()["BIO"]
    model = make_student(**label_fields(labels))
    cpu = torch.device("cpu")
    before = model.constraints("decode", cpu)["allowed"]
    assert model.constraints("decode", cpu)["allowed"] is before
    turned = [labels[0], *reversed(labels[1:])]
    model.config.id2label = dict(enumerate(turned))
    assert model.tag_scheme.tags == tuple(turned)
    close(model.constraints("decode", cpu)["allowed"], TagScheme(turned).allowed)
    model.config.tag_scheme = "plain"
    assert bool(model.constraints("decode", cpu)["allowed"].all())
    output = model(**random_batch(model))
    close(model.distribution(output, "decode").marginals, model.distribution(output, "train").marginals)


def test_the_scheme_is_made_once(make_student, monkeypatch):
    model, made = make_student(), []
    monkeypatch.setattr(
        TagScheme, "__init__", lambda self, *args, old=TagScheme.__init__: (made.append(1), old(self, *args))[1]
    )
    for _ in range(3):
        model(**random_batch(model))
    assert sum(made) <= 1


@pytest.mark.parametrize("scheme", ["BIO", "BIOES", "plain", "stray"])
def test_the_matrix_of_allowed_steps_is_that_of_the_rule(scheme):
    labels = {**label_sets(), "stray": ["O", "B-A", "I-A", "I-C", "S-A", "E-A", "B-D", "S-E"]}[scheme]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = TagScheme(labels)

    def may_follow(one: str, two: str) -> bool:
        """By the names alone; "O" is the edge of a sentence, and stands for the tags that can form no entity."""
        one, two = ("O" if tag in ("I-C", "B-D") else tag for tag in (one, two))
        if scheme == "plain":
            return True
        if two[0] in "IE":
            return one[0] in "BI" and one[1:] == two[1:]
        return scheme == "BIO" or one[0] not in "BI"

    assert made.allowed.tolist() == [[may_follow(one, two) for two in labels] for one in labels]
    assert made.allowed_start.tolist() == [may_follow("O", tag) for tag in labels]
    assert made.allowed_end.tolist() == [may_follow(tag, "O") for tag in labels]


def test_thousands_of_labels_take_no_time():
    labels = list(TagScheme.from_entity_types([f"kind-{i}" for i in range(1250)], "BIOES").tags)[:5001]
    start = time.process_time()
    scheme = TagScheme(labels)
    assert int(scheme.allowed.sum()) > 0
    assert len(scheme.allowed_start) == len(scheme.allowed_end) == 5001
    with pytest.raises(ValueError, match="more than once: \\['S-kind-7'\\]"):
        TagScheme([*labels, "S-kind-7"])
    scheme.entity_path((0, 3, "kind-9"))
    log_probs = torch.randn(2, 40, 5001).log_softmax(-1)
    merged = merge_tags(log_probs, torch.tensor(scheme.bio_reading))
    assert time.process_time() - start < 3  # it was 40 seconds; a busy machine may take its time
    close(merged.exp().sum(-1), torch.ones(2, 40))


# ---- words ----


def test_partial_labels_are_refused_without_a_word_mask_too(make_student, tokenizer):
    model = make_student()
    encoded = tokenizer(
        [["Maria", "saw", "Boston"], ["she", "left"]], is_split_into_words=True, padding=True, return_tensors="pt"
    )
    starts = [
        [i for i, w in enumerate(encoded.word_ids(row)) if w is not None and w != encoded.word_ids(row)[i - 1]]
        for row in range(2)
    ]
    labels = torch.full_like(encoded["input_ids"], -100)
    for row, places in enumerate(starts):
        labels[row, places] = 0
    given = {name: encoded[name] for name in ("input_ids", "attention_mask")}
    assert model(**given, labels=labels).lengths.tolist() == [3, 2]
    labels[1] = -100  # an unlabelled row is none of a part
    assert torch.isfinite(model(**given, labels=labels).loss)
    labels[0, starts[0][1]] = -100
    with pytest.raises(ValueError, match=r"row 0 .* labels on 2 of its 3 words.*pass word_mask if"):
        model(**given, labels=labels)
    with pytest.raises(ValueError, match=r"row 0 .* labels on 2 of its 3 words"):
        model(**given, labels=labels, word_mask=_mask(starts, labels))


def _mask(starts, labels):
    mask = torch.zeros_like(labels)
    for row, places in enumerate(starts):
        mask[row, places] = 1
    return mask


def test_special_tokens_carry_no_scores():
    values = torch.arange(1.0, 7.0).view(1, 3, 2)
    attention = torch.tensor([[1, 1, 1, 1, 1, 1, 0]])
    words = torch.tensor([[0, 1, 0, 1, 1, 0, 0]]).bool()
    found = spread(values, attention, words)
    close(found[0, :, 0], torch.tensor([0.0, 1.0, 1.0, 3.0, 5.0, 0.0, 0.0]))


def test_the_closing_special_token_of_every_row_is_off_the_words(make_student, tokenizer):
    model = make_student()
    batch = tokenizer(["Maria saw Boston", "she left"], padding=True, return_tensors="pt")
    for mode in (True, False):
        logits = model.train(mode)(
            **{name: batch[name] for name in ("input_ids", "attention_mask")}, labels=None
        ).logits
        for row, count in enumerate(batch["attention_mask"].sum(1).tolist()):
            assert bool((logits[row, count - 1 :] == 0).all())
            assert bool((logits[row, 0] == 0).all())
            assert bool((logits[row, 1 : count - 1] != 0).any(-1).all())


def test_embeddings_as_inputs_get_advice_that_fits(make_student):
    model = make_student()
    vectors = torch.randn(1, 6, model.config.hidden_size)
    with pytest.raises(ValueError, match=r"inputs_embeds .*word_mask") as error:
        model(inputs_embeds=vectors)
    assert "set_word_starts" not in str(error.value)
    assert model(inputs_embeds=vectors, word_mask=torch.tensor([[0, 1, 1, 0, 1, 0]])).lengths.tolist() == [3]


# ---- transformers ----


@pytest.mark.parametrize("lstm", [None, 4])
def test_modules_kept_in_float32_exist(family, lstm):
    model = family.student(lstm_hidden_size=lstm)
    names = [name for name, _ in model.named_parameters()]
    assert model._keep_in_fp32_modules_strict == ({"crf", "lstm"} if lstm else {"crf"})
    for kept in model._keep_in_fp32_modules_strict:
        assert any(kept in name.split(".") for name in names)


@pytest.mark.parametrize("lstm", [None, 4])
def test_the_crf_stays_in_float32_on_loading(family, lstm, tmp_path):
    family.student(lstm_hidden_size=lstm).save_pretrained(tmp_path)
    model = AutoModelForTokenClassification.from_pretrained(tmp_path, dtype=torch.bfloat16)
    kept = {name for name, value in model.named_parameters() if value.dtype == torch.float32}
    assert kept == {name for name, _ in model.named_parameters() if name.startswith(("crf.", "lstm."))}


def test_the_encoder_of_a_checkpoint_is_read_alone(family, tmp_path):
    model = family.student()
    model.save_pretrained(tmp_path)
    family.tokenizer.save_pretrained(tmp_path)
    encoder, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    assert type(encoder) is family.cls.encoder_class
    ids = torch.randint(5, 60, (2, 9))
    mask = torch.ones_like(ids)
    vectors = encoder.eval()(ids, attention_mask=mask).last_hidden_state
    close(vectors, model.base_model(ids, attention_mask=mask).last_hidden_state)
    features = pipeline("feature-extraction", model=str(tmp_path), tokenizer=str(tmp_path))(
        "Maria left", return_tensors=True
    )
    assert features.shape[-1] == 16
    # And it starts a tagger, as any plain encoder does.
    encoder.save_pretrained(tmp_path / "encoder")
    again = family.cls.from_pretrained(tmp_path / "encoder")
    close(again.eval().base_model(ids, attention_mask=mask).last_hidden_state, vectors)


@pytest.mark.slow
def test_the_encoder_is_read_by_the_checkpoints_own_code(tokenizers_by_family, labels, tmp_path):
    """Without the package: the checkpoint's notes name the encoder's class too."""
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    for name in FAMILIES:
        model = Family(name, tokenizers_by_family[name], labels).student()
        folder = tmp_path / name
        model.save_pretrained(folder)
        again = AutoModelForTokenClassification.from_pretrained(folder)
        again.save_pretrained(folder)
        noted = again.config.to_dict()["auto_map"]["AutoModel"]
        cls = get_class_from_dynamic_module(noted, str(folder))
        assert cls.__name__ == model.encoder_class.__name__
        assert cls is not model.encoder_class
        encoder = cls.from_pretrained(folder).eval()
        ids = torch.randint(5, 60, (1, 9))
        close(encoder(ids).last_hidden_state, model.base_model(ids).last_hidden_state)


# Danger: an entity's score that is not the probability that this entity stands there.


SCHEMES = {
    "BIO": TagScheme.from_entity_types(["A", "B"]),
    "BIOES": TagScheme.from_entity_types(["A", "B"], "BIOES"),
    "plain": TagScheme(["NOUN", "VERB", "O"]),
}


def chain(scheme: TagScheme, constrained: bool, scale: float = 1.0, lengths=(6, 1, 3)) -> LinearChainCRF:
    torch.manual_seed(0)
    C = len(scheme.tags)
    masks = {name: getattr(scheme, name) for name in ("allowed", "allowed_start", "allowed_end")}
    scores = (scale * torch.randn(len(lengths), max(lengths), C), torch.randn(C, C), torch.randn(C), torch.randn(C))
    return LinearChainCRF(*scores, lengths=torch.tensor(lengths), **(masks if constrained else {}))


def every_entity(scheme: TagScheme, lengths) -> list[tuple[int, Span]]:
    longest = 1 if scheme.name == "plain" else max(lengths)
    return [
        (row, Span(start, end, entity_type))
        for row, length in enumerate(lengths)
        for start in range(length)
        for end in range(start + 1, min(start + longest, length) + 1)
        for entity_type in scheme.entity_types
    ]


@pytest.mark.parametrize("constrained", [False, True])
@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("scale", [1.0, 400.0])  # the second leaves probability space for log space
def test_scores_are_sums_over_all_tag_sequences_that_hold_the_entity(name, constrained, scale):
    scheme = SCHEMES[name]
    crf = chain(scheme, constrained, scale)
    entities = every_entity(scheme, crf.lengths.tolist())
    scores = entity_log_probs(crf, scheme, entities).tolist()
    for (row, span), score in zip(entities, scores):
        tags, prolonging = scheme.entity_path(span)
        allowed = torch.ones(3, 6, len(scheme.tags), dtype=torch.bool)
        for i, tag in enumerate(tags):
            allowed[row, span.start + i] = torch.arange(len(scheme.tags)) == tag
        if span.end < crf.lengths[row]:
            allowed[row, span.end, list(prolonging)] = False
        expected = float(crf.log_prob_of_set(allowed)[row])
        assert score == pytest.approx(expected, abs=2e-6, rel=1e-6), (row, span)


def test_every_word_is_in_one_entity_or_in_none():
    # Under the constraints the entities that cover a word and O are all that can be.
    scheme = SCHEMES["BIOES"]
    crf = chain(scheme, constrained=True)
    entities = every_entity(scheme, crf.lengths.tolist())
    probabilities = entity_log_probs(crf, scheme, entities).exp().tolist()
    outside = scheme.tags.index("O")
    for row, length in enumerate(crf.lengths.tolist()):
        for word in range(length):
            covering = [p for (r, s), p in zip(entities, probabilities) if r == row and s.start <= word < s.end]
            assert sum(covering) + float(crf.marginals[row, word, outside]) == pytest.approx(1, abs=1e-6)


def test_no_entities_have_no_scores():
    assert entity_log_probs(chain(SCHEMES["BIO"], True), SCHEMES["BIO"], []).shape == (0,)


# Dangers: a tagger between two that is neither of them, an old tagger that reads other words, or labels in another
# order.


NAMES = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]


def random_chain(seed, tags=3, words=3, forbidden=None):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    transitions = draw(tags, tags)
    if forbidden is not None:
        transitions[forbidden] = -torch.inf
    return LinearChainCRF(draw(2, words, tags), transitions, draw(tags), draw(tags), lengths=torch.tensor([words, 2]))


@pytest.mark.parametrize("congruence", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("forbidden", [None, (0, 1)])
def test_it_is_the_normalised_product_of_powers(congruence, forbidden):
    new, old = random_chain(0, forbidden=forbidden), random_chain(1, forbidden=forbidden)
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
        congruent(random_chain(0), other, 0.5)


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
