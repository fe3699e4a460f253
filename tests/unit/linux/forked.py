"""Runs a function in a forked child: what it does to its process stays there."""

from __future__ import annotations

import errno
import os
import resource
import threading
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from limpet.linux.process import effective_capabilities

if TYPE_CHECKING:
    from collections.abc import Callable

_CAP_SYS_ADMIN = 21

needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or not effective_capabilities() >> _CAP_SYS_ADMIN & 1,
    reason="needs root with CAP_SYS_ADMIN",
)


@dataclass(frozen=True)
class Ending:
    """What a child returned, as text, and its exit code; minus a signal's number if it was killed."""

    said: str
    code: int


def end_of(function: Callable[[], object]) -> Ending:
    """Run in a forked child; wait for its end."""
    assert threading.active_count() == 1, "a fork would copy a process with threads"
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        code = 1
        try:
            os.close(reading)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            os.write(writing, repr(function()).encode())
            code = 0
        except BaseException:
            os.write(writing, traceback.format_exc().encode()[-4000:])
        finally:
            os._exit(code)
    os.close(writing)
    with open(reading, encoding="utf-8") as pipe:
        said = pipe.read()
    return Ending(said, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def result_of(function: Callable[[], object]) -> object:
    """Run in a forked child and return what it returned: numbers, strings and tuples of them."""
    import ast

    ending = end_of(function)
    assert ending.code == 0, f"the child ended with {ending.code}: {ending.said}"
    return ast.literal_eval(ending.said)


def attempt(call: Callable[[], object]) -> str:
    """Return "ok", or the name of the errno that the call failed with."""
    try:
        call()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    return "ok"
