"""Dangers: an LSTM that is garbage after loading, reads padding or is rounded away in half precision; an encoder that
is said to be frozen and moves; a smaller student whose layers, head or labels are not those it was made from."""

import pytest
import torch

from hf_structkd import DataCollatorForStructKD, StructKDTrainer, StructKDTrainingArguments, encode_corpus
from hf_structkd import smaller_student as make_smaller
from hf_structkd.modeling.layers import WordLSTM
from hf_structkd.training.smaller_student import evenly_spaced


@pytest.fixture
def batch(family, corpus):
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


def test_the_lstm_is_saved_and_loaded(family, batch, tmp_path):
    model = family.student(lstm_hidden_size=8)
    model.save_pretrained(tmp_path)
    again, info = family.cls.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    torch.testing.assert_close(again.eval()(**batch).emissions, model(**batch).emissions)


@pytest.mark.parametrize("cast", [lambda m: m.to(torch.bfloat16), lambda m: m.half(), lambda m: m.bfloat16().float()])
def test_casting_keeps_the_lstm_exact_and_it_still_runs(family, batch, cast):
    model = family.student(lstm_hidden_size=8)
    before = model.lstm.layers.weight_hh_l0.detach().clone()
    cast(model)
    assert torch.equal(model.lstm.layers.weight_hh_l0, before)
    output = model.train()(**batch)
    assert output.emissions.dtype == torch.float32
    output.loss.backward()
    assert torch.isfinite(model.lstm.layers.weight_ih_l0.grad).all()


def test_autocast_does_not_reach_the_lstm(family, batch):
    model = family.student(lstm_hidden_size=8)
    states = []
    model.lstm.register_forward_hook(lambda module, inputs, output: states.append(output.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(**batch).loss.backward()
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


def test_padding_and_neighbours_change_nothing_through_the_lstm(family, batch):
    model = family.student(lstm_hidden_size=8, lstm_layers=2)
    together = model(**batch)
    for row in range(len(batch["input_ids"])):
        length = int(batch["attention_mask"][row].sum())
        alone = model(**{name: value[row : row + 1, :length] for name, value in batch.items()})
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
def test_a_smaller_student_is_made_of_the_larger_ones_parts(family, batch, keep, tmp_path):
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
    torch.testing.assert_close(smaller(**batch).emissions, model(**batch).emissions)
    for name, parameter in smaller.crf.named_parameters():
        assert torch.equal(parameter, model.crf.get_parameter(name))
    smaller.save_pretrained(tmp_path)
    again = family.cls.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(again(**batch).logits, smaller(**batch).logits)


def test_all_layers_kept_give_the_same_model_and_nothing_is_shared(family, batch):
    model = family.student()
    copied = make_smaller(model, 2)
    torch.testing.assert_close(copied(**batch).logits, model(**batch).logits)
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
