"""Who goes first when memory runs short: real processes, and the kernel's own figures."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from running_node import Json, RunningNode, name_of, wait_for
from workloads import http_app

from limpet.linux.process import effective_capabilities

if TYPE_CHECKING:
    from collections.abc import Callable

_SPARE = "limpet-spare"


def oom_score(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


def condition(node: RunningNode) -> Json:
    return next(c for c in node.client.node()["conditions"] if c["type"] == "MemoryPressure")


def spares(node: RunningNode) -> list[int]:
    return [pid for pid in node.pids() if name_of(pid) == _SPARE]


def at_rest(name: str, timeout: str) -> Json:
    return http_app(name, "echo", annotations={"idle-timeout": timeout})


def test_apps_are_killed_before_the_node(fresh_node: RunningNode) -> None:
    fresh_node.apply(http_app("serves", "echo"), at_rest("rests", "200ms"))
    status = fresh_node.wait_ready("serves")
    worker = oom_score(status["workers"][0]["pid"])
    own = {role: oom_score(fresh_node.pid(role)) for role in ("launcher", "agent", "zygote")}
    [spare] = wait_for(lambda: spares(fresh_node), "a spare")
    assert worker == oom_score(spare) == 500
    # Where this user may not lower it (capabilities(7), CAP_SYS_RESOURCE) it is what it was.
    may_lower = effective_capabilities() >> 24 & 1
    assert set(own.values()) == {-900 if may_lower else oom_score(os.getpid())}


def test_without_pressure_nothing_changes(fresh_node: RunningNode) -> None:
    found = wait_for(lambda: fresh_node.client.node()["conditions"], "the conditions")
    by_type = {each["type"]: each for each in found}
    assert set(by_type) == {"DiskPressure", "MemoryPressure"}
    assert by_type["MemoryPressure"]["status"] == "False"
    assert by_type["MemoryPressure"]["reason"] == "KubeletHasSufficientMemory"


def test_spares_go_first_then_apps_that_come_back(make_node: Callable[..., RunningNode]) -> None:
    # So much is never available, on any machine.
    node = make_node(LIMPET_MEMORY_FREE_BYTES=str(1 << 50))
    node.start()
    node.apply(http_app("serves", "echo"), at_rest("wakes", "1h"))
    node.wait_ready("serves")
    port = node.port("wakes")
    assert node.request("wakes").status == 200
    pid = node.status("wakes")["workers"][0]["pid"]
    assert condition(node)["status"] == "True"
    node.wait_phase("wakes", "Idle", 60)
    wait_for(lambda: not Path(f"/proc/{pid}").exists(), "the worker's end")
    [event] = node.events("wakes", "Evicted")
    assert "its next client starts it again" in event["message"]
    assert not spares(node), "nothing is kept in reserve"
    assert node.request("wakes").status == 200, "it came back"
    assert node.port("wakes") == port
    assert node.status("serves")["restarts"] == 0
    assert not node.events("serves", "Evicted"), "nobody would start it again"
    assert "NodeHasInsufficientMemory" in [e["reason"] for e in node.events("test")]
    node.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's workers are behind all walls")
def test_a_worker_has_no_file_to_change_its_place_with(fresh_node: RunningNode) -> None:
    fresh_node.apply(http_app("serves", "echo"))
    pid = fresh_node.wait_ready("serves")["workers"][0]["pid"]
    assert not Path(f"/proc/{pid}/root/proc").exists()
