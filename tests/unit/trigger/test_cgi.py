import fuzz_cgi
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from limpet import __version__
from limpet.http1.message import Request
from limpet.trigger.cgi import CgiError, EnvironmentBuilder, RequestError, ResponseParser


def request(
    target=b"/", *, method=b"GET", host=b"h", headers=(), body=b"", minor=1, path=None, query=b""
):
    if path is None:
        path, _, query = target.partition(b"?")
    hosts = [] if host is None else [(b"Host", host)]
    return Request(method, target, path, query, [*hosts, *headers], body, minor, keeps_alive=True)


def environment(
    asked, *, prefix=b"", variables=(), passes_authorization=False, peer=b"192.0.2.7", port=b"80"
):
    builder = EnvironmentBuilder(
        prefix=prefix, variables=variables, passes_authorization=passes_authorization
    )
    first = builder.build(asked, peer=peer, port=port)
    assert builder.build(asked, peer=peer, port=port) == first, "what is remembered changes nothing"
    assert not any(b"\0" in item or b"=" not in item for item in first)
    return dict(item.split(b"=", 1) for item in first)


def test_every_variable_of_the_convention_is_there():
    asked = request(
        b"/a%20b/c?d=e&f",
        method=b"POST",
        host=b"example.org:8080",
        headers=[(b"Content-Type", b"text/plain"), (b"Content-Length", b"2"), (b"X-Y", b"z")],
        body=b"hi",
    )
    assert environment(asked, variables=[b"COLOUR=red"], port=b"8080") == {
        b"COLOUR": b"red",
        b"GATEWAY_INTERFACE": b"CGI/1.1",
        b"SERVER_SOFTWARE": b"limpet/" + __version__.encode(),
        b"SERVER_PROTOCOL": b"HTTP/1.1",
        b"SERVER_NAME": b"example.org",
        b"SERVER_PORT": b"8080",
        b"SCRIPT_NAME": b"",
        b"X_MATCHED_ROUTE": b"/...",
        b"REQUEST_METHOD": b"POST",
        b"PATH_INFO": b"/a b/c",
        b"PATH_TRANSLATED": b"/a b/c",
        b"X_RAW_PATH_INFO": b"/a%20b/c",
        b"QUERY_STRING": b"d=e&f",
        b"X_FULL_URL": b"http://example.org:8080/a%20b/c?d=e&f",
        b"REMOTE_ADDR": b"192.0.2.7",
        b"REMOTE_HOST": b"192.0.2.7",
        b"REMOTE_USER": b"",
        b"AUTH_TYPE": b"",
        b"CONTENT_LENGTH": b"2",
        b"CONTENT_TYPE": b"text/plain",
        b"HTTP_HOST": b"example.org:8080",
        b"HTTP_X_Y": b"z",
    }


def test_without_a_body_there_is_no_length():
    env = environment(request(headers=[(b"Content-Length", b"0")], minor=0))
    assert b"CONTENT_LENGTH" not in env
    assert b"CONTENT_TYPE" not in env
    assert env[b"SERVER_PROTOCOL"] == b"HTTP/1.0"


def test_the_length_is_what_came_and_not_what_was_announced():
    env = environment(request(headers=[(b"Content-Length", b"999")], body=b"abc"))
    assert env[b"CONTENT_LENGTH"] == b"3"
    assert b"HTTP_CONTENT_LENGTH" not in env


@pytest.mark.parametrize(
    ("host", "name"),
    [
        (b"example.org", b"example.org"),
        (b"example.org:80", b"example.org"),
        (b"192.0.2.1", b"192.0.2.1"),
        (b"192.0.2.1:80", b"192.0.2.1"),
        (b"[2001:db8::1]", b"[2001:db8::1]"),
        (b"[2001:db8::1]:80", b"[2001:db8::1]"),
        (b"", b""),
        (None, b""),
    ],
)
def test_the_server_s_name_is_the_host_without_its_port(host, name):
    assert environment(request(host=host))[b"SERVER_NAME"] == name


def test_an_absolute_target_is_the_full_url():
    env = environment(request(b"http://h/a?b", path=b"/a", query=b"b"))
    assert env[b"X_FULL_URL"] == b"http://h/a?b"
    assert env[b"PATH_INFO"] == b"/a"


def test_the_prefix_is_the_script_s_name():
    env = environment(request(b"/api/v1/x%2Fy?z"), prefix=b"/api")
    assert env[b"SCRIPT_NAME"] == b"/api"
    assert env[b"X_MATCHED_ROUTE"] == b"/api/..."
    assert env[b"PATH_INFO"] == b"/v1/x/y"
    assert env[b"X_RAW_PATH_INFO"] == b"/v1/x%2Fy"
    assert environment(request(b"/api"), prefix=b"/api")[b"PATH_INFO"] == b""


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        (b"/caf%C3%A9", "/café".encode()),
        (b"/caf%E9", "/café".encode()),
        (b"/a+b", b"/a+b"),
        (b"/%", b"/%"),
        (b"/%2", b"/%2"),
        (b"/%zz", b"/%zz"),
        (b"/%25%32%30", b"/%20"),
        (b"/../%2e%2e/x", b"/../../x"),
    ],
)
def test_the_path_is_decoded_once_and_left_alone_otherwise(raw, path):
    assert environment(request(raw))[b"PATH_INFO"] == path


