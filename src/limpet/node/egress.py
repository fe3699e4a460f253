"""Connections out of an app: the agent opens them, if the app's policy allows, and hands them over.

A worker has a network namespace in which nothing is, and its system call filter knows neither connect nor
a send to an address. So this is the one way out, and the policy (`limpet.egress`) is judged here, on
what was asked and again on the very address that is connected to.
"""

from __future__ import annotations

import asyncio
import os
import socket
from functools import cache, partial
from typing import TYPE_CHECKING

from limpet.worker.messages import Connect, Connected

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import ThreadPoolExecutor

    from limpet.egress import EgressPolicy
    from limpet.worker.supervisor import Process

_SECONDS = 10.0
_MAX_PENDING = 8  # per app: one that asks for names that nobody answers leaves threads to others
_LOOKUPS = 32
_KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


@cache
def _lookups() -> ThreadPoolExecutor:
    """Threads for lookups alone: a name's owner decides how long one takes."""
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(_LOOKUPS, thread_name_prefix="lookup")


class _RefusedError(Exception):
    """Why an app does not get its connection; `is_denied` when its policy is the reason."""

    def __init__(self, message: str, *, is_denied: bool) -> None:
        super().__init__(message)
        self.is_denied = is_denied


class Connector:
    """Connects for one app. `policy` is asked anew each time: a change holds for the next connection."""

    def __init__(
        self, policy: Callable[[], EgressPolicy], on_denied: Callable[[str], None]
    ) -> None:
        self._policy = policy
        self._on_denied = on_denied
        self._pending: set[asyncio.Task[None]] = set()

    def serve(self, process: Process, wanted: Connect) -> None:
        """Answer in a while: with a connected socket, or why there is none."""
        if len(self._pending) >= _MAX_PENDING:
            error = f"{_MAX_PENDING} connections are being opened already"
            process.send(Connected(wanted.request, error))
            return
        task = asyncio.get_running_loop().create_task(self._serve(process, wanted), name="egress")
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)

    async def _serve(self, process: Process, wanted: Connect) -> None:
        try:
            async with asyncio.timeout(_SECONDS):
                opened = await self._connect(wanted)
        except _RefusedError as refused:
            if refused.is_denied:
                self._on_denied(f"{wanted.host}:{wanted.port}/{wanted.protocol}: {refused}")
            process.send(Connected(wanted.request, str(refused)))
        except TimeoutError:
            process.send(Connected(wanted.request, f"no answer in {_SECONDS:.0f} s"))
        except OSError as error:
            process.send(
                Connected(wanted.request, f"the node can't open a socket: {error.strerror}")
            )
        else:
            with opened:
                process.send(Connected(wanted.request, ""), [opened.fileno()])

    async def _connect(self, wanted: Connect) -> socket.socket:
        decision = self._policy().may_ask(wanted.host, wanted.port, wanted.protocol)
        if not decision:
            raise _RefusedError(decision.reason, is_denied=True)
        loop = asyncio.get_running_loop()
        kind = _KINDS[wanted.protocol]
        try:
            found = await loop.run_in_executor(
                _lookups(), partial(socket.getaddrinfo, wanted.host, wanted.port, type=kind)
            )
        except (OSError, UnicodeError) as error:
            raise _RefusedError(f"can't be looked up: {error}", is_denied=False) from None
        policy = self._policy()  # a lookup takes its time
        reason, is_denied = "it has no address", False
        for family, _, _, _, address in found:
            literal = str(address[0]).partition("%")[0]
            is_literal = literal == wanted.host.strip("[]")
            decision = policy.allows_address(
                literal,
                wanted.port,
                wanted.protocol,
                asked_name=None if is_literal else wanted.host,
            )
            if not decision:
                reason, is_denied = decision.reason, True
                continue
            if _is_own(family, literal):
                reason, is_denied = f"{literal} is this device itself", True
                continue
            opened = socket.socket(family, kind)
            try:
                opened.setblocking(False)
                await loop.sock_connect(opened, address)
            except OSError as error:
                opened.close()
                # asyncio's own text says what was tried, not why it failed
                why = os.strerror(error.errno) if error.errno else str(error)
                reason, is_denied = f"{literal}: {why}", False
                continue
            except BaseException:
                opened.close()
                raise
            return opened
        raise _RefusedError(reason, is_denied=is_denied)

    def stop(self) -> None:
        """Give up what is being opened."""
        for task in self._pending:
            task.cancel()


def _is_own(family: int, address: str) -> bool:
    """Whether an address is this device's on one of its networks: only such a one can be bound.

    Loopback is not meant: a policy that opens it says so.
    """
    if address.startswith("127.") or address == "::1":
        return False
    with socket.socket(family, socket.SOCK_DGRAM) as trial:
        try:
            trial.bind((address, 0))
        except OSError:
            return False
    return True
