"""The ingress of a real node: rules, their changes, failures of the router, apps at rest."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]
HELLO = ROOT / "examples" / "hello" / "hello.wasm"
PATIENCE_SECONDS = 20.0

Json = dict[str, Any]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("node", timeout=PATIENCE_SECONDS)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class RunningNode:
    """`python -m limpet.node` with an ingress on a port of its own."""

    def __init__(self, directory: Path) -> None:
        self._socket = directory / "s"
        self._log = directory / "node.log"
        self.port = free_port()
        environment = {
            **os.environ,
            "LIMPET_INGRESS_LISTEN": f"127.0.0.1:{self.port}",
            "PYTHONPATH": str(ROOT / "src"),
        }
        options = ["--data", str(directory / "data"), "--socket", str(self._socket)]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "limpet.node", *options],
                env=environment,
                stdout=log,
                stderr=log,
            )
        wait_until(self._is_up, "the node")
        module = HELLO.read_bytes()
        self.digest = "sha256:" + hashlib.sha256(module).hexdigest()
        assert self.call("PUT", f"/v1/modules/{self.digest}", module)[0] == 201

    def _is_up(self) -> bool:
        assert self.process.poll() is None, self._log.read_text()
        with contextlib.suppress(OSError):
            return self.call("GET", "/v1/node")[0] == 200
        return False

    def call(self, method: str, path: str, body: bytes | None = None) -> tuple[int, Json]:
        connection = UnixConnection(self._socket)
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            return response.status, json.loads(response.read() or b"{}")
        finally:
            connection.close()

    def apply(self, *objects: Json) -> None:
        """Apply objects; Deployments run the hello example."""
        requested = [
            {"object": item, "digest": self.digest}
            if item["kind"] == "Deployment"
            else {"object": item}
            for item in objects
        ]
        status, answer = self.call("POST", "/v1/apply", json.dumps({"objects": requested}).encode())
        assert status == 200, answer

    def delete(self, kind: str, name: str) -> None:
        assert self.call("DELETE", f"/v1/objects/{kind}/default/{name}")[0] == 200

    def events(self, reason: str) -> list[str]:
        items = self.call("GET", "/v1/events?limit=1000")[1]["items"]
        return [item["message"] for item in items if item["reason"] == reason]

    def app(self, name: str) -> Json:
        return self.call("GET", f"/v1/apps/default/{name}")[1]

    def get(
        self, path: str = "/", *, host: str = "a.example", method: str = "GET"
    ) -> tuple[int, dict[str, str], str]:
        """Send one request to the ingress over a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_SECONDS)
        try:
            connection.request(method, path, headers={"Host": host})
            response = connection.getresponse()
            headers = {name.lower(): value for name, value in response.getheaders()}
            return response.status, headers, response.read().decode()
        finally:
            connection.close()

    def answers(
        self, status: int, path: str = "/", *, host: str = "a.example"
    ) -> Callable[[], bool]:
        def check() -> bool:
            with contextlib.suppress(ConnectionError):
                return self.get(path, host=host)[0] == status
            return False

        return check

    def is_listening(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def router_pids(self) -> list[int]:
        return [pid for pid in descendants(self.process.pid) if name_of(pid) == "limpet-ingress"]

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        log = self._log.read_text()
        assert "Traceback" not in log, log


def name_of(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def descendants(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, task.read_text().split()):
                found += [child, *descendants(child)]
    return found


@pytest.fixture
def node(tmp_path: Path) -> Iterator[RunningNode]:
    running = RunningNode(tmp_path)
    yield running
    running.close()


def deployment(name: str, **annotations: str) -> Json:
    """Return an app that runs the hello example; annotations are `limpet.dev/`'s."""
    labels = {"app": name}
    container = {"name": name, "image": "./hello.wasm", "ports": [{"containerPort": free_port()}]}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {
                    "labels": labels,
                    "annotations": {f"limpet.dev/{k}": v for k, v in annotations.items()},
                },
                "spec": {"containers": [container]},
            },
        },
    }


