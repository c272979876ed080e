"""Dangers: scores that are no probabilities, offsets beside the entity, answers that depend on the batch or its order,
inputs that crash, a checkpoint that only the stock pipeline can run."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from transformers import BertConfig, BertForTokenClassification, pipeline
from transformers.pipelines.pt_utils import KeyDataset

from hf_structkd import CRFTokenClassificationPipeline, TagScheme
from hf_structkd.modeling.pipeline import TASK
from hf_structkd.modeling.words import tokenize_words
from tests.conftest import label_fields

TEXT = "Anna flew from Boston to Paris, said Maria Lopez."
EVERYTHING = {"top_k": 3, "marginals": True, "entropy": True}


@pytest.fixture
def pipe(make_student, tokenizer):
    return CRFTokenClassificationPipeline(model=make_student(), tokenizer=tokenizer)


def distribution_of(pipe, words):
    batch = {name: torch.tensor(values) for name, values in tokenize_words([words], pipe.tokenizer).items()}
    return pipe.model.distribution(pipe.model(**batch), "decode")


def close(one, other) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(close(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(close(a, b) for a, b in zip(one, other))
    return abs(one - other) < 1e-5 if isinstance(one, float) else one == other


def test_answers_are_what_the_distribution_says(pipe, corpus, labels):
    for words in corpus["tokens"][:5]:
        answer = pipe(words, is_split_into_words=True, **EVERYTHING)
        crf, scheme = distribution_of(pipe, words), pipe.model.tag_scheme
        best = [labels[tag] for tag in crf.argmax()[0][0].tolist()]
        found = [(e["start_word"], e["end_word"], e["entity_group"]) for e in answer["entities"]]
        assert found == scheme.spans(best)
        for entity in answer["entities"]:
            span = (entity["start_word"], entity["end_word"], entity["entity_group"])
            tags, prolonging = scheme.entity_path(span)
            continuing = torch.tensor([[tag in prolonging for tag in range(len(labels))]])
            place = (torch.tensor([0]), torch.tensor(span[:1]), torch.tensor(span[1:2]))
            expected = crf.span_log_prob(*place, torch.tensor([tags]), continuing).exp()
            assert entity["score"] == pytest.approx(expected.item(), abs=1e-6)
        paths = crf.topk(3)
        assert [a["score"] for a in answer["top_k"]] == pytest.approx(paths.log_prob[0].exp().tolist(), abs=1e-6)
        assert answer["top_k"][0]["entities"] == answer["entities"]
        assert answer["entropy"] == pytest.approx(crf.entropy().item(), abs=1e-5)
        for i, word in enumerate(answer["marginals"]):
            assert word["word"] == words[i]
            assert list(word["scores"]) == labels
            assert list(word["scores"].values()) == pytest.approx(crf.marginals[0, i].tolist(), abs=1e-6)


@pytest.mark.parametrize("scheme", ["BIO", "BIOES"])
def test_offsets_point_at_the_entity(make_student, tokenizer, scheme):
    tags = TagScheme.from_entity_types(["PER", "LOC"], scheme).tags
    pipe = CRFTokenClassificationPipeline(model=make_student(**label_fields(tags)), tokenizer=tokenizer)
    text = "  Anna\u00a0Cafe\u0301 (of 東京) —\n\u200bO'Neill's 😀 \ud800 हिन्दी!\t"
    answer = pipe(text)
    assert answer["entities"]
    for entity in answer["entities"]:
        assert text[entity["start"] : entity["end"]] == entity["word"] == entity["word"].strip()
    words = TEXT.split()
    for entity in pipe(words, is_split_into_words=True)["entities"]:
        assert entity["word"] == " ".join(words[entity["start_word"] : entity["end_word"]])
        assert entity["word"] == " ".join(words)[entity["start"] : entity["end"]]


def test_plain_tags_come_for_every_word_with_their_marginal(make_student, tokenizer):
    model = make_student(**label_fields(["NOUN", "VERB", "PUNCT"]))
    pipe = CRFTokenClassificationPipeline(model=model, tokenizer=tokenizer)
    answer = pipe(TEXT, marginals=True, top_k=2)
    assert "entities" not in answer
    assert [tag["word"] for tag in answer["tags"]] == [word["word"] for word in answer["marginals"]]
    for tag, word in zip(answer["tags"], answer["marginals"]):
        assert tag["score"] == pytest.approx(word["scores"][tag["tag"]], abs=1e-6)
    assert len(answer["top_k"][1]["tags"]) == len(answer["tags"])
    assert all(tag["score"] >= 0.5 for tag in pipe(TEXT, threshold=0.5)["tags"])


def test_every_form_of_input_gets_the_same_answer(pipe, corpus):
    sentences = list(corpus["tokens"][:7])
    one_by_one = [pipe(words, is_split_into_words=True, **EVERYTHING) for words in sentences]
    data = corpus.select(range(7))
    forms = {
        "lists of words": pipe(sentences, **EVERYTHING),
        "batches of 2": pipe(sentences, batch_size=2, **EVERYTHING),
        "a generator": list(pipe((words for words in sentences), batch_size=3, **EVERYTHING)),
        "a dataset": list(pipe(data, **EVERYTHING)),
        "a tuple": pipe(tuple(map(tuple, sentences)), **EVERYTHING),
        "words promised": pipe(sentences, is_split_into_words=True, **EVERYTHING),
        "arrays of words": pipe([np.array(words) for words in sentences], **EVERYTHING),
        "series of words": pipe(
            [pd.Series(words, index=range(9, 9 + len(words))) for words in sentences], **EVERYTHING
        ),
        "a series of lists": list(pipe(pd.Series(sentences, index=list("gfedcba")), **EVERYTHING)),
        "an array of lists": list(pipe(np.array([*sentences, None], dtype=object)[:-1], **EVERYTHING)),
        "values of a mapping": list(pipe(dict(enumerate(sentences)).values(), **EVERYTHING)),
        "a key of a dataset": list(pipe(KeyDataset(data, "tokens"), **EVERYTHING)),
        "a column of a dataset": list(pipe(data["tokens"], **EVERYTHING)),
        "a streamed dataset": list(pipe(data.to_iterable_dataset(), **EVERYTHING)),
        "options of the constructor": CRFTokenClassificationPipeline(
            model=pipe.model, tokenizer=pipe.tokenizer, batch_size=4, **EVERYTHING
        )(sentences),
    }
    for name, answers in forms.items():
        assert close(answers, one_by_one), name
    texts = [" ".join(words) for words in sentences]
    assert close(pipe(texts), [pipe(text) for text in texts])
    assert close(list(pipe(Dataset.from_dict({"text": texts}))), pipe(texts))
    columns = {
        "a column of a dataset": Dataset.from_dict({"title": texts})["title"],
        "a key of a dataset": KeyDataset(Dataset.from_dict({"title": texts}), "title"),
        "a torch dataset": torch.utils.data.Subset(texts, range(len(texts))),
        "an array": np.array(texts),
        "a generator": (text for text in texts),
    }
    for name, column in columns.items():
        assert close(list(pipe(column)), pipe(texts)), name
    assert pipe([]) == []


def test_a_series_is_read_in_its_order_and_never_by_label(pipe):
    """After a sort or a filter the labels of a frame's rows are no longer their positions."""
    texts = ["Nadia Costa sailed to Oslo.", "It rained.", "Oslo is cold, said Ivo."]
    frame = pd.DataFrame({"text": texts, "rank": [3, 1, 2]})
    answers = pipe(texts)
    assert close(list(pipe(frame.sort_values("rank")["text"])), [answers[1], answers[2], answers[0]])
    assert close(list(pipe(frame[frame["rank"] > 1]["text"])), [answers[0], answers[2]])
    assert close(list(pipe(frame.sample(3, random_state=1).set_index("rank")["text"].sort_index())), [
        answers[1], answers[2], answers[0],
    ])  # fmt: skip