def test_a_path_that_no_string_can_hold_is_refused():
    with pytest.raises(RequestError, match="NUL"):
        environment(request(b"/a%00b"))


def test_repeated_headers_are_joined():
    env = environment(
        request(
            headers=[
                (b"X-A", b"1"),
                (b"Cookie", b"a=b"),
                (b"x-a", b"2"),
                (b"cookie", b"c=d"),
                (b"X-A", b""),
            ]
        )
    )
    assert env[b"HTTP_X_A"] == b"1, 2, "
    assert env[b"HTTP_COOKIE"] == b"a=b; c=d"


@pytest.mark.parametrize("name", [b"X_Forwarded_For", b"Content_Length", b"_", b"X-A_B"])
def test_a_name_that_could_pass_for_another_is_dropped(name):
    env = environment(request(headers=[(name, b"evil")]))
    assert b"evil" not in env.values()


@pytest.mark.parametrize("name", [b"Proxy", b"proxy", b"PROXY", b"pRoXy"])
def test_a_header_can_not_set_the_proxy(name):
    assert b"HTTP_PROXY" not in environment(request(headers=[(name, b"http://evil")]))


@pytest.mark.parametrize("name", [b"Authorization", b"authorization", b"AUTHORIZATION"])
def test_credentials_reach_only_handlers_that_ask(name):
    asked = request(headers=[(name, b"Basic eDp5")])
    assert b"HTTP_AUTHORIZATION" not in environment(asked)
    env = environment(asked, passes_authorization=True)
    assert env[b"HTTP_AUTHORIZATION"] == b"Basic eDp5"


def test_connection_is_between_client_and_platform():
    assert b"HTTP_CONNECTION" not in environment(request(headers=[(b"Connection", b"x")]))


def test_values_are_always_utf_8():
    env = environment(request(headers=[(b"A", b"caf\xe9"), (b"B", "café".encode())]))
    assert env[b"HTTP_A"] == env[b"HTTP_B"] == "café".encode()


def test_only_so_many_names_are_remembered():
    builder = EnvironmentBuilder(prefix=b"", variables=[], passes_authorization=False)
    for n in range(2000):
        headers = [(b"X-%d" % n, b""), (b"Proxy", b""), (b"X-" + b"a" * 1000, b"")]
        env = builder.build(request(headers=headers), peer=b"", port=b"1")
        assert b"HTTP_X_%d=" % n in env
        assert b"HTTP_PROXY=" not in env
    assert len(builder._names) <= 256


HEADER_NAMES = st.from_regex(rb"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,12}", fullmatch=True)
VALUES = st.from_regex(rb"[ -~\t\x80-\xff]{0,12}", fullmatch=True)


@given(st.lists(st.tuples(HEADER_NAMES, VALUES), max_size=6), st.booleans())
def test_no_header_can_set_a_variable_of_the_platform_s(headers, passes_authorization):
    env = environment(request(headers=headers), passes_authorization=passes_authorization)
    plain = environment(request())
    for name, value in env.items():
        value.decode("utf-8")
        assert name.startswith(b"HTTP_") or name == b"CONTENT_TYPE" or value == plain[name]


# The handler's output


