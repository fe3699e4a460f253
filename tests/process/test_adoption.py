"""Workers outlive their agent: what an agent's death costs clients, and what the next one knows."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import signal
import socket
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from running_node import Load, ask, established, is_alive, wait_for
from workloads import claim, command_app, http_app, job

from limpet.errors import LimpetError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from running_node import RunningNode

TICKING = {"GUEST_MS": "10"}


def wait_up(node: RunningNode, *, after: int) -> None:
    """Wait until an agent answers that is not the one `after`."""

    def is_up() -> bool:
        with contextlib.suppress(LimpetError):
            return bool(node.client.node()["engine"]) and node.pids("agent") not in ([], [after])
        return False

    wait_for(is_up, "the next agent")


def kill_agent(node: RunningNode) -> None:
    agent = node.pid("agent")
    os.kill(agent, signal.SIGKILL)
    wait_up(node, after=agent)


@contextmanager
def no_agent(node: RunningNode) -> Iterator[None]:
    """A while without an agent: the launcher, which would start the next one, rests."""
    launcher, agent = node.pid("launcher"), node.pid("agent")
    os.kill(launcher, signal.SIGSTOP)
    try:
        os.kill(agent, signal.SIGKILL)
        wait_for(lambda: not is_alive(agent), "the agent's end")
        wait_for(lambda: not node.pids("zygote"), "the zygote's end")
        yield
    finally:
        os.kill(launcher, signal.SIGCONT)
    wait_up(node, after=agent)


def wait_round(node: RunningNode, name: str, number: int) -> None:
    """Wait until the app's workers are those of this round; one that is replaced may yet answer."""

    def is_new() -> bool:
        with contextlib.suppress(OSError):
            return node.request(name).variables()["ROUND"] == str(number)
        return False

    wait_for(is_new, f"round {number} of {name}")


def open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def test_ten_thousand_requests_and_none_fails(fresh_node: RunningNode) -> None:
    node = fresh_node
    node.apply(http_app("served", "echo"))
    node.wait_ready("served")
    worker, kills = node.pid("served"), 0
    with Load(node.port("served")) as load:
        while len(load.ended_at) < 10_000:
            goal = len(load.ended_at) + 1_000
            kill_agent(node)
            kills += 1
            wait_for(lambda goal=goal: len(load.ended_at) >= goal, "a thousand answers", 60)
    assert load.failures == []
    print(f"{len(load.ended_at)} answers, {kills} agents killed, none failed")
    assert node.pid("served") == worker
    status = node.wait_ready("served")
    assert status["restarts"] == 0
    assert status["workers"][0]["pid"] == worker


def test_what_is_known_of_an_app_stays_known(fresh_node: RunningNode) -> None:
    node = fresh_node
    node.apply(
        http_app("served", "echo", replicas=2), command_app("ticking", "job_lines", env=TICKING)
    )
    for name in ("served", "ticking"):
        node.wait_ready(name)
    os.kill(node.pid("ticking"), signal.SIGKILL)
    wait_for(lambda: node.status("ticking")["restarts"] == 1, "the restart")
    node.wait_ready("ticking")
    for _ in range(10):
        assert node.request("served").status == 200
    before = {name: node.status(name) for name in ("served", "ticking")}
    for _ in range(2):
        kill_agent(node)
        for name, known in before.items():
            status = node.wait_ready(name)
            assert status["restarts"] == known["restarts"]
            for worker, was in zip(status["workers"], known["workers"], strict=True):
                assert {k: worker[k] for k in ("pid", "started_at", "restarts", "state")} == {
                    k: was[k] for k in ("pid", "started_at", "restarts", "state")
                }
    wait_for(lambda: node.status("served")["requests"]["total"] == 10, "the count of requests")
    events = node.events(reason="AgentRestarted")
    assert any("3 workers went on" in event["message"] for event in events)
    # Their ends are seen as ever, also by an agent that did not start them.
    os.kill(node.pid("ticking"), signal.SIGKILL)
    wait_for(lambda: node.status("ticking")["restarts"] == 2, "the next restart")


def test_a_log_goes_on(fresh_node: RunningNode) -> None:
    node = fresh_node
    node.apply(command_app("ticking", "job_lines", env=TICKING))
    node.wait_ready("ticking")
    kill_agent(node)
    last = int(wait_for(lambda: node.logs("ticking", tail=1), "a line")[0].split()[1])
    wait_for(lambda: f"line {last + 20}" in node.logs("ticking", tail=50), "the lines after it")
    with no_agent(node):
        pass
    wait_for(lambda: node.logs("ticking"), "the log")
    seen = [int(line.split()[1]) for line in node.logs("ticking", tail=30)]
    assert seen == sorted(set(seen)), "one run, each line once"


