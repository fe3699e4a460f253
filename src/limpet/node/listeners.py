"""The listening sockets of all apps: bound once, lent to workers, kept by the launcher.

The agent owns them so that an app can be stopped without a client noticing; the launcher holds a copy
so that the agent can die without one noticing either.
"""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

from limpet.plan import Listener, PlanError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

_BACKLOG = 1024


class Listeners:
    """Open sockets by name."""

    def __init__(
        self,
        inherited: Mapping[str, socket.socket],
        *,
        keep: Callable[[str, socket.socket], None],
        drop: Callable[[str], None],
    ) -> None:
        self._open = dict(inherited)
        self._origins: dict[str, str] = {}
        self._keep = keep
        self._drop = drop

    def open(self, listener: Listener) -> socket.socket:
        """Return the socket of this address, bound now or before. Raises `PlanError` (PortInUse)."""
        name = listener.name
        origin = self._origins.setdefault(name, listener.origin)
        if origin != listener.origin:
            raise PlanError(
                "PortInUse",
                f"{name} is already taken by {origin}; choose another port for {listener.origin} "
                "or delete the other one",
            )
        found = self._open.get(name)
        if found is None:
            try:
                found = bind(listener.host, listener.port)
            except OSError as error:
                del self._origins[name]
                raise _refusal(name, listener, error) from error
            self._open[name] = found
            self._keep(name, found)
        return found

    def close_unused(self, wanted: Iterable[Listener]) -> None:
        """Close what none of these listeners names; what only its former owner's rivals do is theirs."""
        origins: dict[str, set[str]] = {}
        for listener in wanted:
            origins.setdefault(listener.name, set()).add(listener.origin)
        for name in [name for name in self._open if name not in origins]:
            self._drop(name)
            self._open.pop(name).close()
        for name in [n for n, origin in self._origins.items() if origin not in origins.get(n, ())]:
            del self._origins[name]


def bind(host: str, port: int) -> socket.socket:
    """Bind and listen, non-blocking; what is set here, accepted sockets inherit."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.setblocking(False)
        listening.bind((host, port))
        listening.listen(_BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening


def format_address(listening: socket.socket) -> str:
    """Return `host:port` as it was really bound."""
    host, port = listening.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _refusal(name: str, listener: Listener, error: OSError) -> PlanError:
    if error.errno == errno.EADDRINUSE:
        return PlanError(
            "PortInUse",
            f"{name} is taken by another program on this device; stop it or choose another port "
            f"for {listener.origin}",
        )
    if error.errno == errno.EACCES:
        return PlanError(
            "PortForbidden",
            f"{name} may only be opened by root; run the node as root or choose a port from 1024 on",
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return PlanError(
            "AddressUnavailable", f"this device has no address {listener.host} to open {name} on"
        )
    return PlanError("ListenFailed", f"can't listen on {name}: {error.strerror}")


def revive(listening: socket.socket) -> bool:
    """Make a socket listen again that was shut down by somebody who shares it; whether it had to be."""
    if listening.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return False
    listening.listen(_BACKLOG)
    return True
