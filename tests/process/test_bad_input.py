"""Modules, manifests and clients that are wrong: each is told so, and the app next door never notices."""

from __future__ import annotations

import contextlib
import http.client
import io
import os
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from engines import on_both_engines
from running_node import PATIENCE_SECONDS, Load, ask, pss_bytes, wait_for
from workloads import command_app, http_app, job

from limpet.errors import ConflictError, InvalidInputError, NotFoundError

if TYPE_CHECKING:
    from running_node import RunningNode

MIB = 1 << 20


def started(node: RunningNode, app: dict[str, Any]) -> int:
    node.apply(app)
    node.wait_ready(app["metadata"]["name"])
    return node.port(app["metadata"]["name"])


def refused_with_an_identifier(node: RunningNode, name: str, path: str, status: int = 500) -> str:
    """Ask, expect a failure without details, and return the log's line about it."""
    answer = node.request(name, path)
    assert answer.status == status, answer
    identifier = answer.headers["x-request-id"]
    assert identifier in answer.text
    (line,) = wait_for(
        lambda: [line for line in node.logs(name) if identifier in line], "the reason in the log"
    )
    return line


# Modules that can't run


@on_both_engines
@pytest.mark.parametrize(
    ("guest", "words"),
    [
        ("not_wasm", ["not a WebAssembly module", "script"]),
        ("truncated", ["truncated"]),
        ("component", ["component", "wasm32-wasip"]),
        ("unknown_import", ["env.foo"]),
        ("no_start", ["_start", "add"]),
    ],
)
def test_a_module_that_cannot_run(
    node: RunningNode, neighbour: Load, guest: str, words: list[str]
) -> None:
    node.apply(http_app("wrong", guest))
    status = node.wait_reason("wrong", "InvalidModule")
    assert (status["phase"], status["is_final"]) == ("Pending", True)
    assert all(word in status["message"] for word in words), status["message"]
    event = node.events("wrong", "InvalidModule")[-1]
    assert event["message"] == status["message"]
    assert not [path for path in (node.data / "artifacts").iterdir() if path.suffix == ".part"]


@on_both_engines
def test_more_memory_from_the_start_than_the_limit(node: RunningNode, neighbour: Load) -> None:
    node.apply(http_app("greedy", "memory_128m"))
    status = node.wait_reason("greedy", "MemoryLimitTooLow")
    assert "131072 KiB" in status["message"]
    assert "61440 KiB of 65536" in status["message"]
    assert "resources.limits.memory" in status["message"]
    node.apply(http_app("greedy", "memory_128m", memory="160Mi"))
    node.wait_ready("greedy")
    assert node.request("greedy").body == b"big"


def test_the_port_of_another_app(node: RunningNode, neighbour: Load) -> None:
    address = f"127.0.0.1:{node.port('neighbour')}"
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    port = started(node, http_app("first", "echo", annotations={"listen": address}))
    node.apply(http_app("second", "ignore_stdin", annotations={"listen": address}))
    status = node.wait_reason("second", "PortInUse")
    assert status["phase"] == "Pending"
    for words in (address, "app default/first", "choose another port"):
        assert words in status["message"]
    assert ask(port).status == 200
    node.delete("Deployment", "first")
    node.wait_ready("second")
    assert ask(port).body == b"unread\n"


def test_the_port_of_another_program(node: RunningNode, neighbour: Load) -> None:
    with socket.create_server(("127.0.0.1", 0)) as program:
        address = f"127.0.0.1:{program.getsockname()[1]}"
        node.apply(http_app("late", "echo", annotations={"listen": address}))
        status = node.wait_reason("late", "PortInUse")
        assert address in status["message"]
        assert "another program" in status["message"]
        assert not status["is_final"]
    node.wait_ready("late")
    assert node.request("late").status == 200


def test_a_name_is_taken_by_another_kind(node: RunningNode, neighbour: Load) -> None:
    node.apply(http_app("twin", "echo"))
    with pytest.raises(ConflictError, match="Job default/twin has the name of an existing Deploym"):
        node.apply(job("twin", "job_exit"))
    with pytest.raises(ConflictError, match="Deployment default/new is given twice"):
        node.apply(http_app("new", "echo"), http_app("new", "echo"))
    with pytest.raises(NotFoundError):
        node.status("new")


def test_uploads_that_are_not_their_digest(node: RunningNode, neighbour: Load) -> None:
    wrong = "sha256:" + "0" * 64
    with pytest.raises(InvalidInputError, match="the bytes are sha256:"):
        node.client.upload_module(wrong, io.BytesIO(b"abc"), size_bytes=3)
    assert not node.client.has_module(wrong)
    with pytest.raises(InvalidInputError, match="not sha256:xyz"):
        node.client.upload_module("sha256:xyz", io.BytesIO(b"abc"), size_bytes=3)
    with pytest.raises(NotFoundError, match="has no module sha256:0000"):
        node.client.apply([{"object": http_app("absent", "echo"), "digest": wrong}])
    assert not [path for path in (node.data / "modules").iterdir() if path.suffix == ".part"]


