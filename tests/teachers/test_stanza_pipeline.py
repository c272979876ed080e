"""Danger: a Stanza recogniser says one thing, and the student is taught another."""

import hashlib
import json

import pytest
import torch

stanza = pytest.importorskip("stanza", reason="Stanza's recognisers as teachers need the extra `stanza`")

from hf_structkd.teachers import base  # noqa: E402
from hf_structkd.teachers.kinds import load_teacher  # noqa: E402
from hf_structkd.teachers.panel import Panel  # noqa: E402
from hf_structkd.teachers.stanza_pipeline import StanzaTeacher  # noqa: E402

TAGGED = [
    [("Anna", "B-PER"), ("Berg", "E-PER"), ("lives", "O"), ("in", "O"), ("Bonn", "S-LOC")],
    [("Bonn", "S-LOC"), ("sings", "O")],
    [("Anna", "S-PER"), ("meets", "O"), ("Ada", "B-PER"), ("de", "I-PER"), ("Berg", "E-PER")],
]
SENTENCES = [[word for word, _ in sentence] for sentence in TAGGED]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    """Stanza's folder of models, with one tiny recogniser, trained on these few sentences."""
    from stanza.models import ner_tagger
    from stanza.models.common.doc import Document
    from stanza.models.ner.data import DataLoader
    from stanza.models.ner.trainer import Trainer

    folder = tmp_path_factory.mktemp("stanza")
    torch.manual_seed(0)
    sizes = {"hidden_dim": 8, "word_emb_dim": 8, "char_emb_dim": 4, "char_hidden_dim": 4}
    options = [text for name, size in sizes.items() for text in (f"--{name}", str(size))]
    args = ner_tagger.parse_args(["--no_pretrain", "--shorthand", "en_tiny", *options])
    tagged = [
        [{"id": i, "text": word, "ner": tag} for i, (word, tag) in enumerate(sentence, 1)] for sentence in TAGGED
    ]
    batches = DataLoader(Document(tagged), 8, args)
    trainer = Trainer(args=args, vocab=batches.vocab, device="cpu")
    for _ in range(15):  # few updates leave it unsure
        trainer.update(batches[0])
    (folder / "en" / "ner").mkdir(parents=True)
    file = folder / "en" / "ner" / "tiny.pt"
    trainer.save(str(file))
    known = {"ner": {"tiny": {"md5": hashlib.md5(file.read_bytes()).hexdigest()}}}
    english = {"lang_name": "English", "packages": {"default": {"ner": "tiny"}}, **known}
    (folder / "resources.json").write_text(json.dumps({"en": english, "url": "https://127.0.0.1:9/{filename}"}))
    return folder


@pytest.fixture(scope="module")
def teacher(model_dir):
    return load_teacher("stanza:en", options={"model_dir": str(model_dir)})


def test_its_best_tags_are_those_of_stanza(teacher, model_dir):
    nlp = stanza.Pipeline(
        "en", processors="tokenize,ner", dir=str(model_dir), tokenize_pretokenized=True, download_method=None
    )
    said = [[token.ner for token in sentence.tokens] for sentence in nlp(SENTENCES).sentences]
    distribution = teacher.distribution(SENTENCES, teacher.labels)
    best = distribution.topk(1).tags[:, 0]
    assert [[teacher.labels[tag] for tag in row[: len(words)]] for row, words in zip(best.tolist(), SENTENCES)] == said
    (member,) = [member for member, _ in Panel(nlp).members]
    assert isinstance(member, StanzaTeacher), "a loaded pipeline is a teacher"
    assert member.revision == teacher.revision


