"""Random modules end here as they end under Wasmtime, each engine in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import random_modules
from contract_runs import this_python
from engine_variant import VARIABLE

_PROGRAM = Path(__file__).parent / "random_modules.py"
_SEED, _COUNT = 1, 150


def test_random_modules() -> None:
    expected = _run([sys.executable], "wasmtime")
    found = _run(this_python(), os.environ[VARIABLE])
    differences = [
        f"{random_modules.random_module(int(theirs.split()[0]))}\n{theirs} / {ours}"
        for theirs, ours in zip(expected, found, strict=True)
        if theirs != ours
    ]
    assert differences == []
    # Or they show little.
    assert len({line.split(maxsplit=1)[1] for line in expected}) > 20


def _run(python: list[str], engine: str) -> list[str]:
    done = subprocess.run(
        [*python, str(_PROGRAM), str(_SEED), str(_COUNT)],
        env=os.environ | {VARIABLE: engine, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == _COUNT
    return lines
