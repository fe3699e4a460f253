"""Finding libwasmtime, and what is said when it is not there."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from limpet.engine import UnknownEngineError, engine_names, open_engine
from limpet.engine.wasmtime import library
from limpet.errors import NotFoundError, UnavailableError

if TYPE_CHECKING:
    from pathlib import Path


def test_another_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(machine="riscv64"))
    with pytest.raises(UnavailableError, match="riscv64"):
        library.find_library()


def test_no_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(UnavailableError, match="pip install wasmtime"):
        library.find_library()


def test_a_package_without_the_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "wasmtime").mkdir()
    (tmp_path / "wasmtime" / "__init__.py").write_text("raise SystemExit")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(UnavailableError, match="official wheel"):
        library.find_library()
    assert library.find_version() == "unknown"


def test_an_unknown_engine_names_those_there_are() -> None:
    with pytest.raises(UnknownEngineError, match="wasmtime") as caught:
        open_engine("v8")
    assert isinstance(caught.value, NotFoundError)
    assert "wasmtime" in engine_names()
