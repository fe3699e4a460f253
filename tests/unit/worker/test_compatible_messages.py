"""Messages that agents exchange with workers of the version before, as that one wrote them.

A line that has to change here means that workers end when Limpet is upgraded over it:
docs/decisions/upgrade.md.
"""

import pytest

from limpet.worker import messages as m
from limpet.worker.messages import decode_message, encode_message

TO_WORKERS = [
    (m.Adopt(), '{"type": "Adopt"}'),
    (m.Drain(), '{"type": "Drain"}'),
    (m.Serve(), '{"type": "Serve"}'),
    (m.StatsRequest(), '{"type": "StatsRequest"}'),
    (
        m.ProbeRequest(1, "/ready", "A: b", 2.5),
        '{"type": "ProbeRequest", "probe": 1, "path": "/ready", "headers": "A: b", '
        '"timeout_seconds": 2.5}',
    ),
    (
        m.ExportProbe(1, "ready", 2.5),
        '{"type": "ExportProbe", "probe": 1, "export": "ready", "timeout_seconds": 2.5}',
    ),
    (m.Offer(1, 80), '{"type": "Offer", "probe": 1, "port": 80}'),
    (
        m.Connected(1, "refused", 111),
        '{"type": "Connected", "request": 1, "error": "refused", "error_number": 111}',
    ),
    (
        m.Resolved(1, ("::1",), "", 0),
        '{"type": "Resolved", "request": 1, "addresses": ["::1"], "error": "", "error_number": 0}',
    ),
    (m.Routes("{}"), '{"type": "Routes", "table": "{}"}'),
]
FROM_WORKERS = [
    (m.Ready(1.5), '{"type": "Ready", "milliseconds": 1.5}'),
    (
        m.Finished("Idle", 0, "", 4096),
        '{"type": "Finished", "reason": "Idle", "exit_code": 0, "message": "", "memory_bytes": 4096}',
    ),
    (
        m.Stats(1, 2, 3, 4, 5, ()),
        '{"type": "Stats", "requests": 1, "failed": 2, "in_flight": 3, "queued": 4, '
        '"connections": 5, "latency": []}',
    ),
    (
        m.ProbeResult(1, 200, ""),
        '{"type": "ProbeResult", "probe": 1, "status": 200, "message": ""}',
    ),
    (
        m.Connect(1, "example.com", 80, "tcp"),
        '{"type": "Connect", "request": 1, "host": "example.com", "port": 80, "protocol": "tcp"}',
    ),
    (m.Resolve(1, "example.com"), '{"type": "Resolve", "request": 1, "host": "example.com"}'),
    (m.Notice("Trap", "why"), '{"type": "Notice", "reason": "Trap", "message": "why"}'),
]


@pytest.mark.parametrize(("message", "text"), TO_WORKERS + FROM_WORKERS)
def test_each_is_what_the_version_before_reads_and_writes(message, text):
    assert encode_message(message).decode() == text
    assert decode_message(text.encode()) == message
