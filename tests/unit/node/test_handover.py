"""What one launcher leaves to the next: through a real exec, and back."""

import json
import os
import socket
import subprocess
import sys

import pytest

from limpet.node.handover import (
    Handover,
    HandoverError,
    keep_back,
    read_handover,
    write_handover,
)
from limpet.node.holdings import End, Held

# Reads what it is given, and says what it found.
READER = """
import json, os, sys
from limpet.node.handover import read_handover
found = read_handover(int(sys.argv[1]))
(listening,) = found.sockets.values()
held = found.held
print(json.dumps({
    "port": listening.getsockname()[1],
    "unlock": os.pread(found.unlock, 100, 0).decode(),
    "worker": [held["worker a#1"].pid, held["worker a#1"].text],
    "pipe": os.read(held["worker a#1"].descriptors[1], 100).decode(),
    "end": [held["worker b#1"].end.status, held["worker b#1"].end.peak_bytes, held["worker b#1"].end.at],
    "inheritable": [os.get_inheritable(each) for each in (listening.fileno(), found.unlock)],
}))
"""


@pytest.fixture
def handover():
    control, theirs = socket.socketpair()
    out, into = os.pipe()
    unlock = os.memfd_create("key")
    os.write(unlock, b"key")
    os.write(into, b"a line")
    listening = socket.create_server(("127.0.0.1", 0))
    made = Handover(
        sockets={"127.0.0.1:80": listening},
        held={
            "worker a#1": Held(7, "text", (control.fileno(), out)),
            "worker b#1": Held(8, "text", (), End(256, 4096, 12.5)),
        },
        unlock=unlock,
    )
    yield made
    for each in (control, theirs, listening):
        each.close()
    for descriptor in (out, into, unlock):
        os.close(descriptor)


def test_the_next_program_finds_everything(handover):
    descriptor = write_handover(handover)
    done = subprocess.run(
        [sys.executable, "-c", READER, str(descriptor)],
        close_fds=False,
        capture_output=True,
        check=True,
    )
    os.close(descriptor)
    (listening,) = handover.sockets.values()
    assert json.loads(done.stdout) == {
        "port": listening.getsockname()[1],
        "unlock": "key",
        "worker": [7, "text"],
        "pipe": "a line",
        "end": [256, 4096, 12.5],
        "inheritable": [False, False],
    }


def test_nothing_is_left_open_when_there_is_no_next_program(handover):
    os.close(write_handover(handover))
    keep_back(handover)
    (listening,) = handover.sockets.values()
    assert not os.get_inheritable(listening.fileno())
    assert not os.get_inheritable(handover.held["worker a#1"].descriptors[0])


def document(**changes):
    return {"format": 1, "sockets": {}, "held": [], "unlock": None} | changes


def written(told):
    descriptor = os.memfd_create("handover")
    os.write(descriptor, told if isinstance(told, bytes) else json.dumps(told).encode())
    return descriptor


def test_what_another_version_says_more_is_left_out_and_what_is_closed_too():
    worker = {"name": "a", "pid": 7, "text": "", "descriptors": [9998], "end": None, "mood": "good"}
    descriptor = written(document(sockets={"x": 9999}, held=[worker], unlock=9997, mood="good"))
    found = read_handover(descriptor)
    os.close(descriptor)
    assert found == Handover(held={"a": Held(7, "", ())})


@pytest.mark.parametrize(
    "told",
    [b"", b"[]", document(format=2), document(held=[{}]), document(sockets=7), {"format": 1}],
)
def test_what_can_not_be_understood(told):
    descriptor = written(told)
    with pytest.raises(HandoverError):
        read_handover(descriptor)
    os.close(descriptor)
