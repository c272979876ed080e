"""Dangers: garbage CRF parameters after loading, words lost between subwords, logits that contradict Viterbi."""

import pytest
import torch
from transformers import XLMRobertaConfig, XLMRobertaModel, pipeline

from hf_structkd import DataCollatorForStructKD, LinearChainCRF, XLMRobertaForTokenClassificationCRF, encode_corpus
from hf_structkd.modeling.crf_head import compact
from hf_structkd.modeling.words import tokenize_words


@pytest.fixture
def batch(corpus, tokenizer, labels):
    encoded = encode_corpus(corpus.select(range(6)), tokenizer, labels)
    return DataCollatorForStructKD(tokenizer)(list(encoded))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_plain_encoder_gets_fresh_finite_crf_parameters(tmp_path, tokenizer, labels, dtype):
    # transformers 5 leaves what a checkpoint lacks as uninitialised memory: values of 1e38 or NaN, by chance 0.
    config = XLMRobertaConfig(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    XLMRobertaModel(config, add_pooling_layer=False).save_pretrained(tmp_path)
    for _ in range(3):
        dirt = [torch.full((len(labels), len(labels)), float("nan")) for _ in range(50)]
        del dirt  # so that memory taken next is likely to hold NaN
        model = XLMRobertaForTokenClassificationCRF.from_pretrained(
            tmp_path, id2label=dict(enumerate(labels)), dtype=dtype
        )
        for name, parameter in model.crf.named_parameters():
            assert parameter.dtype == torch.float32, name
            assert (parameter == 0).all(), name
        assert not model.word_starts.pieces.any()
        assert torch.isfinite(model.classifier.weight).all()
        assert model.classifier.weight.dtype == dtype


@pytest.mark.parametrize("cast", [lambda m: m.to(torch.bfloat16), lambda m: m.half(), lambda m: m.bfloat16().float()])
def test_casting_a_model_keeps_the_crf_exact(make_student, cast):
    model = make_student()
    before = model.crf.transitions.detach().clone()
    cast(model)
    assert model.crf.transitions.dtype == torch.float32
    assert torch.equal(model.crf.transitions, before)


def test_the_loss_is_the_gold_likelihood_of_the_words(make_student, batch, labels):
    model = make_student(crf_constraints="none")
    output = model(**batch)
    gold = compact(batch["labels"], batch["word_mask"], -100)
    crf = LinearChainCRF(
        output.emissions,
        model.crf.transitions,
        model.crf.start_transitions,
        model.crf.end_transitions,
        lengths=output.lengths,
    )
    words = (gold != -100).sum()
    torch.testing.assert_close(output.loss, -crf.log_prob(gold).sum() / words)
    torch.testing.assert_close(model(**batch, num_items_in_batch=7).loss, output.loss * words / 7)


def test_an_unlabelled_row_adds_nothing_and_a_half_labelled_one_is_refused(make_student, batch):
    model = make_student()
    alone = model(**{name: value[1:] for name, value in batch.items()}, num_items_in_batch=10).loss
    batch["labels"][0] = -100
    torch.testing.assert_close(model(**batch, num_items_in_batch=10).loss, alone)
    batch["labels"][1, batch["word_mask"][1].nonzero()[0]] = -100
    with pytest.raises(ValueError, match=r"row 1 .* label all words of a sentence or none"):
        model(**batch)


def test_a_batch_without_any_label_has_loss_zero_with_gradients(make_student, batch):
    model = make_student().train()
    batch["labels"][:] = -100
    loss = model(**batch).loss
    loss.backward()
    assert loss.item() == 0
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_eval_logits_agree_with_viterbi_and_are_honest(make_student, batch):
    model = make_student(crf_constraints="decode")
    output = model(**batch)
    words = batch["word_mask"]
    assert torch.equal(output.logits.argmax(dim=-1)[words], output.tags[words])
    assert (output.tags[~words] == -100).all()
    legal = model.tag_scheme
    for row, mask in zip(output.tags, words):
        assert legal.violations([model.config.id2label[tag] for tag in row[mask].tolist()]) == []
    # Where the most probable tag is on the best path, the scores are the exact marginals.
    marginals = model.distribution(output, "decode").marginals
    best = compact(output.tags, words, -100)
    inside = best != -100
    agreeing = inside & (marginals.argmax(dim=-1) == best)
    shown = compact(output.logits.softmax(dim=-1), words)
    assert agreeing.any()
    torch.testing.assert_close(shown[agreeing], marginals[agreeing], atol=2e-3, rtol=0)


def test_words_are_found_the_same_by_mask_by_labels_and_by_pieces(make_student, batch):
    model = make_student()
    by_mask = model(**batch).tags
    labels = batch.pop("labels")
    mask = batch.pop("word_mask")
    assert torch.equal(model(**batch, labels=labels).tags, by_mask)
    assert torch.equal(model(**batch).tags, by_mask)
    assert mask.any()
    model.word_starts.pieces.zero_()
    with pytest.raises(ValueError, match=r"word_mask.*set_word_starts"):
        model(**batch)


@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_padding_changes_nothing(make_student, batch, pooling):
    model = make_student(word_pooling=pooling)
    row = 0
    length = int(batch["attention_mask"][row].sum())
    alone = model(**{name: value[row : row + 1, :length] for name, value in batch.items()})
    together = model(**batch)
    torch.testing.assert_close(together.logits[row, :length], alone.logits[0], atol=1e-4, rtol=1e-4)
    assert torch.equal(together.tags[row, :length], alone.tags[0])


def test_mean_pooling_averages_a_words_subwords(make_student, tokenizer):
    model = make_student(word_pooling="mean")
    vectors = torch.arange(12.0).view(1, 6, 2)
    attention = torch.tensor([[1, 1, 1, 1, 1, 0]])
    words = torch.tensor([[0, 1, 0, 1, 0, 0]]).bool()
    pooled = model.pool_words(vectors, attention, words)
    torch.testing.assert_close(pooled, torch.stack((vectors[:, 1:3].mean(dim=1), vectors[:, 3]), dim=1))


@pytest.mark.parametrize("training", [True, False])
def test_a_text_longer_than_the_window_is_one_chain_over_all_words(make_student, corpus, tokenizer, labels, training):
    model = make_student().train(training)
    words = [word for sentence in corpus["tokens"][:20] for word in sentence]
    encoded = {name: torch.tensor(value) for name, value in tokenize_words([words], tokenizer).items()}
    assert encoded["input_ids"].shape[1] > 4 * 37
    output = model(**encoded)
    assert output.lengths.tolist() == [len(words)]
    assert output.emissions.shape[:2] == (1, len(words))
    if training:
        output.emissions.sum().backward()
        assert torch.isfinite(model.classifier.weight.grad).all()
    else:
        assert (output.tags != -100).sum() == len(words)


def test_the_stock_pipeline_reads_the_model(make_student, tokenizer):
    entities = pipeline(
        "token-classification", model=make_student(), tokenizer=tokenizer, aggregation_strategy="simple"
    )
    text = "Anna flew from Boston to Paris , said Maria ."
    for entity in entities(text):
        assert text[entity["start"] : entity["end"]].strip()
        assert 0 < entity["score"] <= 1


def test_word_starts_follow_a_resized_vocabulary(make_student, tokenizer):
    model = make_student()
    before = model.word_starts.pieces.clone()
    model.resize_token_embeddings(len(tokenizer) + 8)
    assert torch.equal(model.word_starts.pieces[: len(before)], before)
    assert not model.word_starts.pieces[len(before) :].any()


@pytest.mark.parametrize("fields", [{"crf_constraints": "always"}, {"word_pooling": "max"}])
def test_unknown_modes_are_refused(make_student, fields):
    with pytest.raises(ValueError, match="must be one of"):
        make_student(**fields)


def test_constraints_in_training_give_the_mass_of_illegal_paths_to_legal_ones(make_student, batch):
    model = make_student(crf_constraints="train")
    loss = model(**batch).loss
    assert torch.isfinite(loss)
    assert loss < make_student(crf_constraints="none")(**batch).loss
