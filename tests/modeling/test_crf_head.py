"""Dangers: garbage CRF parameters after loading, words lost between subwords, logits that contradict Viterbi."""

import pytest
import torch
from transformers import XLMRobertaConfig, XLMRobertaModel, pipeline

from hf_structkd import (
    DataCollatorForStructKD,
    LinearChainCRF,
    StructKDTrainer,
    StructKDTrainingArguments,
    XLMRobertaForTokenClassificationCRF,
    encode_corpus,
)
from hf_structkd import smaller_student as make_smaller
from hf_structkd.modeling.crf_head import compact
from hf_structkd.modeling.layers import WordLSTM
from hf_structkd.modeling.words import tokenize_words
from hf_structkd.training.smaller_student import evenly_spaced


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


# Dangers: an LSTM that is garbage after loading, reads padding or is rounded away in half precision; an encoder that
# is said to be frozen and moves; a smaller student whose layers, head or labels are not those it was made from.


@pytest.fixture
def shape_batch(family, corpus):
    rows = [0, 31, 2, 33]
    return DataCollatorForStructKD(family.tokenizer)(
        list(encode_corpus(corpus.select(rows), family.tokenizer, family.labels))
    )


# ---- BiLSTM over words ----


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_lstm_that_a_checkpoint_lacks_starts_fresh(family, tmp_path, dtype):
    family.plain_encoder().save_pretrained(tmp_path)
    for _ in range(3):
        dirt = [torch.full((32, 16), float("nan")) for _ in range(50)]
        del dirt
        model = family.cls.from_pretrained(
            tmp_path, id2label=dict(enumerate(family.labels)), lstm_hidden_size=8, lstm_layers=2, dtype=dtype
        )
        for name, parameter in model.lstm.named_parameters():
            assert parameter.dtype == torch.float32, name
            assert torch.isfinite(parameter).all(), name
            if "bias_ih" in name:
                assert parameter.tolist() == [0.0] * 8 + [1.0] * 8 + [0.0] * 16
            elif "bias_hh" in name:
                assert (parameter == 0).all()
            else:
                assert 0.01 < parameter.std() < 1
        recurrent = model.lstm.layers.weight_hh_l0[:8]
        torch.testing.assert_close(recurrent @ recurrent.T, torch.eye(8), atol=1e-5, rtol=0)
        assert model.classifier.weight.shape == (len(family.labels), 16)


def test_the_lstm_is_saved_and_loaded(family, shape_batch, tmp_path):
    model = family.student(lstm_hidden_size=8)
    model.save_pretrained(tmp_path)
    again, info = family.cls.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    torch.testing.assert_close(again.eval()(**shape_batch).emissions, model(**shape_batch).emissions)


@pytest.mark.parametrize("cast", [lambda m: m.to(torch.bfloat16), lambda m: m.half(), lambda m: m.bfloat16().float()])
def test_casting_keeps_the_lstm_exact_and_it_still_runs(family, shape_batch, cast):
    model = family.student(lstm_hidden_size=8)
    before = model.lstm.layers.weight_hh_l0.detach().clone()
    cast(model)
    assert torch.equal(model.lstm.layers.weight_hh_l0, before)
    output = model.train()(**shape_batch)
    assert output.emissions.dtype == torch.float32
    output.loss.backward()
    assert torch.isfinite(model.lstm.layers.weight_ih_l0.grad).all()


