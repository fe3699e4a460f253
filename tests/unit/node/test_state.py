from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limpet.node.state import (
    AppView,
    Drain,
    Forget,
    Start,
    Want,
    Watch,
    WorkerState,
    WorkerView,
    decide_actions,
    decide_wake_up,
)

STARTING, READY, DRAINING = WorkerState


def worker(number, slot=0, state=READY, fingerprint="new"):
    return WorkerView(id=number, slot=slot, state=state, fingerprint=fingerprint)


def view(*workers, slots=1, **changes):
    defaults = {"want": Want.RUNNING, "fingerprint": "new", "is_prepared": True}
    return AppView(**(defaults | changes), slots=slots, workers=workers)


OLD = {"fingerprint": "old"}
TABLE = {
    "nothing is there": (view(slots=2), [Start(0), Start(1)]),
    "one is missing": (view(worker(1, 1), slots=3), [Start(0), Start(2)]),
    "all is well": (view(worker(1, 0), worker(2, 1, STARTING), slots=2), []),
    "not prepared": (view(is_prepared=False, slots=2), []),
    "not prepared, but an old one runs": (view(worker(1, **OLD), is_prepared=False), []),
    "draining does not count": (view(worker(1, state=DRAINING)), [Start(0)]),
    "too many": (view(worker(1, 0), worker(2, 1), worker(3, 2)), [Drain(2), Drain(3)]),
    "none wanted": (view(worker(1, 0), slots=0), [Drain(1)]),
    "a pause is not over": (view(retry_at=((0, 10.5),)), []),
    "a pause is over": (view(retry_at=((0, 10.0),)), [Start(0)]),
    "a pause of another slot": (view(retry_at=((1, 99.0),)), [Start(0)]),
    "completed": (view(slots=2, completed=frozenset({0})), [Start(1)]),
    "a new plan starts first": (view(worker(1, **OLD)), [Start(0)]),
    "the old stays until the new is ready": (
        view(worker(1, **OLD), worker(2, state=STARTING)),
        [],
    ),
    "the old goes when the new is ready": (view(worker(1, **OLD), worker(2)), [Drain(1)]),
    "one for one": (
        view(
            worker(1, 0, **OLD), worker(2, 1, **OLD), worker(3, 0), worker(4, 1, STARTING), slots=2
        ),
        [Drain(1)],
    ),
    "what serves goes last": (
        view(worker(1, **OLD), worker(2, 0, STARTING, "older"), worker(3, state=STARTING)),
        [Drain(2)],
    ),
    "an old one beside a new one that has completed": (
        view(worker(1, **OLD), completed=frozenset({0})),
        [Drain(1)],
    ),
    "old slots that are no longer wanted go at once": (
        view(worker(1, 0, **OLD), worker(2, 1, **OLD)),
        [Start(0), Drain(2)],
    ),
    "an exclusive volume is given back first": (
        view(worker(1, **OLD), replaces_before_start=True),
        [Drain(1)],
    ),
    "an exclusive volume is still held": (
        view(worker(1, 0, DRAINING, "old"), replaces_before_start=True),
        [],
    ),
    "an exclusive volume is free": (view(replaces_before_start=True), [Start(0)]),
    "a worker of the same plan holds the volume": (
        view(worker(1, 0, DRAINING), replaces_before_start=True),
        [Start(0)],
    ),
    "no more beside the old ones than may be": (
        view(worker(1, 0, **OLD), worker(2, 1, **OLD), slots=2, max_surge=1),
        [Start(0)],
    ),
    "some may be missing": (
        view(worker(1, 0, **OLD), worker(2, 1, **OLD), slots=2, max_surge=0, max_unavailable=1),
        [Start(0), Drain(1)],
    ),
    "what starts is missing already": (
        view(
            worker(1, 0, **OLD),
            worker(3, 1, STARTING),
            slots=2,
            max_surge=0,
            max_unavailable=1,
        ),
        [],
    ),
    "ready is not available yet": (
        view(worker(1, **OLD), replace(worker(2), available_at=10.5)),
        [],
    ),
    "ready for long enough": (
        view(worker(1, **OLD), replace(worker(2), available_at=10.0)),
        [Drain(1)],
    ),
    "without memory for both the old one goes first": (
        view(worker(1, **OLD), stops_first=True),
        [Drain(1)],
    ),
    "what drains has its memory still": (
        view(worker(1, 0, DRAINING, "old"), stops_first=True),
        [],
    ),
    "one by one without memory for both": (
        view(worker(1, 0, **OLD), worker(2, 1, **OLD), slots=2, stops_first=True),
        [Drain(1)],
    ),
    "held: what is there stays, what is missing comes": (
        view(worker(1, 0, **OLD), worker(2, 1), slots=3, is_held=True),
        [Start(2)],
    ),
    "held: what is too many goes": (
        view(worker(1, 0, **OLD), worker(2, 1, **OLD), slots=1, is_held=True),
        [Drain(2)],
    ),
    "on hold": (view(slots=2, is_on_hold=True), []),
    "asleep": (view(scales_to_zero=True), [Watch()]),
    "asleep with a client at the door": (view(scales_to_zero=True, has_demand=True), [Start(0)]),
    "awake": (view(worker(1), scales_to_zero=True, has_demand=True), []),
    "awake for nobody": (view(worker(1), scales_to_zero=True), [Drain(1), Watch()]),
    "falling asleep": (view(worker(1, state=DRAINING), scales_to_zero=True), [Watch()]),
    "an old one that nobody needs": (
        view(worker(1, **OLD), scales_to_zero=True),
        [Drain(1), Watch()],
    ),
    "deleted": (view(want=Want.DELETED), [Forget()]),
    "deleted and running": (
        view(worker(1), worker(2, 1, DRAINING), worker(3, 2, STARTING), want=Want.DELETED),
        [Drain(1), Drain(3)],
    ),
    "deleted and draining": (view(worker(1, state=DRAINING), want=Want.DELETED), []),
}


