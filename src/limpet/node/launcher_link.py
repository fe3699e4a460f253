"""The agent's end of its launcher: zygotes come from there, what a next agent needs rests there."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING

from limpet.worker.channel import Channel
from limpet.worker.messages import (
    Drop,
    Exited,
    Keep,
    Message,
    MessageError,
    StartZygote,
    ZygoteStarted,
)

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from limpet.worker.supervisor import Zygotes


class LauncherLink:
    """Owns the channel."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def tell(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Send to the launcher, which always reads: it never waits for the agent.

        One that is gone is told nothing; the agent hears of that and ends.
        """
        self._channel.set_blocking(True)
        try:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self._channel.send(message, descriptors)
        finally:
            self._channel.set_blocking(False)

    def start_zygote(self, engine: str) -> None:
        """Have a zygote started; its channel comes later."""
        self.tell(StartZygote(engine))

    def keep(self, name: str, listening: socket.socket) -> None:
        """Have a copy of a listening socket kept."""
        self.tell(Keep(name), [listening.fileno()])

    def drop(self, name: str) -> None:
        """Have that copy closed."""
        self.tell(Drop(name))

    def listen(
        self,
        zygotes: Zygotes,
        *,
        announce: Callable[[str, str], None],
        on_gone: Callable[[], None],
    ) -> None:
        """Hear of zygotes from now on; `announce` tells everybody (reason, message)."""
        loop, descriptor = asyncio.get_running_loop(), self._channel.fileno()

        def read() -> None:
            try:
                received = self._channel.receive()
            except BlockingIOError:
                return
            except MessageError:
                received = None
            if received is None:
                loop.remove_reader(descriptor)
                on_gone()
                return
            message, descriptors = received
            if isinstance(message, ZygoteStarted):
                _attach(zygotes, message, Channel.from_descriptor(descriptors[0]), announce)
            elif isinstance(message, Exited):
                for zygote in zygotes:
                    zygote.on_exited(message)

        self._channel.set_blocking(False)
        loop.add_reader(descriptor, read)


def _attach(
    zygotes: Zygotes,
    started: ZygoteStarted,
    channel: Channel,
    announce: Callable[[str, str], None],
) -> None:
    zygote = zygotes.of(started.engine)
    is_replaced = zygote.is_known and started.restarts > zygote.restarts
    zygote.restarts = started.restarts
    zygote.attach(channel, started.pid)
    if is_replaced:
        announce(
            "ZygoteRestarted",
            f"the zygote for {started.engine} had ended by {explain_status(started.status)} and was "
            "started again",
        )


def explain_status(status: int) -> str:
    """Say how a process ended that wait() gave this status for."""
    code = os.waitstatus_to_exitcode(status)
    return f"signal {-code}" if code < 0 else f"exit code {code}"
