"""Names to addresses."""

from __future__ import annotations

import socket
from struct import pack, pack_into, unpack_from

import pytest
from socket_calls import DATAGRAM, INET4, INET6, RESULT, STREAM, Caller, LocalNetwork

from limpet.wasi import errnos, socket_abi
from limpet.wasi.endings import GuestTrap

NODE, SERVICE, HINTS, RECORDS, SOCKADDRS, SPACE = 1024, 2048, 3072, 4096, 8192, 16384
ANY = 0
NONE_SUCH = socket_abi.ERRNO_AI_NONAME


class Lookup:
    """One call, as the crate makes it: a chain of records, each with room for an address."""

    def __init__(self, caller: Caller, *, count: int = 10) -> None:
        self.caller = caller
        self.count = count
        for index in range(count):
            last = index == count - 1
            record = socket_abi.ADDRINFO.pack(
                0, 1, 2, 1, 0, SOCKADDRS + 12 * index, 0, 0, 0 if last else self._record(index + 1)
            )
            caller.bytes[self._record(index) : self._record(index) + 28] = record
            place = pack("<BxxxII", 1, 14, SPACE + 26 * index)
            caller.bytes[SOCKADDRS + 12 * index : SOCKADDRS + 12 * index + 12] = place
        pack_into("<I", caller.bytes, RESULT, RECORDS)

    def _record(self, index: int) -> int:
        return RECORDS + 28 * index

    def call(
        self,
        node: bytes,
        service: bytes = b"",
        *,
        flags: int = 0,
        family: int = INET4,
        kind: int = STREAM,
        protocol: int = ANY,
        count: int | None = None,
    ) -> int:
        caller = self.caller
        caller.bytes[NODE : NODE + len(node)] = node
        caller.bytes[SERVICE : SERVICE + len(service)] = service
        hints = socket_abi.ADDRINFO.pack(flags, family, kind, protocol, 0, 0, 0, 0, 0)
        caller.bytes[HINTS : HINTS + len(hints)] = hints
        arguments = (NODE, len(node), SERVICE, len(service), HINTS, RESULT)
        most = self.count if count is None else count
        return caller.call("sock_getaddrinfo", *arguments, most, RESULT + 4)

    def results(self) -> list[tuple[str, int, int, int]]:
        """Address, port, type and protocol of each."""
        found = []
        for index in range(self.caller.u32(RESULT + 4)):
            raw = self.caller.bytes[self._record(index) : self._record(index) + 28]
            _, family, kind, protocol, addrlen, address_at, *_ = socket_abi.ADDRINFO.unpack(raw)
            seen, length, data_at = unpack_from("<BxxxII", self.caller.bytes, address_at)
            assert seen == family
            assert (addrlen, length) == ((16, 14) if family == INET4 else (28, 26))
            (port,) = unpack_from("!H", self.caller.bytes, data_at)
            if family == INET4:
                address = socket.inet_ntop(
                    socket.AF_INET, bytes(self.caller.bytes[data_at + 2 : data_at + 6])
                )
            else:
                address = socket.inet_ntop(
                    socket.AF_INET6, bytes(self.caller.bytes[data_at + 6 : data_at + 22])
                )
            found.append((address, port, kind, protocol))
        return found


@pytest.fixture
def lookup(caller: Caller) -> Lookup:
    return Lookup(caller)


def test_names_are_the_network_s_to_know(lookup: Lookup, network: LocalNetwork) -> None:
    network.names["example.org"] = ["93.184.216.34", "2001:db8::1", "93.184.216.35"]
    assert lookup.call(b"example.org\0", b"http\0") == 0
    assert lookup.results() == [("93.184.216.34", 80, 2, 1), ("93.184.216.35", 80, 2, 1)]
    assert lookup.call(b"example.org", b"8443", family=INET6, kind=DATAGRAM) == 0
    assert lookup.results() == [("2001:db8::1", 8443, 1, 2)]
    assert lookup.call(b"example.org", family=0, kind=ANY) == 0
    assert len(lookup.results()) == 6
    assert lookup.call(b"example.org", family=0, kind=ANY, count=4) == 0
    assert len(lookup.results()) == 4


