"""Code in a worker takes all that it can get, and its neighbour must not notice."""

from __future__ import annotations

import http.client
import json
import os
import statistics
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from attack_node import AttackNode, Group, outside, peak_bytes, process_of, reset_peak
from escaped_node import module
from guest_modules import grow, spin
from running_node import Load, pss_bytes, wait_for
from workloads import claim, http_app

from limpet.linux import cgroup

if TYPE_CHECKING:
    from collections.abc import Iterator

SPIN_SECONDS = float(os.environ.get("ATTACK_SPIN_SECONDS", "10"))
"""How long the processor is held: 10 s, and 60 s for the figure in docs/security.md."""

ALONE_SECONDS = 3.0

DATA = {"name": "data", "persistentVolumeClaim": {"claimName": "mine"}}


def needs(controller: str) -> None:
    host = cgroup.inspect_host()
    if controller not in host.controllers:
        pytest.skip(f"no limits of {controller} here: {host.missing[controller]}")


@pytest.fixture
def neighbour(node: AttackNode) -> Iterator[Load]:
    """An app next door that is asked all the time and must never miss an answer."""
    node.place_escaped("neighbour")
    with Load(node.port("neighbour"), path="/?run=nothing", clients=1, pause_seconds=0.02) as load:
        yield load
        load.wait_more(3)
    assert load.failures == []


# Memory


@pytest.mark.parametrize("what", ["fill_memory", "fill_memory_files"])
def test_memory_ends_at_the_limit(node: AttackNode, neighbour: Load, what: str) -> None:
    needs("memory")
    node.start_job("fat", what, megabytes=256, fields={"memory": "32Mi"})
    status = node.end_of("fat")
    assert status["reason"] == "OOMKilled", status
    [event] = node.events("fat", "OOMKilled")
    assert "memory limit, with " in event["message"]
    peak = float(event["message"].partition("with ")[2].partition(" MiB in use")[0])
    assert abs(peak - 32) < 32 * 0.05


def test_outside_a_worker_that_memory_can_be_had() -> None:
    """The control."""
    assert outside("fill_memory", {"megabytes": 64}).result == 64


def test_memory_below_the_limit_can_be_had(node: AttackNode) -> None:
    """The control, in a worker."""
    node.start_job("thin", "fill_memory", megabytes=16, fields={"memory": "32Mi"})
    assert node.end_of("thin")["phase"] == "Succeeded"


def test_a_guests_memory_ends_at_the_limit(node: AttackNode, neighbour: Load) -> None:
    node.place(grow(), http_app("fat", "grow", memory="32Mi"))
    node.wait_ready("fat")
    assert node.request("fat").status == 500
    assert node.request("fat").status == 500
    assert node.status("fat")["restarts"] == 0, "the engine refused it before the kernel had to"


# Processes and threads


def test_a_thread_bomb_stops_at_the_limit(node: AttackNode, neighbour: Load) -> None:
    needs("pids")
    node.place_escaped("bomb", annotations={"pids": "40"})
    count = node.run("bomb", "bomb", most=2000)
    assert 20 <= count < 40
    assert node.run("bomb", "nothing") is None, "it lives on"


def test_outside_a_worker_there_is_no_such_limit() -> None:
    assert outside("bomb", {"most": 200}).result == 200


# The disk


def test_a_volume_ends_at_its_size(node: AttackNode, neighbour: Load) -> None:
    node.apply(claim("mine", "24Mi"))
    node.place_escaped(
        "hog", volumes=[DATA], mounts={"/data": "data"}, annotations={"deadline": "60s"}
    )
    total, reason = node.run("hog", "fill", at=0)
    assert reason == "ENOSPC"
    assert abs(total - (24 << 20)) < (24 << 20) * 0.05


def test_a_volumes_files_end_somewhere(node: AttackNode, neighbour: Load) -> None:
    node.apply(claim("mine", "16Mi"))
    node.place_escaped(
        "hog", volumes=[DATA], mounts={"/data": "data"}, annotations={"deadline": "60s"}
    )
    count, reason = node.run("hog", "fill_inodes", at=0)
    assert reason == "ENOSPC"
    assert count < 100_000


@pytest.mark.parametrize("newline", [True, False])
def test_a_flood_of_log_is_slowed_down_and_bounded(
    node: AttackNode, neighbour: Load, *, newline: bool
) -> None:
    before = pss_bytes(node.pid("agent"))
    node.start_job("noisy", "write_log", megabytes=4, stream=1, newline=newline)
    began = time.monotonic()
    assert node.end_of("noisy")["phase"] == "Succeeded"
    took = time.monotonic() - began
    assert took > 1, "4 MiB at 1 MiB a second, of which one second's worth comes at once"
    kept = sum(len(line) for line in node.logs("noisy"))
    assert kept <= 1 << 20
    assert pss_bytes(node.pid("agent")) - before < 16 << 20


# The processor


