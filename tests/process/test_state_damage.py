"""Real nodes whose files were damaged while they were down: they come up, and say what that cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from running_node import RunningNode, wait_for
from workloads import config_map, http_app

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_PAGE = 4096


def flip(path: Path, *places: int) -> None:
    data = bytearray(path.read_bytes())
    for place in places:
        data[place] ^= 1
    path.write_bytes(data)


def backups(node: RunningNode) -> list[Path]:
    return sorted(node.data.glob("backups/state-*.db"))


@pytest.mark.parametrize("where", ["beginning", "everywhere"])
def test_a_damaged_state_is_restored_from_its_backup(
    make_node: Callable[..., RunningNode], where: str
) -> None:
    node = make_node(LIMPET_STATE_BACKUP_MINUTES="0.001")
    node.start()
    node.apply(http_app("serves", "echo"), config_map("kept", text="x" * 9000))
    node.wait_ready("serves")
    wait_for(lambda: backups(node), "a backup")
    # One that was begun before the last change may still be made: the next holds all.
    node.apply(config_map("later", text="more"))
    before = len(backups(node))
    wait_for(lambda: len(backups(node)) > before or before == 3, "a backup of it")
    node.stop()
    state = node.data / "state.db"
    places = range(100, state.stat().st_size, _PAGE) if where == "everywhere" else [3]
    flip(state, *places)
    damaged = state.read_bytes()
    node.start()
    assert node.wait_ready("serves")
    assert node.request("serves").status == 200
    [event] = node.events("test", "StateRestored")
    assert event["type"] == "Warning"
    assert "UTC" in event["message"]
    assert "state.db.damaged-1" in event["message"]
    assert (node.data / "state.db.damaged-1").read_bytes() == damaged
    node.restart()
    assert len(node.events("test", "StateRestored")) == 1, "it is told once"
    node.stop()


def test_a_damaged_keyring_is_restored_from_its_copy(fresh_node: RunningNode) -> None:
    fresh_node.apply(http_app("serves", "echo"))
    fresh_node.wait_ready("serves")
    fresh_node.stop()
    flip(fresh_node.data / "keyring.db", 3)
    fresh_node.start()
    fresh_node.wait_ready("serves")
    assert fresh_node.events("test", "KeyringRestored")
    assert (fresh_node.data / "keyring.db.damaged-1").exists()
    fresh_node.restart()
    assert len(fresh_node.events("test", "KeyringRestored")) == 1


def test_backups_can_be_read_after_a_rotation(make_node: Callable[..., RunningNode]) -> None:
    node = make_node(LIMPET_STATE_BACKUP_MINUTES="0.001")
    node.start()
    node.apply(http_app("serves", "echo"))
    node.wait_ready("serves")
    wait_for(lambda: backups(node), "a backup")
    node.client.rotate_keys()
    node.stop()
    flip(node.data / "state.db", 3)
    node.start()
    node.wait_ready("serves")
    assert node.events("test", "StateRestored")
    node.stop()


def test_idle_nodes_make_no_backups(make_node: Callable[..., RunningNode]) -> None:
    node = make_node(LIMPET_STATE_BACKUP_MINUTES="0.001")
    node.start()
    node.apply(config_map("one", text="1"))
    wait_for(lambda: backups(node), "a backup")
    newest = backups(node)[-1].name
    node.restart()
    node.apply(config_map("two", text="2"))
    wait_for(lambda: backups(node)[-1].name != newest, "the next backup")
    numbers = [int(path.stem.rpartition("-")[2]) for path in backups(node)]
    assert numbers[-1] <= 3, "the restart alone is no reason for one"
    node.stop()
