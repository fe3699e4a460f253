"""Mutates handlers' output: CgiError, or a response that reads as exactly one on the wire.

    python tests/fuzz/fuzz_cgi.py --seconds 60 --seed 1

Exits with 1, after writing the input to standard error, on anything else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import httptools
from fuzzing import check_inputs, run

from limpet.http1.message import encode_response
from limpet.trigger.cgi import CgiError, ResponseParser

if TYPE_CHECKING:
    import random

CORPUS = [
    b"Content-Type: text/plain\n\nhello\n",
    b"Content-Type: text/html\r\nStatus: 404 Not Found\r\n\r\n<p>no</p>",
    b"Location: /elsewhere\n\n",
    b"Status: 204\nX-A: 1\nX-A: 2\n\n",
    b"Content-Length: 3\nTransfer-Encoding: chunked\nConnection: close\nX: y\n\n3\r\nabc\r\n0\r\n\r\n",
    b"Set-Cookie: a=b; Path=/\nSet-Cookie: c=d\n\n",
]
TOKENS = (
    b"\n", b"\r\n", b"\r", b"\n\n", b"\r\n\r\n", b"\n\r\n", b"\0", b" ", b"\t", b":", b": ", b"\x0b",
    b"\x85", b"\xff", b"A: b\n", b"Status: 200\n", b"Status: 304\n", b"Status: 100\n", b"Status:",
    b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n", b"HTTP/1.1 200 OK\r\n", b"Date: x\n",
    b"Location: x\n", b"Connection: upgrade\r\nUpgrade: x\r\n", b"\xc4\xb0: x\n", b" folded\n",
)  # fmt: skip

_parser = ResponseParser()  # one for all inputs: what it remembers must change nothing


class _Reader:
    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = b""
        self.messages = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.messages += 1


def check(output: bytes) -> bool:
    """Parse the output, encode the response and read it back; False when it was refused."""
    try:
        response = _parser.parse(output)
    except CgiError:
        return False
    if not 200 <= response.status <= 599:
        raise AssertionError(f"status {response.status}")
    encoded = encode_response(response, is_head=False, keeps_alive=True, minor_version=1)
    reader = _Reader()
    parser = httptools.HttpResponseParser(reader)
    parser.feed_data(encoded)
    if (reader.messages, parser.get_status_code()) != (1, response.status):
        raise AssertionError(f"{reader.messages} messages in {encoded!r}")
    has_body = response.status not in (204, 304)
    if reader.body != (response.body if has_body else b""):
        raise AssertionError(f"the body became {reader.body!r}")
    added = {b"Date", b"Content-Length"} if has_body else {b"Date"}
    if [header for header in reader.headers if header[0] not in added] != list(response.headers):
        raise AssertionError(f"the headers became {reader.headers!r}")
    return True


def mutate(rng: random.Random) -> bytes:
    """A few edits of one output."""
    data = bytearray(rng.choice(CORPUS))
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        at = rng.randrange(len(data) + 1)
        end = min(len(data), at + rng.choice((0, 1, 4, 16)))
        kind = rng.randrange(5)
        if kind == 0:
            data[at:end] = rng.choice(TOKENS)
        elif kind == 1:
            data[at:at] = rng.choice(TOKENS) * rng.choice((1, 1, 2, 20))
        elif kind == 2:
            del data[at:end]
        elif kind == 3 and data:
            data[at % len(data)] = rng.randrange(256)
        else:
            other = rng.choice(CORPUS)
            start = rng.randrange(len(other) + 1)
            data[at:end] = other[start : start + rng.choice((8, 64))]
    return bytes(data)


def fuzz(*, seed: int, seconds: float, inputs: int | None = None) -> tuple[int, int]:
    """Parse mutated outputs until time or `inputs` are used up; how many, and how many accepted."""
    return check_inputs(mutate, check, seed=seed, seconds=seconds, inputs=inputs)


if __name__ == "__main__":
    run(
        fuzz,
        description=__doc__,
        summary=lambda found: f"{found[0]} outputs, {found[1]} responses, nothing but CgiError",
    )