def service(app: Json) -> Json:
    """Return a Service on a free port, named as the app."""
    name = app["metadata"]["name"]
    ports = app["spec"]["template"]["spec"]["containers"][0]["ports"]
    port = {"name": "http", "port": free_port(), "targetPort": ports[0]["containerPort"]}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": [port]},
    }


def ingress(*rules: tuple[str, str, str], name: str = "main", path_type: str = "Prefix") -> Json:
    """Return an Ingress of (host, path, service) rules."""

    def rule(host: str, path: str, to: str) -> Json:
        backend = {"service": {"name": to, "port": {"name": "http"}}}
        http = {"paths": [{"path": path, "pathType": path_type, "backend": backend}]}
        return {"host": host, "http": http} if host else {"http": http}

    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {"name": name},
        "spec": {"ingressClassName": "limpet", "rules": [rule(*item) for item in rules]},
    }


def test_two_apps_by_host_and_by_path(node: RunningNode) -> None:
    # Which of them answered shows in what else they serve: the second only GET, under /only.
    one = deployment("one")
    two = deployment("two", methods="GET", path="/only")
    node.apply(
        one,
        two,
        service(one),
        service(two),
        ingress(
            ("one.example", "/", "one"),
            ("*.two.example", "/", "two"),
            ("", "/only", "two"),
            ("", "/missing", "nothing"),
        ),
    )
    wait_until(node.answers(200, host="one.example"), "app one")
    wait_until(node.answers(200, "/only/x", host="x.two.example"), "app two")
    assert node.get("/p?name=Ann", host="ONE.example:80")[2] == "Hello, Ann!\nYou sent GET /p\n"
    assert node.get("/p", host="one.example", method="DELETE")[0] == 200
    assert node.get("/only/y", host="any.example")[2] == "Hello, world!\nYou sent GET /y\n"
    assert node.get("/only/y", host="any.example", method="DELETE")[0] == 405
    assert node.get("/p", host="x.two.example")[0] == 404
    status, headers, body = node.get("/", host="any.example")
    assert (status, body) == (404, "nothing is served here\n")
    assert node.get("/onlyness", host="any.example")[2] == body
    assert node.get("/", host="y.x.two.example")[2] == body
    status, headers, body = node.get("/missing", host="any.example")
    assert (status, headers["retry-after"]) == (503, "5")
    assert node.get("/p", host="one.example", method="HEAD")[::2] == (200, "")


def test_rules_come_change_and_go(node: RunningNode) -> None:
    app = deployment("one")
    assert not node.is_listening()
    node.apply(app, ingress(("a.example", "/", "one")))
    wait_until(node.answers(503), "an ingress without its Service")
    node.apply(service(app))
    wait_until(node.answers(200), "the Service")
    node.apply(ingress(("b.example", "/", "one")))
    wait_until(node.answers(200, host="b.example"), "the new rule")
    assert node.get(host="a.example")[0] == 404
    node.delete("Deployment", "one")
    wait_until(node.answers(503, host="b.example"), "a Service without an app")
    node.delete("Ingress", "main")
    wait_until(lambda: not node.is_listening(), "the closed port")
    wait_until(lambda: not node.router_pids(), "the router's end")
    node.apply(app, ingress(("c.example", "/", "one")))
    wait_until(node.answers(200, host="c.example"), "the ingress anew")
    assert node.events("IngressRestarted") == []


