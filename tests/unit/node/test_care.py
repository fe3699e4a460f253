"""The node's own looks at disk, memory and volumes: whatever one of them meets, the next one comes."""

import asyncio
import threading
from types import SimpleNamespace

import pytest

from limpet.node.background import in_thread
from limpet.node.care import Care


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            OSError(5, "Input/output error"),
            "can't look after the disk: [Errno 5] Input/output error",
        ),
        (KeyError("x"), "a defect in Limpet: looking after the disk met KeyError('x')"),
    ],
)
def test_what_a_look_meets_is_told_once(error, words, capsys):
    told = []
    care = SimpleNamespace(_problems={}, _record=lambda *event: told.append(event))

    def look():
        raise error

    for _ in range(3):
        Care._look(care, "disk", look)
    [(reason, message, is_warning)] = told
    assert (reason, is_warning) == ("CareFailed", True)
    assert message.startswith(words)
    assert ("Traceback" in capsys.readouterr().err) == isinstance(error, KeyError)
    Care._look(care, "disk", lambda: None)
    Care._look(care, "disk", look)
    assert len(told) == 2, "what comes back is told again"


def test_no_thread_is_an_error_of_the_machine(monkeypatch):
    def refuse(_thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(OSError, match="can't start new thread for backup"):
        asyncio.run(in_thread(lambda: 1, name="backup"))
