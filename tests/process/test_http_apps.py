"""Apps with the http trigger, from the outside: the protocol, probes, scale, change and end."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

from engines import on_both_engines
from running_node import PATIENCE_SECONDS, Answer, Load, ask, established, wait_for
from workloads import http_app

if TYPE_CHECKING:
    from collections.abc import Callable

    from running_node import RunningNode


class Background(threading.Thread):
    """A request that is under way while the test goes on."""

    def __init__(self, make: Callable[[], Answer]) -> None:
        super().__init__()
        self._make = make
        self.answer: Answer | Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            self.answer = self._make()
        except (OSError, http.client.HTTPException) as error:
            self.answer = error

    def result(self) -> Any:
        self.join()
        return self.answer


def started(node: RunningNode, app: dict[str, Any]) -> int:
    """Apply an app, wait until it is ready, and return its port."""
    node.apply(app)
    name = app["metadata"]["name"]
    node.wait_ready(name)
    return node.port(name)


@on_both_engines
def test_the_environment_is_cgi(node: RunningNode) -> None:
    app = http_app(
        "cgi",
        "echo",
        env={"GREETING": "hello", "BOTH": "$(GREETING)!"},
        args=["--x", "$(GREETING)"],
        annotations={"path": "/app"},
    )
    port = started(node, app)
    headers = {
        "Host": f"box.example:{port}",
        "X-Custom": "a b",
        "Content-Type": "text/x",
        "Authorization": "Basic c2VjcmV0",
        "Proxy": "http://evil",
    }
    answer = ask(port, "/app/a%20b/c?q=1&r=%20", method="POST", body=b"the body", headers=headers)
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/octet-stream"
    head, _, body = answer.body.partition(b"\n\n")
    assert body == b"the body"
    assert head.decode().splitlines()[:3] == ["arg cgi", "arg --x", "arg hello"]
    variables = answer.variables()
    expected = {
        "GREETING": "hello",
        "BOTH": "hello!",
        "REQUEST_METHOD": "POST",
        "GATEWAY_INTERFACE": "CGI/1.1",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_NAME": "box.example",
        "SERVER_PORT": str(port),
        "SCRIPT_NAME": "/app",
        "PATH_INFO": "/a b/c",
        "QUERY_STRING": "q=1&r=%20",
        "CONTENT_TYPE": "text/x",
        "CONTENT_LENGTH": "8",
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_X_CUSTOM": "a b",
        "HTTP_HOST": f"box.example:{port}",
    }
    assert {name: variables.get(name) for name in expected} == expected
    assert not {"HTTP_PROXY", "HTTP_AUTHORIZATION", "HTTP_CONTENT_LENGTH"} & set(variables)
    assert all("LIMPET" not in name and "PYTHON" not in name for name in variables)


def test_methods_paths_and_bounds(node: RunningNode) -> None:
    app = http_app(
        "bounds",
        "echo",
        annotations={"path": "/in", "methods": "GET,HEAD,POST", "max-body": "1000"},
    )
    port = started(node, app)
    assert ask(port, "/in").status == 200
    assert ask(port, "/in/deeper?x").status == 200
    assert ask(port, "/inner").status == 404
    outside = ask(port, "/elsewhere")
    assert (outside.status, "/in" in outside.text) == (404, True)
    refused = ask(port, "/in", method="DELETE")
    assert (refused.status, refused.headers["allow"]) == (405, "GET, HEAD, POST")
    assert ask(port, "/in", method="POST", body=bytes(1000)).status == 200
    assert ask(port, "/in", method="POST", body=bytes(1001)).status == 413
    assert ask(port, "/in", headers={"X-Long": "x" * 40000}).status == 431
    head = ask(port, "/in", method="HEAD")
    assert (head.status, head.body) == (200, b"")
    assert int(head.headers["content-length"]) > 100
    assert node.exchange("bounds", b"nonsense\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    assert ask(port, "/in").status == 200


@on_both_engines
def test_connections_are_kept_and_pipelined(node: RunningNode) -> None:
    port = started(node, http_app("kept", "echo"))
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
    connection.connect()
    ours = connection.sock
    for index in range(20):
        connection.request("POST", f"/{index}", b"x" * index)
        body = connection.getresponse().read()
        assert f"PATH_INFO=/{index}\n".encode() in body
        assert body.endswith(b"\n\n" + b"x" * index)
    assert connection.sock is ours
    connection.close()
    requests = [b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % index for index in range(20)]
    requests.append(b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    received = node.exchange("kept", b"".join(requests))
    assert received.count(b"HTTP/1.1 200 ") == 21
    paths = [line for line in received.split(b"\n") if line.startswith(b"PATH_INFO=")]
    assert paths == [b"PATH_INFO=/%d" % index for index in range(20)] + [b"PATH_INFO=/last"]


def test_chunked_bodies(node: RunningNode) -> None:
    port = started(node, http_app("chunked", "echo"))
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
    connection.request("POST", "/", iter([b"one ", b"two ", b"x" * 100_000]), encode_chunked=True)
    body = connection.getresponse().read()
    connection.close()
    assert body.endswith(b"\n\none two " + b"x" * 100_000)
    assert b"CONTENT_LENGTH=100008\n" in body
    both = (
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
    )
    received = node.exchange("chunked", both)
    assert received.startswith(b"HTTP/1.1 400 ")
    assert b"smuggled" not in received


@on_both_engines
def test_large_answers_arrive_whole(node: RunningNode) -> None:
    port = started(node, http_app("big", "big"))
    answer = ask(port, "/?kib=4096")
    assert len(answer.body) == 4 << 20
    assert answer.body.startswith(b"0000000000 ")
    assert answer.body.splitlines()[-1].startswith(b"0000065535 ")


def test_a_readiness_probe_decides(node: RunningNode) -> None:
    def probed(status: int) -> dict[str, Any]:
        probe = {"httpGet": {"path": f"/?n={status}", "port": 80}, "periodSeconds": 1}
        return http_app("probed", "status_only", readinessProbe=probe)

    node.apply(probed(503))
    wait_for(lambda: node.events("probed", "Started"), "the worker")
    wait_for(lambda: (node.status("probed")["requests"] or {}).get("total", 0) >= 2, "two probes")
    status = node.status("probed")
    assert (status["phase"], status["ready"], status["restarts"]) == ("Pending", 0, 0)
    node.apply(probed(204))
    assert node.wait_ready("probed", generation=2)["phase"] == "Running"


def test_a_failing_liveness_probe_restarts(node: RunningNode) -> None:
    probe = {
        "httpGet": {"path": "/?n=500", "port": 80},
        "periodSeconds": 1,
        "failureThreshold": 2,
    }
    node.apply(http_app("sick", "status_only", livenessProbe=probe))
    event = wait_for(lambda: node.events("sick", "Unhealthy"), "the probe's verdict")[0]
    assert "liveness probe failed: /?n=500 answered 500" in event["message"]
    wait_for(lambda: node.status("sick")["restarts"] >= 1, "the restart")
    good = {**probe, "httpGet": {"path": "/?n=200", "port": 80}}
    node.apply(http_app("sick", "status_only", livenessProbe=good))
    status = node.wait_ready("sick", generation=2)
    assert status["restarts"] == 0


def test_a_startup_probe_comes_first(node: RunningNode) -> None:
    startup = {"httpGet": {"path": "/?n=200", "port": 80}, "periodSeconds": 1}
    node.apply(http_app("slow-start", "status_only", startupProbe=startup))
    node.wait_ready("slow-start")
    assert node.status("slow-start")["requests"]["total"] >= 1


@on_both_engines
def test_workers_and_replicas_share_the_port(node: RunningNode) -> None:
    app = http_app("shared", "sleep", replicas=2, annotations={"workers": "2"})
    port = started(node, app)
    status = node.status("shared")
    assert status["desired"] == status["ready"] == 4
    assert sorted(w["name"] for w in status["workers"]) == [f"shared-{i}" for i in range(4)]
    assert len({w["pid"] for w in status["workers"]}) == 4
    assert sorted(node.pids("shared")) == sorted(w["pid"] for w in status["workers"])
    calls = [Background(lambda: ask(port, "/?ms=300")) for _ in range(4)]
    begun = time.monotonic()
    assert [call.result().status for call in calls] == [200] * 4
    print(f"four sleeps of 0.3 s on four workers took {time.monotonic() - begun:.2f} s")
    app["spec"]["replicas"] = 1
    node.apply(app)
    node.wait_ready("shared", generation=2)
    assert len(node.pids("shared")) == 2
    app["spec"]["replicas"] = 0
    node.apply(app)
    wait_for(lambda: not node.pids("shared"), "all workers' end")


def test_an_update_loses_no_request(node: RunningNode) -> None:
    port = started(node, http_app("rolling", "echo", env={"VERSION": "0"}, replicas=2))
    with Load(port) as load:
        for version in range(1, 4):
            node.apply(http_app("rolling", "echo", env={"VERSION": str(version)}, replicas=2))
            node.wait_ready("rolling", generation=version + 1)
            load.wait_more(20)
    assert load.failures == []
    assert node.port("rolling") == port
    for _ in range(5):
        assert ask(port).variables()["VERSION"] == "3"
    assert node.status("rolling")["restarts"] == 0


def test_an_update_to_another_module_loses_no_request(node: RunningNode) -> None:
    port = started(node, http_app("swapped", "echo"))
    with Load(port) as load:
        node.apply(http_app("swapped", "ignore_stdin"))
        wait_for(lambda: b"unread\n" in load.bodies, "the new module")
        node.wait_ready("swapped", generation=2)
        load.wait_more(20)
    assert load.failures == []


def test_an_update_that_cannot_run_leaves_what_runs(node: RunningNode) -> None:
    port = started(node, http_app("kept-on", "echo"))
    with Load(port, clients=1) as load:
        node.apply(http_app("kept-on", "not_wasm"))
        wait_for(lambda: node.status("kept-on")["rollout"]["status"] == "failed", "the verdict")
        status = node.wait_ready("kept-on")
        load.wait_more(20)
    assert load.failures == []
    assert (status["phase"], status["rollout"]["in_force"]) == ("Running", 1)
    assert status["rollout"]["message"].startswith("InvalidModule: ")
    node.apply(http_app("kept-on", "ignore_stdin"))
    wait_for(lambda: ask(port).body == b"unread\n", "the corrected module")


def test_deleting_lets_a_request_finish(node: RunningNode) -> None:
    port = started(node, http_app("leaving", "sleep", grace_seconds=10))
    call = Background(lambda: ask(port, "/?ms=1000"))
    wait_for(lambda: established(port), "the request")
    node.delete("Deployment", "leaving")
    assert node.status("leaving")["phase"] == "Terminating"
    assert call.result().body == b"slept\n"
    wait_for(lambda: node.is_gone("leaving"), "the app's end")

    def is_closed() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) != 0

    wait_for(is_closed, "the launcher to close its copy, too")


def test_deleting_ends_what_does_not_finish_in_its_grace(node: RunningNode) -> None:
    port = started(node, http_app("stuck", "stall", grace_seconds=1))
    call = Background(lambda: ask(port))
    wait_for(lambda: established(port), "the request")
    begun = time.monotonic()
    node.delete("Deployment", "stuck")
    wait_for(lambda: node.is_gone("stuck"), "the app's end")
    assert 0.9 < time.monotonic() - begun < 4
    assert isinstance(call.result(), Exception)
    assert "did not finish in 1 s" in node.events("stuck", "Killed")[0]["message"]


def test_an_app_may_come_back_while_it_still_leaves(node: RunningNode) -> None:
    app = http_app("again", "sleep", grace_seconds=10)
    port = started(node, app)
    call = Background(lambda: ask(port, "/?ms=1000"))
    wait_for(lambda: established(port), "the request")
    node.delete("Deployment", "again")
    node.apply(app)
    assert node.request("again", "/?ms=1").body == b"slept\n"
    assert call.result().body == b"slept\n"
    node.wait_ready("again")


def test_stopping_the_node_lets_requests_finish(fresh_node: RunningNode) -> None:
    port = started(fresh_node, http_app("draining", "sleep", grace_seconds=10))
    calls = [Background(lambda: ask(port, "/?ms=700")) for _ in range(2)]
    wait_for(lambda: established(port) == 2, "the requests")
    fresh_node.stop()
    assert [call.result().body for call in calls] == [b"slept\n"] * 2
