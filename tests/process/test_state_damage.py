"""Real nodes whose files were damaged while they were down: they come up, and say what that cost."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from running_node import Load, RunningNode, wait_for
from workloads import config_map, http_app

from limpet.errors import TemporaryError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_PAGE = 4096


def flip(path: Path, *places: int) -> None:
    data = bytearray(path.read_bytes())
    for place in places:
        data[place] ^= 1
    path.write_bytes(data)


def overwrite(path: Path) -> None:
    """Damage every page of a file that is open."""
    with path.open("r+b", buffering=0) as file:
        for place in range(100, path.stat().st_size, _PAGE):
            file.seek(place)
            file.write(b"damaged!")


def backups(node: RunningNode) -> list[Path]:
    return sorted(node.data.glob("backups/state-*.db"))


@pytest.mark.parametrize("where", ["beginning", "everywhere"])
def test_a_damaged_state_is_restored_from_its_backup(
    make_node: Callable[..., RunningNode], where: str
) -> None:
    node = make_node(LIMPET_STATE_BACKUP_MINUTES="0.001")
    node.start()
    node.apply(http_app("serves", "echo"), config_map("kept", text=os.urandom(9000).hex()))
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


@pytest.mark.parametrize("by", ["reading", "writing"])
def test_a_state_that_is_damaged_while_the_node_runs_is_restored(
    make_node: Callable[..., RunningNode], by: str
) -> None:
    node = make_node(LIMPET_STATE_BACKUP_MINUTES="0.001", LIMPET_NODE_RESYNC_SECONDS="1")

    def use() -> None:
        if by == "reading":
            node.client.release(namespace="default", name="serves", number=1)
        else:
            node.apply(config_map("kept", text="y"))

    node.start()
    node.apply(http_app("serves", "echo"), config_map("kept", text=os.urandom(300_000).hex()))
    node.apply(http_app("serves", "echo", env={"RELEASE": "2"}))
    node.wait_ready("serves")
    node.stop()  # what waits in the log is in the file then
    node.start()
    node.wait_ready("serves")
    node.apply(config_map("last", text="x"))
    before = len(backups(node))
    wait_for(lambda: len(backups(node)) > before or before == 3, "a backup of it")
    agent, worker = node.pid("agent"), node.status("serves")["workers"][0]["pid"]
    with Load(node.port("serves"), clients=1, pause_seconds=0.01) as load:
        overwrite(node.data / "state.db")
        with pytest.raises(TemporaryError, match="The node restores it now"):
            use()
        wait_for(lambda: node.pid("agent") != agent, "another agent")
        node.wait_up()
        node.wait_ready("serves")
        load.wait_more(20)
    assert load.failures == []
    assert node.status("serves")["workers"][0]["pid"] == worker
    [event] = node.events("test", "StateRestored")
    assert "state.db.damaged-1" in event["message"]
    [event] = node.events("test", "AgentRestarted")
    assert "to have the damaged state restored" in event["message"]
    node.apply(config_map("after", text="x"))
    node.restart()
    assert node.wait_ready("serves")
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
