"""What a stolen disk tells: everything that apps were given is looked for in every byte that is kept."""

from __future__ import annotations

import base64
import mmap
import os
from typing import TYPE_CHECKING

import pytest
from attack_node import AttackNode
from running_node import wait_for
from workloads import claim, config_map, secret

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MARKS = {
    "a secret": "planted-in-a-secret-53",
    "a configmap": "planted-in-a-configmap-53",
    "a variable": "planted-in-a-variable-53",
    "a file's name": "planted-in-a-file-name-53",
    "a file": "planted-in-a-file-53",
    "a log": "planted-in-a-log-53",
    "scratch space": "planted-in-scratch-space-53",
}
VOLUMES = [
    {"name": "data", "persistentVolumeClaim": {"claimName": "mine"}},
    {"name": "scratch", "emptyDir": {"sizeLimit": "16Mi"}},
    {"name": "files", "secret": {"secretName": "kept"}},
]
MOUNTS = {"/data": "data", "/scratch": "scratch", "/files": "files"}


def found_in(folder: Path, mark: str) -> list[str]:
    """Return the files below a folder that hold a text, plain or in base64, mounts left out."""
    forms = (mark.encode(), base64.b64encode(mark.encode())[:-4])
    return [str(path) for path in files(folder) if holds(path, forms) or mark in str(path)]


def files(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            yield path


def holds(path: Path, forms: tuple[bytes, ...]) -> bool:
    if not path.stat().st_size:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return any(content.find(form) >= 0 for form in forms)


def plant(node: AttackNode) -> None:
    node.apply(
        claim("mine"),
        secret("kept", word=MARKS["a secret"]),
        config_map("settings", word=MARKS["a configmap"]),
    )
    node.place_escaped(
        "keeper",
        volumes=VOLUMES,
        mounts=MOUNTS,
        env={
            "PLAIN": MARKS["a variable"],
            "WORD": {"secretKeyRef": {"name": "kept", "key": "word"}},
            "SETTING": {"configMapKeyRef": {"name": "settings", "key": "word"}},
        },
    )
    for at, text in ((0, "a file"), (1, "scratch space")):
        node.run("keeper", "put", at=at, name=MARKS["a file's name"], text=MARKS[text])
    node.run("keeper", "put", at=None, name="", text=MARKS["a log"] + "\n")
    wait_for(lambda: MARKS["a log"] in node.logs("keeper"), "the line")


@pytest.fixture(scope="module")
def kept(
    tmp_path_factory: pytest.TempPathFactory, attacked_node: AttackNode
) -> Iterator[dict[str, Path]]:
    """Everything that a node keeps, as it was while it ran and after it was stopped."""
    node = AttackNode(tmp_path_factory.mktemp("kept"))
    node.start()
    plant(node)
    running = {what: found_in(node.data, mark) for what, mark in MARKS.items()}
    node.stop()
    os.sync()
    stopped = {what: found_in(node.data, mark) for what, mark in MARKS.items()}
    yield {"running": running, "stopped": stopped, "node": node}
    node.kill()


@pytest.mark.parametrize("when", ["running", "stopped"])
@pytest.mark.parametrize("what", list(MARKS))
def test_nothing_that_is_kept_can_be_read(kept: dict, when: str, what: str) -> None:
    assert kept[when][what] == []


def test_with_its_key_the_node_reads_all_of_it(kept: dict) -> None:
    """The control: it had been written, and is there for whoever has the key."""
    node = kept["node"]
    node.start()
    node.wait_ready("keeper")
    found = [node.run("keeper", "read_path", path=MARKS["a file's name"], at=at) for at in (0, 1)]
    assert found == [MARKS["a file"], MARKS["scratch space"]]
    assert MARKS["a log"] in node.logs("keeper")
    node.stop()


@pytest.mark.parametrize("what", ["a file", "a file's name", "scratch space"])
def test_without_encryption_the_same_search_finds_it(
    make_node: Callable[..., AttackNode], attacked_node: AttackNode, what: str
) -> None:
    """The control: a node whose kernel can't encrypt, by what its engine's root takes away."""
    node = make_node(LIMPET_TEST_WITHOUT_FSCRYPT="1")
    node.start()
    plant(node)
    node.stop()
    os.sync()
    assert found_in(node.data, MARKS[what])
