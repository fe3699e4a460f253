"""A worker's network: what came along and what the agent, played here, hands over."""

import errno
import os
import select
import socket
import threading
from contextlib import contextmanager

import pytest

from limpet.wasi.control import Control
from limpet.wasi.endings import GuestDeadline, GuestInterrupted
from limpet.wasi.network import NetworkDeniedError
from limpet.worker import network as network_module
from limpet.worker.channel import Channel
from limpet.worker.messages import Connect, Connected, Drain, Resolve, Resolved
from limpet.worker.network import WorkerNetwork

PATIENCE_SECONDS = 20.0


@pytest.fixture(autouse=True)
def _no_descriptor_is_lost():
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) == before


class Worker:
    """The agent's end of the channel, and the loop's part of the worker, which tests play."""

    def __init__(self, listeners=()):
        self.agent, self.channel = Channel.pair()
        self.heard = []
        self.others = []
        self.control = Control()
        self.network = WorkerNetwork(
            self.channel, listeners, pump=self.pump, on_listen=lambda: self.heard.append("listen")
        )

    def pump(self):
        """Read one message, as `limpet.worker.app` does."""
        received = self.channel.receive()
        if received is None:
            self.network.cut_off()
            return
        message, descriptors = received
        if isinstance(message, Connected | Resolved):
            self.network.on_answer(message, descriptors)
        else:
            self.others.append(message)

    def loop(self, *, until):
        """Serve the channel, as the loop does, while a guest runs beside it."""
        while not until():
            if select.select([self.channel.fileno()], [], [], 0.01)[0]:
                self.pump()
                if self.network._is_cut_off:
                    return

    def close(self):
        for channel in (self.agent, self.channel):
            channel.close()
        self.control.close()


@pytest.fixture
def worker():
    made = Worker()
    yield made
    made.close()


@contextmanager
def answering(worker, *answers):
    """Be the agent: for each request, what to do with it. Gives the list of requests."""
    requests = []

    def serve():
        for answer in answers:
            received = worker.agent.receive()
            if received is None:
                return
            requests.append(received[0])
            answer(worker.agent, received[0])

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield requests
    finally:
        thread.join(PATIENCE_SECONDS)
    assert not thread.is_alive()


def hand_over(agent, request):
    """Answer with one end of a pair whose other end has said hello."""
    ours, theirs = socket.socketpair()
    ours.sendall(b"hello")
    agent.send(Connected(request.request, "", 0), [theirs.fileno()])
    ours.close()
    theirs.close()


def refuse(number, text="no"):
    return lambda agent, request: agent.send(Connected(request.request, text, number))


def tell(*addresses):
    return lambda agent, request: agent.send(Resolved(request.request, addresses, "", 0))


def beside(worker, call):
    """Run a guest's call on a thread of its own while the loop serves; return what came of it."""
    results = []

    def run():
        try:
            results.append(call())
        except BaseException as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    worker.loop(until=lambda: results)
    thread.join(PATIENCE_SECONDS)
    assert not thread.is_alive()
    return results[0]


def on_loop(worker, call):
    try:
        return call()
    except BaseException as error:
        return error


on_both_threads = pytest.mark.parametrize("run", [on_loop, beside])


# Listening


def test_declared_ports_are_listened_on():
    with socket.socket() as first, socket.socket() as second, socket.socket() as other:
        worker = Worker([(80, first), (81, other), (80, second)])
        assert list(worker.network.listen(80)) == [first, second]
        assert list(worker.network.listen(81)) == [other]
        assert worker.heard == ["listen"] * 2
        with pytest.raises(
            NetworkDeniedError, match=r"port 82 is not declared \(declared: 80, 81\)"
        ):
            worker.network.listen(82)
        assert worker.heard == ["listen"] * 2
        worker.close()


def test_an_app_without_ports_listens_nowhere(worker):
    with pytest.raises(NetworkDeniedError, match="declared: none"):
        worker.network.listen(80)


def test_any_port_is_the_one_of_an_app_that_declares_none():
    with socket.socket() as only:
        worker = Worker([(0, only)])
        assert list(worker.network.listen(8080)) == [only]
        worker.close()


# Connecting


