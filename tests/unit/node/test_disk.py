"""What goes from a real store, and what stays; only the disk's size and the clock are made up."""

import hashlib
import os
import threading
from types import SimpleNamespace

import pytest

from limpet.engine.protocol import ModuleInfo
from limpet.node import disk as disk_module
from limpet.node.conditions import Conditions
from limpet.node.disk import DISK_PRESSURE, DiskKeeper, DiskPressureError
from limpet.settings import DiskSettings
from limpet.store.database import Database, StoredObject
from limpet.store.modules import ModuleStore
from limpet.store.pulls import Pull, Pulls
from limpet.store.reserve import Reserve

MIB = 1 << 20
SETTINGS = DiskSettings(
    free_bytes=100 * MIB,
    modules_bytes=512 * MIB,
    unused_hours=24.0,
    grace_minutes=60.0,
    reserve_bytes=MIB,
)


class Uses:
    def __init__(self, database, store):
        self.database = database
        self.pulls = Pulls(database, store.has_module)
        self.sources = set()
        self.code = set()

    def needed_digests(self):
        return self.database.load_needed_digests() | self.pulls.named(self.sources)

    def forget_missing(self):
        self.pulls.drop_missing()

    def open_code(self):
        return self.code


class World:
    """A node's files, a disk that is as full as a test says, and a clock."""

    def __init__(self, path, monkeypatch):
        self.free = 1000 * MIB
        self.now = 10_000.0
        self.events = []
        self.conditions = Conditions()
        self.store = ModuleStore(path)
        self.store.open(b"k" * 32)
        self.database = Database(path / "state.db")
        self.database.open([b"k" * 32])
        self.uses = Uses(self.database, self.store)
        self.keeper = DiskKeeper(
            path,
            SETTINGS,
            store=self.store,
            backups=self.database.backups,
            reserve=Reserve(path, MIB),
            uses=self.uses,
            conditions=self.conditions,
            record=lambda reason, message, is_warning: self.events.append((reason, is_warning)),
        )
        real = os.statvfs(path)
        figures = SimpleNamespace(f_frsize=1, f_blocks=4096 * MIB, f_bavail=0)
        assert real.f_frsize

        def statvfs(_path):
            figures.f_bavail = self.free
            return figures

        monkeypatch.setattr(disk_module.os, "statvfs", statvfs)
        monkeypatch.setattr(disk_module.time, "monotonic", lambda: self.now)

    def look(self):
        self.now += 5
        self.keeper.look()

    def module(self, name, *, code=True):
        data = name.encode() * 1000
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        staged = self.store.create_module()
        staged.write(data)
        staged.finish(digest)
        if code:
            artifact = f"{digest[7:]}-engine.cwasm"
            path, descriptor = self.store.stage_artifact(artifact)
            os.write(descriptor, b"code" * 1000)
            info = ModuleInfo(imports=(), exports=(), memory_bytes=0)
            os.close(self.store.seal_artifact(artifact, path, descriptor, info).descriptor)
            os.close(descriptor)
        return digest

    def want(self, digest, name="a"):
        self.database.write_objects(
            [
                StoredObject(
                    kind="Deployment",
                    namespace="default",
                    name=name,
                    generation=1,
                    created_at=1.0,
                    body="{}",
                    digest=digest,
                )
            ]
        )

    def release(self, digest):
        self.database.write(
            "INSERT INTO releases VALUES ('Deployment', 'default', 'a', ?, 1.0, x'01', ?, 'x', '', NULL)",
            [(1, digest)],
        )

    def there(self, digest):
        kinds = {file.kind.value for file in self.store.files() if file.digest == digest}
        return self.store.has_module(digest), "artifact" in kinds


@pytest.fixture
def world(tmp_path, monkeypatch):
    world = World(tmp_path, monkeypatch)
    yield world
    world.database.close()


def test_what_a_desired_or_a_previous_release_needs_is_never_removed(world):
    desired, previous, none = world.module("d"), world.module("p"), world.module("n")
    world.want(desired)
    world.release(previous)
    world.uses.code = {f"{desired[7:]}-engine.cwasm"}
    world.free = 0
    for _ in range(3):
        world.look()
        world.now += 30 * 86400
    assert world.there(desired) == (True, True)
    assert world.there(previous) == (True, False), "its code is compiled again when it is needed"
    assert world.there(none) == (False, False)


def test_a_module_that_was_uploaded_a_moment_ago_waits_for_its_app(world):
    world.look()
    digest = world.module("fresh")
    world.free = 0
    world.look()
    assert world.there(digest) == (True, True)
    world.now += 3500
    world.look()
    assert world.there(digest) == (True, True)
    world.keeper.note_use(digest)
    world.now += 3500
    world.look()
    assert world.store.has_module(digest), "somebody has asked whether it is here"
    world.now += 3600
    world.look()
    assert not world.store.has_module(digest)


def test_what_was_there_before_the_agent_has_had_its_grace(world):
    digest = world.module("old")
    world.free = 0
    world.look()
    assert not world.store.has_module(digest)


