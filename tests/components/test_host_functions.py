"""Whatever a guest passes, a host function answers with what its signature says, or ends the run.

Random calls in random order: what they return is passed to later ones, so that sockets are bound and
files are open when their turn comes.
"""

from __future__ import annotations

import os
import random
import string
from time import monotonic_ns
from typing import TYPE_CHECKING, assert_never

import pytest
from contract_runs import invoke

from limpet.engine.protocol import Preopen
from limpet.wasi.control import Control
from limpet.wasi.endings import GuestEnd
from limpet.wasi.preview2 import filesystem, network, offered, tcp, types, udp
from limpet.wasi.preview2.interface import HostFunction, Refused
from limpet.wasi.preview2.polling import Pollable
from limpet.wasi.preview2.resources import Resource
from limpet.wasi.preview2.run import ComponentRun
from limpet.wasi.preview2.streams import ErrorResource
from limpet.wasi.streams import BufferOutput, BytesInput

if TYPE_CHECKING:
    from pathlib import Path

    from component_runs import LocalNetwork

    from limpet.wasi.preview2.types import Type

_CALLS = 3000
_WAIT_NS = 2_000_000
_BITS = {"u8": 8, "u16": 16, "u32": 32, "u64": 64}
_TEXTS = (
    *("", ".", "..", "/", "a", "b", "dir", "dir/a", "a/", "dir/../a", "../x", "/etc/passwd"),
    *(
        "link",
        "out",
        "loop",
        "fifo",
        "naïve",
        "a\0b",
        "x" * 300,
        "here.example",
        "127.0.0.1",
        "::1",
    ),
)


class Guest:
    """Makes arguments of every type, and keeps the resources that it was given."""

    def __init__(self, seed: int, port: int) -> None:
        self._random = random.Random(seed)
        self._port = port
        self.owned: dict[str, list[Resource]] = {
            "pollable": [Pollable()],
            "error": [ErrorResource(OSError(5, ""))],
        }

    def choose_function(self, functions: list[HostFunction]) -> HostFunction:
        return self._random.choice(functions)

    def can_call(self, function: HostFunction) -> bool:
        needed = (
            of.resource for of in function.signature.parameters if isinstance(of, types.Borrow)
        )
        return all(self.owned.get(resource) for resource in needed)

    def drop_one(self, run: ComponentRun) -> None:
        """As a guest drops a handle."""
        resources = self._random.choice(list(self.owned.values()))
        if len(resources) > 20:
            resource = resources.pop(self._random.randrange(len(resources)))
            resource.close()
        assert run.descriptors >= 0

    def make(self, of: Type) -> object:  # noqa: C901 - one case for each kind of type
        choice = self._random
        match of:
            case types.Primitive("bool"):
                return choice.random() < 0.5
            case types.Primitive("string"):
                random_text = "".join(choice.choices(string.printable, k=choice.randrange(9)))
                return choice.choice((*_TEXTS, random_text))
            case types.Primitive(name):
                end = 1 << _BITS[name]
                usual = (
                    0,
                    1,
                    2,
                    7,
                    100,
                    self._port,
                    65536,
                    1 << 20,
                    end // 2 - 1,
                    end // 2,
                    end - 1,
                )
                return min(choice.choice((*usual, choice.randrange(end))), end - 1)
            case types.List(types.Primitive("u8")):
                return choice.randbytes(choice.choice((0, 1, 10, 5000, 65536, 65537)))
            case types.List(element):
                return [self.make(element) for _ in range(choice.randrange(5))]
            case types.Tuple(items):
                if items == (types.U8,) * 4 and choice.random() < 0.7:
                    return (127, 0, 0, 1)
                return tuple(self.make(item) for item in items)
            case types.Record(fields):
                is_port = choice.random() < 0.5
                return tuple(
                    self._port if name == "port" and is_port else self.make(field)
                    for name, field in fields
                )
            case types.Variant(cases):
                name, part = choice.choice(cases)
                return name, None if part is None else self.make(part)
            case types.Enum(names):
                return choice.choice(names)
            case types.Flags(names):
                return frozenset(name for name in names if choice.random() < 0.3)
            case types.Option(part):
                return None if choice.random() < 0.3 else self.make(part)
            case types.Result():
                return choice.random() < 0.5, None
            case types.Borrow(resource) | types.Own(resource):
                return choice.choice(self.owned[resource])
        assert_never(of)

    def check(self, of: Type | None, value: object) -> None:  # noqa: C901 - as above
        """Assert that a value is of a type, and keep the resources in it."""
        match of:
            case None:
                assert value is None
            case types.Primitive("bool"):
                assert isinstance(value, (bool, int))
            case types.Primitive("string"):
                assert isinstance(value, str)
                value.encode()
            case types.Primitive(name):
                assert isinstance(value, int)
                assert 0 <= value < 1 << _BITS[name]
            case types.List(types.Primitive("u8")):
                assert isinstance(value, bytes)
            case types.List(element):
                assert isinstance(value, list)
                for each in value:
                    self.check(element, each)
            case types.Tuple(items):
                self._check_parts(items, value)
            case types.Record(fields):
                self._check_parts(tuple(field for _, field in fields), value)
            case types.Variant(cases):
                assert isinstance(value, tuple)
                self.check(dict(cases)[value[0]], value[1])
            case types.Enum(names):
                assert value in names
            case types.Flags(names):
                assert isinstance(value, frozenset)
                assert value <= set(names)
            case types.Option(part):
                if value is not None:
                    self.check(part, value)
            case types.Result(ok, _):
                self.check(ok, value)
            case types.Own(resource) | types.Borrow(resource):
                assert isinstance(value, Resource)
                self.owned.setdefault(resource, []).append(value)
            case _:
                assert_never(of)

    def _check_parts(self, expected: tuple[Type, ...], value: object) -> None:
        assert isinstance(value, tuple)
        for part, each in zip(expected, value, strict=True):
            self.check(part, each)

    def call(self, run: ComponentRun, function: HostFunction) -> None:
        signature = function.signature
        arguments = [self.make(of) for of in signature.parameters]
        run.control.begin(monotonic_ns() + _WAIT_NS)
        try:
            value = function.call(run, *arguments)
        except GuestEnd:
            return
        except Exception as error:
            if not isinstance(signature.result, types.Result):
                raise
            self.check(signature.result.error, function.explain(error))
        else:
            assert not isinstance(value, Refused)
            self.check(signature.result, value)