def test_an_agent_killed_during_rollouts(fresh_node: RunningNode) -> None:
    node, chance = fresh_node, random.Random(3)
    node.apply(http_app("served", "echo", replicas=2, env={"ROUND": "0"}))
    node.wait_ready("served")
    with Load(node.port("served"), clients=2) as load:
        for number in range(1, 9):
            (result,) = node.apply(
                http_app("served", "echo", replicas=2, env={"ROUND": str(number)})
            )
            assert result["action"] == "configured"
            threading.Event().wait(chance.random() * 0.15)
            kill_agent(node)
            node.wait_ready("served", generation=number + 1)
            wait_round(node, "served", number)
            wait_for(lambda: len(node.pids("served")) == 2, "two workers, not more")
        load.wait_more()
    assert load.failures == []


def test_an_agent_killed_while_workers_start(fresh_node: RunningNode) -> None:
    node, chance = fresh_node, random.Random(5)
    names = [f"app-{index}" for index in range(4)]
    for number in range(6):
        node.apply(*(http_app(name, "echo", env={"ROUND": str(number)}) for name in names))
        threading.Event().wait(chance.random() * 0.08)
        kill_agent(node)
        for name in names:
            node.wait_ready(name, generation=number + 1)
            wait_round(node, name, number)
        wait_for(lambda: len(node.busy_pids()) == len(names), "one worker for each app", 15)
    launcher, agent = node.pid("launcher"), node.pid("agent")
    held = open_files(launcher), open_files(agent)
    for name in names:
        node.delete("Deployment", name)
    wait_for(lambda: all(node.is_gone(name) for name in names), "the apps' end")
    wait_for(lambda: open_files(launcher) <= held[0] - 4 * len(names), "the launcher's copies' end")
    assert not node.busy_pids()


def test_agents_killed_one_after_another_at_once(fresh_node: RunningNode) -> None:
    node = fresh_node
    node.apply(http_app("served", "echo"), command_app("ticking", "job_lines", env=TICKING))
    for name in ("served", "ticking"):
        node.wait_ready(name)
    workers = node.pid("served"), node.pid("ticking")
    with Load(node.port("served"), clients=2) as load:
        for _ in range(4):  # none of them gets far
            agent = node.pid("agent")
            os.kill(agent, signal.SIGKILL)
            wait_for(lambda agent=agent: node.pids("agent") not in ([], [agent]), "the next agent")
        wait_up(node, after=0)
        for name in ("served", "ticking"):
            node.wait_ready(name)
        load.wait_more()
    assert load.failures == []
    assert (node.pid("served"), node.pid("ticking")) == workers


@pytest.mark.parametrize("code", [0, 3])
def test_a_job_that_ends_while_there_is_no_agent(fresh_node: RunningNode, code: int) -> None:
    node = fresh_node
    node.apply(job("ending", "job_exit", env={"GUEST_MS": "1000", "GUEST_N": str(code)}))
    node.wait_ready("ending")
    worker = node.pid("ending")
    wait_for(lambda: node.logs("ending") == ["started"], "its first line, which is written then")
    with no_agent(node):
        wait_for(lambda: not is_alive(worker), "the job's end")
    status = node.wait_phase("ending", "Failed" if code else "Succeeded")
    assert status["workers"][0]["last_exit"]["exit_code"] == code
    assert status["restarts"] == 0
    wait_for(lambda: "ending" in node.logs("ending"), "its last line")
    assert node.logs("ending").count("started") == 1
    kill_agent(node)
    assert node.status("ending")["phase"] == ("Failed" if code else "Succeeded")


def test_a_worker_killed_while_there_is_no_agent(fresh_node: RunningNode) -> None:
    node = fresh_node
    node.apply(http_app("served", "echo"))
    node.wait_ready("served")
    worker = node.pid("served")
    with no_agent(node):
        os.kill(worker, signal.SIGKILL)
        wait_for(lambda: not is_alive(worker), "the worker's end")
    wait_for(lambda: node.pids("served") not in ([], [worker]), "the next worker")
    status = node.wait_ready("served")
    assert status["restarts"] == 1
    assert "killed by SIGKILL" in node.events("served", "Signal")[-1]["message"]
    assert node.request("served").status == 200


def test_an_app_deleted_just_before_the_kill(fresh_node: RunningNode) -> None:
    """What drains goes on draining, with the grace period that it had."""
    node = fresh_node
    node.apply(http_app("gone", "sleep", grace_seconds=5, env={"GUEST_MS": "1500"}))
    node.wait_ready("gone")
    port, answers = node.port("gone"), []
    caller = threading.Thread(target=lambda: answers.append(ask(port).status))
    caller.start()
    worker = node.pid("gone")
    wait_for(lambda: established(port), "the request")
    node.delete("Deployment", "gone")
    kill_agent(node)
    caller.join()
    assert answers == [200]
    wait_for(lambda: not is_alive(worker), "its end")
    wait_for(lambda: not node.busy_pids(), "the end of all")


