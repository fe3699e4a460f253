"""Histories of changes that the real stores carry out while recorded, and what must hold of any image.

A history is made from a seed. Each change is acknowledged at a point of the log; whatever image a cut
leaves from there on must show it, and may show the change that was under way, whole or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from crash_disk import CrashDisk
from crash_recorder import Recorder

from limpet.engine.protocol import ModuleInfo
from limpet.store.database import Completion, Database, Event, StoredObject
from limpet.store.files import write_atomically
from limpet.store.keyring import Keyring, LockedError
from limpet.store.modules import ModuleStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeAlias

    from crash_disk import Operation

    # What a store shows, as far as it was promised; equal values are equal stores.
    State: TypeAlias = object

_KEY = b"\x07" * 32
_ARTIFACT = ModuleInfo(imports=(), exports=("_start",), memory_bytes=65536)


@dataclass
class History:
    """What was done, and after how many operations of the log each state was acknowledged."""

    log: list[Operation]
    acknowledged: list[tuple[int, State]]


class Subject(Protocol):
    """A store, and the changes that may be made to it."""

    def begin(self) -> None:
        """Open the store in its folder; nothing is there yet."""

    def change(self, chance: random.Random) -> None:
        """Make one change; it is acknowledged on return."""

    def expected(self) -> State:
        """Return what the store has to show now."""

    def end(self) -> None:
        """Let go of the store."""

    def read(self, folder: Path) -> State:
        """Return what the real code shows of an image; whatever it raises is a failure."""

    def agrees(self, found: State, state: State) -> bool:
        """Whether what was read is this state, as far as it was promised."""


def record_history(make: Callable[[Path], Subject], seed: int, *, changes: int) -> History:
    """Carry a history out in a folder of its own."""
    chance = random.Random(seed)
    with scratch_folder() as folder:
        recorder = Recorder(folder)
        subject = make(recorder.root)
        acknowledged: list[tuple[int, State]] = []
        with recorder.recording():
            subject.begin()
            acknowledged.append((len(recorder.log), subject.expected()))
            for _ in range(changes):
                subject.change(chance)
                acknowledged.append((len(recorder.log), subject.expected()))
            subject.end()
        return History(recorder.log, acknowledged)


def check_images(
    make: Callable[[Path], Subject], history: History, seed: int, *, images: int
) -> int:
    """Open so many images with the real code; return how many. Raises AssertionError."""
    chance = random.Random(seed)
    length = len(history.log)
    points = sorted(chance.randint(history.acknowledged[0][0], length) for _ in range(images))
    disk, followed = CrashDisk(), 0
    for number, point in enumerate(points):
        for operation in history.log[followed:point]:
            disk.follow(operation)
        followed = point
        with scratch_folder() as folder:
            for path, content in disk.image(chance).items():
                target = folder / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
            _check_image(make, history, folder, point, f"seed {seed}, image {number}")
    return len(points)


def _check_image(
    make: Callable[[Path], Subject], history: History, folder: Path, point: int, where: str
) -> None:
    done = max(i for i, (at, _) in enumerate(history.acknowledged) if at <= point)
    allowed = [state for _, state in history.acknowledged[done : done + 2]]
    before = history.log[max(0, point - 3) : point]
    subject = make(folder)
    try:
        found = subject.read(folder)
    except Exception as error:
        raise AssertionError(f"{where}, after operation {point} {before}: {error}") from error
    assert any(subject.agrees(found, state) for state in allowed), (
        f"{where}, after operation {point} {before}, change {done}: {found} is none of {allowed}"
    )


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """Return a folder in memory, if there is one: images are not kept."""
    where = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="limpet-crash-", dir=where) as name:
        yield Path(name)


@dataclass
class StateFile:
    """The node's database: objects, ends, events and new keys."""

    folder: Path
    keys: list[bytes] = field(default_factory=lambda: [bytes([n]) * 32 for n in (3, 2, 1)])
    objects: dict[tuple[str, str], str] = field(default_factory=dict)
    completions: dict[tuple[str, str], str] = field(default_factory=dict)
    current: int = 2  # which key the file has; earlier ones in the list are newer

    def begin(self) -> None:
        self.database = self._open(self.folder, self.keys[self.current :])

    def _open(self, folder: Path, keys: list[bytes]) -> Database:
        database = Database(folder / "state.db")
        database.open(keys)
        return database

    def change(self, chance: random.Random) -> None:
        chosen = chance.choices(
            (self._write, self._delete, self._end, self._tell, self._reopen, self._rekey),
            (10, 4, 3, 4, 2, 1),
        )[0]
        chosen(chance)

    def _write(self, chance: random.Random) -> None:
        """Sometimes much at once, so that the write-ahead log is moved to the file now and then."""
        made = []
        for _ in range(chance.choice((1, 1, 2, 5))):
            name = f"a{chance.randrange(12)}"
            body = f"{chance.random()} ".ljust(chance.choice((20, 300, 5000, 90_000)), "x")
            made.append(StoredObject(
                kind="ConfigMap", namespace="default", name=name, generation=1,
                created_at=1.0, body=body, digest=None,
            ))  # fmt: skip
        self.database.write_objects(made)
        self.objects |= {(o.kind, o.name): o.body for o in made}

    def _delete(self, chance: random.Random) -> None:
        if self.objects:
            key = chance.choice(sorted(self.objects))
            self.database.delete_object(key[0], "default", key[1])
            del self.objects[key]
            self.completions.pop(key, None)

    def _end(self, chance: random.Random) -> None:
        key = ("ConfigMap", f"a{chance.randrange(12)}")
        message = str(chance.random())
        self.database.write_completion(Completion(
            kind=key[0], namespace="default", name=key[1], generation=1, reason="Error",
            message=message, exit_code=1, finished_at=1.0,
        ))  # fmt: skip
        self.completions[key] = message

    def _tell(self, chance: random.Random) -> None:
        """Events are history, not promises: they must only not stand in the way."""
        self.database.write_events([
            Event(time=1.0, type="Normal", reason="Started", kind="Pod", namespace="default",
                  name="a", message="m" * chance.randrange(2000))
            for _ in range(chance.randrange(1, 20))
        ])  # fmt: skip

    def _reopen(self, chance: random.Random) -> None:
        self.database.close()
        self.database.open(self.keys[self.current :])

    def _rekey(self, chance: random.Random) -> None:
        if self.current:
            self.current -= 1
            self.database.rekey(self.keys[self.current :])

    def expected(self) -> State:
        return dict(self.objects), dict(self.completions)

    def end(self) -> None:
        self.database.close()

    def read(self, folder: Path) -> State:
        """The keyring is written before the file's key changes, so all keys are known by then."""
        database = self._open(folder, self.keys)
        try:
            objects = {(o.kind, o.name): o.body for o in database.load_objects()}
            ends = {(c.kind, c.name): c.message for c in database.load_completions()}
            database.load_events()
            (verdict,) = database.connection.execute("PRAGMA quick_check").fetchall()
            assert verdict == ("ok",), verdict
            return objects, ends
        finally:
            database.close()

    def agrees(self, found: State, state: State) -> bool:
        return found == state


