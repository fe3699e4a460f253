"""The second engine in whole nodes: which app gets it, what its own ways to fail come to, its zygote's life.

What is the same on both engines is tested where the default engine's is: `on_both_engines`.
"""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest
from engines import on_both_engines
from running_node import SOURCES, Load, ask, is_alive, wait_for
from test_commands import last_exit
from test_socket_apps import ask_often, socket_app
from workloads import http_app, job

import wasmedge_prefix
from limpet.engine.wasmedge import library

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from running_node import RunningNode

WASMEDGE = {"engine": "wasmedge"}
INTERPRETED = {"engine": "wasmedge", "execution": "interpreter"}
SLOWEST_OUTAGE_SECONDS = 3.0


def started(node: RunningNode, app: dict[str, Any]) -> int:
    """Apply an app, wait until it is ready, and return its port."""
    node.apply(app)
    node.wait_ready(app["metadata"]["name"])
    return node.port(app["metadata"]["name"])


@pytest.fixture
def fresh_node_with_wasmedge(
    make_node: Callable[..., RunningNode], wasmedge: library.Installation
) -> RunningNode:
    """A node of the test's own, started, whose WasmEdge nobody has used yet."""
    node = make_node(**wasmedge_prefix.environment(wasmedge))
    node.start()
    return node


# Which engine


@pytest.mark.parametrize(
    ("guest", "chosen", "engine", "reason"),
    [
        ("echo", {}, "wasmtime", "it is the default"),
        ("echo", {"engine": "auto"}, "wasmtime", "it is the default"),
        ("socket_server", {}, "wasmedge", "the module uses WasmEdge's socket functions"),
        ("dial", {}, "wasmedge", "the module uses WasmEdge's socket functions"),
        ("socket_server", {"engine": "wasmtime"}, "wasmtime", "the app asks for it"),
        ("echo", WASMEDGE, "wasmedge", "the app asks for it"),
        (
            "echo",
            {"execution": "interpreter"},
            "wasmedge",
            "the app asks for an interpreter; its code is interpreted",
        ),
        ("echo", INTERPRETED, "wasmedge", "the app asks for it; its code is interpreted"),
    ],
)
def test_the_engine_that_is_chosen(
    node_with_wasmedge: RunningNode, guest: str, chosen: dict[str, str], engine: str, reason: str
) -> None:
    node = node_with_wasmedge
    make = socket_app if guest == "socket_server" else http_app
    options = {} if guest == "socket_server" else {"guest": guest}
    started(node, make("chosen", annotations=chosen, **options))
    status = node.status("chosen")
    assert status["engine"].partition(" ")[0] == engine
    assert status["engine_reason"] == reason
    assert limpet(node, "describe", "app/chosen").count(f"{status['engine']} ({reason})") == (
        reason != "it is the default"
    )
    assert ask(node.port("chosen"), "/").status == 200


def test_the_engine_by_runtime_class(node_with_wasmedge: RunningNode) -> None:
    app = http_app("classed", "echo")
    app["spec"]["template"]["spec"]["runtimeClassName"] = "wasmedge"
    port = started(node_with_wasmedge, app)
    assert node_with_wasmedge.status("classed")["engine"].startswith("wasmedge ")
    assert ask(port, method="POST", body=b"told").body.endswith(b"\n\ntold")


def test_an_app_changes_its_engine_without_a_failure(node_with_wasmedge: RunningNode) -> None:
    node = node_with_wasmedge
    port = started(node, http_app("moving", "echo"))
    with Load(port, clients=2) as load:
        for generation, engine in enumerate(("wasmedge", "wasmtime"), start=2):
            node.apply(http_app("moving", "echo", annotations={"engine": engine}))
            node.wait_ready("moving", generation=generation)
            assert node.status("moving")["engine"].startswith(engine)
            load.wait_more(20)
    assert load.failures == []


