"""Where a request's processor time goes: in HTTP, in crossing to the guest, in the guest.

The request path is served stage by stage (see `benchmarks.stages`); what a stage costs above the
one before it is the stage's share.
"""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from typing import TYPE_CHECKING

from benchmarks.lab import CLIENT_CORE, ROOT, SERVER_CORE, node_environment
from benchmarks.load import Load, run_load, take_median
from benchmarks.report import Result, Table, Target, number

if TYPE_CHECKING:
    from benchmarks.lab import Lab

_CONNECTIONS = 16
_CPU = "cpu_micros_per_request"
_LABELS = {
    "http": "HTTP: sockets, parsing, the answer's head",
    "cgi": "crossing: environment and output (CGI)",
    "instance": "crossing: a fresh instance and its call",
    "guest": "guest: its code and its host calls",
}


def measure(lab: Lab) -> Result:
    """Return processor time per request by stage, and the guest's host calls."""
    environment = node_environment()
    environment["PYTHONPATH"] += f":{ROOT}"
    command = ["taskset", "-c", str(SERVER_CORE), sys.executable, "-m", "benchmarks.stages"]
    loads: dict[str, list[Load]] = {stage: [] for stage in _LABELS}
    for _ in range(lab.bounds.rounds):
        for stage in _LABELS:
            with subprocess.Popen(
                [*command, stage], stdout=subprocess.PIPE, env=environment
            ) as process:
                assert process.stdout is not None, "it is a pipe"
                port = int(process.stdout.readline())
                try:
                    load = run_load(
                        port,
                        pids=[process.pid],
                        connections=_CONNECTIONS,
                        seconds=lab.bounds.load_seconds / 2,
                        cores=[CLIENT_CORE],
                    )
                finally:
                    process.kill()
            loads[stage].append(load)
    calls = subprocess.run(
        [*command, "calls"], check=True, stdout=subprocess.PIPE, env=environment, timeout=60
    )
    stages = {stage: take_median(found) for stage, found in loads.items()}
    return {"stages": stages, "calls": json.loads(calls.stdout)}


def tables(result: Result) -> list[Table]:
    """Return the report's tables."""
    totals = {stage: result["stages"][stage][_CPU] for stage in _LABELS}
    whole = totals["guest"]
    shares = {"http": totals["http"]} | {
        after: totals[after] - totals[before] for before, after in pairwise(totals)
    }
    rows = [
        (label, number(shares[stage]), f"{shares[stage] / whole:.0%}")
        for stage, label in _LABELS.items()
    ]
    calls = result["calls"]
    label = f"of it in {calls['host_calls']:.0f} host functions (in Python, timed in process)"
    rows += [
        (label, number(calls["host_functions_micros"]), ""),
        ("a request", number(whole), "100%"),
    ]
    columns = ("", "CPU us", "share")
    return [Table(f"Where a request goes ({_CONNECTIONS} connections)", columns, rows)]


def targets(result: Result) -> list[Target]:
    """No promise is about shares."""
    del result
    return []
