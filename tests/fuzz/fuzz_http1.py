"""Mutates HTTP/1.1 streams and feeds them: no error, valid answers only, the same however split.

    python tests/fuzz/fuzz_http1.py --seconds 60 --seed 1

Exits with 1, after writing the input to standard error, on anything else.
"""

from __future__ import annotations

import random
from itertools import pairwise

import httptools
from fuzzing import check_inputs, run

from limpet.http1.connection import ConnectionLimits, HttpConnection
from limpet.http1.message import Response

LIMITS = ConnectionLimits(head_bytes=4096, body_bytes=4096)
GET = b"GET /a?b HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n"
CORPUS = [
    GET,
    b"HEAD / HTTP/1.1\r\nHost: a:80\r\nCookie: a=b\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n",
    b"PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi",
    b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"GET http://a/b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: [::1]:8\r\n\r\n",
    b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
]
TOKENS = (
    b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b";", b",", b"\x0b", b"\xff", b"0", b"5", b"-1",
    b"ffffffffffffffff", b"10000000000000000", b"chunked", b"identity", b"Transfer-Encoding: chunked\r\n",
    b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Host: b\r\n", b"Connection: close\r\n",
    b"Connection: upgrade\r\n", b"Upgrade: x\r\n", b"Expect: 100-continue\r\n", b"HTTP/1.0",
    b"HTTP/1.1", b"HTTP/2.0", b"0\r\n\r\n", b"GET ", b"PRI ", b"http://a", b"*", b"#", b"?", b"%00",
)  # fmt: skip


def mutate(rng: random.Random) -> bytes:
    """A few requests in a row, with a few edits."""
    data = bytearray(b"".join(rng.choice(CORPUS) for _ in range(rng.choice((1, 1, 2, 4)))))
    for _ in range(rng.choice((0, 1, 1, 2, 3, 8))):
        at = rng.randrange(len(data) + 1)
        end = min(len(data), at + rng.choice((0, 1, 4, 16)))
        kind = rng.randrange(5)
        if kind == 0:
            data[at:end] = rng.choice(TOKENS)
        elif kind == 1:
            data[at:at] = rng.choice(TOKENS) * rng.choice((1, 1, 2, 50))
        elif kind == 2:
            del data[at:end]
        elif kind == 3 and data:
            data[at % len(data)] = rng.randrange(256)
        else:
            other = rng.choice(CORPUS)
            start = rng.randrange(len(other) + 1)
            data[at:end] = other[start : start + rng.choice((8, 64))]
    return bytes(data)


def serve(pieces: list[bytes]) -> tuple[list[tuple[object, ...]], bytes]:
    """Feed the pieces, answering at once: the requests and what was written."""
    requests: list[tuple[object, ...]] = []
    written = b""
    connection = HttpConnection(
        lambda r: requests.append((r.method, r.target, r.path, r.query, tuple(r.headers), r.body)),
        LIMITS,
    )
    for piece in pieces:
        was_closing = connection.is_closing
        connection.feed(piece)
        while connection.unanswered:
            connection.respond(Response(200, [], b"ok"))
        if was_closing and connection.output:
            raise AssertionError("something was written after the end")
        written += b"".join(connection.output)
        connection.output.clear()
    return requests, written


def statuses(written: bytes, requests: list[tuple[object, ...]]) -> list[int]:
    """The final statuses of everything that was written, parsed one by one."""
    found: list[int] = []
    while written:
        head, end, rest = written.partition(b"\r\n\r\n")
        status = int(head.split(b" ")[1])
        if status == 100:
            written = rest
            continue
        lines = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])
        is_head = len(found) < len(requests) and requests[len(found)][0] == b"HEAD"
        length = 0 if is_head else int(lines[b"Content-Length"])
        parser = httptools.HttpResponseParser(object())
        parser.feed_data(head + end + rest[:length])
        if len(rest) < length or parser.get_status_code() != status:
            raise AssertionError(f"not an answer: {written!r}")
        found.append(status)
        written = rest[length:]
    return found


def check(data: bytes, rng: random.Random) -> int:
    """Serve the input whole, bytewise and split at random; how many requests it held."""
    edges = sorted(rng.randrange(len(data) + 1) for _ in range(5))
    cuts = [0, *edges, len(data)]
    splits = [
        [data],
        [data[at : at + 1] for at in range(len(data))],
        [data[a:b] for a, b in pairwise(cuts)],
    ]
    results = [serve(pieces) for pieces in splits]
    answers = [statuses(written, requests) for requests, written in results]
    if any(requests != results[0][0] for requests, _ in results):
        raise AssertionError(f"the requests depend on the split: {results!r}")
    if any(len(found) != len(answers[0]) for found in answers):
        raise AssertionError(f"the answers depend on the split: {answers!r}")
    return len(results[0][0])


def fuzz(*, seed: int, seconds: float, inputs: int | None = None) -> tuple[int, int]:
    """Serve mutated streams until time or `inputs` are used up; how many, and requests accepted."""
    return check_inputs(
        lambda rng: (mutate(rng), rng.getrandbits(32)),
        lambda made: check(made[0], random.Random(made[1])),
        seed=seed,
        seconds=seconds,
        inputs=inputs,
    )


if __name__ == "__main__":
    run(
        fuzz,
        description=__doc__,
        summary=lambda found: (
            f"{found[0]} inputs, {found[1]} requests accepted, valid answers only"
        ),
    )