@dataclass
class Modules:
    """Modules that are published by their digest, and artifacts that may always be lost."""

    folder: Path
    digests: set[str] = field(default_factory=set)

    def begin(self) -> None:
        self.store = ModuleStore(self.folder)
        self.store.open(_KEY)

    def change(self, chance: random.Random) -> None:
        chance.choices((self._add, self._remove, self._compile), (5, 1, 3))[0](chance)

    def _add(self, chance: random.Random) -> None:
        staged = self.store.create_module()
        whole = b""
        for _ in range(chance.randrange(1, 5)):
            piece = chance.randbytes(chance.choice((1, 511, 4096, 9000)))
            staged.write(piece)
            whole += piece
        digest = f"sha256:{hashlib.sha256(whole).hexdigest()}"
        staged.finish(digest)
        self.digests.add(digest)

    def _remove(self, chance: random.Random) -> None:
        """Only what is not needed is removed, so nobody is promised that it is gone."""
        if self.digests:
            digest = chance.choice(sorted(self.digests))
            self.store.remove_module(digest)
            self.digests.remove(digest)

    def _compile(self, chance: random.Random) -> None:
        name = f"{chance.randrange(4)}.cwasm"
        staged, descriptor = self.store.stage_artifact(name)
        try:
            os.write(descriptor, chance.randbytes(chance.randrange(1, 9000)))
            artifact = self.store.seal_artifact(name, staged, descriptor, _ARTIFACT)
        finally:
            os.close(descriptor)
        os.close(artifact.descriptor)

    def expected(self) -> State:
        return frozenset(self.digests)

    def end(self) -> None:
        """Nothing is open."""

    def read(self, folder: Path) -> State:
        store = ModuleStore(folder)
        store.open(_KEY)
        found = set()
        for path in (folder / "modules").iterdir():
            digest = f"sha256:{path.stem}"
            assert f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}" == digest, path
            assert store.has_module(digest)
            found.add(digest)
        for number in range(4):  # one that is not whole is not opened
            artifact = store.open_artifact(f"{number}.cwasm")
            if artifact is not None:
                os.close(artifact.descriptor)
        return frozenset(found)

    def agrees(self, found: State, state: State) -> bool:
        """There may be more: a module whose removal or upload was under way."""
        assert isinstance(found, frozenset)
        assert isinstance(state, frozenset)
        return found >= state


