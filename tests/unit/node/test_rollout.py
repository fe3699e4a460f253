"""Releases are decided by themselves, and together with the workers that they have."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limpet.node.rollout import (
    CRASHES,
    RolloutView,
    Room,
    Status,
    Verdict,
    count_share,
    decide_forgotten,
    decide_in_force,
    decide_side_by_side,
    decide_undo,
    decide_verdict,
    decide_wake_up_for_verdict,
    find_fallback,
)
from limpet.node.state import (
    AppView,
    Drain,
    Start,
    Want,
    WorkerState,
    WorkerView,
    decide_actions,
    is_available,
)

STARTING, READY, DRAINING = WorkerState
PROGRESSING, COMPLETE, FAILED, SUPERSEDED = Status


@dataclass(frozen=True)
class Release:
    number: int
    status: Status


def releases(*statuses):
    return [Release(number, status) for number, status in enumerate(statuses, 1)]


@pytest.mark.parametrize(
    ("statuses", "is_paused", "number"),
    [
        ([PROGRESSING], False, 1),
        ([FAILED], False, 1),
        ([PROGRESSING], True, 1),
        ([COMPLETE, PROGRESSING], False, 2),
        ([COMPLETE, PROGRESSING], True, 1),
        ([COMPLETE, FAILED], False, 1),
        ([COMPLETE, COMPLETE], True, 2),
        ([COMPLETE, COMPLETE, FAILED], False, 2),
        ([COMPLETE, FAILED, SUPERSEDED, FAILED], False, 1),
        ([SUPERSEDED, FAILED], False, 2),
    ],
)
def test_which_release_is_in_force(statuses, is_paused, number):
    assert decide_in_force(releases(*statuses), is_paused=is_paused).number == number


@pytest.mark.parametrize(
    ("statuses", "number"),
    [
        ([COMPLETE], None),
        ([COMPLETE, COMPLETE, COMPLETE], 2),
        ([COMPLETE, FAILED, PROGRESSING], 1),
        ([FAILED, SUPERSEDED, PROGRESSING], 2),
    ],
)
def test_what_undo_takes(statuses, number):
    found = decide_undo(releases(*statuses))
    assert (found and found.number) == number


HISTORIES = st.lists(st.sampled_from(Status), min_size=1, max_size=30).map(
    lambda found: releases(*found)
)


@given(HISTORIES, st.integers(0, 12))
def test_what_may_have_to_run_is_never_forgotten(history, limit):
    gone = decide_forgotten(history, limit=limit)
    kept = [release for release in history if release not in gone]
    assert history[-1] in kept
    for is_paused in (False, True):
        before = decide_in_force(history, is_paused=is_paused)
        assert decide_in_force(kept, is_paused=is_paused) == before
    assert len(kept) <= limit + 2
    if len(history) <= limit + 1:
        assert gone == []


@given(HISTORIES, st.booleans())
def test_a_failed_release_is_in_force_only_without_another(history, is_paused):
    found = decide_in_force(history, is_paused=is_paused)
    if found.status is not COMPLETE:
        assert found is history[-1]
    if found.status is FAILED:
        assert find_fallback(history) is None


def rollout(**changes):
    defaults = {"slots": 2, "is_prepared": True, "progressed_at": 0.0, "deadline_seconds": 60.0}
    return RolloutView(**(defaults | changes))


FINAL = ("InvalidModule", "no _start", True)
WAITING = ("MissingConfig", "no ConfigMap", False)
DEADLINE = "ProgressDeadlineExceeded"


@pytest.mark.parametrize(
    ("view", "now", "status", "words"),
    [
        (rollout(), 10, None, ""),
        (rollout(available=2), 10, COMPLETE, ""),
        (rollout(available=2, others=1), 10, None, ""),
        (rollout(available=2, is_prepared=False), 10, None, ""),
        (rollout(available=2, settles_at=11), 10, None, ""),
        (rollout(available=2, settles_at=99), 98, None, ""),  # no deadline for what is there
        (rollout(available=2, settles_at=10), 10, COMPLETE, ""),
        (rollout(slots=0), 10, COMPLETE, ""),
        (rollout(is_asleep=True), 10, COMPLETE, ""),
        (rollout(problem=FINAL, is_prepared=False), 0, FAILED, "InvalidModule: no _start"),
        (rollout(problem=WAITING, is_prepared=False), 59, None, ""),
        (rollout(problem=WAITING), 60, FAILED, f"{DEADLINE}: no progress within 60 s: Missing"),
        (rollout(available=1), 60, FAILED, "1 of 2 workers became available"),
        (rollout(crashes=CRASHES - 1, crash="Exit: 3"), 59, None, ""),
        (rollout(crashes=1, crash="Exit: 3"), 60, FAILED, "the last worker ended by Exit: 3"),
        (rollout(crashes=CRASHES, crash="Exit: 3"), 1, FAILED, "CrashLoopBackOff: its workers"),
    ],
)
def test_verdicts(view, now, status, words):
    verdict = decide_verdict(view, now)
    assert (verdict and verdict.status) == status
    assert words in f"{verdict.reason}: {verdict.message}" if verdict else not words


@given(
    st.builds(
        rollout,
        available=st.integers(0, 3),
        others=st.integers(0, 2),
        is_prepared=st.booleans(),
        settles_at=st.floats(0, 200),
        progressed_at=st.floats(0, 100),
    ),
    st.floats(0, 200),
)
def test_what_is_open_is_looked_at_again_until_it_is_decided(view, now):
    for _ in range(3):
        if decide_verdict(view, now) is not None:
            return
        wakes_at = decide_wake_up_for_verdict(view, now)
        assert wakes_at is not None
        assert wakes_at > now
        now = wakes_at
    raise AssertionError("it stays open for ever")


@pytest.mark.parametrize(
    ("share", "replicas", "up", "down"),
    [(0, 4, 0, 0), (3, 4, 3, 3), ("25%", 4, 1, 1), ("25%", 1, 1, 0), ("100%", 7, 7, 7)],
)
def test_shares(share, replicas, up, down):
    assert count_share(share, replicas, rounds_up=True) == up
    assert count_share(share, replicas, rounds_up=False) == down


def room(**changes):
    defaults = {"workers": 1, "initial_bytes": 8, "used_bytes": 20, "limit_bytes": 64}
    rest = {"available_bytes": 52, "reserve_bytes": 32}
    values = {k: v << 20 if k != "workers" else v for k, v in (defaults | rest | changes).items()}
    return Room(**values)


def test_room_for_two_releases():
    assert decide_side_by_side(room()) is None
    told = decide_side_by_side(room(available_bytes=51))
    assert "needs 20 MiB beside the old one, and 51 MiB are available" in told
    assert decide_side_by_side(room(workers=2)) is not None
    assert decide_side_by_side(room(used_bytes=0, available_bytes=40)) is None
    assert decide_side_by_side(room(used_bytes=999, available_bytes=96)) is None, "no more ever"


class World:
    """An app that is changed, paused and undone while its workers come, crash and go."""

    def __init__(self, *, slots, surge, unavailable, writes, stops_first):
        self.releases = [Release(1, COMPLETE)]
        self.now = 0.0
        self.is_paused = False
        self.serial = 0
        self.crashes = 0
        self.progressed_at = 0.0
        self.surge = surge
        self.app = AppView(
            want=Want.RUNNING,
            fingerprint="1",
            slots=slots,
            is_prepared=True,
            replaces_before_start=writes,
            stops_first=stops_first,
            max_surge=surge,
            max_unavailable=unavailable,
        )

    @property
    def newest(self):
        return self.releases[-1]

    def in_force(self):
        return decide_in_force(self.releases, is_paused=self.is_paused)

    def available(self, workers):
        return sum(is_available(worker, self.now) for worker in workers)

    def apply(self):
        if self.newest.status is PROGRESSING:
            self.releases[-1] = replace(self.newest, status=SUPERSEDED)
        self.releases.append(Release(self.newest.number + 1, PROGRESSING))
        self.crashes, self.progressed_at = 0, self.now

    def reconcile(self):
        """Decide once; whether anything was done."""
        is_decided = self.judge()
        in_force = self.in_force()
        assert not (in_force.status is FAILED and find_fallback(self.releases))
        self.app = replace(
            self.app,
            fingerprint=str(in_force.number),
            is_held=self.is_paused and in_force is not self.newest,
        )
        actions = decide_actions(self.app, self.now)
        self.check(actions)
        workers = {worker.id: worker for worker in self.app.workers}
        for action in actions:
            if isinstance(action, Start):
                self.serial += 1
                workers[self.serial] = WorkerView(
                    id=self.serial,
                    slot=action.slot,
                    state=STARTING,
                    fingerprint=self.app.fingerprint,
                )
            elif isinstance(action, Drain):
                workers[action.worker] = replace(workers[action.worker], state=DRAINING)
        self.app = replace(self.app, workers=tuple(workers.values()))
        return bool(actions) or is_decided

    def judge(self):
        if self.newest.status is not PROGRESSING or self.in_force() is not self.newest:
            return False
        own = [w for w in self.app.workers if w.fingerprint == str(self.newest.number)]
        live = [w for w in self.app.workers if w.state is not DRAINING]
        view = RolloutView(
            slots=self.app.slots,
            is_prepared=True,
            available=self.available(own),
            others=len([w for w in live if w not in own]),
            crashes=self.crashes,
            progressed_at=self.progressed_at,
            deadline_seconds=100.0,
        )
        verdict = decide_verdict(view, self.now)
        if verdict is None:
            return False
        assert isinstance(verdict, Verdict)
        self.releases[-1] = replace(self.newest, status=verdict.status)
        return True

    def check(self, actions):
        app = self.app
        drained = {action.worker for action in actions if isinstance(action, Drain)}
        starts = [action for action in actions if isinstance(action, Start)]
        live = [w for w in app.workers if w.state is not DRAINING]
        left = [w for w in live if w.id not in drained]
        if app.replaces_before_start:
            if starts:
                assert {w.fingerprint for w in app.workers} <= {app.fingerprint}
            return
        missing = max(app.max_unavailable, 1) if app.stops_first else app.max_unavailable
        before = self.available(live)
        assert self.available(left) >= min(before, app.slots - missing)
        if app.stops_first and {w.fingerprint for w in app.workers} - {app.fingerprint}:
            assert not starts or len(app.workers) + len(starts) <= app.slots
        elif {w.fingerprint for w in left} - {app.fingerprint} and not app.is_held:
            assert not starts or len(left) + len(starts) <= app.slots + app.max_surge

    def step(self, kind, index):
        if kind == "apply":
            self.apply()
        elif kind == "pause":
            self.is_paused = not self.is_paused
            self.progressed_at = self.now
        elif kind == "time":
            self.now += index
        elif kind == "scale":
            self.app = replace(self.app, slots=index % 5)
        elif self.app.workers:
            self.happen(kind, self.app.workers[index % len(self.app.workers)])

    def happen(self, kind, worker):
        others = tuple(each for each in self.app.workers if each is not worker)
        if worker.state is DRAINING or kind == "crash":
            if worker.state is not DRAINING and worker.fingerprint == str(self.newest.number):
                self.crashes += 1
            self.app = replace(self.app, workers=others)
        elif kind == "ready":
            ready = replace(worker, state=READY, available_at=self.now + 3)
            self.app = replace(self.app, workers=(*others, ready))
        else:
            self.app = replace(self.app, workers=(*others, replace(worker, state=STARTING)))

    def settle(self):
        """Let all go well from now on."""
        for _ in range(60):
            while self.reconcile():
                pass
            self.now += 4
            waiting = [w for w in self.app.workers if not is_available(w, self.now)]
            if not waiting and not self.reconcile():
                return
            for worker in waiting:
                self.happen("ready", worker)
        raise AssertionError(f"it does not settle: {self.releases} {self.app}")


STEPS = st.tuples(
    st.sampled_from(["apply", "pause", "time", "scale", "ready", "ready", "crash", "flap"]),
    st.integers(0, 20),
)


@given(
    st.lists(STEPS, max_size=50),
    st.integers(0, 4),
    st.integers(0, 3),
    st.integers(0, 2),
    st.booleans(),
    st.booleans(),
)
def test_no_schedule_breaks_what_is_promised(steps, slots, surge, unavailable, writes, stops_first):
    world = World(
        slots=slots,
        surge=surge,
        unavailable=unavailable if surge else max(unavailable, 1),
        writes=writes,
        stops_first=stops_first,
    )
    for kind, index in steps:
        world.step(kind, index)
        world.reconcile()
    world.settle()
    if not world.is_paused:
        in_force = str(world.in_force().number)
        assert {w.fingerprint for w in world.app.workers} <= {in_force}
        assert world.newest.status in (COMPLETE, FAILED)
        assert sorted(w.slot for w in world.app.workers) == list(range(world.app.slots))
    if not (world.is_paused and writes):  # whose volume a worker of the other release has
        assert world.available(world.app.workers) >= world.app.slots
