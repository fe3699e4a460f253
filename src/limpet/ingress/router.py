"""The ingress router's process: one epoll loop between all clients and the apps' own sockets.

It knows nothing but the table that the agent sends. docs/ingress.md says what it does to requests.
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import socket
import time
from dataclasses import fields
from typing import TYPE_CHECKING

from limpet.http1.connection import ConnectionLimits
from limpet.http1.message import plain
from limpet.ingress.bodies import BodyBudget
from limpet.ingress.forwarding import Forwarding
from limpet.ingress.headers import read_authority
from limpet.ingress.table import RouteTable, parse_table
from limpet.ingress.upstream import Pool
from limpet.settings import HttpSettings
from limpet.trigger.server import Connection, Exchange, Server
from limpet.worker.loop import READ, Loop
from limpet.worker.messages import Drain, MessageError, Routes

if TYPE_CHECKING:
    from limpet.worker.channel import Channel
    from limpet.worker.config import RouterConfig

MAX_BODY_BYTES = 8 << 20
MAX_BODIES_BYTES = 32 << 20
_NEVER_SERVED = frozenset([b"CONNECT", b"TRACE"])
_SWEEP_SECONDS = 1.0
_DRAIN_SECONDS = 30.0
_LOG_SECONDS = 1.0


def run_router(channel: Channel, config: RouterConfig, descriptors: list[int]) -> int:
    """Route until told to drain, or until the agent is gone; return the exit code."""
    loop = Loop()
    router = start_router(loop, channel, config, descriptors)
    # By way of the loop, so that no connection is drained in the middle of something.
    terminated = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def on_terminated(_events: int) -> None:
        loop.unregister(terminated)
        router.drain()

    loop.register(terminated, READ, on_terminated)
    signal.signal(signal.SIGTERM, lambda *_: os.eventfd_write(terminated, 1))
    gc.freeze()  # what lives now lives on: collecting it would only unshare its pages
    loop.run()
    return 0


def start_router(
    loop: Loop, channel: Channel, config: RouterConfig, descriptors: list[int]
) -> IngressRouter:
    """Make a router that obeys this channel; it stops the loop when it has been drained."""
    listeners = [socket.socket(fileno=number) for number in descriptors[: config.listeners]]
    router = IngressRouter(loop, listeners, _http_settings(config))
    loop.register(channel.fileno(), READ, _Control(loop, channel, router).on_ready)
    return router


class IngressRouter:
    """Routes the requests of all clients."""

    def __init__(self, loop: Loop, listeners: list[socket.socket], settings: HttpSettings) -> None:
        self._loop = loop
        self._listeners = listeners
        self._table = RouteTable()
        self._text: str | None = None
        self._active: set[Forwarding] = set()
        self._is_sweeping = False
        self._is_draining = False
        self._logged_at = 0.0
        self._budget = BodyBudget(total_bytes=MAX_BODIES_BYTES, max_bytes=MAX_BODY_BYTES)
        self.pool = Pool(loop)
        self._server = Server(
            loop,
            listeners,
            settings=settings,
            limits=ConnectionLimits(settings.head_bytes, MAX_BODY_BYTES),
            on_exchange=self._on_exchange,
            on_empty=loop.stop,
            choose_sink=self._budget.open,
        )

    def replace_table(self, text: str) -> None:
        """Route by this table from the next request on. The first one opens the door."""
        if text == self._text or self._is_draining:
            return
        is_first = self._text is None
        self._table = parse_table(text)
        self._text = text
        self.pool.clear()  # an address may be another app's now
        if is_first:
            self._server.start()

    def drain(self) -> None:
        """Take nothing new, finish what is in flight, then stop the loop."""
        if self._is_draining:
            return
        self._is_draining = True
        self._loop.call_later(_DRAIN_SECONDS, self._loop.stop)
        self._server.drain()
        for listening in self._listeners:
            listening.close()  # or clients would queue up at a door that nobody opens

    def _on_exchange(self, exchange: Exchange) -> None:
        request = exchange.request
        client = exchange.connection
        assert isinstance(client, Connection), "the router's exchanges come from its server"
        if request.method in _NEVER_SERVED:
            exchange.respond(
                plain(
                    405,
                    f"{request.method.decode('latin-1')} is not served here",
                    (b"Allow", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
                )
            )
            return
        authority = read_authority(request)
        rule = self._table.find(authority, request.path)
        if rule is None:
            exchange.respond(plain(404, "nothing is served here"))
        elif rule.target is None:
            exchange.respond(
                plain(503, "the app is not available; try again later", (b"Retry-After", b"5"))
            )
        else:
            forwarding = Forwarding(
                self,
                client,
                request,
                authority=authority,
                address=rule.target,
                patience_seconds=rule.patience_seconds,
            )
            self._active.add(forwarding)
            self._start_sweeping()
            forwarding.start()

    def on_end(self, forwarding: Forwarding) -> None:
        """Forget a forwarding that is over."""
        self._active.discard(forwarding)

    def log(self, line: str) -> None:
        """Tell the operator why a request failed; a flood of failures is sampled."""
        now = time.monotonic()
        if now - self._logged_at >= _LOG_SECONDS:
            self._logged_at = now
            os.write(2, f"limpet: ingress: {line}\n".encode("utf-8", "replace"))

    def _start_sweeping(self) -> None:
        if not self._is_sweeping:
            self._is_sweeping = True
            self._loop.call_later(_SWEEP_SECONDS, self._sweep)

    def _sweep(self) -> None:
        now = time.monotonic()
        for forwarding in list(self._active):
            forwarding.check_time(now)
        self.pool.sweep(now)
        self._is_sweeping = False
        if self._active or self.pool.idle:
            self._start_sweeping()


class _Control:
    """Hears what the agent says."""

    def __init__(self, loop: Loop, channel: Channel, router: IngressRouter) -> None:
        self._loop = loop
        self._channel = channel
        self._router = router

    def on_ready(self, _events: int) -> None:
        try:
            received = self._channel.receive()
        except MessageError:
            received = None
        if received is None:
            # The socket rests with the launcher: clients wait there for the next agent's router.
            self._loop.unregister(self._channel.fileno())
            self._router.drain()
            return
        message = received[0]
        if isinstance(message, Routes):
            self._router.replace_table(message.table)
        elif isinstance(message, Drain):
            self._router.drain()


def _http_settings(config: RouterConfig) -> HttpSettings:
    kinds = {entry.name: int if entry.type == "int" else float for entry in fields(HttpSettings)}
    values = {name: kinds[name](value) for name, value in config.http.items()}
    return HttpSettings(**values)  # type: ignore[arg-type]  # each is what its field says


def allow_descriptors() -> None:
    """Raise the limit on open files: each client in flight needs two."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
