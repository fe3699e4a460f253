"""The ingress router's process as the agent sees it.

It is there while an Ingress exists and is told every change.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

from limpet.linux.cgroup import Limits
from limpet.manifest.model import Ingress, Service
from limpet.plan import Listener, PlanError, compile_listeners, serves
from limpet.worker.config import RouterConfig, write_config
from limpet.worker.messages import Drain, Message, MessageError, Routes, encode_message

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from limpet.manifest.model import App
    from limpet.node.listeners import Listeners
    from limpet.plan import Catalog
    from limpet.settings import Settings
    from limpet.worker.process import ExitInfo, Process
    from limpet.worker.supervisor import Zygote

_ORIGIN = "the ingress router"
# A router that lived this long starts again at once, one that keeps dying ever more slowly.
_STABLE_SECONDS = 10.0
_MAX_PAUSE_SECONDS = 10.0
_LISTEN_AGAIN_SECONDS = 2.0
_SEND_AGAIN_SECONDS = 0.5
# It gives its last requests 30 seconds by itself.
_STOP_SECONDS = 35.0
# How long an app may be silent: its deadline, with time for a cold start, but never less than this.
_PATIENCE_SECONDS = 60.0
# What clients may make it hold is bounded in itself; this bounds what nobody thought of.
_LIMITS = Limits(memory_bytes=256 << 20, pids=16)
_START_SECONDS = 10.0


class RouterProcess:
    """Starts, feeds and stops the router."""

    def __init__(
        self,
        zygote: Zygote,
        settings: Settings,
        sockets: Listeners,
        record: Callable[[str, str], None],
    ) -> None:
        host, _, port = settings.ingress.listen.rpartition(":")
        self._listener = Listener(host.strip("[]"), int(port), _ORIGIN)
        self._settings = settings
        self._zygote = zygote
        self._sockets = sockets
        self._record = record
        self._process: Process | None = None
        self._table = "[]"
        self._serial = 0
        self._started_at = 0.0
        self._failures = 0
        self._problem = ""
        self._timer: asyncio.TimerHandle | None = None
        # Until the first update nobody knows; a socket that an earlier agent opened stays open.
        self._is_wanted = True

    @property
    def listeners(self) -> tuple[Listener, ...]:
        """The router's own listening address, while it is wanted."""
        return (self._listener,) if self._is_wanted else ()

    def update(self, ingresses: Sequence[Ingress], catalog: Catalog, apps: Sequence[App]) -> None:
        """Make the router serve these objects and lead to these apps, or end it without objects."""
        if not ingresses:
            if self._is_wanted:
                self.stop()
            return
        self._is_wanted = True
        self._take_table(compile_table(ingresses, catalog, apps))
        if self._process is not None:
            self._send_table()
        elif self._timer is None:
            self._start()

    def _take_table(self, table: str) -> None:
        try:
            encode_message(Routes(table))
        except MessageError as error:
            message = f"the Ingresses have too many rules, so those before stay in force: {error}"
            self._complain("IngressFailed", message)
        else:
            self._table = table

    def _start(self) -> None:
        self._timer = None
        try:
            listening = self._sockets.open(self._listener)
        except PlanError as error:
            self._complain("IngressFailed", str(error))
            self._later(_LISTEN_AGAIN_SECONDS, self._start)
            return
        self._problem = ""
        self._serial += 1
        self._started_at = time.monotonic()
        config = write_config(RouterConfig(listeners=1, http=asdict(self._settings.http)))
        try:
            self._process = self._zygote.spawn(
                f"router-{self._serial}",
                "router",
                [config, listening.fileno()],
                limits=_LIMITS,
                on_message=self._on_message,
                on_exit=self._on_exit,
            )
        finally:
            os.close(config)
        self._send_table()

    def _send_table(self) -> None:
        self._cancel_timer()
        if self._process is None:
            return
        if not self._process.send(Routes(self._table)):
            self._later(_SEND_AGAIN_SECONDS, self._send_table)

    def _complain(self, reason: str, message: str) -> None:
        if message != self._problem:
            self._problem = message
            self._record(reason, message)

    def _on_message(self, _process: Process, _message: Message) -> None:
        """The router has nothing to tell but its end."""

    def _on_exit(self, process: Process, info: ExitInfo) -> None:
        if process is not self._process:
            return
        self._process = None
        if not self._is_wanted:
            return
        is_stable = time.monotonic() - self._started_at >= _STABLE_SECONDS
        self._failures = 1 if is_stable else self._failures + 1
        pause = (
            0.0
            if self._failures == 1
            else min(0.1 * 2 ** min(self._failures, 9), _MAX_PAUSE_SECONDS)
        )
        when = f"it starts again in {pause:.1f} s" if pause else "it starts again at once"
        self._record(
            "IngressRestarted", f"the ingress router ended: {info.message or info.reason}; {when}"
        )
        self._cancel_timer()
        self._later(pause, self._start)

    def _later(self, seconds: float, call: Callable[[], None]) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, call)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def stop(self) -> None:
        """End the router after its requests in flight."""
        self._is_wanted = False
        self._failures = 0
        self._problem = ""
        self._cancel_timer()
        if self._process is not None:
            self._process.send(Drain())
            asyncio.get_running_loop().call_later(_STOP_SECONDS, self._process.kill)
            self._process = None


def compile_table(ingresses: Sequence[Ingress], catalog: Catalog, apps: Sequence[App]) -> str:
    """Resolve each path's Service to an address on loopback; the JSON that the router takes.

    Entries are `[host, path, is_exact, target, patience_seconds]`, the most specific first: a named
    host before any host, exact before prefix, longer before shorter (Kubernetes' Ingress, "multiple
    matches"). `target` is empty when there is no such Service or no app behind it.
    """
    entries: list[tuple[str, str, bool, str, float]] = []
    for ingress in ingresses:
        for path in ingress.paths:
            service = catalog.get(Service, ingress.namespace, path.service)
            target, patience = "", _PATIENCE_SECONDS
            if service is not None:
                target, patience = _resolve(service, path.port, catalog, apps)
            entries.append((path.host, path.path, path.is_exact, target, patience))
    entries.sort(key=lambda e: (e[0] == "", e[0].startswith("*"), not e[2], -len(e[1])))
    return json.dumps(entries)


def _resolve(
    service: Service, port: int | str, catalog: Catalog, apps: Sequence[App]
) -> tuple[str, float]:
    """Return where the apps behind a Service's port listen, and how long they may be silent."""
    numbers = {entry.port for entry in service.ports if port in (entry.port, entry.name)}
    origin = f"service {service.namespace}/{service.name}"
    target, patience = "", _PATIENCE_SECONDS
    for app in apps:
        if (
            not serves(app)
            or app.namespace != service.namespace
            or not service.selector.items() <= dict(app.pod_labels).items()
        ):
            continue
        for listener in compile_listeners(app, catalog):
            is_its = listener.origin == origin and listener.port in numbers
            if numbers and (is_its or app.http.listen is not None):
                target = target or _local_address(listener)
                patience = max(patience, (app.deadline_seconds or 0.0) + _START_SECONDS)
    return target, patience


def _local_address(listener: Listener) -> str:
    """Return how a listener is reached from this device."""
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(listener.host, listener.host)  # noqa: S104 - compared, not bound
    return f"[{host}]:{listener.port}" if ":" in host else f"{host}:{listener.port}"
