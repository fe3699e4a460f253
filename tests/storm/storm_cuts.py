"""Power cuts of a real node: its disk's writes are logged, and nodes start on what a cut leaves of it.

The cut comes at any write of any file, between any two flushes. A new node finds the disk as a device does
at boot: the file system's journal is replayed, then it is mounted. Everything that was acknowledged before
the cut has to be there; what was asked for later must not be.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import block_recorder
from running_node import wait_for
from storm_apps import LEDGER, NAMES, SERVED
from storm_desired import AppSpec, Desired
from storm_disk import SmallDisk, run
from storm_invariants import apps_run_as_desired, no_process_is_left_over
from storm_run import Outcome
from storm_traffic import find_faults
from storm_world import World, storm_folder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from storm_desired import Body, Key

_CHANGES, _CUTS = 15, 4


class RecordedDisk(SmallDisk):
    """A small disk that remembers every write and flush since it was first mounted."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.log = directory / "disk.log"
        self._first = directory / "first.img"
        self._recorded = directory / "recorded"
        self._recorder: subprocess.Popen[str] | None = None

    def make(self) -> None:
        super().make()
        run("cp", "--sparse=always", self.image, self._first)

    def mount(self, *, checked: bool = False) -> None:
        """Mount it behind the recorder."""
        self._recorded.mkdir()
        program = [sys.executable, block_recorder.__file__, str(self.image)]
        self._recorder = subprocess.Popen(
            [*program, str(self._recorded), str(self.log)], stdout=subprocess.PIPE, text=True
        )
        assert self._recorder.stdout is not None
        assert self._recorder.stdout.readline() == "mounted\n"
        self.folder.mkdir(exist_ok=True)
        run("mount", "-o", "loop,noatime", self._recorded / block_recorder.NAME, self.folder)

    def unmount(self) -> None:
        """Unmount both; the recorder ends."""
        if self._recorder is None:
            return
        if self.is_mounted:
            run("umount", self.folder)
        wait_for(self._is_let_go, "the disk's loop device to go", 5)
        self._recorder.communicate(timeout=10)
        self._recorder = None

    def _is_let_go(self) -> bool:
        if not self._recorded.is_mount():
            return True
        return subprocess.run(["umount", self._recorded], capture_output=True).returncode == 0

    @property
    def position(self) -> int:
        """How long the log is."""
        return self.log.stat().st_size if self.log.exists() else 0

    def cut(self, position: int, chance: random.Random) -> SmallDisk:
        """Return the disk that a cut may leave at a position of the log."""
        left = SmallDisk(self.folder.parent, image=self.image.with_name("cut.img"))
        run("cp", "--sparse=always", self._first, left.image)
        block_recorder.write_image(self.log, position, left.image, chance)
        return left


@dataclass(frozen=True, slots=True)
class Change:
    """A change of an object: where the log was when it was asked for, and when it was acknowledged."""

    asked: int
    acknowledged: int
    key: Key
    body: Body | None
    spec: AppSpec | None


@dataclass
class Life:
    """What a node was told while its disk was recorded, between two positions of the log."""

    disk: RecordedDisk
    world: World
    changes: list[Change] = field(default_factory=list)
    first_position: int = 0
    last_position: int = 0

    def tell(self, name: str, call: Callable[[], bool]) -> None:
        """Have an app changed."""
        asked = self.disk.position
        if call():
            self.remember(name, asked, self.disk.position)

    def remember(self, name: str, asked: int, acknowledged: int) -> None:
        """Note what an app is now."""
        desired, key = self.world.desired, ("Deployment", name)
        (body,), (spec,) = desired.objects[key], desired.specs[name]
        self.changes.append(Change(asked, acknowledged, key, body, spec))

    def desired_at(self, position: int) -> Desired:
        """Return what may be there after a cut."""
        before = self.world.desired.objects
        desired = Desired({key: list(bodies) for key, bodies in before.items()})
        for key in {change.key for change in self.changes}:
            known = [each for each in self.changes if each.key == key and each.asked <= position]
            done = [each for each in known if each.acknowledged <= position]
            under_way = known[len(done) :]
            last = done[-1] if done else Change(0, 0, key, None, None)
            desired.objects[key] = [last.body, *(each.body for each in under_way)]
            desired.specs[key[1]] = [last.spec, *(each.spec for each in under_way)]
        return desired


def run_cuts(seed: int) -> Outcome:
    """Run a node, cut its power at random places of the log, and see each time what is left."""
    started = time.monotonic()
    chance = random.Random(seed)
    failure, images, records = "", 0, 0
    with storm_folder() as folder:
        disk = RecordedDisk(folder)
        world = World(folder, disk=disk)
        world.ledger.position = lambda: disk.position
        try:
            life = _live(world, disk, chance)
            records = len(world.ledger.acknowledged)
            for _ in range(_CUTS):
                _check_cut(life, chance)
                images += 1
        except Exception:
            failure = f"{traceback.format_exc()}\n{world.last_words()}"
        finally:
            world.abandon()
    return Outcome(
        seed=seed,
        steps=_CHANGES,
        seconds=time.monotonic() - started,
        images=images,
        faults={"power cut": images},
        records=records,
        failure=failure,
    )


def _live(world: World, disk: RecordedDisk, chance: random.Random) -> Life:
    """Change apps while records are written, then end without a goodbye."""
    world.begin()
    life = Life(disk, world)
    for name in (SERVED, LEDGER):
        life.remember(name, 0, 0)
    life.first_position = disk.position
    for number in range(_CHANGES):
        name = chance.choice(NAMES)
        if chance.random() < 0.25 and world.spec(name) is not None:
            life.tell(name, lambda name=name: world.delete(name))
        else:
            spec = AppSpec(name, number + 2, chance.randint(1, 2), salt=chance.choice((0, 0, 1, 2)))
            life.tell(name, lambda spec=spec: world.apply(spec))
        written = len(world.ledger.acknowledged)
        wait_for(lambda n=written: len(world.ledger.acknowledged) > n, "a record to be written")
    world.quiet()
    life.last_position = disk.position
    world.node.kill()
    disk.unmount()
    return life


def _check_cut(life: Life, chance: random.Random) -> None:
    position = chance.randint(life.first_position, life.last_position)
    world = life.world
    left = life.disk.cut(position, chance)
    left.mount(checked=True)
    kept = world.desired, world.disk
    world.desired, world.disk = life.desired_at(position), left
    try:
        world.node.start()
        wrong = world.desired.settle(world.objects())
        assert not wrong, f"cut at {position}: {'; '.join(wrong)}"
        apps_run_as_desired(world)
        no_process_is_left_over(world)
        ledger = world.ledger
        sure = [each for each, at in ledger.positions.items() if at <= position]
        others = {*ledger.in_doubt, *ledger.acknowledged} - set(sure)
        faults = find_faults(ledger.read(), acknowledged=sure, in_doubt=sorted(others))
        assert not faults, f"cut at {position}: {'; '.join(faults[:10])}"
        world.node.stop()
    finally:
        world.node.kill()
        left.unmount()
        world.desired, world.disk = kept
        left.image.unlink()