def test_its_probabilities_are_those_that_stanza_trains(teacher):
    """Stanza's own loss is the negative log-likelihood of its CRF; the reserved tags are the only difference."""
    from stanza.models.common.crf import CRFLoss

    words = SENTENCES[1]
    ((emissions, transitions),) = teacher._scores([words])
    known = [i for i, tag in enumerate(teacher.labels) if tag not in teacher._lacking]
    loss_of = CRFLoss(len(known))
    loss_of._transitions.data = torch.tensor(transitions[known][:, known]).contiguous()
    scores, padding = torch.tensor(emissions[:, known]).contiguous()[None], torch.zeros(1, 2, dtype=torch.bool)
    expected = {
        (known[first], known[second]): -loss_of(scores, padding, torch.tensor([[first, second]]))[0].item()
        for first in range(len(known))
        for second in range(len(known))
    }
    likely = teacher.distribution([words], teacher.labels).topk(len(expected))
    found = {tuple(tags): float(p) for tags, p in zip(likely.tags[0].tolist(), likely.log_prob[0])}
    assert found == pytest.approx(expected, abs=1e-5)


def test_lengths_and_batches_change_nothing(teacher):
    sentences = [*SENTENCES, ["Unseen"], ["Anna", "Bonn"], ["\N{NO-BREAK SPACE}x", "y z"]]
    together = teacher.distribution(sentences, teacher.labels).marginals
    for words, marginals in zip(sentences, together):
        (alone,) = teacher.distribution([words], teacher.labels).marginals
        torch.testing.assert_close(marginals[: len(words)], alone, atol=1e-6, rtol=1e-5)
        assert alone.sum(dim=1).tolist() == pytest.approx([1] * len(words))


def test_it_teaches_a_student_of_either_scheme(model_dir):
    """Tags of its types that it never saw are impossible, not missing."""
    options = {"model_dir": str(model_dir), "package": "tiny"}
    teacher = load_teacher("stanza:en", label_map={"PER": "PERSON"}, options=options)
    assert {"B-LOC", "I-LOC", "E-LOC"} == set(teacher._lacking)
    for prefixes in ("BI", "BIES"):
        labels = ["O", *(f"{prefix}-{kind}" for kind in ("LOC", "PERSON") for prefix in prefixes)]
        marginals = teacher.distribution(SENTENCES, labels).marginals
        assert float(marginals[0, 0, labels.index("B-PERSON")]) > 0.05
        assert float(marginals[..., labels.index("I-LOC")].max()) == 0 if prefixes == "BIES" else True


