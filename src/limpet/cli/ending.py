"""How a command ends that something has to end with: what it made, and the processes that it started."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING, NoReturn

import click

from limpet.linux.process import die_with_parent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType


@contextlib.contextmanager
def signals_end_this() -> Iterator[None]:
    """SIGTERM and SIGHUP clean up like Ctrl-C does; one that is ignored (nohup) stays so."""

    def end(number: int, frame: FrameType | None) -> NoReturn:
        del frame
        raise click.exceptions.Exit(128 + number)

    numbers = (signal.SIGTERM, signal.SIGHUP)
    wanted = [each for each in numbers if signal.getsignal(each) is not signal.SIG_IGN]
    previous = {number: signal.signal(number, end) for number in wanted}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def ends_with_this() -> Callable[[], None]:
    """For `preexec_fn`: a process that nobody will stop is told to, also when this one is killed."""
    parent = os.getpid()

    def request() -> None:
        die_with_parent(signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    return request
