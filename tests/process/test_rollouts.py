"""Releases: numbered, rolled out without a lost request, gone back from by the node itself."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from typing import TYPE_CHECKING, Any

import pytest
from running_node import Load, ask, wait_for
from workloads import claim, command_app, config_map, http_app, job

from limpet.errors import ConflictError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable

    from running_node import RunningNode

Json = dict[str, Any]

# The echo guest answers it, the exit_code guest fails at it.
PROBE = {"httpGet": {"path": "/?silent=1", "port": 8080}, "periodSeconds": 1}


def release(name: str, version: str, guest: str = "echo", **fields: Any) -> Json:
    """Return an app whose answers tell its version; `spec` is merged into the Deployment's."""
    spec = fields.pop("spec", {})
    made = http_app(name, guest, **({"env": {"VERSION": version}} | fields))
    made["spec"] |= spec
    return made


def with_probe(name: str, version: str, guest: str = "echo", **fields: Any) -> Json:
    ports = [{"containerPort": 8080}]
    return release(name, version, guest, readinessProbe=PROBE, ports=ports, **fields)


def rollout(node: RunningNode, name: str) -> Json:
    found: Json = node.status(name)["rollout"]
    return found


def wait_status(node: RunningNode, name: str, status: str, number: int) -> Json:
    """Return the rollout once this release has the status, and what is to serve is ready."""

    def is_there() -> bool:
        found = rollout(node, name)
        return (found["release"], found["status"]) == (number, status)

    try:
        wait_for(is_there, f"release {number} of {name} to be {status}")
    except AssertionError as error:
        raise AssertionError(f"{error}: {node.status(name)} {node.events(name)}") from error
    return rollout(node, name)


def rolled_out(node: RunningNode, app: Json, number: int) -> int:
    """Apply a release that works, wait for its end, return the app's port."""
    node.apply(app)
    name = app["metadata"]["name"]
    wait_status(node, name, "complete", number)
    node.wait_ready(name)
    return node.port(name)


def version(port: int) -> str:
    return ask(port).variables()["VERSION"]


def statuses(node: RunningNode, name: str) -> list[tuple[int, str, bool]]:
    releases = node.client.releases(namespace="default", name=name)
    return [(r["release"], r["status"], r["is_in_force"]) for r in releases]


def change(node: RunningNode, name: str, action: str, to_release: int | None = None) -> Json:
    return node.client.change_rollout(
        namespace="default", name=name, action=action, to_release=to_release
    )


def test_every_change_is_a_release_but_for_replicas_and_pauses(node: RunningNode) -> None:
    app = release("numbered", "1")
    rolled_out(node, app, 1)
    assert node.apply(app)[0]["action"] == "unchanged"
    app["spec"]["replicas"] = 2
    assert node.apply(app)[0]["action"] == "configured"
    node.wait_ready("numbered", generation=2)
    app["spec"]["minReadySeconds"] = 1
    node.apply(app)
    assert statuses(node, "numbered") == [(1, "complete", True)]
    changed = release("numbered", "2", spec={"replicas": 2})
    changed["metadata"]["annotations"] = {"kubernetes.io/change-cause": "version 2"}
    rolled_out(node, changed, 2)
    assert statuses(node, "numbered") == [(1, "complete", False), (2, "complete", True)]
    first, second = node.client.releases(namespace="default", name="numbered")
    assert (first["cause"], second["cause"]) == ("", "version 2")
    assert first["digest"] == second["digest"] == node.status("numbered")["digest"]
    stored = node.client.release(namespace="default", name="numbered", number=1)["object"]
    assert stored["spec"]["minReadySeconds"] == 1  # as it was last applied
    node.delete("Deployment", "numbered")
    wait_for(lambda: node.is_gone("numbered"), "the app's end")
    rolled_out(node, release("numbered", "1"), 1)
    assert len(statuses(node, "numbered")) == 1


def test_ten_thousand_requests_during_updates(node: RunningNode) -> None:
    port = rolled_out(node, with_probe("busy", "1", spec={"replicas": 2}), 1)
    number = 1
    with Load(port, clients=8) as load:
        while len(load.ended_at) < 10_000:
            number += 1
            rolled_out(node, with_probe("busy", str(number), spec={"replicas": 2}), number)
    print(f"{len(load.ended_at)} requests during {number - 1} updates")
    assert load.failures == []
    assert number > 3
    seen = {body.split(b"VERSION=")[1].split(b"\n")[0] for body in load.bodies}
    assert len(seen) == number


