"""A program: requests at a fixed rate, each timed from when it was due (open loop).

`python -m benchmarks.pacer PORT RATE SECONDS CONNECTIONS` prints one JSON object. A request that
finds no free connection waits and its waiting counts: a server that stalls can't slow the clock
down. The loop never sleeps, so it needs a core of its own.
"""

from __future__ import annotations

import gc
import json
import select
import socket
import sys
import time
from collections import deque

from benchmarks.client import REQUEST

_PATIENCE_SECONDS = 5.0


def run(port: int, rate: float, seconds: float, connections: int) -> dict[str, float]:
    """Send, and return percentiles in milliseconds. Raises RuntimeError for a bad answer."""
    epoll = select.epoll()
    clients: dict[int, socket.socket] = {}
    for _ in range(connections):
        client = socket.create_connection(("127.0.0.1", port), _PATIENCE_SECONDS)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.settimeout(0)
        clients[client.fileno()] = client
        epoll.register(client.fileno(), select.EPOLLIN)
    free = deque(clients)
    due: dict[int, float] = {}
    latencies: list[float] = []
    delays: list[float] = []
    total = int(rate * seconds)
    sent = 0
    gc.disable()
    started = time.perf_counter() + 0.05
    while len(latencies) < total:
        now = time.perf_counter()
        if now > started + seconds + _PATIENCE_SECONDS:
            raise RuntimeError(f"{total - len(latencies)} of {total} requests have no answer")
        while sent < total and free and now >= started + sent / rate:
            descriptor = free.popleft()
            due[descriptor] = started + sent / rate
            delays.append(now - due[descriptor])
            clients[descriptor].send(REQUEST)
            sent += 1
        for descriptor, _ in epoll.poll(0):
            answer = clients[descriptor].recv(65536)
            if not answer.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(f"port {port} answered {answer[:200]!r}")
            if _is_whole(answer):
                latencies.append(time.perf_counter() - due.pop(descriptor))
                free.append(descriptor)
    return {
        "requests": total,
        "p50_milliseconds": _percentile(latencies, 50),
        "p99_milliseconds": _percentile(latencies, 99),
        "p99_9_milliseconds": _percentile(latencies, 99.9),
        "sent_late_p99_milliseconds": _percentile(delays, 99),
    }


def _is_whole(answer: bytes) -> bool:
    """Whether a short answer has arrived; both servers send theirs in one piece."""
    head, _, body = answer.partition(b"\r\n\r\n")
    if b"chunked" in head:
        if body.endswith(b"0\r\n\r\n"):
            return True
    elif body:
        return True
    raise RuntimeError(f"an answer came in pieces, which this client does not do: {answer[:200]!r}")


def _percentile(seconds: list[float], percent: float) -> float:
    ordered = sorted(seconds)
    return ordered[round((len(ordered) - 1) * percent / 100)] * 1e3


if __name__ == "__main__":
    port, rate, seconds, connections = sys.argv[1:5]
    print(json.dumps(run(int(port), float(rate), float(seconds), int(connections))))