@pytest.mark.parametrize(("app", "actions"), TABLE.values(), ids=TABLE)
def test_what_is_done_now(app, actions):
    assert decide_actions(app, now=10.0) == actions


STATES = st.sampled_from(WorkerState)
PLANS = st.sampled_from(["new", "old", "older"])


@st.composite
def views(draw):
    """Any app as it might stand."""
    seen = set()
    workers = []
    for number in range(draw(st.integers(0, 8))):
        found = worker(number, draw(st.integers(0, 4)), draw(STATES), draw(PLANS))
        key = (found.slot, found.fingerprint)
        if found.state is DRAINING or key not in seen:  # a slot has one live worker of a plan
            seen.add(key)
            workers.append(found)
    return AppView(
        want=draw(st.sampled_from(Want)),
        fingerprint="new",
        slots=draw(st.integers(0, 4)),
        is_prepared=draw(st.booleans()),
        scales_to_zero=draw(st.booleans()),
        has_demand=draw(st.booleans()),
        replaces_before_start=draw(st.booleans()),
        workers=tuple(workers),
        retry_at=tuple(draw(st.dictionaries(st.integers(0, 4), st.floats(0, 20))).items()),
        completed=draw(st.frozensets(st.integers(0, 4))),
    )


def check_actions(app, now):
    """What holds for every decision; returns the actions."""
    actions = decide_actions(app, now)
    assert len(set(actions)) == len(actions), "nothing is done twice"
    live = {w.id: w for w in app.workers if w.state is not DRAINING}
    starts = [action.slot for action in actions if isinstance(action, Start)]
    drains = [action.worker for action in actions if isinstance(action, Drain)]
    current = {w.slot for w in live.values() if w.fingerprint == app.fingerprint}
    retry_at = dict(app.retry_at)
    for slot in starts:
        assert slot not in current, "a running slot is not started again"
        assert slot < app.slots
        assert slot not in app.completed
        assert retry_at.get(slot, 0) <= now
        if app.replaces_before_start:
            assert all(w.fingerprint == app.fingerprint for w in app.workers)
    assert all(number in live for number in drains), "what drains is not drained again"
    if app.want is Want.DELETED:
        assert starts == []
        assert (Forget() in actions) is (not app.workers)
    else:
        assert Forget() not in actions
    if starts or drains:
        assert not (app.want is Want.RUNNING and not app.is_prepared)
    assert (Watch() in actions) is (
        app.want is Want.RUNNING and app.is_prepared and app.scales_to_zero and not app.has_demand
    )
    return actions


@given(views())
def test_every_decision_keeps_the_rules(app):
    check_actions(app, now=10.0)


@given(views())
def test_a_new_plan_never_costs_what_serves(app):
    app = replace(
        app,
        want=Want.RUNNING,
        is_prepared=True,
        scales_to_zero=False,
        replaces_before_start=False,
        completed=frozenset(),
    )
    drained = {action.worker for action in decide_actions(app, 10.0) if isinstance(action, Drain)}
    serving = [w for w in app.workers if w.state is READY and w.slot < app.slots]
    left = [w for w in serving if w.id not in drained]
    assert len(left) >= min(len(serving), app.slots)


