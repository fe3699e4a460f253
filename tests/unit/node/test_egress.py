"""Connections out of apps: real sockets on loopback, and in a network namespace of the tests' own."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import threading
from contextlib import contextmanager

import pytest
from linux.forked import needs_root, result_of

from limpet.addresses import parse_network
from limpet.egress import EVERY_PORT, Block, EgressPolicy, EgressRule, PortRange
from limpet.linux.namespaces import CLONE_NEWNET, bring_loopback_up, unshare
from limpet.node import egress as egress_module
from limpet.node.egress import Connector
from limpet.worker.messages import Connect, Resolve, Resolved

NOTHING = EgressPolicy()


def allowing(*blocks, names=(), is_anywhere=False, ports=EVERY_PORT):
    rule = EgressRule(
        names=names,
        blocks=tuple(Block(parse_network(block)) for block in blocks),
        is_anywhere=is_anywhere,
        ports=ports,
    )
    return EgressPolicy((rule,))


LOOPBACK = allowing("127.0.0.0/8", "::1")


class App:
    """Keeps what the agent answers; with `is_gone` it has ended."""

    def __init__(self):
        self.is_gone = False
        self.answers = []
        self.sockets = {}
        self._news = asyncio.Event()

    def send(self, message, descriptors=()):
        if self.is_gone:
            return False
        self.answers.append(message)
        for descriptor in descriptors:
            self.sockets[message.request] = socket.socket(fileno=os.dup(descriptor))
        self._news.set()
        return True

    async def answered(self, count=1):
        while len(self.answers) < count:
            self._news.clear()
            await self._news.wait()
        return self.answers[-1]

    def close(self):
        for connected in self.sockets.values():
            connected.close()


class Node:
    """A connector, the policy in force and what was denied."""

    def __init__(self, policy):
        self.policy = policy
        self.denied = []
        self.app = App()
        self.connector = Connector(lambda: self.policy, self.denied.append)

    async def ask(self, host, port, protocol="tcp"):
        """Ask for a connection; return the answer's text."""
        count = len(self.app.answers) + 1
        self.connector.serve(self.app, Connect(count, host, port, protocol))
        answer = await self.app.answered(count)
        assert answer.request == count
        return answer.error

    async def look_up(self, host):
        """Ask for a name's addresses; return the whole answer."""
        count = len(self.app.answers) + 1
        self.connector.resolve(self.app, Resolve(count, host))
        answer = await self.app.answered(count)
        assert answer.request == count
        assert isinstance(answer, Resolved)
        return answer

    async def settle(self):
        """Wait until nothing is being opened any more."""
        while self.connector._pending:  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def _no_descriptor_is_lost():
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) == before


def play(policy, scene):
    """Run a scene on a node; nothing is pending when it is over."""

    async def run():
        node = Node(policy)
        try:
            result = await scene(node)
            await node.settle()
        finally:
            node.connector.stop()
            node.app.close()
            egress_module._lookups().shutdown()
            egress_module._lookups.cache_clear()
        return result

    return asyncio.run(asyncio.wait_for(run(), 20))


@contextmanager
def serving(address=("127.0.0.1", 0), family=socket.AF_INET):
    with socket.create_server(address, family=family) as listening:
        yield listening, listening.getsockname()[1]


@contextmanager
def resolving(monkeypatch, table):
    """Answer lookups of names from a table: the network that this machine is on has no part in it."""
    real = socket.getaddrinfo

    def look_up(host, *arguments, **named):
        found = []
        for address in table[host]:
            found += real(address, *arguments, **named)
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", look_up)
        yield


# Allowed and denied


def test_an_allowed_connection_is_opened_and_handed_over():
    with serving() as (listening, port):

        async def scene(node):
            assert await node.ask("127.0.0.1", port) == ""
            connected = node.app.sockets[1]
            assert connected.getpeername() == ("127.0.0.1", port)
            accepted, _ = listening.accept()
            with accepted:
                accepted.sendall(b"hello")
                connected.setblocking(True)
                assert connected.recv(100) == b"hello"
            assert node.denied == []

        play(LOOPBACK, scene)


def test_an_allowed_ipv6_connection_is_opened():
    try:
        server = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError as error:
        pytest.skip(f"no IPv6 on loopback here: {error}")
    with server as listening:

        async def scene(node):
            assert await node.ask("::1", listening.getsockname()[1]) == ""

        play(LOOPBACK, scene)


def test_datagrams_go_to_the_one_address():
    with socket.socket(type=socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]

        async def scene(node):
            assert await node.ask("127.0.0.1", port, "udp") == ""
            connected = node.app.sockets[1]
            assert connected.type == socket.SOCK_DGRAM
            connected.send(b"ping")
            data, peer = server.recvfrom(100)
            assert (data, peer) == (b"ping", connected.getsockname())

        play(LOOPBACK, scene)


