"""What tests of every kind share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import wasmedge_prefix

if TYPE_CHECKING:
    from limpet.engine.wasmedge.library import Installation


@pytest.fixture(scope="session")
def wasmedge() -> Installation:
    """WasmEdge, installed by the first test that asks; a skip with the reason where it can't be had."""
    try:
        return wasmedge_prefix.find_or_install()
    except wasmedge_prefix.NotHereError as error:
        pytest.skip(str(error))
