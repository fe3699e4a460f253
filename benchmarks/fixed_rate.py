"""Latency at 1000 requests a second, as clients see it who do not wait for one another."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import ExitStack
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.lab import CLIENT_CORE, ROOT, SERVER_CORE
from benchmarks.node import Node
from benchmarks.peer import Peer
from benchmarks.processes import pin
from benchmarks.report import Result, Table, Target, number

if TYPE_CHECKING:
    from benchmarks.lab import Lab

_RATE = 1000
_CONNECTIONS = 16
_APP = "paced"
_LIMPET = "Limpet"
_TARGET_MILLISECONDS = 1.0


def measure(lab: Lab) -> Result:
    """Return percentiles by server, each on one core, the client on the other."""
    with ExitStack() as stack:
        node = stack.enter_context(Node(lab.folder / "paced"))
        own_port = node.deploy(_APP)
        node.wait_for(_APP, "Running", workers=1)
        pin(node.workers(_APP), [SERVER_CORE])
        servers = {_LIMPET: own_port}
        for mode in ("fresh instances", "fresh instances, pooling"):
            peer = stack.enter_context(Peer(lab, mode, cores=[SERVER_CORE]))
            servers[f"`wasmtime serve`, {mode}"] = peer.port
        found: dict[str, list[dict[str, float]]] = {name: [] for name in servers}
        for _ in range(lab.bounds.rounds):
            for name, port in servers.items():
                found[name].append(_run(port, lab.bounds.paced_seconds))
        return {name: _take_median(rounds) for name, rounds in found.items()}


def _take_median(rounds: list[dict[str, float]]) -> dict[str, float]:
    return {name: median(figures[name] for figures in rounds) for name in rounds[0]}


def _run(port: int, seconds: float) -> dict[str, float]:
    done = subprocess.run(
        [
            *("taskset", "-c", str(CLIENT_CORE), sys.executable, "-m", "benchmarks.pacer"),
            *(str(port), str(_RATE), str(seconds), str(_CONNECTIONS)),
        ],
        check=True,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        timeout=seconds + 30,
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def tables(result: Result) -> list[Table]:
    """Return the report's tables."""
    names = ("p50", "p99", "p99_9", "sent_late_p99")
    rows = [
        (server, *(number(figures[f"{name}_milliseconds"]) for name in names))
        for server, figures in result.items()
    ]
    columns = ("", "p50", "p99", "p99.9", "client itself late, p99")
    return [Table(f"Latency at {_RATE} requests/s, ms", columns, rows)]


def targets(result: Result) -> list[Target]:
    """Return the promises that this measurement is about."""
    p99 = result[_LIMPET]["p99_milliseconds"]
    found = f"{number(p99)} ms"
    return [Target("p99 at 1000 requests/s", "< 1 ms", found, p99 < _TARGET_MILLISECONDS)]
