"""Sockets need no system call that a worker hasn't."""

from __future__ import annotations

import os
import socket
import sys
import traceback
from struct import pack

import pytest
from socket_calls import DATA, DATAGRAM, PORT, RESULT, Caller, LocalNetwork

from limpet.linux import process, seccomp
from limpet.worker.sandbox import APP, Wall, survey

DONE, DEFECT = 0, 1


class HandedOver(LocalNetwork):
    """Connections were made before the walls went up, as an agent outside would make them."""

    def __init__(self) -> None:
        super().__init__(2)
        self.streams = socket.socketpair()
        self.datagrams = [socket.socketpair(type=socket.SOCK_DGRAM) for _ in range(2)]
        self.clients = [socket.create_connection(each.getsockname()) for each in self.listeners]

    def connect(self, host, port, protocol, waiter) -> socket.socket:
        return self.streams[0] if protocol == "tcp" else self.datagrams.pop()[0]


@pytest.mark.skipif(Wall.SECCOMP not in survey(), reason="needs seccomp filters")
def test_every_call_is_on_the_worker_s_list() -> None:
    network = HandedOver()
    datagram_ends = [pair[1] for pair in network.datagrams]
    filter_program = APP.program
    child = os.fork()
    if child == 0:
        code = DEFECT
        try:
            process.set_no_new_privileges()
            seccomp.install(filter_program)
            use_everything(network, datagram_ends)
            code = DONE
        except BaseException:  # the child must not return into pytest
            traceback.print_exc(file=sys.__stderr__)
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    network.close()
    for each in (*network.clients, *network.streams, *sum(network.datagrams, ())):
        each.close()
    assert os.waitstatus_to_exitcode(status) == DONE


def use_everything(network: HandedOver, datagram_ends: list[socket.socket]) -> None:
    caller = Caller(network)
    listening = caller.listen()
    accepted = [caller.accept(listening) for _ in network.clients]
    caller.set_non_blocking(listening)
    caller.call("sock_accept", listening, 0, RESULT)
    for number, client in zip(accepted, network.clients, strict=True):
        client.send(b"hello")
        assert caller.receive(number, 2) == b"he"
        assert caller.receive(number, 1, 10) == b"llo"
        assert caller.send(number, b"one") == 3
        assert caller.send(number, b"one", b"more") == 7
        caller.done("sock_getpeeraddr", number, caller.room(4), RESULT, RESULT + 4)
        caller.done("sock_getlocaladdr", number, caller.room(4), RESULT, RESULT + 4)
        for name in range(15):
            caller.bytes[RESULT : RESULT + 4] = pack("<I", 16)
            caller.done("sock_getsockopt", number, 0, name, DATA, RESULT)
            caller.call("sock_setsockopt", number, 0, name, DATA, 16)
        caller.done("fd_fdstat_get", number, RESULT)
        caller.done("fd_filestat_get", number, RESULT)
        caller.done("sock_shutdown", number, 2)
        caller.done("fd_close", number)
    number = caller.open()
    caller.done("sock_connect", number, caller.address("192.0.2.1"), PORT)
    caller.send(number, b"hello")
    number = caller.connect(("192.0.2.1", PORT), DATAGRAM)
    caller.send(number, b"a ", b"datagram")
    datagram_ends[1].send(b"an answer")
    assert caller.receive(number, 100) == b"an answer"
    number = caller.open(DATAGRAM)
    record = caller.address("192.0.2.1")
    caller.done("sock_send_to", number, *caller.put(b"x"), record, PORT, 0, RESULT)
    datagram_ends[0].send(b"another")
    assert caller.receive(number, 100) == b"another"
    caller.close()
