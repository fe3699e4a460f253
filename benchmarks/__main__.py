"""Runs the measurements: `scripts/bench --help`."""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import (
    cold_start,
    engines,
    fixed_rate,
    help_time,
    many_apps,
    memory,
    restart,
    shares,
    throughput,
    walls,
    writes,
)
from benchmarks.lab import FULL, QUICK, ROOT, MissingToolError, describe_machine, fail, open_lab
from benchmarks.report import Result, Table, Target, render, write_into

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import ModuleType

MEASUREMENTS: dict[str, ModuleType] = {
    "cold-start": cold_start,
    "throughput": throughput,
    "shares": shares,
    "fixed-rate": fixed_rate,
    "memory": memory,
    "restart": restart,
    "walls": walls,
    "help": help_time,
    "engines": engines,
    "writes": writes,
    "many-apps": many_apps,
}
_PAGES = {
    ROOT / "docs" / "performance.md": [
        name for name in MEASUREMENTS if name not in ("engines", "writes", "many-apps")
    ],
    ROOT / "docs" / "engines.md": ["engines"],
    ROOT / "docs" / "storage.md": ["writes", "many-apps"],
}


def main() -> None:
    """Measure, then write JSON and markdown."""
    options = _parse_options()
    if options.render:
        document = json.loads(options.output.read_text("utf-8"))
    else:
        document = _measure(options.only or list(MEASUREMENTS), is_quick=options.quick)
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(document, indent=2) + "\n", "utf-8")
        _note(f"results are in {options.output}")
    print(_render(document, document["results"]))
    if options.report:
        for page, names in _PAGES.items():
            measured = [name for name in document["results"] if name in names]
            if measured:
                write_into(page, _render(document, measured))
                _note(f"the figures of {page} are these now")


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Measure Limpet.")
    parser.add_argument("--quick", action="store_true", help="rough figures in about a minute")
    parser.add_argument(
        "--only", action="append", choices=list(MEASUREMENTS), help="may be given several times"
    )
    parser.add_argument(
        "--output", type=Path, default=ROOT / "build" / "bench.json", help="where the JSON goes"
    )
    parser.add_argument(
        "--report", action="store_true", help="write the tables into their pages in docs/"
    )
    parser.add_argument(
        "--render", action="store_true", help="measure nothing, show what --output holds"
    )
    return parser.parse_args()


def _measure(names: list[str], *, is_quick: bool) -> Result:
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="limpet-bench-") as folder:
        try:
            lab = open_lab(Path(folder), QUICK if is_quick else FULL)
        except MissingToolError as error:
            fail(str(error))
        document: Result = {
            "kind": "quick" if is_quick else "full",
            "machine": describe_machine(lab),
            "results": {},
        }
        gc.disable()
        for name in names:
            _note(f"{name} ...")
            try:
                document["results"][name] = MEASUREMENTS[name].measure(lab)
            except MissingToolError as error:
                _note(f"{name} is left out: {error}")
            gc.collect()
        if not document["results"]:
            fail("nothing was measured")
    document["seconds"] = round(time.monotonic() - started)
    return document


def _render(document: Result, names: Iterable[str]) -> str:
    """The report of these measurements."""
    facts = dict(document["machine"])
    tables: list[Table] = []
    targets: list[Target] = []
    for name in names:
        measurement, result = MEASUREMENTS[name], document["results"][name]
        tables += measurement.tables(result)
        targets += measurement.targets(result)
        if measurement is engines:
            facts |= engines.facts(result)
    return render(facts, tables, targets, kind=document["kind"])


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
