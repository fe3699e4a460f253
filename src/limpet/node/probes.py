"""Readiness, liveness and startup probes of one worker, asked through its control socket.

A probe runs the app for one request inside the worker itself, so replicas that share a listening
socket are told apart and no network is needed. A tcpSocket probe asks whether the worker answers at
all.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING

from limpet.worker.messages import ProbeRequest, StatsRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from limpet.manifest.model import Probe
    from limpet.node.workers import Worker
    from limpet.worker.messages import ProbeResult


class Prober:
    """Runs a worker's probes until stopped."""

    def __init__(
        self,
        worker: Worker,
        *,
        on_ready: Callable[[Worker, bool], None],
        on_dead: Callable[[Worker, str], None],
    ) -> None:
        self._worker = worker
        self._on_ready = on_ready
        self._on_dead = on_dead
        self._serial = itertools.count(1)
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
        if app.startup is not None and not await self._start_up(app.startup):
            return
        loop = asyncio.get_running_loop()
        if app.liveness is not None:
            self._tasks.append(loop.create_task(self._stay_alive(app.liveness)))
        if app.readiness is None:
            self._on_ready(self._worker, True)
        else:
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
        await asyncio.sleep(probe.initial_delay_seconds)
        is_ready = False
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
        if probe.path is None:
            return (
                None if self._worker.process.send(StatsRequest()) else "the worker does not answer"
            )
        number = next(self._serial)
        future: asyncio.Future[ProbeResult] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        headers = "\n".join(f"{name}: {value}" for name, value in probe.headers)
        request = ProbeRequest(number, probe.path, headers, float(probe.timeout_seconds))
        if not self._worker.process.send(request):
            return "the worker does not answer"
        try:
            result = await asyncio.wait_for(future, probe.timeout_seconds)
        except TimeoutError:
            return f"no answer within {probe.timeout_seconds} s"
        finally:
            self._waiting.pop(number, None)
        if 200 <= result.status < 400:
            return None
        return result.message or f"{probe.path} answered {result.status}"
