"""Keeping the node alive when memory runs short: spares go first, then idle apps that come back.

`limpet.node.pressure` decides. An app goes only when its next client starts it again; the kernel's own
choice, should it come to that, is prepared by `oom_score_adj`: workers first, the agent last.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from limpet.linux import memory
from limpet.manifest.quantity import format_bytes
from limpet.node.pressure import IdleApp, MemoryView, decide_memory_pressure, decide_relief

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from limpet.node.apps import AppRuntime
    from limpet.node.conditions import Conditions
    from limpet.settings import MemorySettings

MEMORY_PRESSURE = "MemoryPressure"
# What a worker is taken to give back where the kernel does not count it.
_WORKER_BYTES = 2 << 20


@dataclass(slots=True)
class _Seen:
    """What an app's workers had done, and since when it has been no more (monotonic, seconds)."""

    requests: int
    since: float


class MemoryKeeper:
    """Looks after the device's memory.

    `apps` gives every app, `spares` counts the processes in reserve, `drop_spares` lets them go;
    `record` makes an event of the node, `record_app` one of an app.
    """

    def __init__(
        self,
        settings: MemorySettings,
        *,
        apps: Callable[[], Iterable[AppRuntime]],
        spares: Callable[[], int],
        drop_spares: Callable[[], None],
        conditions: Conditions,
        record: Callable[[str, str, bool], None],
        record_app: Callable[[AppRuntime, str, str, bool], None],
        read: Callable[[], MemoryView] | None = None,
    ) -> None:
        self._settings = settings
        self._apps = apps
        self._spares = spares
        self._drop_spares = drop_spares
        self._conditions = conditions
        self._record = record
        self._record_app = record_app
        self._read = read or _read
        self._seen: dict[str, _Seen] = {}

    @property
    def is_under_pressure(self) -> bool:
        """Whether nothing is to be kept in reserve."""
        return self._conditions.is_true(MEMORY_PRESSURE)

    def look(self) -> None:
        """See how much memory there is, and do what follows. Raises OSError."""
        view = self._read()
        is_under = decide_memory_pressure(
            view,
            was_under=self.is_under_pressure,
            free_bytes=self._settings.free_bytes,
            stall_percent=self._settings.stall_percent,
        )
        self._tell(view, is_under=is_under)
        if is_under:
            self._relieve(view)
        else:
            self._seen.clear()

    def _relieve(self, view: MemoryView) -> None:
        spares = self._spares()
        if spares:
            self._drop_spares()
        idle = {app.name: (app, runtime) for app, runtime in self._find_idle()}
        chosen = decide_relief(
            [app for app, _ in idle.values()],
            view,
            free_bytes=self._settings.free_bytes,
            spares=spares,
        )
        for app in chosen:
            runtime = idle[app.name][1]
            self._seen.pop(app.name, None)
            self._record_app(
                runtime,
                "Evicted",
                "the device runs out of memory and the app has nothing to do: it was stopped, its next "
                "client starts it again",
                True,
            )
            runtime.let_go()

    def _find_idle(self) -> Iterable[tuple[IdleApp, AppRuntime]]:
        """Give the apps that can go, with how long they have done nothing: between two looks at least."""
        now = time.monotonic()
        seen: dict[str, _Seen] = {}
        for runtime in self._apps():
            if not runtime.can_be_let_go:
                continue
            requests = runtime.count_idle_requests()
            runtime.request_stats()  # for the next look
            if requests is None:
                continue
            name = str(runtime.key)
            known = self._seen.get(name)
            if known is None or known.requests != requests:
                known = _Seen(requests, now)
            seen[name] = known
            if known.since < now:
                size = runtime.memory_bytes() or _WORKER_BYTES * len(runtime.workers)
                yield IdleApp(name, now - known.since, size), runtime
        self._seen = seen

    def _tell(self, view: MemoryView, *, is_under: bool) -> None:
        figures = (
            f"{format_bytes(view.available_bytes)} of memory are available, the node acts below "
            f"{format_bytes(self._settings.free_bytes)}"
        )
        if view.stalled_percent:
            figures += f"; processes waited for memory {view.stalled_percent:.0f} % of the time"
        reason = "KubeletHasInsufficientMemory" if is_under else "KubeletHasSufficientMemory"
        if self._conditions.set(MEMORY_PRESSURE, reason, figures, is_true=is_under):
            event = "NodeHasInsufficientMemory" if is_under else "NodeHasSufficientMemory"
            self._record(event, figures, is_under)


def _read() -> MemoryView:
    return MemoryView(
        available_bytes=memory.read_available_bytes(),
        stalled_percent=memory.read_stalled_percent(),
    )
