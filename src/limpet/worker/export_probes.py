"""Probes that are functions of the guest's own: each runs in a fresh instance, beside what serves.

The program that clients use is busy, or for ever in its one run, so that probes have programs of their
own, loaded when they are first asked for. A thread runs them: the loop goes on.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from limpet.engine.protocol import Invocation, Limits, Outcome, OutcomeKind
from limpet.errors import LimpetError
from limpet.wasi.streams import DescriptorOutput, NullInput
from limpet.wasi.strings import Strings
from limpet.worker.loop import READ

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from limpet.engine.protocol import Engine, Preopen, Program
    from limpet.worker.config import WorkerConfig
    from limpet.worker.loop import Loop


class ExportProbes:
    """Runs the exports that the app's probes name, one at a time. Owns the artifact's descriptor."""

    def __init__(
        self,
        loop: Loop,
        engine: Engine,
        artifact: int,
        config: WorkerConfig,
        *,
        preopens: Sequence[Preopen],
    ) -> None:
        self._loop = loop
        self._engine = engine
        self._artifact = artifact
        self._config = config
        self._preopens = preopens
        self._programs: dict[str, Program] = {}
        self._done: Callable[[str], None] | None = None
        self._answer = ""
        self._wake = -1

    def run(self, export: str, seconds: float, done: Callable[[str], None]) -> None:
        """Call an export; `done` hears on the loop's thread why it failed, "" when it did not."""
        if export not in self._config.probed_exports:
            done(f"no probe of the app names {export}")
            return
        if self._done is not None:
            done("the probe before it has not ended")
            return
        if self._wake < 0:
            self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._loop.register(self._wake, READ, self._on_wake)
        self._done = done
        threading.Thread(
            target=self._main, args=(export, seconds), name="probe", daemon=True
        ).start()

    def _main(self, export: str, seconds: float) -> None:
        try:
            self._answer = explain(export, self._program(export).run(self._invocation(seconds)))
        except LimpetError as error:
            self._answer = str(error)
        finally:
            os.eventfd_write(self._wake, 1)

    def _program(self, export: str) -> Program:
        program = self._programs.get(export)
        if program is None:
            config = self._config
            limits = Limits(memory_bytes=config.memory_bytes, cost=config.cost_limit)
            program = self._engine.load(self._artifact, limits=limits, entry=export)
            self._programs[export] = program
        return program

    def _invocation(self, seconds: float) -> Invocation:
        config = self._config
        return Invocation(
            Strings(argument.encode() for argument in config.args),
            Strings(f"{name}={value}".encode() for name, value in config.env),
            NullInput(),
            DescriptorOutput(1),
            DescriptorOutput(2),
            self._preopens,
            seconds,
        )

    def _on_wake(self, _events: int) -> None:
        os.eventfd_read(self._wake)
        done, self._done = self._done, None
        if done is not None:
            done(self._answer)


def explain(export: str, outcome: Outcome) -> str:
    """Say why a probe's run is a failure; "" when it is none."""
    if outcome.kind is not OutcomeKind.EXIT:
        return f"{export} ended by {outcome.kind.value}: {outcome.message}"[:500]
    return f"{export} returned {outcome.exit_code}" if outcome.exit_code else ""
