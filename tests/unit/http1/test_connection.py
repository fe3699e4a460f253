import errno
from itertools import pairwise

import fuzz_http1
import httptools
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from limpet.errors import TemporaryError
from limpet.http1.connection import ConnectionLimits, HttpConnection
from limpet.http1.message import Request, Response

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
HELLO = b"5\r\nhello\r\n0\r\n\r\n"


class Owner:
    """Answers each request with its method, target and body as soon as the feed returns."""

    def __init__(self, *, limits=None, choose_sink=None, answers=True):
        self.requests: list[Request] = []
        self.connection = HttpConnection(
            self.requests.append, limits or ConnectionLimits(), choose_sink
        )
        self.written = b""
        self._answers = answers
        self._answered = 0

    def feed(self, *pieces):
        for piece in pieces:
            self.connection.feed(piece)
            if self._answers:
                self.answer()
            self.flush()
        return self

    def answer(self, count=None):
        while self.connection.unanswered and count != 0:
            request = self.requests[self._answered]
            self._answered += 1
            self.connection.respond(Response(200, [], request.method + b" " + request.target))
            count = None if count is None else count - 1
        self.flush()
        return self

    def flush(self):
        self.written += b"".join(self.connection.output)
        self.connection.output.clear()

    @property
    def statuses(self):
        return [status for status, *_ in read_responses(self.written, self.requests)]


def read_responses(data, requests=()):
    """Parse everything that was written, as a client would: (status, headers, body) each."""

    class Reader:
        def __init__(self):
            self.headers, self.body, self.is_complete = [], b"", False

        def on_header(self, name, value):
            self.headers.append((name, value))

        def on_body(self, piece):
            self.body += piece

        def on_message_complete(self):
            self.is_complete = True

    found = []
    finals = 0
    while data:
        head, separator, rest = data.partition(b"\r\n\r\n")
        assert separator, data
        reader = Reader()
        parser = httptools.HttpResponseParser(reader)
        length = next(
            (
                int(line.partition(b":")[2])
                for line in head.split(b"\r\n")
                if line.lower().startswith(b"content-length")
            ),
            0,
        )
        status = int(head.split(b" ")[1])
        is_head = status >= 200 and finals < len(requests) and requests[finals].method == b"HEAD"
        finals += status >= 200
        length = 0 if is_head or status < 200 else length
        parser.feed_data(head + separator + rest[:length])
        assert reader.is_complete or is_head or status < 200
        assert parser.get_status_code() == status
        found.append((status, reader.headers, rest[:length]))
        data = rest[length:]
    return found


def request_of(data, **limits):
    owner = Owner(limits=ConnectionLimits(**limits)).feed(data)
    assert len(owner.requests) == 1, owner.written
    return owner.requests[0]


