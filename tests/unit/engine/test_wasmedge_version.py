"""A library of the right name and another version is not used."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

from limpet.engine.missing import EngineMissingError
from limpet.engine.wasmedge.binding import Binding, UnknownVersionError
from limpet.engine.wasmedge.engine import WasmEdgeEngine
from limpet.errors import UnavailableError

if TYPE_CHECKING:
    from pathlib import Path

SOURCE = 'const char *WasmEdge_VersionGet(void) { return "%s"; }'


@pytest.mark.skipif(find_spec("ziglang.__main__") is None, reason="needs a C compiler")
@pytest.mark.parametrize("version", ["0.13.5", "0.15.0", "0.16.1", "0.18.0-rc.1", "1.0", ""])
def test_an_unknown_version_is_refused_by_its_name(tmp_path: Path, version: str) -> None:
    library = tmp_path / "libwasmedge.so.0"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "ziglang",
            "cc",
            "-shared",
            "-nostdlib",
            "-x",
            "c",
            "-",
            "-o",
            library,
        ],
        input=(SOURCE % version).encode(),
        check=True,
    )
    with pytest.raises(UnknownVersionError) as caught:
        WasmEdgeEngine(str(library))
    message = str(caught.value)
    assert f"is WasmEdge {version}," in message
    assert "0.14.x and 0.17.x" in message
    assert isinstance(caught.value, UnavailableError)


def test_what_is_no_library_is_missing(tmp_path: Path) -> None:
    (tmp_path / "libwasmedge.so.0").write_text("nothing")
    with pytest.raises(EngineMissingError):
        Binding(str(tmp_path / "libwasmedge.so.0"))
