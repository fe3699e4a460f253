"""What tests of every kind share."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

import wasmedge_prefix

if TYPE_CHECKING:
    from limpet.engine.wasmedge.library import Installation

# A shell's background job ignores Ctrl-C, and so would everything that is started here.
signal.signal(signal.SIGINT, signal.default_int_handler)
# No test may fail because the machine has other work.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def wasmedge() -> Installation:
    """WasmEdge, installed by the first test that asks; a skip with the reason where it can't be had."""
    try:
        return wasmedge_prefix.find_or_install()
    except wasmedge_prefix.NotHereError as error:
        pytest.skip(str(error))
