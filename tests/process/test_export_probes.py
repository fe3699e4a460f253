"""Probes that are functions of the module: of every trigger, on both engines, failures told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from engines import on_both_engines
from running_node import ask, wait_for
from workloads import command_app, http_app

if TYPE_CHECKING:
    from running_node import RunningNode


def calling(name: str, **fields: Any) -> dict[str, Any]:
    return {"exec": {"command": ["wasm-export", name]}, "periodSeconds": 1, **fields}


@on_both_engines
def test_a_healthy_app_is_ready_and_serves(node: RunningNode) -> None:
    node.apply(http_app("well", "probed", readinessProbe=calling("healthy")))
    node.wait_ready("well")
    assert ask(node.port("well")).body == b"served\n"
    assert "asked" in node.logs("well"), "what a probe prints is in the app's log"


@on_both_engines
def test_a_number_other_than_zero_is_a_failure(node: RunningNode) -> None:
    probe = calling("healthy", failureThreshold=1)
    app = http_app("unwell", "probed", env={"GUEST_SICK": "7"}, startupProbe=probe)
    node.apply(app)
    event = wait_for(lambda: node.events("unwell", "Unhealthy"), "the event")[0]
    assert "startup probe failed: healthy returned 7" in event["message"]
    assert node.status("unwell")["ready"] == 0


@on_both_engines
def test_a_trap_is_a_failure(node: RunningNode) -> None:
    probe = calling("trapping", failureThreshold=1)
    node.apply(http_app("trapped", "probed", livenessProbe=probe))
    event = wait_for(lambda: node.events("trapped", "Unhealthy"), "the event")[0]
    assert "liveness probe failed: trapping ended by Trap" in event["message"]


@on_both_engines
def test_a_command_is_asked_while_it_runs(node: RunningNode) -> None:
    app = command_app("busy", "probed", env={"GUEST_MS": "600000"})
    [container] = app["spec"]["template"]["spec"]["containers"]
    container["readinessProbe"] = calling("healthy")
    node.apply(app)
    node.wait_ready("busy")
    assert "asked" in node.logs("busy")
    assert node.status("busy")["restarts"] == 0


@pytest.mark.parametrize("name", ["absent", "memory"])
def test_a_function_that_is_not_there(node: RunningNode, name: str) -> None:
    node.apply(http_app("lacking", "probed", readinessProbe=calling(name)))
    if name == "absent":
        status = node.wait_reason("lacking", "MissingExport")
        assert "the module exports no absent, which a probe calls" in status["message"]
        return
    wait_for(lambda: node.status("lacking")["workers"], "the worker")
    assert node.status("lacking")["ready"] == 0
