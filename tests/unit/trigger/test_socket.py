"""Guests that listen: real sockets on loopback, and a program that stands for the guest."""

import os
import select
import socket
import threading

import pytest

from limpet.engine.protocol import Outcome, OutcomeKind
from limpet.trigger.socket import CountingListener, OfferedConnections, SocketTrigger
from limpet.worker.config import WorkerConfig
from limpet.worker.loop import Loop

CONFIG = WorkerConfig(
    app="default/a",
    worker="a",
    engine="fake",
    trigger="socket",
    memory_bytes=1,
    args=("a",),
    env=(),
)


@pytest.fixture(autouse=True)
def _no_descriptor_is_lost():
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) == before


class Port:
    """A listening socket of the agent's, as a worker gets it."""

    def __init__(self):
        self._agents = socket.create_server(("127.0.0.1", 0))
        self._agents.setblocking(False)
        self.address = self._agents.getsockname()
        self._opened = []
        self.listening = self.share()

    def share(self):
        """One more worker's."""
        shared = CountingListener(os.dup(self._agents.fileno()))
        self._opened.append(shared)
        return shared

    def client(self):
        client = socket.create_connection(self.address, 10)
        self._opened.append(client)
        return client

    def close(self):
        for each in (*self._opened, self._agents):
            each.close()


@pytest.fixture
def port():
    made = Port()
    yield made
    made.close()


def is_readable(descriptor):
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


# Listening sockets


def test_connections_are_counted_while_they_are_open(port):
    listening = port.listening
    with pytest.raises(BlockingIOError):
        listening.accept()
    clients = [port.client() for _ in range(3)]
    accepted = [listening.accept() for _ in clients]
    assert [address for _, address in accepted] == [client.getsockname() for client in clients]
    assert (listening.accepted, listening.open_connections()) == (3, 3)
    accepted.pop()[0].close()
    assert listening.open_connections() == 2
    clients[0].close()
    assert listening.open_connections() == 2, "the guest has not closed it"
    for connection, _ in accepted:
        connection.close()
    assert (listening.accepted, listening.open_connections()) == (3, 0)


def test_a_connection_that_was_forgotten_is_not_open(port):
    port.client()
    connection, _ = port.listening.accept()
    os.close(connection.detach())
    assert port.listening.open_connections() == 0
    del connection
    assert port.listening.open_connections() == 0


def test_it_is_in_use_from_the_first_client_to_the_last(port):
    listening = port.listening
    listening.used_at = 0.0
    assert listening.open_connections() == 0
    assert listening.used_at == 0.0
    port.client()
    connection, _ = listening.accept()
    assert listening.used_at > 0
    listening.used_at = 0.0
    assert listening.open_connections() == 1
    assert listening.used_at > 0
    connection.close()
    listening.used_at = 0.0
    assert listening.open_connections() == 0
    assert listening.used_at == 0.0


def test_a_retired_one_leaves_new_clients_to_others(port):
    """The clients that it has stay; whoever polls its descriptor is never woken."""
    other = port.share()
    client = port.client()
    connection, _ = port.listening.accept()
    number = port.listening.fileno()
    for _ in range(2):
        port.listening.retire()
        assert port.listening.fileno() == number
    port.client()
    assert not is_readable(number)
    assert is_readable(other.fileno())
    with pytest.raises(BlockingIOError):
        port.listening.accept()
    assert not os.get_inheritable(number)
    late, _ = other.accept()
    late.close()
    with connection:
        client.sendall(b"still here")
        assert connection.recv(100) == b"still here"
        assert port.listening.open_connections() == 1


def test_one_that_is_shut_leaves_clients_to_others_until_it_opens(port):
    port.listening.shut()
    port.client()
    assert not is_readable(port.listening.fileno())
    with pytest.raises(BlockingIOError):
        port.listening.accept()
    waiting = select.poll()  # as a guest that waits while it opens up
    waiting.register(port.listening.fileno(), select.POLLIN)
    port.listening.open_up()
    assert waiting.poll(0)
    assert is_readable(port.listening.fileno())
    port.listening.accept()[0].close()
    port.listening.open_up()
    assert port.listening.accepted == 1


def test_one_that_is_shut_can_be_retired(port):
    port.listening.shut()
    port.listening.retire()
    port.listening.open_up()
    port.client()
    with pytest.raises(BlockingIOError):
        port.listening.accept()


def test_retiring_while_a_guest_accepts(port, monkeypatch):
    """The loop's thread does so at any moment of the guest's."""
    accept = socket.socket.accept

    def retire_first(listening):
        port.listening.retire()
        return accept(listening)

    port.client()
    monkeypatch.setattr(socket.socket, "accept", retire_first)
    with pytest.raises(BlockingIOError):
        port.listening.accept()


# Connections that the node offers


