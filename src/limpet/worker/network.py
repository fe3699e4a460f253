"""The network of a worker, which has none of its own: sockets that came along, and those it asks for.

Implements `limpet.wasi.network.Network`. Listening sockets were bound by the agent and came with the
assignment; a connection out is opened by the agent, which judges the app's policy, and comes over the
control socket.
"""

from __future__ import annotations

import errno
import itertools
import os
import socket
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from limpet.wasi.network import NetworkDeniedError
from limpet.worker.channel import close_all
from limpet.worker.messages import Connect, Connected, Resolve, Resolved

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from limpet.wasi.streams import Waiter
    from limpet.worker.channel import Channel

_Answer: TypeAlias = "Connected | Resolved"
# Names that an app has looked up: connecting to such an address asks for the name.
_MAX_NAMES = 1024


@dataclass(eq=False, slots=True)
class _Question:
    """What a host function waits for; `wake` is told when it waits beside the loop."""

    message: Connect | Resolve
    wake: int = -1
    answer: _Answer | None = None
    descriptor: int = -1


class WorkerNetwork:
    """One app's network. Made on the loop's thread; host functions may call from another one, too.

    `pump` reads the control socket once: a host function that waits on the loop's own thread does that
    itself. `on_listen` is told, on the guest's thread, whenever the guest listens.
    """

    def __init__(
        self,
        channel: Channel,
        listeners: Sequence[tuple[int, socket.socket]],
        *,
        pump: Callable[[], None],
        on_listen: Callable[[], None] = lambda: None,
    ) -> None:
        self._channel = channel
        self._listeners: dict[int, list[socket.socket]] = {}
        for port, listening in listeners:
            self._listeners.setdefault(port, []).append(listening)
        self._pump = pump
        self._on_listen = on_listen
        self._thread = threading.get_ident()
        self._serial = itertools.count(1)
        self._waiting: dict[int, _Question] = {}
        self._names: dict[str, str] = {}
        self._is_cut_off = False
        self._lock = threading.Lock()  # between a question's end and its answer

    def listen(self, port: int) -> Sequence[socket.socket]:
        """See the protocol."""
        # Port 0 is that of an app that is opened on some free port and declares none of its own.
        found = self._listeners.get(port, self._listeners.get(0))
        if found is None:
            declared = ", ".join(map(str, self._listeners)) or "none"
            raise NetworkDeniedError(
                f"port {port} is not declared (declared: {declared}): add a containerPort {port}"
            )
        self._on_listen()
        return found

    def connect(self, host: str, port: int, protocol: str, waiter: Waiter) -> socket.socket:
        """See the protocol."""
        request = next(self._serial)
        wanted = Connect(request, self._names.get(host, host), port, protocol)
        answer, descriptor = self._ask(request, wanted, waiter)
        if descriptor < 0:
            raise _error(answer, f"{host}:{port}/{protocol}")
        return socket.socket(fileno=descriptor)

    def resolve(self, host: str, waiter: Waiter) -> list[str]:
        """See the protocol."""
        request = next(self._serial)
        answer, _ = self._ask(request, Resolve(request, host), waiter)
        if not isinstance(answer, Resolved) or answer.error:
            if answer.error_number == errno.EHOSTUNREACH:
                return []  # nobody knows the name
            raise _error(answer, host)
        if len(self._names) >= _MAX_NAMES:
            self._names.clear()
        self._names.update(dict.fromkeys(answer.addresses, host))
        return list(answer.addresses)

    def on_answer(self, answer: _Answer, descriptors: list[int]) -> None:
        """Take an answer of the agent's, on the loop's thread."""
        with self._lock:
            question = self._waiting.pop(answer.request, None)
            if question is None:
                close_all(descriptors)  # whoever asked has ended meanwhile
                return
            if len(descriptors) == 1:
                question.descriptor = descriptors[0]
            else:
                close_all(descriptors)
            question.answer = answer
            if question.wake >= 0:
                os.eventfd_write(question.wake, 1)

    def cut_off(self) -> None:
        """Fail what waits: the agent is gone."""
        self._is_cut_off = True
        for request in list(self._waiting):
            self.on_answer(Connected(request, "the node's agent has gone", errno.ENETDOWN), [])

    def ask_again(self) -> None:
        """Repeat what waits: the agent that was asked has died, and another one reads.

        It may find the first question in the channel, too: the second answer is closed. What finds the
        channel full waits for its run's deadline.
        """
        for question in list(self._waiting.values()):
            self._channel.send_at_once(question.message)

    def _ask(self, request: int, message: Connect | Resolve, waiter: Waiter) -> tuple[_Answer, int]:
        if self._is_cut_off:
            raise OSError(errno.ENETDOWN, os.strerror(errno.ENETDOWN))
        question = _Question(message)
        is_on_loop = threading.get_ident() == self._thread
        if not is_on_loop:
            question.wake = os.eventfd(0, os.EFD_CLOEXEC)
        self._waiting[request] = question
        try:
            while not self._channel.send_at_once(message):  # nobody has read for a long time
                waiter.wait_writable(self._channel.fileno())
            while question.answer is None:
                waiter.wait_readable(self._channel.fileno() if is_on_loop else question.wake)
                if is_on_loop:
                    self._pump()
        except BaseException:  # such as the run's deadline
            with self._lock:
                self._waiting.pop(request, None)
            if question.descriptor >= 0:
                os.close(question.descriptor)
            raise
        finally:
            if question.wake >= 0:
                with self._lock:  # the answer may be seen before its bell has rung
                    os.close(question.wake)
        return question.answer, question.descriptor


def _error(answer: _Answer, what: str) -> Exception:
    number = answer.error_number or errno.EIO
    if number == errno.EACCES:
        return NetworkDeniedError(f"{what}: {answer.error}")
    return OSError(number, f"{what}: {answer.error}")
