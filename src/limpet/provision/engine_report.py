"""What engines this machine has, found by having each run a guest in a process of its own."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from limpet.engine import DEFAULT_ENGINE
from limpet.engine.missing import EngineMissingError
from limpet.engine.wasmedge import library
from limpet.provision import commands

if TYPE_CHECKING:
    from pathlib import Path

# Compiling for the first time, on the slowest board, from an SD card.
_TRIAL_SECONDS = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineReport:
    """One engine as this machine has it.

    `where` is its library, empty when there is none; `problem` says why it is not usable, and what helps;
    `modes` are those of `limpet.provision.engine_trial` that were seen to work.
    """

    name: str
    state: Literal["usable", "missing", "broken"]
    version: str = ""
    where: str = ""
    problem: str = ""
    memory: str = ""
    modes: tuple[str, ...] = ()

    @property
    def is_default(self) -> bool:
        """Whether apps that name no engine run on it."""
        return self.name == DEFAULT_ENGINE


def examine_engines(data_directory: Path) -> list[EngineReport]:
    """Try every engine that Limpet knows, the default one first."""
    return [examine_wasmtime(), examine_wasmedge(data_directory)]


def examine_wasmtime() -> EngineReport:
    """Try the engine that comes with Limpet."""
    argv = [sys.executable, *_trial("wasmtime")]
    return _report("wasmtime", argv, where="")


def examine_wasmedge(data_directory: Path) -> EngineReport:
    """Try WasmEdge: the system's, or what was installed below the node's data directory."""
    try:
        return examine_installation(library.find_installation(str(data_directory)))
    except EngineMissingError as error:
        return EngineReport(name="wasmedge", state="missing", problem=str(error))


def examine_installation(found: library.Installation) -> EngineReport:
    """Try this libwasmedge. Raises `EngineMissingError` when there is no Python that could load it."""
    argv = library.command(found, _trial("wasmedge", found.library))
    return _report("wasmedge", argv, where=found.library, version=found.version)


def _trial(*arguments: str) -> list[str]:
    return ["-P", "-m", "limpet.provision.engine_trial", *arguments]


def _report(name: str, argv: list[str], *, where: str, version: str = "") -> EngineReport:
    try:
        told = json.loads(commands.run(argv, step=f"trying {name}", seconds=_TRIAL_SECONDS))
    except commands.CommandError as error:
        told = {"problem": str(error)}
    where = where or told.get("library") or ""
    if "problem" in told:
        return EngineReport(
            name=name,
            state="broken" if where else "missing",
            version=version,
            where=where,
            problem=told["problem"],
        )
    return EngineReport(
        name=name,
        state="usable",
        version=told["version"],
        where=where,
        memory=told["memory"],
        modes=tuple(told["modes"]),
    )
