import asyncio
import os
import signal

import pytest

from limpet.worker.channel import Channel
from limpet.worker.messages import (
    Drain,
    EngineReady,
    Exited,
    Finished,
    Notice,
    Ready,
    Spawn,
    Spawned,
    SpawnFailed,
)
from limpet.worker.supervisor import Zygote, classify_exit


def exited(code):
    return code << 8


@pytest.mark.parametrize(
    ("status", "finished", "reason", "message", "exit_code", "signal_name"),
    [
        (exited(0), None, "Completed", "", 0, None),
        (exited(0), Finished("Exit", 0, "", 0), "Completed", "", 0, None),
        (exited(3), Finished("Exit", 3, "", 0), "Error", "exited with code 3", 3, None),
        (exited(1), Finished("Trap", 0, "unreachable", 9), "Trap", "unreachable", 1, None),
        (exited(1), Finished("OOMKilled", 0, "m", 9), "OOMKilled", "m", 1, None),
        (exited(1), Finished("DeadlineExceeded", 0, "m", 9), "DeadlineExceeded", "m", 1, None),
        (exited(1), Finished("LoadFailed", 1, "m", 0), "LoadFailed", "m", 1, None),
        (signal.SIGKILL, None, "Signal", "killed by SIGKILL", None, "SIGKILL"),
        (signal.SIGSEGV | 128, None, "Signal", "killed by SIGSEGV", None, "SIGSEGV"),
        (signal.SIGRTMIN + 3, None, "Signal", None, None, "signal 37"),
        (signal.SIGKILL, Finished("Error", 1, "protocol", 0), "Error", "protocol", 1, None),
    ],
)
def test_an_end_has_one_reason(status, finished, reason, message, exit_code, signal_name):
    info = classify_exit(status, finished, peak_bytes=7)
    assert (info.reason, info.exit_code, info.signal) == (reason, exit_code, signal_name)
    assert message is None or info.message == message
    assert info.peak_bytes == 7
    assert info.finished_at > 0
    assert info.is_success is (reason == "Completed")


@pytest.mark.parametrize("code", [1, 70, 255])
def test_an_end_without_last_words_is_the_worker_s_own_fault(code):
    info = classify_exit(exited(code), None)
    assert (info.reason, info.exit_code) == ("InternalError", code)
    assert "traceback" in info.message


class Ends:
    """What a process told and how it ended."""

    def __init__(self):
        self.messages = []
        self.info = asyncio.get_running_loop().create_future()

    def on_message(self, _process, message):
        self.messages.append(message)

    def on_exit(self, _process, info):
        self.info.set_result(info)


class FakeZygote:
    """The other end: the zygote's, which these tests play."""

    def __init__(self, zygote, *, pid=0):
        self._channel, theirs = Channel.pair()
        zygote.attach(theirs, pid)

    async def receive(self):
        """Read the next request; the first descriptor becomes the process's channel."""
        loop = asyncio.get_running_loop()
        message, descriptors = await loop.run_in_executor(None, self._channel.receive)
        control, *rest = descriptors
        return message, Channel.from_descriptor(control), rest

    def send(self, message):
        self._channel.send(message)

    def close(self):
        self._channel.close()


@pytest.fixture
def _descriptors_are_closed():
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) == before


pytestmark = pytest.mark.usefixtures("_descriptors_are_closed")


async def until(condition):
    while not condition():  # noqa: ASYNC110 - what is waited for has no event
        await asyncio.sleep(0)


def play(scene):
    asyncio.run(asyncio.wait_for(scene(), 10))


def spawn(zygote, descriptors=()):
    ends = Ends()
    process = zygote.spawn(
        "a#1", "app", descriptors, on_message=ends.on_message, on_exit=ends.on_exit
    )
    return process, ends


def test_a_process_is_spawned_talks_and_ends():
    async def scene():
        zygote = Zygote()
        fake = FakeZygote(zygote)
        reader, writer = os.pipe()
        process, ends = spawn(zygote, [writer])
        os.close(writer)
        message, worker, [passed] = await fake.receive()
        assert message == Spawn("a#1", "app", 1000)
        os.write(passed, b"hi")
        os.close(passed)
        assert os.read(reader, 10) == b"hi"
        os.close(reader)
        child = await asyncio.create_subprocess_exec("cat", stdin=asyncio.subprocess.PIPE)
        fake.send(Spawned("a#1", child.pid))
        worker.send(Ready(1.0))
        await until(lambda: ends.messages)
        assert process.pid == child.pid
        assert process.send(Drain())
        assert worker.receive() == (Drain(), [])
        worker.send(Finished("Exit", 3, "", 0))
        worker.close()
        process.kill()
        await child.wait()
        fake.send(Exited(child.pid, exited(3), 9))
        info = await ends.info
        assert (info.reason, info.exit_code, info.peak_bytes) == ("Error", 3, 9)
        assert [type(m) for m in ends.messages] == [Ready, Finished]
        assert not process.send(Drain())
        process.kill()
        zygote.detach()
        fake.close()

    play(scene)


