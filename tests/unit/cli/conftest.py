from __future__ import annotations

import os
import sys
import tempfile
from datetime import datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from limpet.cli import following, logs, render, units, watch
from limpet.cli import terminal as terminal_module
from limpet.cli.main import limpet

from .fake_node import NOW, FakeNode

# `limpet inspect` looks at guests that are built with what the corpus uses.
sys.path.insert(0, str(Path(__file__).parents[2] / "corpus"))


@pytest.fixture(autouse=True)
def _quiet_environment(monkeypatch):
    """No variable of the developer's changes what tests see; the clock stands still."""
    for name in ("LIMPET_SOCKET", "LIMPET_DEBUG", "NO_COLOR", "FORCE_COLOR", "_LIMPET_COMPLETE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(units, "now", lambda: datetime.fromisoformat(NOW))


@pytest.fixture
def socket_path():
    """Short enough for a Unix socket, wherever pytest keeps its files."""
    with tempfile.TemporaryDirectory(prefix="limpet-test-") as folder:
        yield Path(folder) / "limpet.sock"


@pytest.fixture
def node(socket_path):
    """A running fake node."""
    fake = FakeNode(socket_path)
    fake.start()
    yield fake
    fake.stop()


@pytest.fixture
def limpet_(socket_path):
    """Run the command line against the socket; a pipe unless `terminal` is used too."""

    def run(*arguments, input=None):  # noqa: A002
        return CliRunner().invoke(
            limpet, ["--socket", str(socket_path), *map(str, arguments)], input=input
        )

    return run


@pytest.fixture
def terminal(monkeypatch):
    """Stdout and stderr are a terminal of 100 columns."""

    def set_columns(columns):
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("LINES", "40")

    for module in (terminal_module, render, watch, logs, following):
        monkeypatch.setattr(module, "is_terminal", lambda stream: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    set_columns(100)
    return set_columns


@pytest.fixture
def golden():
    """Compare with a file of tests/unit/cli/golden; UPDATE_GOLDEN=1 writes it."""

    def check(name, text):
        path = Path(__file__).parent / "golden" / name
        if os.environ.get("UPDATE_GOLDEN"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, "utf-8")
        assert text == path.read_text("utf-8")

    return check