def test_what_nobody_has_needed_for_long_goes_by_itself(world):
    digest = world.module("a")
    world.want(digest)
    world.look()
    world.database.delete_object("Deployment", "default", "a")
    world.now += 700
    world.look()
    world.now += 22 * 3600
    world.look()
    assert world.store.has_module(digest)
    world.now += 3 * 3600
    world.look()
    assert world.there(digest) == (False, False)
    assert ("Evicted", False) in world.events


def test_the_clock_on_the_wall_does_not_matter(world, monkeypatch):
    world.look()
    digest = world.module("fresh")
    for path in world.store._modules.iterdir():
        os.utime(path, (0, 0))
    world.free = 0
    world.look()
    assert world.store.has_module(digest)


def test_an_unfinished_file_goes_only_when_nobody_writes_to_it(world):
    world.look()
    staged = world.store.create_module()
    (name,) = (file.path for file in world.store.files())
    world.now += 700
    world.look()
    world.now += 23 * 3600
    staged.write(b"more")
    world.look()
    assert name.exists()
    world.now += 23 * 3600
    world.look()
    assert name.exists()
    world.now += 2 * 3600
    world.look()
    assert not name.exists()
    staged.abandon()


def test_what_a_wanted_source_is_now_stays_and_what_it_was_goes(world):
    old, latest, other = world.module("old"), world.module("latest"), world.module("other")
    wanted, unwanted = "oci://r.example/a:latest", "oci://r.example/b:1"
    for source, module in ((wanted, old), (wanted, latest), (unwanted, other)):
        world.uses.pulls.write(Pull(source=source, module=module, evidence="{}"))
    world.uses.sources = {wanted}
    world.free = 0
    world.look()
    assert world.store.has_module(latest)
    assert not world.store.has_module(old)
    assert not world.store.has_module(other)
    rows = world.database.connection.execute("SELECT source, module FROM pulls").fetchall()
    assert rows == [(wanted, latest)], "what is known of a module goes with it"
    world.uses.sources = set()
    world.look()
    world.now += 3600
    world.look()
    assert not world.store.has_module(latest)


def test_what_is_known_of_a_module_that_nobody_needs_stays_as_long_as_it_is_here(world):
    digest = world.module("a")
    world.uses.pulls.write(Pull(source="oci://r.example/a:1", module=digest))
    world.look()
    assert world.uses.pulls.latest("oci://r.example/a:1").module == digest


def test_pressure_is_told_once_and_its_end_as_well(world):
    world.look()
    assert world.events == []
    assert not world.conditions.is_true(DISK_PRESSURE)
    world.free = 99 * MIB
    for _ in range(3):
        world.look()
    assert world.events.count(("NodeHasDiskPressure", True)) == 1
    assert world.conditions.is_true(DISK_PRESSURE)
    world.free = 105 * MIB
    world.look()
    assert world.conditions.is_true(DISK_PRESSURE), "it ends a little above where it began"
    world.free = 120 * MIB
    world.look()
    world.look()
    assert world.events.count(("NodeHasNoDiskPressure", False)) == 1
    (condition,) = world.conditions.all()
    assert condition.reason == "KubeletHasNoDiskPressure"


def test_under_pressure_nothing_new_is_stored(world):
    world.store.admit = world.keeper.admit
    world.look()
    world.module("fits")
    world.free = 50 * MIB
    with pytest.raises(DiskPressureError, match="Delete apps or volumes"):
        world.store.create_module()
    world.free = 500 * MIB
    world.module("fits again")


def test_older_backups_give_way(world):
    for generation in range(1, 4):
        world.want(f"sha256:{generation:064}")
        world.database.back_up()
    world.free = 0
    world.look()
    assert [path.name for path in world.database.backups.paths()] == ["state-000003.db"]


def test_nobody_waits_for_a_backup_that_is_being_made(world):
    for generation in range(1, 3):
        world.want(f"sha256:{generation:064}")
        world.database.back_up()
    is_held, is_over, in_time = threading.Event(), threading.Event(), []

    def back_up():
        with world.database.backups.paused():
            is_held.set()
            in_time.append(is_over.wait(20))

    thread = threading.Thread(target=back_up)
    thread.start()
    is_held.wait()
    world.free = 0
    with pytest.raises(DiskPressureError):
        world.keeper.admit()
    assert len(world.database.backups.paths()) == 2
    is_over.set()
    thread.join()
    assert in_time == [True]
    world.look()
    assert len(world.database.backups.paths()) == 1


def test_files_of_others_are_left_alone(world, tmp_path):
    mine = tmp_path / "modules" / "notes.txt"
    mine.write_text("mine")
    world.free = 0
    world.now += 30 * 86400
    world.look()
    assert mine.read_text() == "mine"


def test_the_reserve_comes_back_when_there_is_room(tmp_path, monkeypatch):
    free = [10 * MIB]
    monkeypatch.setattr("limpet.store.reserve.free_bytes", lambda _path: free[0])
    reserve = Reserve(tmp_path, MIB)
    assert reserve.restore()
    assert (tmp_path / "reserve").stat().st_blocks * 512 >= MIB
    assert not reserve.give_up(), "the disk is not full"
    free[0] = 0
    assert reserve.give_up()
    assert not reserve.give_up()
    assert not reserve.restore()
    free[0] = 3 * MIB
    assert reserve.restore()