@pytest.mark.parametrize(
    ("host", "protocol"),
    [
        ("127.0.0.1", "tcp"),
        ("127.0.0.1", "udp"),
        ("::1", "tcp"),
        ("::ffff:127.0.0.1", "tcp"),
        ("0.0.0.0", "tcp"),
        ("169.254.169.254", "tcp"),
        ("192.0.2.1", "tcp"),
        ("localhost", "tcp"),
        ("a.example", "tcp"),
        ("127.1", "tcp"),
        ("", "tcp"),
        ("a b", "tcp"),
        ("a\0b", "tcp"),
    ],
)
def test_what_no_rule_allows_is_denied_and_told(host, protocol, monkeypatch):
    def look_up(*_arguments, **_named):
        raise AssertionError("nothing is looked up for an app that may not ask")

    async def scene(node):
        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        assert await node.ask(host, 9, protocol) != ""
        monkeypatch.undo()
        assert node.app.sockets == {}
        [told] = node.denied
        assert told.startswith(f"{host}:9/{protocol}: ")

    play(NOTHING, scene)


def test_the_other_port_and_the_other_protocol_are_denied():
    with serving() as (_, port):
        policy = allowing("127.0.0.1", ports=(PortRange("tcp", port, port),))

        async def scene(node):
            assert await node.ask("127.0.0.1", port) == ""
            assert await node.ask("127.0.0.1", port, "udp") != ""
            assert await node.ask("127.0.0.1", port - 1) != ""
            assert len(node.denied) == 2

        play(policy, scene)


def test_a_wide_rule_does_not_open_the_device():
    with serving() as (_, port):

        async def scene(node):
            for host in ("127.0.0.1", "::1", "0.0.0.0", "::", "::ffff:127.0.0.1", "localhost"):
                assert await node.ask(host, port) != ""
            assert len(node.denied) == 6
            assert node.app.sockets == {}

        play(allowing(is_anywhere=True), scene)


# Names


def test_a_name_that_leads_to_loopback_is_refused(monkeypatch):
    policy = allowing("127.0.0.0/8", "::1", names=("sneaky.example",), is_anywhere=True)
    with serving() as (_, port):
        for found in ("127.0.0.1", "::1", "::ffff:127.0.0.1", "0.0.0.0", "169.254.169.254"):

            async def scene(node):
                error = await node.ask("sneaky.example", port)
                assert "no name may lead to" in error
                assert len(node.denied) == 1

            with resolving(monkeypatch, {"sneaky.example": [found]}):
                play(policy, scene)


def test_a_name_that_does_not_resolve_is_no_denial(monkeypatch):
    async def scene(node):
        assert "can't be looked up" in await node.ask("nowhere.example", 80)
        assert node.denied == []

    with resolving(monkeypatch, {"nowhere.example": []}):
        play(allowing(names=("nowhere.example",)), scene)


def test_a_refused_connection_is_no_denial():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but nobody listens

        async def scene(node):
            error = await node.ask("127.0.0.1", taken.getsockname()[1])
            assert error == "127.0.0.1: Connection refused"
            assert node.denied == []

        play(LOOPBACK, scene)


# Names alone


def test_the_addresses_of_a_name(monkeypatch):
    """Each one once and in order; those of loopback, too: connecting to them is judged by itself."""
    found = ["192.0.2.7", "2001:db8::7", "192.0.2.7", "127.0.0.1"]

    async def scene(node):
        answer = await node.look_up("a.example")
        assert answer == Resolved(1, ("192.0.2.7", "2001:db8::7", "127.0.0.1"), "", 0)
        assert node.denied == []

    for policy in (allowing(names=("a.example",)), allowing(is_anywhere=True)):
        with resolving(monkeypatch, {"a.example": found}):
            play(policy, scene)


def test_only_so_many_addresses_are_told(monkeypatch):
    found = [f"192.0.2.{number}" for number in range(200)]

    async def scene(node):
        answer = await node.look_up("many.example")
        assert answer.addresses == tuple(found[: len(answer.addresses)])
        assert len(answer.addresses) == 64

    with resolving(monkeypatch, {"many.example": found}):
        play(allowing(names=("many.example",)), scene)


def test_a_zone_is_no_part_of_an_address(monkeypatch):
    def look_up(*_arguments, **_named):
        return [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("fe80::1%eth0", 0, 0, 2))]

    async def scene(node):
        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        assert (await node.look_up("near.example")).addresses == ("fe80::1",)

    play(allowing(names=("near.example",)), scene)


