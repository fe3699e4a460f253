"""When the executor's flag is set and cleared. The executor is one that takes notes."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from limpet.engine.wasmedge.stopping import Stopper, Watch
from limpet.wasi.control import Control

if TYPE_CHECKING:
    from collections.abc import Iterator

MS = 1_000_000
HANDLE, EXECUTOR, NOTHING = 7, 1, 2


class Notes:
    """Stands for the binding; `is_set` is the executor's flag."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.is_set = False
        self.was_set = threading.Event()

    def executor_async_invoke(self, executor: int, function: int, *_: Any) -> int:
        assert (executor, function) == (EXECUTOR, NOTHING)
        self.calls.append("handle")
        return HANDLE

    def async_wait(self, handle: int) -> None:
        assert handle == HANDLE
        self.calls.append("wait")

    def async_cancel(self, handle: int) -> None:
        assert handle == HANDLE
        self.calls.append("set")
        self.is_set = True
        self.was_set.set()

    def executor_invoke(self, executor: int, function: int, *_: Any) -> int:
        assert (executor, function) == (EXECUTOR, NOTHING)
        self.calls.append("clear")
        self.is_set = False
        return 0

    def async_delete(self, handle: int) -> None:
        self.calls.append("free")


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
def watch() -> Iterator[Watch]:
    made = Watch()
    yield made
    made.close()


@pytest.fixture
def stopper(notes: Notes, watch: Watch) -> Stopper:
    binding: Any = notes
    return Stopper(binding, EXECUTOR, nothing=NOTHING, watch=watch)


def soon(milliseconds: int) -> int:
    return time.monotonic_ns() + milliseconds * MS


def test_a_run_in_time_calls_nothing(notes: Notes, stopper: Stopper) -> None:
    stopper.begin(0)
    stopper.end()
    stopper.begin(soon(60_000))
    stopper.end()
    assert notes.calls == []


def test_a_late_run_is_stopped_and_the_flag_cleared(notes: Notes, stopper: Stopper) -> None:
    stopper.begin(soon(5))
    assert notes.was_set.wait(10)
    stopper.end()
    assert notes.calls == ["handle", "wait", "set", "clear"]
    stopper.begin(soon(0))
    notes.was_set.clear()
    assert notes.was_set.wait(10)
    stopper.end()
    assert notes.calls[4:] == ["set", "clear"]
    stopper.close()
    assert notes.calls[-1] == "free"


def test_nobody_sets_it_between_runs(notes: Notes, stopper: Stopper) -> None:
    for _ in range(300):
        stopper.begin(soon(0))
        stopper.end()
        assert not notes.is_set


def test_a_later_deadline_wakes_nobody(
    watch: Watch, stopper: Stopper, notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = soon(60_000)
    stopper.begin(first)
    stopper.end()
    monkeypatch.setattr(watch._earlier, "notify", lambda: pytest.fail("not needed"))
    for later in range(100):
        stopper.begin(first + later)
        stopper.end()
    assert watch.looks_at_ns == first


def test_an_earlier_deadline_is_kept(notes: Notes, stopper: Stopper, watch: Watch) -> None:
    stopper.begin(soon(60_000))
    stopper.end()
    stopper.begin(soon(5))
    assert notes.was_set.wait(10)
    stopper.end()


def test_one_awakening_leaves_a_run_with_time_left_alone(
    notes: Notes, stopper: Stopper, watch: Watch
) -> None:
    stopper.begin(soon(5))
    stopper.end()
    deadline = soon(60_000)
    stopper.begin(deadline)
    give_up = time.monotonic() + 10
    while watch.looks_at_ns != deadline and time.monotonic() < give_up:
        time.sleep(0.001)
    assert watch.looks_at_ns == deadline
    assert notes.calls == []
    stopper.end()


def test_one_thread_serves_several(notes: Notes, watch: Watch) -> None:
    others = [Notes() for _ in range(5)]
    bindings: list[Any] = [*others]
    stoppers = [Stopper(each, EXECUTOR, nothing=NOTHING, watch=watch) for each in bindings]
    before = threading.active_count()
    for number, each in enumerate(stoppers):
        each.begin(soon(10 - number))
    assert all(each.was_set.wait(10) for each in others)
    assert threading.active_count() == before + 1


def test_interrupting(notes: Notes, stopper: Stopper) -> None:
    control = Control()
    stopper.interrupt(control)
    control.begin(0)
    stopper.begin(0)
    stopper.interrupt(control)
    stopper.interrupt(control)
    assert control.is_interrupted
    stopper.end()
    control.end()
    stopper.interrupt(control)
    assert notes.calls == ["handle", "wait", "set", "clear"]


def test_a_forked_child_has_a_thread_of_its_own(notes: Notes, stopper: Stopper) -> None:
    stopper.begin(soon(60_000))
    stopper.end()
    child = os.fork()
    if not child:
        stopper.begin(soon(5))
        os._exit(0 if notes.was_set.wait(10) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_making_one_starts_no_thread(watch: Watch, stopper: Stopper) -> None:
    before = threading.active_count()
    stopper.begin(0)
    stopper.end()
    assert threading.active_count() == before
