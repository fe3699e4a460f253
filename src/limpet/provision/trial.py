"""Trying something in a child, so that whatever it does to itself, or leaves open, ends with it."""

from __future__ import annotations

import json
import os
import select
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable

_PATIENCE_SECONDS = 30.0
_READ_BYTES = 1 << 16


class TrialError(Exception):
    """The trial failed; the message is what the child said last."""


def run_trial(trial: Callable[[], object], *, seconds: float = _PATIENCE_SECONDS) -> Any:  # noqa: ANN401 - JSON
    """Call `trial` in a forked child and return what it returned, which JSON can hold.

    Raises TrialError with the text of the exception that ended it, with the signal that killed it, or
    when it takes longer than `seconds`: the child and what it started are killed then. For a process
    with one thread.
    """
    answer, given = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        _run(trial, given)
    os.close(given)
    try:
        text = _read_all(answer, deadline=time.monotonic() + seconds)
    except BaseException:
        _end(pid)
        raise
    finally:
        os.close(answer)
    if text is None:
        _end(pid)
        raise TrialError(f"no answer within {seconds:g} s")
    _, status = os.waitpid(pid, 0)
    if not text:
        raise TrialError(_explain_end(os.waitstatus_to_exitcode(status)))
    told = json.loads(text)
    if "error" in told:
        raise TrialError(told["error"])
    return told["answer"]


def _run(trial: Callable[[], object], given: int) -> NoReturn:
    code = 1
    try:
        os.setpgid(0, 0)  # what it starts can be ended along with it
        try:
            told = {"answer": trial()}
        except Exception as error:  # told to the parent, whatever it is
            text = error.strerror if isinstance(error, OSError) and not error.filename else None
            told = {"error": text or str(error) or type(error).__name__}
        data = json.dumps(told).encode()
        while data:
            data = data[os.write(given, data) :]
        code = 0
    finally:
        os._exit(code)


def _read_all(answer: int, *, deadline: float) -> bytes | None:
    """Read to the end; None when that takes too long."""
    pieces: list[bytes] = []
    while True:
        readable, _, _ = select.select([answer], [], [], max(deadline - time.monotonic(), 0))
        if not readable:
            return None
        piece = os.read(answer, _READ_BYTES)
        if not piece:
            return b"".join(pieces)
        pieces.append(piece)


def _end(pid: int) -> None:
    for kill in (os.killpg, os.kill):
        with suppress(ProcessLookupError):
            kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def _explain_end(code: int) -> str:
    if code >= 0:
        return f"ended with code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
