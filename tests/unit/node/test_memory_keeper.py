"""What the memory keeper does in turn, with apps that are made up."""

import pytest

from limpet.node import memory as memory_module
from limpet.node.conditions import Conditions
from limpet.node.memory import MEMORY_PRESSURE, MemoryKeeper
from limpet.node.pressure import MemoryView
from limpet.settings import MemorySettings

MIB = 1 << 20
PLENTY = MemoryView(available_bytes=500 * MIB, stalled_percent=0.0)
LITTLE = MemoryView(available_bytes=10 * MIB, stalled_percent=None)


class App:
    """An app as the keeper sees it: `requests` is None while it is busy."""

    def __init__(self, name, requests=0, memory=20 * MIB, *, comes_back=True):
        self.key = name
        self.requests = requests
        self.memory = memory
        self.can_be_let_go = comes_back
        self.workers = {1: object()}
        self.is_gone = False

    def count_idle_requests(self):
        return self.requests

    def request_stats(self):
        pass

    def memory_bytes(self):
        return self.memory

    def let_go(self):
        self.is_gone = True
        self.can_be_let_go = False


class World:
    def __init__(self, monkeypatch):
        self.now = 100.0
        self.view = PLENTY
        self.apps = []
        self.spares = 0
        self.events = []
        self.conditions = Conditions()
        monkeypatch.setattr(memory_module.time, "monotonic", lambda: self.now)
        self.keeper = MemoryKeeper(
            MemorySettings(free_bytes=48 * MIB, stall_percent=20.0),
            apps=lambda: self.apps,
            spares=lambda: self.spares,
            drop_spares=self.drop_spares,
            conditions=self.conditions,
            record=lambda reason, _message, _is_warning: self.events.append(reason),
            record_app=lambda app, reason, _message, _is_warning: self.events.append(
                f"{reason} {app.key}"
            ),
            read=lambda: self.view,
        )

    def drop_spares(self):
        self.spares = 0

    def look(self):
        self.now += 5
        self.keeper.look()

    def gone(self):
        return [app.key for app in self.apps if app.is_gone]


@pytest.fixture
def world(monkeypatch):
    return World(monkeypatch)


def test_with_enough_memory_nothing_goes(world):
    world.apps, world.spares = [App("a")], 1
    for _ in range(5):
        world.look()
    assert (world.gone(), world.spares, world.events) == ([], 1, [])


def test_spares_first_then_the_longest_idle(world):
    world.apps, world.spares = [App("a"), App("b"), App("never", comes_back=False)], 1
    world.view = LITTLE
    world.look()
    assert world.spares == 0
    assert world.gone() == []
    world.apps[1].requests += 1
    world.look()
    assert world.gone() == ["a"], "b had a request since"
    world.look()
    assert world.gone() == ["a", "b"]
    world.look()
    assert world.events == ["NodeHasInsufficientMemory", "Evicted a", "Evicted b"]


def test_as_many_go_as_may_be_enough(world):
    world.apps = [App(str(number)) for number in range(5)]
    world.view = LITTLE
    world.look()
    world.look()
    assert world.gone() == ["0", "1", "2"], "43 MiB are missing, with the margin"


def test_a_busy_app_stays(world):
    world.apps = [App("busy", requests=None)]
    world.view = LITTLE
    for _ in range(3):
        world.look()
    assert world.gone() == []


def test_the_end_is_told_and_what_was_idle_is_forgotten(world):
    world.apps = [App("a", requests=None)]
    world.view = LITTLE
    world.look()
    world.view = PLENTY
    world.look()
    assert world.events == ["NodeHasInsufficientMemory", "NodeHasSufficientMemory"]
    assert not world.conditions.is_true(MEMORY_PRESSURE)
    assert not world.keeper.is_under_pressure
    world.apps[0].requests = 7
    world.view = LITTLE
    world.look()
    assert world.gone() == [], "it has just been seen for the first time"
    world.look()
    assert world.gone() == ["a"]