class World:
    """What runs, as far as decisions are concerned: workers start, get ready, crash, drain and go."""

    def __init__(self, *, replaces_before_start, scales_to_zero):
        self.app = view(
            slots=0,
            replaces_before_start=replaces_before_start,
            scales_to_zero=scales_to_zero,
        )
        self.now = 0.0
        self.largest = 0
        self.forgotten = 0
        self.is_watched = False
        self._serial = 0

    def change(self, **changes):
        self.app = replace(self.app, **changes)
        self.largest = max(self.largest, self.app.slots)

    def reconcile(self):
        """Decide and act once; whether anything was done."""
        if self.forgotten:
            return False
        actions = check_actions(self.app, self.now)
        workers = {w.id: w for w in self.app.workers}
        for action in actions:
            if isinstance(action, Start):
                self._serial += 1
                workers[self._serial] = worker(
                    self._serial, action.slot, STARTING, self.app.fingerprint
                )
            elif isinstance(action, Drain):
                workers[action.worker] = replace(workers[action.worker], state=DRAINING)
            elif isinstance(action, Forget):
                self.forgotten += 1
        self.is_watched = Watch() in actions
        self.change(workers=tuple(workers.values()))
        live = [w for w in workers.values() if w.state is not DRAINING]
        assert len(live) <= 2 * self.largest
        if self.app.replaces_before_start:
            assert len({w.fingerprint for w in workers.values()}) <= 1
        return any(not isinstance(action, Watch) for action in actions)

    def step_worker(self, index, outcome):
        """Let something happen to a worker: it gets ready, crashes, completes or goes."""
        if not self.app.workers:
            return
        chosen = self.app.workers[index % len(self.app.workers)]
        others = tuple(w for w in self.app.workers if w is not chosen)
        if chosen.state is DRAINING or outcome == "crash":
            retry_at = dict(self.app.retry_at)
            if chosen.state is not DRAINING:
                retry_at[chosen.slot] = self.now + 10
            self.change(workers=others, retry_at=tuple(retry_at.items()))
        elif outcome == "flap":
            state = STARTING if chosen.state is READY else READY
            self.change(workers=(*others, replace(chosen, state=state)))
        else:
            self.change(workers=(*others, replace(chosen, state=READY)))

    def settle(self):
        """Let all go well from now on; fails when there is no end of it."""
        self.now += 1000
        for _ in range(20):
            while self.reconcile():
                pass
            if not any(w.state is not READY for w in self.app.workers):
                return
            for w in self.app.workers:
                self.step_worker(self.app.workers.index(w), "ready")
        raise AssertionError(f"it does not settle: {self.app}")


CHANGES = st.one_of(
    st.tuples(st.just("plan"), PLANS),
    st.tuples(st.just("slots"), st.integers(0, 4)),
    st.tuples(st.just("demand"), st.booleans()),
    st.tuples(st.just("prepared"), st.booleans()),
    st.tuples(st.just("time"), st.floats(0, 20)),
    st.tuples(st.sampled_from(["ready", "crash", "flap"]), st.integers(0, 20)),
)


@given(st.lists(CHANGES, max_size=40), st.booleans(), st.booleans(), st.booleans())
def test_whatever_happens_what_was_asked_for_is_reached(changes, replaces, to_zero, is_deleted):
    world = World(replaces_before_start=replaces, scales_to_zero=to_zero)
    for kind, value in changes:
        if kind == "plan":
            world.change(fingerprint=value)
        elif kind == "slots":
            world.change(slots=value)
        elif kind == "demand":
            world.change(has_demand=value)
        elif kind == "prepared":
            world.change(is_prepared=value)
        elif kind == "time":
            world.now += value
        else:
            world.step_worker(value, kind)
        world.reconcile()
    world.change(is_prepared=True)
    if is_deleted:
        world.change(want=Want.DELETED, is_prepared=False)
    world.settle()
    if is_deleted:
        assert world.forgotten == 1
        assert world.app.workers == ()
        return
    asleep = world.app.scales_to_zero and not world.app.has_demand
    wanted = set() if asleep else set(range(world.app.slots))
    assert sorted(w.slot for w in world.app.workers) == sorted(wanted)
    assert {w.fingerprint for w in world.app.workers} <= {world.app.fingerprint}
    assert world.is_watched is asleep


def test_the_next_look_is_when_the_first_pause_is_over():
    apps = [
        view(retry_at=((0, 5.0), (1, 17.0))),
        view(),
        view(retry_at=((0, 12.5),)),
    ]
    assert decide_wake_up(apps, now=10.0) == 2.5
    assert decide_wake_up(apps[:2], now=10.0) == 7.0
    assert decide_wake_up(apps, now=17.0) is None
    assert decide_wake_up([], now=0.0) is None
