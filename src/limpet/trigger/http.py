"""The http trigger: each request runs the module once, in a fresh instance.

A worker runs one guest at a time. Quick handlers run right on the loop: handing a request to a thread
costs as much as a short guest itself. Once a run has taken long, the following ones go to a thread, so
that the loop keeps refusing, timing out and draining while the guest computes; when runs are quick
again, so is the path (docs/decisions/inline-handlers.md). More at once is `limpet.dev/workers`.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from limpet.engine.protocol import Invocation, Outcome, OutcomeKind
from limpet.http1.connection import ConnectionLimits, HttpConnection
from limpet.http1.message import Request, Response, plain
from limpet.telemetry.histogram import Histogram
from limpet.trigger.cgi import CgiError, EnvironmentBuilder, RequestError, ResponseParser
from limpet.trigger.server import Exchange, Server
from limpet.wasi.streams import BufferOutput, BytesInput, DescriptorOutput, NullInput
from limpet.wasi.strings import Strings
from limpet.worker.loop import READ

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from limpet.engine.protocol import Preopen, Program
    from limpet.settings import HttpSettings
    from limpet.wasi.network import Network
    from limpet.worker.config import WorkerConfig
    from limpet.worker.loop import Loop

_SLOW_SECONDS = 0.010
_QUICK_SECONDS = 0.002
_QUICK_RUNS = 32
_NO_BODY = NullInput()
_FAILURES = {
    OutcomeKind.OUT_OF_MEMORY: "the handler ran out of memory",
    OutcomeKind.COST: "the handler did more work than its cost limit allows",
}
_EXIT = OutcomeKind.EXIT  # looking a member up costs a call before Python 3.12
_NEVER_SERVED = frozenset({b"CONNECT", b"TRACE"})


class HttpTrigger:
    """Serves one app's requests in one worker."""

    def __init__(
        self,
        loop: Loop,
        program: Program,
        config: WorkerConfig,
        *,
        listeners: Sequence[socket.socket],
        preopens: Sequence[Preopen],
        network: Network | None = None,
        settings: HttpSettings,
        on_drained: Callable[[], None],
        log: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._program = program
        self._config = config
        self._preopens = preopens
        self._network = network
        self._log = log
        self._prefix = config.path.rstrip("/").encode()
        self._methods = frozenset(method.encode() for method in config.methods)
        self._args = Strings(argument.encode() for argument in config.args)
        self._environment = EnvironmentBuilder(
            prefix=self._prefix,
            variables=[f"{name}={value}".encode() for name, value in config.env],
            passes_authorization=config.passes_authorization,
        )
        self._parser = ResponseParser()
        self._stderr = DescriptorOutput(2)
        self._deadline = config.deadline_seconds or 30.0
        self._queue: deque[Exchange] = deque()
        self._thread: _GuestThread | None = None
        self._is_threaded = False
        self._is_starting = False
        self._quick_runs = 0
        self.requests = 0
        self.failed = 0
        self.last_request_at = time.monotonic()
        self.latency = Histogram()
        self._server = Server(
            loop,
            listeners,
            settings=settings,
            limits=ConnectionLimits(settings.head_bytes, config.max_body_bytes),
            on_exchange=self._on_exchange,
            on_empty=on_drained,
        )

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return self._server.connections

    @property
    def in_flight(self) -> int:
        """How many guests run: 0 or 1."""
        return int(self._thread is not None and self._thread.is_busy)

    @property
    def queued(self) -> int:
        """How many requests wait for the guest before them."""
        return len(self._queue)

    def start(self) -> None:
        """Begin to serve."""
        self._server.start()

    def drain(self) -> None:
        """Finish what is in flight; `on_drained` is called when the last client has gone."""
        self._server.drain()

    def stop(self) -> None:
        """End the guest that runs, if any."""
        self._program.interrupt()

    def _on_exchange(self, exchange: Exchange) -> None:
        request = exchange.request
        # What was derived from a request was derived because it was not refused.
        refusal = self._refusal(request) if request.derived is None else None
        if refusal is not None:
            exchange.respond(refusal)
        elif not (self._is_threaded or self._queue or (self._thread and self._thread.is_busy)):
            self._answer(exchange, self._run(exchange, self._deadline))
        elif len(self._queue) < self._config.queue:
            self._queue.append(exchange)
            self._start_next()
        else:
            self.requests += 1
            self.failed += 1
            exchange.respond(
                plain(503, "too many requests are waiting for this app", (b"Retry-After", b"1"))
            )

    def probe(
        self, path: str, headers: Sequence[tuple[str, str]], done: Callable[[int], None]
    ) -> None:
        """Run one request of the platform's own, in its turn; `done` gets the status."""
        lines = [(name.encode(), value.encode()) for name, value in headers]
        if not any(name.lower() == b"host" for name, _ in lines):
            lines.append((b"Host", b"localhost"))
        target = path.encode()
        bare, _, query = target.partition(b"?")
        request = Request(b"GET", target, bare, query, lines, b"", 1, keeps_alive=False)
        self._on_exchange(_ProbeExchange(request, done))

    def _refusal(self, request: Request) -> Response | None:
        prefix = self._prefix
        path = request.path
        if request.method in _NEVER_SERVED or (
            self._methods and request.method not in self._methods
        ):
            allowed = b", ".join(sorted(self._methods)) or b"GET, HEAD, POST, PUT, PATCH, DELETE"
            text = f"this app does not serve {request.method.decode('latin-1')}"
            return plain(405, text, (b"Allow", allowed))
        if prefix and not (path.startswith(prefix) and path[len(prefix) :][:1] in (b"", b"/")):
            return plain(404, f"this app answers under {self._config.path}")
        return None

    def _run(self, exchange: Exchange, seconds: float) -> Response:
        """Run the guest once for a request and turn what came of it into a response.

        On the loop's thread or the guest's, never on both.
        """
        started = time.monotonic()
        request = exchange.request
        env: Strings | None = request.derived
        if env is None:
            connection = exchange.connection
            try:
                env = self._environment.build(request, peer=connection.peer, port=connection.port)
            except RequestError as error:
                return plain(400, str(error))
            request.derived = env
        stdout = BufferOutput(self._config.max_response_bytes)
        outcome = self._program.run(
            Invocation(
                self._args,
                env,
                BytesInput(request.body) if request.body else _NO_BODY,
                stdout,
                self._stderr,
                self._preopens,
                seconds,
                self._network,
            )
        )
        response = self._response(request, outcome, stdout)
        seconds = time.monotonic() - started
        if self._is_threaded or seconds > _SLOW_SECONDS:
            self._learn_duration(seconds)
        return response

    def _response(self, request: Request, outcome: Outcome, stdout: BufferOutput) -> Response:
        if outcome.kind is _EXIT and outcome.exit_code == 0:
            try:
                return self._parser.parse(stdout.getvalue())
            except CgiError as error:
                return self._failure(request, 500, str(error))
        if outcome.kind is _EXIT:
            return self._failure(request, 500, f"the handler exited with code {outcome.exit_code}")
        if outcome.kind is OutcomeKind.DEADLINE:
            return self._failure(request, 504, "the handler did not finish before its deadline")
        if outcome.kind is OutcomeKind.INTERRUPTED:
            return self._failure(request, 503, "the app is being stopped", (b"Retry-After", b"1"))
        text = _FAILURES.get(outcome.kind, "the handler failed")
        return self._failure(request, 500, f"{text}: {outcome.message}")

    def _failure(
        self, request: Request, status: int, message: str, *headers: tuple[bytes, bytes]
    ) -> Response:
        """Answer with an identifier only; what happened goes to the app's log under the same one."""
        identifier = os.urandom(8).hex()
        method = request.method.decode("latin-1")
        self._log(f"request {identifier}: {method} {request.path[:200]!r}: {status}: {message}")
        texts = {500: "the app failed", 503: "the app is stopping", 504: "the app took too long"}
        text = f"{texts[status]}; its log has the reason under request {identifier}"
        return plain(status, text, (b"X-Request-Id", identifier.encode()), *headers)

    def _learn_duration(self, seconds: float) -> None:
        if seconds > _SLOW_SECONDS:
            self._is_threaded = True
            self._quick_runs = 0
        elif self._is_threaded and seconds < _QUICK_SECONDS:
            self._quick_runs += 1
            if self._quick_runs >= _QUICK_RUNS:
                self._is_threaded = False

    def _answer(self, exchange: Exchange, response: Response) -> None:
        exchange.respond(response)
        now = time.monotonic()
        if not isinstance(exchange, _ProbeExchange):  # the platform's own curiosity is no demand
            self.last_request_at = now
        self.requests += 1
        if response.status >= 500:
            self.failed += 1
        self.latency.record(int((now - exchange.received_at) * 1e6))

    def _start_next(self) -> None:
        if self._thread is None:
            self._thread = _GuestThread(self._loop, self._run, self._finish)
        if self._is_starting:
            return  # an answer below brought the next request: the loop below gets to it
        self._is_starting = True
        while self._queue and not self._thread.is_busy:
            exchange = self._queue.popleft()
            left = self._deadline - (time.monotonic() - exchange.received_at)
            if exchange.is_abandoned:
                continue
            if left > 0:
                self._thread.start(exchange, left)
            else:
                message = "the request waited for others until its deadline"
                self._finish(exchange, self._failure(exchange.request, 504, message))
        self._is_starting = False

    def _finish(self, exchange: Exchange, response: Response) -> None:
        self._answer(exchange, response)
        exchange.connection.resume()
        self._start_next()


def rehearse_request() -> None:
    """Take a request from bytes to bytes without a client or a guest, for a process that waits."""
    environment = EnvironmentBuilder(prefix=b"", variables=[], passes_authorization=False)
    parser = ResponseParser()
    latency = Histogram()

    def answer(request: Request) -> None:
        environment.build(request, peer=b"127.0.0.1", port=b"80")
        connection.respond(parser.parse(b"Content-Type: text/plain\n\nok\n"))
        latency.record(1)

    connection = HttpConnection(answer, ConnectionLimits())
    connection.feed(b"GET / HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n")


class _ProbeExchange(Exchange):
    """A request without a client: the answer's status goes to whoever asked."""

    __slots__ = ("_done",)

    peer = b"127.0.0.1"
    port = b"0"
    is_closed = False

    def __init__(self, request: Request, done: Callable[[int], None]) -> None:
        super().__init__(self, request, time.monotonic())
        self._done = done

    def respond(self, response: Response) -> None:
        self._done(response.status)

    def resume(self) -> None:
        """Nothing waits behind a probe."""


class _GuestThread:
    """Runs one guest at a time beside the loop and reports back through an eventfd."""

    def __init__(
        self,
        loop: Loop,
        run: Callable[[Exchange, float], Response],
        finish: Callable[[Exchange, Response], None],
    ) -> None:
        self._run = run
        self._finish = finish
        self._work: queue.SimpleQueue[tuple[Exchange, float]] = queue.SimpleQueue()
        self._done: deque[tuple[Exchange, Response | BaseException]] = deque()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.is_busy = False
        loop.register(self._wake, READ, self._on_wake)
        threading.Thread(target=self._main, name="guest", daemon=True).start()

    def start(self, exchange: Exchange, seconds: float) -> None:
        """Run the guest for this request; the thread must not be busy."""
        self.is_busy = True
        self._work.put((exchange, seconds))

    def _main(self) -> None:
        while True:
            exchange, seconds = self._work.get()
            try:
                result: Response | BaseException = self._run(exchange, seconds)
            except BaseException as error:
                result = error
            self._done.append((exchange, result))
            os.eventfd_write(self._wake, 1)

    def _on_wake(self, _events: int) -> None:
        os.eventfd_read(self._wake)
        while self._done:
            exchange, result = self._done.popleft()
            self.is_busy = False
            if isinstance(result, BaseException):
                raise result
            self._finish(exchange, result)
