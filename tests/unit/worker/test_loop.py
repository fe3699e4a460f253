import os
import signal
import threading
import time

import pytest

from limpet.worker.loop import READ, WRITE, Loop


@pytest.fixture
def loop():
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture
def pipes():
    """Two pipes with something to read in each."""
    made = [os.pipe(), os.pipe()]
    for _, writer in made:
        os.write(writer, b"x")
    yield made
    for pair in made:
        for descriptor in pair:
            os.close(descriptor)


def test_timers_fire_in_the_order_of_their_time(loop):
    fired = []
    for name, seconds in (("c", 0.02), ("a", 0), ("b", 0.01), ("a2", 0)):
        loop.call_later(seconds, lambda name=name: fired.append(name))
    loop.call_later(0.03, loop.stop)
    started = time.monotonic()
    loop.run()
    assert fired == ["a", "a2", "b", "c"]
    assert time.monotonic() - started >= 0.03


def test_a_cancelled_timer_does_not_fire(loop):
    fired = []
    first = loop.call_later(0, lambda: fired.append("first"))
    loop.call_later(0, lambda: last.cancel())
    last = loop.call_later(0.001, lambda: fired.append("last"))
    loop.call_later(0.01, loop.stop)
    first.cancel()
    loop.run()
    assert fired == []


def test_a_timer_may_set_the_next_one(loop):
    fired = []

    def again():
        fired.append(time.monotonic())
        if len(fired) == 5:
            loop.stop()
        else:
            loop.call_later(0, again)

    loop.call_later(0, again)
    loop.run()
    assert len(fired) == 5


def test_handlers_are_told_what_their_descriptor_is_ready_for(loop, pipes):
    (reader, _), (_, writer) = pipes
    seen = {}

    def note(descriptor):
        def handler(events):
            seen[descriptor] = events
            if len(seen) == 2:
                loop.stop()

        return handler

    loop.register(reader, READ, note(reader))
    loop.register(writer, WRITE, note(writer))
    loop.run()
    assert seen[reader] & READ
    assert seen[writer] & WRITE


def test_what_is_not_read_is_told_again(loop, pipes):
    (reader, _), _ = pipes
    calls = []

    def handler(_events):
        calls.append(1)
        if len(calls) == 3:
            loop.stop()

    loop.register(reader, READ, handler)
    loop.run()
    assert len(calls) == 3


def test_a_handler_that_was_removed_by_another_is_not_called(loop, pipes):
    readers = [reader for reader, _ in pipes]
    called = []

    def make(mine, other):
        def handler(_events):
            called.append(mine)
            loop.unregister(other)
            loop.call_later(0.01, loop.stop)
            loop.unregister(mine)

        return handler

    loop.register(readers[0], READ, make(readers[0], readers[1]))
    loop.register(readers[1], READ, make(readers[1], readers[0]))
    loop.run()
    assert len(called) == 1


def test_what_is_watched_can_change(loop, pipes):
    (reader, _), _ = pipes
    called = []
    loop.register(reader, 0, lambda events: (called.append(events), loop.stop()))
    loop.call_later(0.01, lambda: (called.append("timer"), loop.modify(reader, READ)))
    loop.run()
    assert called[0] == "timer"
    assert len(called) == 2


def test_a_descriptor_can_be_registered_again(loop, pipes):
    (reader, _), _ = pipes
    loop.register(reader, READ, lambda _: pytest.fail("it was unregistered"))
    loop.unregister(reader)
    loop.register(reader, READ, lambda _: loop.stop())
    loop.run()


def test_an_error_of_a_handler_ends_the_loop(loop, pipes):
    (reader, _), _ = pipes

    def handler(_events):
        raise RuntimeError("broken")

    loop.register(reader, READ, handler)
    with pytest.raises(RuntimeError, match="broken"):
        loop.run()


def test_nothing_is_called_after_stop(loop, pipes):
    called = []
    for reader, _ in pipes:
        loop.register(reader, READ, lambda _: (called.append(1), loop.stop()))
    loop.run()
    assert len(called) == 1


def test_a_loop_that_was_stopped_before_does_not_run(loop, pipes):
    loop.register(pipes[0][0], READ, lambda _: pytest.fail("it was stopped"))
    loop.stop()
    loop.run()


@pytest.mark.parametrize("has_timer", [False, True])
def test_a_signal_handler_can_stop_it(loop, has_timer):
    previous = signal.signal(signal.SIGUSR1, lambda *_: loop.stop())
    try:
        if has_timer:
            loop.call_later(30, lambda: pytest.fail("the signal comes first"))
        thread = threading.get_ident()
        timer = threading.Timer(0.02, signal.pthread_kill, [thread, signal.SIGUSR1])
        timer.start()
        loop.run()
        timer.join()
    finally:
        signal.signal(signal.SIGUSR1, previous)


def test_another_thread_can_stop_it(loop):
    thread = threading.Thread(target=loop.stop)
    loop.call_later(0, thread.start)
    loop.run()
    thread.join()


def test_it_leaves_no_descriptor_behind():
    before = len(os.listdir("/proc/self/fd"))
    Loop().close()
    assert len(os.listdir("/proc/self/fd")) == before
