"""Danger: languages, or sentences without gold, drawn in other proportions than asked, some never, or in another order
on another process."""

from collections import Counter
from pathlib import Path

import pytest
from accelerate.data_loader import BatchSamplerShard
from datasets import ClassLabel, Dataset, Features, List, Value
from torch.utils.data import BatchSampler

from hf_structkd import cli, load_corpus
from hf_structkd.data.augmentation import Augmentation, VocabularyWords, augment, script_of
from hf_structkd.data.sampling import MixedSampler, divide, language_counts, unlabelled_count
from hf_structkd.data.source_text import CorpusError, RawSentence
from hf_structkd.data.unlabelled import has_gold, mix_unlabelled

LANGUAGES = ["en"] * 80 + ["ta"] * 20


@pytest.mark.parametrize(("temperature", "expected"), [(1.0, (80, 20)), (float("inf"), (50, 50)), (2.0, (67, 33))])
def test_counts_follow_the_temperature(temperature, expected):
    drawn = Counter(LANGUAGES[row] for row in MixedSampler(LANGUAGES, temperature))
    assert (drawn["en"], drawn["ta"]) == expected


def test_no_sentence_is_drawn_twice_before_its_language_is_used_up():
    rows = Counter(MixedSampler(LANGUAGES, float("inf")))
    assert max(rows[row] for row in range(80)) == 1
    assert {rows[row] for row in range(80, 100)} == {2, 3}


def test_what_one_epoch_leaves_out_comes_in_the_next():
    sampler = MixedSampler(LANGUAGES, float("inf"))
    drawn = list(sampler)
    sampler.set_epoch(1)
    drawn += list(sampler)
    rows = Counter(row for row in drawn if row < 80)
    assert sum(rows.values()) == 100
    assert set(rows.values()) == {1, 2}
    assert len(rows) == 80


def test_the_order_depends_on_seed_and_epoch_alone():
    first, second = (MixedSampler(LANGUAGES, 2.0, seed=1) for _ in range(2))
    assert list(first) == list(second)
    second.set_epoch(1)
    assert list(first) != list(second)
    assert list(MixedSampler(LANGUAGES, 2.0, seed=2)) != list(first)
    first.set_epoch(1)  # a run that was resumed has not been through epoch 0
    assert list(first) == list(second)


def test_counts_add_up_whatever_is_rounded():
    for total in range(1, 40):
        assert sum(language_counts([3, 5, 7, 11], total, 3.0)) == total


@pytest.mark.parametrize("temperature", [1e-3, 0.01, 0.5, 1e4, 1e-300])
def test_counts_are_counts_at_any_temperature(temperature):
    """Danger: a size to the hundredth power is no number any more, and the counts become negative."""
    counts = language_counts([20_000, 5_000, 1], 100, temperature)
    assert sum(counts) == 100
    assert min(counts) >= 0
    assert counts == sorted(counts, reverse=True)
    if temperature < 0.1:
        assert counts == [100, 0, 0]


# ---- sentences without gold ----

GOLD = [row % 4 == 0 for row in range(100)]  # 20 of en, 5 of ta


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.5, 0.9])
def test_unlabelled_sentences_come_at_the_rate_and_every_labelled_one_once(rate):
    sampler = MixedSampler(LANGUAGES, labelled=GOLD, unlabelled_rate=rate)
    rows = list(sampler)
    assert len(rows) == len(sampler) == 25 + unlabelled_count(25, rate)
    assert sorted(row for row in rows if GOLD[row]) == [row for row in range(100) if GOLD[row]]
    assert abs(sum(not GOLD[row] for row in rows) / len(rows) - rate) < 0.02


def test_every_unlabelled_sentence_is_used_before_one_is_used_again():
    sampler = MixedSampler(LANGUAGES, labelled=GOLD, unlabelled_rate=0.5)
    drawn: Counter = Counter()
    for epoch in range(3):
        sampler.set_epoch(epoch)
        drawn.update(row for row in sampler if not GOLD[row])
    assert sum(drawn.values()) == 75
    assert set(drawn.values()) == {1}


