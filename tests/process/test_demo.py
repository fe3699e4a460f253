"""`limpet demo` as a new user runs it: a command, a table, nothing left behind."""

from __future__ import annotations

import json
import subprocess
import sys


def run_demo(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "limpet", "demo", *options],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_the_demo_deploys_and_measures_the_examples():
    done = run_demo("-o", "json")
    assert done.returncode == 0, done.stderr
    rows = {row["app"]: row for row in json.loads(done.stdout)["rows"]}
    assert {"hello", "sensor", "report"} <= set(rows)
    for row in rows.values():
        assert row["is_good"], row
    for name in ("hello", "sensor"):
        assert 0 < rows[name]["warm_p50"] <= rows[name]["warm_p99"]
        assert rows[name]["cold_start"] > 0
        assert rows[name]["memory_bytes"] > 1 << 20
    assert "printed" in rows["report"]["result"]


def test_the_table_names_every_column():
    done = run_demo()
    assert done.returncode == 0, done.stderr
    header = done.stdout.splitlines()[0].lower()
    for title in ("app", "cold start", "warm p50", "warm p99", "memory", "result"):
        assert title in header