def test_a_neighbour_is_served_while_the_processor_is_held(node: AttackNode) -> None:
    """Held natively by as many threads as there are processors and more."""
    needs("cpu")
    node.place_escaped("neighbour")
    port = node.port("neighbour")
    alone = _latencies(port, ALONE_SECONDS)
    node.place_escaped("hog", annotations={"deadline": "120s"})
    holding = threading.Thread(target=_hold, args=(node.port("hog"),))
    holding.start()
    group = _usage(node.worker_pid("hog"))
    beside = _latencies(port, SPIN_SECONDS)
    used = _usage(node.worker_pid("hog")) - group
    holding.join()
    figures = [
        f"p50 {_quantile(s, 50):.2f} ms, p99 {_quantile(s, 99):.2f} ms" for s in (alone, beside)
    ]
    print(f"alone: {figures[0]}; beside {used / SPIN_SECONDS:.2f} cores held: {figures[1]}")
    assert used / SPIN_SECONDS < 0.6, "the hog has its half core and no more"
    assert used / SPIN_SECONDS > 0.2, "the control: it did hold what it could get"
    assert _quantile(beside, 99) < max(100, 5 * _quantile(alone, 99)), "the neighbour waited"
    assert len(beside) / SPIN_SECONDS > len(alone) / ALONE_SECONDS / 3, "the neighbour was starved"


def _hold(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SPIN_SECONDS + 60)
    connection.request(
        "POST", "/?run=hold", json.dumps({"seconds": SPIN_SECONDS + 1, "threads": 4})
    )
    assert connection.getresponse().status == 200
    connection.close()


def _latencies(port: int, seconds: float) -> list[float]:
    """Ask over one connection, a hundred times a second at most; milliseconds."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    found = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.monotonic()
        connection.request("GET", "/?run=nothing")
        connection.getresponse().read()
        found.append((time.monotonic() - began) * 1e3)
        time.sleep(0.01)
    connection.close()
    return found


def _quantile(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100)[percent - 1]


def _usage(pid: int) -> float:
    """Processor seconds of a process and its threads."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_guest_that_spins_ends_at_its_deadline(node: AttackNode, neighbour: Load) -> None:
    node.place(spin(), http_app("spinner", "spin", annotations={"deadline": "500ms"}))
    node.wait_ready("spinner")
    assert [node.request("spinner").status for _ in range(3)] == [504, 504, 504]
    assert node.status("spinner")["restarts"] == 0


# Compiling


def verdict(node: AttackNode, words: str, seconds: float = 180) -> str:
    """Return the app's message once it holds these words."""
    wait_for(
        lambda: words in node.status("hostile")["message"], f"a message with {words!r}", seconds
    )
    return str(node.status("hostile")["message"])


def place_compiled(node: AttackNode, what: str, **arguments: Any) -> None:
    """Apply an app whose module takes over the compiler."""
    node.place(module("compiler", what, **arguments), http_app("hostile", "escaped"))


def test_a_compiler_that_is_taken_over_has_its_memory_limited(
    node: AttackNode, neighbour: Load
) -> None:
    needs("memory")
    place_compiled(node, "fill_memory", megabytes=8192)
    verdict(node, "memory limit, with 512.0 MiB in use")
    assert node.events("hostile", "InvalidModule")


def test_a_compiler_that_is_taken_over_has_its_threads_limited(
    node: AttackNode, neighbour: Load
) -> None:
    needs("pids")
    place_compiled(node, "bomb", most=5000)
    wait_for(lambda: node.status("hostile")["reason"] == "InvalidModule", "the verdict")
    assert int(node.status("hostile")["message"]) <= 16


def test_a_compiler_that_is_taken_over_has_its_processor_limited(
    node: AttackNode, neighbour: Load
) -> None:
    needs("cpu")
    place_compiled(node, "hold", seconds=3, threads=4)
    pid = process_of(node, "limpet-compile")
    wait_for(lambda: "compile" in Group(pid).directory("cpu").name, "its limits")
    group = Group(pid)
    wait_for(lambda: group.cpu_seconds() > 0.5, "some use")
    began, used = time.monotonic(), group.cpu_seconds()
    wait_for(lambda: time.monotonic() - began > 1.5, "a while")
    share = (group.cpu_seconds() - used) / (time.monotonic() - began)
    assert share < 1.2, "it has one core"


def test_a_compiler_that_is_taken_over_cannot_fill_the_agents_memory(node: AttackNode) -> None:
    agent = node.pid("agent")
    reset_peak(agent)
    before = peak_bytes(agent)
    notice = {"type": "Notice", "reason": "x", "message": "x" * 60_000}
    place_compiled(node, "tell_and_say", message=notice, times=1000)
    wait_for(lambda: node.status("hostile")["reason"] == "InvalidModule", "the verdict", 60)
    assert node.status("hostile")["message"] == '"done"', "the control: all of it was sent"
    grown = peak_bytes(agent) - before
    print(f"60 MB of messages, and the agent grew by {grown / 2**20:.1f} MiB")
    assert grown < 16 << 20, "messages that nobody reads are kept"


def test_a_compiler_that_is_taken_over_reaches_nothing(node: AttackNode) -> None:
    paths = [
        "/etc/passwd",
        str(node.data / "state.db"),
        f"{node.directory}/data.key",
        "/proc/self/maps",
    ]
    place_compiled(node, "read_paths", paths=paths)
    wait_for(lambda: node.status("hostile")["reason"] == "InvalidModule", "the verdict")
    found = json.loads(node.status("hostile")["message"])
    assert set(found.values()) <= {"ENOENT", "EACCES"}


@pytest.mark.parametrize("name", ["socket", "clone", "execve", "accept", "openat2", "mkdirat"])
def test_a_compiler_that_is_taken_over_is_killed_like_a_worker(node: AttackNode, name: str) -> None:
    """It has fewer calls than a worker: it serves nobody and has no volumes."""
    place_compiled(node, "call", name=name, args=[0, 0, 0])
    verdict(node, "killed for a system call")
    assert node.events("hostile", "InvalidModule")
