"""Native code in a worker abuses its control socket, the one way to speak to the agent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from running_node import pss_bytes, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from attack_node import AttackNode

STATS = {
    "type": "Stats", "requests": 0, "failed": 0, "in_flight": 0, "queued": 0, "connections": 0,
    "latency": [],
}  # fmt: skip

BROKEN: dict[str, Any] = {
    "no message": "x",
    "an array": [],
    "nested deeply": "[" * 60_000,
    "a digit too many": "1" * 5000,
    "an unknown type": {"type": "Shutdown"},
    "a type that is no text": {"type": ["Ready"]},
    "a missing field": {"type": "Ready"},
    "a surplus field": {"type": "Ready", "milliseconds": 1, "more": 1},
    "a mistyped field": {"type": "Ready", "milliseconds": "1"},
    "not a number": '{"type": "Ready", "milliseconds": NaN}',
    "an infinite number": '{"type": "Ready", "milliseconds": 1e999}',
    "half a character": '{"type": "Notice", "reason": "\\ud800", "message": ""}',
    "a wrong count": {**STATS, "latency": [1]},
    "a negative count": {**STATS, "latency": [-1] * 200},
    "a port of no host": {"type": "Connect", "request": 1, "host": "x", "port": 0, "protocol": "tcp"},
    "too large": "x" * (65 << 10),
}  # fmt: skip

# Well-formed, and not a worker's to say: the zygote's, the launcher's, the agent's own.
FOREIGN: dict[str, Any] = {
    "Spawned": {"type": "Spawned", "worker": "worker-1", "pid": 1},
    "SpawnFailed": {"type": "SpawnFailed", "worker": "worker-1", "message": "x"},
    "Exited": {"type": "Exited", "pid": 1, "status": 0, "peak_bytes": 0},
    "EngineReady": {
        "type": "EngineReady", "name": "evil", "version": "1", "artifact_key": "x", "walls": [],
    },
    "ZygoteStarted": {
        "type": "ZygoteStarted",
        "engine": "wasmtime",
        "pid": 1,
        "restarts": 0,
        "status": 0,
    },
    "StartZygote": {"type": "StartZygote", "engine": "wasmedge"},
    "EngineMissing": {"type": "EngineMissing", "message": "gone"},
    "Keep": {"type": "Keep", "name": "127.0.0.1:1"},
    "Drop": {"type": "Drop", "name": "127.0.0.1:1"},
    "Assign": {"type": "Assign"},
    "Routes": {"type": "Routes", "table": "{}"},
    "Compiled": {"type": "Compiled", "imports": [], "exports": [], "memory_bytes": 0},
    "Fetched": {
        "type": "Fetched",
        "digest": "sha256:0",
        "size_bytes": 1,
        "manifest": "",
        "where": "module",
        "extracted_from": "",
    },
    "Failed": {"type": "Failed", "reason": "x", "message": "x", "is_retryable": False},
    "ProbeResult": {"type": "ProbeResult", "probe": 7, "status": 200, "message": ""},
}  # fmt: skip


@pytest.fixture
def engine(node: AttackNode) -> Iterator[str]:
    before = node.client.node()["engine"]
    yield before
    assert node.client.node()["engine"] == before


@pytest.mark.parametrize("what", list(BROKEN))
def test_a_broken_message_ends_its_worker(node: AttackNode, engine: str, what: str) -> None:
    node.start_job("rude", "tell_and_wait", messages=[BROKEN[what]])
    status = node.end_of("rude")
    assert status["reason"] == "Error"
    assert "breaking the protocol" in status["message"]
    assert node.events("rude", "Error")


@pytest.mark.parametrize("what", list(FOREIGN))
def test_a_message_that_is_not_a_workers_changes_nothing(
    node: AttackNode, engine: str, what: str
) -> None:
    node.place_escaped("evil")
    node.place_escaped("neighbour")
    pids = [node.worker_pid(name) for name in ("evil", "neighbour")]
    assert node.run("evil", "tell", messages=[FOREIGN[what]] * 3) == 3
    assert node.run("neighbour", "identity")["pid"] == 1
    assert node.client.node()["workers"] == 2
    assert pids[1] == node.worker_pid("neighbour")


def test_descriptors_cannot_be_stuffed_into_the_agent(node: AttackNode) -> None:
    count = len(os.listdir(f"/proc/{node.pid('agent')}/fd"))
    node.start_job("stuffer", "stuff_descriptors")
    assert node.end_of("stuffer")["reason"] == "SystemCallDenied"
    wait_for(
        lambda: len(os.listdir(f"/proc/{node.pid('agent')}/fd")) <= count + 2, "closed descriptors"
    )


@pytest.mark.parametrize(
    "message",
    [
        STATS,
        {"type": "Ready", "milliseconds": 1.0},
        {"type": "Notice", "reason": "Idle", "message": ""},
        {"type": "Connect", "request": 1, "host": "192.0.2.1", "port": 9, "protocol": "tcp"},
    ],
    ids=lambda message: message["type"],
)
def test_a_flood_of_messages_leaves_the_agent_time_for_others(
    node: AttackNode, message: dict[str, Any]
) -> None:
    """The flooding worker may use as much processor as it likes."""
    resources = {"limits": {"cpu": "2", "memory": "64Mi"}}
    node.place_escaped("evil", resources=resources, annotations={"deadline": "60s"})
    node.place_escaped("neighbour")
    before = pss_bytes(node.pid("agent"))
    began = time.monotonic()
    node.client.node()
    calm = time.monotonic() - began
    body = json.dumps({"message": message, "seconds": 4})
    flooding = subprocess.Popen(
        [sys.executable, "-c", _POST, str(node.port("evil")), "/?run=flood", body],
        stdout=subprocess.PIPE,
    )
    longest, answered = 0.0, 0
    while flooding.poll() is None:
        began = time.monotonic()
        node.client.node()
        longest = max(longest, time.monotonic() - began)
        answered += 1
    assert flooding.stdout is not None
    sent = flooding.stdout.read().decode()
    flooding.stdout.close()
    grown = pss_bytes(node.pid("agent")) - before
    print(
        f"{sent} messages; the agent answered {answered} times, slowest {longest:.2f} s, grew {grown}"
    )
    assert node.run("neighbour", "identity")["pid"] == 1
    assert longest < 1 + 10 * calm, "the agent had no time for anybody else"
    assert grown < 16 << 20
    told = node.events("neighbour")
    assert told, "the flood pushed the neighbour's events out"


def test_being_ready_again_and_again_starts_nothing_more(node: AttackNode) -> None:
    """With the first Ready an app's probes begin; another one must not add to them."""
    probe = {"httpGet": {"path": "/?run=nothing", "port": 8080}, "periodSeconds": 1}
    node.place_escaped(
        "evil",
        ports=[{"containerPort": 8080}],
        readinessProbe=probe,
        annotations={"methods": "GET,POST"},
    )
    node.run("evil", "tell", messages=[{"type": "Ready", "milliseconds": 1.0}] * 500)
    before = node.status("evil")["requests"]["total"]
    began = time.monotonic()
    wait_for(lambda: time.monotonic() - began > 3, "three periods")
    node.status("evil")
    answered = node.status("evil")["requests"]["total"] - before
    assert answered < 50, "it was probed by many at once"


