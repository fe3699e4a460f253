"""Which interfaces of WASI 0.2 the host offers, and where each is. A module is imported when it is needed."""

from __future__ import annotations

import re
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from limpet.wasi.preview2.interface import Interface

# name without version -> (module of this package, attribute)
_PLACES = {
    "wasi:cli/environment": ("cli", "ENVIRONMENT"),
    "wasi:cli/exit": ("cli", "EXIT"),
    "wasi:cli/stderr": ("cli", "STDERR"),
    "wasi:cli/stdin": ("cli", "STDIN"),
    "wasi:cli/stdout": ("cli", "STDOUT"),
    "wasi:cli/terminal-input": ("cli", "TERMINAL_INPUT"),
    "wasi:cli/terminal-output": ("cli", "TERMINAL_OUTPUT"),
    "wasi:cli/terminal-stderr": ("cli", "TERMINAL_STDERR"),
    "wasi:cli/terminal-stdin": ("cli", "TERMINAL_STDIN"),
    "wasi:cli/terminal-stdout": ("cli", "TERMINAL_STDOUT"),
    "wasi:clocks/monotonic-clock": ("clocks", "MONOTONIC"),
    "wasi:clocks/wall-clock": ("clocks", "WALL"),
    "wasi:filesystem/preopens": ("filesystem", "PREOPENS"),
    "wasi:filesystem/types": ("filesystem", "TYPES"),
    "wasi:io/error": ("streams", "ERROR"),
    "wasi:io/poll": ("polling", "POLL"),
    "wasi:io/streams": ("streams", "STREAMS"),
    "wasi:random/insecure": ("randomness", "INSECURE"),
    "wasi:random/insecure-seed": ("randomness", "INSECURE_SEED"),
    "wasi:random/random": ("randomness", "RANDOM"),
    "wasi:sockets/instance-network": ("network", "INSTANCE_NETWORK"),
    "wasi:sockets/ip-name-lookup": ("lookup", "IP_NAME_LOOKUP"),
    "wasi:sockets/network": ("network", "NETWORK"),
    "wasi:sockets/tcp": ("tcp", "TCP"),
    "wasi:sockets/tcp-create-socket": ("tcp", "TCP_CREATE_SOCKET"),
    "wasi:sockets/udp": ("udp", "UDP"),
    "wasi:sockets/udp-create-socket": ("udp", "UDP_CREATE_SOCKET"),
}
# 0.2.z promises that what was built for an older z goes on working.
_VERSION = re.compile(r"0\.2\.\d+")


def interface_names() -> tuple[str, ...]:
    """The interfaces that are offered, without versions."""
    return tuple(_PLACES)


def load_all() -> None:
    """Import every module that offers an interface, for a process that reaches no files later."""
    for module, _ in _PLACES.values():
        import_module(f"limpet.wasi.preview2.{module}")


def strip_version(name: str) -> str | None:
    """`wasi:io/poll` for `wasi:io/poll@0.2.3`; None for a name without a version 0.2.z."""
    bare, _, version = name.partition("@")
    return bare if _VERSION.fullmatch(version) else None


def find_interface(name: str) -> Interface | None:
    """The interface that a component imports under this name, version included."""
    place = _PLACES.get(strip_version(name) or "")
    if place is None:
        return None
    interface: Interface = getattr(import_module(f"limpet.wasi.preview2.{place[0]}"), place[1])
    return interface
