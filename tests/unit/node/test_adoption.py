"""Which of what is held is understood, and which process is the one that is meant."""

import dataclasses
import os
import signal
from pathlib import Path

import pytest

from limpet.linux.process import read_start_ticks, set_process_name
from limpet.node.adoption import open_process, read_estate, remaining_grace
from limpet.node.holdings import Held
from limpet.node.identity import format_record
from limpet.node.keeper import Keeper
from limpet.worker.messages import Hold, Release

from .test_identity import FIGURES, IDENTITY, SLOT


@pytest.fixture
def child():
    """A process that does nothing, under a name that looks like the fields after it."""
    pid = os.fork()
    if pid == 0:
        set_process_name("a) S 1 (b")
        signal.pause()
        os._exit(0)
    yield pid
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_exactly_this_process_is_found(child):
    ticks = read_start_ticks(child)
    pidfd = open_process(child, ticks)
    assert pidfd is not None
    os.close(pidfd)
    before = len(os.listdir("/proc/self/fd"))
    assert open_process(child, ticks + 1) is None, "another one that got its number"
    assert open_process(2**22 + 1, ticks) is None
    assert read_start_ticks(2**22 + 1) is None
    assert len(os.listdir("/proc/self/fd")) == before
    while "S 1" not in Path(f"/proc/{child}/comm").read_text():
        os.sched_yield()
    assert read_start_ticks(child) == ticks


def test_what_is_held_is_understood_by_its_name():
    worker = Held(4711, format_record(IDENTITY), (3, 4, 5))
    held = {
        "worker default/web#7": worker,
        "slot default/web#0": Held(0, format_record(SLOT), ()),
        "figures default/web": Held(0, format_record(FIGURES), ()),
    }
    estate = read_estate(held)
    assert estate.workers == {"worker default/web#7": (IDENTITY, worker)}
    assert estate.slots == {"slot default/web#0": SLOT}
    assert estate.figures == {"figures default/web": FIGURES}
    assert (estate.strange, estate.groups) == ({}, {"app-1-00ff"})


@pytest.mark.parametrize(
    ("name", "held"),
    [
        ("future thing", Held(0, "{}", ())),
        ("worker default/web#7", Held(4711, "not JSON", (3, 4, 5))),
        ("worker default/web#7", Held(4711, format_record(IDENTITY), (3,))),
        ("slot default/web#0", Held(0, format_record(IDENTITY), ())),
    ],
)
def test_what_is_not_understood_is_set_apart(name, held):
    estate = read_estate({name: held})
    assert estate.strange == {name: held}
    assert (estate.workers, estate.slots, estate.figures) == ({}, {}, {})


def test_a_grace_period_goes_on_where_it_was():
    assert remaining_grace(IDENTITY) == IDENTITY.grace_seconds
    assert remaining_grace(dataclasses.replace(IDENTITY, drain_until=0.0)) == 0


def test_what_is_remembered_of_an_app_is_forgotten_with_it():
    told = []
    keeper = Keeper(lambda message, descriptors: told.append(message))
    keeper.remember(SLOT)
    keeper.remember(FIGURES)
    keeper.know(IDENTITY.key, "worker default/web#7")
    assert [type(message) for message in told] == [Hold, Hold]
    keeper.release_worker(IDENTITY.key, 7)
    keeper.release_worker(IDENTITY.key, 8)  # never held
    assert told[2:] == [Release("worker default/web#7")]
    keeper.forget(IDENTITY.key)
    assert sorted(message.name for message in told[3:]) == [
        "figures default/web",
        "slot default/web#0",
    ]
    keeper.forget(IDENTITY.key)
    assert len(told) == 5
