"""Runs one guest under the Wasmtime CLI and under Limpet, in equal directories."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from engine_variant import tested_variant
from guest_builds import CORPUS, compile_for_cli, find_cli

from limpet.engine import open_engine
from limpet.engine.protocol import Invocation, Limits, Outcome, OutcomeKind, Preopen
from limpet.wasi.streams import BufferOutput, BytesInput
from limpet.wasi.strings import Strings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from limpet.engine.protocol import Engine, Program

_OUTPUT_BYTES = 16 << 20
_TIMEOUT_SECONDS = 60
# What the CLI exits with for a trap (128 + SIGABRT), and for any other error of the run.
_CLI_TRAP, _CLI_ERROR = 134, 1
_FAILED = b"Error: failed to run"


@dataclass(frozen=True)
class Setup:
    """What both sides get. `tree` fills each directory; guest path -> read-only."""

    args: Sequence[bytes] = ()
    env: Sequence[bytes] = ()
    stdin: bytes = b""
    directories: dict[str, bool] = field(default_factory=dict)
    fill: Callable[[Path, str], None] | None = None


@dataclass(frozen=True)
class Result:
    """`ending` is `exit N` or `trap`. `trees`: path -> what is there, for each directory."""

    stdout: bytes
    stderr: bytes
    ending: str
    trees: dict[str, dict[str, str]]


def run_reference(module: bytes, setup: Setup) -> Result:
    """Under the CLI; under wasmtime-py when a directory is read-only, which the CLI can't do."""
    with ExitStack() as stack:
        roots = _make_roots(stack, setup)
        is_mixed = any(setup.directories.values())
        command = (_wasmtime_py if is_mixed else _cli)(stack, module, setup, roots)
        done = subprocess.run(
            command,
            input=setup.stdin,
            capture_output=True,
            check=False,
            timeout=_TIMEOUT_SECONDS,
        )
        ending = f"exit {done.returncode}"
        stderr = done.stderr
        if done.returncode in {_CLI_TRAP, _CLI_ERROR} and _FAILED in stderr:
            ending = "trap"
            stderr = stderr[: stderr.index(_FAILED)]
        return Result(done.stdout, stderr, ending, _read_trees(roots))


def _cli(
    _stack: ExitStack, module: bytes, setup: Setup, roots: dict[str, Path]
) -> list[bytes | str | Path]:
    command: list[bytes | str | Path] = [
        find_cli() or "",
        "run",
        "--allow-precompiled",
        "--argv0=guest",
    ]
    command.extend(f"--dir={root}::{guest_path}" for guest_path, root in roots.items())
    for item in setup.env:
        command.extend([b"--env", item])
    return [*command, compile_for_cli(module), *setup.args]


def _wasmtime_py(
    stack: ExitStack, module: bytes, setup: Setup, roots: dict[str, Path]
) -> list[bytes | str | Path]:
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="limpet-")))
    file = directory / "guest.wasm"
    file.write_bytes(module)
    command: list[bytes | str | Path] = [sys.executable, CORPUS / "reference_run.py", file]
    for guest_path, root in roots.items():
        mode = "ro" if setup.directories[guest_path] else "rw"
        command.extend(["--dir", root, guest_path, mode])
    for item in setup.env:
        command.extend([b"--env", item])
    return [*command, "--", *setup.args]


_engine: Engine | None = None
_programs: dict[bytes, Program] = {}


def load(module: bytes, memory_bytes: int = 256 << 20) -> Program:
    """The module as a program of the engine that is tested; loaded once."""
    global _engine
    if module not in _programs:
        variant = tested_variant()
        _engine = _engine or open_engine(variant.engine)
        artifact, _ = _engine.compile_module(module, variant.options)
        descriptor = os.memfd_create("artifact")
        os.write(descriptor, artifact)
        _programs[module] = _engine.load(descriptor, limits=Limits(memory_bytes=memory_bytes))
        os.close(descriptor)
    return _programs[module]


def run_limpet(module: bytes, setup: Setup, *, deadline_seconds: float = 30) -> Result:
    program = load(module)
    with ExitStack() as stack:
        roots = _make_roots(stack, setup)
        stdout, stderr = BufferOutput(_OUTPUT_BYTES), BufferOutput(_OUTPUT_BYTES)
        preopens = []
        for guest_path, is_read_only in setup.directories.items():
            descriptor = os.open(roots[guest_path], os.O_RDONLY | os.O_DIRECTORY)
            stack.callback(os.close, descriptor)
            preopens.append(Preopen(guest_path.encode(), descriptor, is_read_only))
        outcome = program.run(
            Invocation(
                args=Strings([b"guest", *setup.args]),
                env=Strings(setup.env),
                stdin=BytesInput(setup.stdin),
                stdout=stdout,
                stderr=stderr,
                preopens=preopens,
                deadline_seconds=deadline_seconds,
            )
        )
        return Result(stdout.getvalue(), stderr.getvalue(), _describe(outcome), _read_trees(roots))


def _describe(outcome: Outcome) -> str:
    if outcome.kind is OutcomeKind.EXIT:
        return f"exit {outcome.exit_code}"
    return "trap" if outcome.kind is OutcomeKind.TRAP else outcome.kind.value


def _make_roots(stack: ExitStack, setup: Setup) -> dict[str, Path]:
    roots = {}
    for guest_path in setup.directories:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="limpet-")))
        if setup.fill is not None:
            setup.fill(root, guest_path)
        roots[guest_path] = root
    return roots


def _read_trees(roots: dict[str, Path]) -> dict[str, dict[str, str]]:
    return {guest_path: _read_tree(root) for guest_path, root in roots.items()}


def _read_tree(root: Path) -> dict[str, str]:
    found = {}
    for path in sorted(root.rglob("*")):
        name = os.fsdecode(path.relative_to(root))
        status = path.lstat()
        mode = f"{status.st_mode & 0o7777:o}"
        if path.is_symlink():
            found[name] = f"link to {path.readlink()}"
        elif path.is_dir():
            found[name] = f"directory {mode}"
        elif path.is_file():
            content = path.read_bytes()
            found[name] = f"file {mode} links={status.st_nlink} {len(content)} {content[:4096]!r}"
        else:
            found[name] = f"special {mode}"
    return found
