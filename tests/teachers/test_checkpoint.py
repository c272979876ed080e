"""Dangers: a teacher answers for the wrong label or word, and its answers are trusted."""

import pytest
import torch
from datasets import Dataset
from transformers import XLMRobertaConfig, XLMRobertaForTokenClassification

from hf_structkd import LinearChainCRF, StructKDTrainer, StructKDTrainingArguments, Teacher
from hf_structkd.data.columns import TEMPERED_COLUMNS
from hf_structkd.teachers.base import fit_temperature
from hf_structkd.teachers.function import CallableTeacher


@pytest.fixture
def softmax_model(tokenizer, labels):
    torch.manual_seed(1)
    config = XLMRobertaConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=40, pad_token_id=1, type_vocab_size=1, id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
    )  # fmt: skip
    model = XLMRobertaForTokenClassification(config).eval()
    torch.nn.init.normal_(model.classifier.weight)
    return model


def test_a_crf_teacher_answers_with_its_own_distribution(make_student, tokenizer, corpus, labels):
    model = make_student(seed=3)
    sentences = corpus["tokens"][:5]
    distribution = Teacher(model, tokenizer).distribution(sentences, labels)
    for i, words in enumerate(sentences):
        alone = Teacher(model, tokenizer).distribution([words], labels)
        torch.testing.assert_close(distribution.marginals[i, : len(words)], alone.marginals[0], atol=1e-5, rtol=1e-4)
        assert distribution.lengths[i] == len(words)


def test_labels_are_matched_by_name_not_by_number(make_student, tokenizer, corpus, labels):
    teacher = Teacher(make_student(), tokenizer)
    order = list(reversed(labels))
    sentences = corpus["tokens"][:4]
    straight, turned = teacher.distribution(sentences, labels), teacher.distribution(sentences, order)
    back = [order.index(label) for label in labels]
    torch.testing.assert_close(turned.marginals[..., back], straight.marginals)
    torch.testing.assert_close(turned.edge_counts[:, back][:, :, back], straight.edge_counts)
    assert teacher.tag(sentences, order) == teacher.tag(sentences)


