import time
from email.utils import parsedate_to_datetime

import httptools
import pytest

from limpet.http1 import message
from limpet.http1.message import (
    Request,
    Response,
    encode_head,
    encode_lines,
    encode_response,
    plain,
)


def encode(response, **changes):
    options = {"is_head": False, "keeps_alive": True, "minor_version": 1} | changes
    head, end, body = encode_response(response, **options).partition(b"\r\n\r\n")
    assert end
    line, *fields = head.split(b"\r\n")
    return line, [tuple(field.split(b": ", 1)) for field in fields if b"Date" not in field], body


def test_a_response_has_its_own_headers_and_the_framing():
    response = Response(201, [(b"X", b"y"), (b"x", b"z")], b"hi")
    assert encode(response) == (
        b"HTTP/1.1 201 Created",
        [(b"X", b"y"), (b"x", b"z"), (b"Content-Length", b"2")],
        b"hi",
    )


@pytest.mark.parametrize("status", [204, 304])
def test_some_statuses_have_neither_body_nor_length(status):
    assert encode(Response(status, [], b"no"))[1:] == ([], b"")


def test_an_empty_body_has_a_length():
    assert encode(Response(200))[1:] == ([(b"Content-Length", b"0")], b"")


def test_the_answer_to_head_keeps_the_length():
    assert encode(Response(200, [], b"hi"), is_head=True)[1:] == ([(b"Content-Length", b"2")], b"")


@pytest.mark.parametrize(
    ("keeps_alive", "minor", "expected"),
    [(True, 1, None), (False, 1, b"close"), (True, 0, b"keep-alive"), (False, 0, b"close")],
)
def test_connection_is_said_where_it_is_not_understood(keeps_alive, minor, expected):
    _, headers, _ = encode(Response(200), keeps_alive=keeps_alive, minor_version=minor)
    assert dict(headers).get(b"Connection") == expected


def test_a_body_of_unknown_length_is_chunked_unless_the_client_is_old():
    head = encode_head(200, encode_lines(200, []), length=None, keeps_alive=True, minor_version=1)
    assert b"Transfer-Encoding: chunked\r\n" in head
    assert b"Content-Length" not in head
    head = encode_head(200, encode_lines(200, []), length=None, keeps_alive=False, minor_version=0)
    assert b"Transfer-Encoding" not in head
    assert b"Content-Length" not in head


@pytest.mark.parametrize("status", [200, 299, 418, 599])
def test_a_status_without_a_known_phrase_is_still_valid(status):
    parser = httptools.HttpResponseParser(object())
    parser.feed_data(
        encode_response(Response(status), is_head=False, keeps_alive=True, minor_version=1)
    )
    assert parser.get_status_code() == status


def test_the_date_follows_the_clock(monkeypatch):
    for now in (0, 784111777, 1709164799, 4102444800):
        monkeypatch.setattr(message.time, "time", lambda now=now: now + 0.75)
        head = encode_head(200, encode_lines(200, []), length=0, keeps_alive=True, minor_version=1)
        date = next(line for line in head.decode().split("\r\n") if line.startswith("Date: "))
        assert parsedate_to_datetime(date[6:]).timestamp() == now
        assert date == time.strftime("Date: %a, %d %b %Y %H:%M:%S GMT", time.gmtime(now))


def test_a_header_is_found_by_its_lower_case_name():
    headers = [(b"X-A", b"1"), (b"x-a", b"2")]
    request = Request(b"GET", b"/", b"/", b"", headers, b"", 1, keeps_alive=True)
    assert request.header(b"x-a") == b"1"
    assert request.header(b"x-b") is None


def test_the_platform_s_own_answers_are_plain_text_that_nobody_keeps():
    response = plain(503, "caf\u00e9 \ud800", (b"Retry-After", b"1"))
    assert response.status == 503
    assert response.headers == [
        (b"Content-Type", b"text/plain; charset=utf-8"),
        (b"Cache-Control", b"no-store"),
        (b"Retry-After", b"1"),
    ]
    assert response.body == "caf\u00e9 ?\n".encode()
