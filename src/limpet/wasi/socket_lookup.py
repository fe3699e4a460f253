"""Names to addresses: `sock_getaddrinfo` of WasmEdge's extension.

Addresses as text are answered here; names by the run's network, as far as the app may connect
there. The guest brings the memory for the answer: a chain of records, each with room for an
address. How long that room is can't be told, for the crate `wasmedge_wasi_socket` says 14 bytes
of 26: as in WasmEdge, 14 bytes are written for IPv4 and 26 for IPv6. No canonical name is given:
its room isn't told at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from limpet.errors import DeniedError
from limpet.wasi import errnos, socket_abi
from limpet.wasi.errnos import WasiError
from limpet.wasi.socket_addresses import parse_address

if TYPE_CHECKING:
    from limpet.wasi.memory import GuestMemory
    from limpet.wasi.run import WasiRun

_MAX_NAME_BYTES = 255  # RFC 1035, section 2.3.4, with what stands for its dots
_MAX_RESULTS = 64
_SERVICES = {
    "domain": 53,
    "http": 80,
    "https": 443,
    "mqtt": 1883,
    "ntp": 123,
    "secure-mqtt": 8883,
}
_ANY, _LOOPBACK = ("0.0.0.0", "::"), ("127.0.0.1", "::1")  # noqa: S104 - answers, not bindings
_PASSIVE = 1
# A socket's type -> its protocol; without a wish both are answered.
_PROTOCOLS = {
    socket_abi.TYPE_STREAM: socket_abi.PROTOCOL_TCP,
    socket_abi.TYPE_DATAGRAM: socket_abi.PROTOCOL_UDP,
}


def sock_getaddrinfo(
    run: WasiRun,
    node_at: int,
    node_length: int,
    service_at: int,
    service_length: int,
    hints_at: int,
    results_at: int,
    results_max: int,
    count_at: int,
) -> int:
    memory = run.memory
    node = _read_text(memory, node_at, node_length)
    service = _read_text(memory, service_at, service_length)
    memory.require(hints_at, socket_abi.ADDRINFO.size, 4)
    hints = socket_abi.ADDRINFO.unpack_from(memory.view, hints_at)
    flags, family, type_, protocol = hints[:4]
    memory.require(results_at, 4, 4)
    memory.require(count_at, 4, 4)
    if not node and not service:
        return socket_abi.ERRNO_AI_NONAME
    if not results_max:
        return socket_abi.ERRNO_AI_MEMORY
    if flags & ~socket_abi.AIFLAGS_ALL or (flags & socket_abi.AIFLAGS_CANONNAME and not node):
        return socket_abi.ERRNO_AI_BADFLAGS
    if family > socket_abi.FAMILY_INET6:
        return socket_abi.ERRNO_AI_FAMILY
    wanted = [
        pair
        for pair in _PROTOCOLS.items()
        if type_ in (socket_abi.TYPE_ANY, pair[0]) and protocol in (socket_abi.PROTOCOL_IP, pair[1])
    ]
    if not wanted:
        return errnos.NOTSUP
    port = _find_port(service, flags)
    addresses = _find_addresses(run, node, flags)
    matching = [raw for raw in addresses if family in (socket_abi.FAMILY_UNSPEC, _family_of(raw))]
    if not matching:
        return socket_abi.ERRNO_AI_NONAME
    results = [(raw, port, pair) for raw in matching for pair in wanted]
    limit = min(results_max, _MAX_RESULTS)
    memory.write_u32(count_at, _write_results(run.memory, results_at, results[:limit]))
    return errnos.SUCCESS


def _read_text(memory: GuestMemory, pointer: int, length: int) -> str:
    """A guest's string; the crate counts the NUL at its end."""
    if length > _MAX_NAME_BYTES + 1:
        raise WasiError(socket_abi.ERRNO_AI_NONAME)
    raw = memory.read(pointer, length).split(b"\0", 1)[0]
    try:
        return raw.decode("ascii")
    except UnicodeDecodeError:
        raise WasiError(socket_abi.ERRNO_AI_NONAME) from None


def _find_port(service: str, flags: int) -> int:
    if not service:
        return 0
    if service.isdigit() and len(service) <= len("65535") and int(service) <= 0xFFFF:
        return int(service)
    port = _SERVICES.get(service, -1)
    if port < 0 or flags & socket_abi.AIFLAGS_NUMERICSERV:
        raise WasiError(socket_abi.ERRNO_AI_SERVICE)
    return port


def _find_addresses(run: WasiRun, node: str, flags: int) -> list[bytes]:
    if not node:
        return [parse_address(text) for text in (_ANY if flags & _PASSIVE else _LOOPBACK)]
    try:
        return [parse_address(node)]
    except (OSError, ValueError):  # a name
        if flags & socket_abi.AIFLAGS_NUMERICHOST:
            return []
    network = run.invocation.network
    if network is None:
        raise WasiError(errnos.ACCES)
    try:
        return [parse_address(text) for text in network.resolve(node, run.control)]
    except DeniedError:
        raise WasiError(errnos.ACCES) from None


def _family_of(raw: bytes) -> int:
    is_short = len(raw) == socket_abi.INET4_BYTES
    return socket_abi.FAMILY_INET4 if is_short else socket_abi.FAMILY_INET6


def _write_results(
    memory: GuestMemory, results_at: int, results: list[tuple[bytes, int, tuple[int, int]]]
) -> int:
    """Fill the guest's chain of records, as far as it goes; how many were filled."""
    record_at = int.from_bytes(memory.read(results_at, 4), "little")
    for done, (raw, port, (type_, protocol)) in enumerate(results):
        if not record_at:
            return done
        memory.require(record_at, socket_abi.ADDRINFO.size, 4)
        fields = socket_abi.ADDRINFO.unpack_from(memory.view, record_at)
        address_at, name_at, next_at = fields[5], fields[6], fields[8]
        family = _family_of(raw)
        is_short = family == socket_abi.FAMILY_INET4
        length = socket_abi.INET4_ADDRLEN if is_short else socket_abi.INET6_ADDRLEN
        memory.require(address_at, socket_abi.SOCKADDR.size, 4)
        _, _, data_at = socket_abi.SOCKADDR.unpack_from(memory.view, address_at)
        if is_short:
            data = socket_abi.INET4_DATA.pack(port, raw)
        else:
            data = socket_abi.INET6_DATA.pack(port, 0, raw, 0)
        memory.write(data_at, data)
        memory.write(address_at, socket_abi.SOCKADDR.pack(family, len(data), data_at))
        record = (0, family, type_, protocol, length, address_at, name_at, 0, next_at)
        memory.write(record_at, socket_abi.ADDRINFO.pack(*record))
        record_at = next_at
    return len(results)
