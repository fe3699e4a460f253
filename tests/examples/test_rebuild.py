"""Every module in the tree is what its sources and the pinned compiler give, byte for byte."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from example_guests import EXAMPLES, build

if TYPE_CHECKING:
    from pathlib import Path

COMMITTED = ["hello", "report", "sensor", "socket-server", "ticker"]
MOST_BYTES = 60_000

pytest.importorskip("ziglang", reason="needs ziglang, the C compiler")


@pytest.mark.parametrize("example", COMMITTED)
def test_committed_module_is_rebuilt_identically(example: str, tmp_path: Path) -> None:
    committed = (EXAMPLES / example / f"{example}.wasm").read_bytes()
    assert build(example, tmp_path).read_bytes() == committed, "run its build.sh and commit"
    assert len(committed) < MOST_BYTES


@pytest.mark.parametrize("example", COMMITTED)
def test_folder_leaves_no_trace_in_module(example: str, tmp_path: Path) -> None:
    elsewhere = tmp_path / "some where else" / "examples"
    ignored = shutil.ignore_patterns("*.wasm", "python", "quickjs", "go-hello")
    shutil.copytree(EXAMPLES, elsewhere, ignore=ignored)
    module = build(example, elsewhere / example, examples=elsewhere)
    assert module.read_bytes() == (EXAMPLES / example / f"{example}.wasm").read_bytes()


def test_another_compiler_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A newer compiler would build another module without a word."""
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\necho 0.1.0\n")
    fake.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(fake))
    with pytest.raises(AssertionError, match=r"ziglang is 0\.1\.0, the modules are built with"):
        build("hello", tmp_path / "out")
    assert not (tmp_path / "out" / "hello.wasm").exists()