def _open_some(run: ComponentRun) -> dict[str, list[Resource]]:
    """What takes a guest several calls in the right order: files, and sockets that are in use."""
    read_only, writable = (descriptor for descriptor, _ in filesystem.get_directories(run))
    flags = frozenset({"read", "write"})
    file = filesystem.open_at(run, writable, frozenset(), "a", frozenset(), flags)
    other = filesystem.open_at(run, read_only, frozenset(), "a", frozenset(), frozenset({"read"}))
    handle = network.instance_network(run)
    port = run.invocation.network.port
    listening = tcp.create_tcp_socket(run, "ipv4")
    tcp.start_bind(run, listening, handle, ("ipv4", (port, (0, 0, 0, 0))))
    tcp.finish_bind(run, listening)
    tcp.start_listen(run, listening)
    tcp.finish_listen(run, listening)
    client = tcp.create_tcp_socket(run, "ipv4")
    tcp.start_connect(run, client, handle, ("ipv4", (port, (127, 0, 0, 1))))
    sending = udp.create_udp_socket(run, "ipv4")
    udp.start_bind(run, sending, handle, ("ipv4", (0, (0, 0, 0, 0))))
    udp.finish_bind(run, sending)
    incoming, outgoing = udp.stream(run, sending, None)
    return {
        "descriptor": [read_only, writable, file, other],
        "network": [handle],
        "tcp-socket": [listening, client],
        "udp-socket": [sending],
        "incoming-datagram-stream": [incoming],
        "outgoing-datagram-stream": [outgoing],
    }


def _all_functions() -> list[HostFunction]:
    found = []
    for name in offered.interface_names():
        interface = offered.find_interface(f"{name}@0.2.0")
        assert interface is not None
        found += interface.functions.values()
    return found


@pytest.mark.parametrize("seed", range(6))
def test_random_calls(seed: int, tmp_path: Path, local_network: LocalNetwork) -> None:
    for name in ("fixed", "work"):
        (tmp_path / name / "dir").mkdir(parents=True)
        (tmp_path / name / "a").write_bytes(b"content")
        (tmp_path / name / "link").symlink_to("a")
        (tmp_path / name / "out").symlink_to("/etc/passwd")
        (tmp_path / name / "loop").symlink_to("loop")
        os.mkfifo(tmp_path / name / "fifo")
    directories = [os.open(tmp_path / name, os.O_RDONLY) for name in ("fixed", "work")]
    before = sorted(os.listdir("/proc/self/fd"))
    invocation = invoke(
        stdin=BytesInput(bytes(1 << 16)),
        stdout=BufferOutput(1 << 22),
        env=[b"A=b", b"\xff=\xfe", b"odd"],
        preopens=[
            Preopen(b"/fixed", directories[0], is_read_only=True),
            Preopen(b"/work", directories[1]),
        ],
        network=local_network,
    )
    run = ComponentRun(invocation, Control(), monotonic_ns())
    guest = Guest(seed, local_network.port)
    guest.owned |= _open_some(run)
    functions = _all_functions()
    for _ in range(_CALLS):
        function = guest.choose_function(functions)
        if guest.can_call(function):
            guest.call(run, function)
        guest.drop_one(run)
    for resources in guest.owned.values():
        for resource in resources:
            resource.close()
    run.control.close()
    assert run.descriptors == 0
    assert sorted(os.listdir("/proc/self/fd")) == before
    for directory in directories:
        os.close(directory)
    assert (tmp_path / "fixed" / "a").read_bytes() == b"content"
    assert sorted(each.name for each in (tmp_path / "fixed").iterdir()) == sorted(
        ("dir", "a", "link", "out", "loop", "fifo")
    )
