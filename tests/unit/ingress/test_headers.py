from __future__ import annotations

from limpet.http1.message import Request
from limpet.ingress.headers import encode_request, end_to_end, read_authority


def request(
    *headers: tuple[bytes, bytes],
    method: bytes = b"GET",
    target: bytes = b"/p?q=1",
    minor: int = 1,
) -> Request:
    path, _, query = target.partition(b"?")
    return Request(method, target, path, query, list(headers), b"", minor, keeps_alive=True)


def encode(asked: Request, length: int = 0) -> list[bytes]:
    authority = read_authority(asked)
    head = encode_request(asked, authority=authority, peer=b"10.0.0.9", length=length)
    assert head.endswith(b"\r\n\r\n")
    return head[:-4].split(b"\r\n")


def test_request_line_and_host_are_kept() -> None:
    lines = encode(request((b"Host", b"A.example:8880"), (b"Accept", b"*/*")))
    assert lines[:3] == [b"GET /p?q=1 HTTP/1.1", b"Host: A.example:8880", b"Accept: */*"]
    assert b"X-Forwarded-Host: A.example:8880" in lines
    assert b"X-Forwarded-Proto: http" in lines


def test_hop_by_hop_headers_are_removed_with_those_that_connection_names() -> None:
    lines = encode(
        request(
            (b"Host", b"a"),
            (b"Connection", b"close, X-Private"),
            (b"connection", b" Other ,,host"),
            (b"X-Private", b"1"),
            (b"OTHER", b"1"),
            (b"Keep-Alive", b"timeout=5"),
            (b"Proxy-Connection", b"keep-alive"),
            (b"Proxy-Authorization", b"Basic x"),
            (b"TE", b"trailers"),
            (b"Trailer", b"X"),
            (b"Transfer-Encoding", b"chunked"),
            (b"Upgrade", b"h2c"),
            (b"Expect", b"100-continue"),
            (b"Content-Length", b"77"),
            (b"Cookie", b"a=b"),
        )
    )
    assert lines == [
        b"GET /p?q=1 HTTP/1.1",
        b"Host: a",
        b"Cookie: a=b",
        b"X-Forwarded-For: 10.0.0.9",
        b"X-Forwarded-Proto: http",
        b"X-Forwarded-Host: a",
    ]


def test_forwarded_for_is_appended_and_the_others_are_set() -> None:
    lines = encode(
        request(
            (b"Host", b"a"),
            (b"X-Forwarded-For", b"1.1.1.1, 2.2.2.2"),
            (b"x-forwarded-for", b"3.3.3.3"),
            (b"X-Forwarded-Proto", b"https"),
            (b"X-Forwarded-Host", b"evil"),
            (b"Connection", b"X-Forwarded-For"),
        )
    )
    assert lines[2:] == [
        b"X-Forwarded-For: 1.1.1.1, 2.2.2.2, 3.3.3.3, 10.0.0.9",
        b"X-Forwarded-Proto: http",
        b"X-Forwarded-Host: a",
    ]


def test_the_length_is_ours() -> None:
    assert b"Content-Length: 5" in encode(request((b"Host", b"a"), method=b"GET"), 5)
    assert b"Content-Length: 0" in encode(request((b"Host", b"a"), method=b"POST"))
    assert not [line for line in encode(request((b"Host", b"a"))) if line.startswith(b"Content")]


def test_authority_of_an_old_client() -> None:
    assert read_authority(request(minor=0)) == b""
    assert read_authority(request(target=b"http://A.b:80/x", minor=0)) == b"A.b:80"


def test_responses_keep_only_end_to_end_headers() -> None:
    kept = end_to_end(
        [
            (b"Content-Type", b"text/plain"),
            (b"Connection", b"X-Internal"),
            (b"X-Internal", b"1"),
            (b"Content-Length", b"3"),
            (b"Transfer-Encoding", b"chunked"),
            (b"Keep-Alive", b"1"),
            (b"Date", b"now"),
            (b"Set-Cookie", b"a=1"),
            (b"Set-Cookie", b"b=2"),
        ]
    )
    assert kept == [
        (b"Content-Type", b"text/plain"),
        (b"Set-Cookie", b"a=1"),
        (b"Set-Cookie", b"b=2"),
    ]