def test_a_release_that_never_gets_ready_goes_back(node: RunningNode) -> None:
    port = rolled_out(node, with_probe("unready", "1"), 1)
    with Load(port, clients=2) as load:
        node.apply(with_probe("unready", "2", "exit_code", spec={"progressDeadlineSeconds": 1}))
        found = wait_status(node, "unready", "failed", 2)
        node.wait_ready("unready")
        load.wait_more(20)
    assert load.failures == []
    assert found["in_force"] == 1
    assert found["message"].startswith("ProgressDeadlineExceeded: no progress within 1 s")
    assert version(port) == "1"
    assert statuses(node, "unready") == [(1, "complete", True), (2, "failed", False)]
    event = node.events("unready", "ReleaseFailed")[-1]
    assert event["type"] == "Warning"
    assert "release 1 is in force again" in event["message"]


def test_a_command_that_crashes_goes_back(node: RunningNode) -> None:
    node.apply(command_app("looping", "sleep", env={"GUEST_MS": "600000"}))
    wait_status(node, "looping", "complete", 1)
    first = node.pid("looping")
    node.apply(command_app("looping", "job_exit", env={"GUEST_N": "7"}))
    found = wait_status(node, "looping", "failed", 2)
    assert "CrashLoopBackOff: its workers ended 3 times in a row" in found["message"]
    assert "7" in found["message"]
    node.wait_ready("looping")
    assert node.pid("looping") != first  # it had been replaced when the new one was there


def test_a_failed_release_stays_failed_until_it_is_restarted(fresh_node: RunningNode) -> None:
    node = fresh_node
    port = rolled_out(node, release("durable", "1"), 1)
    bad = release("durable", "2", "no_start")
    node.apply(bad)
    found = wait_status(node, "durable", "failed", 2)
    assert "_start" in found["message"]
    assert version(port) == "1"
    node.kill()
    node.start()
    node.wait_ready("durable")
    assert version(node.port("durable")) == "1"
    assert statuses(node, "durable") == [(1, "complete", True), (2, "failed", False)]
    assert len(node.events("durable", "ReleaseFailed")) <= 1, "it is not tried at each start"
    result = node.apply(bad)[0]
    assert result["action"] == "unchanged"
    [warning] = result["warnings"]
    assert "release 2 failed and release 1 serves" in warning
    assert "limpet rollout restart deployment/durable" in warning
    assert change(node, "durable", "restart") == {"action": "restarted", "release": 3}
    wait_status(node, "durable", "failed", 3)
    rolled_out(node, release("durable", "4"), 4)
    assert version(node.port("durable")) == "4"


def test_a_first_release_that_fails_is_tried_on(node: RunningNode) -> None:
    late = {"VERSION": {"configMapKeyRef": {"name": "late", "key": "v"}}}
    app = release("first", "1", env=late, spec={"progressDeadlineSeconds": 1})
    node.apply(app)
    found = wait_status(node, "first", "failed", 1)
    assert found["in_force"] == 1
    assert "MissingConfig" in found["message"]
    node.apply(config_map("late", v="here"))
    wait_status(node, "first", "complete", 1)
    assert version(node.port("first")) == "here"


def test_missing_config_goes_back_at_the_deadline(node: RunningNode) -> None:
    port = rolled_out(node, release("config", "1"), 1)
    app = release("config", "2", spec={"progressDeadlineSeconds": 1})
    app["spec"]["template"]["spec"]["containers"][0]["envFrom"] = [
        {"configMapRef": {"name": "absent"}}
    ]
    node.apply(app)
    found = wait_status(node, "config", "failed", 2)
    assert "MissingConfig: ConfigMap default/absent does not exist" in found["message"]
    assert version(port) == "1"


def test_undo_makes_a_new_release_of_an_old_one(node: RunningNode) -> None:
    rolled_out(node, release("undone", "1"), 1)
    rolled_out(node, release("undone", "2"), 2)
    port = rolled_out(node, release("undone", "3", "ignore_stdin"), 3)
    assert ask(port).body == b"unread\n"
    assert change(node, "undone", "undo") == {"action": "rolled back", "release": 4}
    wait_status(node, "undone", "complete", 4)
    assert version(port) == "2"
    change(node, "undone", "undo", 1)
    wait_status(node, "undone", "complete", 5)
    assert version(port) == "1"
    assert change(node, "undone", "undo", 1)["action"] == "skipped"
    with pytest.raises(NotFoundError, match="no release 9; kept are: 1, 2, 3, 4, 5"):
        change(node, "undone", "undo", 9)


