"""A node that answers with scripted bytes."""

from __future__ import annotations

import contextlib
import socket
import threading


class Peer:
    """Answers each connection with the next scripted bytes; a callable answers by itself."""

    def __init__(self, path):
        self.path = path
        self.received = []
        self.answers = []
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self):
        self.answers.append(None)
        with socket.socket(socket.AF_UNIX) as last:
            last.connect(str(self.path))
        self._thread.join()
        self._listening.close()

    def _serve(self):
        while True:
            connection, _ = self._listening.accept()
            with connection:
                answer = self.answers.pop(0)
                if answer is None:
                    return
                if callable(answer):
                    answer(connection)
                    continue
                self.received.append(read_request(connection))
                with contextlib.suppress(OSError):  # the client may have seen enough
                    connection.sendall(answer)


def read_request(connection):
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            return data
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0] or 0)
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


def response(body=b"{}", *, status="200 OK", headers=()):
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def chunked(*pieces, end=b"0\r\n\r\n"):
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + end
