from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from limpet.api.client import Client

from .scripted_peer import Peer


@pytest.fixture
def folder():
    with tempfile.TemporaryDirectory(prefix="limpet-test-") as name:
        yield Path(name)


@pytest.fixture
def peer(folder):
    scripted = Peer(folder / "s")
    yield scripted
    scripted.close()


@pytest.fixture
def client(folder):
    return Client(folder / "s", timeout_seconds=2.0)
