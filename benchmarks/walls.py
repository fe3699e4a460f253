"""What each wall around a new process takes, step by step, in forked children of a zygote-like parent.

Only the sealing is on the path of a cold start: the spare worker has the rest behind it.
"""

from __future__ import annotations

import os
import struct
import time
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.report import Result, Table, Target, number
from limpet.linux import landlock, namespaces, process, seccomp
from limpet.linux.cgroup import CgroupUnavailableError, Limits, open_hierarchy
from limpet.linux.landlock import Access
from limpet.worker.sandbox import APP, Wall, survey

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.lab import Lab

_UID = 1_900_000_000
_OWN = namespaces.CLONE_NEWNS | namespaces.CLONE_NEWIPC | namespaces.CLONE_NEWUTS
_TARGET_MICROS = 2000.0


def measure(lab: Lab) -> Result:
    """Return medians in microseconds by step; only those that this machine can take."""
    walls = survey()
    APP.program  # noqa: B018 - made before the fork, as in the zygote
    folder = os.open(lab.folder, os.O_RDONLY | os.O_DIRECTORY)
    steps: dict[str, Callable[[], None]] = {}
    if Wall.NAMESPACES in walls:
        steps["ahead: mount, ipc, uts namespaces"] = lambda: namespaces.unshare(_OWN)
        steps["ahead: an empty network namespace"] = lambda: namespaces.unshare(
            namespaces.CLONE_NEWNET
        )
    if Wall.EMPTY_ROOT in walls:
        steps["ahead: an empty root"] = namespaces.enter_empty_root
    if Wall.USER in walls:
        steps["ahead: own user, no capabilities"] = _become
    steps["ahead: no new privileges"] = process.set_no_new_privileges
    if Wall.LANDLOCK in walls:
        steps["start: Landlock with one volume"] = lambda: landlock.restrict(
            [(folder, Access.WRITE)]
        )
    if Wall.SECCOMP in walls:
        steps["start: seccomp"] = lambda: seccomp.install(APP.program)
    try:
        found = _time_steps(steps, lab.bounds.help_runs * 5)
    finally:
        os.close(folder)
    return found | _time_limits(lab.bounds.help_runs * 5)


def _become() -> None:
    process.drop_bounding_set()
    process.become_user(_UID, _UID)
    process.drop_capabilities()


def _time_steps(steps: dict[str, Callable[[], None]], count: int) -> dict[str, float]:
    times: list[tuple[float, ...]] = []
    layout = struct.Struct(f"{len(steps)}d")
    for _ in range(count):
        ours, theirs = os.pipe()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                taken = []
                for step in steps.values():
                    started = time.perf_counter()
                    step()
                    taken.append((time.perf_counter() - started) * 1e6)
                os.write(theirs, layout.pack(*taken))
                code = 0
            finally:
                os._exit(code)
        os.close(theirs)
        with os.fdopen(ours, "rb") as report:
            times.append(layout.unpack(report.read(layout.size)))
        os.waitpid(pid, 0)
    return {
        name: median(column) for name, column in zip(steps, zip(*times, strict=True), strict=True)
    }


def _time_limits(count: int) -> dict[str, float]:
    """The control group of a spare worker gets its limits when it is assigned."""
    try:
        hierarchy = open_hierarchy("limpet-benchmark")
    except CgroupUnavailableError:
        return {}
    try:
        group = hierarchy.create("spare", Limits())
        times = []
        for number_ in range(count):
            started = time.perf_counter()
            group.set_limits(Limits(cpu_cores=0.5, memory_bytes=(64 + number_) << 20, pids=64))
            times.append((time.perf_counter() - started) * 1e6)
        group.remove()
    finally:
        hierarchy.remove()
    return {"start: three limits": median(times)}


def tables(result: Result) -> list[Table]:
    """Return the report's tables."""
    rows = [(name, number(micros)) for name, micros in result.items()]
    rows.append(("at the start, together", number(_at_start(result))))
    title = "Walls, us (`ahead`: while the spare worker waits; `start`: part of a cold start)"
    return [Table(title, ("", "us"), rows)]


def targets(result: Result) -> list[Target]:
    """The promise: walls add at most 2 ms to a cold start."""
    found = _at_start(result)
    is_met = found <= _TARGET_MICROS
    wanted = f"<= {number(_TARGET_MICROS)} us"
    return [Target("walls at a cold start", wanted, f"{number(found)} us", is_met)]


def _at_start(result: Result) -> float:
    return sum(micros for name, micros in result.items() if name.startswith("start: "))
