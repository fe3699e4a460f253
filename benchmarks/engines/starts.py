"""From an app scaled to zero to the first byte of its answer, beside starting a program for its module."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from benchmarks.client import time_first_byte
from benchmarks.cold_start import describe
from benchmarks.engines.programs import HELLO_NAME, INTERRUPTIBLE, WASMTIME, WAYS
from benchmarks.engines.variants import VARIANTS, WASMEDGE
from benchmarks.node import Node
from benchmarks.report import Result, Table, Target, number

if TYPE_CHECKING:
    from benchmarks.engines.programs import Programs
    from benchmarks.lab import Lab

_IDLE_TIMEOUT = "100ms"
_SETTLE_SECONDS = 0.05
_P50 = "p50_milliseconds"


def measure(lab: Lab, programs: Programs) -> Result:
    """Return seconds by variant and by way of the programs."""
    # Nothing of a start depends on whether a loop can be interrupted.
    ways = [way for way in programs.commands[HELLO_NAME] if way != INTERRUPTIBLE]
    seconds: dict[str, list[float]] = {each.key: [] for each in VARIANTS}
    program_seconds: dict[str, list[float]] = {way: [] for way in ways}
    with Node(lab.folder / "engine-starts") as node:
        ports = {
            each.key: node.deploy(
                each.key, idle_timeout=_IDLE_TIMEOUT, annotations=each.annotations
            )
            for each in VARIANTS
        }
        for _ in range(lab.bounds.engine_starts):
            for name, port in ports.items():
                _rest(node)
                seconds[name].append(time_first_byte(port))
            _rest(node)
            for way in ways:
                program_seconds[way].append(programs.time_output(HELLO_NAME, way))
    return {
        "limpet": {name: describe(found) for name, found in seconds.items()},
        "programs": {way: describe(found) for way, found in program_seconds.items()},
    }


def _rest(node: Node) -> None:
    """Wait until no app has a process; a spare worker of each engine is back by then."""
    for each in VARIANTS:
        node.wait_for(each.key, "Idle", workers=0)
    time.sleep(_SETTLE_SECONDS)


def tables(result: Result) -> list[Table]:
    """Return the report's tables."""
    labelled = {
        f"Limpet: {each.label}, connect to an app scaled to zero": result["limpet"][each.key]
        for each in VARIANTS
    } | {f"{WAYS[way]}: start it": found for way, found in result["programs"].items()}
    rows = [
        (label, *(number(found[f"p{p}_milliseconds"]) for p in (50, 90, 99)))
        for label, found in labelled.items()
    ]
    count = result["limpet"][WASMEDGE.key]["count"]
    title = f"Cold start to the first byte, ms ({count} of each)"
    return [Table(title, ("", "p50", "p90", "p99"), rows)]


def targets(result: Result) -> list[Target]:
    """Return the promises that this measurement is about."""
    found = result["limpet"][WASMEDGE.key][_P50]
    program = min(figures[_P50] for way, figures in result["programs"].items() if way != WASMTIME)
    name = "first answer of an app on WasmEdge, scaled to zero, beside its program's best start"
    return [Target(name, f"< {number(program)} ms", f"{number(found)} ms", found < program)]
