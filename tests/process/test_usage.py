"""What the kernel counts against an app's limits, and how full its volumes are, as the API tells it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from running_node import RunningNode, wait_for
from workloads import claim, command_app, http_app

if TYPE_CHECKING:
    from collections.abc import Mapping


def usage_of(node: RunningNode, name: str) -> Mapping[str, Any]:
    return dict(node.status(name)["usage"])


def test_an_app_that_wants_more_processor_time_is_throttled(node: RunningNode) -> None:
    if "cpu" in node.client.node()["not_enforced"]:
        pytest.skip("needs the cpu controller and the right to use it")
    app = command_app("busy", "loop")
    [made] = app["spec"]["template"]["spec"]["containers"]
    made["resources"] = {"limits": {"cpu": "100m"}}
    node.apply(app)
    wait_for(lambda: (usage_of(node, "busy")["throttled_share"] or 0) > 0.5, "throttling")
    assert usage_of(node, "busy")["throttled_seconds"] > 0


def test_an_idle_app_is_not_throttled(node: RunningNode) -> None:
    if node.client.node()["not_enforced"]:
        pytest.skip("needs control groups and the right to use them")
    node.apply(http_app("calm", "echo"))
    node.wait_ready("calm")
    node.status("calm")
    usage = usage_of(node, "calm")
    assert usage["throttled_share"] in (None, 0.0)
    limits = node.status("calm")["limits"]
    assert 0 < usage["memory_bytes"] <= usage["memory_peak_bytes"] <= limits["memory_bytes"]


def test_a_volume_tells_how_full_it_is(node: RunningNode) -> None:
    volumes = [{"name": "readings", "persistentVolumeClaim": {"claimName": "readings"}}]
    app = http_app("web", "echo", mounts={"/data": "readings"}, volumes=volumes)
    node.apply(claim("readings", "16Mi"), app)
    [volume] = node.wait_ready("web")["volumes"]
    if not node.client.node()["facilities"]["volumes"]:
        pytest.skip("needs root, loop devices and e2fsprogs")
    usage = volume["usage"]
    assert usage["size_bytes"] == pytest.approx(16 << 20, rel=0.06)
    assert usage["used_bytes"] + usage["available_bytes"] == usage["size_bytes"]
    [stored] = node.client.objects(kind="PersistentVolumeClaim", name="readings")
    assert stored["usage"] == usage