def test_what_it_cannot_be_is_said(teacher, model_dir, monkeypatch):
    with pytest.raises(OSError, match="no entity recogniser for the language 'xq'"):
        load_teacher("stanza:xq", options={"model_dir": str(model_dir)})
    with pytest.raises(ValueError, match="kind stanza has no option beams"):
        load_teacher("stanza:en", options={"beams": 2})

    class Without:
        lang, processors = "en", {"tokenize": None}

    with pytest.raises(ValueError, match=r"no processor `ner`; it has tokenize\. Make the pipeline with"):
        StanzaTeacher(Without())

    def missing(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(base.importlib, "import_module", missing)
    with pytest.raises(ImportError, match=r"needs stanza: pip install 'hf_structkd\[stanza\]'"):
        StanzaTeacher.from_pretrained("en")


PARTS_OF_SPEECH = [["PROPN", "PROPN", "VERB", "ADP", "PROPN"], ["PROPN", "VERB"], ["PROPN", "VERB", *["PROPN"] * 3]]


@pytest.fixture(scope="module")
def tagger_dir(tmp_path_factory):
    """Stanza's folder of models, with one tiny tagger of parts of speech, trained on these few sentences."""
    from stanza.models import tagger
    from stanza.models.common.doc import Document
    from stanza.models.pos.data import Dataset
    from stanza.models.pos.trainer import Trainer

    folder = tmp_path_factory.mktemp("stanza_pos")
    torch.manual_seed(0)
    sizes = dict.fromkeys(("hidden_dim", "word_emb_dim", "char_emb_dim", "char_hidden_dim", "tag_emb_dim"), 8)
    sizes |= {"deep_biaff_hidden_dim": 8, "composite_deep_biaff_hidden_dim": 8, "word_cutoff": 0}
    options = [text for name, size in sizes.items() for text in (f"--{name}", str(size))]
    args = tagger.parse_args(["--no_pretrain", "--shorthand", "en_tiny", *options])
    tagged = [
        [{"id": i, "text": word, "upos": tag, "xpos": "X"} for i, (word, tag) in enumerate(zip(words, tags), 1)]
        for words, tags in zip(SENTENCES, PARTS_OF_SPEECH)
    ]
    data = Dataset(Document(tagged), args, None)
    trainer = Trainer(args=args, vocab=data.vocab, device="cpu")
    for _ in range(4):  # few updates leave it unsure
        (batch,) = data.to_loader(batch_size=8)
        trainer.update(batch)
    (folder / "en" / "pos").mkdir(parents=True)
    file = folder / "en" / "pos" / "tiny.pt"
    trainer.save(str(file))
    known = {"pos": {"tiny": {"md5": hashlib.md5(file.read_bytes()).hexdigest()}}}
    english = {"lang_name": "English", "packages": {"default": {"pos": "tiny"}}, **known}
    (folder / "resources.json").write_text(json.dumps({"en": english, "url": "https://127.0.0.1:9/{filename}"}))
    return folder


def test_parts_of_speech_are_those_of_stanza_whatever_the_lengths(tagger_dir):
    options = {"model_dir": str(tagger_dir), "annotation": "pos"}
    teacher = load_teacher("stanza:en", options=options)
    assert sorted(teacher.labels) == ["ADP", "PROPN", "VERB"]
    nlp = stanza.Pipeline(
        "en", processors="tokenize,pos", dir=str(tagger_dir), tokenize_pretokenized=True, download_method=None
    )
    sentences = [SENTENCES[1], SENTENCES[0], ["Unseen"], SENTENCES[2], ["Anna", "lives"]]
    expected = [[word.upos for word in sentence.words] for sentence in nlp(sentences).sentences]
    marginals = teacher.distribution(sentences, teacher.labels).marginals
    for words, rows, tags in zip(sentences, marginals, expected):
        assert [teacher.labels[best] for best in rows[: len(words)].argmax(dim=1).tolist()] == tags
        (alone,) = teacher.distribution([words], teacher.labels).marginals
        torch.testing.assert_close(rows[: len(words)], alone, atol=1e-6, rtol=1e-5)
        assert alone.sum(dim=1).tolist() == pytest.approx([1] * len(words))
    assert len(set(map(tuple, expected))) > 2, "the sentences must differ, or their order would not show"
    assert teacher.revision == load_teacher("stanza:en", options=options).revision


def test_the_probabilities_of_parts_of_speech_are_those_that_stanza_trains(tagger_dir):
    """Stanza's loss for one gold tag is the cross-entropy of its softmax, whose reserved tags are the difference."""
    nlp = stanza.Pipeline(
        "en", processors="tokenize,pos", dir=str(tagger_dir), tokenize_pretokenized=True, download_method=None
    )
    teacher, trainer = StanzaTeacher(nlp, annotation="pos"), nlp.processors["pos"].trainer
    hidden = []
    hook = trainer.model.upos_hid.register_forward_hook(lambda module, inputs, output: hidden.append(output))
    (row,) = teacher._pos_probabilities([["Bonn"]])
    hook.remove()
    weights, bias = trainer.model.upos_clf.weight[4:], trainer.model.upos_clf.bias[4:]
    expected = (hidden[0].relu() @ weights.T + bias).softmax(dim=1)
    torch.testing.assert_close(torch.tensor(row).float(), expected.detach(), atol=1e-6, rtol=1e-5)


def test_an_annotation_that_it_lacks_is_named(tagger_dir):
    with pytest.raises(ValueError, match="annotation must be ner or pos, not 'tag'"):
        load_teacher("stanza:en", options={"model_dir": str(tagger_dir), "annotation": "tag"})
    with pytest.raises(OSError, match="no entity recogniser for the language 'en'"):
        load_teacher("stanza:en", options={"model_dir": str(tagger_dir)})
