"""`wasi:sockets/ip-name-lookup`."""

from __future__ import annotations

import ipaddress
from contextlib import suppress
from typing import TYPE_CHECKING

from limpet.wasi.preview2.interface import Interface, Refused
from limpet.wasi.preview2.network import (
    IP_ADDRESS,
    NETWORK_HANDLE,
    explain,
    form_ip_address,
    or_code,
    require_network,
)
from limpet.wasi.preview2.polling import Pollable
from limpet.wasi.preview2.resources import Resource
from limpet.wasi.preview2.types import STRING, Borrow, Option, Own

if TYPE_CHECKING:
    from limpet.wasi.preview2.network import IpAddress, NetworkHandle
    from limpet.wasi.preview2.run import ComponentRun

IP_NAME_LOOKUP = Interface("resolve-address-stream", explain=explain)
_SELF = Borrow("resolve-address-stream")
# The longest name that DNS has (RFC 1035, section 3.1), with room for dots.
_MAX_NAME = 255


class Addresses(Resource):
    """What a lookup found. The lookup was waited for when it was asked for."""

    __slots__ = ("_left",)

    def __init__(self, found: list[IpAddress]) -> None:
        self._left = iter(found)

    def next_address(self) -> IpAddress | None:
        return next(self._left, None)


@IP_NAME_LOOKUP.function(
    "resolve-addresses", NETWORK_HANDLE, STRING, returns=or_code(Own("resolve-address-stream"))
)
def resolve_addresses(run: ComponentRun, _network: NetworkHandle, name: str) -> Addresses:
    if not name or len(name) > _MAX_NAME or "\0" in name:
        raise Refused("invalid-argument")
    with suppress(ValueError):
        return Addresses([form_ip_address(str(ipaddress.ip_address(name)))])
    network = require_network(run)
    try:
        texts = network.resolve(name, run.control)
    except OSError:
        raise Refused("temporary-resolver-failure") from None
    found = []
    for text in texts:
        with suppress(ValueError):
            found.append(form_ip_address(text))
    if not found:
        raise Refused("name-unresolvable")
    return Addresses(found)


@IP_NAME_LOOKUP.function(
    "[method]resolve-address-stream.resolve-next-address",
    _SELF,
    returns=or_code(Option(IP_ADDRESS)),
)
def resolve_next_address(_run: ComponentRun, stream: Addresses) -> IpAddress | None:
    return stream.next_address()


@IP_NAME_LOOKUP.function("[method]resolve-address-stream.subscribe", _SELF, returns=Own("pollable"))
def subscribe(_run: ComponentRun, _stream: Addresses) -> Pollable:
    return Pollable()
