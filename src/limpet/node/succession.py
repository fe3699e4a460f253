"""How the launcher's process becomes another version's, and how it comes back.

The new version's interpreter is executed in place, with a program of *this* version that lets the new one's
launcher run and executes this version again if that fails: `limpet.node.on_trial`. The side that goes on with
the process is `limpet.node.takeover`.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, NoReturn

from limpet.node.handover import Handover, keep_back, write_handover

if TYPE_CHECKING:
    from collections.abc import Sequence

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_ALARM_AGAIN_SECONDS = 5.0


def try_version(
    python: str, options: Sequence[str], handover: Handover, *, alarm_seconds: float
) -> None:
    """Become the launcher of the version that has this interpreter; returns only by raising OSError.

    The process must have no other children than those that go on, and no other thread.
    """
    descriptor = write_handover(handover)
    try:
        # Kept across execve(2): the program's first act is to listen to it.
        signal.setitimer(signal.ITIMER_REAL, alarm_seconds, _ALARM_AGAIN_SECONDS)
        _execute([python, "-P", _program(), str(descriptor), _own_python(), *options])
    finally:
        disarm()
        keep_back(handover)
        os.close(descriptor)


def go_back(python: str, options: Sequence[str], handover: Handover, *, reason: str) -> None:
    """Become the launcher of the version before again; returns only by raising OSError."""
    disarm()
    descriptor = write_handover(handover)
    try:
        _execute(
            [python, "-P", "-m", "limpet.node.takeover", str(descriptor), reason[:1000], *options]
        )
    finally:
        keep_back(handover)
        os.close(descriptor)


def _program() -> str:
    return os.path.join(os.path.dirname(os.path.realpath(__file__)), "on_trial.py")


def _own_python() -> str:
    """This version's interpreter, by a path that stays its own when `current` is another's."""
    prefix = os.path.realpath(sys.prefix)
    return os.path.join(prefix, "bin", os.path.basename(sys.executable))


def disarm() -> None:
    """Let no alarm ring any more."""
    signal.setitimer(signal.ITIMER_REAL, 0)


def _execute(arguments: list[str]) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(arguments[0], arguments, os.environ)  # noqa: S606
