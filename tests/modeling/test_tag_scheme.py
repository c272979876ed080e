"""Tag schemes: against strict seqeval, and as properties over arbitrary tag sequences."""

import itertools
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_structkd.modeling.tag_scheme import Span, TagScheme, convert_tags

TYPES = ("PER", "event-war")
SCHEMES = {name: TagScheme.from_entity_types(TYPES, name) for name in ("BIO", "BIOES")}
SCHEMES["plain"] = TagScheme(["NOUN", "VERB", "X"])


def sequences(name, **sizes):
    return st.lists(st.sampled_from(SCHEMES[name].tags), **sizes)


scheme_and_tags = st.sampled_from(sorted(SCHEMES)).flatmap(
    lambda name: st.tuples(st.just(SCHEMES[name]), sequences(name, max_size=9))
)


def legal_by_matrix(scheme, tags):
    ids = [scheme.tags.index(tag) for tag in tags]
    if not ids:
        return True
    steps = all(bool(scheme.allowed[a, b]) for a, b in itertools.pairwise(ids))
    return steps and bool(scheme.allowed_start[ids[0]]) and bool(scheme.allowed_end[ids[-1]])


class TestInference:
    @pytest.mark.parametrize(
        ("tags", "name"),
        [
            (["O", "B-PER", "I-PER"], "BIO"),
            (["B-MISC", "O"], "BIO"),
            (["O"], "BIO"),
            (["O", "S-PER"], "BIOES"),
            (["O", "B-PER", "E-PER"], "BIOES"),
            (["O", "B", "I"], "BIO"),
            (["O", "B", "I", "E", "S"], "BIOES"),
            (["NOUN", "VERB"], "plain"),
            (["O", "PER"], "plain"),
            (["B", "I", "N"], "plain"),  # letters of a part-of-speech set, not prefixes
            (["I", "O"], "plain"),
            (["O", "B-"], "plain"),
        ],
    )
    def test_infers(self, tags, name):
        assert TagScheme(tags).name == name

    def test_types_keep_their_hyphens_and_order(self):
        scheme = TagScheme(["I-a-b", "B-c", "O", "B-a-b", "I-c"])
        assert scheme.entity_types == ("a-b", "c")

    @pytest.mark.parametrize(
        ("tags", "scheme", "named"),
        [
            (["O", "PER", "B-LOC"], "BIO", "PER"),
            (["O", "S-PER"], "BIO", "S-PER"),
            (["O", "L-PER"], "BIOES", "L-PER"),
            (["O", "B-X", "B-X"], None, "B-X"),
            (["O", 3], None, "3"),
            ([], None, "at least one"),
            (["O"], "IOB", "IOB"),
        ],
    )
    def test_names_the_offending_tags(self, tags, scheme, named):
        with pytest.raises(ValueError, match=named):
            TagScheme(tags, scheme)


