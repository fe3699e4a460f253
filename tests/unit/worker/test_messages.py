import importlib.util
import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limpet.telemetry.histogram import BUCKETS
from limpet.worker.messages import (
    MAX_MESSAGE_BYTES,
    Connect,
    Connected,
    EngineReady,
    Failed,
    Fetched,
    Finished,
    Message,
    MessageError,
    Notice,
    ProbeRequest,
    Ready,
    Spawned,
    Stats,
    decode_message,
    encode_message,
)

FUZZER = Path(__file__).parents[2] / "fuzz" / "fuzz_messages.py"
INTS = st.integers(-(2**53) + 1, 2**53 - 1)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
VALUES = {
    "str": TEXTS,
    "int": INTS,
    "bool": st.booleans(),
    "float": st.floats(-1e15, 1e15),
    "tuple[str, ...]": st.lists(TEXTS, max_size=4).map(tuple),
}
COUNTS = st.lists(st.integers(0, 2**53 - 1), min_size=BUCKETS, max_size=BUCKETS).map(tuple)
# Fields with rules of their own, besides their type.
RULED = {
    (Stats, "latency"): COUNTS | st.just(()),
    (Connect, "host"): st.text(st.characters(exclude_categories=["Cs"]), max_size=255),
    (Connect, "port"): st.integers(1, 65535),
    (Connect, "protocol"): st.sampled_from(["tcp", "udp"]),
    (Fetched, "where"): st.sampled_from(["partial", "module", "store"]),
}


def messages():
    """Any message there is."""
    return st.one_of(
        st.builds(
            kind,
            **{
                entry.name: RULED.get((kind, entry.name), VALUES.get(entry.type))
                for entry in fields(kind)
            },
        )
        for kind in get_args(Message)
    )


@given(messages())
def test_every_message_comes_out_as_it_went_in(message):
    packet = encode_message(message)
    decoded = decode_message(packet)
    assert decoded == message
    assert type(decoded) is type(message)
    assert encode_message(decoded) == packet


def test_every_message_has_a_docstring_of_its_own():
    assert all(not kind.__doc__.startswith(kind.__name__ + "(") for kind in get_args(Message))


def packet(kind, **changes):
    values = {"Spawned": {"worker": "a", "pid": 1}, "Ready": {"milliseconds": 1.5}}.get(kind, {})
    return json.dumps({"type": kind, **values, **changes}).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"{",
        b"null",
        b"[]",
        b'"Drain"',
        b"{}",
        b'{"type": null}',
        b'{"type": []}',
        b'{"type": {"type": "Drain"}}',
        b'{"type": "drain"}',
        b'{"type": "Message"}',
        b'{"type": "__class__"}',
        b'{"type": "Drain"}{"type": "Drain"}',
        b"\xff\xfe",
        b'{"type": "\xff"}',
        b"[" * 60000,
        b'{"type":' * 10000,
        b"9" * 60000,
    ],
    ids=lambda data: repr(data[:20]),
)
def test_junk_is_refused(data):
    with pytest.raises(MessageError):
        decode_message(data)


@pytest.mark.parametrize(
    "data",
    [
        packet("Spawned", pid="1"),
        packet("Spawned", pid=1.0),
        packet("Spawned", pid=True),
        packet("Spawned", pid=None),
        packet("Spawned", pid=[1]),
        packet("Spawned", pid=2**53),
        packet("Spawned", pid=-(2**53)),
        packet("Spawned", pid=10**400),
        packet("Spawned", worker=1),
        packet("Spawned", worker=None),
        packet("Spawned", worker=["a"]),
        packet("Spawned", extra=1),
        packet("Spawned", type="Drain"),
        b'{"type": "Spawned", "worker": "a"}',
        b'{"type": "Spawned", "worker": "\\ud800", "pid": 1}',
        packet("Drain", worker="a"),
        packet("Ready", milliseconds=True),
        packet("Ready", milliseconds="1"),
        packet("Ready", milliseconds=1e300),
        b'{"type": "Ready", "milliseconds": NaN}',
        b'{"type": "Ready", "milliseconds": Infinity}',
        b'{"type": "Ready", "milliseconds": -Infinity}',
        b'{"type": "Ready", "milliseconds": 1e999}',
    ],
    ids=lambda data: data[:60].decode(),
)
def test_fields_that_are_missing_surplus_or_mistyped_are_refused(data):
    with pytest.raises(MessageError):
        decode_message(data)


def test_a_whole_number_will_do_for_a_fraction():
    assert decode_message(packet("Ready", milliseconds=2)) == Ready(2.0)