def test_a_request_in_flight_outlives_its_ingress(node: RunningNode) -> None:
    app = deployment("one")
    node.apply(app, service(app), ingress(("", "/", "one")))
    wait_until(node.answers(200), "the app")
    with socket.create_connection(("127.0.0.1", node.port), timeout=PATIENCE_SECONDS) as client:
        client.sendall(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\na")
        wait_until(lambda: len(established(node.port)) == 1, "the client at the router")
        node.delete("Ingress", "main")
        wait_until(lambda: not node.is_listening(), "the closed port")
        client.sendall(b"bc")
        assert client.recv(4096).startswith(b"HTTP/1.1 200 ")
    wait_until(lambda: not node.router_pids(), "the router's end")


def established(port: int) -> list[str]:
    """Return the established connections to a local port, as /proc/net/tcp has them."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    fields = [line.split() for line in lines]
    return [f[1] for f in fields if f[1].endswith(f":{port:04X}") and f[3] == "01"]


def test_a_killed_router_comes_back(node: RunningNode) -> None:
    app = deployment("one")
    node.apply(app, service(app), ingress(("", "/", "one")))
    wait_until(node.answers(200), "the app")
    for killed in range(1, 4):
        (pid,) = node.router_pids()
        os.kill(pid, signal.SIGKILL)
        started = time.monotonic()
        wait_until(node.answers(200), "the router after its end")
        assert time.monotonic() - started < 5
        assert node.router_pids() != [pid]
        wait_until(
            lambda killed=killed: len(node.events("IngressRestarted")) >= min(killed, 1),
            "the event",
        )
    assert "SIGKILL" in node.events("IngressRestarted")[0]


def test_a_terminated_router_finishes_and_comes_back(node: RunningNode) -> None:
    app = deployment("one")
    node.apply(app, service(app), ingress(("", "/", "one")))
    wait_until(node.answers(200), "the app")
    (pid,) = node.router_pids()
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: pid not in node.router_pids(), "its end")
    wait_until(node.answers(200), "the next router")


def test_no_client_is_refused_while_the_agent_restarts(node: RunningNode) -> None:
    app = deployment("one")
    node.apply(app, service(app), ingress(("", "/", "one")))
    wait_until(node.answers(200), "the app")
    (router,) = node.router_pids()
    (agent,) = [pid for pid in descendants(node.process.pid) if name_of(pid) == "limpet-agent"]
    os.kill(agent, signal.SIGKILL)
    statuses = []
    while not node.router_pids() or router in node.router_pids():
        statuses.append(node.get()[0])
    statuses += [node.get()[0] for _ in range(20)]
    assert set(statuses) == {200}


def test_an_app_at_rest_is_woken_by_the_ingress(node: RunningNode) -> None:
    app = deployment("one", **{"idle-timeout": "300ms"})
    node.apply(app, service(app), ingress(("", "/", "one")))
    wait_until(node.answers(200), "the app")
    for _ in range(3):
        wait_until(lambda: node.app("one")["phase"] == "Idle", "rest")
        assert node.get("/p", method="POST")[2] == "Hello, world!\nYou sent POST /p\n"


def test_no_request_is_lost_while_an_app_goes_to_rest(node: RunningNode) -> None:
    app = deployment("one", **{"idle-timeout": "50ms"})
    node.apply(app, service(app), ingress(("", "/", "one")))
    wait_until(node.answers(200), "the app")
    failures: list[object] = []

    def ask(pause: float) -> None:
        for _ in range(25):
            status, _, body = node.get("/p", method="POST")
            if status != 200:
                failures.append((status, body))
            time.sleep(pause)

    threads = [threading.Thread(target=ask, args=(pause,)) for pause in (0.048, 0.05, 0.053)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_port_that_is_taken_is_tried_again(node: RunningNode) -> None:
    app = deployment("one")
    with socket.create_server(("127.0.0.1", node.port)):
        node.apply(app, service(app), ingress(("", "/", "one")))
        wait_until(lambda: node.events("IngressFailed"), "the event")
    assert "taken by another program" in node.events("IngressFailed")[0]
    wait_until(node.answers(200), "the port")


def test_too_many_rules_leave_those_before_in_force(node: RunningNode) -> None:
    app = deployment("one")
    node.apply(app, service(app), ingress(("", "/", "one")))
    wait_until(node.answers(200), "the app")
    many = [(f"host-{number}.a-rather-long-name.example", "/", "one") for number in range(1000)]
    node.apply(ingress(*many, name="many"))
    wait_until(lambda: node.events("IngressFailed"), "the event")
    assert node.get()[0] == 200
    node.delete("Ingress", "many")
    node.apply(ingress(("a.example", "/x", "one")))
    wait_until(node.answers(404), "the rules after that")
