"""The program that another version's interpreter runs while that version is on trial.

It is this version's: the interpreter is given this file's path, and what it imports is its own version's.
Whatever that raises (an import that fails, a setting that it does not know, a defect, or the alarm, when it
hangs) executes this version again, in the same process and with the same things held open. So nothing here
may use anything but the standard library before the version on trial is asked.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback

_SHOWN = 1000


class LateError(BaseException):
    """The alarm: not to be mistaken for anything that a launcher handles."""


def main(descriptor: int, back: str, options: list[str]) -> int:
    """Be the launcher of the version on trial; return the node's exit code, or be this version again.

    `descriptor` has what is held (`limpet.node.handover`), `back` is this version's interpreter.
    """
    pid = os.getpid()
    signal.signal(signal.SIGALRM, _ring)
    try:
        from limpet.node.takeover import take_over

        return take_over(descriptor, back, options)
    except BaseException as error:
        if os.getpid() != pid:  # a fork of the process must never become a second launcher
            os._exit(1)
        signal.setitimer(signal.ITIMER_REAL, 0)
        why = f"{type(error).__name__}: {error}"[:_SHOWN]
        try:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            arguments = [back, "-P", "-m", "limpet.node.takeover", str(descriptor), why, *options]
            os.execv(back, arguments)  # noqa: S606
    raise AssertionError("unreachable: another program runs")


def _ring(_number: int, _frame: object) -> None:
    raise LateError("it did not report in time")


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))