def test_an_array_or_series_of_words_is_one_sentence_where_words_are_promised(pipe):
    words = TEXT.split()
    expected = pipe(words, is_split_into_words=True)
    shuffled_labels = pd.Series(words, index=range(len(words), 0, -1))
    for name, given in {"array": np.array(words), "tuple": tuple(words), "series": shuffled_labels}.items():
        assert close(pipe(given, is_split_into_words=True), expected), name
    assert close(list(pipe(np.array(words))), pipe(words))  # not promised: each a text


def test_a_generator_is_read_as_it_is_needed(pipe, monkeypatch):
    monkeypatch.setattr("hf_structkd.modeling.pipeline.BATCHES_READ_AHEAD", 2)
    taken = []
    answers = pipe((taken.append(i) or TEXT for i in range(1000)), batch_size=3)
    next(answers)
    assert len(taken) == 6


def test_texts_without_words_have_one_empty_analysis(pipe):
    texts = ["", " \n\t", "\x00\x07", "\u200b\ufeff", TEXT]
    *empty, full = pipe(texts, **EVERYTHING)
    expected = {"entities": [], "top_k": [{"score": 1.0, "entities": []}], "marginals": [], "entropy": 0.0}
    assert empty == [expected] * 4
    assert full["entities"]
    assert pipe([], is_split_into_words=True) == {"entities": []}


