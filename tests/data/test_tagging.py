"""Danger: a batch without any entity, whose type Arrow cannot know, or gold tags that are overwritten."""

import pytest
from datasets import Dataset

from hf_structkd import CRFTokenClassificationPipeline, tag_dataset
from tests.conftest import label_fields

TEXTS = ["", " ", "Anna flew from Boston to Paris .", "Paris ."]


@pytest.mark.parametrize("labels", [["O", "B-PER", "I-PER"], ["NOUN", "VERB"]])
def test_answers_become_columns(make_student, tokenizer, labels):
    pipe = CRFTokenClassificationPipeline(model=make_student(**label_fields(labels)), tokenizer=tokenizer)
    options = {"top_k": 2, "marginals": True, "entropy": True}
    mapped = tag_dataset(Dataset.from_dict({"text": TEXTS}), pipe, batch_size=2, **options)
    expected = pipe(TEXTS, batch_size=2, **options)
    for row, answer in zip(mapped, expected):
        assert set(row) == {"text", *answer}
        for key in ("tags", "entities"):
            if key in answer:
                assert [one["word"] for one in row[key]] == [one["word"] for one in answer[key]]
        assert row["entropy"] == pytest.approx(answer["entropy"], abs=1e-5)
        assert len(row["marginals"]) == len(answer["marginals"])


def test_columns_are_never_overwritten_or_guessed(make_student, tokenizer):
    pipe = CRFTokenClassificationPipeline(model=make_student(), tokenizer=tokenizer)
    with pytest.raises(ValueError, match=r"columns \['entities'\] already"):
        tag_dataset(Dataset.from_dict({"text": ["a"], "entities": ["b"]}), pipe)
    with pytest.raises(ValueError, match=r"no column 'text'.*\['words'\]"):
        tag_dataset(Dataset.from_dict({"words": ["a"]}), pipe)
    for batch_size in (0, -1):  # which `Dataset.map` takes for one batch of everything
        with pytest.raises(ValueError, match="batch_size must be at least 1"):
            tag_dataset(Dataset.from_dict({"text": ["a"]}), pipe, batch_size=batch_size)


def test_what_the_pipeline_was_made_with_becomes_columns_too(make_student, tokenizer):
    pipe = CRFTokenClassificationPipeline(model=make_student(), tokenizer=tokenizer, top_k=2, entropy=True)
    assert tag_dataset(Dataset.from_dict({"text": TEXTS}), pipe).column_names == [
        "text",
        "entities",
        "top_k",
        "entropy",
    ]
