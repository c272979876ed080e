"""Danger: tag sequences that are read, repaired or converted into something that they do not say."""

import warnings

from hypothesis import given
from hypothesis import strategies as st

from hf_structkd.modeling.tag_scheme import TagScheme, convert_tags, infer_scheme, split_tag
from tests.fuzz.fuzzing import TEXT, fuzz, only_our_errors

TAGS = st.one_of(
    st.builds("{}-{}".format, st.sampled_from("BIES"), st.sampled_from(["X", "Y", "a-b", "-", "é", "\u200b", " "])),
    st.sampled_from(["O", "O", "B", "I", "E", "S", "B-", "b-x", "L-X", "U-X", ""]),
    TEXT,
)
SCHEMES = st.sampled_from([None, "BIO", "BIOES", "plain", "IOB1", ""])


def quietly(*args):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return TagScheme(*args)


@fuzz()
@given(st.lists(TAGS, max_size=9, unique=True), SCHEMES, st.data())
def test_any_label_set(labels, name, data):
    with only_our_errors():
        scheme = quietly(labels, name)
        assert scheme.name == (name or infer_scheme(labels))
        assert scheme.allowed.shape == (len(labels), len(labels))
        # Every tag can stand in some legal sentence: masking must not make gold tags impossible.
        reachable = scheme.allowed_start.clone()
        for _ in labels:
            reachable = reachable | (scheme.allowed & reachable[:, None]).any(0)
        assert reachable.all()
        assert len(scheme.continuation) == len(scheme.bio_reading) == len(labels)
        sequence = data.draw(st.lists(st.sampled_from(labels), max_size=7))
        ids = [labels.index(tag) for tag in sequence]
        legal = not ids or bool(scheme.allowed_start[ids[0]] & scheme.allowed[ids[:-1], ids[1:]].all())
        legal = legal and (not ids or bool(scheme.allowed_end[ids[-1]]))
        assert legal == (not scheme.violations(sequence))
        for span in scheme.spans(sequence):
            assert 0 <= span.start < span.end <= len(sequence)
        repaired = scheme.repair(sequence)
        assert len(repaired) == len(sequence)
        assert not scheme.violations(repaired)
        assert repaired == sequence or not legal
        assert scheme.repair(repaired) == repaired


@fuzz()
@given(st.lists(TAGS, max_size=9), st.sampled_from(["BIO", "BIOES", "plain", ""]), st.sampled_from(["BIO", "BIOES"]))
def test_conversion(tags, one, other):
    with only_our_errors():
        there = convert_tags(tags, one, other)
        types = dict.fromkeys(split_tag(tag)[1] for tag in tags if tag != "O")
        spans = TagScheme.from_entity_types(types, one).spans(tags)
        assert TagScheme.from_entity_types(types, other).spans(there) == spans
        assert convert_tags(there, other, one) == tags


@fuzz()
@given(
    st.lists(TAGS, max_size=6, unique=True),
    SCHEMES,
    st.lists(st.tuples(st.integers(-2, 8), st.integers(-2, 9), TAGS), max_size=4),
    st.integers(0, 8),
)
def test_spans_are_written_or_refused(labels, name, spans, length):
    with only_our_errors():
        scheme = quietly(labels, name)
        tags = scheme.tags_from_spans(spans, length)
        assert len(tags) == length
        assert not scheme.violations(tags)
        assert sorted(tuple(span) for span in scheme.spans(tags)) == sorted(spans)
