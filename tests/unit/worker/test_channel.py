import os
import socket

import pytest

from limpet.worker.channel import MAX_DESCRIPTORS, Channel, close_all
from limpet.worker.messages import (
    MAX_MESSAGE_BYTES,
    Drain,
    Keep,
    MessageError,
    Notice,
    Ready,
    encode_message,
)


@pytest.fixture
def pair():
    left, right = Channel.pair()
    yield left, right
    left.close()
    right.close()


@pytest.fixture
def raw():
    """A channel and the bare socket at its other end."""
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel = Channel(left)
    yield channel, right
    channel.close()
    right.close()


@pytest.fixture(autouse=True)
def _no_descriptor_is_lost():
    before = os.listdir("/proc/self/fd")
    yield
    assert len(os.listdir("/proc/self/fd")) == len(before)


@pytest.fixture
def pipe():
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)
    os.close(writer)


def test_messages_arrive_whole_and_in_order(pair):
    left, right = pair
    sent = [Ready(1.5), Notice("A", "x" * 60000), Drain()]
    for message in sent:
        left.send(message)
    assert [right.receive() for _ in sent] == [(message, []) for message in sent]


def test_descriptors_come_along_close_on_exec_and_owned_by_the_receiver(pair, pipe):
    left, right = pair
    left.send(Keep("a"), pipe)
    message, descriptors = right.receive()
    assert message == Keep("a")
    assert len(descriptors) == 2
    assert not set(descriptors) & set(pipe)
    assert not any(os.get_inheritable(descriptor) for descriptor in descriptors)
    os.write(descriptors[1], b"through")
    assert os.read(pipe[0], 100) == b"through"
    close_all(descriptors)


def test_as_many_descriptors_as_allowed_and_no_more(pair, pipe):
    left, right = pair
    left.send(Drain(), [pipe[0]] * MAX_DESCRIPTORS)
    _, descriptors = right.receive()
    assert len(descriptors) == MAX_DESCRIPTORS
    close_all(descriptors)
    with pytest.raises(MessageError, match="too many"):
        left.send(Drain(), [pipe[0]] * (MAX_DESCRIPTORS + 1))


def test_more_descriptors_than_allowed_are_refused_and_closed(raw, pipe):
    channel, peer = raw
    socket.send_fds(peer, [encode_message(Drain())], [pipe[0]] * (MAX_DESCRIPTORS + 1))
    with pytest.raises(MessageError):
        channel.receive()


def test_descriptors_of_a_broken_message_are_closed(raw, pipe):
    channel, peer = raw
    socket.send_fds(peer, [b"{}"], list(pipe))
    with pytest.raises(MessageError):
        channel.receive()


def test_a_packet_that_is_too_large_is_refused(raw):
    channel, peer = raw
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    peer.send(encode_message(Notice("", "x" * 100)).ljust(MAX_MESSAGE_BYTES + 1))
    with pytest.raises(MessageError, match="larger"):
        channel.receive()
    peer.send(encode_message(Drain()))
    assert channel.receive() == (Drain(), [])


def test_the_largest_message_arrives(pair):
    left, right = pair
    message = Notice("", "x" * (MAX_MESSAGE_BYTES - len(encode_message(Notice("", "")))))
    left.send(message)
    assert right.receive() == (message, [])


def test_the_end_is_none_after_the_last_message(pair):
    left, right = pair
    left.send(Drain())
    left.close()
    assert right.receive() == (Drain(), [])
    assert right.receive() is None
    assert right.receive() is None


def test_an_empty_packet_counts_as_the_end_and_its_descriptors_are_closed(raw, pipe):
    channel, peer = raw
    socket.send_fds(peer, [b""], [pipe[0]])
    assert channel.receive() is None


def test_a_peer_that_left_something_unread_has_ended_too(pair):
    left, right = pair
    right.send(Drain())
    left.close()
    assert right.receive() is None


def test_sending_to_nobody_is_an_error_and_no_signal(pair):
    left, right = pair
    right.close()
    with pytest.raises(BrokenPipeError):
        left.send(Drain())


def test_nothing_blocks_when_it_must_not(pair):
    left, right = pair
    for end in pair:
        end.set_blocking(False)
    with pytest.raises(BlockingIOError):
        right.receive()

    def fill():
        while True:
            left.send(Notice("", "x" * 10000))

    with pytest.raises(BlockingIOError):
        fill()
    assert isinstance(right.receive()[0], Notice)


def test_an_inherited_descriptor_becomes_a_channel(pair):
    left, right = pair
    copy = Channel.from_descriptor(os.dup(right.fileno()))
    left.send(Drain())
    assert copy.receive() == (Drain(), [])
    copy.close()


def test_both_ends_are_close_on_exec(pair):
    assert not any(os.get_inheritable(end.fileno()) for end in pair)


def test_sending_at_once_does_not_wait_for_a_peer_that_does_not_read(pair):
    left, right = pair
    sent = 0
    while left.send_at_once(Drain()):
        sent += 1
    assert sent >= 2
    for _ in range(sent):
        assert right.receive() == (Drain(), [])
    assert left.send_at_once(Drain())
    right.close()
    with pytest.raises(ConnectionError):
        left.send_at_once(Drain())
