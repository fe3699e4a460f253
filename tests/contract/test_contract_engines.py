"""The contract and the corpus for engines that need a process of their own (`engine_variant`)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from engine_variant import INTERPRETED, VARIABLE

from limpet.engine.wasmedge.library import command, find_installation
from limpet.errors import UnavailableError

_FEWEST = 250
_TIMEOUT_SECONDS = 600


@pytest.mark.skipif(VARIABLE in os.environ, reason="this is such a process")
@pytest.mark.parametrize("variant", ["wasmedge", "wasmedge" + INTERPRETED])
def test_in_a_process_of_its_own(variant: str) -> None:
    try:
        installation = find_installation(None)
    except UnavailableError as error:
        pytest.skip(str(error))
    folders = [Path(__file__).parent, Path(__file__).parent.parent / "corpus"]
    arguments = ["-m", "pytest", "-q", "-p", "no:cacheprovider", *map(str, folders)]
    done = subprocess.run(
        command(installation, arguments),
        env=os.environ | {VARIABLE: variant, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=_TIMEOUT_SECONDS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) >= _FEWEST