def test_an_app_that_rests_goes_on_to_rest_and_to_wake(fresh_node: RunningNode) -> None:
    node = fresh_node
    node.apply(http_app("rested", "echo", annotations={"idle-timeout": "4s"}))
    node.wait_phase("rested", "Idle")
    kill_agent(node)
    node.wait_phase("rested", "Idle")
    assert node.request("rested").status == 200
    worker = node.pid("rested")
    wait_for(lambda: node.status("rested")["ready"] == 1, "the worker")
    kill_agent(node)
    assert node.pid("rested") == worker, "it is still wanted"
    assert node.request("rested").status == 200
    node.wait_phase("rested", "Idle")
    wait_for(lambda: not is_alive(worker), "its end")
    status = node.status("rested")
    assert status["requests"]["total"] == 2
    assert status["restarts"] == 0


def test_an_app_that_was_woken_just_now(fresh_node: RunningNode) -> None:
    """The launcher does not know its worker yet, which answers nevertheless, and ends."""
    node = fresh_node
    node.apply(http_app("rested", "echo", annotations={"idle-timeout": "300ms"}))
    for _ in range(5):
        node.wait_phase("rested", "Idle")
        wait_for(lambda: not node.busy_pids(), "the worker's end", 10)
        agent, port = node.pid("agent"), node.port("rested")
        assert ask(port).status == 200
        os.kill(agent, signal.SIGKILL)
        assert ask(port).status == 200
        wait_up(node, after=agent)
    assert node.status("rested")["restarts"] == 0


def test_an_idle_app_that_nobody_hears_for_long(fresh_node: RunningNode) -> None:
    """It says again and again that it is idle: more often than its channel holds."""
    node = fresh_node
    node.apply(http_app("rested", "echo", annotations={"idle-timeout": "200ms"}))
    node.wait_phase("rested", "Idle")
    port = node.port("rested")
    with Load(port, clients=1, pause_seconds=0.05):  # so that it is known to the launcher
        wait_for(lambda: node.status("rested")["ready"] == 1, "the worker")
        worker = node.pid("rested")
        launcher, agent = node.pid("launcher"), node.pid("agent")
        os.kill(launcher, signal.SIGSTOP)
        os.kill(agent, signal.SIGKILL)
    threading.Event().wait(15 * 0.2)
    assert ask(port).status == 200
    assert is_alive(worker)
    os.kill(launcher, signal.SIGCONT)
    wait_up(node, after=agent)
    node.wait_phase("rested", "Idle")
    wait_for(lambda: not is_alive(worker), "its end")
    assert node.status("rested")["restarts"] == 0
    assert ask(port).status == 200


def test_an_app_connects_out_across_agents(fresh_node: RunningNode) -> None:
    with socket.create_server(("127.0.0.1", 0)) as greeter:
        number = greeter.getsockname()[1]

        def greet() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = greeter.accept()
                    with client:
                        client.sendall(b"hello")

        greeting = threading.Thread(target=greet, daemon=True)
        greeting.start()
        node = fresh_node
        egress = f"127.0.0.1:{number}"
        node.apply(http_app("calling", "dial", annotations={"egress": egress}))
        node.wait_ready("calling")
        port, answers = node.port("calling"), []
        assert "hello" in ask(port, f"/?port={number}").text
        with no_agent(node):
            caller = threading.Thread(
                target=lambda: answers.append(ask(port, f"/?port={number}").text)
            )
            caller.start()
            wait_for(lambda: established(port), "the request")
        caller.join()
        assert "hello" in answers[0]
        assert "hello" in ask(port, f"/?port={number}").text
        greeter.shutdown(socket.SHUT_RDWR)


def test_probes_and_limits_hold_across_agents(fresh_node: RunningNode) -> None:
    node = fresh_node
    probe = {"httpGet": {"path": "/", "port": 80}, "periodSeconds": 1, "failureThreshold": 2}
    late = {**probe, "initialDelaySeconds": 2}
    fields = {"livenessProbe": probe, "readinessProbe": late, "startupProbe": probe}
    node.apply(http_app("probed", "echo", memory="64Mi", ports=[{"containerPort": 80}], **fields))
    node.wait_ready("probed")
    worker = node.pid("probed")
    groups = Path(f"/proc/{worker}/cgroup").read_text()
    kill_agent(node)
    begun = [node.wait_ready("probed")["workers"][0]["pid"], node.pid("probed")]
    assert begun == [worker, worker]
    assert Path(f"/proc/{worker}/cgroup").read_text() == groups
    os.kill(worker, signal.SIGSTOP)
    event = wait_for(lambda: node.events("probed", "Unhealthy"), "the probe's failure")[-1]
    assert "liveness probe failed" in event["message"]
    wait_for(lambda: node.pids("probed") not in ([], [worker]), "the next worker")
    node.wait_ready("probed")