def limpet(node: RunningNode, *arguments: str) -> str:
    """What the command line says of this node."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "limpet", "--socket", str(node.socket_path), *arguments],
        env=os.environ | {"PYTHONPATH": str(SOURCES), "COLUMNS": "200"},
        check=True,
        capture_output=True,
        text=True,
    ).stdout


# How guests run and end


def test_interpreted_handlers(node_with_wasmedge: RunningNode) -> None:
    node = node_with_wasmedge
    chosen = INTERPRETED | {"deadline": "300ms"}
    port = started(node, http_app("told", "echo", env={"A": "b"}, annotations=chosen))
    answer = ask(port, "/x?y=1", method="POST", body=b"body")
    assert (
        answer.variables().items() >= {"A": "b", "PATH_INFO": "/x", "QUERY_STRING": "y=1"}.items()
    )
    assert answer.body.endswith(b"\n\nbody")
    for name in ("loop", "sleep"):
        port = started(node, http_app(name, name, annotations=chosen))
        assert [ask(port, "/?ms=60000").status for _ in range(2)] == [504, 504]
        assert node.status(name)["restarts"] == 0


@pytest.mark.parametrize("chosen", [WASMEDGE, INTERPRETED], ids=["compiled", "interpreted"])
@pytest.mark.parametrize(
    ("guest", "env", "reason", "exit_code", "message"),
    [
        ("job_exit", {}, "Completed", 0, ""),
        ("job_exit", {"GUEST_N": "3"}, "Error", 3, "exited with code 3"),
        ("trap", {}, "Trap", 1, "unreachable"),
        ("grow", {}, "Trap", 1, "perhaps a growth was refused"),
        ("take_all_memory", {}, "OOMKilled", 1, "reached its memory limit"),
    ],
)
def test_commands(
    node_with_wasmedge: RunningNode,
    chosen: dict[str, str],
    guest: str,
    env: dict[str, str],
    reason: str,
    exit_code: int,
    message: str,
) -> None:
    node = node_with_wasmedge
    node.apply(job("ending", guest, env=env, annotations=chosen))
    wait_for(lambda: node.status("ending")["is_final"], "the job's end")
    ended = last_exit(node.status("ending"))
    assert (ended["reason"], ended["exit_code"]) == (reason, exit_code)
    assert message in ended["message"]
    if guest == "job_exit":
        assert node.logs("ending") == ["started", "ending"]


@on_both_engines
def test_a_limit_on_cost(node: RunningNode) -> None:
    """For a handler each request counts by itself; a guest that sleeps does no work."""
    limit = {"cost-limit": "1000000", "deadline": "10s"}
    port = started(node, http_app("busy", "loop", annotations=limit))
    for _ in range(2):
        answer = ask(port)
        assert answer.status == 500
        identifier = answer.headers["x-request-id"]
        (line,) = wait_for(
            lambda said=identifier: [line for line in node.logs("busy") if said in line], "the log"
        )
        assert "did more work than its limit of 1000000 allows" in line
    port = started(node, http_app("calm", "sleep", annotations=limit))
    assert [ask(port, "/?ms=30").status for _ in range(3)] == [200] * 3
    node.apply(job("busy-job", "loop", annotations={"cost-limit": "1000000"}))
    status = node.wait_phase("busy-job", "Failed")
    assert status["reason"] == "CostExceeded"
    assert "its limit of 1000000" in status["message"]


@on_both_engines
@pytest.mark.parametrize("waits", ["sleeping", "receiving"])
def test_a_host_call_that_blocks_past_the_deadline(node: RunningNode, waits: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        guest, path = {
            "sleeping": ("sleep", "/?ms=60000"),
            "receiving": ("dial", f"/?port={port}"),
        }[waits]
        chosen = {"deadline": "400ms", "egress": f"127.0.0.1:{port}"}
        own = started(node, http_app("waiting", guest, annotations=chosen))
        for _ in range(2):
            begun = time.monotonic()
            assert ask(own, path).status == 504
            assert 0.35 < time.monotonic() - begun < 5
    status = node.status("waiting")
    assert (status["requests"]["failed"], status["restarts"]) == (2, 0)


@pytest.fixture
def neighbour_on_wasmedge(node_with_wasmedge: RunningNode) -> Any:
    """An app of the same engine that is asked all the time and must never miss an answer."""
    port = started(node_with_wasmedge, http_app("neighbour", "echo", annotations=WASMEDGE))
    with Load(port, clients=1, pause_seconds=0.02) as load:
        yield load
        load.wait_more(3)
    assert load.failures == []


def test_calls_nested_too_deep_end_the_worker(
    node_with_wasmedge: RunningNode, neighbour_on_wasmedge: Load
) -> None:
    """Compiled code has no check for it: its process meets the stack's guard page."""
    node = node_with_wasmedge
    port = started(node, http_app("deep", "recurse_and_store", annotations=WASMEDGE))
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        ask(port)
    event = wait_for(lambda: node.events("deep", "Signal"), "the event")[-1]
    assert event["type"] == "Warning"
    assert "SIGSEGV: on WasmEdge calls that nest too deep" in event["message"]
    wait_for(lambda: node.status("deep")["restarts"] == 1, "the restart")
    node.apply(job("deep-job", "recurse_and_store", annotations=WASMEDGE))
    status = node.wait_phase("deep-job", "Failed")
    assert (status["reason"], last_exit(status)["signal"]) == ("Signal", "SIGSEGV")


