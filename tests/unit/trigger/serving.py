"""Runs an epoll loop in a thread, and clients that talk to it byte by byte."""

from __future__ import annotations

import os
import queue
import socket
import struct
import threading
import time

from limpet.worker.loop import READ, Loop

PATIENCE = 10.0


def eventually(condition, what="the condition"):
    """Wait until it holds; the pause between looks is no guess about how long that takes."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"{what} did not come true"
        time.sleep(0.002)


def listen():
    """A listening socket as the agent makes them."""
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setblocking(False)
    return listening


class LoopThread:
    """A loop that runs in a thread; `call` runs something there and returns its result."""

    def __init__(self):
        self.loop = Loop()
        self._calls = queue.SimpleQueue()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.loop.register(self._wake, READ, self._on_wake)
        self._thread = threading.Thread(target=self.loop.run)

    def start(self):
        self._thread.start()

    def _on_wake(self, _events):
        os.eventfd_read(self._wake)
        while not self._calls.empty():
            call, result = self._calls.get()
            try:
                result.put((call(), None))
            except BaseException as error:
                result.put((None, error))

    def post(self, call):
        """Run it there, some time soon."""
        result = queue.SimpleQueue()
        self._calls.put((call, result))
        os.eventfd_write(self._wake, 1)
        return result

    def call(self, call):
        value, error = self.post(call).get(timeout=PATIENCE)
        if error is not None:
            raise error
        return value

    def close(self):
        self.loop.stop()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        self.loop.close()
        os.close(self._wake)


class Client:
    """A client on a plain socket."""

    def __init__(self, address, *, receive_bytes=None):
        self.socket = socket.socket()
        if receive_bytes is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(address)
        self._read = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)
        return self

    def get(self, path=b"/", *headers):
        lines = b"".join(header + b"\r\n" for header in headers)
        return self.send(b"GET " + path + b" HTTP/1.1\r\nHost: a\r\n" + lines + b"\r\n")

    def finish_sending(self):
        self.socket.shutdown(socket.SHUT_WR)

    def reset(self):
        """Go away without a goodbye."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def _receive(self):
        data = self.socket.recv(1 << 16)
        self._read += data
        return bool(data)

    def response(self):
        """Read one whole response: status, headers, body."""
        while b"\r\n\r\n" not in self._read:
            assert self._receive(), f"the connection ended within {self._read!r}"
        head, _, self._read = self._read.partition(b"\r\n\r\n")
        line, *fields = head.split(b"\r\n")
        headers = dict(field.split(b": ", 1) for field in fields)
        length = int(headers.get(b"Content-Length", 0))
        while len(self._read) < length:
            assert self._receive(), f"the connection ended within a body, after {self._read!r}"
        body, self._read = self._read[:length], self._read[length:]
        return int(line.split()[1]), headers, body

    def ends(self):
        """Whether the server ends the connection, politely, without another byte."""
        assert self._read == b""
        return not self._receive()

    def rest(self):
        """Everything until the server ends the connection."""
        while self._receive():
            pass
        data, self._read = self._read, b""
        return data