def test_a_paused_rollout_waits(node: RunningNode) -> None:
    port = rolled_out(node, release("held", "1"), 1)
    change(node, "held", "pause")
    node.apply(release("held", "2"))
    node.apply(release("held", "3"))
    assert rollout(node, "held")["status"] == "paused"
    assert statuses(node, "held") == [
        (1, "complete", True),
        (2, "superseded", False),
        (3, "progressing", False),
    ]
    os.kill(node.pid("held"), signal.SIGKILL)
    wait_for(lambda: node.status("held")["restarts"] == 1, "the next worker")
    node.wait_ready("held")
    assert version(port) == "1", "what is there is cared for"
    with pytest.raises(ConflictError, match="is paused"):
        change(node, "held", "undo")
    change(node, "held", "resume")
    wait_status(node, "held", "complete", 3)
    assert version(port) == "3"


def test_a_sleeping_app_is_tried_once(node: RunningNode) -> None:
    awake = {"annotations": {"idle-timeout": "300ms"}}
    port = rolled_out_asleep(node, release("asleep", "1", **awake))
    node.apply(release("asleep", "2", "trap", **awake))
    wait_status(node, "asleep", "complete", 2)  # it can start, and nobody asked for more
    app = with_probe("asleep", "3", "exit_code", **awake)
    app["spec"]["progressDeadlineSeconds"] = 1
    node.apply(app)
    wait_status(node, "asleep", "failed", 3)
    change(node, "asleep", "undo", 1)
    wait_status(node, "asleep", "complete", 4)
    node.wait_phase("asleep", "Idle")
    assert version(port) == "1"


def rolled_out_asleep(node: RunningNode, app: Json) -> int:
    node.apply(app)
    wait_status(node, app["metadata"]["name"], "complete", 1)
    node.wait_phase(app["metadata"]["name"], "Idle")
    return node.port(app["metadata"]["name"])


def test_two_releases_never_write_one_volume(node: RunningNode) -> None:
    volumes = [{"name": "v", "persistentVolumeClaim": {"claimName": "kept"}}]
    fields: Json = {"volumes": volumes, "mounts": {"/data": "v"}}
    node.apply(claim("kept"))
    port = rolled_out(node, with_probe("writer", "1", **fields), 1)
    with Load(port, clients=1) as load:
        bad = with_probe("writer", "2", "exit_code", **fields)
        bad["spec"]["progressDeadlineSeconds"] = 1
        node.apply(bad)
        most = 0

        def is_decided() -> bool:
            nonlocal most
            most = max(most, len(node.pids("writer")))
            return rollout(node, "writer")["status"] == "failed"

        wait_for(is_decided, "the verdict")
        node.wait_ready("writer")
        load.wait_more(20)
    assert most <= 1
    assert not [failure for failure in load.failures if "refused" in failure]
    assert version(port) == "1"


def test_without_memory_for_both_the_old_one_stops_first(
    make_node: Callable[..., RunningNode],
) -> None:
    node = make_node(LIMPET_ROLLOUT_RESERVE_BYTES=str(1 << 50))
    node.start()
    port = rolled_out(node, release("tight", "1"), 1)
    with Load(port, clients=1, pause_seconds=0.005) as load:
        rolled_out(node, release("tight", "2"), 2)
        load.wait_more(5)
    event = node.events("tight", "StopThenStart")[-1]
    assert "the old workers stop before the new ones start" in event["message"]
    assert load.failures == []  # they wait in the socket's queue
    assert version(port) == "2"
    node.stop()


def test_changed_sockets_come_back_with_the_release(node: RunningNode) -> None:
    port = rolled_out(node, release("moved", "1"), 1)
    bad = with_probe("moved", "2", "exit_code", spec={"progressDeadlineSeconds": 1})
    bad["spec"]["template"]["metadata"]["annotations"]["limpet.dev/listen"] = "127.0.0.2:0"
    with Load(port, clients=1) as load:
        node.apply(bad)
        wait_status(node, "moved", "failed", 2)
        node.wait_ready("moved")
        load.wait_more(5)
    assert load.failures == []
    assert node.port("moved") == port


