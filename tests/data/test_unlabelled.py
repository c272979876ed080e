"""Dangers: gold that was to be hidden is learnt from all the same, or hiding it loses words, columns or names."""

import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from hf_structkd import StructKDTrainer, StructKDTrainingArguments, Teacher, encode_corpus
from hf_structkd.data.unlabelled import has_any_gold, has_gold, hide_gold, mix_unlabelled, select_gold


def test_hidden_gold_is_gone_and_nothing_else(corpus, tokenizer, labels):
    hidden = hide_gold(corpus)
    assert hidden["tags"][:] == [None] * len(corpus)
    assert hidden.features == corpus.features
    assert hidden.column_names == corpus.column_names
    assert hidden["tokens"][:] == corpus["tokens"][:]
    assert corpus["tags"][0] is not None
    encoded = encode_corpus(hidden, tokenizer, labels)
    assert {label for row in encoded["labels"] for label in row} == {-100}


def test_class_labels_keep_their_names():
    features = Features({"tokens": List(Value("string")), "ner_tags": List(ClassLabel(names=["O", "B-X"]))})
    data = Dataset.from_dict({"tokens": [["a"]], "ner_tags": [[1]]}, features=features)
    assert hide_gold(data).features == features
    mixed = mix_unlabelled(data, Dataset.from_dict({"tokens": [["b", "c"]]}))
    assert mixed.features == features
    assert mixed["ner_tags"][:] == [[1], None]


def test_mixing_takes_text_with_and_without_tags(corpus, tokenizer, labels):
    bare = Dataset.from_dict({"tokens": [["Anna", "flew"]], "language": ["en"], "source": ["web"]})
    mixed = mix_unlabelled(corpus.select(range(3)), [corpus.select(range(3, 5)), bare])
    assert mixed.column_names == corpus.column_names
    assert has_gold(mixed) == [True] * 3 + [False] * 3
    assert has_gold(encode_corpus(mixed, tokenizer, labels)) == [True] * 3 + [False] * 3
    assert has_gold(bare) == [False]


def test_corpora_that_cannot_be_mixed_are_named(corpus):
    with pytest.raises(ValueError, match="needs a column 'tokens'"):
        mix_unlabelled(corpus, Dataset.from_dict({"text": ["a b"]}))
    with pytest.raises(ValueError, match="labelled corpus has no tags"):
        mix_unlabelled(corpus.remove_columns("tags"), corpus)


class TestTokenised:
    """Danger: the tags of a tokenised corpus are in its labels too, and stay there when they are hidden."""

    @pytest.mark.parametrize("dropped", [[], ["tags"], ["tokens", "tags"]])
    def test_hidden_gold_is_gone(self, corpus, tokenizer, labels, dropped):
        encoded = encode_corpus(corpus, tokenizer, labels).remove_columns(dropped)
        hidden = hide_gold(encoded)
        assert not has_any_gold(hidden)
        assert has_gold(hidden) == [False] * len(corpus)
        assert hidden.features == encoded.features
        assert hidden.column_names == encoded.column_names
        assert hidden["input_ids"][:] == encoded["input_ids"][:]
        assert [len(row) for row in hidden["labels"]] == [len(row) for row in encoded["input_ids"]]
        assert has_any_gold(encoded)
        rows = [5, 1]
        assert hide_gold(encoded.select(rows))["input_ids"][:] == encoded.select(rows)["input_ids"][:]

    @pytest.mark.parametrize("dropped", [[], ["tokens", "tags"]])
    def test_mixing(self, corpus, tokenizer, labels, dropped):
        encoded = encode_corpus(corpus, tokenizer, labels).remove_columns(dropped)
        answered = encoded.select([7]).add_column("teacher_entropy", [0.5])
        mixed = mix_unlabelled(encoded.select(range(3)), [encoded.select([3, 4]), answered])
        assert has_gold(mixed) == [True] * 3 + [False] * 3
        assert mixed.features == encoded.features
        assert mixed["input_ids"][:] == encoded.select([0, 1, 2, 3, 4, 7])["input_ids"][:]
        bare = mix_unlabelled(encoded.select([0]), encoded.select([1]).remove_columns("labels"))
        assert has_gold(bare) == [True, False]
        assert len(bare[1]["labels"]) == len(bare[1]["input_ids"])
        for one, other in ((encoded, corpus), (corpus, encode_corpus(corpus, tokenizer, labels))):
            with pytest.raises(ValueError, match=r"all are tokenised .*, or none is"):
                mix_unlabelled(one, other)

    def test_only_what_has_gold_is_scored(self, corpus, caplog):
        mixed = mix_unlabelled(corpus.select([0, 1]), corpus.select([2]))
        assert select_gold(mixed)["tokens"][:] == corpus["tokens"][:2]
        assert "1 of 3 sentences have no gold tags and are not scored" in caplog.text
        assert select_gold(corpus) is corpus
        with pytest.raises(ValueError, match="none of the sentences has gold tags"):
            select_gold(hide_gold(corpus))


def arguments(folder, **fields):
    return StructKDTrainingArguments(
        output_dir=str(folder), num_train_epochs=2, per_device_train_batch_size=4, use_cpu=True, report_to="none",
        disable_tqdm=True, save_strategy="no", **fields,
    )  # fmt: skip


@pytest.fixture
def mixed(corpus):
    return mix_unlabelled(corpus.select(range(8)), corpus.select(range(8, 40)))


class CountingCollator:
    """Notes, for each sentence of each batch, whether it had gold, and which sentences had none."""

    def __init__(self, collator):
        self.collator, self.seen, self.unlabelled = collator, [], set()

    def __call__(self, features):
        self.seen.append([any(label != -100 for label in f["labels"]) for f in features])
        self.unlabelled |= {tuple(f["input_ids"]) for f, gold in zip(features, self.seen[-1]) if not gold}
        return self.collator(features)


@pytest.mark.parametrize("strategy", ["random", "group_by_length"])
def test_the_trainer_draws_at_the_rate(make_student, mixed, tokenizer, tmp_path, strategy):
    teacher = Teacher(make_student(seed=1), tokenizer)
    args = arguments(tmp_path, objective="posterior", unlabelled_rate=0.75, train_sampling_strategy=strategy)
    trainer = StructKDTrainer(make_student(), args, None, mixed, None, tokenizer, teachers=teacher)
    trainer.data_collator = collator = CountingCollator(trainer.data_collator)
    trainer.train()
    assert trainer.state.max_steps == 2 * 32 // 4
    for epoch in (collator.seen[:8], collator.seen[8:]):
        assert sum(map(sum, epoch)) == 8
        assert sum(map(len, epoch)) == 32
    # 24 of 32 an epoch: only if the sampler is told the epoch do two epochs see them all.
    assert len(collator.unlabelled) == len({tuple(words) for words in mixed["tokens"][8:]})


def test_without_a_rate_all_sentences_are_drawn_alike(make_student, mixed, tokenizer, tmp_path):
    teacher = Teacher(make_student(seed=1), tokenizer)
    args = arguments(tmp_path, objective="posterior")
    trainer = StructKDTrainer(make_student(), args, None, mixed, None, tokenizer, teachers=teacher)
    assert sorted(trainer._get_train_sampler()) == list(range(40))


def test_a_rate_out_of_range_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"unlabelled_rate must be in \[0, 1\), not 1.5"):
        arguments(tmp_path, unlabelled_rate=1.5)