def test_a_worker_that_was_not_ready_is_not_taken_for_one_that_is(fresh_node: RunningNode) -> None:
    node = fresh_node
    probe = {"httpGet": {"path": "/", "port": 80}, "periodSeconds": 1}
    probed = {"readinessProbe": probe, "ports": [{"containerPort": 80}]}
    node.apply(http_app("probed", "echo", **probed))
    node.wait_ready("probed")
    node.apply(http_app("probed", "exit_code", **probed))  # it answers no probe
    wait_for(lambda: len(node.status("probed")["workers"]) == 2, "the second release's worker")
    wait_for(lambda: len(node.events("probed", "Started")) == 2, "it to be loaded")
    with Load(node.port("probed")) as load:
        for _ in range(2):
            kill_agent(node)
            wait_for(lambda: len(node.status("probed")["workers"]) == 2, "both to be adopted")
            load.wait_more(50)
        assert node.status("probed")["rollout"]["status"] == "progressing"
    assert load.failures == []


def test_a_volume_has_one_writer_across_agents(fresh_node: RunningNode) -> None:
    node = fresh_node
    volume = [{"name": "v", "persistentVolumeClaim": {"claimName": "kept"}}]
    node.apply(
        claim("kept"),
        http_app("writing", "echo", volumes=volume, mounts={"/data": "v"}, env={"ROUND": "0"}),
    )
    node.wait_ready("writing")
    worker = node.pid("writing")
    kill_agent(node)
    node.wait_ready("writing")
    assert node.pids("writing") == [worker]
    node.apply(
        http_app("writing", "echo", volumes=volume, mounts={"/data": "v"}, env={"ROUND": "1"})
    )
    wait_round(node, "writing", 1)
    assert not is_alive(worker)


def test_a_killed_zygote_and_a_killed_worker_after_an_adoption(fresh_node: RunningNode) -> None:
    node = fresh_node
    node.apply(http_app("served", "echo", replicas=2))
    node.wait_ready("served")
    kill_agent(node)
    node.wait_ready("served")
    workers = node.pids("served")
    zygote = node.pid("zygote")
    os.kill(zygote, signal.SIGKILL)
    wait_for(lambda: node.pids("zygote") not in ([], [zygote]), "the next zygote")
    assert node.pids("served") == workers
    os.kill(workers[0], signal.SIGKILL)
    wait_for(lambda: node.status("served")["restarts"] == 1, "the restart")
    node.wait_ready("served")
    assert len(node.pids("served")) == 2


def test_workers_serve_while_no_agent_can_start(fresh_node: RunningNode) -> None:
    """Also one that logs more than a pipe holds; when an agent can start, it finds them."""
    node = fresh_node
    node.apply(http_app("served", "echo"), http_app("failing", "exit_code"))
    for name in ("served", "failing"):
        node.wait_ready(name)
    workers = node.pid("served"), node.pid("failing")
    port, failing = node.port("served"), node.port("failing")
    with Load(port, clients=1) as load, (node.data / "lock").open("rb") as lock:
        launcher, agent = node.pid("launcher"), node.pid("agent")
        os.kill(launcher, signal.SIGSTOP)
        os.kill(agent, signal.SIGKILL)
        wait_for(lambda: try_lock(lock.fileno()), "the data directory")
        os.kill(launcher, signal.SIGCONT)
        refusal = "another node runs on"
        wait_for(lambda: node.output().count(refusal) >= 3, "three agents that can't start")
        statuses = {ask(failing).status for _ in range(1500)}
        assert statuses == {500}
        load.wait_more()
        fcntl.flock(lock, fcntl.LOCK_UN)
        wait_up(node, after=agent)
        for name in ("served", "failing"):
            node.wait_ready(name)
        load.wait_more()
    assert load.failures == []
    assert (node.pid("served"), node.pid("failing")) == workers


def try_lock(descriptor: int) -> bool:
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def test_a_node_stops_properly_while_no_agent_can_start(
    make_node: Callable[..., RunningNode],
) -> None:
    node = make_node()
    node.start()
    node.apply(http_app("served", "echo"))
    node.wait_ready("served")
    with (node.data / "lock").open("rb") as lock:
        launcher, agent = node.pid("launcher"), node.pid("agent")
        os.kill(launcher, signal.SIGSTOP)
        os.kill(agent, signal.SIGKILL)
        wait_for(lambda: try_lock(lock.fileno()), "the data directory")
        os.kill(launcher, signal.SIGCONT)
        wait_for(lambda: node.output().count("another node") >= 2, "agents that can't start")
        assert node.process is not None
        node.process.terminate()
        node.process.wait(20)
        wait_for(lambda: not node.pids(), "the end of everything", 15)
    node.process = None
