import contextlib
import queue
import re
import threading
from types import SimpleNamespace

import pytest

from limpet.engine.protocol import Outcome, OutcomeKind
from limpet.settings import HttpSettings
from limpet.trigger import http as http_module
from limpet.trigger import server as server_module
from limpet.trigger.http import HttpTrigger
from limpet.worker.config import WorkerConfig

from .serving import Client, LoopThread, eventually, listen

HELLO = b"Content-Type: text/plain\n\nhello"


class Clock:
    """Stands still until it is moved."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now


class FakeProgram:
    """Stands for the engine: does what the request's path says.

    `/slow` takes long by the clock, `/gate...` waits until the test lets it through.
    """

    def __init__(self, clock):
        self.clock = clock
        self.invocations = []
        self.threads = []
        self.gates = queue.SimpleQueue()
        self.waiting = queue.SimpleQueue()
        self.was_interrupted = False
        self.outcome = Outcome(OutcomeKind.EXIT)
        self.output = HELLO
        self._lock = threading.Lock()

    def run(self, invocation):
        assert self._lock.acquire(blocking=False), "two threads run the program at once"
        try:
            return self._run(invocation)
        finally:
            self._lock.release()

    def _run(self, invocation):
        self.invocations.append(invocation)
        self.threads.append(threading.current_thread().name)
        path = variable(invocation, b"PATH_INFO")
        if path.startswith(b"/gate"):
            self.waiting.put(path)
            self.gates.get(timeout=10)
        if path == b"/slow":
            self.clock.now += 0.011
        if path == b"/echo":
            body = invocation.stdin.read(1 << 20, None)
            invocation.stdout.write(b"X: y\n\n" + body, None)
        elif path == b"/crash":
            raise RuntimeError("the engine is broken")
        else:
            invocation.stdout.write(self.output, None)
        return self.outcome

    def interrupt(self):
        self.was_interrupted = True


def variable(invocation, name):
    return next(v[len(name) + 1 :] for v in invocation.env if v.startswith(name + b"="))


class Served:
    def __init__(self, clock, **changes):
        self.clock = clock
        self.program = FakeProgram(clock)
        self.thread = LoopThread()
        self.listening = listen()
        self.log = []
        self.drained = threading.Event()
        config = {
            "app": "default/a",
            "worker": "a",
            "engine": "fake",
            "trigger": "http",
            "memory_bytes": 1 << 20,
            "args": ("a", "caf\u00e9"),
            "env": (("COLOUR", "r\u00f6d"),),
        }
        self.trigger = HttpTrigger(
            self.thread.loop,
            self.program,
            WorkerConfig(**(config | changes)),
            listeners=[self.listening],
            preopens=[],
            settings=HttpSettings(),
            on_drained=self.drained.set,
            log=self.log.append,
        )

    def client(self):
        return Client(self.listening.getsockname())

    def get(self, path=b"/", method=b"GET"):
        with self.client() as client:
            client.send(method + b" " + path + b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            return client.response()

    def held(self, path=b"/gate"):
        """A client whose guest waits; `release` lets it go on."""
        client = self.client().get(path)
        assert self.program.waiting.get(timeout=10) == path
        return client

    def release(self):
        self.program.gates.put(None)

    def queue(self, client, path=b"/"):
        """Send a request and wait until it is queued."""
        before = self.stats("queued")
        client.get(path)
        eventually(lambda: self.stats("queued") == before + 1)

    def stats(self, name):
        return self.thread.call(lambda: getattr(self.trigger, name))

    def close(self):
        connections = self.trigger._server._connections
        self.thread.call(lambda: [connection.close() for connection in list(connections.values())])
        self.thread.close()
        self.listening.close()


@pytest.fixture
def serve(monkeypatch):
    clock = Clock()
    for module in (http_module, server_module):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=clock.monotonic))
    with contextlib.ExitStack() as stack:

        def start(**changes):
            served = Served(clock, **changes)
            stack.callback(served.close)
            served.thread.start()
            served.thread.call(served.trigger.start)
            return served

        yield start


def test_a_request_runs_the_program_once(serve):
    served = serve(path="/api", deadline_seconds=7.0)
    assert served.get(b"/api/x?y=z")[::2] == (200, b"hello")
    [invocation] = served.program.invocations
    assert list(invocation.args) == [b"a", "café".encode()]
    assert "COLOUR=röd".encode() in invocation.env
    assert variable(invocation, b"SCRIPT_NAME") == b"/api"
    assert variable(invocation, b"PATH_INFO") == b"/x"
    assert variable(invocation, b"QUERY_STRING") == b"y=z"
    assert invocation.deadline_seconds == 7.0


def test_the_body_is_the_program_s_input(serve):
    with serve().client() as client:
        client.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")
        status, headers, body = client.response()
        assert (status, headers[b"X"], body) == (200, b"y", b"hello")


def test_without_a_deadline_of_its_own_a_request_has_the_default_one(serve):
    served = serve()
    served.get()
    assert served.program.invocations[0].deadline_seconds == 30.0


FAILURES = [
    (Outcome(OutcomeKind.EXIT, 3), 500, "the app failed", "exited with code 3"),
    (Outcome(OutcomeKind.TRAP, message="unreachable"), 500, "the app failed", "unreachable"),
    (
        Outcome(OutcomeKind.OUT_OF_MEMORY, message="64 MiB"),
        500,
        "the app failed",
        "out of memory: 64",
    ),
    (Outcome(OutcomeKind.DEADLINE), 504, "the app took too long", "before its deadline"),
    (Outcome(OutcomeKind.COST), 500, "the app failed", "more work than its cost limit allows"),
    (Outcome(OutcomeKind.INTERRUPTED), 503, "the app is stopping", "is being stopped"),
]


@pytest.mark.parametrize(("outcome", "status", "shown", "logged"), FAILURES)
def test_a_failure_is_told_to_the_log_and_only_its_number_to_the_client(
    serve, outcome, status, shown, logged
):
    served = serve()
    served.program.outcome = outcome
    answered, headers, body = served.get(b"/secret/path")
    assert answered == status
    identifier = headers[b"X-Request-Id"].decode()
    assert re.fullmatch("[0-9a-f]{16}", identifier)
    assert body.decode() == f"{shown}; its log has the reason under request {identifier}\n"
    [line] = served.log
    assert line.startswith(f"request {identifier}: GET b'/secret/path': {status}: ")
    assert logged in line
    assert (b"Retry-After" in headers) is (status == 503)
    assert served.stats("failed") == 1


def test_every_kind_of_outcome_is_covered():
    assert {outcome.kind for outcome, *_ in FAILURES} == set(OutcomeKind)


def test_output_that_is_no_response_is_a_failure(serve):
    served = serve()
    served.program.output = b"Hello, world"
    assert served.get()[0] == 500
    assert "no empty line" in served.log[0]


def test_what_the_app_answers_itself_is_not_logged(serve):
    served = serve()
    served.program.output = b"Status: 500\n\nmine"
    assert served.get()[::2] == (500, b"mine")
    assert served.log == []
    assert served.stats("failed") == 1


def test_a_path_that_no_variable_holds_never_reaches_the_program(serve):
    served = serve()
    assert served.get(b"/%00")[0] == 400
    assert served.program.invocations == []
    assert served.stats("failed") == 0


def test_head_is_a_get_without_the_body(serve):
    served = serve()
    with served.client() as client:
        client.send(b"HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        head = client.rest()
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Content-Length: 5\r\n" in head
    assert head.endswith(b"\r\n\r\n")
    assert variable(served.program.invocations[0], b"REQUEST_METHOD") == b"HEAD"


@pytest.mark.parametrize(
    ("methods", "method", "status", "allow"),
    [
        ((), b"DELETE", 200, None),
        ((), b"TRACE", 405, b"GET, HEAD, POST, PUT, PATCH, DELETE"),
        (("GET", "POST"), b"POST", 200, None),
        (("GET", "POST"), b"PUT", 405, b"GET, POST"),
        (("GET", "TRACE"), b"TRACE", 405, b"GET, TRACE"),
    ],
)
def test_only_the_app_s_methods_are_served(serve, methods, method, status, allow):
    served = serve(methods=methods)
    answered, headers, _ = served.get(method=method)
    assert (answered, headers.get(b"Allow")) == (status, allow)
    assert len(served.program.invocations) == (status == 200)


def test_connect_is_refused_and_what_follows_is_not_served(serve):
    served = serve()
    with served.client() as client:
        client.send(b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.response()[0] == 405
        assert client.ends()
    assert served.program.invocations == []


@pytest.mark.parametrize(
    ("prefix", "path", "status"),
    [
        ("/", b"/", 200),
        ("/api", b"/api", 200),
        ("/api", b"/api?x", 200),
        ("/api", b"/api/", 200),
        ("/api/", b"/api/x", 200),
        ("/api", b"/apis", 404),
        ("/api", b"/", 404),
        ("/api", b"/%61pi", 404),
        ("/api", b"//api", 404),
    ],
)
def test_the_app_answers_under_its_prefix(serve, prefix, path, status):
    assert serve(path=prefix).get(path)[0] == status


def test_bodies_are_bounded(serve):
    with serve(max_body_bytes=4).client() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")
        assert client.response()[0] == 413


# Where the guest runs


def test_quick_guests_run_on_the_loop_and_slow_ones_beside_it(serve):
    served = serve()
    with served.client() as client:

        def thread_of(path):
            client.get(path).response()
            return served.program.threads[-1]

        assert thread_of(b"/") != "guest"
        assert thread_of(b"/slow") != "guest"
        assert thread_of(b"/slow") == "guest"
        for _ in range(32):
            assert thread_of(b"/") == "guest"
        assert thread_of(b"/") != "guest"
        assert thread_of(b"/slow") != "guest"
        assert thread_of(b"/") == "guest"


def test_a_slow_guest_in_between_puts_off_the_way_back(serve):
    served = serve()
    with served.client() as client:
        for path in [b"/slow", *[b"/"] * 31, b"/slow", *[b"/"] * 32]:
            client.get(path).response()
        assert set(served.program.threads[1:]) == {"guest"}
        client.get(b"/").response()
        assert served.program.threads[-1] != "guest"


def test_never_two_guests_at_once_on_the_way_back(serve):
    served = serve()
    served.get(b"/slow")
    for _ in range(31):
        served.get()
    with served.held() as first, served.client() as second, served.client() as third:
        served.queue(second, b"/gate2")
        served.release()
        assert first.response()[0] == 200
        assert served.program.waiting.get(timeout=10) == b"/gate2"
        third.get()
        eventually(lambda: served.stats("connections") == 3)
        eventually(lambda: served.stats("queued") == 1)
        served.release()
        assert second.response()[0] == 200
        assert third.response()[0] == 200
    served.get()
    assert served.program.threads[-1] != "guest"


def test_an_error_of_the_engine_ends_the_loop_wherever_it_happens(serve, monkeypatch):
    errors = []
    monkeypatch.setattr(threading, "excepthook", lambda args: errors.append(args.exc_value))
    for paths in ([b"/crash"], [b"/slow", b"/crash"]):
        served = Served(serve().clock)
        served.thread.start()
        served.thread.call(served.trigger.start)
        with served.client() as client:
            for path in paths[:-1]:
                client.get(path).response()
            client.get(paths[-1])
            served.thread._thread.join(10)
            for connection in list(served.trigger._server._connections.values()):
                connection.close()
        served.thread.close()
        served.listening.close()
    assert [str(error) for error in errors] == ["the engine is broken"] * 2


# Waiting


def test_requests_wait_for_the_guest_before_them(serve):
    served = serve()
    served.get(b"/slow")
    with served.held() as first, served.client() as second, served.client() as third:
        served.queue(second)
        served.queue(third, b"/echo")
        assert (served.stats("in_flight"), served.stats("queued")) == (1, 2)
        served.release()
        assert first.response()[2] == b"hello"
        assert second.response()[2] == b"hello"
        assert third.response()[2] == b""
    eventually(lambda: (served.stats("in_flight"), served.stats("queued")) == (0, 0))


def test_a_full_queue_is_said_at_once(serve):
    served = serve(queue=2)
    served.get(b"/slow")
    before = served.stats("requests")
    with served.held() as first, served.client() as second, served.client() as third:
        served.queue(second)
        served.queue(third)
        status, headers, _ = served.get()
        assert (status, headers[b"Retry-After"]) == (503, b"1")
        assert served.stats("failed") == 1
        served.release()
        for client in (first, second, third):
            assert client.response()[0] == 200
    assert served.stats("requests") == before + 4


def test_the_time_in_the_queue_counts(serve):
    served = serve(deadline_seconds=5.0)
    served.get(b"/slow")
    with served.held() as first, served.client() as second:
        served.queue(second)
        served.clock.now += 2
        served.release()
        assert first.response()[0] == 200
        assert second.response()[0] == 200
    assert served.program.invocations[-1].deadline_seconds == pytest.approx(3.0)


def test_a_request_that_waited_until_its_deadline_is_answered_without_running(serve):
    served = serve(deadline_seconds=5.0)
    served.get(b"/slow")
    with served.held() as first, served.client() as second:
        served.queue(second)
        served.clock.now += 5
        served.release()
        assert first.response()[0] == 200
        status, headers, _ = second.response()
        assert status == 504
        assert f"request {headers[b'X-Request-Id'].decode()}: " in served.log[0]
        assert "waited for others" in served.log[0]
        assert second.get().response()[0] == 200
    assert len(served.program.invocations) == 3


def test_any_number_may_expire_together(serve):
    served = serve(queue=5000, deadline_seconds=5.0)
    served.get(b"/slow")
    statuses = []
    with served.held() as first, served.client() as pipelined:
        pipelined.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 500)
        eventually(lambda: served.stats("queued") == 1)

        def probe():
            for _ in range(3000):
                served.trigger.probe("/", [], statuses.append)

        served.thread.call(probe)
        served.clock.now += 5
        served.release()
        assert first.response()[0] == 200
        assert pipelined.response()[0] == 504
        for _ in range(499):
            assert pipelined.response()[0] == 200
    assert statuses == [504] * 3000


def test_a_client_that_has_gone_is_not_worked_for(serve):
    served = serve()
    served.get(b"/slow")
    with served.held() as first:
        second = served.client()
        served.queue(second)
        second.reset()
        eventually(lambda: served.stats("connections") == 1)
        served.release()
        assert first.response()[0] == 200
    eventually(lambda: served.stats("queued") == 0)
    assert len(served.program.invocations) == 2


# Life


def test_what_waits_is_answered_when_draining(serve):
    served = serve()
    served.get(b"/slow")
    with served.held() as first, served.client() as second:
        served.queue(second)
        served.thread.call(served.trigger.drain)
        assert not served.drained.is_set()
        served.release()
        assert first.response()[1][b"Connection"] == b"close"
        assert second.response()[1][b"Connection"] == b"close"
    assert served.drained.wait(10)


def test_stopping_interrupts_the_guest(serve):
    served = serve()
    served.trigger.stop()
    assert served.program.was_interrupted


def test_figures_count_what_was_served(serve):
    served = serve()
    assert [served.stats(name) for name in ("requests", "failed", "in_flight", "queued")] == [0] * 4
    served.get()
    assert served.stats("requests") == 1
    served.clock.now += 5
    served.get(b"/slow")
    served.program.output = b"no response"
    served.get()
    assert (served.stats("requests"), served.stats("failed")) == (3, 1)
    latency = served.trigger.latency
    assert latency.total == 3
    assert latency.quantile(0.5) == 0
    assert 11000 <= latency.quantile(1) <= 11000 * 1.25
    assert served.trigger.last_request_at == served.clock.now


def test_a_probe_is_a_request_without_a_client(serve):
    served = serve()
    statuses = []
    served.thread.call(
        lambda: served.trigger.probe("/ready?x=1", [("X-Probe", "yes")], statuses.append)
    )
    assert statuses == [200]
    [invocation] = served.program.invocations
    assert variable(invocation, b"PATH_INFO") == b"/ready"
    assert variable(invocation, b"QUERY_STRING") == b"x=1"
    assert variable(invocation, b"HTTP_X_PROBE") == b"yes"
    assert variable(invocation, b"HTTP_HOST") == b"localhost"
    served.program.outcome = Outcome(OutcomeKind.TRAP)
    served.thread.call(lambda: served.trigger.probe("/", [("Host", "b")], statuses.append))
    assert statuses == [200, 500]
    assert variable(served.program.invocations[1], b"HTTP_HOST") == b"b"


def test_a_probe_waits_its_turn(serve):
    served = serve()
    served.get(b"/slow")
    statuses = queue.SimpleQueue()
    with served.held() as first:
        served.thread.call(lambda: served.trigger.probe("/", [], statuses.put))
        assert served.stats("queued") == 1
        served.release()
        assert first.response()[0] == 200
        assert statuses.get(timeout=10) == 200
