"""Runs a folder's tests for the engines that need a process of their own (`engine_variant`)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from engine_variant import INTERPRETED, VARIABLE

import wasmedge_prefix
from limpet.engine.wasmedge.library import command

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from limpet.engine.wasmedge.library import Installation

VARIANTS = ("wasmedge", "wasmedge" + INTERPRETED)
IS_ONE = VARIABLE in os.environ
_TIMEOUT_SECONDS = 600 * float(os.environ.get("TEST_SLOWNESS", "1"))

Processes = dict[str, subprocess.Popen[str]]


@contextmanager
def running(folder: Path, wasmedge: Installation) -> Iterator[Processes]:
    """A process for each variant, all at once: they leave each other most of a second processor."""
    arguments = ["-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)]
    shared = {
        **os.environ,
        **wasmedge_prefix.environment(wasmedge),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    processes = {
        variant: subprocess.Popen(
            command(wasmedge, arguments),
            env=shared | {VARIABLE: variant},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for variant in VARIANTS
    }
    try:
        yield processes
    finally:
        for process in processes.values():
            process.kill()
            process.communicate()


def check_passed(process: subprocess.Popen[str], *, fewest: int) -> None:
    """The process ends, its tests have passed, and there were not fewer than these."""
    output, _ = process.communicate(timeout=_TIMEOUT_SECONDS)
    assert process.returncode == 0, output
    passed = re.search(r"(\d+) passed", output)
    assert passed is not None
    assert int(passed[1]) >= fewest