def test_offered_connections_are_given_out_in_order():
    offers, taken = OfferedConnections(), []
    assert not is_readable(offers.fileno())
    with pytest.raises(BlockingIOError):
        offers.accept()
    ends = [socket.socketpair() for _ in range(3)]
    for number, (theirs, _) in enumerate(ends):
        offers.offer(theirs, lambda number=number: taken.append(number))
    assert taken == []
    for number, (theirs, ours) in enumerate(ends):
        assert is_readable(offers.fileno())
        accepted, _ = offers.accept()
        assert accepted is theirs
        assert taken == list(range(number + 1))
        with accepted, ours:
            ours.sendall(b"%d" % number)
            assert accepted.recv(10) == b"%d" % number
    assert not is_readable(offers.fileno())
    with pytest.raises(BlockingIOError):
        offers.accept()
    close(offers)


def test_an_offer_wakes_a_guest_that_waits():
    offers, accepted = OfferedConnections(), []

    def wait():
        assert select.select([offers.fileno()], [], [], 10)[0]
        accepted.append(offers.accept()[0])

    guest = threading.Thread(target=wait)
    guest.start()
    theirs, ours = socket.socketpair()
    offers.offer(theirs, lambda: None)
    guest.join(10)
    assert accepted == [theirs]
    for each in (theirs, ours):
        each.close()
    close(offers)


def test_a_guest_that_accepts_nothing_is_not_offered_more_and_more():
    offers = OfferedConnections()
    pairs = [socket.socketpair() for _ in range(9)]
    offered = [offers.offer(theirs, lambda: None) for theirs, _ in pairs]
    assert offered == [True] * 8 + [False]
    assert offers.accept()[0] is pairs[0][0]
    assert offers.offer(pairs[8][0], lambda: None), "there is room again"
    for pair in pairs:
        for end in pair:
            end.close()
    close(offers)


def close(offers):
    offers._bell.close()
    offers.close()


# The trigger


class Guest:
    """Stands for the engine: runs until it is interrupted, or ends by itself with a code."""

    def __init__(self):
        self.invocation = None
        self.is_interrupted = False
        self._end = threading.Event()
        self._outcome = Outcome(OutcomeKind.INTERRUPTED)

    def run(self, invocation):
        self.invocation = invocation
        assert self._end.wait(10)
        return self._outcome

    def interrupt(self):
        self.is_interrupted = True
        self._end.set()

    def exit(self, code):
        self._outcome = Outcome(OutcomeKind.EXIT, code)
        self._end.set()


class Running:
    """A trigger on a loop; `during` is called once it runs, then the loop until the guest's end."""

    def __init__(self, *ports):
        self.loop = Loop()
        self.guest = Guest()
        self.outcomes = []
        self.network = object()
        self.trigger = SocketTrigger(
            self.loop,
            self.guest,
            CONFIG,
            listeners=[port.listening for port in ports],
            network=self.network,
            preopens=[],
            on_finished=self._on_finished,
        )

    def _on_finished(self, outcome):
        self.outcomes.append(outcome)
        self.loop.stop()

    def run(self, during):
        self.trigger.start()
        self.loop.call_later(0, during)
        self.loop.run()
        os.close(self.trigger._wake)
        self.loop.close()


def test_the_guest_gets_the_network_and_runs_until_it_is_stopped(port):
    running = Running(port)
    running.run(running.trigger.stop)
    assert running.outcomes == [Outcome(OutcomeKind.INTERRUPTED)]
    assert running.guest.invocation.network is running.network


def test_a_guest_that_ends_by_itself_is_told_of(port):
    running = Running(port)
    running.run(lambda: running.guest.exit(3))
    assert running.outcomes == [Outcome(OutcomeKind.EXIT, 3)]


def test_clients_of_all_ports_count(port):
    other = Port()
    running = Running(port, other)
    trigger = running.trigger
    for listening in (port.listening, other.listening):
        listening.used_at -= 100
    assert trigger.idle_seconds() >= 100
    port.client()
    other.client()
    first, second = port.listening.accept()[0], other.listening.accept()[0]
    assert (trigger.requests, trigger.connections, trigger.idle_seconds()) == (2, 2, 0.0)
    first.close()
    assert (trigger.requests, trigger.connections, trigger.idle_seconds()) == (2, 1, 0.0)
    second.close()
    assert (trigger.requests, trigger.connections) == (2, 0)
    assert 0 < trigger.idle_seconds() < 100
    running.run(trigger.stop)
    other.close()


def test_stopping_waits_for_the_clients_that_are_there(port):
    running = Running(port)
    port.client()
    connection, _ = port.listening.accept()

    def stop():
        running.trigger.stop()
        port.client()
        running.loop.call_later(0.12, leave)

    def leave():
        assert not running.guest.is_interrupted, "its client is served on"
        assert not is_readable(port.listening.fileno()), "no other one is taken"
        connection.close()

    running.run(stop)
    assert running.guest.is_interrupted
    assert running.trigger.requests == 1
