"""Decides what to tell of a file: which engine runs it how, and what is in the way. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from limpet.engine.choice import AUTO, Choice, choose_engine, suggested_trigger
from limpet.engine.contents import Contents, read_contents
from limpet.engine.protocol import ModuleError
from limpet.engine.verdicts import Verdict, decide_verdicts

if TYPE_CHECKING:
    from collections.abc import Mapping

_MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryRoom:
    """An app's memory limit when its manifest sets none, and what of it its worker takes."""

    limit_bytes: int
    worker_share_bytes: int

    @property
    def guest_bytes(self) -> int:
        return self.limit_bytes - self.worker_share_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What `limpet inspect` tells.

    `problems` is everything that keeps the file from running, each with what would help; `advice`
    what doesn't, and is worth knowing. `choice` and `trigger` are what Limpet takes when nobody says;
    None when nothing can run it.
    """

    contents: Contents
    size_bytes: int
    memory: MemoryRoom
    problems: tuple[str, ...]
    advice: tuple[str, ...]
    verdicts: tuple[Verdict, ...]
    choice: Choice | None
    trigger: str | None

    @property
    def is_runnable(self) -> bool:
        """Whether some engine here runs it somehow."""
        return any(verdict.is_runnable for verdict in self.verdicts)

    @property
    def fits_memory(self) -> bool:
        """Whether an app whose manifest sets no limit has the memory that it starts with."""
        return self.contents.memory_bytes <= self.memory.guest_bytes


def compile_report(data: bytes, *, usable: Mapping[str, str], memory: MemoryRoom) -> Report:
    """Everything there is to tell of a file. Raises nothing, whatever the bytes are.

    `usable` is as in `choose_engine`.
    """
    contents, program = read_contents(data)
    problems = list(program.problems)
    choice = trigger = None
    if not problems:
        try:
            choice = choose_engine(
                AUTO, program.imports, is_component=program.is_component, usable=usable
            )
            trigger = suggested_trigger(program.imports, program.exports)
        except ModuleError as error:
            problems.append(str(error))
    return Report(
        contents=contents,
        size_bytes=len(data),
        memory=memory,
        problems=tuple(problems),
        advice=tuple(_advice(contents, len(data), memory)),
        verdicts=decide_verdicts(program, usable),
        choice=choice,
        trigger=trigger,
    )


def _advice(contents: Contents, size_bytes: int, memory: MemoryRoom) -> list[str]:
    advice = []
    if contents.memory_bytes > memory.guest_bytes:
        needed = contents.memory_bytes + memory.worker_share_bytes
        advice.append(
            f"it starts with more memory than an app has by default: set resources.limits.memory to "
            f"{_mebibytes(needed)} or more"
        )
    if contents.native_code:
        names = ", ".join(dict.fromkeys(native.section for native in contents.native_code))
        advice.append(
            f"it carries native code (section {names}), which is dropped: a node runs what it "
            "compiled itself and nothing else"
        )
    if contents.debug_bytes * 4 > size_bytes:
        advice.append(
            f"{contents.debug_bytes * 100 // size_bytes} % of it is debug information: link with "
            "-Wl,--strip-debug, or strip it (wasm-tools strip)"
        )
    return advice


def _mebibytes(count: int) -> str:
    """Rounded up, as limits are written."""
    return f"{-(-count // _MIB)}Mi"