def test_the_rate_holds_within_batches_not_only_over_the_epoch():
    languages = ["en"] * 4000
    gold = [row < 1000 for row in range(4000)]
    rows = list(MixedSampler(languages, labelled=gold, unlabelled_rate=0.5))
    shares = [sum(not gold[row] for row in rows[i : i + 100]) for i in range(0, 2000, 100)]
    assert all(30 < share < 70 for share in shares)


def test_languages_are_balanced_with_gold_and_without():
    rows = list(MixedSampler(LANGUAGES, float("inf"), labelled=GOLD, unlabelled_rate=0.5))
    drawn = Counter((LANGUAGES[row], GOLD[row]) for row in rows)
    assert {abs(drawn["en", gold] - drawn["ta", gold]) for gold in (True, False)} <= {0, 1}


def test_like_lengths_come_together_and_nothing_else_changes():
    lengths = [(7 * row) % 100 + 1 for row in range(100)]
    fields = {"labelled": GOLD, "unlabelled_rate": 0.5, "seed": 3}
    plain = MixedSampler(LANGUAGES, **fields)
    grouped = MixedSampler(LANGUAGES, lengths=lengths, batch_size=5, **fields)
    assert sorted(grouped) == sorted(plain)
    assert list(grouped) == list(MixedSampler(LANGUAGES, lengths=lengths, batch_size=5, **fields))

    def padding(rows):
        batches = [[lengths[row] for row in rows[i : i + 5]] for i in range(0, len(rows), 5)]
        return sum(max(batch) * len(batch) - sum(batch) for batch in batches)

    assert padding(list(grouped)) < 0.7 * padding(list(plain))


@pytest.mark.parametrize(
    ("languages", "fields", "message"),
    [
        (["en"], {"temperature": 0}, "temperature must be above 0"),
        ([], {}, "no sentences"),
        (["en"], {"labelled": [True], "unlabelled_rate": 1.0}, r"rate must be in \[0, 1\), not 1.0"),
        (["en"], {"labelled": [True], "unlabelled_rate": 0.5}, "needs sentences without gold tags"),
        (["en"], {"labelled": [False], "unlabelled_rate": 0.5}, "needs sentences with gold tags"),
    ],
)
def test_bad_input_is_named(languages, fields, message):
    with pytest.raises(ValueError, match=message):
        MixedSampler(languages, **fields)


def test_processes_share_an_epoch_without_drawing_a_sentence_twice():
    def shard(process):
        sampler = MixedSampler(LANGUAGES, labelled=GOLD, unlabelled_rate=0.6)
        sampler.set_epoch(4)
        return [row for batch in BatchSamplerShard(BatchSampler(sampler, 4, False), 2, process) for row in batch]

    sampler = MixedSampler(LANGUAGES, labelled=GOLD, unlabelled_rate=0.6)
    sampler.set_epoch(4)
    both = Counter(shard(0) + shard(1))
    assert set(both) == set(sampler)
    assert both.total() - len(sampler) < 2 * 4  # the last batches are filled up


# Dangers: sentences of training that are scored on too; sentences that change sides when the file grows; half a
# corpus, or an option that is taken and does nothing.


SHARES = {"train": 8, "dev": 1, "test": 1}


def made(words) -> list[RawSentence]:
    return [RawSentence([str(word), "sang"], ["B-PER", "O"], "made") for word in words]


def test_every_sentence_is_in_one_split_and_stays_there_when_the_file_grows():
    small, large = divide(made(range(1000)), SHARES), divide(made(range(-500, 2000)), SHARES)
    assert sum(map(len, small.values())) == 1000
    for split, share in SHARES.items():
        assert {s.tokens[0] for s in small[split]} <= {s.tokens[0] for s in large[split]}
        assert abs(len(small[split]) - share * 100) < 40
        assert [int(s.tokens[0]) for s in small[split]] == sorted(int(s.tokens[0]) for s in small[split])


