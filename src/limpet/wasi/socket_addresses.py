"""Addresses between a guest's records and text.

Layouts: `limpet.wasi.socket_abi`. An IPv4 address written as IPv6 (RFC 4291, section 2.5.5.2) is
IPv4 to everybody but the guest, whose IPv6 sockets see all addresses as IPv6.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from limpet.wasi import errnos, linux_sockets, socket_abi
from limpet.wasi.errnos import WasiError

if TYPE_CHECKING:
    from limpet.wasi.memory import GuestMemory
    from limpet.wasi.socket_descriptors import Endpoint, OpenSocket

_MAPPED = bytes(10) + b"\xff\xff"
_FAMILIES = {
    socket_abi.INET4_BYTES: socket_abi.FAMILY_INET4,
    socket_abi.INET6_BYTES: socket_abi.FAMILY_INET6,
}
_LENGTHS = {family: length for length, family in _FAMILIES.items()}


def read_record(memory: GuestMemory, record_at: int) -> tuple[int, int]:
    """Where the address of a record is, in bounds, and how long: 4, 16 or 128 bytes."""
    memory.require(record_at, socket_abi.ADDRESS.size, 4)
    pointer, length = socket_abi.ADDRESS.unpack_from(memory.view, record_at)
    if length not in _FAMILIES and length != socket_abi.STORAGE_BYTES:
        raise WasiError(errnos.INVAL)
    memory.require(pointer, length)
    return pointer, length


def read_address(memory: GuestMemory, record_at: int, entry: OpenSocket) -> str:
    """The address in a record, as text; it must be of the socket's family."""
    pointer, length = read_record(memory, record_at)
    if length == socket_abi.STORAGE_BYTES:
        (family,) = socket_abi.STORAGE_FAMILY.unpack_from(memory.view, pointer)
        pointer += socket_abi.STORAGE_FAMILY.size
    else:
        family = _FAMILIES[length]
    if family != entry.family:
        raise WasiError(errnos.AFNOSUPPORT)
    return format_address(memory.read(pointer, _LENGTHS[family]))


def format_address(raw: bytes) -> str:
    """4 or 16 bytes as text; IPv4 within IPv6 as IPv4."""
    from socket import inet_ntop

    if raw.startswith(_MAPPED):
        raw = raw[len(_MAPPED) :]
    is_short = len(raw) == socket_abi.INET4_BYTES
    return inet_ntop(linux_sockets.AF_INET if is_short else linux_sockets.AF_INET6, raw)


def parse_address(text: str) -> bytes:
    """4 or 16 bytes of an address as text, IPv4 within IPv6 as IPv4. Raises OSError for no address."""
    from socket import inet_pton

    if ":" not in text:
        return inet_pton(linux_sockets.AF_INET, text)
    raw = inet_pton(linux_sockets.AF_INET6, text.partition("%")[0])
    return raw.removeprefix(_MAPPED) if raw.startswith(_MAPPED) else raw


def endpoint_of(address: object) -> Endpoint:
    """What getsockname and getpeername of a kernel's socket say; nowhere for one without a port."""
    if isinstance(address, tuple):
        return str(address[0]), int(address[1])
    return "", 0


def write_address(memory: GuestMemory, record_at: int, entry: OpenSocket, text: str) -> int:
    """Write an address, empty text for the unspecified one, and return its family.

    It is of the socket's family where it can be: a client from an IPv6 address is one, whatever the
    guest listens on. EINVAL when the guest's room is for a shorter one.
    """
    if text:
        raw = parse_address(text)
        if entry.family == socket_abi.FAMILY_INET6 and len(raw) == socket_abi.INET4_BYTES:
            raw = _MAPPED + raw
    else:
        raw = bytes(_LENGTHS[entry.family])
    family = _FAMILIES[len(raw)]
    pointer, length = read_record(memory, record_at)
    if length == socket_abi.STORAGE_BYTES:
        memory.write(pointer, socket_abi.STORAGE_FAMILY.pack(family) + raw)
    elif length < len(raw):
        raise WasiError(errnos.INVAL)
    else:
        memory.write(pointer, raw)
    return family
