"""What an engine's zygote, the first app on it and each further one occupy (proportional set size).

As `benchmarks.memory`, a node for each way to run a module: each app has a module of its own and has served.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from benchmarks.engines.variants import VARIANTS, WASMEDGE
from benchmarks.memory import per_further_app, snapshot, start_app
from benchmarks.node import Node
from benchmarks.processes import read_memory
from benchmarks.report import Result, Table, Target, number

if TYPE_CHECKING:
    from benchmarks.engines.programs import Programs
    from benchmarks.engines.variants import Variant
    from benchmarks.lab import Lab

_SETTLE_SECONDS = 1.0
_ZYGOTES = {"wasmtime": "limpet-zygote", "wasmedge": "limpet-wasmedge"}
_APP_MEGABYTES = 8.0
_MIB = 1 << 20


def measure(lab: Lab, _programs: Programs) -> Result:
    """Return bytes by variant."""
    return {each.key: _measure_node(lab, each) for each in VARIANTS}


def _measure_node(lab: Lab, variant: Variant) -> dict[str, Any]:
    with Node(lab.folder / f"engine-memory-{variant.key}") as node:
        start_app(node, 0, annotations=variant.annotations)
        time.sleep(_SETTLE_SECONDS)
        found: dict[str, Any] = {
            "zygote": asdict(read_memory(node.platform()[_ZYGOTES[variant.engine]])),
            "1": snapshot(node),
        }
        for index in range(1, 1 + lab.bounds.engine_apps):
            start_app(node, index, annotations=variant.annotations)
        time.sleep(_SETTLE_SECONDS)
        found["all"] = snapshot(node)
    return found


def tables(result: Result) -> list[Table]:
    """Return the report's tables."""
    columns = (
        "",
        "zygote",
        "of it anonymous",
        "first app",
        "node with it",
        "each further app",
        "of it anonymous",
    )
    rows = [_row(each.label, result[each.key]) for each in VARIANTS]
    return [Table("Memory by engine, MiB of PSS", columns, rows)]


def _row(label: str, found: dict[str, Any]) -> tuple[str, ...]:
    further = per_further_app(found)
    figures = (
        found["zygote"]["pss_bytes"],
        found["zygote"]["anonymous_bytes"],
        found["1"]["apps"]["pss_bytes"],
        found["1"]["total"]["pss_bytes"],
        further["pss_bytes"],
        further["anonymous_bytes"],
    )
    return (label, *(number(figure / _MIB) for figure in figures))


def targets(result: Result) -> list[Target]:
    """Return the promises that this measurement is about."""
    megabytes = per_further_app(result[WASMEDGE.key])["pss_bytes"] / 1e6
    return [
        Target(
            "each further idle app on WasmEdge",
            f"<= {_APP_MEGABYTES:.0f} MB",
            f"{number(megabytes)} MB",
            megabytes <= _APP_MEGABYTES,
        )
    ]
