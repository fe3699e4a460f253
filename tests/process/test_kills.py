"""What a SIGKILL of each of the node's processes costs: clients, state, processes left behind."""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import signal
import threading
import time
from typing import TYPE_CHECKING

import pytest
from running_node import PATIENCE_SECONDS, Load, ask, established, is_alive, wait_for
from workloads import claim, command_app, config_map, http_app, job

from limpet.errors import LimpetError

if TYPE_CHECKING:
    from collections.abc import Callable

    from running_node import RunningNode

MOST_OUTAGE_SECONDS = 3.0


def prepared(node: RunningNode, *, workers: int) -> int:
    node.apply(http_app("served", "echo", annotations={"workers": str(workers)}))
    node.wait_ready("served")
    return node.port("served")


def kill_under_load(node: RunningNode, port: int, victim: int) -> Load:
    """Kill a process while four clients ask; return what they saw until all was well again."""
    with Load(port) as load:
        os.kill(victim, signal.SIGKILL)
        killed_at = time.monotonic()
        wait_for(lambda: not is_alive(victim), "the end")
        load.wait_more(50)
        wait_up(node)
        node.wait_ready("served")
        load.wait_more(50)
    outage = load.outage_seconds(killed_at)
    print(f"failed requests: {len(load.failures)}, longest outage: {outage * 1e3:.0f} ms")
    assert outage < MOST_OUTAGE_SECONDS
    return load


def wait_up(node: RunningNode) -> None:
    def is_up() -> bool:
        with contextlib.suppress(LimpetError):
            return bool(node.client.node()["engine"])
        return False

    wait_for(is_up, "the agent")


def check_no_leak(node: RunningNode, workers: int) -> None:
    wait_for(lambda: len(node.busy_pids()) == workers, f"{workers} workers, not more")
    for role in ("launcher", "agent", "zygote"):
        assert node.pid(role)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_worker(fresh_node: RunningNode, workers: int) -> None:
    port = prepared(fresh_node, workers=workers)
    load = kill_under_load(fresh_node, port, fresh_node.pids("served")[0])
    # Those that the worker had accepted die with it; there is one client for each of four.
    assert len(load.failures) <= 8, load.failures
    status = fresh_node.status("served")
    assert status["restarts"] == 1
    event = fresh_node.events("served", "Signal")[-1]
    assert "killed by SIGKILL; it starts again at once" in event["message"]
    assert event["type"] == "Warning"
    check_no_leak(fresh_node, workers)


def test_a_killed_zygote(fresh_node: RunningNode) -> None:
    port = prepared(fresh_node, workers=1)
    worker = fresh_node.pid("served")
    load = kill_under_load(fresh_node, port, fresh_node.pid("zygote"))
    assert load.failures == []
    assert fresh_node.pid("served") == worker
    event = wait_for(lambda: fresh_node.events(reason="ZygoteRestarted"), "the event")[-1]
    assert "signal 9" in event["message"]
    # A worker whose zygote is gone is still watched, and its successor comes from the new one.
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: fresh_node.pids("served") not in ([], [worker]), "the next worker")
    fresh_node.wait_ready("served")
    assert fresh_node.events("served", "Signal")
    assert ask(port).status == 200
    check_no_leak(fresh_node, 1)


def test_a_killed_zygote_while_apps_start(fresh_node: RunningNode) -> None:
    names = [f"app-{index}" for index in range(6)]
    fresh_node.apply(*(http_app(name, "echo") for name in names))
    os.kill(fresh_node.pid("zygote"), signal.SIGKILL)
    for name in names:
        fresh_node.wait_ready(name)
        assert fresh_node.request(name).status == 200
    check_no_leak(fresh_node, len(names))


def test_a_killed_agent(fresh_node: RunningNode) -> None:
    port = prepared(fresh_node, workers=1)
    agent, worker = fresh_node.pid("agent"), fresh_node.pid("served")
    load = kill_under_load(fresh_node, port, agent)
    assert load.failures == []
    event = wait_for(lambda: fresh_node.events(reason="AgentRestarted"), "the event")[-1]
    assert "signal 9" in event["message"]
    assert fresh_node.pid("served") == worker
    assert fresh_node.port("served") == port
    assert fresh_node.client.node()["processes"][1]["restarts"] == 1
    check_no_leak(fresh_node, 1)


def test_an_agent_killed_again_and_again(fresh_node: RunningNode) -> None:
    port = prepared(fresh_node, workers=1)
    with Load(port, clients=2) as load:
        for _ in range(3):
            agent = fresh_node.pid("agent")
            os.kill(agent, signal.SIGKILL)
            wait_for(lambda agent=agent: not is_alive(agent), "the agent's end")
            wait_for(lambda: fresh_node.pids("agent"), "the next agent")
            wait_up(fresh_node)
            fresh_node.wait_ready("served")
            load.wait_more(20)
    assert load.failures == []
    assert len(fresh_node.busy_pids()) == 1