@pytest.mark.parametrize("host", ["b.example", "localhost", "192.0.2.1", "::1", "", "a b", "a\0b"])
def test_a_name_that_no_rule_allows_is_denied_and_told(host, monkeypatch):
    def look_up(*_arguments, **_named):
        raise AssertionError("nothing is looked up for an app that may not ask")

    async def scene(node):
        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        answer = await node.look_up(host)
        monkeypatch.undo()
        assert (answer.addresses, answer.error_number) == ((), errno.EACCES)
        assert answer.error
        assert node.denied == [f"{host}: {answer.error}"]

    play(allowing(names=("a.example",), ports=(PortRange("tcp", 443, 443),)), scene)


def test_a_name_without_addresses_is_no_denial(monkeypatch):
    async def scene(node):
        answer = await node.look_up("nowhere.example")
        assert (answer.addresses, answer.error_number) == ((), errno.EHOSTUNREACH)
        assert "can't be looked up" in answer.error
        assert node.denied == []

    with resolving(monkeypatch, {"nowhere.example": []}):
        play(allowing(names=("nowhere.example",)), scene)


def test_lookups_and_connections_share_their_limit(monkeypatch):
    async def scene(node):
        slow = SlowLookups(monkeypatch)
        for number in range(1, 9):
            node.connector.resolve(node.app, Resolve(number, "a.example"))
        await slow.begun(8)
        node.connector.resolve(node.app, Resolve(9, "a.example"))
        node.connector.serve(node.app, Connect(10, "a.example", 80, "tcp"))
        await node.app.answered(2)
        assert [answer.request for answer in node.app.answers] == [9, 10]
        assert {answer.error_number for answer in node.app.answers} == {errno.EAGAIN}
        slow.go.set()
        await node.app.answered(10)
        assert {answer.error for answer in node.app.answers[2:]} == {""}

    play(allowing(names=("a.example",)), scene)


def test_a_lookup_that_takes_too_long_is_given_up(monkeypatch):
    async def scene(node):
        slow = SlowLookups(monkeypatch)
        answer = await node.look_up("a.example")
        assert (answer.addresses, answer.error_number) == ((), errno.ETIMEDOUT)
        assert "no answer" in answer.error
        slow.go.set()

    monkeypatch.setattr(egress_module, "_SECONDS", 0.05)
    play(allowing(names=("a.example",)), scene)


# Changes, limits, ends


def test_a_change_of_the_policy_holds_for_the_next_connection():
    with serving() as (_, port):

        async def scene(node):
            assert await node.ask("127.0.0.1", port) != ""
            node.policy = LOOPBACK
            assert await node.ask("127.0.0.1", port) == ""
            node.policy = NOTHING
            assert await node.ask("127.0.0.1", port) != ""
            assert len(node.denied) == 2

        play(NOTHING, scene)


class SlowLookups:
    """Lookups that wait until they are let go."""

    def __init__(self, monkeypatch, address="127.0.0.1"):
        self.go = threading.Event()
        self._begun = []
        real = socket.getaddrinfo

        def look_up(_host, port, *arguments, **named):
            self._begun.append(port)
            assert self.go.wait(20)
            return real(address, port, *arguments, **named)

        monkeypatch.setattr(socket, "getaddrinfo", look_up)

    async def begun(self, count):
        """Wait until so many keep a thread busy."""
        while len(self._begun) < count:  # noqa: ASYNC110 - what is waited for is in other threads
            await asyncio.sleep(0)


def test_a_policy_that_changes_during_a_lookup_counts(monkeypatch):
    with serving() as (_, port):

        async def scene(node):
            slow = SlowLookups(monkeypatch)
            asking = asyncio.ensure_future(node.ask("127.0.0.1", port))
            await slow.begun(1)
            node.policy = NOTHING
            slow.go.set()
            assert await asking != ""
            monkeypatch.undo()
            assert len(node.denied) == 1
            assert node.app.sockets == {}

        play(LOOPBACK, scene)


def test_only_so_many_are_opened_at_a_time(monkeypatch):
    with serving() as (_, port):

        async def scene(node):
            slow = SlowLookups(monkeypatch)
            limit = egress_module._MAX_PENDING
            for number in range(limit + 2):
                node.connector.serve(node.app, Connect(number, "127.0.0.1", port, "tcp"))
            assert [answer.request for answer in node.app.answers] == [limit, limit + 1]
            assert all("being opened already" in answer.error for answer in node.app.answers)
            slow.go.set()
            await node.app.answered(limit + 2)
            assert {answer.error for answer in node.app.answers[2:]} == {""}
            await node.settle()
            assert await node.ask("127.0.0.1", port) == ""
            assert node.denied == []

        play(LOOPBACK, scene)