@pytest.mark.parametrize(
    "latency",
    [
        [0],
        [0] * (BUCKETS + 1),
        [0] * (BUCKETS - 1) + [-1],
        [0] * (BUCKETS - 1) + [2**53],
        [0] * (BUCKETS - 1) + [10**400],
        [0] * (BUCKETS - 1) + [True],
        [0] * (BUCKETS - 1) + [1.0],
        [0] * (BUCKETS - 1) + [[0]],
        {},
        "",
    ],
    ids=lambda latency: f"{len(latency)} {str(latency)[-8:]}",
)
def test_a_histogram_has_the_right_number_of_counts(latency):
    document = asdict(Stats(1, 0, 0, 0, 0, ())) | {"type": "Stats", "latency": latency}
    with pytest.raises(MessageError):
        decode_message(json.dumps(document).encode())


@pytest.mark.parametrize(
    "changes",
    [
        {"protocol": "TCP"},
        {"protocol": "sctp"},
        {"protocol": ""},
        {"port": 0},
        {"port": -1},
        {"port": 65536},
        {"port": True},
        {"port": 80.0},
        {"port": "80"},
        {"host": "a" * 256},
        {"host": None},
        {"host": "\ud800"},
        {"request": 1.5},
        {"request": 2**53},
    ],
    ids=lambda changes: ascii(changes)[:30],
)
def test_a_connection_is_asked_for_by_host_port_and_protocol(changes):
    document = {"type": "Connect", **asdict(Connect(1, "a.example", 443, "tcp"))}
    assert decode_message(json.dumps(document).encode()) == Connect(1, "a.example", 443, "tcp")
    with pytest.raises(MessageError):
        decode_message(json.dumps(document | changes).encode())


@pytest.mark.parametrize("walls", ["user", [1], [["user"]], None, {"user": True}])
def test_walls_are_a_list_of_names(walls):
    document = {"type": "EngineReady", **asdict(EngineReady("a", "1", "k", ())), "walls": walls}
    with pytest.raises(MessageError):
        decode_message(json.dumps(document).encode())


@pytest.mark.parametrize("imports", [["a", 1], [["a"]], ["\ud800"], [None], "ab"])
def test_lists_hold_text_only(imports):
    document = {"type": "Compiled", "imports": imports, "exports": [], "memory_bytes": 1}
    with pytest.raises(MessageError):
        decode_message(json.dumps(document).encode())


@pytest.mark.parametrize("depth", [10, 100, 400, 600, 800, 900, 940, 960, 980, 990, 2000, 30000])
@pytest.mark.parametrize("place", ["type", "pid"])
def test_deep_nesting_is_refused(depth, place):
    nested = "[" * depth + "]" * depth
    with pytest.raises(MessageError):
        decode_message(f'{{"worker": "a", "type": "Spawned", "{place}": {nested}}}'.encode())
    with pytest.raises(MessageError):
        decode_message(f'{{"{place}": {nested}, "worker": "a"}}'.encode())


def test_an_error_message_stays_short():
    with pytest.raises(MessageError) as caught:
        decode_message(packet("x" * 10000))
    assert len(str(caught.value)) < 200
    with pytest.raises(MessageError) as caught:
        decode_message(packet("Spawned", pid="x" * 10000))
    assert len(str(caught.value)) < 200
    with pytest.raises(MessageError) as caught:
        decode_message(packet("Spawned", **{"x" * 10000: 1}))
    assert len(str(caught.value)) < 400


def test_a_message_has_a_largest_size():
    room = MAX_MESSAGE_BYTES - len(encode_message(Notice("", "")))
    assert len(encode_message(Notice("", "x" * room))) == MAX_MESSAGE_BYTES
    with pytest.raises(MessageError, match="too large"):
        encode_message(Notice("", "x" * (room + 1)))


def test_a_message_of_the_wrong_shape_can_not_be_sent_back():
    ready = EngineReady("a", "1", "k", ("seccomp", "user"))
    assert decode_message(encode_message(ready)) == ready
    assert decode_message(encode_message(Connected(7, "", 0))) == Connected(7, "", 0)
    assert decode_message(encode_message(Finished("Exit", 3, "", 0))).exit_code == 3
    assert decode_message(encode_message(Failed("A", "b", is_retryable=True))).is_retryable
    assert decode_message(encode_message(Spawned("a", 1))) == Spawned("a", 1)
    request = ProbeRequest(1, "/", "A: b\nC: d", 1.0)
    assert decode_message(encode_message(request)) == request


@given(st.binary(max_size=60))
def test_any_packet_is_a_message_or_refused(data):
    try:
        message = decode_message(data)
    except MessageError:
        return
    assert decode_message(encode_message(message)) == message


def test_mutated_packets_are_messages_or_refused():
    spec = importlib.util.spec_from_file_location("fuzz_messages", FUZZER)
    fuzzer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fuzzer)
    done, accepted = fuzzer.fuzz(seed=1, seconds=60, inputs=5000)
    assert done == 5000
    assert accepted > 200
