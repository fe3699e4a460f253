"""How the launcher's process becomes another version's, and how it comes back.

The new version's interpreter is executed in place with a text of *this* version (`_TRIAL`) as its program: it
imports the new version's launcher and runs it. Whatever that raises while it is on trial (an import that
fails, a setting that it does not know, a defect, or its alarm, when it hangs) executes this version again,
in the same process and with the same things held open. `limpet.node.takeover` is the other side.
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
# A fork of the process must never become a second launcher.
_TRIAL = """\
import os, signal, sys
class Late(BaseException): pass
def ring(*_): raise Late("it did not report in time")
signal.signal(signal.SIGALRM, ring)
descriptor, back, options = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
pid = os.getpid()
try:
    from limpet.node.takeover import take_over
    code = take_over(descriptor, back, options)
except BaseException as error:
    if os.getpid() != pid: os._exit(1)
    signal.setitimer(signal.ITIMER_REAL, 0)
    why = f"{type(error).__name__}: {error}"[:1000]
    try:
        import traceback
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os.execv(back, [back, "-P", "-m", "limpet.node.takeover", str(descriptor), why, *options])
sys.exit(code)
"""
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
        _execute([python, "-P", "-c", _TRIAL, str(descriptor), _own_python(), *options])
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
