"""Decides which engine runs a program with which trigger, and says why not. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from limpet.engine.choice import (
    ENGINES,
    SOCKET,
    TRIGGERS,
    WASMEDGE,
    is_listening,
    unusable_reason,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

# Problems read "what is wrong: what to do", or "what is wrong; more".
_SUMMARY_END = re.compile(r"[:;]\s")


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an engine runs it with a trigger; `note` says why not, or what to know of it."""

    engine: str
    trigger: str
    is_runnable: bool
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What verdicts depend on.

    `problems` keep it from running at all; `obstacles` say of a trigger why it can't run it.
    """

    imports: tuple[str, ...] = ()
    exports: tuple[str, ...] = ()
    is_component: bool = False
    problems: tuple[str, ...] = ()
    obstacles: Mapping[str, str] = field(default_factory=dict)


def decide_verdicts(program: Program, usable: Mapping[str, str]) -> tuple[Verdict, ...]:
    """One for each engine and trigger; `usable` is as in `choose_engine`."""
    return tuple(
        _decide(program, engine, trigger, usable) for engine in ENGINES for trigger in TRIGGERS
    )


def summarise(problem: str) -> str:
    """What is wrong, without what to do about it."""
    return _SUMMARY_END.split(problem, maxsplit=1)[0]


def _decide(program: Program, engine: str, trigger: str, usable: Mapping[str, str]) -> Verdict:
    why = _obstacle(program, engine, trigger, usable)
    if why:
        return Verdict(engine, trigger, is_runnable=False, note=why)
    note = ""
    if trigger != SOCKET and is_listening(program.imports):
        note = "without a port to listen on: only the socket trigger gives it one"
    return Verdict(engine, trigger, is_runnable=True, note=note)


def _obstacle(program: Program, engine: str, trigger: str, usable: Mapping[str, str]) -> str:
    if program.problems:
        return summarise(program.problems[0])
    if program.is_component and engine == WASMEDGE:
        return "it runs core modules only"
    return unusable_reason(engine, usable) or program.obstacles.get(trigger, "")
