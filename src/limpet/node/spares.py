"""Keeps a process in reserve while some app is stopped that the next client starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from limpet.node.apps import AppRuntime
    from limpet.plan import AppKey
    from limpet.worker.supervisor import Zygotes


class Spares:
    """The node's spares, at most one for each engine; `may_keep` says whether there may be any now,
    `is_tried` whether each is wanted to see that it can be started.
    """

    def __init__(
        self,
        apps: Mapping[AppKey, AppRuntime],
        zygotes: Zygotes,
        *,
        may_keep: Callable[[], bool],
        is_tried: Callable[[], bool],
    ) -> None:
        self._apps = apps
        self._zygotes = zygotes
        self._may_keep = may_keep
        self._is_tried = is_tried

    def keep(self) -> None:
        """Start or end spares; an engine that no app uses any more gives its memory back."""
        waiting = [
            runtime.prepared.plan
            for runtime in self._apps.values()
            if runtime.prepared is not None and runtime.is_stopped_until_asked
        ]
        used = {r.prepared.plan.engine for r in self._apps.values() if r.prepared is not None}
        for zygote in self._zygotes:
            plans = [plan for plan in waiting if plan.engine == zygote.name]
            zygote.keep_spare(
                is_wanted=(bool(plans) or self._is_tried()) and self._may_keep(),
                is_component=any(plan.is_component for plan in plans),
            )
            if zygote.name not in used:
                zygote.end_when_idle()

    def count(self) -> int:
        """Return how many there are."""
        return sum(zygote.has_spare for zygote in self._zygotes)