_POST = """
import http.client, sys
connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=60)
connection.request("POST", sys.argv[2], sys.argv[3])
print(connection.getresponse().read().decode(), end="")
"""


def test_an_app_cannot_push_others_out_of_the_history(node: AttackNode) -> None:
    """The node keeps a thousand events: one app must not fill them all."""
    node.place_escaped("neighbour")
    wait_for(lambda: node.events("neighbour", "Started"), "the neighbour's event")
    node.place_escaped("evil", annotations={"deadline": "300s"})
    for first in range(1, 1201, 50):  # an emulated machine takes its time for each
        assert node.run("evil", "pester", first=first, times=50) == 50
    assert node.events("neighbour", "Started")


@pytest.mark.parametrize("field", ["reason", "message"])
def test_what_a_worker_says_of_itself_is_shown_harmlessly(node: AttackNode, field: str) -> None:
    """Terminals obey control characters; events and tables have limited room."""
    nasty = "\x1b]0;owned\x07\x1b[2J\n\nNode fake\r" + "x" * 30_000
    words = {
        "type": "Finished",
        "reason": "Error",
        "exit_code": 1,
        "message": "m",
        "memory_bytes": 0,
    }
    message = {**words, field: nasty}
    node.start_job("nasty", "tell_and_end", messages=[message], name="exit_group", args=[1])
    node.end_of("nasty")
    assert node.events("nasty")
    for verb in (["describe", "nasty"], ["get", "events"], ["get", "pods"], ["get", "all"]):
        command = [sys.executable, "-m", "limpet", "--socket", str(node.socket_path), *verb]
        shown = subprocess.run(command, env=node.environment(), capture_output=True, check=False)
        assert b"\x1b" not in shown.stdout
        assert b"\x07" not in shown.stdout
    for event in node.events("nasty"):
        assert len(event["reason"]) <= 100
        assert len(event["message"]) <= 2000
