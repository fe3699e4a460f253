import threading

import pytest

from limpet.engine.protocol import Outcome, OutcomeKind
from limpet.trigger.command import CommandTrigger
from limpet.worker.config import WorkerConfig
from limpet.worker.loop import Loop

CONFIG = WorkerConfig(
    app="default/a",
    worker="a",
    engine="fake",
    trigger="command",
    memory_bytes=1,
    args=("a", "-v"),
    env=(("A", "b=c"),),
    deadline_seconds=9.0,
)


class FakeProgram:
    """Stands for the engine: ends when it is interrupted, or at once."""

    def __init__(self, *, waits=False, error=None):
        self.invocation = None
        self._error = error
        self._end = threading.Event()
        if not waits:
            self._end.set()

    def run(self, invocation):
        self.invocation = invocation
        assert self._end.wait(10)
        if self._error is not None:
            raise self._error
        return Outcome(OutcomeKind.EXIT, 4)

    def interrupt(self):
        self._end.set()


@pytest.fixture
def loop():
    loop = Loop()
    yield loop
    loop.close()


def run(loop, program, *, stops=False):
    outcomes = []

    def on_finished(outcome):
        outcomes.append((outcome, threading.current_thread()))
        loop.stop()

    trigger = CommandTrigger(loop, program, CONFIG, preopens=[], on_finished=on_finished)
    trigger.start()
    if stops:
        loop.call_later(0, trigger.stop)
    loop.run()
    return outcomes


@pytest.mark.parametrize("stops", [False, True])
def test_the_program_runs_once_and_its_end_is_told_on_the_loop(loop, stops):
    program = FakeProgram(waits=stops)
    [(outcome, thread)] = run(loop, program, stops=stops)
    assert outcome == Outcome(OutcomeKind.EXIT, 4)
    assert thread is threading.main_thread()
    invocation = program.invocation
    assert list(invocation.args) == [b"a", b"-v"]
    assert list(invocation.env) == [b"A=b=c"]
    assert invocation.deadline_seconds == 9.0
    assert invocation.stdin.read(10, None) == b""


def test_an_error_of_the_engine_is_raised_on_the_loop(loop):
    with pytest.raises(RuntimeError, match="broken"):
        run(loop, FakeProgram(error=RuntimeError("broken")))
