"""The engines' own programs, and what they run: the same modules, each compiled by its own compiler."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.lab import HELLO, MissingToolError, assemble
from limpet.engine.wasmedge.library import find_installation
from limpet.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.lab import Lab
    from limpet.engine.wasmedge.library import Installation

TRIVIAL, HELLO_NAME, FIBONACCI = "trivial", "hello", "fib"
INTERRUPTIBLE, INTERPRETER, WASMTIME = "interruptible", "interpreter", "wasmtime"
_HERE = Path(__file__).parent
_SECONDS = 60.0

# How the programs run a module -> label. A shared object is mapped, Wasm with machine code is read.
WAYS = {
    "shared object": "`wasmedge`, compiled to a shared object",
    "universal": "`wasmedge`, compiled to Wasm with machine code",
    INTERRUPTIBLE: "`wasmedge`, the same, interruptible",
    INTERPRETER: "`wasmedge`, interpreted",
    WASMTIME: "`wasmtime run`, precompiled",
}
_COMPILED: Mapping[str, tuple[str, Sequence[str]]] = {
    "shared object": ("so", ()),
    "universal": ("universal.wasm", ()),
    INTERRUPTIBLE: ("interruptible.wasm", ("--interruptible",)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Programs:
    """Where the modules lie, and the commands that run them: `commands[module][way]`."""

    modules: Mapping[str, Path]
    commands: Mapping[str, Mapping[str, Sequence[str]]]
    environment: Mapping[str, str]
    wasmedge_version: str

    def time_output(self, module: str, way: str) -> float:
        """Seconds from before the program is started to the first byte that it prints."""
        started = time.perf_counter()
        with subprocess.Popen(
            self.commands[module][way],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env=self.environment,
        ) as process:
            assert process.stdout is not None, "it is a pipe"
            first = process.stdout.read(1)
            seconds = time.perf_counter() - started
            rest = process.stdout.read()
        if process.returncode or b"Hello" not in first + rest:
            raise RuntimeError(f"{WAYS[way]}: {process.returncode}, {rest[:200]!r}")
        return seconds

    def spend(self, module: str, way: str, *arguments: str) -> float:
        """Seconds of processor time that the program takes from its start to its end."""
        before = _spent_by_children()
        subprocess.run(
            [*self.commands[module][way], *arguments],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=self.environment,
            timeout=_SECONDS,
        )
        return _spent_by_children() - before


def _spent_by_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def find_programs(lab: Lab, folder: Path) -> Programs:
    """Find both programs and compile the modules. Raises `MissingToolError`."""
    try:
        installation = find_installation(None)
    except UnavailableError as error:
        raise MissingToolError(str(error)) from error
    wasmedge, environment = _wasmedge_command(installation)
    modules = _write_modules(folder)
    return Programs(
        modules=modules,
        commands={
            name: _compile(lab, wasmedge, environment, module) for name, module in modules.items()
        },
        environment=environment,
        wasmedge_version=_version(wasmedge, environment),
    )


def _wasmedge_command(installation: Installation) -> tuple[list[str], dict[str, str]]:
    """How the program that came with the library is started, and in which environment."""
    environment = dict(os.environ)
    if installation.root is None:
        program = shutil.which("wasmedge")
    else:
        program = shutil.which("wasmedge", path=f"{installation.root}/usr/bin")
    if program is None:
        raise MissingToolError(
            f"{installation.library} is there, but the program wasmedge is not: "
            "install Debian's package wasmedge"
        )
    path = ":".join(installation.library_path)
    if installation.loader is not None:
        return [installation.loader, "--library-path", path, program], environment
    if path:
        environment["LD_LIBRARY_PATH"] = path
    return [program], environment


def _version(wasmedge: Sequence[str], environment: Mapping[str, str]) -> str:
    done = subprocess.run(
        [*wasmedge, "--version"],
        check=True,
        capture_output=True,
        text=True,
        env=environment,
        timeout=_SECONDS,
    )
    return done.stdout.partition("version ")[2].split()[0]


def _write_modules(folder: Path) -> dict[str, Path]:
    modules = {name: folder / f"{name}.wasm" for name in (TRIVIAL, HELLO_NAME, FIBONACCI)}
    modules[HELLO_NAME].write_bytes(HELLO.read_bytes())
    for name in (TRIVIAL, FIBONACCI):
        modules[name].write_bytes(assemble(_HERE / f"{name}.wat"))
    return modules


def _compile(
    lab: Lab, wasmedge: Sequence[str], environment: Mapping[str, str], module: Path
) -> dict[str, list[str]]:
    """Compile a module in every way; return the commands that run it."""
    commands: dict[str, list[str]] = {}
    for way, (suffix, options) in _COMPILED.items():
        output = module.with_suffix(f".{suffix}")
        _run([*wasmedge, "compile", *options, str(module), str(output)], environment)
        commands[way] = [*wasmedge, str(output)]
    commands[INTERPRETER] = [*wasmedge, "--force-interpreter", str(module)]
    output = module.with_suffix(".cwasm")
    _run([str(lab.wasmtime), "compile", str(module), "-o", str(output)], environment)
    commands[WASMTIME] = [str(lab.wasmtime), "run", "--allow-precompiled", str(output)]
    return commands


def _run(command: Sequence[str], environment: Mapping[str, str]) -> None:
    subprocess.run(
        command, check=True, stdout=subprocess.DEVNULL, env=environment, timeout=_SECONDS
    )
