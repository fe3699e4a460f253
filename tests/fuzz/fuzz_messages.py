"""Mutates the messages between processes: each decodes to what encodes alike, or is a MessageError.

    python tests/fuzz/fuzz_messages.py --seconds 60 --seed 1

Exits with 1, after writing the input to standard error, on anything else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fuzzing import check_inputs, run

from limpet.telemetry.histogram import BUCKETS
from limpet.worker.messages import (
    Adopt,
    Assign,
    Compiled,
    Connect,
    Connected,
    Drain,
    EngineMissing,
    EngineReady,
    Exited,
    Failed,
    Finished,
    Hold,
    MessageError,
    Notice,
    ProbeRequest,
    ProbeResult,
    Ready,
    Release,
    Resolve,
    Resolved,
    Routes,
    Spawn,
    StartZygote,
    Stats,
    decode_message,
    encode_message,
)

if TYPE_CHECKING:
    import random

CORPUS = [
    encode_message(message)
    for message in (
        Spawn("default/a#1", "app", 1000, True),
        Exited(123, 256, 1 << 20),
        EngineReady("wasmtime", "50.0.1", "0123456789abcdef", ("namespaces", "seccomp", "user")),
        Assign(),
        Drain(),
        Adopt(),
        Hold("worker default/a#1", 4711, "{}"),
        Release("worker default/a#1"),
        Connect(1, "api.example.com", 443, "tcp"),
        Connect(2, "192.0.2.1", 53, "udp"),
        Connected(1, "", 0),
        Connected(2, "no answer in 10 s", 110),
        Resolve(3, "db.example"),
        Resolved(3, ("192.0.2.1",), "", 0),
        StartZygote("wasmedge"),
        EngineMissing("there is no library"),
        ProbeRequest(1, "/healthz?x=\u00e9", "A: b\nC: d", 1.0),
        Routes("[]"),
        Ready(2.75),
        Finished("Trap", 1, "unreachable \U0001f980", 65536),
        Stats(1, 2, 3, 4, 5, tuple(range(BUCKETS))),
        Stats(0, 0, 1, 0, 0, ()),
        ProbeResult(1, 200, ""),
        Compiled(("wasi_snapshot_preview1.fd_write",), ("memory", "_start"), 65536),
        Failed("InvalidModule", "no", is_retryable=False),
        Notice("Idle", ""),
    )
]
TOKENS = (
    b"{", b"}", b"[", b"]", b":", b",", b'"', b"\\", b"\\u0000", b"\\ud800", b"\\u00e9", b"null",
    b"true", b"false", b"NaN", b"Infinity", b"-1", b"0", b"1e999", b"1.5", b"9007199254740992",
    b"9" * 500, b"\0", b"\xff", b" ", b'"type"', b'"type": "Drain"', b'"type": "Stats"', b'"pid"',
    b'"latency": []', b'"port"', b'"udp"', b"[[[[", b'{"type":',
)  # fmt: skip


def mutate(rng: random.Random) -> bytes:
    """A few edits of one packet."""
    data = bytearray(rng.choice(CORPUS))
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        at = rng.randrange(len(data) + 1)
        end = min(len(data), at + rng.choice((0, 1, 2, 4, 16)))
        kind = rng.randrange(5)
        if kind == 0:
            data[at:end] = rng.choice(TOKENS)
        elif kind == 1:
            data[at:at] = rng.choice(TOKENS) * rng.choice((1, 1, 2, 1000))
        elif kind == 2:
            del data[at:end]
        elif kind == 3 and data:
            data[at % len(data)] = rng.randrange(256)
        else:
            other = rng.choice(CORPUS)
            start = rng.randrange(len(other) + 1)
            data[at:end] = other[start : start + rng.choice((8, 64))]
    return bytes(data[: 8 << 10])


def check(packet: bytes) -> bool:
    """Decode the packet; False when it was refused."""
    try:
        message = decode_message(packet)
    except MessageError as error:
        if len(str(error)) > 500:
            raise AssertionError("an endless error message") from error
        return False
    if decode_message(encode_message(message)) != message:
        raise AssertionError(f"{message!r} changes on its way")
    return True


def fuzz(*, seed: int, seconds: float, inputs: int | None = None) -> tuple[int, int]:
    """Decode mutated packets until time or `inputs` are used up; how many, and how many accepted."""
    return check_inputs(mutate, check, seed=seed, seconds=seconds, inputs=inputs)


if __name__ == "__main__":
    run(
        fuzz,
        description=__doc__,
        summary=lambda found: f"{found[0]} packets, {found[1]} messages, nothing but MessageError",
    )
