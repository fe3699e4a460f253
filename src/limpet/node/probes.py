"""Readiness, liveness and startup probes of one worker, asked through its control socket.

A probe of an http app runs it for one request inside the worker itself, so replicas that share a
listening socket are told apart and no network is needed. A tcpSocket probe asks whether the worker
answers at all. An app that listens by itself is offered a connection: it must accept it, and answer on
it when the probe is one over HTTP. A function that the module exports is called in the worker, whatever
the app's trigger.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
from typing import TYPE_CHECKING

from limpet.manifest.model import Trigger
from limpet.worker.messages import ExportProbe, Offer, ProbeRequest, StatsRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from limpet.manifest.model import App, Probe
    from limpet.node.workers import Worker
    from limpet.worker.messages import ProbeResult

_MAX_STATUS_LINE_BYTES = 4096


class Prober:
    """Runs a worker's probes until stopped; `was_ready` says that it has passed them once before."""

    def __init__(
        self,
        worker: Worker,
        *,
        on_ready: Callable[[Worker, bool], None],
        on_dead: Callable[[Worker, str], None],
        was_ready: bool = False,
    ) -> None:
        self._worker = worker
        self._on_ready = on_ready
        self._on_dead = on_dead
        # A worker may yet answer what an earlier agent has asked.
        self._serial = itertools.count(int.from_bytes(os.urandom(4), "little"))
        self._was_ready = was_ready
        self._waiting: dict[int, asyncio.Future[ProbeResult]] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin."""
        task = asyncio.get_running_loop().create_task(
            self._run(), name=f"probe {self._worker.name}"
        )
        self._tasks.append(task)

    def stop(self) -> None:
        """End all probing."""
        for task in self._tasks:
            task.cancel()

    def on_result(self, result: ProbeResult) -> None:
        """Take a worker's answer."""
        future = self._waiting.pop(result.probe, None)
        if future is not None and not future.done():
            future.set_result(result)

    async def _run(self) -> None:
        app = self._worker.plan.app
        if (
            app.startup is not None
            and not self._was_ready
            and not await self._start_up(app.startup)
        ):
            return
        loop = asyncio.get_running_loop()
        if app.liveness is not None:
            self._tasks.append(loop.create_task(self._stay_alive(app.liveness)))
        if app.readiness is None or self._was_ready:
            self._on_ready(self._worker, True)
        if app.readiness is None:
            return
        self._tasks.append(loop.create_task(self._stay_ready(app.readiness)))

    async def _start_up(self, probe: Probe) -> bool:
        await asyncio.sleep(probe.initial_delay_seconds)
        for _ in range(probe.failure_threshold):
            reason = await self._ask(probe)
            if reason is None:
                return True
            await asyncio.sleep(probe.period_seconds)
        self._on_dead(self._worker, f"startup probe failed: {reason}")
        return False

    async def _stay_alive(self, probe: Probe) -> None:
        await asyncio.sleep(probe.initial_delay_seconds)
        failures = 0
        while True:
            reason = await self._ask(probe)
            failures = 0 if reason is None else failures + 1
            if failures >= probe.failure_threshold:
                self._on_dead(self._worker, f"liveness probe failed: {reason}")
                return
            await asyncio.sleep(probe.period_seconds)

    async def _stay_ready(self, probe: Probe) -> None:
        is_ready = self._was_ready
        if not is_ready:
            await asyncio.sleep(probe.initial_delay_seconds)
        streak = 0
        while True:
            is_good = await self._ask(probe) is None
            streak = streak + 1 if is_good is not is_ready else 0
            threshold = probe.failure_threshold if is_ready else probe.success_threshold
            if streak >= threshold:
                is_ready = is_good
                streak = 0
                self._on_ready(self._worker, is_ready)
            await asyncio.sleep(probe.period_seconds if is_ready else min(probe.period_seconds, 1))

    async def _ask(self, probe: Probe) -> str | None:
        """Run the probe once; None when it succeeded, else why not."""
        if probe.export:
            return await self._ask_worker(
                lambda number: ExportProbe(number, probe.export, float(probe.timeout_seconds)),
                probe,
            )
        if self._worker.plan.app.trigger is Trigger.SOCKET:
            return await self._ask_on_connection(probe)
        if probe.path is None:
            return (
                None if self._worker.process.send(StatsRequest()) else "the worker does not answer"
            )
        path = probe.path
        headers = "\n".join(f"{name}: {value}" for name, value in probe.headers)
        return await self._ask_worker(
            lambda number: ProbeRequest(number, path, headers, float(probe.timeout_seconds)), probe
        )

    async def _ask_worker(
        self, make_request: Callable[[int], ProbeRequest | ExportProbe], probe: Probe
    ) -> str | None:
        number, future = self._expect_result()
        if not self._worker.process.send(make_request(number)):
            return "the worker does not answer"
        try:
            async with asyncio.timeout(probe.timeout_seconds):
                result = await future
        except TimeoutError:
            return f"no answer within {probe.timeout_seconds} s"
        finally:
            self._waiting.pop(number, None)
        if 200 <= result.status < 400:
            return None
        return result.message or f"{probe.path} answered {result.status}"

    def _expect_result(self) -> tuple[int, asyncio.Future[ProbeResult]]:
        number = next(self._serial)
        future: asyncio.Future[ProbeResult] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        return number, future

    async def _ask_on_connection(self, probe: Probe) -> str | None:
        """Connect to the guest, and over HTTP ask it for a path."""
        port = _find_port(probe.port, self._worker.plan.app)
        if port is None:
            return f"the app has no port {probe.port}"
        number, accepted = self._expect_result()
        ours, theirs = socket.socketpair()
        try:
            ours.setblocking(False)
            with theirs:
                if not self._worker.process.send(Offer(number, port), [theirs.fileno()]):
                    return "the worker does not answer"
            async with asyncio.timeout(probe.timeout_seconds):
                result = await accepted
                if result.status != 200:
                    return result.message or "the connection was not accepted"
                return None if probe.path is None else await _ask_http(ours, probe, port)
        except TimeoutError:
            return f"no answer within {probe.timeout_seconds} s"
        except OSError as error:
            return f"the connection broke: {error.strerror or error}"
        finally:
            self._waiting.pop(number, None)
            ours.close()


def _find_port(port: int | str, app: App) -> int | None:
    for declared in app.ports:
        if port in (declared.container_port, declared.name):
            return declared.container_port
    return None


async def _ask_http(connection: socket.socket, probe: Probe, port: int) -> str | None:
    """Send a GET request and judge the answer's status (RFC 9112, section 4)."""
    loop = asyncio.get_running_loop()
    headers = {"host": f"localhost:{port}", "connection": "close", "user-agent": "limpet-probe"}
    headers |= {name.lower(): value for name, value in probe.headers}
    lines = [f"GET {probe.path} HTTP/1.1", *(f"{name}: {text}" for name, text in headers.items())]
    await loop.sock_sendall(connection, ("\r\n".join(lines) + "\r\n\r\n").encode())
    head = b""
    while b"\n" not in head and len(head) < _MAX_STATUS_LINE_BYTES:
        received = await loop.sock_recv(connection, _MAX_STATUS_LINE_BYTES)
        if not received:
            break
        head += received
    words = head.partition(b"\n")[0].split()
    if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
        return f"{probe.path} was not answered over HTTP"
    status = int(words[1][:4])
    return None if 200 <= status < 400 else f"{probe.path} answered {status}"
