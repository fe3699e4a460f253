import pytest

from limpet.node import events as events_module
from limpet.node.events import Events
from limpet.store.database import Database, StoreFullError

APP = ("Deployment", "default", "a")


class Clock:
    def __init__(self):
        self.now = 1000.0

    def time(self):
        return self.now

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(events_module, "time", clock)
    return clock


@pytest.fixture
def database(tmp_path):
    database = Database(tmp_path / "state.db")
    database.open([b"k" * 32])
    yield database
    database.close()


@pytest.fixture
def events(database, clock):
    return Events(database)


def all_of(events, limit=10_000):
    return events.select(namespace=None, name=None, limit=limit)


def test_an_event_says_what_happened_to_what(events, clock):
    events.record("Started", "worker a-0 started", of=APP)
    events.record("Error", "x" * 5000, of=("Node", "", "rock"), is_warning=True)
    first, second = all_of(events)
    assert (first.time, first.type, first.reason, first.count) == (1000.0, "Normal", "Started", 1)
    assert (first.kind, first.namespace, first.name) == APP
    assert first.message == "worker a-0 started"
    assert (second.type, len(second.message)) == ("Warning", 2000)


def test_repeats_are_folded(events, clock):
    for _ in range(5):
        clock.now += 1
        events.record("Error", "again", of=APP)
    [event] = all_of(events)
    assert (event.count, event.time) == (5, 1005.0)


@pytest.mark.parametrize(
    "change",
    [
        {"reason": "Other"},
        {"message": "other"},
        {"is_warning": True},
    ],
    ids=str,
)
def test_what_differs_is_not_folded(events, change):
    same = {"reason": "Error", "message": "m", "of": APP, "is_warning": False}
    events.record(**same)
    events.record(**(same | change))
    events.record(**same)
    assert [event.count for event in all_of(events)] == [1, 1, 1]


def test_repeats_are_not_folded_for_ever(events, clock):
    events.record("Error", "m", of=APP)
    clock.now += 600
    events.record("Error", "m", of=APP)
    assert len(all_of(events)) == 2


def test_what_repeats_for_long_is_written_once_a_minute(events, database, clock):
    for _ in range(300):
        events.record("Error", "m", of=APP, is_warning=True)
        events.flush_when_due()
        clock.now += 1
    written = [event.count for event in database.load_events()]
    assert (written[0], len(written)) == (1, 5)
    assert [event.count for event in all_of(events)] == [300]
    events.flush()
    again = Events(database)
    again.load()
    assert all_of(again) == all_of(events)


def test_what_others_do_meanwhile_does_not_keep_it_apart(events):
    for _ in range(3):
        events.record("Error", "m", of=APP)
        events.record("Error", "m", of=("Job", "default", "a"))
        events.record("Error", "m", of=("Deployment", "other", "a"))
    assert [event.count for event in all_of(events)] == [3, 3, 3]


def test_history_survives_a_restart(events, database):
    for number in range(3):
        events.record("Started", str(number), of=APP)
    events.flush()
    events.flush()
    again = Events(database)
    again.load()
    assert all_of(again) == all_of(events)
    assert [event.message for event in all_of(again)] == ["0", "1", "2"]


def test_good_news_may_wait_and_warnings_do_not(events, database, clock):
    events.flush_when_due()
    events.record("Started", "first", of=APP)
    clock.now += 60
    events.record("Started", "second", of=APP)
    events.flush_when_due()
    assert database.load_events() == []
    clock.now += 1
    events.flush_when_due()
    assert [event.message for event in database.load_events()] == ["first", "second"]
    events.record("Started", "third", of=APP)
    events.record("Signal", "fourth", of=APP, is_warning=True)
    events.flush_when_due()
    assert len(database.load_events()) == 4
    events.record("Started", "fifth", of=APP)
    events.flush_when_due()
    assert len(database.load_events()) == 4


def test_only_so_many_are_kept(events, database):
    for number in range(3000):
        events.record("Started", str(number), of=APP)
    assert [event.message for event in all_of(events)] == [str(n) for n in range(2000, 3000)]
    events.flush()
    again = Events(database)
    again.load()
    assert all_of(again) == all_of(events)


def test_the_newest_that_match_are_shown_oldest_first(events):
    for number in range(10):
        events.record("Started", str(number), of=("Pod", f"n{number % 2}", f"a{number % 3}"))
    chosen = events.select(namespace="n0", name=None, limit=2)
    assert [event.message for event in chosen] == ["6", "8"]
    chosen = events.select(namespace=None, name="a0", limit=2)
    assert [event.message for event in chosen] == ["6", "9"]
    assert events.select(namespace="n0", name="a1", limit=9)[0].message == "4"
    assert all_of(events, limit=0) == []


def test_a_full_disk_loses_nothing_and_does_not_fill_memory(tmp_path, clock):
    class FullOnce(Database):
        is_full = True

        def write_events(self, events):
            if self.is_full:
                raise StoreFullError("full")
            super().write_events(events)

    database = FullOnce(tmp_path / "state.db")
    database.open([b"k" * 32])
    events = Events(database)
    for number in range(3000):
        events.record("Started", str(number), of=APP)
        if number % 500 == 0:
            with pytest.raises(StoreFullError):
                events.flush()
    assert len(events._unwritten) <= 1000
    database.is_full = False
    events.flush()
    assert [event.message for event in database.load_events()][-1] == "2999"
    database.close()
