"""One node for what is measured; its guests are the attacks' (`tests/attack`): they take all they can."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.append(str(Path(__file__).parents[1] / "attack"))
sys.path.append(str(Path(__file__).parents[1] / "process"))

from attack_node import AttackNode
from running_node import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(scope="session")
def limiting_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AttackNode]:
    if os.geteuid() != 0:
        pytest.skip("only root's nodes limit processes and volumes")
    running = AttackNode(tmp_path_factory.mktemp("limiting"), {"LIMPET_NODE_RESYNC_SECONDS": "1"})
    running.start()
    yield running
    running.stop()


@pytest.fixture
def node(limiting_node: AttackNode) -> Iterator[AttackNode]:
    """The shared node, empty before and after."""
    limiting_node.forget_events()
    yield limiting_node
    limiting_node.delete_everything()
    wait_for(lambda: not limiting_node.busy_pids(), "the end of all processes of apps")


@pytest.fixture
def make_node(tmp_path: Path) -> Iterator[Callable[..., AttackNode]]:
    """Make nodes that are the test's own, not yet started; what is left of them is killed."""
    made: list[AttackNode] = []

    def make(name: str = "n", **environment: str) -> AttackNode:
        directory = tmp_path / name
        directory.mkdir()
        made.append(AttackNode(directory, environment))
        return made[-1]

    yield make
    for running in made:
        running.kill()
