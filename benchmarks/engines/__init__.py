"""The engines side by side: an app on each, and the engines' own programs for the same modules.

Everything takes turns within one run. Left out where WasmEdge or its program is not to be had.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.engines import compiling, loads, memory, runs, starts
from benchmarks.engines.programs import find_programs

if TYPE_CHECKING:
    from benchmarks.lab import Lab
    from benchmarks.report import Result, Table, Target

_PARTS = {"starts": starts, "loads": loads, "memory": memory, "runs": runs, "compiling": compiling}


def measure(lab: Lab) -> Result:
    """Return each part's figures. Raises `MissingToolError` where there is no WasmEdge."""
    folder = lab.folder / "engines"
    folder.mkdir()
    programs = find_programs(lab, folder)
    figures = {name: part.measure(lab, programs) for name, part in _PARTS.items()}
    return {"wasmedge": programs.wasmedge_version, **figures}


def tables(result: Result) -> list[Table]:
    """Return the report's tables."""
    return [table for name, part in _PARTS.items() for table in part.tables(result[name])]


def targets(result: Result) -> list[Target]:
    """Return the promises that this measurement is about."""
    return [*starts.targets(result["starts"]), *memory.targets(result["memory"])]


def facts(result: Result) -> dict[str, str]:
    """Return what the figures depend on beside the machine."""
    return {"second engine": f"wasmedge {result['wasmedge']}"}