def test_last_words_count_even_when_they_come_with_the_end():
    async def scene():
        zygote = Zygote()
        fake = FakeZygote(zygote)
        _, ends = spawn(zygote)
        _, worker, _ = await fake.receive()
        fake.send(Spawned("a#1", 2**22 + 1))
        worker.send(Finished("Trap", 0, "unreachable", 0))
        worker.close()
        fake.send(Exited(2**22 + 1, exited(1), 0))
        assert (await ends.info).reason == "Trap"
        zygote.detach()
        fake.close()

    play(scene)


def test_a_process_that_can_not_be_forked_is_said_to_be_so():
    async def scene():
        zygote = Zygote()
        fake = FakeZygote(zygote)
        _, ends = spawn(zygote)
        _, worker, _ = await fake.receive()
        fake.send(SpawnFailed("a#1", "can't fork: no memory"))
        info = await ends.info
        assert (info.reason, info.message) == ("SpawnFailed", "can't fork: no memory")
        assert worker.receive() is None
        worker.close()
        zygote.detach()
        fake.close()

    play(scene)


@pytest.mark.parametrize("is_read", [False, True])
def test_a_zygote_that_dies_takes_what_it_has_not_confirmed(is_read):
    async def scene():
        zygote = Zygote()
        fake = FakeZygote(zygote)
        _, ends = spawn(zygote)
        if is_read:
            _, worker, _ = await fake.receive()
            worker.close()
        fake.close()
        info = await ends.info
        assert (info.reason, info.message) == ("SpawnFailed", "the zygote died")
        zygote.detach()

    play(scene)


def test_what_waits_for_a_zygote_goes_to_the_next_one():
    async def scene():
        zygote = Zygote()
        _, ends = spawn(zygote)
        fake = FakeZygote(zygote, pid=5)
        assert zygote.pid == 5
        message, worker, _ = await fake.receive()
        assert message == Spawn("a#1", "app", 1000)
        worker.close()
        fake.close()
        assert (await ends.info).reason == "SpawnFailed"
        zygote.detach()

    play(scene)


def test_a_process_that_breaks_the_protocol_is_killed():
    async def scene():
        zygote = Zygote()
        fake = FakeZygote(zygote)
        process, ends = spawn(zygote)
        _, worker, _ = await fake.receive()
        child = await asyncio.create_subprocess_exec("cat", stdin=asyncio.subprocess.PIPE)
        fake.send(Spawned("a#1", child.pid))
        await until(lambda: process.pid is not None)
        os.write(worker.fileno(), b"rubbish")
        assert await child.wait() == -signal.SIGKILL
        fake.send(Exited(child.pid, signal.SIGKILL, 0))
        info = await ends.info
        assert info.reason == "Error"
        assert "breaking the protocol" in info.message
        worker.close()
        zygote.detach()
        fake.close()

    play(scene)


def test_a_death_that_nobody_reports_is_noticed(monkeypatch):
    monkeypatch.setattr("limpet.worker.supervisor._STATUS_PATIENCE_SECONDS", 0.01)

    async def scene():
        zygote = Zygote()
        fake = FakeZygote(zygote)
        process, ends = spawn(zygote)
        _, worker, _ = await fake.receive()
        child = await asyncio.create_subprocess_exec("cat", stdin=asyncio.subprocess.PIPE)
        fake.send(Spawned("a#1", child.pid))
        await until(lambda: process.pid is not None)
        worker.close()
        child.kill()
        await child.wait()
        assert (await ends.info).reason == "Unknown"
        zygote.on_exited(Exited(child.pid, exited(0), 0))
        zygote.detach()
        fake.close()

    play(scene)


def test_the_engine_is_known_once_the_zygote_has_told():
    async def scene():
        zygote = Zygote()
        assert zygote.engine_name == ""
        waiting = asyncio.ensure_future(zygote.engine())
        await asyncio.sleep(0)
        fake = FakeZygote(zygote)
        fake.send(EngineReady("wasmtime", "1", "k"))
        assert (await waiting).artifact_key == "k"
        assert zygote.engine_name == "wasmtime 1"
        fake.close()
        successor = FakeZygote(zygote)
        successor.send(EngineReady("wasmtime", "2", "k2"))
        await until(lambda: zygote.engine_name == "wasmtime 2")
        successor.close()
        zygote.detach()

    play(scene)


def test_a_zygote_that_talks_nonsense_is_let_go():
    async def scene():
        zygote = Zygote()
        fake = FakeZygote(zygote)
        _, ends = spawn(zygote)
        os.write(fake._channel.fileno(), b"rubbish")
        assert (await ends.info).reason == "SpawnFailed"
        fake.close()

    play(scene)


def test_messages_of_strangers_change_nothing():
    async def scene():
        zygote = Zygote()
        fake = FakeZygote(zygote)
        for message in (Spawned("b", 1), SpawnFailed("b", ""), Exited(1, 0, 0), Notice("a", "b")):
            fake.send(message)
        fake.send(EngineReady("e", "1", "k"))
        assert (await zygote.engine()).name == "e"
        zygote.detach()
        fake.close()

    play(scene)