def test_names_nobody_knows_or_may_know(lookup: Lookup, network: LocalNetwork) -> None:
    network.denied.add("secret.example")
    assert lookup.call(b"nowhere.example") == NONE_SUCH
    assert lookup.call(b"secret.example") == errnos.ACCES
    assert lookup.call(b"n" * 256) == NONE_SUCH
    assert lookup.call(b"n" * 3000) == NONE_SUCH
    assert lookup.call(b"\xff\xfe") == NONE_SUCH
    assert lookup.call(b"example.org", flags=socket_abi.AIFLAGS_NUMERICHOST) == NONE_SUCH


def test_without_a_network_there_are_addresses_only() -> None:
    caller = Caller(None)
    lookup = Lookup(caller)
    assert lookup.call(b"192.0.2.1", b"53", kind=DATAGRAM) == 0
    assert lookup.results() == [("192.0.2.1", 53, 1, 2)]
    assert lookup.call(b"example.org") == errnos.ACCES
    caller.close()


def test_addresses_stand_for_themselves(lookup: Lookup) -> None:
    assert lookup.call(b"::1", family=0) == 0
    assert lookup.results() == [("::1", 0, 2, 1)]
    assert lookup.call(b"::1", family=INET4) == NONE_SUCH
    assert lookup.call(b"", b"443") == 0
    assert lookup.results() == [("127.0.0.1", 443, 2, 1)]
    assert lookup.call(b"", b"443", flags=1, family=INET6) == 0
    assert lookup.results() == [("::", 443, 2, 1)]


@pytest.mark.parametrize("service", [b"65536", b"-1", b"9" * 5000, b"gopher", b"8 0", b"\xb2"])
def test_what_is_no_service(lookup: Lookup, service: bytes) -> None:
    assert lookup.call(b"127.0.0.1", service) in {socket_abi.ERRNO_AI_SERVICE, NONE_SUCH}


def test_named_services_where_numbers_are_asked_for(lookup: Lookup) -> None:
    flags = socket_abi.AIFLAGS_NUMERICSERV
    assert lookup.call(b"127.0.0.1", b"http", flags=flags) == socket_abi.ERRNO_AI_SERVICE


def test_hints_that_mean_nothing(lookup: Lookup) -> None:
    assert lookup.call(b"", b"") == NONE_SUCH
    assert lookup.call(b"127.0.0.1", count=0) == socket_abi.ERRNO_AI_MEMORY
    assert lookup.call(b"127.0.0.1", flags=0x80) == socket_abi.ERRNO_AI_BADFLAGS
    canonical = socket_abi.AIFLAGS_CANONNAME
    assert lookup.call(b"", b"80", flags=canonical) == socket_abi.ERRNO_AI_BADFLAGS
    assert lookup.call(b"127.0.0.1", flags=canonical) == 0
    assert lookup.call(b"127.0.0.1", family=3) == socket_abi.ERRNO_AI_FAMILY
    assert lookup.call(b"127.0.0.1", kind=3) == errnos.NOTSUP
    assert lookup.call(b"127.0.0.1", protocol=2) == errnos.NOTSUP  # a stream over UDP
    assert lookup.call(b"127.0.0.1", protocol=3) == errnos.NOTSUP


def test_a_chain_that_ends_early_or_nowhere(lookup: Lookup, network: LocalNetwork) -> None:
    network.names["many.example"] = [f"192.0.2.{last}" for last in range(200)]
    assert lookup.call(b"many.example", count=0xFFFFFFFF) == 0
    assert len(lookup.results()) == 10
    pack_into("<I", lookup.caller.bytes, RECORDS + 24, RECORDS)  # round and round
    assert lookup.call(b"many.example", count=0xFFFFFFFF) == 0
    assert lookup.caller.u32(RESULT + 4) == 64
    pack_into("<I", lookup.caller.bytes, RECORDS + 24, 1 << 30)
    with pytest.raises(GuestTrap, match="out of bounds"):
        lookup.call(b"many.example")


@pytest.mark.parametrize("place", [SOCKADDRS + 8, RECORDS + 12, RESULT])
def test_pointers_out_of_bounds_end_the_guest(lookup: Lookup, place: int) -> None:
    pack_into("<I", lookup.caller.bytes, place, 1 << 30)
    with pytest.raises(GuestTrap, match="out of bounds"):
        lookup.call(b"127.0.0.1")