def test_one_bad_object_refuses_all(node: RunningNode, neighbour: Load) -> None:
    bad = http_app("bad", "echo")
    bad["spec"]["replica"] = 2
    with pytest.raises(InvalidInputError, match="did you mean replicas"):
        node.apply(http_app("good", "echo"), bad)
    assert node.is_gone("good")


# Handlers that fail


@on_both_engines
def test_a_handler_that_never_ends(node: RunningNode, neighbour: Load) -> None:
    started(node, http_app("endless", "loop", annotations={"deadline": "300ms"}))
    for _ in range(3):
        begun = time.monotonic()
        line = refused_with_an_identifier(node, "endless", "/", status=504)
        assert "deadline" in line
        assert 0.25 < time.monotonic() - begun < 3
    status = node.status("endless")
    assert (status["requests"]["failed"], status["restarts"]) == (3, 0)


def test_a_handler_that_recurses_for_ever(node: RunningNode, neighbour: Load) -> None:
    """On WasmEdge that ends its process: `test_engines`."""
    port = started(node, http_app("failing", "recurse"))
    assert "stack" in refused_with_an_identifier(node, "failing", "/")
    assert ask(port).status == 500
    assert node.status("failing")["restarts"] == 0


@on_both_engines
@pytest.mark.parametrize(
    ("guest", "path", "reason"),
    [
        ("smash_stack", "/", "the handler failed"),
        ("grow", "/", "memory"),
        ("flood_stdout", "/", "stdout"),
        ("no_header", "/", "no empty line"),
        ("empty", "/", "printed nothing"),
        ("exit_code", "/?n=3", "exited with code 3"),
        ("trap", "/", "unreachable"),
        ("trap", "/?late=1", "unreachable"),
        ("bad_status", "/", "Status: twelve"),
        ("bad_status", "/?status=700", "Status: 700"),
    ],
)
def test_a_handler_that_fails(
    node: RunningNode, neighbour: Load, guest: str, path: str, reason: str
) -> None:
    port = started(node, http_app("failing", guest))
    for _ in range(2):
        assert reason in refused_with_an_identifier(node, "failing", path)
    assert ask(port, path).text.startswith("the app failed; its log has the reason")
    status = node.status("failing")
    assert (status["requests"]["failed"], status["restarts"]) == (3, 0)


def test_memory_stays_bounded_whatever_a_handler_does(node: RunningNode, neighbour: Load) -> None:
    limits = {"flood_stdout": 48 * MIB, "grow": 110 * MIB}
    for guest, limit in limits.items():
        name = guest.replace("_", "-")
        started(node, http_app(name, guest))
        watched = {"worker": node.pid(name), "agent": node.pid("agent")}
        peaks = dict.fromkeys(watched, 0)
        done = threading.Event()

        def ask_often(name: str = name, done: threading.Event = done) -> None:
            for _ in range(4):
                assert node.request(name).status == 500
            done.set()

        asking = threading.Thread(target=ask_often)
        asking.start()
        while not done.wait(0.005) and asking.is_alive():
            for role, pid in watched.items():
                peaks[role] = max(peaks[role], pss_bytes(pid))
        asking.join()
        assert done.is_set()
        shown = {role: f"{peak / MIB:.1f} MiB" for role, peak in peaks.items()}
        print(f"{guest}: peaks {shown}, at rest {pss_bytes(watched['worker']) / MIB:.1f} MiB")
        assert peaks["worker"] < limit
        assert peaks["agent"] < 40 * MIB
        assert pss_bytes(watched["worker"]) < 40 * MIB


@pytest.mark.parametrize("query", ["mb=1024", "mb=1024&lines=0"])
def test_a_gigabyte_of_log(node: RunningNode, neighbour: Load, query: str) -> None:
    started(node, http_app("noisy", "flood_stderr", annotations={"deadline": "3s"}))
    agent = node.pid("agent")
    peak, slowest = 0, 0.0
    answers: list[int] = []
    asking = threading.Thread(
        target=lambda: answers.append(node.request("noisy", f"/?{query}").status)
    )
    asking.start()
    while asking.is_alive():
        begun = time.monotonic()
        node.status("noisy")
        slowest = max(slowest, time.monotonic() - begun)
        peak = max(peak, pss_bytes(agent))
    assert answers == [504]
    print(f"agent peak {peak / MIB:.1f} MiB, slowest status {slowest * 1e3:.0f} ms")
    assert peak < 40 * MIB
    assert slowest < 1.5
    check_log_bound(node, "noisy")


