"""All functions of WASI preview 1 and of WasmEdge's socket extension, by name (`abi.PARAMETERS`).

Each takes the run's state and the guest's integers, and returns an error number. They raise
`GuestEnd` to end the guest, and `WasiError` or OSError for what the guest is to see as a number:
the engine that calls them translates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from limpet.wasi import (
    abi,
    environment,
    filesystem,
    listing,
    metadata,
    polling,
    socket_lookup,
    socket_options,
    socket_transfer,
    sockets,
    transfer,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    HostFunction = Callable[..., int]

_MODULES = (
    environment,
    transfer,
    metadata,
    filesystem,
    listing,
    polling,
    sockets,
    socket_transfer,
    socket_options,
    socket_lookup,
)


def _find(name: str) -> HostFunction:
    for module in _MODULES:
        function: HostFunction | None = vars(module).get(name)
        if function is not None:
            return function
    raise LookupError(f"{name} is declared in abi.PARAMETERS and defined nowhere")


FUNCTIONS: dict[str, HostFunction] = {name: _find(name) for name in abi.PARAMETERS}
