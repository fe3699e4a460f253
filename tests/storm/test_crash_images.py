"""Power cuts that are simulated at each write of the node's files: hundreds of images a second."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest
from crash_disk import CrashDisk, Create, Rename, Sync, SyncFolder, Write
from crash_histories import SmallFiles, StateFile, check_images, record_history
from storm_kinds import SUBJECTS

if TYPE_CHECKING:
    from pathlib import Path

FRESH_SEED = int.from_bytes(os.urandom(4), "big")


@pytest.mark.parametrize("seed", [1, 2, 3, FRESH_SEED])
@pytest.mark.parametrize("name", SUBJECTS)
def test_what_was_acknowledged_survives_a_cut(name: str, seed: int) -> None:
    print(f"seed {seed}; again: scripts/storm --kind images-{name} --seed {seed}")
    history = record_history(SUBJECTS[name], seed, changes=30)
    assert check_images(SUBJECTS[name], history, seed, images=60) == 60


class Unsynced(SmallFiles):
    """As `write_atomically`, but for one step that was left out."""

    def change(self, chance: random.Random) -> None:
        name = f"f{chance.randrange(3)}"
        data = chance.randbytes(2000)
        staged = self.folder / f".{name}.part"
        descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.write(descriptor, data)
        self.sync(descriptor)
        os.close(descriptor)
        os.replace(staged, self.folder / name)
        self.content[name] = data

    def sync(self, descriptor: int) -> None:
        """Forget to."""


class UnsyncedFolder(Unsynced):
    def sync(self, descriptor: int) -> None:
        os.fsync(descriptor)


@pytest.mark.parametrize("broken", [Unsynced, UnsyncedFolder])
def test_a_sync_that_is_missing_is_found(broken: type[SmallFiles]) -> None:
    history = record_history(broken, 5, changes=10)
    with pytest.raises(AssertionError, match="after operation"):
        check_images(broken, history, 5, images=60)


class Careless(StateFile):
    """A state file that trusts its disk's cache."""

    def begin(self) -> None:
        super().begin()
        self.database.connection.pragma("synchronous", "off")


def test_a_database_that_does_not_sync_is_found() -> None:
    history = record_history(Careless, 6, changes=30)
    with pytest.raises(AssertionError, match="after operation"):
        check_images(Careless, history, 6, images=60)


def test_what_an_image_may_hold() -> None:
    disk = CrashDisk({"old": b"o"})
    for operation in (
        Create("new"),
        Write("new", 0, b"a" * 1024),
        Sync("new"),
        SyncFolder("."),
        Write("new", 0, b"b" * 1024),
        Rename("new", "old"),
    ):
        disk.follow(operation)
    images = [disk.image(random.Random(seed)) for seed in range(200)]
    assert {frozenset(image) for image in images} == {frozenset({"old", "new"}), frozenset({"old"})}
    contents = {image.get("new", image["old"]) for image in images}
    halves = (b"a" * 512, b"b" * 512)
    assert contents == {first + second for first in halves for second in halves}


def test_the_recorder_sees_everything(tmp_path: Path) -> None:
    """Followed to its end, a history leaves exactly the folder that is really there."""
    from crash_recorder import Recorder

    recorder = Recorder(tmp_path)
    subject = StateFile(recorder.root)
    chance = random.Random(7)
    disk = CrashDisk()
    with recorder.recording():
        subject.begin()
        for _ in range(40):
            subject.change(chance)
    for operation in recorder.log:
        disk.follow(operation)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    files.pop("state.db-shm", None)  # memory that processes share, and no promise
    now = {path: file for path, file in disk._now.items() if not path.endswith("-shm")}
    for file in now.values():
        file.settle()
    assert {path: bytes(file.durable) for path, file in now.items()} == files
    subject.end()
