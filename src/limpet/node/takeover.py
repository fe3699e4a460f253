"""A launcher that goes on with another version's process: on trial, or again after a trial has failed.

`python -m limpet.node.takeover DESCRIPTOR REASON [OPTIONS]` is the latter (`limpet.node.succession`).
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback

from limpet.node.__main__ import make_launcher, parse_options
from limpet.node.handover import Trial, leave_open, read_handover


def take_over(descriptor: int, back: str, options: list[str]) -> int:
    """Be the launcher of a version on trial; return the node's exit code.

    Raises whatever goes wrong while it is on trial, for the program that called it (`on_trial` of the version
    before). `back` is that version's interpreter.
    """
    handover, launcher, pid = read_handover(descriptor), None, os.getpid()
    try:
        trial = Trial(back, descriptor)
        launcher = make_launcher(parse_options(options), options, handover, trial=trial)
        return launcher.run()
    except BaseException as error:
        if os.getpid() != pid:  # a fork is no launcher: only that one may go back
            raise
        if launcher is not None and not launcher.is_on_trial:
            traceback.print_exc()
            return 1
        if launcher is not None:
            with contextlib.suppress(OSError):
                launcher.go_back(f"{type(error).__name__}: {error}")
        leave_open(handover)  # who called this executes the version before
        raise


def main(arguments: list[str]) -> int:
    """Be the launcher again whose successor has failed its trial; return the node's exit code."""
    descriptor, reason, options = int(arguments[0]), arguments[1], arguments[2:]
    handover = read_handover(descriptor)
    os.close(descriptor)
    settings = parse_options(options)
    return make_launcher(settings, options, handover, trial_failure=reason).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