def parse(output):
    parser = ResponseParser()
    first = parser.parse(output)
    again = parser.parse(output)
    assert (again.status, list(again.headers)) == (first.status, list(first.headers))
    return first.status, list(first.headers), first.body


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (b"A: b\n\nbody", (200, [(b"A", b"b")], b"body")),
        (b"A: b\r\n\r\nbody", (200, [(b"A", b"b")], b"body")),
        (b"A: b\r\n\nbody", (200, [(b"A", b"b")], b"body")),
        (b"A: b\n\r\nbody", (200, [(b"A", b"b")], b"body")),
        (b"A: b\nC: d\r\n\r\n", (200, [(b"A", b"b"), (b"C", b"d")], b"")),
        (b"A:b\n\n", (200, [(b"A", b"b")], b"")),
        (b"A:\n\n", (200, [(b"A", b"")], b"")),
        (b"A: \t b \t\n\n", (200, [(b"A", b"b")], b"")),
        (b"A: b: c\n\n", (200, [(b"A", b"b: c")], b"")),
        (b"A: \xff\n\n", (200, [(b"A", b"\xff")], b"")),
        (b"A: b\n\n\n\r\n\r\nbody\0\xff", (200, [(b"A", b"b")], b"\n\r\n\r\nbody\0\xff")),
        (b"A: b\n\nC: d\r\n\r\nbody", (200, [(b"A", b"b")], b"C: d\r\n\r\nbody")),
        (b"A: b\r\n\r\nC: d\n\nbody", (200, [(b"A", b"b")], b"C: d\n\nbody")),
        (b"A: 1\nA: 2\n\n", (200, [(b"A", b"1"), (b"A", b"2")], b"")),
        (b"Status: 404\n\n", (404, [], b"")),
        (b"Status: 404 Not Found\n\n", (404, [], b"")),
        (b"status:599 x\n\n", (599, [], b"")),
        (b"Location: /x\n\n", (302, [(b"Location", b"/x")], b"")),
        (b"Location: /x\nStatus: 201 Created\n\n", (201, [(b"Location", b"/x")], b"")),
    ],
)
def test_headers_end_at_the_first_empty_line(output, expected):
    assert parse(output) == expected


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (b"", "printed nothing"),
        (b"hello", "no empty line"),
        (b"A: b\n", "no empty line"),
        (b"A: b\r\r", "no empty line"),
        (b"\n\nbody", "not `Name: value`"),
        (b"\r\n\r\nbody", "not `Name: value`"),
        (b"<html>\n\n", "not `Name: value`"),
        (b": b\n\n", "not `Name: value`"),
        (b"A : b\n\n", "not `Name: value`"),
        (b" A: b\n\n", "not `Name: value`"),
        (b"A: b\n c\n\n", "not `Name: value`"),
        (b"A\xff: b\n\n", "not `Name: value`"),
        (b"A\0: b\n\n", "not `Name: value`"),
        (b"HTTP/1.1 200 OK\nA: b\n\n", "not `Name: value`"),
        (b"A: b\rSet-Cookie: evil\n\n", "control characters"),
        (b"A: b\0\n\n", "control characters"),
        (b"A: b\x7f\n\n", "control characters"),
        (b"Status: 199\n\n", "not 200 to 599"),
        (b"Status: 101\n\n", "not 200 to 599"),
        (b"Status: 600\n\n", "not 200 to 599"),
        (b"Status: 2000\n\n", "not 200 to 599"),
        (b"Status: 20\n\n", "not 200 to 599"),
        (b"Status: OK\n\n", "not 200 to 599"),
        (b"Status: \n\n", "not 200 to 599"),
        (b"Status: +20\n\n", "not 200 to 599"),
        (b"Status: \xb2\xb2\xb2\n\n", "not 200 to 599"),
        (b"Status: 200\tOK\n\n", "not 200 to 599"),
    ],
)
def test_what_is_no_response_is_refused_in_words(output, message):
    with pytest.raises(CgiError, match=message):
        parse(output)


@pytest.mark.parametrize(
    "name",
    [
        b"Connection", b"content-length", b"CONTENT-LENGTH", b"Transfer-Encoding", b"Keep-Alive",
        b"Proxy-Connection", b"TE", b"Trailer", b"Upgrade", b"Date",
    ],
)  # fmt: skip
def test_framing_is_the_platform_s(name):
    assert parse(name + b": 999\nX: y\n\nbody") == (200, [(b"X", b"y")], b"body")


def test_only_so_many_heads_are_remembered():
    parser = ResponseParser()
    for n in range(2000):
        assert parser.parse(b"X: %d\nY: %s\n\n" % (n, b"a" * 400)).headers[0] == (b"X", b"%d" % n)
    assert len(parser._heads) <= 256


RESPONSE_NAMES = HEADER_NAMES.filter(
    lambda name: (
        name.lower() not in {b"status", b"location", b"te", b"date", b"trailer", b"upgrade"}
    )
)
RESPONSE_VALUES = st.from_regex(rb"([!-~\x80-\xff]([ -~\t\x80-\xff]{0,8}[!-~])?)?", fullmatch=True)


@given(
    st.lists(st.tuples(RESPONSE_NAMES, RESPONSE_VALUES), min_size=1, max_size=5),
    st.none() | st.integers(200, 599),
    st.binary(max_size=40),
    st.sampled_from([b"\n", b"\r\n"]),
)
def test_what_was_printed_is_what_is_answered(headers, status, body, newline):
    lines = [name + b": " + value for name, value in headers]
    if status is not None:
        lines.insert(len(lines) // 2, b"Status: %d" % status)
    output = newline.join(lines) + newline * 2 + body
    assert parse(output) == (status or 200, headers, body)


@settings(max_examples=300)
@given(
    st.binary(max_size=80)
    | st.lists(st.sampled_from(fuzz_cgi.TOKENS) | st.binary(max_size=6), max_size=16).map(b"".join)
)
@example(b"Content-Length: 0\r\nX: y\r\n\r\nHTTP/1.1 200 OK\r\n\r\n")
def test_any_output_is_an_error_or_exactly_one_response(output):
    fuzz_cgi.check(output)


def test_mutated_output_is_an_error_or_exactly_one_response():
    done, accepted = fuzz_cgi.fuzz(seed=1, seconds=60, inputs=3000)
    assert done == 3000
    assert accepted > 500
