"""Where libwasmtime is, found without importing the package that carries it."""

from __future__ import annotations

import os
import sys
from importlib.machinery import PathFinder

from limpet.engine.missing import EngineMissingError

_MACHINES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}


def find_library() -> str:
    """The path of the official wheel's libwasmtime for this machine."""
    machine = os.uname().machine
    folder = _MACHINES.get(machine.lower())
    if folder is None or not sys.platform.startswith("linux"):
        raise EngineMissingError(
            f"Wasmtime has no wheel for {sys.platform} on {machine}: "
            "Limpet runs on Linux, x86-64 or aarch64"
        )
    package = _find_package()
    path = os.path.join(package, f"linux-{folder}", "_libwasmtime.so")
    if not os.path.isfile(path):
        raise EngineMissingError(
            f"the wasmtime package in {package} holds no library for linux-{folder}: "
            "install the official wheel again (pip install --force-reinstall wasmtime)"
        )
    return path


def find_version() -> str:
    """The version of that wheel, read from the name of its metadata directory."""
    for name in sorted(os.listdir(os.path.dirname(_find_package()))):
        if name.startswith("wasmtime-") and name.endswith(".dist-info"):
            return name.removeprefix("wasmtime-").removesuffix(".dist-info")
    return "unknown"


def _find_package() -> str:
    spec = PathFinder.find_spec("wasmtime", [entry for entry in sys.path if entry])
    if spec is None or spec.origin is None:
        raise EngineMissingError(
            "the wasmtime package is not installed: install it beside Limpet (pip install wasmtime)"
        )
    return os.path.dirname(spec.origin)
