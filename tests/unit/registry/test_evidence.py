"""What is known of a module's signatures is added to, and never lost to something that says less."""

from hypothesis import given
from hypothesis import strategies as st

from limpet.registry.evidence import (
    MAX_EVIDENCE_BYTES,
    MAX_SIGNATURES,
    Evidence,
    Signature,
    decode_evidence,
    encode_evidence,
    join_evidence,
)


def text(*names, manifests=(b"m",)):
    signatures = tuple(Signature(name.encode(), b"s") for name in names)
    return encode_evidence(Evidence(manifests=manifests, signatures=signatures))


def joined(first, second):
    return [
        each.payload.decode() for each in decode_evidence(join_evidence(first, second)).signatures
    ]


def test_signatures_of_the_same_manifests_are_joined():
    assert joined(text("a", "b"), text("b", "c")) == ["a", "b", "c"]
    assert joined(text(), text("a")) == joined(text("a"), text()) == ["a"]


def test_there_is_room_for_so_many_and_the_first_come_first():
    few, many = text("a"), text(*map(str, range(MAX_SIGNATURES)))
    assert joined(few, many) == ["a", *map(str, range(MAX_SIGNATURES - 1))]
    assert joined(many, few) == list(map(str, range(MAX_SIGNATURES)))
    large, small = text("x" * (MAX_EVIDENCE_BYTES // 2 - 100)), text("y" * 1000, "z")
    assert joined(small, large) == ["y" * 1000, "z"]
    assert joined(large, small)[1:] == ["z"], "what still fits"


def test_of_other_manifests_the_first_counts_unless_it_alone_has_no_signatures():
    other = text("b", manifests=(b"i", b"m"))
    assert joined(text("a"), other) == ["a"]
    assert join_evidence(text(), other) == other
    assert join_evidence(text("a"), text(manifests=(b"i",))) == text("a")
    assert join_evidence(text(), text(manifests=(b"i",))) == text()


def test_nothing_is_less_than_anything():
    assert join_evidence("", "") == ""
    for nothing in ("", "damaged", "{}"):
        for something in (text(), text("a")):
            assert join_evidence(nothing, something) == something
            assert join_evidence(something, nothing) == something


@given(*[st.lists(st.sampled_from("abcdefghijklmnopqrstuvwxyz"), max_size=16, unique=True)] * 2)
def test_no_signature_is_lost_while_there_is_room(first, second):
    found = joined(text(*first), text(*second))
    assert found[: len(first)] == first
    assert len(found) == min(len(set(first + second)), MAX_SIGNATURES)
