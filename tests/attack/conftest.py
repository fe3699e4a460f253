"""One node for all attacks: what one of them did to it would be seen by the next."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.append(str(Path(__file__).parents[1] / "process"))

from attack_node import AttackNode
from running_node import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SETTINGS = {
    "LIMPET_NODE_BACKOFF_SECONDS": "0.2",
    "LIMPET_NODE_RESYNC_SECONDS": "1",
    "LIMPET_LOGS_FILE_BYTES": str(256 << 10),
}
_ALL_WALLS = {"user", "namespaces", "empty-root", "landlock", "seccomp"}


@pytest.fixture(scope="session")
def attacked_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AttackNode]:
    if os.geteuid() != 0:
        pytest.skip("only root's nodes have every wall")
    running = AttackNode(tmp_path_factory.mktemp("attacked"), SETTINGS)
    running.start()
    yield running
    running.stop()


@pytest.fixture
def node(attacked_node: AttackNode) -> Iterator[AttackNode]:
    """The shared node, empty before and after; no attack ends one of its three processes."""
    roles = ("launcher", "agent", "zygote")
    before = [attacked_node.pid(role) for role in roles]
    attacked_node.forget_events()
    yield attacked_node
    assert before == [attacked_node.pid(role) for role in roles]
    attacked_node.delete_everything()
    wait_for(lambda: not attacked_node.busy_pids(), "the end of all processes of apps")


@pytest.fixture
def make_node(tmp_path: Path) -> Iterator[Callable[..., AttackNode]]:
    """Make nodes that are the test's own, not yet started; what is left of them is killed."""
    made: list[AttackNode] = []

    def make(name: str = "n", **environment: str) -> AttackNode:
        directory = tmp_path / name
        directory.mkdir()
        made.append(AttackNode(directory, {**SETTINGS, **environment}))
        return made[-1]

    yield make
    for running in made:
        running.kill()
