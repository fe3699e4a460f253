"""What follows a worker's end: whether it starts again, and when. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from limpet.manifest.model import RestartPolicy

if TYPE_CHECKING:
    from limpet.manifest.model import App

MAX_BACKOFF_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Restart:
    """How a worker starts again: after `pause_seconds`, as the one after `failures` ends in a row.

    `is_stable` says that the one that ended had lasted long enough for the row to begin anew.
    """

    pause_seconds: float
    failures: int
    is_stable: bool


def should_restart(app: App, *, restarts: int, is_success: bool) -> bool:
    """Whether a worker that ended starts again (restartPolicy, a Job's backoffLimit)."""
    if app.restart_policy is RestartPolicy.ALWAYS:
        return True
    if app.restart_policy is RestartPolicy.NEVER or is_success:
        return False
    return app.kind != "Job" or restarts < app.backoff_limit


def decide_restart(*, failures: int, lasted_seconds: float, first_seconds: float) -> Restart:
    """Decide how a worker starts again that was ready for `lasted_seconds`.

    Its place had `failures` ends in a row before; `first_seconds` is the first pause of them all.
    """
    waited = decide_backoff(failures, first_seconds=first_seconds)
    is_stable = lasted_seconds >= max(waited, first_seconds)
    failures = 1 if is_stable else failures + 1
    return Restart(decide_backoff(failures, first_seconds=first_seconds), failures, is_stable)


def decide_backoff(failures: int, *, first_seconds: float) -> float:
    """Return the pause before a worker that failed `failures` times in a row starts again.

    The first restart is immediate; then 10 s, doubling to 5 minutes, as the kubelet does it.
    """
    if failures <= 1:
        return 0.0
    return float(min(first_seconds * 2 ** min(failures - 2, 16), MAX_BACKOFF_SECONDS))