def test_an_agent_that_dies_runs_no_command_anew(fresh_node: RunningNode) -> None:
    fresh_node.apply(command_app("ticking", "job_lines", env={"GUEST_MS": "10"}))
    fresh_node.wait_ready("ticking")
    first, agent = fresh_node.pid("ticking"), fresh_node.pid("agent")
    os.kill(agent, signal.SIGKILL)
    wait_for(lambda: fresh_node.pids("agent") not in ([], [agent]), "the next agent")
    wait_up(fresh_node)
    fresh_node.wait_ready("ticking")
    assert fresh_node.pids("ticking") == [first]


def test_a_killed_launcher_takes_everything_along(fresh_node: RunningNode) -> None:
    node = fresh_node
    prepared(node, workers=2)
    node.apply(command_app("ticking", "job_lines", env={"GUEST_MS": "10"}))
    node.apply(claim("kept"), config_map("settings", mode="fast"), job("done", "job_exit"))
    node.wait_phase("done", "Succeeded")
    before = sorted((item["kind"], item["name"]) for item in node.client.objects())
    os.kill(node.pid("launcher"), signal.SIGKILL)
    begun = time.monotonic()
    wait_for(lambda: not node.pids(), "the end of everything", 12)
    print(f"everything had ended after {time.monotonic() - begun:.1f} s")
    node.kill()
    node.start()
    after = sorted((item["kind"], item["name"]) for item in node.client.objects())
    assert after == before
    node.wait_ready("served")
    node.wait_ready("ticking")
    assert node.status("done")["phase"] == "Succeeded"
    assert node.request("served").status == 200


def test_what_was_acknowledged_is_there_after_a_kill(
    make_node: Callable[..., RunningNode],
) -> None:
    node = make_node()
    acknowledged: list[str] = []
    chance = random.Random(1)
    for round_number in range(10):
        node.start()
        present = {item["name"] for item in node.client.objects(kind="ConfigMap")}
        assert set(acknowledged) <= present, "an acknowledged object is lost"
        stopping = threading.Event()

        def apply(number: int = round_number, stopping: threading.Event = stopping) -> None:
            for index in range(10_000):
                name = f"m-{number}-{index}"
                with contextlib.suppress(LimpetError):
                    node.apply(config_map(name, a="1"))
                    acknowledged.append(name)
                if stopping.is_set():
                    return

        applying = threading.Thread(target=apply)
        count = len(acknowledged)
        applying.start()
        wait_for(lambda count=count: len(acknowledged) > count, "the first of this round")
        stopping.wait(chance.random() * 0.1)
        node.kill()
        stopping.set()
        applying.join(PATIENCE_SECONDS)
    node.start()
    present = {item["name"] for item in node.client.objects(kind="ConfigMap")}
    assert set(acknowledged) <= present
    print(f"{len(acknowledged)} acknowledged objects survived 10 kills")
    node.stop()


def test_a_deletion_that_was_acknowledged_stays_one(make_node: Callable[..., RunningNode]) -> None:
    node = make_node()
    node.start()
    node.apply(http_app("gone", "echo"), config_map("gone-too", a="1"))
    node.wait_ready("gone")
    node.delete("Deployment", "gone")
    node.delete("ConfigMap", "gone-too")
    node.kill()
    node.start()
    assert node.client.objects() == []
    assert node.is_gone("gone")
    node.stop()


def test_a_failing_app_outlives_its_agent(fresh_node: RunningNode) -> None:
    """Its failures go to a log that nobody reads for a while."""
    fresh_node.apply(http_app("failing", "exit_code"))
    fresh_node.wait_ready("failing")
    port = fresh_node.port("failing")
    stopping = threading.Event()
    answers: list[object] = []

    def call() -> None:
        while not stopping.is_set():
            try:
                answers.append(ask(port).status)
            except (OSError, http.client.HTTPException) as error:
                answers.append(error)

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            agent = fresh_node.pid("agent")
            os.kill(agent, signal.SIGKILL)
            wait_for(lambda agent=agent: fresh_node.pids("agent") not in ([], [agent]), "the next")
            wait_up(fresh_node)
    finally:
        stopping.set()
        for thread in threads:
            thread.join()
    assert set(answers) == {500}
    assert len(fresh_node.busy_pids()) == 1


def test_a_handler_that_computes_ends_at_its_deadline_without_a_launcher(
    fresh_node: RunningNode,
) -> None:
    node = fresh_node
    node.apply(http_app("endless", "loop", annotations={"deadline": "2s"}))
    node.wait_ready("endless")
    port = node.port("endless")
    caller = threading.Thread(target=lambda: call_in_vain(port))
    caller.start()
    wait_for(lambda: established(port), "the request")
    os.kill(node.pid("launcher"), signal.SIGKILL)
    begun = time.monotonic()
    wait_for(lambda: not node.pids(), "the end of everything", 15)
    print(f"everything had ended after {time.monotonic() - begun:.1f} s")
    caller.join()
    node.kill()
    node.start()
    node.wait_ready("endless")


def call_in_vain(port: int) -> None:
    with contextlib.suppress(OSError, http.client.HTTPException):
        ask(port)