def test_slow_lookups_keep_nobody_else_waiting(monkeypatch):
    """Neither other apps nor the agent's own work: a name's owner decides how long one takes."""
    with serving() as (_, port):

        async def scene(node):
            real = socket.getaddrinfo
            slow = SlowLookups(monkeypatch)
            for number in range(egress_module._MAX_PENDING):
                node.connector.serve(node.app, Connect(number, "127.0.0.1", port, "tcp"))
            await slow.begun(egress_module._MAX_PENDING)
            assert await asyncio.to_thread(str) == ""
            monkeypatch.setattr(socket, "getaddrinfo", real)
            other = Node(LOOPBACK)
            assert await other.ask("127.0.0.1", port) == ""
            other.app.close()
            assert node.app.answers == []
            slow.go.set()
            await node.app.answered(egress_module._MAX_PENDING)

        play(LOOPBACK, scene)


def test_a_connection_that_takes_too_long_is_given_up(monkeypatch):
    monkeypatch.setattr(egress_module, "_SECONDS", 0.05)

    async def scene(node):
        slow = SlowLookups(monkeypatch)
        assert await node.ask("127.0.0.1", 9) == "no answer in 0 s"
        slow.go.set()
        assert node.denied == []
        assert node.app.sockets == {}

    play(LOOPBACK, scene)


def test_nothing_is_left_open_for_an_app_that_has_gone(monkeypatch):
    with serving() as (listening, port):

        async def scene(node):
            slow = SlowLookups(monkeypatch)
            node.connector.serve(node.app, Connect(1, "127.0.0.1", port, "tcp"))
            node.app.is_gone = True
            slow.go.set()
            await node.settle()
            accepted, _ = listening.accept()
            with accepted:
                assert accepted.recv(1) == b"", "the connection is closed, not kept"
            assert node.app.answers == []

        play(LOOPBACK, scene)


def test_a_node_without_descriptors_says_so(monkeypatch):
    async def scene(node):
        def refuse(*_arguments):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        with monkeypatch.context() as patch:
            patch.setattr(egress_module.socket, "socket", refuse)
            error = await node.ask("127.0.0.1", 9)
        assert error == "the node can't open a socket: Too many open files"
        assert node.denied == []

    play(LOOPBACK, scene)


def test_stopping_gives_up_what_is_being_opened(monkeypatch):
    with serving() as (listening, port):

        async def scene(node):
            slow = SlowLookups(monkeypatch)
            for number in range(3):
                node.connector.serve(node.app, Connect(number, "127.0.0.1", port, "tcp"))
            await asyncio.sleep(0)
            node.connector.stop()
            slow.go.set()
            await node.settle()
            assert node.app.answers == []
            listening.setblocking(False)
            with pytest.raises(BlockingIOError):
                listening.accept()

        play(LOOPBACK, scene)


# In a network of its own


def in_own_network(policy, scene, *, dummy=None):
    """Run a scene in a child whose network has loopback and `dummy`, an address of this device."""

    def run():
        unshare(CLONE_NEWNET)
        bring_loopback_up()
        if dummy is not None:
            add_own_address(dummy)
        return play(policy, scene)

    return result_of(run)


def add_own_address(address):
    """Give the device an address beside loopback's (netdevice(7), SIOCSIFADDR on an alias of lo)."""
    import fcntl
    import struct

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack(
            "16sH2s4s8x8x", b"lo:1", socket.AF_INET, b"\0\0", socket.inet_aton(address)
        )
        fcntl.ioctl(control, 0x8916, request)


@needs_root
def test_the_device_s_own_addresses_are_refused():
    async def scene(node):
        with socket.create_server(("192.0.2.7", 0)) as listening:
            port = listening.getsockname()[1]
            errors = [await node.ask(host, port) for host in ("192.0.2.7", "::ffff:192.0.2.7")]
            assert await node.ask("192.0.2.7", port, "udp") != ""
        return errors, len(node.denied), len(node.app.sockets)

    policy = allowing("192.0.2.0/24", is_anywhere=True)
    errors, denied, opened = in_own_network(policy, scene, dummy="192.0.2.7")
    assert "192.0.2.7 is this device itself" in errors[0]
    assert "this device itself" in errors[1]
    assert (denied, opened) == (3, 0)


@needs_root
def test_another_address_of_the_same_network_is_not_the_device():
    async def scene(node):
        return await node.ask("192.0.2.8", 9, "udp"), len(node.denied)

    error, denied = in_own_network(allowing("192.0.2.0/24"), scene)
    assert ("unreachable" in error, denied) == (True, 0)