def test_a_softmax_teacher_is_a_crf_without_transitions(softmax_model, tokenizer, corpus, labels):
    sentences = [words[:6] for words in corpus["tokens"][:4]]  # short enough for the stock model's one window
    marginals = Teacher(softmax_model, tokenizer).distribution(sentences, labels).marginals
    for i, words in enumerate(sentences):
        encoded = tokenizer(words, is_split_into_words=True, return_tensors="pt")
        ids = encoded.word_ids()
        firsts = [p for p, word in enumerate(ids) if word is not None and word != ids[p - 1]]
        expected = softmax_model(**encoded).logits[0, firsts].softmax(dim=-1)
        torch.testing.assert_close(marginals[i, : len(words)], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("head", ["crf", "softmax"])
def test_a_sentence_longer_than_the_teachers_window_is_answered_whole(
    head, softmax_model, make_student, tokenizer, corpus, labels
):
    model = softmax_model if head == "softmax" else make_student()
    words = [word for sentence in corpus["tokens"][:15] for word in sentence]
    distribution = Teacher(model, tokenizer).distribution([words], labels)
    torch.testing.assert_close(distribution.marginals.sum(dim=-1), torch.ones(1, len(words)))


def test_other_labels_are_an_error_that_says_which_and_a_map_mends_names(make_student, tokenizer, corpus, labels):
    renamed = {label: label.replace("PER", "PERSON") for label in labels if "PER" in label}
    wanted = [renamed.get(label, label) for label in labels]
    with pytest.raises(ValueError, match=r"lacks \['B-PERSON', 'I-PERSON'\], and has \['B-PER', 'I-PER'\].*label_map"):
        Teacher(make_student(), tokenizer).distribution(corpus["tokens"][:1], wanted)
    mapped = Teacher(make_student(), tokenizer, label_map=renamed)
    assert mapped.distribution(corpus["tokens"][:1], wanted).marginals.shape[-1] == len(labels)
    with pytest.raises(ValueError, match="it has no label"):
        Teacher(make_student(), tokenizer, label_map={"B-MISC": "O"})


def test_the_revision_changes_with_weights_and_labels_and_with_nothing_else(make_student, tokenizer, tmp_path):
    teacher = Teacher(make_student(seed=1), tokenizer)
    assert teacher.revision == Teacher(make_student(seed=1), tokenizer).revision
    assert teacher.revision != Teacher(make_student(seed=2), tokenizer).revision
    assert teacher.revision != Teacher(make_student(seed=1), tokenizer, label_map={"B-PER": "B-X"}).revision
    teacher.model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert Teacher.from_pretrained(str(tmp_path)).revision == teacher.revision


def test_what_a_hub_commit_does_not_tell_is_in_the_settings(make_student, tokenizer):
    """Danger: kept answers of another precision, or read in another tag scheme, are taken for these."""
    assert Teacher(make_student(), tokenizer, revision="abc").settings() == {}
    half = Teacher(make_student().to(torch.bfloat16), tokenizer, revision="abc", temperature=2.0)
    assert half.settings() == {"temperature": 2.0, "dtype": "bfloat16"}
    assert Teacher(make_student(), tokenizer, revision="abc", scheme="plain").settings() == {"scheme": "plain"}


def test_a_student_teaches_another_and_a_blind_teacher_a_part_end_to_end(
    make_student, tokenizer, corpus, labels, tmp_path
):
    """Born again for English; for Russian a teacher that knows persons alone."""
    born = Teacher(make_student(seed=1), tokenizer)
    others = sorted({label.split("-")[1] for label in labels if label != "O"} - {"PER"})
    blind = CallableTeacher(
        lambda sentences: [[[0.7, 0.2, 0.1]] * len(words) for words in sentences],
        ["O", "B-PER", "I-PER"],
        name="persons",
        revision="1",
        label_map={"O": ["O", *others]},
    )
    args = StructKDTrainingArguments(
        str(tmp_path),
        objective="posterior+top_wk+fuzzy",
        top_k=3,
        max_steps=3,
        per_device_train_batch_size=8,
        learning_rate=1e-2,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        logging_steps=1,
        save_strategy="no",
    )
    student = make_student(seed=5)
    trainer = StructKDTrainer(
        student, args, None, corpus, processing_class=tokenizer, teachers={"en": born, "ru": blind}
    )
    trainer.train()
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    assert len(losses) == 3
    assert all(0 < loss < 100 for loss in losses)


def test_a_global_temperature_reaches_teachers_and_student(make_student, tokenizer, corpus, labels, tmp_path):
    args = StructKDTrainingArguments(
        str(tmp_path),
        objective="structural",
        temperature=2.0,
        temperature_mode="global",
        max_steps=1,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
    )
    teacher, student = Teacher(make_student(seed=1), tokenizer), make_student(seed=2, crf_constraints="none")
    trainer = StructKDTrainer(student, args, None, corpus, processing_class=tokenizer, teachers=teacher)
    row = trainer.train_dataset[0]
    hot = teacher.distribution([row["tokens"]], labels).with_temperature(2.0)
    assert dict(zip(TEMPERED_COLUMNS, row["teacher_temperature"])) == {
        **dict.fromkeys(TEMPERED_COLUMNS, 1.0),
        "teacher_marginals": 2.0,
        "teacher_edge_counts": 2.0,
    }
    torch.testing.assert_close(torch.tensor(row["teacher_edge_counts"]), hot.edge_counts[0], atol=1e-4, rtol=1e-4)
    batch = trainer.data_collator([row])
    kd = 4 * LinearChainCRF.cross_entropy(
        Teacher(student, tokenizer).distribution([row["tokens"]], labels).with_temperature(2.0), hot
    )
    loss = trainer.compute_loss(student.eval(), batch)
    assert loss.item() * len(row["tokens"]) == pytest.approx(kd.item(), rel=1e-2)


def test_a_checkpoint_that_is_no_trained_tagger_teaches_nobody(make_student, softmax_model, tokenizer, tmp_path):
    """Danger: what is missing is drawn at random, the log says so, and the student learns noise for hours."""
    student = make_student()
    encoder = softmax_model.base_model
    encoder.save_pretrained(tmp_path / "encoder")
    tokenizer.save_pretrained(tmp_path / "encoder")
    with pytest.raises(ValueError, match=r"encoder lacks the weights classifier.bias, classifier.weight"):
        Teacher.from_pretrained(str(tmp_path / "encoder"))
    student.save_pretrained(tmp_path / "damaged", state_dict={
        name: value for name, value in student.state_dict().items() if name != "crf.transitions"
    })  # fmt: skip
    tokenizer.save_pretrained(tmp_path / "damaged")
    with pytest.raises(ValueError, match=r"damaged lacks the weights crf.transitions: no trained tagger"):
        Teacher.from_pretrained(str(tmp_path / "damaged"))


# Dangers: a calibration that makes a teacher worse, is off, or looks at tags that the teacher cannot have.


LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


def scores_for(words, labels=LABELS, seed=0):
    generator = torch.Generator().manual_seed(seed)
    table = 1.2 * torch.randn(50, len(labels), generator=generator)
    shared = [
        torch.randn(shape, generator=generator) for shape in ((len(labels),) * 2, (len(labels),), (len(labels),))
    ]
    return table[torch.tensor([int(word) for word in words])], shared


def sampled_corpus(sentences=400, labels=LABELS) -> Dataset:
    """Sentences whose gold tags are drawn from the teacher's own distribution: temperature 1 is right."""
    generator = torch.Generator().manual_seed(1)
    rows = []
    for _ in range(sentences):
        length = int(torch.randint(1, 9, (1,), generator=generator))
        words = [str(int(w)) for w in torch.randint(0, 50, (length,), generator=generator)]
        emissions, shared = scores_for(words, labels)
        tags = LinearChainCRF(emissions[None], *shared).sample(1, generator)[0, 0]
        rows.append({"tokens": words, "tags": [labels[tag] for tag in tags.tolist()]})
    return Dataset.from_list(rows)


def overconfident(factor, **options):
    def answer(sentences):
        return [
            (factor * emissions, *(factor * part for part in shared))
            for emissions, shared in (scores_for(words) for words in sentences)
        ]

    return CallableTeacher(answer, LABELS, name="T", revision="1", answers="scores", **options)


@pytest.fixture(scope="module")
def gold() -> Dataset:
    return sampled_corpus()


@pytest.mark.slow
@pytest.mark.parametrize("factor", [3.0, 1.0, 0.4])
def test_scores_times_three_are_divided_by_three(gold, factor):
    teacher = overconfident(factor)
    found = teacher.calibrate(gold)
    assert found.temperature == pytest.approx(factor, rel=0.12)
    assert teacher.temperature == found.temperature
    assert found.nll <= found.nll_before
    assert (found.sentences, found.left_out) == (len(gold), 0)
    # What it says is what the teacher's own distribution now says.
    nll = 0.0
    for row in gold:
        tags = torch.tensor([[LABELS.index(tag) for tag in row["tags"]]])
        nll -= float(teacher.distribution([row["tokens"]], LABELS).log_prob(tags))
    assert nll / len(gold) == pytest.approx(found.nll, rel=1e-5)


@pytest.mark.slow
def test_it_is_the_minimum_and_where_the_teacher_stood_before_does_not_matter(gold):
    found = overconfident(3.0).calibrate(gold)
    assert overconfident(3.0, temperature=5.0).calibrate(gold).temperature == found.temperature
    for other in (found.temperature - 0.05, found.temperature + 0.05):
        teacher = overconfident(3.0, temperature=other)
        tags = [torch.tensor([[LABELS.index(tag) for tag in row["tags"]]]) for row in gold]
        nll = -sum(
            float(teacher.distribution([row["tokens"]], LABELS).log_prob(path)) for row, path in zip(gold, tags)
        ) / len(gold)
        assert nll >= found.nll - 1e-6


@pytest.mark.parametrize(
    ("label_map", "student", "read"),
    [
        ({"LOC": "PER"}, LABELS[:3], lambda tag: tag.replace("LOC", "PER")),
        ({"LOC": "O"}, LABELS[:3], lambda tag: "O" if "LOC" in tag else tag),
        ({"LOC": ["LOC", "GPE"]}, [*LABELS, "B-GPE", "I-GPE"], lambda tag: tag.replace("LOC", "GPE")),
    ],
)
@pytest.mark.slow
def test_label_maps_are_honoured(gold, label_map, student, read):
    """Gold tags as the student has them: merged, dropped, or of a type the teacher cannot tell from another."""
    other = gold.map(lambda row: {"tags": [read(tag) for tag in row["tags"]]})
    found = overconfident(3.0, label_map=label_map).calibrate(other, student)
    assert found.temperature == pytest.approx(3.0, rel=0.15)
    assert found.left_out == 0


def test_sentences_that_cannot_be_judged_are_left_out_and_counted(gold):
    rows = [
        {"tokens": ["1", "2"], "tags": ["O", "B-MISC"]},  # a label the student has not
        {"tokens": ["1", "2"], "tags": None},  # no gold
        *gold.select(range(30)).to_list(),
    ]
    found = overconfident(1.0).calibrate(Dataset.from_list(rows), LABELS)
    assert (found.sentences, found.left_out) == (30, 2)
    listed = CallableTeacher(
        lambda sentences: [[(["O"] * len(words), 0.9), (["B-PER"] * len(words), 0.1)] for words in sentences],
        LABELS, name="T", revision="1", answers="paths",
    )  # fmt: skip
    half = Dataset.from_list([{"tokens": ["1"], "tags": [tag]} for tag in ("O", "B-PER", "I-LOC", "O", "B-PER")])
    found = listed.calibrate(half)  # half of those it thinks possible are O: from 9 to 1 to 1 to 1, as far as may be
    assert (found.sentences, found.left_out, found.temperature) == (4, 1, 10.0)
    with pytest.raises(ValueError, match="cannot be calibrated: of 1 sentences none"):
        listed.calibrate(half.select([2]))
    with pytest.raises(ValueError, match="calibrated on gold tags"):
        listed.calibrate(half.remove_columns("tags"))


@pytest.mark.parametrize("head", ["crf", "softmax"])
def test_checkpoints_of_both_heads_are_never_made_worse(head, make_student, tokenizer, corpus, labels):
    torch.manual_seed(0)
    if head == "crf":
        model = make_student(seed=1)
    else:
        config = XLMRobertaConfig(
            vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=32, max_position_embeddings=60, pad_token_id=1, type_vocab_size=1,
            id2label=dict(enumerate(labels)), label2id={label: i for i, label in enumerate(labels)},
        )  # fmt: skip
        model = XLMRobertaForTokenClassification(config)
        torch.nn.init.normal_(model.classifier.weight)
    teacher = Teacher(model, tokenizer)
    found = fit_temperature(teacher, corpus, list(reversed(labels)))
    assert teacher.temperature == 1.0
    assert found.nll < found.nll_before  # it was never trained, so flatter is better
    assert found.temperature > 1.0