def test_calls_nested_too_deep_in_the_interpreter(
    node_with_wasmedge: RunningNode, neighbour_on_wasmedge: Load
) -> None:
    """It keeps its stack on the heap: the worker's limits end it."""
    node = node_with_wasmedge
    node.apply(job("deep", "recurse_and_store", annotations=INTERPRETED | {"deadline": "5s"}))
    status = node.wait_phase("deep", "Failed", seconds=60)
    assert status["reason"] in ("OOMKilled", "DeadlineExceeded", "Signal")


def test_planted_machine_code_is_not_run(
    node_with_wasmedge: RunningNode, wasmedge: library.Installation
) -> None:
    """A module that exits with 2 by its own code, and with 1 by what WasmEdge's compiler made of another."""
    node = node_with_wasmedge
    module = trojan(wasmedge)
    digest = node.upload(module)
    for name, chosen in (("compiled", WASMEDGE), ("interpreted", INTERPRETED), ("default", {})):
        node.client.apply([{"object": job(name, "trojan", annotations=chosen), "digest": digest}])
        assert last_exit(node.wait_phase(name, "Failed"))["exit_code"] == 2


_TROJAN = """
import sys
from limpet.engine import open_engine
from limpet.engine.binary import read_shape
from limpet.engine.wasmedge.artifact import parse_artifact
planted, own = map(bytes.fromhex, sys.argv[1:])
engine = open_engine("wasmedge")
artifact = parse_artifact(engine.compile_module(planted)[0], engine.artifact_key()).module
section, = read_shape(artifact).custom_sections
print((own + artifact[section.start:section.end]).hex())
"""


def trojan(wasmedge: library.Installation) -> bytes:
    from wasmtime import wat2wasm

    exits = """(module
      (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
      (memory (export "memory") 1) (func (export "_start") (call $exit (i32.const %d))))"""
    modules = [wat2wasm(exits % code).hex() for code in (1, 2)]
    output = subprocess.check_output(
        library.command(wasmedge, ["-c", _TROJAN, *modules]),
        env=os.environ | {"PYTHONPATH": str(SOURCES)} | wasmedge_prefix.environment(wasmedge),
        text=True,
    )
    return bytes.fromhex(output)


# The zygote


def test_its_zygote_starts_when_it_is_needed(fresh_node_with_wasmedge: RunningNode) -> None:
    node = fresh_node_with_wasmedge
    started(node, http_app("plain", "echo"))
    assert node.pids("wasmedge") == []
    assert node.client.node()["engines"] == [node.client.node()["engine"]]
    started(node, http_app("other", "echo", annotations=WASMEDGE))
    assert node.pid("wasmedge")
    assert [name.partition(" ")[0] for name in node.client.node()["engines"]] == [
        "wasmtime",
        "wasmedge",
    ]
    node.stop()


def test_its_zygote_is_needed_again_while_it_ends(fresh_node_with_wasmedge: RunningNode) -> None:
    """The launcher hears of that before it hears of the end."""
    node = fresh_node_with_wasmedge
    started(node, http_app("first", "echo", annotations=WASMEDGE))
    launcher = node.pid("launcher")
    os.kill(launcher, signal.SIGSTOP)
    os.kill(node.pid("wasmedge"), signal.SIGKILL)
    wait_for(lambda: not node.pids("wasmedge"), "its end")
    node.apply(http_app("second", "ignore_stdin", annotations=WASMEDGE))
    node.wait_reason("second", "CompilingModule")
    os.kill(launcher, signal.SIGCONT)
    node.wait_ready("second")
    node.stop()


