from __future__ import annotations

from limpet.node.usage import UsageMeter


def test_throttling_is_measured_between_two_looks():
    meter = UsageMeter()
    assert meter.throttled_share("web", 0, 0) is None
    assert meter.throttled_share("web", 10, 5) == 0.5
    assert meter.throttled_share("web", 30, 5) == 0.0
    assert meter.throttled_share("web", 40, 15) == 1.0
    assert meter.throttled_share("web", 40, 15) == 0.0


def test_a_new_start_counts_from_the_beginning():
    meter = UsageMeter()
    meter.throttled_share("web", 100, 90)
    assert meter.throttled_share("web", 4, 1) == 0.25