@dataclass
class SmallFiles:
    """What `write_atomically` writes: the old or the new, never a mixture."""

    folder: Path
    content: dict[str, bytes] = field(default_factory=dict)

    def begin(self) -> None:
        """Nothing is open."""

    def change(self, chance: random.Random) -> None:
        name = f"f{chance.randrange(3)}"
        data = chance.randbytes(chance.choice((0, 5, 512, 20_000)))
        write_atomically(self.folder / name, data)
        self.content[name] = data

    def expected(self) -> State:
        return dict(self.content)

    def end(self) -> None:
        """Nothing is open."""

    def read(self, folder: Path) -> State:
        return {
            path.name: path.read_bytes()
            for path in folder.iterdir()
            if not path.name.startswith(".")
        }

    def agrees(self, found: State, state: State) -> bool:
        return found == state


@dataclass
class KeyringFile:
    """The node keys, under an unlock key that changes, too."""

    folder: Path
    unlock: list[bytes] = field(default_factory=lambda: [b"\x01" * 32])
    generations: dict[int, bytes] = field(default_factory=dict)

    def begin(self) -> None:
        self.keyring, _ = Keyring.open(self.folder, self.unlock)
        self._learn()

    def _learn(self) -> None:
        self.generations = {each.generation: each.key for each in self.keyring.generations}

    def change(self, chance: random.Random) -> None:
        if chance.random() < 0.5:
            self.keyring.rotate()
        else:
            self.unlock.insert(0, chance.randbytes(32))
            self.keyring.rotate(self.unlock[0])
        self._learn()

    def expected(self) -> State:
        return dict(self.generations), tuple(self.unlock)

    def end(self) -> None:
        """The file is closed but for its moments of writing."""

    def read(self, folder: Path) -> State:
        """Return the folder: what it shows depends on the keys that are tried."""
        return folder

    def agrees(self, found: State, state: State) -> bool:
        assert isinstance(found, Path)
        assert isinstance(state, tuple)
        generations, unlock = state
        try:
            keyring, _ = Keyring.open(found, unlock[:1])
        except LockedError:
            return False
        return {each.generation: each.key for each in keyring.generations} == generations
