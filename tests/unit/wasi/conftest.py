"""Lets these tests build guests with what the corpus uses, and call functions of sockets."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "corpus"))
sys.path.insert(0, str(Path(__file__).parent))

from socket_calls import Caller, LocalNetwork


@pytest.fixture
def network():
    """What guests reach: one listening socket of this machine, and everything else."""
    network = LocalNetwork()
    yield network
    network.close()


@pytest.fixture
def caller(network: LocalNetwork):
    """A guest without code that has this network."""
    caller = Caller(network)
    yield caller
    caller.close()
