"""What a node writes to its disk: an eMMC wears out by that. Idle, and with apps that come and go.

Counted twice: by the kernel for the node's processes (proc(5), io, write_bytes), and on the block device,
where the file system's journal and metadata count as well. Days are extrapolated.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.client import time_first_byte
from benchmarks.disk import Disk, mounted
from benchmarks.node import Node
from benchmarks.report import Result, Table, Target, number

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from benchmarks.lab import Lab

_DAY_SECONDS = 86400.0
_RUNNING, _AT_ZERO = 5, 5
_SETTLE_SECONDS = 75.0  # what the start has written is on the disk, and the first backup is made
_PAUSE_SECONDS = 0.02
_WAKE_SECONDS = 10.0
_IDLE_MB = 5.0


def measure(lab: Lab) -> Result:
    """Return bytes per day."""
    with mounted(lab.folder / "writes") as disk, Node(disk.folder / "node") as node:
        ports = [node.deploy(f"runs-{index}") for index in range(_RUNNING)]
        resting = [node.deploy(f"rests-{index}", idle_timeout="1s") for index in range(_AT_ZERO)]
        for index in range(_RUNNING):
            node.wait_for(f"runs-{index}", "Running", workers=1)
        for index in range(_AT_ZERO):
            node.wait_for(f"rests-{index}", "Idle", workers=0)
        time.sleep(_SETTLE_SECONDS)
        seconds = lab.bounds.writing_seconds
        return {
            "seconds": seconds,
            "idle": _count(node, disk, lambda: time.sleep(seconds)),
            "busy": _count(node, disk, lambda: _ask(ports, seconds)),
            "waking": _count(node, disk, lambda: _wake(resting, seconds)),
        }


def _count(node: Node, disk: Disk, work: Callable[[], None]) -> dict[str, float]:
    """What is written while some work is done, in bytes a day."""
    processes, device, started = _written(node.processes), disk.written_bytes(), time.monotonic()
    work()
    device = disk.written_bytes() - device
    found = _written(node.processes)
    processes_bytes = sum(count - processes.get(pid, 0) for pid, count in found.items())
    per_day = _DAY_SECONDS / (time.monotonic() - started)
    return {"processes": processes_bytes * per_day, "device": device * per_day}


def _written(pids: Iterable[int]) -> dict[int, int]:
    found = {}
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            lines = Path(f"/proc/{pid}/io").read_text("ascii").splitlines()
            found[pid] = next(int(x.split()[1]) for x in lines if x.startswith("write_bytes:"))
    return found


def _ask(ports: list[int], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for port in ports:
            time_first_byte(port)
            time.sleep(_PAUSE_SECONDS)


def _wake(ports: list[int], seconds: float) -> None:
    """Ask apps that are scaled to zero: each start and each end is an event."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for port in ports:
            time_first_byte(port)
        time.sleep(_WAKE_SECONDS)


def tables(result: Result) -> list[Table]:
    """Return the report's tables."""
    labels = {
        "idle": f"idle: {_RUNNING} apps run, {_AT_ZERO} are scaled to zero, nobody asks",
        "busy": f"{_RUNNING} running apps are asked some 50 times a second",
        "waking": f"{_AT_ZERO} apps are started from zero every {_WAKE_SECONDS:.0f} s",
    }
    rows = [
        (label, *(number(result[key][way] / 1e6) for way in ("processes", "device")))
        for key, label in labels.items()
    ]
    title = f"Written a day, MB (from {result['seconds']:.0f} s each)"
    return [Table(title, ("", "by the node's processes", "on the device"), rows)]


def targets(result: Result) -> list[Target]:
    """Return the promise that this measurement is about."""
    found = result["idle"]["device"] / 1e6
    wanted = f"< {_IDLE_MB:.0f} MB"
    return [Target("written a day, idle", wanted, f"{number(found)} MB", found < _IDLE_MB)]
