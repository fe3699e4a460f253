import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limpet.telemetry.histogram import BUCKETS, Histogram, upper_bound

HOUR = 3600 * 10**6
VALUES = st.lists(st.integers(0, HOUR), min_size=1, max_size=60)


def histogram(values):
    found = Histogram()
    for value in values:
        found.record(value)
    return found


@given(VALUES, st.floats(0, 1))
def test_a_quantile_is_the_truth_or_at_most_a_quarter_more(values, share):
    found = histogram(values).quantile(share)
    truth = sorted(values)[max(math.ceil(share * len(values)) - 1, 0)]
    assert truth <= found <= truth * 1.25


@given(VALUES, VALUES)
def test_adding_is_counting_together(one, other):
    total = histogram(one)
    total.add(histogram(other).counts)
    assert total.counts == histogram(one + other).counts
    assert total.total == len(one) + len(other)


@given(st.integers(0, HOUR))
def test_a_value_counts_into_the_bucket_whose_bounds_hold_it(value):
    [index] = [index for index, count in enumerate(histogram([value]).counts) if count]
    assert value <= upper_bound(index)
    assert index == 0 or upper_bound(index - 1) < value


def test_bounds_grow():
    bounds = [upper_bound(index) for index in range(BUCKETS)]
    assert bounds == sorted(set(bounds))
    assert bounds[:12] == [0, 1, 2, 3, 4, 5, 6, 7, 9, 11, 13, 15]
    assert bounds[-1] > HOUR


def test_what_is_out_of_range_is_counted_at_the_end():
    found = histogram([-5, 10**30])
    assert found.counts[0] == found.counts[-1] == 1
    assert found.quantile(1) == upper_bound(BUCKETS - 1)


def test_nothing_has_no_quantile():
    assert Histogram().quantile(0.5) is None
    assert Histogram().total == 0


def test_counts_are_taken_over_and_not_shared():
    counts = [1] * BUCKETS
    found = Histogram(counts)
    found.record(0)
    assert counts == [1] * BUCKETS
    assert found.total == BUCKETS + 1


@pytest.mark.parametrize("length", [0, 1, BUCKETS - 1, BUCKETS + 1])
def test_another_number_of_counts_is_refused(length):
    with pytest.raises(ValueError, match="128 counters"):
        Histogram([0] * length)
    with pytest.raises(ValueError, match="zip"):
        Histogram().add([0] * length)
