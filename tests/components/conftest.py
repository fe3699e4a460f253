"""Lets these tests build guests with what the corpus uses, and turns missing tools into skips."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "corpus"))
sys.path.insert(0, str(Path(__file__).parent.parent / "contract"))

from component_builds import NotAvailableError
from component_runs import LocalNetwork

from limpet.engine import open_engine

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from limpet.engine.protocol import Engine


def _skipping() -> Generator[None, None, None]:
    try:
        yield
    except NotAvailableError as missing:
        pytest.skip(f"no component can be built: {missing}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None, None, None]:
    yield from _skipping()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, None, None]:
    yield from _skipping()


@pytest.fixture(scope="session")
def engine() -> Engine:
    return open_engine("wasmtime")


@pytest.fixture
def local_network() -> Iterator[LocalNetwork]:
    """One port that may be listened at."""
    network = LocalNetwork(listeners=1)
    yield network
    network.close()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe's two ends, which stay open for the test."""
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)