class TestTransitions:
    @given(scheme_and_tags)
    def test_matrix_and_violations_agree(self, case):
        """A CRF masked by the matrix and a corpus check by violations() must call the same sequences legal."""
        scheme, tags = case
        assert legal_by_matrix(scheme, tags) == (scheme.violations(tags) == [])

    def test_plain_allows_everything(self):
        scheme = SCHEMES["plain"]
        assert scheme.allowed.all()
        assert scheme.allowed_start.all()
        assert scheme.allowed_end.all()
        assert scheme.allowed.dtype == torch.bool

    def test_bio_forbids_orphans_only(self):
        scheme = TagScheme(["O", "B-X", "I-X", "B-Y", "I-Y"])
        forbidden = {("O", "I-X"), ("O", "I-Y"), ("B-X", "I-Y"), ("I-X", "I-Y"), ("B-Y", "I-X"), ("I-Y", "I-X")}
        found = {(scheme.tags[a], scheme.tags[b]) for a, b in (~scheme.allowed).nonzero().tolist()}
        assert found == forbidden
        assert [scheme.tags[i] for i in (~scheme.allowed_start).nonzero().flatten().tolist()] == ["I-X", "I-Y"]

    def test_bioes_entities_must_close(self):
        scheme = SCHEMES["BIOES"]
        assert scheme.violations(["B-PER", "O"]) == [1]
        assert scheme.violations(["O", "B-PER"]) == [1]
        assert scheme.violations(["I-PER"]) == [0]

    @pytest.mark.parametrize("tags", [["O", "I-X"], ["O", "B-X", "I-X", "S-X"], ["O", "E-X"]])
    def test_every_tag_stays_reachable(self, tags):
        """A label set lacking partners (IOB1, small corpora) must not turn gold sequences into probability zero."""
        with pytest.warns(UserWarning, match="IOB1"):
            scheme = TagScheme(tags)
        for tag in tags:
            assert scheme.violations(["O", tag, "O"]) == []
            assert scheme.repair([tag]) == [tag]

    def test_b_without_i_is_ordinary(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            scheme = TagScheme(["O", "B-X", "I-X", "B-MISC"])
        assert scheme.violations(["B-MISC", "B-MISC", "O"]) == []
        with pytest.raises(ValueError, match="I-MISC"):
            scheme.tags_from_spans([Span(0, 2, "MISC")], 2)


class TestSpans:
    @pytest.mark.parametrize(("name", "seqeval_name"), [("BIO", "IOB2"), ("BIOES", "IOBES")])
    def test_reads_like_strict_seqeval(self, name, seqeval_name):
        """Training-time spans and the reported F1 must mean the same entities, malformed ones included."""
        scheme_module = pytest.importorskip("seqeval.scheme")
        scheme = SCHEMES[name]
        for tags in itertools.chain.from_iterable(itertools.product(scheme.tags, repeat=n) for n in (1, 2, 3, 4)):
            entities = scheme_module.Tokens(list(tags), getattr(scheme_module, seqeval_name)).entities
            expected = [Span(entity.start, entity.end, entity.tag) for entity in entities]
            assert scheme.spans(tags) == expected, tags

    @given(scheme_and_tags)
    def test_round_trip(self, case):
        scheme, tags = case
        legal = scheme.repair(tags)
        spans = scheme.spans(legal)
        if scheme.name != "plain":
            assert scheme.tags_from_spans(reversed(spans), len(legal)) == legal

    def test_plain_words_stand_alone(self):
        assert SCHEMES["plain"].spans(["X", "X"]) == [Span(0, 1, "X"), Span(1, 2, "X")]
        assert TagScheme(["O", "PER"]).spans(["O", "PER"]) == [Span(1, 2, "PER")]

    def test_reads_types_outside_the_label_set(self):
        """A teacher's or a gold standard's extra types can be read before anything is mapped."""
        assert SCHEMES["BIO"].spans(["B-NEW", "I-NEW"]) == [Span(0, 2, "NEW")]

    @pytest.mark.parametrize(
        ("spans", "named"),
        [
            ([Span(0, 2, "PER"), Span(1, 3, "PER")], "Overlapping"),
            ([Span(0, 1, "PER"), Span(0, 1, "PER")], "Overlapping"),
            ([Span(2, 2, "PER")], "empty"),
            ([Span(2, 4, "PER")], "3 words"),
            ([Span(0, 1, "NEW")], "B-NEW"),
        ],
    )
    def test_unwritable_spans(self, spans, named):
        with pytest.raises(ValueError, match=named):
            SCHEMES["BIO"].tags_from_spans(spans, 3)

    @pytest.mark.parametrize(
        ("name", "span", "named"),
        [
            ("BIO", (1, 1, "PER"), "is empty"),
            ("BIOES", (2, 1, "PER"), "is empty"),
            ("plain", (0, 2, "NOUN"), "no spans of several words"),
            ("plain", (0, 1, "PER"), "PER"),
            ("BIOES", (0, 3, "NEW"), "'B-NEW', 'E-NEW', 'I-NEW'"),
        ],
    )
    def test_spans_without_a_path_are_named(self, name, span, named):
        with pytest.raises(ValueError, match=named):
            SCHEMES[name].entity_path(span)

    def test_a_plain_span_is_one_tag_and_nothing_prolongs_it(self):
        assert SCHEMES["plain"].entity_path((3, 4, "VERB")) == ((1,), frozenset())

    @pytest.mark.parametrize(("name", "tag"), [("BIO", "E-PER"), ("BIO", "PER"), ("BIOES", "L-PER")])
    def test_tags_of_another_scheme_are_named(self, name, tag):
        with pytest.raises(ValueError, match=rf"Not {name} tags: \['{tag}'\]"):
            SCHEMES[name].spans(["O", tag])

    @pytest.mark.parametrize("name", ["BIO", "BIOES"])
    def test_entity_path_is_the_event_of_containing_the_span(self, name):
        """Wrong events would give entity probabilities that are not those of the spans reported."""
        scheme = SCHEMES[name]
        for tags in itertools.product(scheme.tags, repeat=4):
            if scheme.violations(tags):
                continue
            ids = [scheme.tags.index(tag) for tag in tags]
            for start, end in itertools.combinations(range(5), 2):
                carried, prolonging = scheme.entity_path(Span(start, end, "PER"))
                event = tuple(ids[start:end]) == carried and (end == 4 or ids[end] not in prolonging)
                assert event == (Span(start, end, "PER") in scheme.spans(tags))


class TestRepair:
    @given(scheme_and_tags)
    def test_legal_idempotent_and_quiet(self, case):
        scheme, tags = case
        repaired = scheme.repair(tags)
        assert len(repaired) == len(tags)
        assert scheme.violations(repaired) == []
        assert scheme.repair(repaired) == repaired
        if not scheme.violations(tags):
            assert repaired == tags

    @given(scheme_and_tags)
    def test_changes_no_type_and_no_outside(self, case):
        scheme, tags = case
        assert [tag.partition("-")[2] for tag in scheme.repair(tags)] == [tag.partition("-")[2] for tag in tags]

    @pytest.mark.parametrize(
        ("name", "tags", "expected"),
        [
            ("BIO", "O I-X I-X", "O B-X I-X"),
            ("BIO", "B-X I-Y I-Y", "B-X B-Y I-Y"),
            ("BIOES", "I-X I-X O", "B-X E-X O"),
            ("BIOES", "B-X", "S-X"),
            ("BIOES", "O E-X", "O S-X"),
            ("BIOES", "B-X I-X I-Y E-Y", "B-X E-X B-Y E-Y"),
            ("BIOES", "B-X B-X E-X", "S-X B-X E-X"),
        ],
    )
    def test_examples(self, name, tags, expected):
        assert TagScheme.from_entity_types(["X", "Y"], name).repair(tags.split()) == expected.split()

    def test_unknown_and_unwritable(self):
        with pytest.raises(ValueError, match="I-Z"):
            SCHEMES["BIO"].repair(["I-Z"])
        with pytest.raises(ValueError, match="S-X"):
            TagScheme(["O", "B-X", "E-X"]).repair(["B-X", "O"])


class TestConversion:
    @given(sequences("BIO", max_size=9))
    def test_there_and_back(self, tags):
        tags = SCHEMES["BIO"].repair(tags)
        there = convert_tags(tags, "BIO", "BIOES")
        assert SCHEMES["BIOES"].spans(there) == SCHEMES["BIO"].spans(tags)
        assert convert_tags(there, "BIOES", "BIO") == tags

    def test_illegal_input_is_named(self):
        with pytest.raises(ValueError, match="word 1"):
            convert_tags(["O", "I-X"], "BIO", "BIOES")
        with pytest.raises(ValueError, match="plain"):
            convert_tags(["O"], "plain", "BIO")


def test_continuation_subwords_stay_inside():
    """A continuation piece tagged B- or S- would open the entity a second time in any reader of subwords."""
    scheme = TagScheme(["O", "B-X", "I-X", "E-X", "S-X", "S-Y"])
    assert [scheme.tags[i] for i in scheme.continuation] == ["O", "I-X", "I-X", "I-X", "I-X", "S-Y"]
    assert SCHEMES["plain"].continuation == (0, 1, 2)


def test_equal_schemes_are_those_of_equal_tags_in_equal_order():
    """Danger: a cache that takes one label set for another."""
    scheme = TagScheme(["O", "B-X", "I-X"])
    assert scheme == TagScheme(("O", "B-X", "I-X"), "BIO")
    assert hash(scheme) == hash(TagScheme(("O", "B-X", "I-X"), "BIO"))
    assert repr(scheme) == "TagScheme(['O', 'B-X', 'I-X'], scheme='BIO')"
    assert scheme != TagScheme(["O", "I-X", "B-X"])
    assert scheme != TagScheme(["O", "B-X", "I-X"], "plain")
    assert scheme != "TagScheme(['O', 'B-X', 'I-X'], scheme='BIO')"
