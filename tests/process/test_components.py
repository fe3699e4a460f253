"""Components of WASI 0.2 as apps of a real node: as handlers, as servers, as jobs, from zero."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from running_node import ask, wait_for
from workloads import http_app, job

if TYPE_CHECKING:
    from collections.abc import Callable

    from running_node import RunningNode

_TESTS = Path(__file__).parents[1]
_PORT = 8080


@pytest.fixture(scope="module")
def component() -> Callable[[str], bytes]:
    """Give a component: that of sockets, or what a module of the process tests makes."""
    for folder in ("components", "corpus"):
        sys.path.append(str(_TESTS / folder))
    import component_builds
    from guests import build_guest

    def build(name: str) -> bytes:
        try:
            if name == "sockets":
                return component_builds.build_guest_of("sockets")
            return component_builds.adapt(build_guest(name).read_bytes())
        except component_builds.NotAvailableError as error:
            pytest.skip(f"what makes components is not to be had here: {error}")

    return build


def server(name: str, **fields: Any) -> dict[str, Any]:
    ports = [{"containerPort": _PORT}]
    return http_app(name, "component", args=["serve", str(_PORT), "100000"], ports=ports, **fields)


def test_a_component_answers_each_request(
    node: RunningNode, component: Callable[[str], bytes]
) -> None:
    node.place(component("echo"), http_app("app", "component", env={"GREETING": "hello"}))
    node.wait_ready("app")
    answer = ask(node.port("app"), "/path?q=1", method="POST", body=b"the body")
    assert answer.status == 200
    assert answer.body.endswith(b"\n\nthe body")
    assert answer.variables()["GREETING"] == "hello"
    assert answer.variables()["QUERY_STRING"] == "q=1"
    status = node.status("app")
    assert status["engine"].startswith("wasmtime")
    assert status["engine_reason"] == "it runs components"


def test_a_component_serves_on_its_own_socket(
    node: RunningNode, component: Callable[[str], bytes]
) -> None:
    node.place(component("sockets"), server("server"))
    node.wait_ready("server")
    assert node.status("server")["trigger"] == "socket"
    for number in range(20):
        assert ask(node.port("server"), f"/{number}").body == b"GET /%d HTTP/1.1\n" % number


def test_a_component_starts_from_zero(node: RunningNode, component: Callable[[str], bytes]) -> None:
    """The spare that waits for it can run components."""
    app = server("server", annotations={"idle-timeout": "300ms"})
    node.place(component("sockets"), app)
    for count in range(1, 3):
        node.wait_phase("server", "Idle")
        wait_for(lambda: not node.pids("server"), "the worker's end")
        assert ask(node.port("server"), "/again").status == 200
        assert node.status("server")["cold_start_milliseconds"]["count"] == count


def test_a_port_that_is_not_declared_is_denied(
    node: RunningNode, component: Callable[[str], bytes]
) -> None:
    app = server("server")
    app["spec"]["template"]["spec"]["containers"][0]["args"][1] = "9999"
    node.place(component("sockets"), app)
    wait_for(lambda: any("access-denied" in line for line in node.logs("server")), "its complaint")
    assert node.status("server")["ready"] == 0


def test_a_component_as_a_job(node: RunningNode, component: Callable[[str], bytes]) -> None:
    node.place(component("job_exit"), job("task", "component"))
    node.wait_phase("task", "Succeeded")