def test_equal_sentences_are_never_on_two_sides():
    parts = divide(made([*range(200), *range(200)]), SHARES)
    words = [{s.tokens[0] for s in part} for part in parts.values()]
    assert sum(map(len, words)) == 200


def test_too_few_sentences_and_shares_of_nothing_are_refused():
    with pytest.raises(CorpusError, match=r"2 sentences are too few .* would be empty"):
        divide(made(range(2)), SHARES)
    with pytest.raises(ValueError, match="above 0"):
        divide(made(range(9)), {**SHARES, "dev": 0})


def test_an_export_becomes_three_files_that_a_recipe_reads(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["convert", "demo", "export/en.jsonl", "--to", "doccano", "--language", "en", "--max_sentences", "90"]
    assert cli.main(command) == 0
    target = "data/en/{split}.jsonl"
    assert cli.main(["convert", "export/en.jsonl", target, "--to", "doccano", "--shares", "0.8", "0.1", "0.1"]) == 0
    assert capsys.readouterr().out.count(" sentences, ") == 4
    whole = load_corpus("export/en.jsonl", language="en")
    parts = [load_corpus(target.format(split=split), language="en") for split in SHARES]
    assert sum(map(len, parts)) == len(whole) == 90
    percent = "percent/{split}.jsonl"
    assert cli.main(["convert", "export/en.jsonl", percent, "--to", "doccano", "--shares", "80", "10", "10"]) == 0
    assert "read as percent" in capsys.readouterr().out
    for split in SHARES:
        assert Path(percent.format(split=split)).read_bytes() == Path(target.format(split=split)).read_bytes()
    assert sorted(map(str, whole["tags"])) == sorted(str(tags) for part in parts for tags in part["tags"])


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["demo", "a.conll"], "--language chooses a language of the built-in corpus"),
        (["a.jsonl", "a.conll", "--language", "en"], "other sources have no use for it"),
        (["a.jsonl", "a.conll", "--shares", "8", "1", "1"], "write {split} in the name of the target"),
        (["a.jsonl", "{split}.conll"], "{split} stands for the parts of a divided corpus: add --shares 0.8 0.1 0.1"),
        (["a.jsonl", "{split}.conll", "--shares", "8", "1", "1"], "add up to 10: give parts of 1 (0.8 0.1 0.1) or"),
        (["a.jsonl", "{split}.conll", "--shares", "0.8", "0.1", "0.2"], "--shares 0.8 0.1 0.2 add up to 1.1"),
        (["a.jsonl", "{split}.conll", "--shares", "1", "0", "1"], "must be above 0"),
    ],
)
def test_options_without_effect_are_refused(arguments, reason, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        cli.main(["convert", *arguments])
    assert reason in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())


# Dangers: rewriting leaks gold tags, changes what it must not, mixes languages, or draws differently each time.


NOTHING = {"copies": 1, "mention_rate": 0.0, "word_rate": 0.0, "vocabulary_rate": 0.0}


def two_languages():
    return Dataset.from_dict(
        {
            "tokens": [["Anna", "Lee", "saw", "Rome"], ["nobody", "came"], ["Москва", "и", "Анна", "Ли"]],
            "tags": [["B-PER", "I-PER", "O", "B-LOC"], ["O", "O"], ["B-LOC", "O", "B-PER", "I-PER"]],
            "language": ["en", "en", "ru"],
        }
    )


def test_nothing_to_replace_gives_the_sentences_without_their_gold():
    corpus = two_languages()
    rewritten = augment(corpus, Augmentation(**NOTHING | {"copies": 2}))
    assert rewritten["tokens"][:] == corpus["tokens"][:] * 2
    assert rewritten["language"][:] == corpus["language"][:] * 2
    assert rewritten.column_names == ["tokens", "language"]
    assert has_gold(mix_unlabelled(corpus, rewritten)) == [True] * 3 + [False] * 6


