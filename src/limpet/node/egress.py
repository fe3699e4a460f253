"""Connections out of an app: the agent opens them, if the app's policy allows, and hands them over.

A worker has a network namespace in which nothing is, and its system call filter knows neither connect nor
a send to an address. So this is the one way out, and the policy (`limpet.egress`) is judged here, on
what was asked and again on the very address that is connected to.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from functools import cache, partial
from typing import TYPE_CHECKING, Any, TypeVar

from limpet.worker.messages import Connect, Connected, Resolve, Resolved

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from concurrent.futures import ThreadPoolExecutor

    from limpet.egress import EgressPolicy
    from limpet.worker.process import Process

_SECONDS = 10.0
_MAX_PENDING = 8  # per app: one that asks for names that nobody answers leaves threads to others
_LOOKUPS = 32
_MAX_ADDRESSES = 64
_KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
_Wanted = TypeVar("_Wanted", Connect, Resolve)
_Answer = TypeVar("_Answer")


@cache
def _lookups() -> ThreadPoolExecutor:
    """Threads for lookups alone: a name's owner decides how long one takes."""
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(_LOOKUPS, thread_name_prefix="lookup")


class _RefusedError(Exception):
    """Why an app does not get what it asked for, and as which errno its guest sees that.

    EACCES when its policy is the reason.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number


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
        self._begin(process, wanted, self._serve_connect)

    def resolve(self, process: Process, wanted: Resolve) -> None:
        """Answer in a while: with a name's addresses, or why there are none."""
        self._begin(process, wanted, self._serve_resolve)

    def _begin(
        self,
        process: Process,
        wanted: _Wanted,
        serve: Callable[[Process, _Wanted], Coroutine[None, None, None]],
    ) -> None:
        if len(self._pending) >= _MAX_PENDING:
            error = f"{_MAX_PENDING} connections are being opened already"
            process.send(_refusal(wanted, error, errno.EAGAIN))
            return
        task = asyncio.get_running_loop().create_task(serve(process, wanted), name="egress")
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)

    async def _serve_connect(self, process: Process, wanted: Connect) -> None:
        what = f"{wanted.host}:{wanted.port}/{wanted.protocol}"
        opened = await self._answered(process, wanted, what, self._connect(wanted))
        if opened is not None:
            with opened:
                process.send(Connected(wanted.request, "", 0), [opened.fileno()])

    async def _serve_resolve(self, process: Process, wanted: Resolve) -> None:
        found = await self._answered(process, wanted, wanted.host, self._resolve(wanted))
        if found is not None:
            process.send(Resolved(wanted.request, found, "", 0))

    async def _answered(
        self, process: Process, wanted: _Wanted, what: str, work: Awaitable[_Answer]
    ) -> _Answer | None:
        """The work's result; None when the process has been told why there is none."""
        try:
            async with asyncio.timeout(_SECONDS):
                return await work
        except _RefusedError as refused:
            if refused.number == errno.EACCES:
                self._on_denied(f"{what}: {refused}")
            process.send(_refusal(wanted, str(refused), refused.number))
        except TimeoutError:
            process.send(_refusal(wanted, f"no answer in {_SECONDS:.0f} s", errno.ETIMEDOUT))
        except OSError as error:
            message = f"the node can't open a socket: {error.strerror}"
            process.send(_refusal(wanted, message, error.errno or errno.EIO))
        return None

    async def _resolve(self, wanted: Resolve) -> tuple[str, ...]:
        decision = self._policy().may_resolve(wanted.host)
        if not decision:
            raise _RefusedError(decision.reason, errno.EACCES)
        found = await _look_up(wanted.host, 0, socket.SOCK_STREAM)
        literals = (str(address[0]).partition("%")[0] for _, _, _, _, address in found)
        return tuple(dict.fromkeys(literals))[:_MAX_ADDRESSES]

    async def _connect(self, wanted: Connect) -> socket.socket:
        decision = self._policy().may_ask(wanted.host, wanted.port, wanted.protocol)
        if not decision:
            raise _RefusedError(decision.reason, errno.EACCES)
        loop = asyncio.get_running_loop()
        kind = _KINDS[wanted.protocol]
        found = await _look_up(wanted.host, wanted.port, kind)
        policy = self._policy()  # a lookup takes its time
        reason, number = "it has no address", errno.EHOSTUNREACH
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
                reason, number = decision.reason, errno.EACCES
                continue
            if _is_own(family, literal):
                reason, number = f"{literal} is this device itself", errno.EACCES
                continue
            opened = socket.socket(family, kind)
            try:
                opened.setblocking(False)
                await loop.sock_connect(opened, address)
            except OSError as error:
                opened.close()
                # asyncio's own text says what was tried, not why it failed
                why = os.strerror(error.errno) if error.errno else str(error)
                reason, number = f"{literal}: {why}", error.errno or errno.EIO
                continue
            except BaseException:
                opened.close()
                raise
            return opened
        raise _RefusedError(reason, number)

    def stop(self) -> None:
        """Give up what is being opened."""
        for task in self._pending:
            task.cancel()


async def _look_up(host: str, port: int, kind: int) -> list[tuple[Any, ...]]:
    look_up = partial(socket.getaddrinfo, host, port, type=kind)
    try:
        return await asyncio.get_running_loop().run_in_executor(_lookups(), look_up)
    except (OSError, UnicodeError) as error:
        raise _RefusedError(f"can't be looked up: {error}", errno.EHOSTUNREACH) from None


def _refusal(wanted: Connect | Resolve, why: str, number: int) -> Connected | Resolved:
    if isinstance(wanted, Connect):
        return Connected(wanted.request, why, number)
    return Resolved(wanted.request, (), why, number)


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
