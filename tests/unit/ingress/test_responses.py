from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limpet.ingress.responses import BadResponseError, ResponseReader


def read(data: bytes, *, is_head: bool = False, ends: bool = False) -> ResponseReader:
    reader = ResponseReader(is_head=is_head)
    if data:
        reader.feed(data)
    if ends:
        reader.feed_end()
    return reader


def test_a_response_with_a_length() -> None:
    reader = read(b"HTTP/1.1 201 Made\r\nContent-Length: 3\r\nX-A: 1\r\n\r\nabc")
    assert reader.head is not None
    assert (reader.head.status, reader.head.headers, reader.head.length) == (
        201,
        [(b"X-A", b"1")],
        3,
    )
    assert (b"".join(reader.body), reader.is_complete, reader.is_reusable) == (b"abc", True, True)


def test_a_chunked_response_loses_its_trailers() -> None:
    reader = read(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3;ext=1\r\nabc\r\n2\r\nde\r\n0\r\nX-Late: 1\r\n\r\n"
    )
    assert reader.head is not None
    assert (reader.head.length, reader.head.headers) == (None, [])
    assert (b"".join(reader.body), reader.is_reusable) == (b"abcde", True)


def test_a_response_that_ends_with_the_connection() -> None:
    reader = read(b"HTTP/1.1 200 OK\r\n\r\nabc")
    assert not reader.is_complete
    reader.feed_end()
    assert (b"".join(reader.body), reader.is_complete, reader.is_reusable) == (b"abc", True, False)


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 9", b"Transfer-Encoding: chunked", b"X-A: 1"]
)
def test_the_answer_to_head_has_no_body(framing: bytes) -> None:
    reader = read(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n", is_head=True)
    assert (reader.is_complete, reader.body) == (True, [])


@pytest.mark.parametrize("status", [204, 304])
@pytest.mark.parametrize(
    "framing", [b"Content-Length: 9", b"Transfer-Encoding: chunked", b"X-A: 1"]
)
def test_statuses_without_a_body(status: int, framing: bytes) -> None:
    reader = read(b"HTTP/1.1 %d X\r\n%s\r\n\r\n" % (status, framing))
    assert (reader.is_complete, reader.is_reusable, reader.body) == (True, True, [])


def test_interim_responses_are_skipped() -> None:
    reader = read(
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na"
    )
    assert reader.head is not None
    assert (reader.head.status, reader.head.headers, reader.is_reusable) == (200, [], True)


@pytest.mark.parametrize(
    ("data", "is_head"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\naEXTRA", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", True),
        (b"HTTP/1.1 204 X\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", False),
    ],
)
def test_a_connection_in_doubt_is_not_used_again(data: bytes, is_head: bool) -> None:
    reader = read(data, is_head=is_head)
    assert (reader.is_complete, reader.is_reusable) == (True, False)
    assert b"".join(reader.body) == (b"a" if b"EXTRA" in data else b"")


@pytest.mark.parametrize(
    "data",
    [
        b"garbage",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\r\n folded\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\x00b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 099 X\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 999 X\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * (70 << 10),
        b"HTTP/1.1 100 Continue\r\n\r\n" * 4000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
    ],
)
def test_what_is_no_single_bounded_response_is_refused(data: bytes) -> None:
    with pytest.raises(BadResponseError):
        read(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ],
)
def test_a_response_that_breaks_off_is_refused(data: bytes) -> None:
    with pytest.raises(BadResponseError, match="before the response was complete"):
        read(data, ends=True)


@given(
    body=st.binary(max_size=200),
    is_chunked=st.booleans(),
    cuts=st.lists(st.integers(0, 400), max_size=6),
)
def test_pieces_make_no_difference(body: bytes, is_chunked: bool, cuts: list[int]) -> None:
    if is_chunked:
        chunks = b"".join(b"%x\r\n%s\r\n" % (1, body[i : i + 1]) for i in range(len(body)))
        data = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
    else:
        data = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    reader = ResponseReader(is_head=False)
    ends = sorted({min(cut, len(data)) for cut in cuts} | {len(data)})
    start = 0
    for end in ends:
        if end > start:
            reader.feed(data[start:end])
        start = end
    assert (b"".join(reader.body), reader.is_complete, reader.is_reusable) == (body, True, True)


@given(st.binary(max_size=300))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    for prefix in (
        b"",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    ):
        reader = ResponseReader(is_head=False)
        with contextlib.suppress(BadResponseError):
            reader.feed(prefix + data)
