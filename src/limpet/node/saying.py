"""What a node says to whoever watches its output.

Nobody may any more: a pipe whose reader has ended, a terminal that is gone. That is no reason to stop, or to
leave anything undone, and what matters is an event, too.
"""

from __future__ import annotations

import contextlib
import sys


def say(line: str) -> None:
    """Print a line on standard output, if it can be."""
    with contextlib.suppress(OSError):
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


def say_problem(line: str) -> None:
    """Print a line on standard error, if it can be."""
    with contextlib.suppress(OSError):
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()
