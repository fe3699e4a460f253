"""Guests that misbehave on purpose, and a few that don't, built when a test first asks.

`build_guest("loop")` returns the module's path in a cache outside the tree; the name of a cached
module holds a digest of all sources and compilers, so nothing stale is ever used. `GUESTS` has
every name; each source's first lines say what it does.
"""

from __future__ import annotations

import functools
import hashlib
import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

SOURCES = Path(__file__).parent

_SOCKET_SERVER = SOURCES.parents[2] / "examples/socket-server/socket-server.wasm"

# A component's preamble: the layer field says 1 where a core module's says 0.
COMPONENT = b"\x00asm\x0d\x00\x01\x00"

_FLAGS = (
    "--target=wasm32-wasi",
    "-std=gnu11",
    "-Os",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-infinite-recursion",  # some do so on purpose
    "-Wl,--strip-all",
    "-Wl,-z,stack-size=65536",
)


def _compile_c(source: Path, module: Path) -> None:
    command = [sys.executable, "-m", "ziglang", "cc", *_FLAGS, "-o", str(module), str(source)]
    subprocess.run(command, check=True, capture_output=True, text=True)


def _compile_wat(source: Path, module: Path) -> None:
    from wasmtime import wat2wasm

    module.write_bytes(wat2wasm(source.read_text()))


def _write_truncated(module: Path) -> None:
    whole = build_guest("echo").read_bytes()
    module.write_bytes(whole[: len(whole) // 2])


def _copy_socket_server(module: Path) -> None:
    module.write_bytes(_SOCKET_SERVER.read_bytes())


_BUILT_FROM_SOURCE = {path.stem: path for path in sorted(SOURCES.glob("*.[cw]*"))}
_WRITTEN = {
    "component": lambda module: module.write_bytes(COMPONENT),
    "socket_server": _copy_socket_server,
    "not_wasm": lambda module: module.write_bytes(b"#!/bin/sh\nexit 0\n"),
    "truncated": _write_truncated,
}

GUESTS = (*_BUILT_FROM_SOURCE, *_WRITTEN)


@functools.cache
def _cache_folder() -> Path:
    """Name the cache after everything that a module depends on."""
    digest = hashlib.sha256(repr((_FLAGS, version("ziglang"), version("wasmtime"))).encode())
    for path in sorted(SOURCES.iterdir()):
        if path.suffix in {".c", ".h", ".py", ".wat"}:
            digest.update(path.read_bytes())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "limpet-tests" / digest.hexdigest()[:16]


def build_guest(name: str) -> Path:
    """Return the path of the guest's module, compiled unless the cache has it.

    Raises KeyError for an unknown name and CalledProcessError when it doesn't compile.
    """
    if name not in GUESTS:
        raise KeyError(f"no guest is called {name}: there are {', '.join(GUESTS)}")
    module = _cache_folder() / f"{name}.wasm"
    if not module.exists():
        module.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=module.parent) as folder:
            built = Path(folder) / module.name
            if name in _WRITTEN:
                _WRITTEN[name](built)
            elif _BUILT_FROM_SOURCE[name].suffix == ".c":
                _compile_c(_BUILT_FROM_SOURCE[name], built)
            else:
                _compile_wat(_BUILT_FROM_SOURCE[name], built)
            built.replace(module)  # whole or not at all: tests run in parallel
    return module
