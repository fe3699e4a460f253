"""What it costs clients that the agent is killed, or the whole node, with no network to come back by.

`peer` is the same death of the process that answers: `wasmtime serve`, started again by a shell's loop.
"""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from contextlib import suppress
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.client import get
from benchmarks.node import Node
from benchmarks.peer import serve_command
from benchmarks.processes import (
    PATIENCE_SECONDS,
    Process,
    descendants,
    free_port,
    name_of,
    wait_until,
)
from benchmarks.report import Result, Table, Target, number

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from benchmarks.lab import Lab

_CLIENTS = 4
_RETRY_SECONDS = 0.002
_AGENT = "limpet-agent"


class _Clients:
    """Clients that ask without a pause, each request over a connection of its own."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(_CLIENTS)]
        self.answered_at: list[float] = []
        self.failures = 0

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        self.wait_more(100)
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while not self._is_over.is_set():
            try:
                is_good = get(self._port).startswith(b"HTTP/1.1 200")
            except OSError:
                is_good = False
            if is_good:
                self.answered_at.append(time.monotonic())
            else:
                self.failures += 1
                time.sleep(_RETRY_SECONDS)

    def wait_more(self, count: int) -> None:
        goal = len(self.answered_at) + count
        wait_until(lambda: len(self.answered_at) >= goal, "further answers")

    def longest_pause(self, since: float) -> float:
        times = sorted([since, *(when for when in self.answered_at if when > since)])
        return max(after - before for before, after in itertools.pairwise(times))


def measure(lab: Lab) -> Result:
    """Return failed requests and pauses in seconds."""
    return {
        "agent": _kill_agents(lab),
        "peer": _kill_peer(lab),
        "reboot": [_reboot(lab, turn) for turn in range(lab.bounds.reboots)],
    }


def _kill_agents(lab: Lab) -> dict[str, float]:
    with Node(lab.folder / "agents") as node:
        port = node.deploy("served")
        node.wait_for("served", "Running", workers=1)
        worker = node.workers("served")

        def agent() -> int:
            return next((pid for pid in node.processes if name_of(pid) == _AGENT), 0)

        def is_back(dead: int) -> bool:
            with suppress(OSError):
                return agent() not in (0, dead) and bool(node.call("GET", "/v1/node")["engine"])
            return False

        def kill() -> None:
            victim = agent()
            os.kill(victim, signal.SIGKILL)
            wait_until(lambda: is_back(victim), "the next agent")

        figures = _disturb(port, kill, lab.bounds.agent_kills)
        if node.workers("served") != worker:
            raise RuntimeError("the worker did not outlive its agent")
    return figures


def _kill_peer(lab: Lab) -> dict[str, float]:
    port = free_port()
    command = " ".join(map(str, serve_command(lab, "fresh instances", port)))
    loop = ["sh", "-c", f"while true; do {command} >/dev/null 2>&1; done"]
    with Process(loop, log=lab.folder / "loop.log") as shell:

        def server() -> int:
            return next(iter(descendants(shell.pid)), 0)

        def kill() -> None:
            victim = server()
            os.kill(victim, signal.SIGKILL)
            wait_until(lambda: server() not in (0, victim), "the next server")

        wait_until(lambda: _answers(port), "wasmtime serve")
        figures = _disturb(port, kill, lab.bounds.agent_kills)
        os.kill(shell.pid, signal.SIGSTOP)  # so that it starts no further one
        os.kill(server(), signal.SIGKILL)
        os.kill(shell.pid, signal.SIGKILL)
    return figures


def _disturb(port: int, kill: Callable[[], None], kills: int) -> dict[str, float]:
    pauses = []
    with _Clients(port) as clients:
        for _ in range(kills):
            begun = time.monotonic()
            kill()
            clients.wait_more(200)
            pauses.append(clients.longest_pause(begun))
    return {
        "kills": kills,
        "answers": len(clients.answered_at),
        "failures": clients.failures,
        "median_pause_seconds": median(pauses),
        "longest_pause_seconds": max(pauses),
    }


def _answers(port: int) -> bool:
    with suppress(OSError):
        return get(port).startswith(b"HTTP/1.1 200")
    return False


def _reboot(lab: Lab, turn: int) -> dict[str, float]:
    """Kill everything, start again; seconds until the API and all apps answer."""
    folder = lab.folder / f"reboot-{turn}"
    count = lab.bounds.rebooted_apps
    with Node(folder) as node:
        ports = [node.deploy(f"app-{index}") for index in range(count)]
        for index in range(count):
            node.wait_for(f"app-{index}", "Running", workers=1)
        for pid in node.processes:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not any(_answers(port) for port in ports), "the end of all")
    begun = time.monotonic()
    with Node(folder, is_new=False) as node:
        up = time.monotonic() - begun
        waiting = set(ports)
        while waiting:
            waiting = {port for port in waiting if not _answers(port)}
            if time.monotonic() - begun > PATIENCE_SECONDS:
                raise TimeoutError(f"{len(waiting)} apps do not answer")
        return {"apps": count, "up_seconds": up, "all_seconds": time.monotonic() - begun}


def tables(result: Result) -> list[Table]:
    """Return the report's tables."""
    labels = {
        "agent": "Limpet: its agent is killed",
        "peer": "`wasmtime serve`: it is killed, a loop starts it again",
    }
    rows = [
        (
            label,
            str(result[name]["kills"]),
            str(result[name]["answers"]),
            str(result[name]["failures"]),
            number(result[name]["median_pause_seconds"] * 1e3),
            number(result[name]["longest_pause_seconds"] * 1e3),
        )
        for name, label in labels.items()
    ]
    reboots = result["reboot"]
    times = [
        (
            what,
            number(median(one[key] for one in reboots)),
            number(max(one[key] for one in reboots)),
        )
        for what, key in (
            ("the node's API answers", "up_seconds"),
            (f"all of {reboots[0]['apps']} apps have answered", "all_seconds"),
        )
    ]
    heads = ("", "kills", "answers", "failed", "median pause, ms", "longest pause, ms")
    return [
        Table("Deaths under load, four clients", heads, rows),
        Table(
            f"All of a node killed and started again, s ({len(reboots)} times)",
            ("from the start until", "median", "longest"),
            times,
        ),
    ]


def targets(result: Result) -> list[Target]:
    """Return the promises that this measurement is about."""
    agent, longest = result["agent"], max(one["all_seconds"] for one in result["reboot"])
    told = f"{agent['failures']} of {agent['answers'] + agent['failures']}"
    return [
        Target("failed requests as the agent is killed", "0", told, agent["failures"] == 0),
        Target("20 apps back after a restart", "<= 5 s", f"{number(longest)} s", longest <= 5),
    ]
