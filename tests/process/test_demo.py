"""`limpet demo` as a new user runs it: a command, a table, nothing left behind.

The fetched examples, programs that nobody here wrote, are built beside their manifests first, so that they
take part as handlers.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
FETCHED = ("quickjs", "python")
CANT_FETCH = 75  # what the build scripts exit with when the package is out of reach


def run_demo(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "limpet", "demo", *options],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def unfetched() -> dict[str, str]:
    """Why an example could not be fetched, by its name."""
    reasons = {}
    for example in FETCHED:
        if (EXAMPLES / example / f"{example}.wasm").exists():
            continue
        built = subprocess.run(
            ["sh", str(EXAMPLES / example / "build.sh")],
            env={**os.environ, "PYTHON": sys.executable},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        if built.returncode == CANT_FETCH:
            reasons[example] = built.stderr.strip()
        else:
            assert built.returncode == 0, built.stderr
    return reasons


@pytest.fixture(scope="module")
def rows(unfetched: dict[str, str]) -> dict[str, dict[str, object]]:
    done = run_demo("-o", "json")
    assert done.returncode == 0, done.stderr
    return {row["app"]: row for row in json.loads(done.stdout)["rows"]}


def test_the_demo_deploys_and_measures_the_examples(rows):
    assert {"hello", "sensor", "report"} <= set(rows)
    for row in rows.values():
        assert row["is_good"], row
    for name in ("hello", "sensor"):
        assert 0 < rows[name]["warm_p50"] <= rows[name]["warm_p99"]
        assert rows[name]["cold_start"] > 0
        assert rows[name]["memory_bytes"] > 1 << 20
    assert "printed" in rows["report"]["result"]


@pytest.mark.parametrize("example", FETCHED)
def test_programs_of_others_run_as_handlers(rows, unfetched, example):
    if example in unfetched:
        pytest.skip(f"{example} can't be fetched here: {unfetched[example]}")
    assert rows[example]["is_good"], rows[example]
    assert rows[example]["warm_p50"] > 0


def test_the_table_names_every_column():
    done = run_demo()
    assert done.returncode == 0, done.stderr
    header = done.stdout.splitlines()[0].lower()
    for title in ("app", "cold start", "warm p50", "warm p99", "memory", "result"):
        assert title in header
