"""The one place where what runs is made equal to what is wanted.

Every change (an apply, a worker's end, a client at the door, a timer) leads here: it looks at one app, lets
`limpet.node.state` decide, and carries the actions out. Nothing waits in it: fetching and compiling are
tasks that end in another look.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from limpet.node.state import (
    Drain,
    Forget,
    Start,
    Watch,
    decide_actions,
    decide_wake_up,
)
from limpet.node.views import view_app

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from limpet.node.apps import AppRuntime
    from limpet.plan import AppKey

_SPARE_SECONDS = 0.02


class Reconciler:
    """Knows which apps are to be looked at.

    `observe` is told of each before anything is decided; `forget` removes one that is gone; `keep_spares`
    is called a moment after each round.
    """

    def __init__(
        self,
        apps: Mapping[AppKey, AppRuntime],
        *,
        resync_seconds: float,
        observe: Callable[[AppRuntime], None],
        forget: Callable[[AppRuntime], None],
        keep_spares: Callable[[], None],
    ) -> None:
        self.is_stopped = False
        self._apps = apps
        self._resync_seconds = resync_seconds
        self._observe = observe
        self._forget = forget
        self._keep_spares = keep_spares
        self._dirty: set[AppKey] = set()
        self._is_due = False
        self._wake_up: asyncio.TimerHandle | None = None

    def mark(self, *keys: AppKey) -> None:
        """Look at these apps soon, once for any number of changes."""
        self._dirty.update(keys)
        if not self._is_due and not self.is_stopped:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._run)

    def mark_all(self) -> None:
        """Look at every app soon."""
        self.mark(*self._apps)

    def stop(self) -> None:
        """Look no more."""
        self.is_stopped = True

    def _run(self) -> None:
        self._is_due = False
        dirty, self._dirty = self._dirty, set()
        if self.is_stopped:
            return
        for key in sorted(dirty):
            runtime = self._apps.get(key)
            if runtime is not None:
                self._reconcile(runtime)
        self._schedule_wake_up()
        asyncio.get_running_loop().call_later(_SPARE_SECONDS, self._keep_spares)

    def _reconcile(self, runtime: AppRuntime) -> None:
        self._observe(runtime)
        for action in decide_actions(view_app(runtime), time.monotonic()):
            if isinstance(action, Start):
                runtime.start(action.slot)
            elif isinstance(action, Drain):
                runtime.drain(action.worker)
            elif isinstance(action, Watch):
                runtime.watch()
            elif isinstance(action, Forget):
                self._forget(runtime)

    def _schedule_wake_up(self) -> None:
        if self._wake_up is not None:
            self._wake_up.cancel()
        pause = decide_wake_up([view_app(r) for r in self._apps.values()], time.monotonic())
        pause = min(self._resync_seconds, pause if pause is not None else float("inf"))
        self._wake_up = asyncio.get_running_loop().call_later(pause + 0.001, self.mark_all)