@on_both_threads
def test_a_connection_is_handed_over(worker, run):
    with answering(worker, hand_over) as requests:
        connected = run(
            worker, lambda: worker.network.connect("a.example", 80, "tcp", worker.control)
        )
    assert requests == [Connect(1, "a.example", 80, "tcp")]
    with connected:
        assert connected.recv(10) == b"hello"
        assert not os.get_inheritable(connected.fileno())


@on_both_threads
@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.EACCES, NetworkDeniedError),
        (errno.ECONNREFUSED, ConnectionRefusedError),
        (errno.ETIMEDOUT, TimeoutError),
        (0, OSError),
    ],
)
def test_a_refusal_is_an_error_of_its_kind(worker, run, number, expected):
    with answering(worker, refuse(number, "the reason")):
        error = run(worker, lambda: worker.network.connect("192.0.2.1", 80, "udp", worker.control))
    assert isinstance(error, expected)
    assert "192.0.2.1:80/udp: the reason" in str(error)
    if expected is not NetworkDeniedError:
        assert error.errno == (number or errno.EIO)


@on_both_threads
def test_a_deadline_ends_what_waits(worker, run):
    """What comes later is closed, and the next call gets its own answer."""
    late = []
    network = worker.network
    worker.control.begin(1)  # long ago
    with answering(worker, lambda _agent, request: late.append(request)):
        ended = run(worker, lambda: network.connect("a.example", 80, "tcp", worker.control))
    assert isinstance(ended, GuestDeadline)
    assert network._waiting == {}
    hand_over(worker.agent, late[0])
    worker.control.begin(0)
    with answering(worker, hand_over) as requests:
        connected = run(worker, lambda: network.connect("b.example", 80, "tcp", worker.control))
    with connected:
        assert connected.recv(10) == b"hello"
    assert requests == [Connect(2, "b.example", 80, "tcp")]


def test_an_interrupt_ends_what_waits(worker):
    worker.control.begin(0)

    def interrupt(_agent, _request):
        worker.control.interrupt()

    with answering(worker, interrupt):
        ended = beside(worker, lambda: worker.network.resolve("a.example", worker.control))
    assert isinstance(ended, GuestInterrupted)


def test_an_answer_that_comes_with_the_deadline_is_closed(worker):
    """The guest's thread has been told, and ends for another reason before it looks."""
    is_waiting = threading.Event()

    class Late:
        def wait_readable(self, descriptor):
            is_waiting.set()
            assert select.select([descriptor], [], [], PATIENCE_SECONDS)[0]
            raise GuestDeadline

    def hand_over_late(agent, request):
        assert is_waiting.wait(PATIENCE_SECONDS)
        hand_over(agent, request)

    with answering(worker, hand_over_late):
        ended = beside(worker, lambda: worker.network.connect("a", 80, "tcp", Late()))
    assert isinstance(ended, GuestDeadline)


def test_what_is_not_for_the_guest_is_left_to_the_loop(worker):
    def drain_first(agent, request):
        agent.send(Drain())
        hand_over(agent, request)

    with answering(worker, drain_first):
        worker.network.connect("a", 80, "tcp", worker.control).close()
    assert worker.others == [Drain()]


def test_guests_on_several_threads_get_their_own_answers(worker):
    """Answered in the reverse order."""
    held = []

    def hold(agent, request):
        held.append(request)
        if len(held) == 4:
            for each in reversed(held):
                tell(f"192.0.2.{each.host[1:]}")(agent, each)

    found = {}

    def ask(number):
        control = Control()
        found[number] = worker.network.resolve(f"n{number}", control)
        control.close()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    with answering(worker, *[hold] * 4):
        for thread in threads:
            thread.start()
        worker.loop(until=lambda: len(found) == 4)
    for thread in threads:
        thread.join()
    assert found == {number: [f"192.0.2.{number}"] for number in range(4)}


# Names


