"""How what has ended is written, kept back while the disk is full, and brought back."""

from types import SimpleNamespace

import pytest

from limpet.node.completions import Completions
from limpet.node.slots import Slots
from limpet.plan import AppKey
from limpet.store.database import Completion, StoreFullError
from limpet.worker.process import ExitInfo

FAILED = ExitInfo(reason="Error", message="it said 3", exit_code=3, finished_at=2.0)
KEY = ("Job", "default", "a")


class World:
    """A store that may be full, and one job."""

    def __init__(self, *completions):
        self.loaded = list(completions)
        self.written = []
        self.is_full = False
        self.stored = {KEY: SimpleNamespace(generation=2)}
        self.completions = Completions(self, self)
        self.slots = Slots()
        self.runtime = SimpleNamespace(
            prepared=SimpleNamespace(plan=SimpleNamespace(slots=1)),
            app=SimpleNamespace(kind="Job"),
            key=AppKey("default", "a"),
            object_key=KEY,
            generation=2,
            slots=self.slots,
            wanted_slots=1,
        )

    def load_completions(self):
        return self.loaded

    def write_completion(self, completion):
        if self.is_full:
            raise StoreFullError("full")
        self.written.append(completion)

    def end(self):
        self.slots.of(0).last_exit = FAILED
        self.slots.of(0).is_completed = True
        self.completions.note(self.runtime)


def completion(generation=2):
    return Completion(
        kind="Job",
        namespace="default",
        name="a",
        generation=generation,
        reason="Error",
        message="it said 3",
        exit_code=3,
        finished_at=2.0,
    )


def test_an_end_is_written_once():
    world = World()
    world.completions.note(world.runtime)
    assert world.written == []
    world.end()
    world.end()
    assert world.written == [completion()]


def test_on_a_full_disk_it_waits():
    world = World()
    world.is_full = True
    world.end()
    with pytest.raises(StoreFullError):
        world.completions.write()
    world.is_full = False
    world.completions.write()
    world.completions.write()
    assert world.written == [completion()]


def test_what_was_changed_meanwhile_has_not_ended():
    world = World()
    world.is_full = True
    world.end()
    world.is_full = False
    world.stored[KEY] = SimpleNamespace(generation=3)
    world.completions.write()
    assert world.written == []


@pytest.mark.parametrize(("generation", "is_over"), [(2, True), (1, False)])
def test_what_ended_before_stays_so_unless_it_was_changed(generation, is_over):
    world = World(completion(generation))
    world.completions.load()
    world.completions.restore(world.runtime)
    assert (world.slots.ends(1) == [FAILED]) is is_over
    world.completions.note(world.runtime)
    assert world.written == [], "it is not told again"
