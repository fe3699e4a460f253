"""Apps that rest when nobody asks for them."""

from __future__ import annotations

import http.client
import threading
import time
from typing import TYPE_CHECKING, Any

from engines import on_both_engines
from running_node import PATIENCE_SECONDS, ask, wait_for
from workloads import http_app

if TYPE_CHECKING:
    from running_node import RunningNode


def resting(node: RunningNode, name: str, guest: str = "echo", **fields: Any) -> int:
    """Apply an app that rests after 0.3 s, wait until it does, and return its port."""
    node.apply(http_app(name, guest, annotations={"idle-timeout": "300ms"}, **fields))
    node.wait_phase(name, "Idle")
    return node.port(name)


@on_both_engines
def test_an_app_rests_and_wakes(node: RunningNode) -> None:
    port = resting(node, "rested")
    for count in range(1, 4):
        status = node.wait_phase("rested", "Idle")
        wait_for(lambda: not node.pids("rested"), "the worker's end")
        assert (status["ready"], status["restarts"]) == (0, 0)
        begun = time.monotonic()
        assert ask(port, method="POST", body=b"first").body.endswith(b"\n\nfirst")
        print(f"first answer after {(time.monotonic() - begun) * 1e3:.1f} ms")
        assert node.status("rested")["cold_start_milliseconds"]["count"] == count
    assert node.status("rested")["requests"]["total"] == 3


@on_both_engines
def test_all_first_connections_are_answered(node: RunningNode) -> None:
    port = resting(node, "crowded", replicas=2)
    for _ in range(3):
        node.wait_phase("crowded", "Idle")
        statuses: list[object] = []

        def call(statuses: list[object] = statuses) -> None:
            try:
                statuses.append(ask(port).status)
            except (OSError, http.client.HTTPException) as error:
                statuses.append(error)

        threads = [threading.Thread(target=call) for _ in range(60)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert statuses == [200] * 60


def test_a_slow_request_keeps_an_app_awake(node: RunningNode) -> None:
    port = resting(node, "dozing", "sleep")
    assert ask(port, "/?ms=1000").body == b"slept\n"
    node.wait_phase("dozing", "Idle")


def test_a_kept_connection_ends_in_order(node: RunningNode) -> None:
    port = resting(node, "kept")
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
    connection.request("GET", "/")
    assert connection.getresponse().read()
    assert connection.sock.recv(1) == b""  # an end, not a reset
    connection.close()
    node.wait_phase("kept", "Idle")
    assert ask(port).status == 200


def test_an_idle_app_changes_and_goes(node: RunningNode) -> None:
    port = resting(node, "changed", env={"VERSION": "1"})
    node.apply(
        http_app("changed", "echo", env={"VERSION": "2"}, annotations={"idle-timeout": "300ms"})
    )
    assert ask(port).variables()["VERSION"] == "2"
    node.wait_phase("changed", "Idle")
    node.apply(http_app("changed", "echo", env={"VERSION": "3"}))
    node.wait_ready("changed", generation=3)
    assert ask(port).variables()["VERSION"] == "3"
    node.delete("Deployment", "changed")
    wait_for(lambda: node.is_gone("changed"), "the app's end")
