"""The engines that the contract is for, and what its tests share."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "corpus"))

from contract_runs import Loader

from limpet.engine import engine_names, open_engine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from limpet.engine.protocol import Engine

_engines: dict[str, Engine] = {}


@pytest.fixture(params=engine_names())
def engine(request: pytest.FixtureRequest) -> Engine:
    """Every engine in turn; each is made once, as it is in a worker."""
    if request.param not in _engines:
        _engines[request.param] = open_engine(request.param)
    return _engines[request.param]


@pytest.fixture
def load(engine: Engine) -> Loader:
    return Loader(engine)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe's two ends, which stay open for the test."""
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)
