"""Native code is run when this node's compiler made it, and never when it came with a module."""

from __future__ import annotations

import os

import pytest
from contract_runs import WASI, invoke, load_bytes
from guest_builds import parse_wat

from limpet.engine.binary import read_shape
from limpet.engine.protocol import CompileOptions, Engine, Limits
from limpet.engine.wasmedge.artifact import Artifact, parse_artifact

EXIT = f"""(module (import "{WASI}" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1) (func (export "_start") (call $exit (i32.const %d))))"""
LIMITS = Limits(memory_bytes=1 << 20)
COMPILED, INTERPRETED = CompileOptions(), CompileOptions(is_interpreted=True)


@pytest.fixture(scope="module")
def native_code(engine: Engine) -> bytes:
    """The section with the compiled code of a module that exits with 1."""
    artifact = parse_artifact(
        engine.compile_module(parse_wat(EXIT % 1), COMPILED)[0], engine.artifact_key()
    )
    sections = read_shape(artifact.module).custom_sections
    assert [section.name for section in sections] == ["wasmedge"]
    return artifact.module[sections[0].start : sections[0].end]


@pytest.fixture
def trojan(native_code: bytes) -> bytes:
    """A module that exits with 2 when its own code runs, and with 1 when the planted one does."""
    return parse_wat(EXIT % 2) + native_code


def test_the_library_would_run_it(engine: Engine, trojan: bytes) -> None:
    """Else the tests below would show nothing."""
    key, imports = engine.artifact_key(), {"proc_exit": "proc_exit"}
    artifact = Artifact(key, COMPILED, imports, 65536, trojan)
    assert load_bytes(engine, artifact.pack(), LIMITS).run(invoke()).exit_code == 1


@pytest.mark.parametrize("options", [COMPILED, INTERPRETED])
@pytest.mark.parametrize("place", ["first", "last", "twice"])
def test_it_is_not_run(
    engine: Engine, trojan: bytes, native_code: bytes, options: CompileOptions, place: str
) -> None:
    module = parse_wat(EXIT % 2)
    planted = {
        "first": module[:8] + native_code + module[8:],
        "last": trojan,
        "twice": module[:8] + native_code + trojan[8:],
    }[place]
    artifact, _ = engine.compile_module(planted, options)
    assert load_bytes(engine, artifact, LIMITS).run(invoke()).exit_code == 2
    kept = read_shape(parse_artifact(artifact, engine.artifact_key()).module).custom_sections
    assert len(kept) == (0 if options.is_interpreted else 1)


def test_an_interpreted_artifact_runs_none_even_if_it_were_there(
    engine: Engine, trojan: bytes
) -> None:
    key, imports = engine.artifact_key(), {"proc_exit": "proc_exit"}
    artifact = Artifact(key, INTERPRETED, imports, 65536, trojan)
    assert load_bytes(engine, artifact.pack(), LIMITS).run(invoke()).exit_code == 2


def test_a_bare_module_is_no_artifact(engine: Engine, trojan: bytes) -> None:
    from limpet.engine.protocol import ModuleError

    with pytest.raises(ModuleError, match="compile the module again"):
        load_bytes(engine, trojan, LIMITS)


def test_compiling_leaves_no_file(
    engine: Engine, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    engine.compile_module(parse_wat(EXIT % 1), COMPILED)
    assert os.listdir(str(tmp_path)) == []