@on_both_threads
def test_a_name_is_resolved_and_asked_for_when_its_address_is_connected_to(worker, run):
    """So that a rule that names it is the one that counts."""
    network, control = worker.network, worker.control
    answers = (tell("192.0.2.1", "2001:db8::1"), hand_over, hand_over)
    with answering(worker, *answers) as requests:
        assert run(worker, lambda: network.resolve("a.example", control)) == [
            "192.0.2.1",
            "2001:db8::1",
        ]
        run(worker, lambda: network.connect("2001:db8::1", 443, "tcp", control)).close()
        run(worker, lambda: network.connect("192.0.2.2", 443, "tcp", control)).close()
    assert requests == [
        Resolve(1, "a.example"),
        Connect(2, "a.example", 443, "tcp"),
        Connect(3, "192.0.2.2", 443, "tcp"),
    ]


@on_both_threads
@pytest.mark.parametrize(
    ("number", "expected"),
    [(errno.EHOSTUNREACH, None), (errno.EACCES, NetworkDeniedError), (errno.EAGAIN, OSError)],
)
def test_a_name_that_is_not_resolved(worker, run, number, expected):
    def answer(agent, request):
        agent.send(Resolved(request.request, (), "the reason", number))

    with answering(worker, answer):
        result = run(worker, lambda: worker.network.resolve("a.example", worker.control))
    if expected is None:
        assert result == []
    else:
        assert isinstance(result, expected)
        assert "a.example: the reason" in str(result)


def test_names_are_kept_within_bounds(worker, monkeypatch):
    monkeypatch.setattr(network_module, "_MAX_NAMES", 3)
    count = 20
    with answering(worker, *[lambda agent, r: tell(f"192.0.2.{r.request}")(agent, r)] * count):
        for number in range(count):
            worker.network.resolve(f"n{number}", worker.control)
            assert len(worker.network._names) <= 3
    assert worker.network._names[f"192.0.2.{count}"] == f"n{count - 1}"


# Answers to nobody, and an agent that goes


def test_answers_to_nobody_are_closed(worker):
    ours, theirs = socket.socketpair()
    for request in (0, 7):
        worker.network.on_answer(Connected(request, "", 0), [os.dup(theirs.fileno())])
        worker.network.on_answer(Resolved(request, ("192.0.2.1",), "", 0), [])
    theirs.close()
    assert ours.recv(1) == b"", "no copy is left"
    ours.close()


@on_both_threads
def test_more_descriptors_than_one_are_none(worker, run):
    def answer(agent, request):
        left, right = socket.socketpair()
        agent.send(Connected(request.request, "", 0), [left.fileno(), right.fileno()])
        left.close()
        right.close()

    with answering(worker, answer):
        error = run(worker, lambda: worker.network.connect("a", 80, "tcp", worker.control))
    assert isinstance(error, OSError)
    assert error.errno == errno.EIO


@on_both_threads
def test_an_agent_that_goes_ends_what_waits_and_what_comes(worker, run):
    network, control = worker.network, worker.control
    with answering(worker, lambda agent, _request: agent.close()):
        error = run(worker, lambda: network.connect("a", 80, "tcp", control))
    assert isinstance(error, OSError)
    assert error.errno == errno.ENETDOWN
    for call in (
        lambda: network.connect("a", 80, "tcp", control),
        lambda: network.resolve("a", control),
    ):
        with pytest.raises(OSError, match="down") as refused:
            call()
        assert refused.value.errno == errno.ENETDOWN
    assert network._waiting == {}


def test_what_an_agent_that_died_had_read_is_asked_again(worker):
    """The first agent's answer never comes; a second answer to one question is closed."""

    def die(agent, _request):
        """Read, and answer nothing."""

    found = []
    with answering(worker, die, hand_over) as read:

        def connect():
            found.append(worker.network.connect("127.0.0.1", 80, "tcp", worker.control))

        guest = threading.Thread(target=connect)
        guest.start()
        worker.loop(until=lambda: read)
        worker.network.ask_again()
        worker.loop(until=lambda: found)
        guest.join(PATIENCE_SECONDS)
    with found[0] as connection:
        assert connection.recv(16) == b"hello"
    worker.network.ask_again()  # nothing waits
    assert not select.select([worker.agent.fileno()], [], [], 0)[0]


def test_a_full_channel_does_not_keep_a_guest_beyond_its_deadline(worker):
    while worker.channel.send_at_once(Drain()):
        pass
    worker.control.begin(1)  # long ago
    with pytest.raises(GuestDeadline):
        worker.network.connect("127.0.0.1", 80, "tcp", worker.control)
    assert not worker.network._waiting
