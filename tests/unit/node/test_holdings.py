"""What the launcher holds: replaced, released, closed, and pipes that are kept from filling."""

import os
import socket

import pytest

from limpet.node.holdings import End, Holdings
from limpet.worker.messages import Hold


@pytest.fixture(autouse=True)
def _no_descriptor_is_lost():
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.fixture
def holdings():
    made = Holdings()
    yield made
    made.close()


class Worker:
    """The worker's ends, and the launcher's copies of the agent's."""

    def __init__(self):
        self.control, theirs = socket.socketpair()
        stdout, self.stdout = os.pipe2(os.O_NONBLOCK)
        stderr, self.stderr = os.pipe2(os.O_NONBLOCK)
        self.copies = [theirs.detach(), stdout, stderr]

    def close(self):
        self.control.close()
        os.close(self.stdout)
        os.close(self.stderr)


@pytest.fixture
def worker():
    made = Worker()
    yield made
    made.close()


def is_open(descriptor):
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def test_a_text_is_replaced_and_the_descriptors_stay(holdings, worker):
    holdings.hold(Hold("worker a#1", 7, "first"), worker.copies)
    holdings.hold(Hold("worker a#1", 7, "second"), [])
    (held,) = holdings.entries.values()
    assert (held.pid, held.text, list(held.descriptors)) == (7, "second", worker.copies)
    assert holdings.has_workers
    holdings.release("worker a#1")
    assert not any(map(is_open, worker.copies))
    assert not holdings.has_workers
    holdings.release("worker a#1")


def test_another_process_of_the_same_name_replaces_the_first(holdings, worker):
    other = Worker()
    holdings.hold(Hold("worker a#1", 7, ""), worker.copies)
    holdings.hold(Hold("worker a#1", 8, ""), other.copies)
    assert not any(map(is_open, worker.copies))
    assert [held.pid for held in holdings.entries.values()] == [8]
    other.close()


def test_an_end_is_remembered_once_and_only_of_what_is_held(holdings, worker):
    holdings.hold(Hold("worker a#1", 7, ""), worker.copies)
    holdings.hold(Hold("slot a#0", 0, "known"), [])
    holdings.note_end(9, End(0, 0, 1.0))
    assert holdings.has_workers
    holdings.note_end(7, End(9, 4096, 2.0))
    holdings.note_end(7, End(0, 0, 3.0))
    assert holdings.entries["worker a#1"].end == End(9, 4096, 2.0)
    assert not holdings.has_workers, "a text alone is no worker"


def fill(pipe):
    written = 0
    try:
        while True:
            written += os.write(pipe, b"x" * 4096)
    except BlockingIOError:
        return written


def test_room_is_made_in_a_pipe_that_is_full_and_in_no_other(holdings, worker):
    holdings.hold(Hold("worker a#1", 7, ""), worker.copies)
    os.write(worker.stderr, b"kept")
    full = fill(worker.stdout)
    for _ in range(3):
        holdings.spill()
    left = len(os.read(worker.copies[1], 1 << 20))
    assert full // 4 < left <= full // 2
    assert os.read(worker.copies[2], 100) == b"kept"
    worker.control.send(b"never read by the launcher")
    holdings.spill()
    assert os.read(worker.copies[0], 100) == b"never read by the launcher"
