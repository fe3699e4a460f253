import json
from contextlib import suppress

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from limpet.manifest import documents
from limpet.manifest.documents import load_documents
from limpet.manifest.problems import ManifestError

TEXT = """\
kind: ConfigMap
data:
  a: one
  list:
    - x
    - name: y
---
kind: Other
"""


@pytest.fixture(params=["CSafeLoader", "SafeLoader"])
def loader(request, monkeypatch):
    monkeypatch.setattr(documents, "_LOADER", getattr(yaml, request.param))


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ((), 1),
        (("data",), 2),
        (("data", "a"), 3),
        (("data", "list", 0), 5),
        (("data", "list", 1, "name"), 6),
        (("data", "missing"), 2),
        (("data", "list", 7), 4),
        (("data", "list", "0"), 4),
        (("nothing", "at", "all"), 1),
    ],
)
def test_a_path_is_located_or_its_nearest_parent(loader, path, line):
    assert load_documents(TEXT, file="a.yaml")[0].locate(path) == f"a.yaml:{line}"


def test_lines_go_on_through_documents(loader):
    assert load_documents(TEXT, file="a.yaml")[1].locate(("kind",)) == "a.yaml:8"


def test_aliases_share_nothing(loader):
    document = load_documents("a: &x {k: v}\nb: *x\n", file="f")[0]
    document.object["a"]["k"] = "changed"
    assert document.object["b"] == {"k": "v"}


@pytest.mark.parametrize("text", ["", "---\n---\n", "# nothing\n", "~", "\ufeff"])
def test_empty_documents_are_skipped(loader, text):
    assert load_documents(text, file="f") == []


def test_a_document_does_not_show_its_values():
    assert "hunter2" not in repr(load_documents("password: hunter2", file="f"))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a" * (4 << 20) + "b", "larger than 4Mi"),
        ("é" * (2 << 20) + "b", "larger than 4Mi"),
        ("---\na: 1\n" * 1001, "more than 1000 documents"),
        ("a: " + "[" * 100_000, "nested more than 64"),
        ("? " * 5000, "nested more than 64"),
        ("- " * 5000, "nested more than 64"),
        ("a: \ud800", "U+D800"),
        ("a: \x07", "U+0007"),
        (b"\xff\xfea\0", "not UTF-8"),
        ("%TAG ! tag:evil,2000:\n---\na: !x 1", "has a tag"),
        ("%YAML 3.0\n---\na: 1", "not YAML"),
        ("a: &a [*a]", "contains itself"),
        ("&a a: 1\n*a : 2", "must be plain strings"),
        ("a: 'unfinished", "not YAML"),
        ("{a: 1, a: 2}", "is there twice"),
    ],
    ids=lambda value: str(value)[:20] if isinstance(value, str) else "bytes",
)
def test_hostile_texts_are_refused_with_a_line(loader, text, why):
    with pytest.raises(ManifestError) as caught:
        load_documents(text, file="f")
    assert why in str(caught.value)
    assert all(problem.where.startswith("f:") for problem in caught.value.problems)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(st.dictionaries(st.text(max_size=9), JSON, min_size=1, max_size=4), st.booleans())
def test_json_is_read_as_json(value, ascii_only):
    text = json.dumps(value, ensure_ascii=ascii_only)
    try:
        read = load_documents(text, file="f")
    except ManifestError:
        assert not text.isprintable() or "\\u" in text
        return
    if "kind" not in value:
        assert [document.object for document in read] == [value]


@given(st.text(max_size=200) | st.text(alphabet="ab:-*&!{}[]\"'|>?#%,~<\n \t01.", max_size=60))
def test_any_text_is_read_or_refused(text):
    try:
        read = load_documents(text, file="f")
    except ManifestError:
        return
    for document in read:
        json.dumps(document.object, allow_nan=False)


@given(st.binary(max_size=100))
def test_any_bytes_are_read_or_refused(raw):
    with suppress(ManifestError):
        load_documents(raw, file="f")
