"""What is remembered of the places of workers, and brought back by the next agent."""

from limpet.node.figures import Figures
from limpet.node.identity import format_record, parse_record
from limpet.node.slots import Slots
from limpet.plan import AppKey
from limpet.worker.messages import Ready, Stats
from limpet.worker.process import ExitInfo

KEY = AppKey("default", "a")
DONE = ExitInfo(reason="Completed", message="", exit_code=0, finished_at=1.0)
FAILED = ExitInfo(reason="Error", message="it said 3", exit_code=3, finished_at=2.0)


def ended(*exits):
    slots = Slots()
    for index, info in enumerate(exits):
        slots.of(index).last_exit = info
        slots.of(index).is_completed = info is not None
    return slots


def test_an_app_is_over_when_every_place_is():
    assert Slots().ends(0) is None
    assert Slots().ends(1) is None
    assert ended(DONE).ends(2) is None
    assert ended(DONE, None).ends(2) is None
    assert ended(DONE, FAILED).ends(2) == [DONE, FAILED]


def test_its_end_is_told_once_and_a_failure_counts_most():
    slots = ended(DONE, FAILED)
    assert slots.take_end(3) is None, "the third place is not over"
    assert slots.take_end(2) is FAILED
    assert slots.take_end(2) is None
    slots.reset()
    assert slots.ends(2) is None, "what is applied anew runs again"


def test_what_ended_before_the_agent_did_is_not_told_again():
    slots = Slots()
    slots.restore_end(2, FAILED)
    assert slots.ends(2) == [FAILED, FAILED]
    assert slots.take_end(2) is None


def test_no_start_waits_longer_each_time():
    slots = Slots()
    pauses = [slots.of(0).fail_start(first_seconds=10.0) for _ in range(3)]
    assert pauses == [10.0, 20.0, 40.0]
    assert slots.of(0).failures == 3


def test_a_change_forgets_failures_but_not_how_the_last_one_ended():
    slots = ended(FAILED)
    slot = slots.of(0)
    slot.failures, slot.restarts, slot.retry_at, slot.last_number = 3, 7, 99.0, 12
    record = slots.record(KEY, 0, created_at=5.0, generation=2)
    same, other = Slots(), Slots()
    same.restore(parse_record(type(record), format_record(record)), generation=2)
    other.restore(record, generation=3)
    assert same.of(0) == slot
    assert (other.of(0).last_exit, other.of(0).last_number) == (FAILED, 12)
    assert (other.of(0).failures, other.of(0).is_completed) == (0, False)


def test_another_plan_forgets_failures_but_not_that_a_place_is_over():
    slots = ended(DONE)
    slot = slots.of(0)
    slot.failures, slot.restarts, slot.retry_at = 3, 7, 99.0
    slots.forgive()
    assert (slot.failures, slot.restarts, slot.retry_at) == (0, 0, 0.0)
    assert slots.ends(1) == [DONE], "what has ended does not run again because a secret changed"


def test_figures_go_on_where_they_were():
    figures = Figures()
    figures.note_start(Ready(12.5), is_from_zero=True)
    figures.note_start(Ready(2.5), is_from_zero=False)
    figures.note_end(None)
    figures.note_end(Stats(7, 1, 0, 0, 0, ()))
    record = figures.record(KEY, created_at=5.0)
    later = Figures()
    later.restore(parse_record(type(record), format_record(record)))
    assert later.record(KEY, created_at=5.0) == record
    assert (later.requests, later.failed, later.cold_starts) == (7, 1, 1)
    assert list(later.start_times) == [12.5, 2.5]
