"""Objects as they are stored: smaller, the same again, and nothing else is taken for one."""

import contextlib
import hashlib
import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limpet.store import packing
from limpet.store.database import encode_body
from limpet.store.packing import PackedError, pack, unpack

DEPLOYMENT = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "meter", "labels": {"app": "meter"}},
    "spec": {
        "replicas": 1,
        "selector": {"matchLabels": {"app": "meter"}},
        "template": {
            "metadata": {"labels": {"app": "meter"}},
            "spec": {"containers": [{"name": "meter", "image": "./meter.wasm"}]},
        },
    },
}
DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(DOCUMENTS)
def test_what_is_packed_comes_back(document):
    text = encode_body(document).encode("utf-8", "replace").decode()
    assert unpack(pack(text)) == text


def test_a_manifest_is_mostly_known_words():
    text = encode_body(DEPLOYMENT)
    assert len(pack(text)) < len(text) / 4
    assert len(pack(text)) < len(zlib.compress(text.encode(), 9)) / 2
    assert json.loads(unpack(pack(text))) == DEPLOYMENT


def test_the_words_never_change():
    """What nodes have stored could not be read any more: another dictionary gets another number."""
    digest = hashlib.sha256(packing._WORDS_1).hexdigest()
    assert digest == "afbaef1f862c8f72ed183dc447b00d670b4e92b1d002060886338877c7ef978b"
    assert (
        unpack(bytes.fromhex("01ab26b24d07d20000"))
        == '{"kind":"ConfigMap","metadata":{"name":"a"}}'
    )


@pytest.mark.parametrize(
    "row",
    [None, "", "{}", 7, b"", b"\x00", b"\x02" + pack("x")[1:], b"{}", pack("a" * 99)[:-1]],
)
def test_anything_else_is_refused(row):
    with pytest.raises(PackedError):
        unpack(row)


@given(st.binary())
def test_noise_is_refused_or_is_text(noise):
    with contextlib.suppress(PackedError):
        assert isinstance(unpack(b"\x01" + noise), str)


def test_a_row_can_not_ask_for_all_memory(monkeypatch):
    monkeypatch.setattr(packing, "_MAX_BYTES", 1000)
    with pytest.raises(PackedError, match="too large"):
        unpack(pack("a" * 2000))
    assert unpack(pack("a" * 1000)) == "a" * 1000
