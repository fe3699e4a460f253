"""Nodes for the process tests: one that most tests share, and fresh ones for those that kill."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from running_node import Load, RunningNode, wait_for
from workloads import http_app

import wasmedge_prefix

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from limpet.engine.wasmedge.library import Installation

# Failing workers come back soon enough to be waited for, and logs are small enough to overflow.
_SHARED_SETTINGS = {
    "LIMPET_NODE_BACKOFF_SECONDS": "0.4",
    "LIMPET_NODE_RESYNC_SECONDS": "1",
    "LIMPET_LOGS_FILE_BYTES": str(256 << 10),
}


@pytest.fixture(scope="session")
def shared_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    running = RunningNode(tmp_path_factory.mktemp("node"), _SHARED_SETTINGS)
    running.start()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def shared_node_with_wasmedge(
    tmp_path_factory: pytest.TempPathFactory, wasmedge: Installation
) -> Iterator[RunningNode]:
    settings = _SHARED_SETTINGS | wasmedge_prefix.environment(wasmedge)
    running = RunningNode(tmp_path_factory.mktemp("node"), settings)
    running.start()
    yield running
    running.stop()


@pytest.fixture
def node(request: pytest.FixtureRequest) -> Iterator[RunningNode]:
    """The shared node; with `on_both_engines` every app runs on the parameter's engine.

    Empty before and after; its processes are the same throughout.
    """
    engine = getattr(request, "param", None)
    which = "shared_node_with_wasmedge" if engine == "wasmedge" else "shared_node"
    with emptied(request.getfixturevalue(which)) as running:
        running.engine = engine
        yield running
        if engine is not None:
            others = [
                app for app in running.client.apps() if engine not in (app["engine"] or engine)
            ]
            assert others == [], f"ran on {engine}"


@pytest.fixture
def node_with_wasmedge(shared_node_with_wasmedge: RunningNode) -> Iterator[RunningNode]:
    """A shared node that has WasmEdge, too, and chooses by itself."""
    with emptied(shared_node_with_wasmedge) as running:
        running.engine = None
        yield running


@contextmanager
def emptied(running: RunningNode) -> Iterator[RunningNode]:
    before = permanent_pids(running)
    yield running
    assert permanent_pids(running) == before
    running.delete_everything()
    wait_for(lambda: not running.busy_pids(), "the end of all processes of apps")


def permanent_pids(running: RunningNode) -> list[int]:
    return [running.pid(role) for role in ("launcher", "agent", "zygote")]


@pytest.fixture
def make_node(tmp_path: Path) -> Iterator[Callable[..., RunningNode]]:
    """Make nodes that are the test's own, not yet started; what is left of them is killed."""
    made: list[RunningNode] = []

    def make(name: str = "n", **environment: str) -> RunningNode:
        directory = tmp_path / name
        directory.mkdir()
        made.append(RunningNode(directory, environment))
        return made[-1]

    yield make
    for running in made:
        running.kill()


@pytest.fixture
def fresh_node(make_node: Callable[..., RunningNode]) -> Iterator[RunningNode]:
    """A node of the test's own, started; stopped properly unless the test did it."""
    running = make_node()
    running.start()
    yield running
    if running.process is not None:
        running.stop()


@pytest.fixture
def neighbour(node: RunningNode) -> Iterator[Load]:
    """An app next door that is asked all the time and must never miss an answer."""
    node.apply(http_app("neighbour", "echo"))
    node.wait_ready("neighbour")
    with Load(node.port("neighbour"), clients=1, pause_seconds=0.02) as load:
        yield load
        load.wait_more(3)
    assert load.failures == []
