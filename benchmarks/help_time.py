"""How long `limpet --help` takes, beside an interpreter that does nothing."""

from __future__ import annotations

import subprocess
import sys
import time
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.lab import node_environment
from benchmarks.report import Result, Table, Target, number

if TYPE_CHECKING:
    from benchmarks.lab import Lab

# What an installer writes for the entry point.
_SCRIPT = """import sys
from limpet.cli.main import main
if __name__ == "__main__":
    sys.argv[0] = "limpet"
    sys.exit(main())
"""
_TARGET_MILLISECONDS = 150.0


def measure(lab: Lab) -> Result:
    """Return medians in milliseconds."""
    script = lab.folder / "limpet"
    script.write_text(_SCRIPT, "utf-8")
    commands = {
        "limpet": [sys.executable, str(script), "--help"],
        "python": [sys.executable, "-c", "pass"],
    }
    found: dict[str, list[float]] = {name: [] for name in commands}
    for index in range(lab.bounds.help_runs + 2):
        for name, command in commands.items():
            started = time.perf_counter()
            subprocess.run(
                command,
                check=True,
                stdout=subprocess.DEVNULL,
                env=node_environment(),
                timeout=30,
            )
            if index >= 2:  # the first two fill the caches
                found[name].append((time.perf_counter() - started) * 1e3)
    return {name: median(times) for name, times in found.items()} | {"count": lab.bounds.help_runs}


def tables(result: Result) -> list[Table]:
    """Return the report's tables."""
    rows = [
        ("`limpet --help`", number(result["limpet"])),
        ("`python -c pass`", number(result["python"])),
    ]
    return [Table(f"The command line, ms (median of {result['count']})", ("", "wall time"), rows)]


def targets(result: Result) -> list[Target]:
    """Return the promises that this measurement is about."""
    took = result["limpet"]
    is_met = took < _TARGET_MILLISECONDS
    return [Target("`limpet --help`", "< 150 ms", f"{number(took)} ms", is_met)]
