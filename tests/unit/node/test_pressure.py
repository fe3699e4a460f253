from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from limpet.node.pressure import (
    Candidate,
    DiskBudget,
    DiskView,
    IdleApp,
    MemoryView,
    Rank,
    decide_disk_pressure,
    decide_evictions,
    decide_floor,
    decide_memory_pressure,
    decide_relief,
)

MIB = 1 << 20
BUDGET = DiskBudget(
    free_bytes=100 * MIB, modules_bytes=500 * MIB, unused_seconds=7 * 86400, grace_seconds=3600
)
ROOMY = DiskView(total_bytes=4096 * MIB, free_bytes=2000 * MIB, modules_bytes=200 * MIB)
FULL = replace(ROOMY, free_bytes=0)


def unused(rank, name, size=10 * MIB, seconds=7200.0):
    return Candidate(rank, name, size, seconds)


def names(chosen):
    return [each.name for each in chosen]


ONE_OF_EACH = [
    unused(Rank.IDLE_CODE, "idle code"),
    unused(Rank.BACKUP, "backup"),
    unused(Rank.MODULE, "module"),
    unused(Rank.CODE, "code"),
    unused(Rank.PARTIAL, "partial"),
]


def test_with_room_enough_nothing_goes():
    assert decide_evictions(ONE_OF_EACH, ROOMY, BUDGET) == []


def test_a_full_disk_takes_all_in_the_stated_order():
    chosen = decide_evictions(ONE_OF_EACH, FULL, BUDGET)
    assert names(chosen) == ["partial", "code", "module", "backup", "idle code"]


def test_no_more_than_needed_goes():
    short = replace(ROOMY, free_bytes=95 * MIB)  # 15 MiB below where the pressure ends
    assert names(decide_evictions(ONE_OF_EACH, short, BUDGET)) == ["partial", "code"]


def test_the_longest_unused_goes_first():
    two = [unused(Rank.MODULE, "young", seconds=4000.0), unused(Rank.MODULE, "old", seconds=9000.0)]
    short = replace(ROOMY, free_bytes=105 * MIB)
    assert names(decide_evictions(two, short, BUDGET)) == ["old"]


def test_what_was_uploaded_a_moment_ago_stays():
    fresh = [unused(rank, rank.name, seconds=3599.0) for rank in Rank]
    assert decide_evictions(fresh, FULL, BUDGET) == []


def test_what_nothing_has_needed_for_a_week_goes_in_any_case():
    old = [unused(rank, rank.name, seconds=7 * 86400.0) for rank in Rank]
    assert names(decide_evictions(old, ROOMY, BUDGET)) == ["PARTIAL", "CODE", "MODULE"]


def test_beyond_the_budget_modules_and_code_go():
    over = replace(ROOMY, modules_bytes=515 * MIB)
    assert names(decide_evictions(ONE_OF_EACH, over, BUDGET)) == ["code", "module"]


def test_a_small_disk_keeps_a_tenth():
    assert decide_floor(BUDGET, 4096 * MIB) == 100 * MIB
    assert decide_floor(BUDGET, 64 * MIB) == 64 * MIB // 10


def test_pressure_ends_above_where_it_begins():
    assert decide_disk_pressure(was_under=False, free_bytes=99, floor_bytes=100)
    assert not decide_disk_pressure(was_under=False, free_bytes=100, floor_bytes=100)
    assert decide_disk_pressure(was_under=True, free_bytes=109, floor_bytes=100)
    assert not decide_disk_pressure(was_under=True, free_bytes=111, floor_bytes=100)


CANDIDATES = st.lists(
    st.builds(
        Candidate,
        st.sampled_from(Rank),
        st.text("ab", min_size=1, max_size=3),
        st.integers(0, 1 << 30),
        st.floats(0, 1e7),
    ),
    max_size=20,
)
VIEWS = st.builds(
    DiskView,
    total_bytes=st.integers(0, 1 << 34),
    free_bytes=st.integers(0, 1 << 32),
    modules_bytes=st.integers(0, 1 << 32),
)


@given(CANDIDATES, VIEWS)
def test_whatever_is_found_the_order_and_the_grace_hold(candidates, view):
    chosen = decide_evictions(candidates, view, BUDGET)
    assert [each.rank for each in chosen] == sorted(each.rank for each in chosen)
    assert all(each.unused_seconds >= BUDGET.grace_seconds for each in chosen)
    more = decide_evictions(candidates, replace(view, free_bytes=0), BUDGET)
    assert len(more) >= len(chosen)
    if decide_floor(BUDGET, view.total_bytes):
        everything = [each for each in candidates if each.unused_seconds >= BUDGET.grace_seconds]
        if sum(each.size_bytes for each in everything) <= decide_floor(BUDGET, view.total_bytes):
            assert len(more) == len(everything)


def memory(available, stalled=None):
    return MemoryView(available_bytes=available, stalled_percent=stalled)


def is_short(view, *, was_under=False):
    return decide_memory_pressure(view, was_under=was_under, free_bytes=100, stall_percent=20.0)


def test_memory_is_short_when_little_is_available():
    assert is_short(memory(99))
    assert not is_short(memory(100))
    assert is_short(memory(109), was_under=True)
    assert not is_short(memory(111), was_under=True)


def test_waiting_for_memory_counts_only_when_there_is_not_plenty():
    """An app that has reached its own limit waits for memory, too."""
    assert is_short(memory(399, 20.0))
    assert not is_short(memory(399, 19.9))
    assert is_short(memory(399, 19.0), was_under=True)
    assert not is_short(memory(400, 100.0))
    assert not is_short(memory(399, None))


def test_spares_go_before_any_app():
    idle = [IdleApp("a", 100.0, 10)]
    assert decide_relief(idle, memory(0), free_bytes=100, spares=1) == []
    assert decide_relief(idle, memory(0), free_bytes=100, spares=0) == idle


def test_the_longest_idle_go_until_it_may_be_enough():
    idle = [IdleApp(str(number), float(number), 30) for number in range(6)]
    chosen = decide_relief(idle, memory(40), free_bytes=100, spares=0)
    assert [each.name for each in chosen] == ["5", "4", "3"]


def test_waiting_alone_lets_one_app_go_at_a_time():
    idle = [IdleApp("a", 1.0, 1 << 20), IdleApp("b", 2.0, 1 << 20)]
    chosen = decide_relief(idle, memory(399, 50.0), free_bytes=100, spares=0)
    assert [each.name for each in chosen] == ["b"]