@pytest.mark.parametrize("victim", ["wasmedge", "agent", "served"])
def test_a_kill_under_load(fresh_node_with_wasmedge: RunningNode, victim: str) -> None:
    node = fresh_node_with_wasmedge
    port = started(node, http_app("served", "echo", annotations=WASMEDGE))
    worker = node.pid("served")
    with Load(port) as load:
        killed = node.pid(victim)
        os.kill(killed, signal.SIGKILL)
        killed_at = time.monotonic()
        wait_for(lambda: not is_alive(killed), "the end")
        load.wait_more(50)
        node.wait_up()
        node.wait_ready("served")
        load.wait_more(50)
    assert load.outage_seconds(killed_at) < SLOWEST_OUTAGE_SECONDS
    if victim == "wasmedge":
        assert load.failures == []
        assert node.pid("served") == worker
        os.kill(worker, signal.SIGKILL)
        wait_for(lambda: node.pids("served") not in ([], [worker]), "a worker of the next zygote")
        node.wait_ready("served")
        assert "wasmedge" in node.events(reason="ZygoteRestarted")[-1]["message"]
    assert ask(port).status == 200
    wait_for(lambda: len(node.busy_pids()) == 1, "one worker, not more")
    node.stop()


def test_state_outlives_the_node(fresh_node_with_wasmedge: RunningNode) -> None:
    """The artifact, too: a node that starts compiles nothing."""
    node = fresh_node_with_wasmedge
    started(node, http_app("kept", "echo", annotations=WASMEDGE))
    artifacts = {path.name: path.stat().st_mtime for path in (node.data / "artifacts").iterdir()}
    node.restart()
    node.wait_ready("kept")
    assert node.request("kept").status == 200
    assert artifacts == {
        path.name: path.stat().st_mtime for path in (node.data / "artifacts").iterdir()
    }
    node.stop()


# Not here, or not the right one


def test_without_the_library(node: RunningNode) -> None:
    if library.find_in_system() is not None:
        pytest.skip("the system has a libwasmedge")
    node.apply(http_app("wanting", "echo", annotations=WASMEDGE))
    status = node.wait_reason("wanting", "EngineMissing")
    assert (status["phase"], status["is_final"]) == ("Pending", False)
    assert "libwasmedge" in status["message"]
    assert "limpet engine install wasmedge" in status["message"]
    assert node.events("wanting", "EngineMissing")[-1]["message"] == status["message"]
    port = started(node, socket_app("listening"))
    assert ask_often(port, 3) == []
    status = node.status("listening")
    assert status["engine"].startswith("wasmtime ")
    assert "limpet engine list" in status["engine_reason"]


@pytest.mark.skipif(find_spec("ziglang.__main__") is None, reason="needs a C compiler")
@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('return "9.9.9";', ["WasmEdge 9.9.9", "tested with 0.14.x", "limpet engine install"]),
        ("__builtin_trap();", ["wasmedge ended before the engine was ready", "limpet engine list"]),
    ],
    ids=["of an unknown version", "that crashes"],
)
def test_a_library(
    make_node: Callable[..., RunningNode], tmp_path: Path, body: str, words: list[str]
) -> None:
    node = make_node(**{library.ROOT_VARIABLE: str(fake_prefix(tmp_path, body))})
    node.start()
    port = started(node, http_app("plain", "echo"))
    node.apply(http_app("wanting", "echo", annotations=WASMEDGE))
    status = node.wait_reason("wanting", "EngineMissing")
    assert all(word in status["message"] for word in words), status["message"]
    started(node, socket_app("listening"))
    assert node.status("listening")["engine"].startswith("wasmtime ")
    assert ask(port).status == 200
    node.stop()


def fake_prefix(folder: Path, body: str) -> Path:
    """A prefix whose library can do no more than tell its version, which is this C function's."""
    libraries = folder / "root/usr/lib" / library.this_machine().triplet
    libraries.mkdir(parents=True)
    source = folder / "fake.c"
    source.write_text(f"const char *WasmEdge_VersionGet(void) {{ {body} }}\n")
    output = libraries / library.LIBRARY
    command = [sys.executable, "-m", "ziglang", "cc", "-shared", "-fPIC", "-o", output, source]
    subprocess.run(command, check=True)
    return folder / "root"
