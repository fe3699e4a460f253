"""Where libwasmtime is, found without importing the package that carries it."""

from __future__ import annotations

import platform
import sys
from importlib.machinery import PathFinder
from pathlib import Path

from limpet.errors import UnavailableError

_MACHINES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}


class EngineMissingError(UnavailableError):
    """The engine's library is not on this machine."""


def find_library() -> str:
    """The path of the official wheel's libwasmtime for this machine."""
    machine = _MACHINES.get(platform.machine().lower())
    if machine is None or not sys.platform.startswith("linux"):
        raise EngineMissingError(
            f"Wasmtime has no wheel for {sys.platform} on {platform.machine()}: "
            "Limpet runs on Linux, x86-64 or aarch64"
        )
    package = _find_package()
    path = package / f"linux-{machine}" / "_libwasmtime.so"
    if not path.is_file():
        raise EngineMissingError(
            f"the wasmtime package in {package} holds no library for linux-{machine}: "
            "install the official wheel again (pip install --force-reinstall wasmtime)"
        )
    return str(path)


def find_version() -> str:
    """The version of that wheel, read from the name of its metadata directory."""
    package = _find_package()
    for metadata in package.parent.glob("wasmtime-*.dist-info"):
        return metadata.name.removeprefix("wasmtime-").removesuffix(".dist-info")
    return "unknown"


def _find_package() -> Path:
    spec = PathFinder.find_spec("wasmtime", [entry for entry in sys.path if entry])
    if spec is None or spec.origin is None:
        raise EngineMissingError(
            "the wasmtime package is not installed: install it beside Limpet (pip install wasmtime)"
        )
    return Path(spec.origin).parent