def test_a_command_that_prints_for_ever(node: RunningNode, neighbour: Load) -> None:
    node.apply(command_app("chatty", "job_lines"))
    wait_for(lambda: first_line(node, "chatty") not in ("", "line 1"), "the oldest lines to go")
    first = first_line(node, "chatty")
    wait_for(lambda: first_line(node, "chatty") != first, "the next ones to go")
    slowest = 0.0
    for _ in range(20):
        begun = time.monotonic()
        node.status("chatty")
        slowest = max(slowest, time.monotonic() - begun)
    assert slowest < 1.5
    check_log_bound(node, "chatty")
    lines = [line for line in node.logs("chatty", tail=50) if line]
    numbers = [int(line.removeprefix("line ")) for line in lines]
    assert numbers == list(range(numbers[0], numbers[0] + 50))
    node.delete("Deployment", "chatty")
    wait_for(lambda: node.is_gone("chatty"), "the app's end")


def first_line(node: RunningNode, name: str) -> str:
    return next(iter(node.logs(name)), "")


def check_log_bound(node: RunningNode, name: str) -> None:
    """Two times 256 KiB of records, the recent ones beside them, and what one flush may overshoot."""
    kept = sum(len(line) for line in node.logs(name))
    assert 0 < kept <= 1 << 20
    assert (node.data / "logs.db").stat().st_size < 8 << 20


@pytest.mark.parametrize(
    "kind", ["cr", "nul", "control", "space", "space_before_colon", "no_colon", "no_name", "fold"]
)
def test_a_header_that_must_not_get_out(node: RunningNode, kind: str) -> None:
    started(node, http_app("injecting", "bad_header"))
    raw = node.exchange(
        "injecting", f"GET /?kind={kind} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode()
    )
    head, _, body = raw.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 500 ")
    assert b"stolen" not in raw
    assert b"x-bad" not in raw.lower()
    assert b"under request " in body
    refused_with_an_identifier(node, "injecting", f"/?kind={kind}")


@pytest.mark.parametrize(
    "kind", ["chunked", "length", "short_length", "negative_length", "connection", "upgrade"]
)
def test_framing_is_not_a_handlers_to_choose(node: RunningNode, kind: str) -> None:
    port = started(node, http_app("framing", "bad_header"))
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
    for _ in range(3):
        connection.request("GET", f"/?kind={kind}")
        response = connection.getresponse()
        assert (response.status, response.read()) == (200, b"body\n")
        assert response.headers["Content-Length"] == "5"
        assert response.headers["Transfer-Encoding"] is None
        assert response.headers["Upgrade"] is None
    connection.close()


@on_both_engines
def test_a_full_queue_refuses(node: RunningNode, neighbour: Load) -> None:
    port = started(node, http_app("queued", "sleep", annotations={"queue": "2"}))
    ask(port, "/?ms=50")  # from a slow run on, runs go beside the loop
    answers: list[Any] = []

    def call() -> None:
        answers.append(ask(port, "/?ms=700"))

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answer.status for answer in answers) == [200] * 3 + [503] * 5
    for answer in answers:
        if answer.status == 503:
            assert int(answer.headers["retry-after"]) >= 1
            assert "waiting" in answer.text
    assert ask(port, "/?ms=1").status == 200


def test_clients_that_go_away(node: RunningNode, neighbour: Load) -> None:
    port = started(node, http_app("left", "sleep", annotations={"queue": "64"}))
    ask(port, "/?ms=50")
    parts = [
        b"",
        b"GET / HT",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf",
        b"GET /?ms=1 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /?ms=20 HTTP/1.1\r\nHost: a\r\n\r\n" * 5,
    ]
    for index in range(40):
        with socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS) as client:
            if index % 2:  # a reset instead of an end
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.sendall(parts[index % len(parts)])
    assert ask(port, "/?ms=1").status == 200

    def is_quiet() -> bool:
        figures = node.status("left")["requests"]
        return figures["in_flight"] == figures["queued"] == 0

    wait_for(is_quiet, "the end of what nobody waits for")
    assert node.status("left")["restarts"] == 0
    worker = node.pid("left")
    wait_for(lambda: count_sockets(worker) <= 6, "closed connections")


def count_sockets(pid: int) -> int:
    found = 0
    for entry in os.scandir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            found += os.readlink(entry.path).startswith("socket:")
    return found


def test_a_client_that_reads_nothing_of_a_large_answer(node: RunningNode, neighbour: Load) -> None:
    port = started(node, http_app("unread", "big"))
    with socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS) as client:
        client.sendall(b"GET /?kib=8000 HTTP/1.1\r\nHost: a\r\n\r\n")
        for _ in range(5):
            assert len(ask(port, "/?kib=64").body) == 64 << 10
