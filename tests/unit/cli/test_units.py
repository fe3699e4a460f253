from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limpet.cli import units

from .fake_node import CREATED


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (192, "3m12s"),
        (600, "10m"),
        (3 * 3600 - 1, "179m"),
        (3 * 3600, "3h"),
        (5 * 3600 + 1200, "5h20m"),
        (47 * 3600, "47h"),
        (53 * 3600, "2d5h"),
        (9 * 86_400, "9d"),
        (800 * 86_400, "2y"),
    ],
)
def test_spans(seconds, text):
    assert units.format_span(seconds) == text


def test_age_of_a_time_ahead_of_a_wrong_clock_is_zero():
    assert units.format_age("2030-01-01T00:00:00Z") == "0s"


@pytest.mark.parametrize("time", [None, "", "yesterday", "2026-01-02T03:04:05"])
def test_age_of_what_is_no_time_is_a_dash(time):
    assert units.format_age(time) == "-"


def test_age():
    assert units.format_age(CREATED) == "3m12s"


@pytest.mark.parametrize(
    ("micros", "text"),
    [(None, "-"), (0, "0us"), (80, "80us"), (1250, "1.25ms"), (20_000, "20ms"), (2.5e6, "2.5s")],
)
def test_micros(micros, text):
    assert units.format_micros(micros) == text


def test_missing_numbers_are_dashes():
    assert units.format_size(None) == units.format_cores(None) == "-"
    assert units.format_share(1, None) == units.format_share(None, 2) == "-"
    assert units.format_milliseconds(None) == "-"


def test_shares_and_sizes():
    assert units.format_share(0.25, 0.5) == "50%"
    assert units.format_size(1_500_000) == "1.4Mi"
    assert units.format_cores(0.012) == "12m"


@given(st.integers(min_value=0, max_value=10**12))
def test_spans_are_short(seconds):
    assert len(units.format_span(seconds)) <= 8
