"""A real node with an engine that can be escaped, and the calls that the attack tests make to it."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import natives
from escaped_node import module
from running_node import PATIENCE_SECONDS, SOURCES, RunningNode, name_of, wait_for
from workloads import http_app, job

from limpet.linux import cgroup

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

HERE = Path(__file__).parent
Json = dict[str, Any]


class AttackNode(RunningNode):
    """A node that runs modules which escape, beside ordinary ones."""

    def __init__(self, directory: Path, environment: Mapping[str, str] | None = None) -> None:
        super().__init__(directory, environment)
        self._past: Counter[str] = Counter()

    def command(self) -> list[str]:
        options = ["--data", self.data, "--socket", self.socket_path, "--name", "test"]
        return [sys.executable, "-P", str(HERE / "escaped_node.py"), *map(str, options)]

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "PYTHONPATH": f"{SOURCES}:{HERE}"}

    def forget_events(self) -> None:
        """Leave out of `events` what has happened so far: objects' names are used again."""
        self._past = Counter(json.dumps(event) for event in self.client.events(limit=1000))

    def events(self, name: str | None = None, reason: str | None = None) -> list[Json]:
        past = self._past.copy()
        found = []
        for event in super().events(name, reason):
            text = json.dumps(event)
            if past[text]:
                past[text] -= 1
            else:
                found.append(event)
        return found

    def place_escaped(self, name: str, **fields: Any) -> None:
        """Start an HTTP app that runs native code on request, and wait for it."""
        self.place(module(), http_app(name, "escaped", **fields))
        self.wait_ready(name)

    def run(self, name: str, what: str, /, **arguments: Any) -> Any:
        """Run native code in a worker and return its result."""
        answer = self.request(
            name, f"/?run={what}", method="POST", body=json.dumps(arguments).encode()
        )
        assert answer.status == 200, (answer.status, answer.text, self.logs(name)[-20:])
        return json.loads(answer.body)

    def start_job(
        self, name: str, what: str, /, *, fields: Json | None = None, **arguments: Any
    ) -> None:
        """Run native code as a Job."""
        self.place(
            module(), job(name, "escaped", args=[what, json.dumps(arguments)], **(fields or {}))
        )

    def end_of(self, name: str, seconds: float = 3 * PATIENCE_SECONDS) -> Json:
        """Return the status of a Job that has ended."""
        wait_for(
            lambda: self.status(name)["phase"] in ("Failed", "Succeeded"), f"{name}'s end", seconds
        )
        return self.status(name)

    def worker_pid(self, name: str) -> int:
        [worker] = [each for each in self.status(name)["workers"] if each["pid"]]
        return int(worker["pid"])


def process_of(node: RunningNode, name: str) -> int:
    """Return the one process that calls itself so."""
    [pid] = wait_for(lambda: [pid for pid in node.pids() if name_of(pid) == name], name)
    return int(pid)


class Group:
    """The control group of a process of the node: what it may use and what it used."""

    def __init__(self, pid: int) -> None:
        self._paths = {}
        for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
            _, names, path = line.split(":", 2)
            for name in names.split(","):
                self._paths[name] = path
        host = cgroup.inspect_host()
        self._bases = host.bases
        self._is_v2 = host.version == 2

    def directory(self, controller: str) -> Path:
        """Where the controller's files of this group are."""
        if self._is_v2:
            return Path("/sys/fs/cgroup") / self._paths[""].lstrip("/")
        return Path(self._bases[controller]) / self._paths[controller].lstrip("/")

    def read(self, controller: str, file: str) -> str:
        return (self.directory(controller) / file).read_text().strip()

    def cpu_seconds(self) -> float:
        """Processor time that the group's processes had."""
        if self._is_v2:
            return self._cpu_stat("usage_usec") / 1e6
        return int(self.read("cpuacct", "cpuacct.usage")) / 1e9

    def cpu_periods(self) -> int:
        """Periods of the processor limit in which something ran."""
        return self._cpu_stat("nr_periods")

    def _cpu_stat(self, name: str) -> int:
        return int(dict(map(str.split, self.read("cpu", "cpu.stat").splitlines()))[name])

    def memory_peak_bytes(self) -> int:
        if self._is_v2:
            return int(self.read("memory", "memory.peak"))
        return int(self.read("memory", "memory.max_usage_in_bytes"))

    def limits(self) -> dict[str, str]:
        """The limits, as the kernel writes them."""
        files = {
            True: {"cpu": "cpu.max", "memory": "memory.max", "pids": "pids.max"},
            False: {
                "cpu": "cpu.cfs_quota_us",
                "memory": "memory.limit_in_bytes",
                "pids": "pids.max",
            },
        }[self._is_v2]
        return {controller: self.read(controller, file) for controller, file in files.items()}


@dataclass(frozen=True)
class Ending:
    """How native code ended outside a worker: with a result, or by a signal."""

    result: Any = None
    signal: int = 0


def outside(what: str, arguments: Mapping[str, Any], preopens: Sequence[int] = ()) -> Ending:
    """Run the same native code in a process without walls: the control of an attack."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            natives.preopens = list(preopens)
            os.write(writer, json.dumps(natives.run(what, dict(arguments))).encode())
            code = 0
        except BaseException as error:
            os.write(writer, json.dumps(repr(error)).encode())
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        said = stream.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code < 0:
        return Ending(signal=-code)
    return Ending(json.loads(said))


def is_denied(ending: Ending) -> bool:
    return ending.signal == signal.SIGSYS


def reset_peak(pid: int) -> None:
    """Let the count of a process's peak memory begin anew (proc_pid_clear_refs(5))."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_bytes(pid: int) -> int:
    return int(proc_status(pid)["VmHWM"].split()[0]) << 10


def proc_status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
