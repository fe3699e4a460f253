"""The engine that the contract is tested with, and what its tests share."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "corpus"))

from contract_runs import Loader
from engine_variant import tested_variant

from limpet.engine import open_engine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from limpet.engine.protocol import Engine

_variant = tested_variant()
# What only WasmEdge has to do.
collect_ignore_glob = [] if _variant.engine == "wasmedge" else ["test_wasmedge_*"]


@pytest.fixture(scope="session", params=[_variant], ids=str)
def engine(request: pytest.FixtureRequest) -> Engine:
    """Made once, as it is in a worker."""
    return open_engine(request.param.engine)


@pytest.fixture
def load(engine: Engine) -> Loader:
    return Loader(engine, _variant.options)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe's two ends, which stay open for the test."""
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)
