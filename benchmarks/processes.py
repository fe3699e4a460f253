"""Other processes as the kernel counts them (proc(5)): time, memory, cores."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Self

_TICK_SECONDS = 1 / os.sysconf("SC_CLK_TCK")
PATIENCE_SECONDS = 30.0


class Process:
    """A process that is there for a `with` block."""

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        log: Path,
        environment: Mapping[str, str] | None = None,
        cores: Iterable[int] | None = None,
    ) -> None:
        names = "" if cores is None else ",".join(str(core) for core in cores)
        self._command = [*(["taskset", "-c", names] if names else []), *map(str, command)]
        self._log = log
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    @property
    def pid(self) -> int:
        """Its number."""
        assert self._process is not None, "it is started by `with`"
        return self._process.pid

    def check(self) -> None:
        """Raise RuntimeError, with its last words, when it has ended."""
        assert self._process is not None, "it is started by `with`"
        if self._process.poll() is not None:
            text = self._log.read_text("utf-8", "replace")[-2000:]
            raise RuntimeError(f"{self._command[0]} ended with {self._process.returncode}:\n{text}")


@dataclass(frozen=True, slots=True)
class Memory:
    """Proportional set size, the part of it that is no file's, and unique set size."""

    pss_bytes: int
    anonymous_bytes: int
    uss_bytes: int


def read_memory(pids: Iterable[int]) -> Memory:
    """Add up what these processes occupy."""
    pss = anonymous = uss = 0
    for pid in pids:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines()[1:]
        sizes = {name: int(rest.split()[0]) for name, _, rest in (x.partition(":") for x in lines)}
        pss += sizes["Pss"] << 10
        anonymous += sizes["Pss_Anon"] << 10
        uss += sizes["Private_Clean"] + sizes["Private_Dirty"] << 10
    return Memory(pss, anonymous, uss)


def read_cpu_seconds(pids: Iterable[int]) -> float:
    """Add up the processor time of these processes and of all that they have started."""
    total = 0.0
    for pid in pids:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
        fields = stat.rpartition(")")[2].split()
        total += sum(int(ticks) for ticks in fields[11:15]) * _TICK_SECONDS
        total += read_cpu_seconds(children(pid))
    return total


def children(pid: int) -> list[int]:
    """The processes that this one has started and that still run."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, task.read_text("ascii").split())
    return found


def descendants(pid: int) -> list[int]:
    """Children, their children and so on."""
    return [number for child in children(pid) for number in (child, *descendants(child))]


def name_of(pid: int) -> str:
    """What a process calls itself; empty when it is gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text("utf-8", "replace").strip()
    return ""


def pin(pids: Iterable[int], cores: Iterable[int]) -> None:
    """Let all threads of these processes run on these cores only."""
    wanted = set(cores)
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), wanted)


def free_port() -> int:
    """A port of the loopback that nobody has at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], object], what: str, *, pause_seconds: float = 0.01) -> None:
    """Wait for a condition. Raises TimeoutError."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited in vain for {what}")
        time.sleep(pause_seconds)