def test_words_that_tokenise_to_nothing_keep_their_place(pipe):
    words = ["Anna", "\u200d", "", "\x00", "Paris"]
    assert len(pipe(words, is_split_into_words=True, marginals=True)["marginals"]) == 5


def test_answers_are_plain_json_and_the_same_every_time(pipe):
    answers = pipe([TEXT, "Paris \ud800"], **EVERYTHING)
    assert json.loads(json.dumps(answers)) == answers
    assert pipe([TEXT, "Paris \ud800"], **EVERYTHING) == answers


def test_a_threshold_leaves_out_what_is_less_sure(pipe):
    scores = sorted(entity["score"] for entity in pipe(TEXT)["entities"])
    kept = pipe(TEXT, threshold=scores[1])["entities"]
    assert sorted(entity["score"] for entity in kept) == scores[1:]


def test_a_long_document_is_one_chain(pipe, corpus):
    words = [word for sentence in corpus["tokens"] for word in sentence]
    answer = pipe([words, words[:3]], marginals=True)[0]
    assert len(answer["marginals"]) == len(words) > 300
    crf = distribution_of(pipe, words)
    assert [list(word["scores"].values()) for word in answer["marginals"][::50]] == [
        pytest.approx(row, abs=1e-5) for row in crf.marginals[0, ::50].tolist()
    ]