def test_ready_is_not_available_before_its_time(node: RunningNode) -> None:
    port = rolled_out(node, release("slow", "1"), 1)
    node.apply(release("slow", "2", spec={"minReadySeconds": 1}))
    wait_for(lambda: rollout(node, "slow")["updated"] == 1, "the new worker")
    found = rollout(node, "slow")
    assert (found["status"], found["available"], found["old"]) == ("progressing", 0, 1)
    wait_status(node, "slow", "complete", 2)
    node.wait_ready("slow")
    assert version(port) == "2"


def test_recreate_has_the_old_ones_end_first(node: RunningNode) -> None:
    recreate = {"strategy": {"type": "Recreate"}}
    port = rolled_out(node, release("again", "1", spec=recreate), 1)
    first = node.pid("again")
    rolled_out(node, release("again", "2", spec=recreate), 2)
    assert first not in node.pids("again")
    assert version(port) == "2"


def test_a_reboot_in_the_middle_brings_back_what_worked(fresh_node: RunningNode) -> None:
    node = fresh_node
    rolled_out(node, release("middle", "1"), 1)
    # Nobody listens there: it can't be downloaded, today.
    unreachable = "http://127.0.0.1:9/m.wasm"
    node.apply(release("middle", "2", unreachable.replace("http:", "https:")))
    wait_for(lambda: node.status("middle")["reason"], "the problem")
    node.kill()
    node.start()
    wait_for(lambda: node.status("middle")["ready"] == 1, "the release before")
    assert version(node.port("middle")) == "1"
    assert statuses(node, "middle")[-1] == (2, "progressing", True)
    change(node, "middle", "undo")
    wait_status(node, "middle", "complete", 3)


def test_old_releases_are_forgotten(node: RunningNode) -> None:
    limit = {"revisionHistoryLimit": 2}
    for number in range(1, 6):
        rolled_out(node, release("many", str(number), spec=limit), number)
    assert [number for number, _, _ in statuses(node, "many")] == [3, 4, 5]
    bad = {**limit, "progressDeadlineSeconds": 1}
    for number in range(6, 10):
        node.apply(release("many", str(number), "no_start", spec=bad))
        wait_status(node, "many", "failed", number)
    assert statuses(node, "many") == [
        (5, "complete", True),
        (7, "failed", False),
        (8, "failed", False),
        (9, "failed", False),
    ]


def test_a_job_has_no_releases(node: RunningNode) -> None:
    node.apply(job("once", "job_exit"))
    node.wait_phase("once", "Succeeded")
    assert node.status("once")["rollout"] is None
    with pytest.raises(ConflictError, match="makes one run"):
        change(node, "once", "restart")


def test_a_crash_loop_shows_its_last_words(node: RunningNode) -> None:
    node.apply(command_app("talking", "job_exit", env={"GUEST_N": "7"}))
    status = node.wait_reason("talking", "CrashLoopBackOff")
    assert "times in a row, it starts again in " in status["message"]
    lines = [(line["stream"], line["line"]) for line in node.status("talking")["last_output"]]
    assert sorted(lines) == [("stderr", "ending"), ("stdout", "started")]


def test_routes_follow_the_release_in_force(make_node: Callable[..., RunningNode]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    node = make_node(LIMPET_INGRESS_LISTEN=f"127.0.0.1:{port}", LIMPET_NODE_BACKOFF_SECONDS="0.4")
    node.start()
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "routed"},
        "spec": {"selector": {"app": "routed"}, "ports": [{"port": 80, "targetPort": 8080}]},
    }
    backend = {"service": {"name": "routed", "port": {"number": 80}}}
    path = {"path": "/", "pathType": "Prefix", "backend": backend}
    ingress = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {"name": "main"},
        "spec": {"rules": [{"http": {"paths": [path]}}]},
    }
    first = with_probe("routed", "1", annotations={"listen": "127.0.0.1:18461"})
    node.apply(service, ingress)
    rolled_out(node, first, 1)
    wait_for(lambda: answers(port), "the route")
    moved = {"annotations": {"listen": "127.0.0.1:18462"}}
    bad = with_probe("routed", "2", "exit_code", spec={"progressDeadlineSeconds": 1}, **moved)
    with Load(port, clients=2) as load:
        node.apply(bad)
        wait_status(node, "routed", "failed", 2)
        node.wait_ready("routed")
        load.wait_more(20)
    assert load.failures == []
    rolled_out(node, with_probe("routed", "3", **moved), 3)
    wait_for(lambda: version(port) == "3", "the new route")
    node.stop()


def answers(port: int) -> bool:
    with contextlib.suppress(OSError):
        return ask(port).status == 200
    return False
