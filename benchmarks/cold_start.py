"""From an app scaled to zero to the first byte of its answer, beside starting a process for it.

All kinds take turns, so that whatever else the machine does meets them alike.
"""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from benchmarks.client import time_first_byte
from benchmarks.node import Node
from benchmarks.peer import serve_command
from benchmarks.processes import PATIENCE_SECONDS, free_port
from benchmarks.report import Result, Table, Target, number

if TYPE_CHECKING:
    from benchmarks.lab import Lab

_APP = "cold"
_SECOND_APP = "second"
_IDLE_TIMEOUT = "100ms"
_SETTLE_SECONDS = 0.05
_RETRY_SECONDS = 0.0001
_CGI = "print('Content-Type: text/plain\\n\\nHello, world!', flush=True)"


def measure(lab: Lab) -> Result:
    """Return seconds by kind."""
    kinds: dict[str, list[float]] = {
        "limpet": [],
        "worker": [],
        "second": [],
        "warm": [],
        "peer": [],
        "python": [],
    }
    with Node(lab.folder / "cold") as node:
        warm_port = node.deploy("warm")
        node.wait_for("warm", "Running", workers=1)
        port = node.deploy(_APP, idle_timeout=_IDLE_TIMEOUT)
        second_port = node.deploy(_SECOND_APP, idle_timeout=_IDLE_TIMEOUT)
        for _ in range(lab.bounds.cold_starts):
            node.wait_for(_APP, "Idle", workers=0)
            node.wait_for(_SECOND_APP, "Idle", workers=0)
            time.sleep(_SETTLE_SECONDS)
            kinds["limpet"].append(time_first_byte(port))
            kinds["second"].append(time_first_byte(second_port))
            kinds["warm"].append(time_first_byte(warm_port))
            kinds["worker"].append(_worker_seconds(node))
            kinds["peer"].append(_time_peer(lab))
            kinds["python"].append(_time_python())
    return {name: describe(seconds) for name, seconds in kinds.items()}


def _worker_seconds(node: Node) -> float:
    """What the new worker says it took until it was ready; it is told just after the answer."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        status = node.app(_APP)
        if status["ready"] or status["phase"] == "Idle":
            return float(status["cold_start_milliseconds"]["last"]) / 1e3
        time.sleep(0.001)
    raise TimeoutError("the worker never became ready")


def _time_peer(lab: Lab) -> float:
    port = free_port()
    command = serve_command(lab, "fresh instances", port)
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:
            with suppress(ConnectionRefusedError):
                time_first_byte(port)
                return time.perf_counter() - started
            if process.poll() is not None or time.perf_counter() - started > PATIENCE_SECONDS:
                raise RuntimeError("wasmtime serve did not start")
            time.sleep(_RETRY_SECONDS)
    finally:
        process.kill()
        process.wait()


def _time_python() -> float:
    started = time.perf_counter()
    with subprocess.Popen([sys.executable, "-c", _CGI], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None, "it is a pipe"
        process.stdout.read(1)
        seconds = time.perf_counter() - started
        process.stdout.read()
        return seconds


def describe(seconds: list[float]) -> dict[str, Any]:
    """How many they are, and their percentiles in milliseconds."""
    ordered = sorted(seconds)
    last = len(ordered) - 1
    percentiles = {f"p{p}_milliseconds": ordered[round(last * p / 100)] * 1e3 for p in (50, 90, 99)}
    return {"count": len(ordered), **percentiles}


_ROWS = {
    "limpet": "Limpet: connect to an app scaled to zero, to the first byte",
    "worker": "of it, in the new worker until it is ready, its first answer included",
    "second": "Limpet: another app scaled to zero, asked right after that first byte",
    "warm": "Limpet: the same client, an app that runs",
    "peer": "`wasmtime serve`: start the process (precompiled component), to the first byte",
    "python": "`python -c print(...)` as a CGI program, to the first byte",
}


def tables(result: Result) -> list[Table]:
    """Return the report's tables."""
    rows = [
        (label, *(number(result[name][f"p{p}_milliseconds"]) for p in (50, 90, 99)))
        for name, label in _ROWS.items()
    ]
    count = result["limpet"]["count"]
    return [Table(f"Cold start, ms ({count} of each)", ("", "p50", "p90", "p99"), rows)]


def targets(result: Result) -> list[Target]:
    """Return the promises that this measurement is about."""
    p50, p99 = result["limpet"]["p50_milliseconds"], result["limpet"]["p99_milliseconds"]
    return [
        Target("cold start p50", "<= 5 ms", f"{number(p50)} ms", p50 <= 5),
        Target("cold start p99", "<= 20 ms", f"{number(p99)} ms", p99 <= 20),
    ]