REFUSED = {
    "content-length and transfer-encoding": (
        POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n" + HELLO,
        400,
    ),
    "transfer-encoding and content-length": (
        POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n" + HELLO,
        400,
    ),
    "equal content-lengths": (
        POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        400,
    ),
    "different content-lengths": (
        POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        400,
    ),
    "content-length list": (POST + b"Content-Length: 5, 5\r\n\r\nhello", 400),
    "content-length plus": (POST + b"Content-Length: +5\r\n\r\nhello", 400),
    "content-length minus": (POST + b"Content-Length: -5\r\n\r\nhello", 400),
    "content-length hex": (POST + b"Content-Length: 0x5\r\n\r\nhello", 400),
    "content-length with a gap": (POST + b"Content-Length: 5 5\r\n\r\nhello", 400),
    "content-length underscore": (POST + b"Content-Length: 1_0\r\n\r\nhello", 400),
    "content-length empty": (POST + b"Content-Length:\r\n\r\nhello", 400),
    "content-length overflow": (POST + b"Content-Length: 18446744073709551621\r\n\r\nhello", 400),
    "content-length other digits": (POST + "Content-Length: \u0665\r\n\r\n".encode(), 400),
    "content-length too large": (POST + b"Content-Length: 8388609\r\n\r\n", 413),
    "coding xchunked": (POST + b"Transfer-Encoding: xchunked\r\n\r\n" + HELLO, 501),
    "coding chunkedx": (POST + b"Transfer-Encoding: chunkedx\r\n\r\n" + HELLO, 501),
    "coding twice in one": (POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n" + HELLO, 400),
    "coding chunked not last": (
        POST + b"Transfer-Encoding: chunked, identity\r\n\r\n" + HELLO,
        400,
    ),
    "coding identity": (POST + b"Transfer-Encoding: identity\r\n\r\n", 501),
    "coding gzip": (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + HELLO, 501),
    "coding empty": (POST + b"Transfer-Encoding:\r\n\r\n", 400),
    "coding after a comma": (POST + b"Transfer-Encoding: ,chunked\r\n\r\n" + HELLO, 501),
    "coding quoted": (POST + b'Transfer-Encoding: "chunked"\r\n\r\n' + HELLO, 501),
    "coding with vertical tab": (POST + b"Transfer-Encoding: chunked\x0b\r\n\r\n" + HELLO, 400),
    "coding with form feed": (POST + b"Transfer-Encoding: \x0cchunked\r\n\r\n" + HELLO, 400),
    "coding twice": (
        POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n" + HELLO,
        400,
    ),
    "coding then another": (
        POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n" + HELLO,
        400,
    ),
    "coding folded": (POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n" + HELLO, 400),
    "coding with space before colon": (
        POST + b"Transfer-Encoding : chunked\r\n\r\n" + HELLO,
        400,
    ),
    "coding in HTTP/1.0": (
        b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n" + HELLO,
        400,
    ),
    "length with space before colon": (POST + b"Content-Length : 5\r\n\r\nhello", 400),
    "folded header": (POST + b"X: a\r\n b\r\n\r\n", 400),
    "folded with tab": (POST + b"X: a\r\n\tb\r\n\r\n", 400),
    "space before first header": (b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400),
    "bare LF everywhere": (b"GET / HTTP/1.1\nHost: a\n\n", 400),
    "bare LF in the request line": (b"GET / HTTP/1.1\nHost: a\r\n\r\n", 400),
    "bare LF after a header": (b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", 400),
    "bare LF at the end": (b"GET / HTTP/1.1\r\nHost: a\r\n\n", 400),
    "lone CR in a value": (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", 400),
    "lone CR in a name": (b"GET / HTTP/1.1\r\nHost: a\r\nX\r: a\r\n\r\n", 400),
    "lone CR as a line end": (b"GET / HTTP/1.1\r\nHost: a\r\rX: a\r\n\r\n", 400),
    "lone CR in the target": (b"GET /\ra HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "NUL in a value": (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", 400),
    "NUL in a name": (b"GET / HTTP/1.1\r\nHost: a\r\nX\0: a\r\n\r\n", 400),
    "NUL in the target": (b"GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "control in a value": (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x01b\r\n\r\n", 400),
    "DEL in a value": (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x7fb\r\n\r\n", 400),
    "bytes in the target": (b"GET /\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "no colon": (b"GET / HTTP/1.1\r\nHost: a\r\nXX\r\n\r\n", 400),
    "no name": (b"GET / HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n", 400),
    "space after the version": (b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 400),
    "lower-case version": (b"GET / http/1.1\r\nHost: a\r\n\r\n", 400),
    "two digits of version": (b"GET / HTTP/1.10\r\nHost: a\r\n\r\n", 400),
    "HTTP/2": (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "HTTP/0.9 by name": (b"GET / HTTP/0.9\r\nHost: a\r\n\r\n", 505),
    "unknown method": (b"FOO / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "lower-case method": (b"get / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "method with a delimiter": (b"G@T / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "no Host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two Hosts": (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
    "two Hosts in HTTP/1.0": (b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    "Host with a path": (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
    "Host with a user": (b"GET / HTTP/1.1\r\nHost: b@a\r\n\r\n", 400),
    "Host with a space": (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
    "Host with bytes": (b"GET / HTTP/1.1\r\nHost: \xff\r\n\r\n", 400),
    "absolute form of another host": (b"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "absolute form with a user": (b"GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "absolute form of another scheme": (b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "asterisk form of GET": (b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "relative target": (b"GET foo HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "unknown expectation": (POST + b"Expect: a-miracle\r\n\r\n", 417),
    "target too long": (b"GET /" + b"a" * 40000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
    "header too long": (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 40000 + b"\r\n\r\n", 431),
    "too many headers": (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: a\r\n" * 6000 + b"\r\n", 431),
    "endless head": (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: a\r\n" * 6000, 431),
    "endless empty lines": (b"\r\n" * 20000, 431),
    "chunk size not hexadecimal": (CHUNKED + b"zz\r\nhello\r\n0\r\n\r\n", 400),
    "chunk size with 0x": (CHUNKED + b"0x5\r\nhello\r\n0\r\n\r\n", 400),
    "chunk size with sign": (CHUNKED + b"+5\r\nhello\r\n0\r\n\r\n", 400),
    "chunk size negative": (CHUNKED + b"-5\r\nhello\r\n0\r\n\r\n", 400),
    "chunk size after space": (CHUNKED + b" 5\r\nhello\r\n0\r\n\r\n", 400),
    "chunk size before space": (CHUNKED + b"5 \r\nhello\r\n0\r\n\r\n", 400),
    "chunk size missing": (CHUNKED + b"\r\nhello\r\n0\r\n\r\n", 400),
    "chunk size overflow": (CHUNKED + b"10000000000000005\r\nhello\r\n0\r\n\r\n", 400),
    "chunk with bare LF": (CHUNKED + b"5\nhello\r\n0\r\n\r\n", 400),
    "chunk extension with bare LF": (CHUNKED + b"5;a\nhello\r\n0\r\n\r\n", 400),
    "chunk extension with CR": (CHUNKED + b"5;a\rb\r\nhello\r\n0\r\n\r\n", 400),
    "chunk data longer than said": (CHUNKED + b"5\r\nhelloXX\r\n0\r\n\r\n", 400),
    "chunk data without its end": (CHUNKED + b"5\r\nhello0\r\n\r\n", 400),
    "chunk data ended by LF": (CHUNKED + b"5\r\nhello\n0\r\n\r\n", 400),
    "last chunk ended by LF": (CHUNKED + b"5\r\nhello\r\n0\n\n", 400),
    "content-length in the trailer": (
        CHUNKED + b"5\r\nhello\r\n0\r\nContent-Length: 9\r\n\r\n",
        400,
    ),
    "coding in the trailer": (
        CHUNKED + b"5\r\nhello\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
        400,
    ),
    "garbage": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
}


@pytest.mark.parametrize("size", [1, 7, 1 << 20], ids=["bytewise", "by sevens", "at once"])
@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED)
def test_what_breaks_a_rule_is_refused_once_and_nothing_after_it_is_parsed(data, size):
    data, status = data
    owner = Owner()
    owner.feed(*(data[at : at + size] for at in range(0, len(data), size)))
    assert owner.connection.is_closing
    owner.feed(GET)
    assert owner.requests == []
    [(answered, headers, body)] = read_responses(owner.written)
    assert answered == status
    assert (b"Connection", b"close") in headers
    assert body.endswith(b"\n")


ACCEPTED = {
    "plain": (GET, b""),
    "length": (POST + b"Content-Length: 5\r\n\r\nhello", b"hello"),
    "length with space": (POST + b"Content-Length:\t5 \t\r\n\r\nhello", b"hello"),
    "length with zeros": (POST + b"Content-Length: 005\r\n\r\nhello", b"hello"),
    "no length": (POST + b"\r\n", b""),
    "chunks": (CHUNKED + b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", b"hello"),
    "chunks with zeros": (CHUNKED + b"0005\r\nhello\r\n0000\r\n\r\n", b"hello"),
    "chunk size upper case": (CHUNKED + b"A\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
    "chunk extensions": (CHUNKED + b'5;a=b;c="d e"\r\nhello\r\n0;z\r\n\r\n', b"hello"),
    "coding in capitals": (POST + b"TRANSFER-ENCODING: CHUNKED\r\n\r\n" + HELLO, b"hello"),
    "coding without space": (POST + b"Transfer-Encoding:chunked\r\n\r\n" + HELLO, b"hello"),
    "coding with space after": (
        POST + b"Transfer-Encoding: chunked \r\n\r\n" + HELLO,
        b"hello",
    ),
    "trailers": (CHUNKED + b"5\r\nhello\r\n0\r\nHost: b\r\nX-T: 1\r\n\r\n", b"hello"),
    "empty lines before": (b"\r\n\r\n" + GET, b""),
    "GET with a body": (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi", b"hi"),
    "bytes in a value": (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\xffb\r\n\r\n", b""),
    "empty value": (b"GET / HTTP/1.1\r\nHost: a\r\nX:\r\n\r\n", b""),
    "empty Host": (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", b""),
    "IPv6 Host": (b"GET / HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n", b""),
    "HTTP/1.0 without Host": (b"GET / HTTP/1.0\r\n\r\n", b""),
    "expectation with a body": (POST + b"expect: 100-Continue \r\n\r\n", b""),
}


@pytest.mark.parametrize("size", [1, 3, 1 << 20], ids=["bytewise", "by threes", "at once"])
@pytest.mark.parametrize("data", ACCEPTED.values(), ids=ACCEPTED)
def test_what_keeps_the_rules_is_handed_out(data, size):
    data, body = data
    owner = Owner().feed(*(data[at : at + size] for at in range(0, len(data), size)))
    assert [request.body for request in owner.requests] == [body]
    assert owner.statuses == [200]


def test_a_request_is_handed_out_as_it_was_sent():
    request = request_of(
        b"PATCH /a%20b?c=d?e HTTP/1.1\r\nHost: h\r\nX-One: 1 \r\nx-one:  2\r\n"
        b"Content-Length: 2\r\n\r\nhi"
    )
    assert request == Request(
        b"PATCH",
        b"/a%20b?c=d?e",
        b"/a%20b",
        b"c=d?e",
        [(b"Host", b"h"), (b"X-One", b"1"), (b"x-one", b"2"), (b"Content-Length", b"2")],
        b"hi",
        1,
        keeps_alive=True,
    )


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/", b"/", b""),
        (b"/?", b"/", b""),
        (b"//evil/x", b"//evil/x", b""),
        (b"/a://b/c", b"/a://b/c", b""),
        (b"/a#b", b"/a", b""),
        (b"http://h", b"/", b""),
        (b"http://H/a?b", b"/a", b"b"),
        (b"HTTP://h/a", b"/a", b""),
        (b"https://h/a", b"/a", b""),
        (b"http://h?x=/y", b"/", b"x=/y"),
        (b"http://h/a?u=http://h/b", b"/a", b"u=http://h/b"),
    ],
)
def test_the_target_is_reduced_to_path_and_query(target, path, query):
    request = request_of(b"GET " + target + b" HTTP/1.1\r\nHost: h\r\n\r\n")
    assert (request.target, request.path, request.query) == (target, path, query)


def test_an_absolute_target_of_an_http_1_0_request_needs_no_host():
    assert request_of(b"GET http://h/a HTTP/1.0\r\n\r\n").path == b"/a"


def test_options_may_ask_about_everything():
    assert request_of(b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n").path == b"*"


# Order


def test_pipelined_requests_are_handed_out_and_answered_in_order():
    owner = Owner(answers=False)
    owner.feed(b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % n for n in range(50)))
    assert [request.target for request in owner.requests] == [b"/%d" % n for n in range(50)]
    assert owner.connection.unanswered == 50
    assert owner.written == b""
    owner.answer()
    bodies = [body for _, _, body in read_responses(owner.written)]
    assert bodies == [b"GET /%d" % n for n in range(50)]
    assert owner.connection.is_idle


def test_a_refusal_waits_for_the_answers_that_are_due():
    owner = Owner(answers=False).feed(GET + GET + b"BAD\r\n\r\n")
    assert owner.written == b""
    owner.answer(1)
    assert owner.statuses == [200]
    assert not owner.connection.is_closing
    owner.answer()
    assert owner.statuses == [200, 200, 400]
    assert owner.connection.is_closing


def test_nothing_is_produced_after_an_answer_that_closes():
    owner = Owner(answers=False)
    owner.feed(GET + GET)
    owner.connection.closes_after_response = True
    owner.answer(1)
    assert owner.connection.is_closing
    assert owner.connection.unanswered == 0
    owner.feed(GET)
    assert owner.statuses == [200]


def test_nothing_is_parsed_after_an_owner_that_answers_at_once_has_closed():
    requests = []

    def answer(request):
        requests.append(request)
        connection.respond(Response(200))

    connection = HttpConnection(answer, ConnectionLimits())
    connection.closes_after_response = True
    connection.feed(GET * 3)
    assert len(requests) == 1
    assert [s for s, *_ in read_responses(b"".join(connection.output))] == [200]


@pytest.mark.parametrize(
    ("version", "connection", "keeps_alive", "header"),
    [
        (b"1.1", b"", True, None),
        (b"1.1", b"Connection: keep-alive\r\n", True, None),
        (b"1.1", b"Connection: close\r\n", False, b"close"),
        (b"1.1", b"Connection: x, Close\r\n", False, b"close"),
        (b"1.0", b"", False, b"close"),
        (b"1.0", b"Connection: keep-alive\r\n", True, b"keep-alive"),
        (b"1.0", b"Connection: close\r\n", False, b"close"),
    ],
)
def test_the_client_says_whether_the_connection_goes_on(version, connection, keeps_alive, header):
    first = b"GET /1 HTTP/" + version + b"\r\nHost: a\r\n" + connection + b"\r\n"
    owner = Owner().feed(first)
    [(status, headers, _)] = read_responses(owner.written)
    assert status == 200
    assert dict(headers).get(b"Connection") == header
    assert owner.connection.is_closing is not keeps_alive
    owner.feed(GET)
    assert len(owner.requests) == 1 + keeps_alive


def test_the_answer_to_head_has_a_length_and_no_body():
    owner = Owner().feed(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n" + GET)
    (status, headers, body), second = read_responses(owner.written, owner.requests)
    assert (status, body) == (200, b"")
    assert dict(headers)[b"Content-Length"] == b"6"
    assert second[2] == b"GET /"


# 100 Continue


def test_the_body_is_invited_before_it_comes():
    owner = Owner()
    owner.feed(POST + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n")
    assert owner.written == b"HTTP/1.1 100 Continue\r\n\r\n"
    owner.feed(b"hello")
    assert owner.statuses == [100, 200]


def test_the_invitation_waits_for_the_answers_before_it():
    owner = Owner(answers=False)
    owner.feed(GET + POST + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n")
    assert owner.written == b""
    owner.answer()
    assert owner.statuses == [200, 100]
    owner.feed(b"hello").answer()
    assert owner.statuses == [200, 100, 200]


def test_a_body_that_came_uninvited_is_not_invited_later():
    owner = Owner(answers=False)
    owner.feed(GET + POST + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n", b"hello")
    owner.answer()
    assert owner.statuses == [200, 200]


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nExpect: 100-continue\r\n\r\n",
        b"POST / HTTP/1.0\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello",
    ],
    ids=["no body", "empty body", "HTTP/1.0"],
)
def test_nothing_is_invited_without_need(head):
    assert Owner().feed(head).statuses == [200]


def test_a_body_that_is_too_large_is_not_invited():
    owner = Owner(limits=ConnectionLimits(body_bytes=4))
    owner.feed(POST + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n")
    assert owner.statuses == [413]


# Another protocol


@pytest.mark.parametrize("size", [1, 3, 10, 1 << 20])
@pytest.mark.parametrize(
    "head",
    [
        b"CONNECT h:1 HTTP/1.1\r\nHost: h:1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    ],
    ids=["CONNECT", "h2c", "websocket"],
)
def test_what_follows_an_offer_of_another_protocol_is_never_taken_for_requests(head, size):
    data = head + GET + GET
    owner = Owner(answers=False)
    owner.feed(*(data[at : at + size] for at in range(0, len(data), size)))
    assert len(owner.requests) == 1
    owner.answer()
    assert owner.statuses == [200]
    assert owner.connection.is_closing


def test_upgrade_without_connection_means_nothing():
    owner = Owner().feed(b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\n\r\n" + GET)
    assert owner.statuses == [200, 200]


# Bounds


@pytest.mark.parametrize("framing", ["length", "chunks"])
@pytest.mark.parametrize(("size", "status"), [(10, 200), (11, 413)])
def test_the_body_is_bounded_however_it_is_framed(framing, size, status):
    body = b"x" * size
    if framing == "length":
        data = POST + b"Content-Length: %d\r\n\r\n" % size + body
    else:
        data = CHUNKED + b"".join(b"1\r\nx\r\n" for _ in body) + b"0\r\n\r\n"
    assert Owner(limits=ConnectionLimits(body_bytes=10)).feed(data).statuses == [status]


@pytest.mark.parametrize("part", [b"5;" + b"x" * 1000, b"0" * 1000, b"0\r\nX: " + b"x" * 1000])
def test_chunk_extensions_and_trailers_without_end_are_refused(part):
    owner = Owner(limits=ConnectionLimits(head_bytes=4000))
    owner.feed(CHUNKED + part)
    for _ in range(8):
        owner.feed(b"0" * 1000)
    assert owner.statuses == [431]
    assert owner.requests == []


def test_many_small_chunks_are_no_endless_framing():
    owner = Owner(limits=ConnectionLimits(head_bytes=100))
    owner.feed(CHUNKED, *(b"1;x=%d\r\nx\r\n" % n for n in range(200)), b"0\r\n\r\n")
    assert owner.requests[0].body == b"x" * 200


def test_a_large_body_is_not_a_large_head():
    owner = Owner(limits=ConnectionLimits(head_bytes=100))
    owner.feed(POST + b"Content-Length: 5000\r\n\r\n" + b"x" * 1000, *[b"x" * 1000] * 4)
    assert owner.statuses == [200]


def test_the_owner_can_refuse_what_is_being_received():
    owner = Owner().feed(b"GET / HT")
    owner.connection.refuse(408, "too slow")
    owner.feed(b"TP/1.1\r\nHost: a\r\n\r\n")
    assert owner.statuses == [408]
    assert owner.requests == []
    owner.connection.refuse(503, "again")
    owner.flush()
    assert owner.statuses == [408]


def test_idle_is_when_nothing_is_received_or_due():
    owner = Owner(answers=False)
    assert owner.connection.is_idle
    owner.feed(b"POST /")
    assert not owner.connection.is_idle
    assert not owner.connection.is_receiving_body
    owner.feed(b" HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n")
    assert owner.connection.is_receiving_body
    owner.feed(b"hi")
    assert not owner.connection.is_receiving_body
    assert not owner.connection.is_idle
    owner.answer()
    assert owner.connection.is_idle


# Sinks


class Sink:
    def __init__(self, max_bytes=1 << 20, error=None):
        self.max_bytes, self.error, self.data = max_bytes, error, b""

    def write(self, data):
        if self.error is not None:
            raise self.error
        self.data += data


def with_sink(sink):
    return Owner(choose_sink=lambda method, target: sink if method == b"PUT" else None)


def test_a_sink_takes_the_body_instead_of_memory():
    sink = Sink()
    owner = with_sink(sink)
    owner.feed(b"PUT /big HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabc", b"def" + GET)
    put, get = owner.requests
    assert (sink.data, put.body, put.sink, get.sink) == (b"abcdef", b"", sink, None)


@pytest.mark.parametrize("framing", [b"Content-Length: 6\r\n\r\nabcdef", b"chunked"])
def test_a_sink_has_a_bound_of_its_own(framing):
    if framing == b"chunked":
        framing = b"Transfer-Encoding: chunked\r\n\r\n6\r\nabcdef\r\n0\r\n\r\n"
    owner = with_sink(Sink(max_bytes=5)).feed(b"PUT / HTTP/1.1\r\nHost: a\r\n" + framing)
    assert owner.statuses == [413]


def test_a_sink_can_refuse():
    sink = Sink(error=TemporaryError("no room"))
    owner = with_sink(sink).feed(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi")
    [(status, headers, body)] = read_responses(owner.written)
    assert (status, body) == (503, b"no room\n")
    assert (b"Retry-After", b"1") in headers


def test_an_error_of_the_owner_is_not_blamed_on_the_client():
    sink = Sink(error=OSError(errno.ENOSPC, "full"))
    owner = with_sink(sink)
    with pytest.raises(OSError, match="full"):
        owner.feed(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi")
    owner.connection.refuse(503, "no room")
    owner.flush()
    assert owner.statuses == [503]


# Answers in pieces


def test_an_answer_can_be_written_in_pieces():
    owner = Owner(answers=False).feed(GET + GET)
    connection = owner.connection
    connection.begin_response(200, [(b"X", b"y")], length=None)
    connection.write_body(b"one")
    connection.write_body(b"three")
    connection.end_response()
    connection.begin_response(200, [], length=2)
    connection.write_body(b"hi")
    connection.end_response()
    owner.flush()
    first, second = owner.written.split(b"0\r\n\r\n", 1)
    assert first.endswith(b"Transfer-Encoding: chunked\r\n\r\n3\r\none\r\n5\r\nthree\r\n")
    assert second.endswith(b"Content-Length: 2\r\n\r\nhi")
    assert connection.is_idle


def test_an_answer_of_unknown_length_ends_an_http_1_0_connection():
    owner = Owner(answers=False).feed(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    owner.connection.begin_response(200, [], length=None)
    owner.connection.write_body(b"one")
    owner.connection.end_response()
    owner.flush()
    head, _, body = owner.written.partition(b"\r\n\r\n")
    assert b"Transfer-Encoding" not in head
    assert b"Connection: close" in head
    assert body == b"one"
    assert owner.connection.is_closing


# Properties

HEADERS = st.lists(
    st.tuples(
        st.from_regex(rb"X-[A-Za-z0-9!#$&'*+.^_`|~-]{1,8}", fullmatch=True),
        st.from_regex(rb"([!-~\x80-\xff]([ !-~]{0,6}[!-~])?)?", fullmatch=True),
    ),
    max_size=3,
)


@st.composite
def requests(draw):
    """A valid request and what has to come out: (bytes, method, target, headers, body)."""
    method = draw(st.sampled_from([b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS"]))
    target = b"/" + draw(st.from_regex(rb"[a-z0-9/%._~-]{0,8}(\?[a-z=&/?]{0,6})?", fullmatch=True))
    body = draw(st.binary(max_size=40))
    headers = draw(HEADERS)
    head = b"".join(
        b"%s:%s%s\r\n" % (n, draw(st.sampled_from([b"", b" ", b"\t "])), v) for n, v in headers
    )
    extra = []
    if draw(st.booleans()):
        extra.append((b"Expect", b"100-continue"))
    if draw(st.booleans()):
        extra.append((b"Transfer-Encoding", b"chunked"))
        cuts = sorted(draw(st.lists(st.integers(1, max(len(body), 1)), max_size=4, unique=True)))
        edges = [0, *[cut for cut in cuts if cut < len(body)], len(body)]
        pieces = [body[a:b] for a, b in pairwise(edges) if a < b]
        extension = draw(st.sampled_from([b"", b";a", b';a="b c"']))
        trailer = draw(st.sampled_from([b"", b"X-Trailer: 1\r\n"]))
        framed = b"".join(b"%x%s\r\n%s\r\n" % (len(p), extension, p) for p in pieces)
        framed += b"0\r\n" + trailer + b"\r\n"
    elif body or draw(st.booleans()):
        extra.append((b"Content-Length", b"%d" % len(body)))
        framed = body
    else:
        framed = b""
    head += b"".join(b"%s: %s\r\n" % pair for pair in extra)
    data = method + b" " + target + b" HTTP/1.1\r\nHost: a\r\n" + head + b"\r\n" + framed
    return data, method, target, [(b"Host", b"a"), *headers, *extra], body


def fed(data, edges):
    owner = Owner()
    cuts = [0, *sorted(edges), len(data)]
    owner.feed(*(data[a:b] for a, b in pairwise(cuts) if a < b))
    return owner


@settings(max_examples=150)
@given(st.lists(requests(), min_size=1, max_size=4), st.data())
def test_any_split_of_a_valid_stream_gives_the_same_requests_and_answers(stream, data):
    whole = b"".join(one[0] for one in stream)
    edges = data.draw(st.sets(st.integers(0, len(whole)), max_size=12))
    split, at_once = fed(whole, edges), fed(whole, ())
    for owner in (split, at_once):
        found = [(r.method, r.target, r.headers, r.body) for r in owner.requests]
        assert found == [one[1:] for one in stream]
        assert [s for s in owner.statuses if s != 100] == [200] * len(stream)
        assert owner.connection.is_idle
    finals = [r for r in read_responses(split.written, split.requests) if r[0] != 100]
    same = [r for r in read_responses(at_once.written, at_once.requests) if r[0] != 100]
    assert [(s, b) for s, _, b in finals] == [(s, b) for s, _, b in same]


WORDS = st.sampled_from(
    [
        b"GET ", b"POST ", b"/", b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", b"Host: a\r\n", b"\r\n", b"\n",
        b"\r", b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"3\r\nabc\r\n",
        b"0\r\n\r\n", b"abc", b"Connection: close\r\n", b"Upgrade: h2c\r\n", b"Connection: upgrade\r\n",
        b"Expect: 100-continue\r\n", b"CONNECT ", b"h:1", b"\0", b": ", GET, CHUNKED, HELLO,
    ]
)  # fmt: skip
NOISE = st.lists(WORDS | st.binary(max_size=8), max_size=20)


@settings(max_examples=300)
@given(NOISE, st.booleans())
@example([GET, b"CONNECT h:1 HTTP/1.1\r\nHost: h\r\n\r\n", GET], True)
def test_any_bytes_give_valid_answers_or_none(pieces, answers):
    owner = Owner(answers=answers).feed(*pieces)
    connection = owner.connection
    assert all(100 <= status <= 599 for status in owner.statuses)
    if connection.is_closing:
        written = len(owner.written)
        owner.feed(GET, *pieces)
        connection.refuse(500, "no")
        owner.flush()
        assert len(owner.written) == written
    owner.answer()
    assert len([s for s in owner.statuses if s != 100]) <= len(owner.requests) + 1


def test_mutated_streams_give_valid_answers_or_none():
    done, accepted = fuzz_http1.fuzz(seed=1, seconds=60, inputs=1500)
    assert done == 1500
    assert accepted > 100


# A client that repeats itself.


PIECES = [
    GET,
    b"HEAD /x HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"\r\n" + GET,
    GET + b"\r\n\r\n",
    GET + GET,
    GET + b"G",
    GET[1:],
    GET[:10],
    GET[10:],
    b"\r\n\r\n",
    b"GET / HTTP/1.1\nHost: a\n\n" + GET,
    POST + b"Content-Length: 4\r\n\r\n\r\n\r\n",
    CHUNKED,
    HELLO,
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 2000 + b"\r\n\r\n",
]


@settings(max_examples=2000)
@given(st.lists(st.sampled_from(PIECES), max_size=8))
@example([GET, GET, GET])
@example([GET + b"G", GET[1:], GET[1:]])
@example([GET, GET + b"G", GET])
def test_what_is_repeated_means_what_it_meant_to_the_parser(pieces):
    recognising, parsing = Owner(), Owner()
    for piece in pieces:
        parsing.connection._repeated = None
        parsing.feed(piece)
    recognising.feed(*pieces)
    assert [seen(request) for request in recognising.requests] == [
        seen(request) for request in parsing.requests
    ]
    assert dateless(recognising.written) == dateless(parsing.written)
    assert recognising.connection.is_closing == parsing.connection.is_closing
    assert recognising.connection.is_idle == parsing.connection.is_idle


def seen(request):
    return (request.method, request.target, request.headers, request.body, request.keeps_alive)


def dateless(written):
    return [line for line in written.split(b"\r\n") if not line.startswith(b"Date: ")]


def test_a_repeated_request_is_the_same_object_with_what_its_owner_derived():
    owner = Owner().feed(GET)
    owner.requests[0].derived = "derived"
    owner.feed(GET, GET, GET.replace(b"/ ", b"/other "), GET)
    assert [request.derived for request in owner.requests] == ["derived"] * 3 + [None] * 2
    assert owner.statuses == [200] * 5
