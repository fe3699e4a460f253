"""The contract and the corpus for engines that need a process of their own (`engine_variant`)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import wasmedge_prefix
from engine_variant import INTERPRETED, VARIABLE

from limpet.engine.wasmedge.library import command

if TYPE_CHECKING:
    from collections.abc import Iterator

    from limpet.engine.wasmedge.library import Installation

_FEWEST = 250
_TIMEOUT_SECONDS = 600
_VARIANTS = ("wasmedge", "wasmedge" + INTERPRETED)
_FOLDERS = (Path(__file__).parent, Path(__file__).parent.parent / "corpus")


@pytest.fixture(scope="module")
def running(wasmedge: Installation) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """A process for each variant, all at once: they leave each other most of a second processor."""
    arguments = ["-m", "pytest", "-q", "-p", "no:cacheprovider", *map(str, _FOLDERS)]
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
        for variant in _VARIANTS
    }
    yield processes
    for process in processes.values():
        process.kill()
        process.communicate()


@pytest.mark.skipif(VARIABLE in os.environ, reason="this is such a process")
@pytest.mark.parametrize("variant", _VARIANTS)
def test_in_a_process_of_its_own(running: dict[str, subprocess.Popen[str]], variant: str) -> None:
    output, _ = running[variant].communicate(timeout=_TIMEOUT_SECONDS)
    assert running[variant].returncode == 0, output
    passed = re.search(r"(\d+) passed", output)
    assert passed is not None
    assert int(passed[1]) >= _FEWEST
