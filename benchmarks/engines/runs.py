"""What one run costs in process on each engine, and a long one in the engines' own programs.

In processor time: a long run would be longer beside other work on the machine, and a short one not.
"""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from benchmarks.engines.programs import FIBONACCI, HELLO_NAME, INTERPRETER, TRIVIAL, WAYS
from benchmarks.engines.runner_process import RunnerProcess
from benchmarks.engines.variants import VARIANTS
from benchmarks.report import Result, Table, number

if TYPE_CHECKING:
    from benchmarks.engines.programs import Programs
    from benchmarks.lab import Lab

_MODULES = (TRIVIAL, HELLO_NAME, FIBONACCI)
_PROGRAM_RUNS = 3
# A start varies by as much as a compiled fib(30) takes: let programs compute it often.
_TIMES = 20
_TIMES_INTERPRETED = 1


def measure(lab: Lab, programs: Programs) -> Result:
    """Return medians in seconds: by side and module, and by way of the programs, their start taken off."""
    folder = programs.modules[TRIVIAL].parent
    sides = [
        RunnerProcess(folder, each, is_metered=metered)
        for each in VARIANTS
        for metered in (False, True)
    ]
    for side in sides:
        side.call("compile", *_MODULES)
    ways = list(programs.commands[FIBONACCI])
    found: dict[str, dict[str, list[float]]] = {
        side.label: {module: [] for module in _MODULES} for side in sides
    }
    starts: dict[str, list[float]] = {way: [] for way in ways}
    whole: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(lab.bounds.rounds):
        for side in sides:
            for module, times in side.call("run", *_MODULES).items():
                found[side.label][module] += times
        for _ in range(_PROGRAM_RUNS):
            for way in ways:
                arguments = ["again"] * (_times(way) - 1)
                starts[way].append(programs.spend(TRIVIAL, way))
                whole[way].append(programs.spend(FIBONACCI, way, *arguments))
    return {
        "limpet": {
            label: {module: median(times) for module, times in modules.items()}
            for label, modules in found.items()
        },
        "programs": {way: (median(whole[way]) - median(starts[way])) / _times(way) for way in ways},
    }


def _times(way: str) -> int:
    """How often the program computes it in one run."""
    return _TIMES_INTERPRETED if way == INTERPRETER else _TIMES


def tables(result: Result) -> list[Table]:
    """Return the report's tables."""
    rows = [
        (
            f"Limpet: {label}",
            number(medians[TRIVIAL] * 1e6),
            number(medians[HELLO_NAME] * 1e6),
            number(medians[FIBONACCI] * 1e3),
        )
        for label, medians in result["limpet"].items()
    ]
    rows += [
        (f"{WAYS[way]}, less its start", "", "", number(seconds * 1e3))
        for way, seconds in result["programs"].items()
    ]
    columns = ("", "trivial us", "hello, as CGI us", "fib(30) ms")
    return [
        Table(
            "Processor time of a run in process: a fresh instance, its call, cleaning up",
            columns,
            rows,
        )
    ]
