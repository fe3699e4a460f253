"""Load by wrk, and what it cost the server."""

from __future__ import annotations

import re
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.processes import read_cpu_seconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_VARYING = Path(__file__).with_name("varying.lua")
_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One load's figures."""

    requests_per_second: float
    cpu_micros_per_request: float
    p50_milliseconds: float
    p99_milliseconds: float


def run_load(
    port: int,
    *,
    pids: Sequence[int],
    connections: int,
    seconds: float,
    cores: Iterable[int],
    is_varying: bool = False,
) -> Load:
    """Load a server whose processes these are, from these cores.

    Every request is the same, byte for byte, or with `is_varying` none like the one before.
    Raises RuntimeError when an answer was not a good one.
    """
    script = ["--script", str(_VARYING)] if is_varying else []
    before = read_cpu_seconds(pids)
    done = subprocess.run(
        [
            *("taskset", "-c", ",".join(map(str, cores))),
            *("wrk", "--threads", "1", "--connections", str(connections), "--latency"),
            *script,
            *("--duration", f"{max(1, round(seconds))}s", f"http://127.0.0.1:{port}/"),
        ],
        check=True,
        capture_output=True,
        text=True,
        timeout=seconds + 30,
    )
    spent = read_cpu_seconds(pids) - before
    text = done.stdout
    if "Non-2xx" in text or "Socket errors" in text:
        raise RuntimeError(f"not every request was answered well:\n{text}")
    requests = int(_find(r"(\d+) requests in", text)[0])
    return Load(
        requests_per_second=float(_find(r"Requests/sec:\s+([\d.]+)", text)[0]),
        cpu_micros_per_request=spent / requests * 1e6,
        p50_milliseconds=_percentile(text, 50),
        p99_milliseconds=_percentile(text, 99),
    )


def take_median(loads: Iterable[Load]) -> dict[str, float]:
    """The median round of each figure."""
    rounds = [asdict(load) for load in loads]
    return {name: median(figures[name] for figures in rounds) for name in rounds[0]}


def _percentile(text: str, percent: int) -> float:
    value, unit = _find(rf"{percent}%\s+([\d.]+)(us|ms|s)\b", text)
    return float(value) * _UNITS[unit]


def _find(pattern: str, text: str) -> tuple[str, ...]:
    found = re.search(pattern, text)
    if found is None:
        raise RuntimeError(f"can't read wrk's report:\n{text}")
    return found.groups()