def test_mentions_give_way_to_mentions_of_their_language():
    rewritten = augment(two_languages(), Augmentation(**NOTHING | {"copies": 40, "mention_rate": 1.0}))
    by_first = {"en": set(), "ru": set()}
    for words, language in zip(rewritten["tokens"], rewritten["language"]):
        by_first[language].add(" ".join(words))
    assert by_first["en"] == {"nobody came"} | {
        f"{a} saw {b}" for a in ("Anna Lee", "Rome") for b in ("Anna Lee", "Rome")
    }
    assert by_first["ru"] == {f"{a} и {b}" for a in ("Москва", "Анна Ли") for b in ("Москва", "Анна Ли")}


def test_class_labels_and_missing_tags_are_read():
    names = ["O", "B-X", "I-X"]
    features = Features({"tokens": List(Value("string")), "ner_tags": List(ClassLabel(names=names))})
    rows = {"tokens": [["a", "b", "c"], ["d"], ["e", "f"]], "ner_tags": [[1, 2, 0], [1], None]}
    rewritten = augment(
        Dataset.from_dict(rows, features=features), Augmentation(**NOTHING | {"copies": 30, "mention_rate": 1.0})
    )
    assert {tuple(words) for words in rewritten["tokens"]} == {
        ("a", "b", "c"),
        ("d", "c"),
        ("a", "b"),
        ("d",),
        ("e", "f"),
    }


def test_parts_of_speech_are_no_mentions():
    corpus = Dataset.from_dict({"tokens": [["he", "ran"], ["she", "sat"]], "upos": [["PRON", "VERB"]] * 2})
    rewritten = augment(corpus, Augmentation(**NOTHING | {"mention_rate": 1.0}))
    assert rewritten["tokens"][:] == corpus["tokens"][:]


def test_words_come_from_their_language_as_often_as_asked():
    corpus = Dataset.from_dict({"tokens": [["a"] * 50, ["b"] * 30, ["c"] * 40], "language": ["x", "x", "y"]})
    rewritten = augment(corpus, Augmentation(**NOTHING | {"copies": 20, "word_rate": 0.5}))
    first = [words for words in rewritten["tokens"] if len(words) == 50]
    share = sum(words.count("b") for words in first) / (50 * len(first))
    assert 0.12 < share < 0.26  # 0.5 * 3/8, with six deviations to each side
    assert all(set(words) == {"c"} for words in rewritten["tokens"] if len(words) == 40)


def test_the_vocabulary_gives_words_of_the_same_script(tokenizer):
    corpus = two_languages()
    known = {word for words in corpus["tokens"] for word in words}
    rewritten = augment(corpus, Augmentation(**NOTHING | {"copies": 20, "vocabulary_rate": 1.0}), tokenizer)
    for words, old in zip(rewritten["tokens"], list(corpus["tokens"]) * 20):
        assert [script_of(word) for word in words] == [script_of(word) for word in old]
    assert {word for words in rewritten["tokens"] for word in words} - known
    made = VocabularyWords(tokenizer)
    assert [made.similar_word(word, None) for word in ("12", "...", "\u200d", "")] == ["12", "...", "\u200d", ""]


def test_a_seed_draws_the_same_sentences(corpus, tokenizer):
    how = Augmentation(copies=2)
    again = [augment(corpus, how, tokenizer, seed)["tokens"][:] for seed in (1, 1, 2)]
    assert again[0] == again[1] != again[2]


def test_what_cannot_be_rewritten_is_said(corpus, tokenizer):
    with pytest.raises(ValueError, match="needs a tokenizer"):
        augment(corpus, Augmentation())
    with pytest.raises(ValueError, match="a corpus needs a column 'tokens'"):
        augment(corpus.remove_columns("tokens"), Augmentation(), tokenizer)
    with pytest.raises(ValueError, match="at least 1 copy"):
        Augmentation(copies=0)
    with pytest.raises(ValueError, match=r"word_rate must be in \[0, 1\], not 1.5"):
        Augmentation(word_rate=1.5)
    empty = augment(corpus.select([]), Augmentation(), tokenizer)
    assert len(empty) == 0
    assert empty.column_names == ["tokens", "language"]