def peak_mib(work) -> float:
    """What a piece of work takes at most on top of what the process holds already, resident, in MiB."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not reset.exists():
        pytest.skip("needs Linux's /proc to measure peak memory")

    def read(name: str) -> int:
        return int(re.search(rf"{name}:\s+(\d+)", status.read_text())[1])

    reset.write_text("5")  # the peak starts anew
    before = read("VmRSS")
    work()
    return (read("VmHWM") - before) / 1024


@pytest.mark.slow
def test_a_hundred_thousand_words_are_tagged_whole_in_memory_that_grows_with_the_words(pipe, corpus):
    sentence = [word for words in corpus["tokens"][:10] for word in words]
    words = (sentence * (100_000 // len(sentence) + 1))[:100_000]
    pipe(" ".join(words[:5_000]), entropy=True)  # what is allocated once is no part of it
    quarter = peak_mib(lambda: pipe(" ".join(words[:25_000]), entropy=True))
    text, answers = " ".join(words), []
    whole = peak_mib(lambda: answers.append(pipe(text, entropy=True)))
    # The margin: what an earlier call freed is used again, and counts for nothing in the first measurement.
    assert whole < 6 * quarter + 120, f"{quarter:.0f} MiB for a quarter of the text, {whole:.0f} MiB for all of it"
    assert whole < 600
    assert answers[0]["entities"][-1]["end_word"] > 99_000
    assert all(text[e["start"] : e["end"]] == e["word"] for e in answers[0]["entities"])
    assert all(0 < e["score"] <= 1 for e in answers[0]["entities"])


FRAME = pd.DataFrame({"text": [TEXT], "id": [1]})


@pytest.mark.parametrize(
    ("inputs", "options", "error", "message"),
    [
        (TEXT, {"top_k": 0}, ValueError, "top_k must be a whole number of at least 1"),
        (TEXT, {"top_k": "3"}, TypeError, "top_k must be a whole number, not '3'"),
        (TEXT, {"top_k": 2.5}, TypeError, "top_k must be a whole number, not 2.5"),
        (TEXT, {"top_k": True}, TypeError, "top_k must be a whole number, not True"),
        (TEXT, {"threshold": 1.5}, ValueError, "threshold is a probability"),
        (TEXT, {"threshold": float("nan")}, ValueError, "threshold is a probability"),
        (TEXT, {"threshold": "x"}, TypeError, "threshold is a probability, 0 to 1, not 'x'"),
        (TEXT, {"threshold": True}, TypeError, "threshold is a probability, 0 to 1, not True"),
        (TEXT, {"marginals": "no"}, TypeError, "marginals must be True or False, not 'no'"),
        (TEXT, {"entropy": 1}, TypeError, "entropy must be True or False, not 1"),
        (TEXT, {"is_split_into_words": "yes"}, TypeError, "is_split_into_words must be True or False"),
        (TEXT, {"batch_size": -1}, ValueError, "batch_size must be a whole number of at least 1"),
        (TEXT, {"batch_size": 0}, ValueError, "batch_size must be a whole number of at least 1"),
        (TEXT, {"batch_size": "8"}, TypeError, "batch_size must be a whole number, not '8'"),
        (TEXT, {"batch_size": 2.0}, TypeError, "batch_size must be a whole number, not 2.0"),
        (TEXT, {"stride": 2}, TypeError, "stride"),
        (7, {}, TypeError, "give a text, a list of words"),
        (None, {}, TypeError, "give a text, a list of words"),
        ({"text": TEXT}, {}, TypeError, "give a text, a list of words.* not dict"),
        ({TEXT}, {}, TypeError, "give a text, a list of words.* not set"),
        (b"abc", {}, TypeError, "not bytes: decode them first"),
        (bytearray(b"abc"), {}, TypeError, "not bytearray: decode them first"),
        ([TEXT, b"abc"], {}, TypeError, "not bytes: decode them first"),
        ([b""], {}, TypeError, "not bytes: decode them first"),
        (np.array(TEXT), {}, TypeError, "not ndarray"),
        (FRAME, {}, TypeError, r"not DataFrame: name a column, table\['text'\]"),
        ([TEXT, 7], {}, TypeError, "a text or a list of words, not int: '7'"),
        ([TEXT, {}], {}, TypeError, "a text or a list of words, not dict: .* KeyDataset"),
        (pd.Series([TEXT, None]), {}, TypeError, "a text or a list of words, not "),
        ([["Anna", None]], {}, TypeError, "a text or a list of words, not list"),
        (Dataset.from_dict({"words": [["Anna"]]}), {}, ValueError, r"this one has \['words'\]"),
        (TEXT, {"is_split_into_words": True}, TypeError, "an input is a list of words, not a text"),
        ((w for w in TEXT.split()), {"is_split_into_words": True}, TypeError, "a list of words, not a text"),
        ([["Anna"], TEXT], {"is_split_into_words": True}, TypeError, "a list of words, not a text"),
    ],
)
def test_what_it_cannot_read_is_said(pipe, inputs, options, error, message):
    with pytest.raises(error, match=message):
        list(pipe(inputs, **options))


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"threshold": 2}, {"top_k": 0}])
def test_the_constructor_refuses_what_a_call_refuses(pipe, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        CRFTokenClassificationPipeline(model=pipe.model, tokenizer=pipe.tokenizer, **options)


def test_another_kind_of_model_is_refused(tokenizer):
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model = BertForTokenClassification(BertConfig(vocab_size=len(tokenizer), **shape))
    with pytest.raises(ValueError, match=r"BertForTokenClassification has no CRF .* 'token-classification'"):
        pipeline(TASK, model=model, tokenizer=tokenizer)


def test_the_pipeline_is_found_by_its_task_and_the_stock_one_stays(pipe, tokenizer, tmp_path):
    stock = pipeline("token-classification", model=pipe.model, tokenizer=tokenizer)
    assert type(stock).__name__ == "TokenClassificationPipeline"
    pipe.save_pretrained(tmp_path)
    ways = {
        "the task and a folder": pipeline(TASK, model=str(tmp_path)),
        "the task and a model": pipeline(TASK, model=pipe.model, tokenizer=tokenizer),
        "the folder alone": pipeline(model=str(tmp_path), trust_remote_code=True),
    }
    for name, found in ways.items():
        assert type(found).__name__ == "CRFTokenClassificationPipeline", name
        assert close(found(TEXT, **EVERYTHING), pipe(TEXT, **EVERYTHING)), name
        found.save_pretrained(tmp_path / name)
        again = pipeline(TASK, model=str(tmp_path / name))
        assert close(again(TEXT), pipe(TEXT)), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_give_probabilities(make_student, tokenizer, dtype):
    pipe = CRFTokenClassificationPipeline(model=make_student().to(dtype), tokenizer=tokenizer)
    answer = pipe(TEXT, **EVERYTHING)
    assert all(0 <= e["score"] <= 1 for analysis in answer["top_k"] for e in analysis["entities"])
