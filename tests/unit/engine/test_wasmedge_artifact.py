"""The header before a module that WasmEdge loads."""

from __future__ import annotations

import pytest

from limpet.engine.protocol import CompileOptions, ModuleError
from limpet.engine.wasmedge.artifact import Artifact, parse_artifact

KEY = "wasmedge-0.14.1-01234567"
ARTIFACT = Artifact(
    KEY,
    CompileOptions(is_metered=True),
    {"fd_write": "fd_write", "sock_accept": "sock_accept_v1"},
    3 << 16,
    b"\0asm\1\0\0\0" + bytes(100),
)


@pytest.mark.parametrize("is_metered", [True, False])
@pytest.mark.parametrize("is_interpreted", [True, False])
def test_as_it_was_packed(*, is_metered: bool, is_interpreted: bool) -> None:
    options = CompileOptions(is_metered=is_metered, is_interpreted=is_interpreted)
    artifact = Artifact(KEY, options, ARTIFACT.imports, ARTIFACT.memory_bytes, ARTIFACT.module)
    assert parse_artifact(artifact.pack(), KEY) == artifact


def test_without_imports() -> None:
    artifact = Artifact(KEY, CompileOptions(), {}, 0, b"")
    assert parse_artifact(artifact.pack(), KEY) == artifact


def test_every_cut_is_seen() -> None:
    content = ARTIFACT.pack()
    for length in range(len(content)):
        with pytest.raises(ModuleError, match="compile the module again"):
            parse_artifact(content[:length], KEY)
    with pytest.raises(ModuleError, match="compile the module again"):
        parse_artifact(content + b"x", KEY)


def test_another_engine_s_names_both() -> None:
    with pytest.raises(ModuleError, match=r"of wasmedge-0\.14\.1.*this engine is wasmedge-0\.17"):
        parse_artifact(ARTIFACT.pack(), "wasmedge-0.17.1-01234567")


def test_a_plain_module_is_none() -> None:
    with pytest.raises(ModuleError, match="another header"):
        parse_artifact(b"\0asm\1\0\0\0" + bytes(100), KEY)


def test_an_unknown_import_is_refused() -> None:
    artifact = Artifact(KEY, CompileOptions(), {"fd_write": "fd_wrote"}, 0, b"")
    with pytest.raises(ModuleError, match="'fd_wrote'"):
        parse_artifact(artifact.pack(), KEY)
