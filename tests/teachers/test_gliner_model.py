"""Danger: GLiNER cuts words otherwise than the corpus, drops overlapping spans, or forgets the end of a sentence."""

import pytest
import torch
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

gliner = pytest.importorskip("gliner", reason="GLiNER models as teachers need the extra `gliner`")

from hf_structkd.teachers.gliner_model import GlinerTeacher  # noqa: E402
from hf_structkd.teachers.kinds import load_teacher  # noqa: E402

SENTENCES = [["U.S.", "-born", "Anna", "sings", "."], ["ok"], ["a"] * 15]
TYPES = {"person": "PER", "city": "LOC"}
ARCHITECTURES = {
    "spans": {"span_mode": "markerV0"},
    "tokens": {"span_mode": "token_level"},
    "bi-encoder": {"span_mode": "markerV0", "labels_encoder": True},
}


@pytest.fixture(scope="module", params=ARCHITECTURES)
def folder(request, tmp_path_factory):
    """A tiny model of GLiNER's code with random weights, saved."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    place = tmp_path_factory.mktemp("gliner")
    letters = [*"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.,-"]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    ids = {piece: i for i, piece in enumerate(vocabulary)}
    backend = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=backend, mask_token="[MASK]", **special).save_pretrained(
        place / "encoder"
    )
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(vocabulary), **sizes)).save_pretrained(place / "encoder")
    fields = dict(ARCHITECTURES[request.param])
    if "labels_encoder" in fields:
        fields["labels_encoder"] = str(place / "encoder")
    torch.manual_seed(0)
    model = gliner.GLiNER.from_config(
        {"model_name": str(place / "encoder"), "hidden_size": 16, "max_width": 4, "max_len": 12, "vocab_size": -1}
        | {"max_types": 5, "dropout": 0.0, **fields}
    )
    model.save_pretrained(str(place / "model"))
    return place / "model"


def test_spans_are_those_of_the_words_and_none_is_dropped(folder):
    teacher = load_teacher(f"gliner:{folder}", options={"types": TYPES, "threshold": 0.05})
    assert isinstance(teacher, GlinerTeacher)
    first, single, long = teacher._score(SENTENCES)
    assert {(start, end) for start, end, *_ in first} >= {
        (s, e) for s in range(5) for e in range(s + 1, min(5, s + 4) + 1)
    }
    assert {(start, end) for start, end, *_ in single} == {(0, 1)}
    assert max(end for _, end, *_ in long) == 15, "words after max_len were not asked about"
    assert {kind for *_, kind, _ in first} <= {"PER", "LOC"}
    marginals = teacher.distribution(SENTENCES).marginals
    assert marginals[0, :5].sum(dim=1).tolist() == pytest.approx([1.0] * 5)
    alone = teacher.distribution([SENTENCES[0]]).marginals[0]
    torch.testing.assert_close(alone, marginals[0, :5], rtol=1e-4, atol=1e-5)
    assert teacher.revision == load_teacher(f"gliner:{folder}", options={"types": ["x"]}).revision
    assert teacher.model.decoder.greedy_search.__name__ == "greedy_search", "the user's model stays as it was"


def test_types_must_be_given(folder):
    with pytest.raises(ValueError, match=r"which types it is asked for .option types"):
        load_teacher(f"gliner:{folder}")
    with pytest.raises(ValueError, match="threshold must be between 0 and 1"):
        load_teacher(f"gliner:{folder}", options={"types": ["x"], "threshold": 0})