def test_autocast_does_not_reach_the_lstm(family, shape_batch):
    model = family.student(lstm_hidden_size=8)
    states = []
    model.lstm.register_forward_hook(lambda module, inputs, output: states.append(output.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(**shape_batch).loss.backward()
    assert states == [torch.float32]


def test_the_lstm_reads_words_not_subwords_and_no_padding():
    torch.manual_seed(0)
    lstm = WordLSTM(4, 3)
    words, lengths = torch.randn(3, 5, 4), torch.tensor([5, 2, 0])
    states = lstm(words, lengths)
    torch.testing.assert_close(states[1, :2], lstm(words[1:2, :2], torch.tensor([2]))[0])
    words[1, 2:] = float("inf")
    torch.testing.assert_close(lstm(words, lengths)[1], states[1])
    assert (states[1, 2:] == 0).all()
    assert (states[2] == 0).all()


def test_padding_and_neighbours_change_nothing_through_the_lstm(family, shape_batch):
    model = family.student(lstm_hidden_size=8, lstm_layers=2)
    together = model(**shape_batch)
    for row in range(len(shape_batch["input_ids"])):
        length = int(shape_batch["attention_mask"][row].sum())
        alone = model(**{name: value[row : row + 1, :length] for name, value in shape_batch.items()})
        torch.testing.assert_close(together.logits[row, :length], alone.logits[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("fields", [{"lstm_hidden_size": 0}, {"lstm_hidden_size": 4, "lstm_layers": 0}])
def test_an_lstm_of_no_size_is_refused(family, fields):
    with pytest.raises(ValueError, match="must be at least 1"):
        family.config(**fields)


# ---- frozen encoder ----


def test_a_frozen_encoder_stays_and_the_head_trains(family, corpus, tmp_path):
    family.student(freeze_encoder=True, lstm_hidden_size=8).save_pretrained(tmp_path / "start")
    model = family.cls.from_pretrained(tmp_path / "start")
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    args = StructKDTrainingArguments(
        output_dir=str(tmp_path), objective="none", max_steps=2, learning_rate=0.1, use_cpu=True, report_to="none",
        disable_tqdm=True, save_strategy="no", weight_decay=0.1,
    )  # fmt: skip
    trainer = StructKDTrainer(model, args, None, corpus.select(range(8)), None, family.tokenizer)
    trainer.train()
    assert model.training
    assert not model.base_model.training  # no dropout: the same features in every epoch
    for name, parameter in model.named_parameters():
        is_encoder = name.startswith(f"{model.base_model_prefix}.")
        assert parameter.requires_grad != is_encoder, name
        assert torch.equal(parameter, before[name]) == is_encoder, name


def test_an_encoder_can_be_frozen_and_let_go(family):
    model = family.student().train()
    model.freeze_encoder()
    assert model.config.freeze_encoder
    assert not any(p.requires_grad for p in model.base_model.parameters())
    assert not model.base_model.training
    model.freeze_encoder(False)
    assert all(p.requires_grad for p in model.parameters())
    assert model.base_model.training


# ---- smaller students ----


def layers_of(model):
    return model.base_model.layers if hasattr(model.base_model, "layers") else model.base_model.encoder.layer


@pytest.mark.parametrize(
    ("there", "kept", "expected"),
    [(12, 6, [0, 2, 4, 7, 9, 11]), (4, 2, [0, 3]), (3, 1, [0]), (5, 5, [0, 1, 2, 3, 4]), (22, 4, [0, 7, 14, 21])],
)
def test_kept_layers_are_evenly_spaced_from_first_to_last(there, kept, expected):
    assert evenly_spaced(there, kept) == expected


@pytest.mark.parametrize("keep", [2, [0, 1, 3]])
def test_a_smaller_student_is_made_of_the_larger_ones_parts(family, shape_batch, keep, tmp_path):
    model = family.student(num_hidden_layers=4, lstm_hidden_size=8)
    smaller = make_smaller(model, keep)
    kept = [0, 3] if keep == 2 else keep
    assert smaller.config.num_hidden_layers == len(layers_of(smaller)) == len(kept)
    assert model.config.num_hidden_layers == 4
    assert smaller.config.id2label == model.config.id2label
    assert torch.equal(smaller.word_starts.pieces, model.word_starts.pieces)
    # What the large model computes when the other layers are taken out is what the small one computes.
    other = layers_of(model)
    for index in reversed(range(4)):
        if index not in kept:
            del other[index]
    torch.testing.assert_close(smaller(**shape_batch).emissions, model(**shape_batch).emissions)
    for name, parameter in smaller.crf.named_parameters():
        assert torch.equal(parameter, model.crf.get_parameter(name))
    smaller.save_pretrained(tmp_path)
    again = family.cls.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(again(**shape_batch).logits, smaller(**shape_batch).logits)


def test_all_layers_kept_give_the_same_model_and_nothing_is_shared(family, shape_batch):
    model = family.student()
    copied = make_smaller(model, 2)
    torch.testing.assert_close(copied(**shape_batch).logits, model(**shape_batch).logits)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.add_(1.0)
    assert not torch.equal(copied.classifier.weight, model.classifier.weight)


def test_half_precision_stays_with_the_crf_exact(family):
    model = family.student().to(torch.bfloat16)
    smaller = make_smaller(model, 1)
    assert smaller.dtype == torch.bfloat16
    assert smaller.crf.transitions.dtype == torch.float32


def test_a_plain_encoder_can_be_made_smaller_too(family):
    encoder = family.plain_encoder(num_hidden_layers=3)
    smaller = make_smaller(encoder, [0, 2])
    for name, parameter in layers_of(encoder)[2].named_parameters():
        assert torch.equal(layers_of(smaller)[1].get_parameter(name), parameter)


def test_modernberts_first_layer_stays_first(family):
    # Its first layer has no norm before attention: another in its place would lose its own without a word.
    model = family.student(num_hidden_layers=3)
    if family.name == "modernbert":
        assert make_smaller(model, [0, 2]).config.layer_types == ["full_attention", "full_attention"]
        with pytest.raises(ValueError, match=r"layer 1 cannot stand in place 0, .*attn_norm"):
            make_smaller(model, [1, 2])
    else:
        assert make_smaller(model, [1, 2]).config.num_hidden_layers == 2


@pytest.mark.parametrize("keep", [0, 3, [], [1, 0], [0, 0], [0, 2], [-1]])
def test_layers_that_there_are_not_are_refused(family, keep):
    with pytest.raises(ValueError, match=r"keep_layers must be .* 1"):
        make_smaller(family.student(), keep)
