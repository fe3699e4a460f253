"""The command trigger: run the module once, to its end, as a process would run."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from limpet.engine.protocol import Invocation, Outcome
from limpet.wasi.streams import DescriptorOutput, NullInput
from limpet.wasi.strings import Strings
from limpet.worker.loop import READ

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from limpet.engine.protocol import Preopen, Program
    from limpet.wasi.network import Network
    from limpet.worker.config import WorkerConfig
    from limpet.worker.loop import Loop


class CommandTrigger:
    """Runs the guest in a thread, so that the loop keeps listening to the agent."""

    def __init__(
        self,
        loop: Loop,
        program: Program,
        config: WorkerConfig,
        *,
        network: Network | None = None,
        preopens: Sequence[Preopen],
        on_finished: Callable[[Outcome], None],
    ) -> None:
        self._loop = loop
        self._program = program
        self._on_finished = on_finished
        self._invocation = Invocation(
            Strings(argument.encode() for argument in config.args),
            Strings(f"{name}={value}".encode() for name, value in config.env),
            NullInput(),
            DescriptorOutput(1),
            DescriptorOutput(2),
            preopens,
            config.deadline_seconds,
            network,
        )
        self._outcome: Outcome | BaseException | None = None
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def start(self) -> None:
        """Begin to run."""
        self._loop.register(self._wake, READ, self._on_wake)
        threading.Thread(target=self._main, name="guest", daemon=True).start()

    def stop(self) -> None:
        """End the run. WASI preview 1 has no signals, so a guest can't be asked to end by itself."""
        self._program.interrupt()

    def _main(self) -> None:
        try:
            self._outcome = self._program.run(self._invocation)
        except BaseException as error:
            self._outcome = error
        os.eventfd_write(self._wake, 1)

    def _on_wake(self, _events: int) -> None:
        self._loop.unregister(self._wake)
        outcome = self._outcome
        if isinstance(outcome, BaseException):
            raise outcome
        assert outcome is not None, "the thread sets the outcome before it wakes the loop"
        self._on_finished(outcome)
