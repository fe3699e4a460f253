import asyncio
import os
import select
import signal
import sys

import pytest

from limpet.engine.missing import EngineMissingError
from limpet.linux.cgroup import CgroupFileError, Limits
from limpet.worker import supervisor
from limpet.worker.channel import Channel
from limpet.worker.limits import Groups, SharedGroup
from limpet.worker.messages import (
    Assign,
    Drain,
    EngineMissing,
    EngineReady,
    Exited,
    Finished,
    Notice,
    Ready,
    Spawn,
    Spawned,
    SpawnFailed,
)
from limpet.worker.process import classify_exit
from limpet.worker.supervisor import Zygote, Zygotes

from .kernel_groups import members, names, need_controller, opened_groups, pids_limit

UIDS = range(300_000, 300_100)
NO_PROCESS = 2**22 + 1  # above the kernel's largest number


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
        (exited(1), Finished("SystemCallDenied", 1, "m", 0), "Error", "m", 1, None),
        (exited(1), Finished("Trap", 0, "m" * 5000, 9), "Trap", "m" * 2000, 1, None),
        (signal.SIGKILL, None, "Signal", "killed by SIGKILL", None, "SIGKILL"),
        (signal.SIGSEGV | 128, None, "Signal", "killed by SIGSEGV", None, "SIGSEGV"),
        (
            signal.SIGSYS | 128,
            None,
            "SystemCallDenied",
            "killed for a system call that no app is allowed",
            None,
            "SIGSYS",
        ),
        (signal.SIGSYS, Finished("Trap", 0, "m", 9), "Trap", "m", 1, None),
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

    def callbacks(self):
        return {"on_message": self.on_message, "on_exit": self.on_exit}


def first_zygote(groups: Groups, uids: range) -> Zygote:
    return Zygotes(groups, uids, start=lambda _engine: None).default


class FakeZygote:
    """The other end: the zygote's, which these tests play."""

    def __init__(self, zygote, *, pid=0):
        self._channel, theirs = Channel.pair()
        zygote.attach(theirs, pid)

    async def receive(self):
        """Read the next request; return it and the process's end of its channel."""
        message, [control] = await heard(self._channel)
        return message, Channel.from_descriptor(control)

    def send(self, message):
        self._channel.send(message)

    def is_let_go(self):
        """Whether the agent's end is closed."""
        poll = select.poll()
        poll.register(self._channel.fileno(), select.POLLRDHUP)
        return bool(poll.poll(0))

    def close(self):
        self._channel.close()


async def heard(channel):
    """The next message, as a process reads it: waiting."""
    return await asyncio.get_running_loop().run_in_executor(None, channel.receive)


def is_silent(channel):
    """Whether nothing has been sent."""
    channel.set_blocking(False)
    try:
        channel.receive()
    except BlockingIOError:
        return True
    finally:
        channel.set_blocking(True)
    return False


@pytest.fixture
def _descriptors_are_closed():
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) == before


pytestmark = pytest.mark.usefixtures("_descriptors_are_closed")


@pytest.fixture
def groups():
    with opened_groups("supervisor") as groups:
        yield groups


async def until(condition):
    while not condition():  # noqa: ASYNC110 - what is waited for has no event
        await asyncio.sleep(0)


def play(scene):
    asyncio.run(asyncio.wait_for(scene(), 20))


def unlimited(uids=UIDS):
    """A zygote whose processes have no limits, as where the kernel has none."""
    return first_zygote(Groups("limpet-test"), uids)


def spawn(zygote, descriptors=(), *, name="a#1", limits=None):
    ends = Ends()
    process = zygote.spawn(name, "app", descriptors, limits=limits or Limits(), **ends.callbacks())
    return process, ends


def take(zygote, limits=None, *, beside=None):
    ends = Ends()
    process = zygote.take_worker(limits=limits or Limits(), beside=beside, **ends.callbacks())
    return process, ends


async def start_child(*command):
    """A process that ends when its input does."""
    return await asyncio.create_subprocess_exec(
        *(command or ("cat",)), stdin=asyncio.subprocess.PIPE
    )


async def place(fake, process):
    """Answer the request for a process with a child of ours; return it and its channel's end."""
    message, worker = await fake.receive()
    child = await start_child()
    fake.send(Spawned(message.worker, child.pid))
    await until(lambda: process.pid is not None)
    return child, worker


async def finish(fake, child, worker, ends):
    """Have a child end as one that was told to."""
    child.stdin.close()
    await child.wait()
    worker.close()
    fake.send(Exited(child.pid, exited(0), 0))
    return await ends.info


# From the request to the end


def test_a_process_is_spawned_talks_and_ends():
    async def scene():
        zygote = unlimited()
        fake = FakeZygote(zygote)
        reader, writer = os.pipe()
        process, ends = spawn(zygote, [writer])
        os.close(writer)
        message, worker = await fake.receive()
        assert message == Spawn("a#1", "app", process.uid, False)
        assert process.uid in UIDS
        child = await start_child()
        fake.send(Spawned("a#1", child.pid))
        assignment, [passed] = await heard(worker)
        assert assignment == Assign()
        os.write(passed, b"hi")
        os.close(passed)
        assert os.read(reader, 10) == b"hi"
        assert os.read(reader, 10) == b"", "nobody else keeps what was passed on"
        os.close(reader)
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


def test_messages_wait_in_order_until_the_process_is_placed():
    async def scene():
        zygote = unlimited()
        fake = FakeZygote(zygote)
        process, ends = spawn(zygote)
        _, worker = await fake.receive()
        reader, writer = os.pipe()
        assert process.send(Notice("first", ""), [writer])
        os.close(writer)
        assert process.send(Drain())
        assert is_silent(worker)
        fake.send(Spawned("a#1", NO_PROCESS))
        assert await heard(worker) == (Assign(), [])
        first, [passed] = await heard(worker)
        assert first == Notice("first", "")
        assert await heard(worker) == (Drain(), [])
        os.close(passed)
        assert os.read(reader, 1) == b""
        os.close(reader)
        worker.close()
        fake.send(Exited(NO_PROCESS, exited(0), 0))
        assert (await ends.info).is_success
        zygote.detach()
        fake.close()

    play(scene)


def test_last_words_count_even_when_they_come_with_the_end():
    async def scene():
        zygote = unlimited()
        fake = FakeZygote(zygote)
        _, ends = spawn(zygote)
        _, worker = await fake.receive()
        fake.send(Spawned("a#1", NO_PROCESS))
        worker.send(Finished("Trap", 0, "unreachable", 0))
        worker.close()
        fake.send(Exited(NO_PROCESS, exited(1), 0))
        assert (await ends.info).reason == "Trap"
        zygote.detach()
        fake.close()

    play(scene)


def test_last_words_do_not_count_when_the_process_was_killed():
    async def scene():
        zygote = unlimited()
        fake = FakeZygote(zygote)
        _, ends = spawn(zygote)
        _, worker = await fake.receive()
        fake.send(Spawned("a#1", NO_PROCESS))
        worker.send(Finished("Exit", 0, "", 0))
        worker.close()
        fake.send(Exited(NO_PROCESS, signal.SIGSYS, 0))
        assert (await ends.info).reason == "SystemCallDenied"
        zygote.detach()
        fake.close()

    play(scene)


def test_a_process_that_can_not_be_forked_is_said_to_be_so():
    async def scene():
        zygote = unlimited()
        fake = FakeZygote(zygote)
        _, ends = spawn(zygote)
        _, worker = await fake.receive()
        fake.send(SpawnFailed("a#1", "can't fork: no memory"))
        info = await ends.info
        assert (info.reason, info.message) == ("SpawnFailed", "can't fork: no memory")
        assert worker.receive() is None, "and it never got its work"
        worker.close()
        zygote.detach()
        fake.close()

    play(scene)


@pytest.mark.parametrize("is_read", [False, True])
def test_a_zygote_that_dies_takes_what_it_has_not_confirmed(is_read):
    async def scene():
        zygote = unlimited()
        fake = FakeZygote(zygote)
        reader, writer = os.pipe()
        process, ends = spawn(zygote, [writer])
        os.close(writer)
        if is_read:
            _, worker = await fake.receive()
            worker.close()
        fake.close()
        info = await ends.info
        assert (info.reason, info.message) == ("SpawnFailed", "the zygote died")
        assert os.read(reader, 1) == b"", "what it was to get is closed"
        os.close(reader)
        assert not process.send(Drain())
        zygote.detach()

    play(scene)


def test_what_waits_for_a_zygote_goes_to_the_next_one():
    async def scene():
        zygote = unlimited()
        process, ends = spawn(zygote)
        fake = FakeZygote(zygote, pid=5)
        assert zygote.pid == 5
        message, worker = await fake.receive()
        assert message == Spawn("a#1", "app", process.uid, False)
        worker.close()
        fake.close()
        assert (await ends.info).reason == "SpawnFailed"
        zygote.detach()

    play(scene)


def test_a_process_that_breaks_the_protocol_is_killed():
    async def scene():
        zygote = unlimited()
        fake = FakeZygote(zygote)
        process, ends = spawn(zygote)
        child, worker = await place(fake, process)
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


def test_a_kill_holds_for_a_process_that_is_not_confirmed_yet():
    async def scene():
        zygote = unlimited()
        fake = FakeZygote(zygote)
        process, ends = spawn(zygote)
        process.kill()
        child, worker = await place(fake, process)
        assert await child.wait() == -signal.SIGKILL
        worker.close()
        fake.send(Exited(child.pid, signal.SIGKILL, 0))
        assert (await ends.info).reason == "Signal"
        zygote.detach()
        fake.close()

    play(scene)


def test_a_death_that_nobody_reports_is_noticed(monkeypatch):
    monkeypatch.setattr("limpet.worker.process._STATUS_PATIENCE_SECONDS", 0.01)

    async def scene():
        zygote = unlimited()
        fake = FakeZygote(zygote)
        process, ends = spawn(zygote)
        child, worker = await place(fake, process)
        worker.close()
        child.kill()
        await child.wait()
        assert (await ends.info).reason == "Unknown"
        zygote.on_exited(Exited(child.pid, exited(0), 0))
        zygote.detach()
        fake.close()

    play(scene)


# The zygote itself


def test_the_engine_and_the_walls_are_known_once_the_zygote_has_told():
    async def scene():
        zygote = unlimited()
        assert zygote.engine_name == ""
        assert zygote.walls is None
        waiting = asyncio.ensure_future(zygote.engine())
        await asyncio.sleep(0)
        assert zygote.walls is None
        fake = FakeZygote(zygote)
        fake.send(EngineReady("wasmtime", "1", "k", ("seccomp", "user")))
        assert (await waiting).artifact_key == "k"
        assert zygote.engine_name == "wasmtime 1"
        assert zygote.walls == {"seccomp", "user"}
        fake.close()
        successor = FakeZygote(zygote)
        successor.send(EngineReady("wasmtime", "2", "k2", ()))
        await until(lambda: zygote.engine_name == "wasmtime 2")
        assert zygote.walls == frozenset()
        successor.close()
        zygote.detach()

    play(scene)


def test_a_zygote_that_talks_nonsense_is_let_go():
    async def scene():
        zygote = unlimited()
        fake = FakeZygote(zygote)
        _, ends = spawn(zygote)
        os.write(fake._channel.fileno(), b"rubbish")
        assert (await ends.info).reason == "SpawnFailed"
        fake.close()

    play(scene)


def test_messages_of_strangers_change_nothing():
    async def scene():
        zygote = unlimited()
        fake = FakeZygote(zygote)
        for message in (Spawned("b", 1), SpawnFailed("b", ""), Exited(1, 0, 0), Notice("a", "b")):
            fake.send(message)
        fake.send(EngineReady("e", "1", "k", ()))
        assert (await zygote.engine()).name == "e"
        zygote.detach()
        fake.close()

    play(scene)


# Users


def test_no_two_living_processes_have_the_same_user():
    async def scene():
        uids = range(300_000, 300_004)
        zygote = unlimited(uids)
        fake = FakeZygote(zygote)
        started = []
        for number in range(3):
            process, ends = spawn(zygote, name=f"a#{number}")
            spawned, worker = await fake.receive()
            assert spawned.uid == process.uid
            started.append((process, ends, worker))
        kept = {process.uid for process, _, _ in started}
        assert len(kept) == 3
        [last] = set(uids) - kept
        for pid, (process, _, _) in enumerate(started, NO_PROCESS):
            fake.send(Spawned(process.name, pid))  # whether they are confirmed makes no difference
        await until(lambda: all(process.pid for process, _, _ in started))
        for number in range(5):
            process, ends = spawn(zygote, name=f"b#{number}")
            assert process.uid == last
            _, worker = await fake.receive()
            fake.send(SpawnFailed(process.name, "no memory"))
            await ends.info
            worker.close()
        process, ends, worker = started[1]
        worker.close()
        fake.send(Exited(process.pid, exited(0), 0))
        await ends.info
        found = []
        for number in range(2):
            newcomer, _ = spawn(zygote, name=f"c#{number}")
            _, end = await fake.receive()
            end.close()
            found.append(newcomer.uid)
        assert sorted(found) == sorted([last, process.uid]), (
            "a number is free when its user has ended"
        )
        zygote.detach()
        fake.close()
        for _, _, worker in started:
            worker.close()
        for pid in (NO_PROCESS, NO_PROCESS + 2):
            zygote.on_exited(Exited(pid, exited(0), 0))

    play(scene)


def test_more_processes_than_users_are_refused():
    async def scene():
        zygote = unlimited(range(300_000, 300_002))
        spawn(zygote, name="a#1")  # waits for a zygote: its number is taken all the same
        spawn(zygote, name="a#2")
        with pytest.raises(OSError, match="users are taken"):
            spawn(zygote, name="a#3")
        fake = FakeZygote(zygote)
        for _ in range(2):
            _, worker = await fake.receive()
            worker.close()
        zygote.detach()
        fake.close()

    play(scene)


def test_agents_begin_with_different_users():
    """Workers of an agent that was killed live on for a while."""

    async def scene():
        wide = range(300_000, 300_000 + (1 << 20))
        assert len({unlimited(wide)._take_uid() for _ in range(20)}) > 1

    play(scene)


# Limits


def test_nothing_is_sent_before_the_limits_hold(groups, monkeypatch):
    need_controller(groups, "pids")
    seen = []
    move = SharedGroup.move

    async def scene():
        zygote = first_zygote(groups, UIDS)
        fake = FakeZygote(zygote)
        process, ends = spawn(zygote, limits=Limits(pids=7))
        message, worker = await fake.receive()
        assert pids_limit(process.group) == "7"
        assert is_silent(worker)

        def watched_move(shared, pid):
            assert is_silent(worker)
            move(shared, pid)
            seen.append((members(shared), is_silent(worker)))

        monkeypatch.setattr(SharedGroup, "move", watched_move)
        child = await start_child()
        fake.send(Spawned(message.worker, child.pid))
        assert await heard(worker) == (Assign(), [])
        assert seen == [([child.pid], True)]
        assert (await finish(fake, child, worker, ends)).is_success
        assert names(groups) == []
        zygote.detach()
        fake.close()

    play(scene)


def test_a_process_without_limits_is_given_no_work(groups):
    async def scene():
        zygote = first_zygote(groups, UIDS)
        fake = FakeZygote(zygote)
        process, ends = spawn(zygote, limits=Limits(pids=7))
        message, worker = await fake.receive()
        for directory in process.group._group.directories():
            os.rmdir(directory)
        child = await start_child()
        fake.send(Spawned(message.worker, child.pid))
        assert await heard(worker) is None, "it sees the end and leaves"
        assert not process.send(Drain())
        info = await finish(fake, child, worker, ends)
        assert info.reason == "Error"
        assert "its limits can't be put in force" in info.message
        zygote.detach()
        fake.close()

    play(scene)


def test_limits_that_the_kernel_refuses_start_nothing(groups):
    need_controller(groups, "pids")

    async def scene():
        zygote = first_zygote(groups, UIDS)
        fake = FakeZygote(zygote)
        with pytest.raises(CgroupFileError, match=r"pids\.max"):
            spawn(zygote, limits=Limits(pids=1 << 40))
        with pytest.raises(CgroupFileError, match=r"pids\.max"):
            take(zygote, Limits(pids=1 << 40))
        assert names(groups) == []
        assert is_silent(fake._channel)
        zygote.detach()
        fake.close()

    play(scene)


def test_a_process_that_ended_before_it_was_placed_ends_as_it_did(groups):
    async def scene():
        zygote = first_zygote(groups, UIDS)
        fake = FakeZygote(zygote)
        process, ends = spawn(zygote)
        message, worker = await fake.receive()
        fake.send(Spawned(message.worker, NO_PROCESS))
        await until(lambda: process.pid is not None)
        worker.close()
        fake.send(Exited(NO_PROCESS, exited(70), 0))
        assert (await ends.info).reason == "InternalError"
        assert names(groups) == []
        zygote.detach()
        fake.close()

    play(scene)


def test_the_kernel_s_kill_for_memory_is_told(groups):
    need_controller(groups, "memory")
    limit = 32 << 20

    async def scene():
        zygote = first_zygote(groups, UIDS)
        fake = FakeZygote(zygote)
        process, ends = spawn(zygote, limits=Limits(memory_bytes=limit))
        message, worker = await fake.receive()
        child = await start_child(
            sys.executable, "-c", "import sys; sys.stdin.read(1); b'x' * (256 << 20)"
        )
        fake.send(Spawned(message.worker, child.pid))
        await until(lambda: process.pid is not None)
        child.stdin.write(b"x")
        assert await child.wait() == -signal.SIGKILL
        worker.close()
        fake.send(Exited(child.pid, signal.SIGKILL, 1))
        info = await ends.info
        assert (info.reason, info.signal) == ("OOMKilled", "SIGKILL")
        assert "memory limit" in info.message
        assert limit // 2 < info.peak_bytes <= limit
        assert names(groups) == []
        zygote.detach()
        fake.close()

    play(scene)


def test_the_kernel_s_kill_is_told_of_the_worker_that_it_hit(groups):
    need_controller(groups, "memory")

    async def scene():
        zygote = first_zygote(groups, UIDS)
        fake = FakeZygote(zygote)
        first, first_ends = take(zygote, Limits(memory_bytes=32 << 20))
        message, first_worker = await fake.receive()
        hog = await start_child(
            sys.executable, "-c", "import sys; sys.stdin.read(1); b'x' * (256 << 20)"
        )
        fake.send(Spawned(message.worker, hog.pid))
        await until(lambda: first.pid is not None)
        second, second_ends = take(zygote, beside=first)
        child, worker = await place(fake, second)
        hog.stdin.write(b"x")
        await hog.wait()
        assert (await finish(fake, child, worker, second_ends)).is_success
        first_worker.close()
        fake.send(Exited(hog.pid, signal.SIGKILL, 1))
        assert (await first_ends.info).reason == "OOMKilled"
        zygote.detach()
        fake.close()

    play(scene)


def test_another_kill_is_not_blamed_on_memory(groups):
    async def scene():
        zygote = first_zygote(groups, UIDS)
        fake = FakeZygote(zygote)
        process, ends = spawn(zygote, limits=Limits(pids=7))
        child, worker = await place(fake, process)
        process.kill()
        await child.wait()
        worker.close()
        fake.send(Exited(child.pid, signal.SIGKILL, 5))
        info = await ends.info
        assert (info.reason, info.signal) == ("Signal", "SIGKILL")
        zygote.detach()
        fake.close()

    play(scene)


# Workers, one after another and beside each other


def test_a_spare_gets_the_limits_of_the_app_that_it_is_given_to(groups):
    need_controller(groups, "pids")

    async def scene():
        zygote = first_zygote(groups, UIDS)
        zygote.keep_spare(is_wanted=True)  # without a zygote there is none to keep
        fake = FakeZygote(zygote)
        zygote.keep_spare(is_wanted=True)
        zygote.keep_spare(is_wanted=True)
        spare = zygote._spare
        child, worker = await place(fake, spare)
        assert is_silent(fake._channel), "one is enough"
        assert members(spare.group) == [child.pid]
        assert pids_limit(spare.group) == "max"
        assert is_silent(worker)
        process, ends = take(zygote, Limits(pids=9))
        assert process is spare
        assert pids_limit(process.group) == "9"
        assert members(process.group) == [child.pid]
        assert is_silent(worker)
        process.send(Assign())
        assert await heard(worker) == (Assign(), [])
        worker.send(Ready(1.0))
        await until(lambda: ends.messages == [Ready(1.0)])
        assert (await finish(fake, child, worker, ends)).is_success
        assert names(groups) == []
        zygote.detach()
        fake.close()

    play(scene)


def test_a_spare_whose_limits_are_refused_is_let_go(groups):
    need_controller(groups, "pids")

    async def scene():
        zygote = first_zygote(groups, UIDS)
        fake = FakeZygote(zygote)
        zygote.keep_spare(is_wanted=True)
        spare = zygote._spare
        child, worker = await place(fake, spare)
        with pytest.raises(CgroupFileError):
            take(zygote, Limits(pids=1 << 40))
        assert await heard(worker) == (Drain(), [])
        child.stdin.close()
        await child.wait()
        worker.close()
        fake.send(Exited(child.pid, exited(0), 0))
        await until(lambda: names(groups) == [])
        zygote.detach()
        fake.close()

    play(scene)


@pytest.mark.parametrize("is_confirmed", [True, False])
def test_a_spare_joins_the_limits_of_the_worker_beside_it(groups, is_confirmed):
    need_controller(groups, "pids")

    async def scene():
        zygote = first_zygote(groups, UIDS)
        fake = FakeZygote(zygote)
        first, first_ends = take(zygote, Limits(pids=9))
        first_child, first_worker = await place(fake, first)
        zygote.keep_spare(is_wanted=True)
        if is_confirmed:
            child, worker = await place(fake, zygote._spare)
        second, ends = take(zygote, Limits(pids=5), beside=first)
        assert second.group is first.group
        if not is_confirmed:
            child, worker = await place(fake, second)
        assert sorted(members(first.group)) == sorted([first_child.pid, child.pid])
        assert pids_limit(first.group) == "9"
        assert len(names(groups)) == 1, "the spare's own group is gone"
        await finish(fake, first_child, first_worker, first_ends)
        assert len(names(groups)) == 1, "the group stays for the other one"
        await finish(fake, child, worker, ends)
        assert names(groups) == []
        zygote.detach()
        fake.close()

    play(scene)


def test_a_new_worker_shares_the_limits_of_the_one_beside_it(groups):
    async def scene():
        zygote = first_zygote(groups, UIDS)
        fake = FakeZygote(zygote)
        first, first_ends = take(zygote, Limits(pids=9))
        first_child, first_worker = await place(fake, first)
        second, second_ends = take(zygote, beside=first)
        third, third_ends = take(zygote)
        assert first.group is second.group is not third.group
        second_child, second_worker = await place(fake, second)
        message, third_worker = await fake.receive()
        fake.send(SpawnFailed(message.worker, "no memory"))
        await third_ends.info
        third_worker.close()
        assert len(names(groups)) == 1
        assert sorted(members(first.group)) == sorted([first_child.pid, second_child.pid])
        await finish(fake, second_child, second_worker, second_ends)
        assert members(first.group) == [first_child.pid]
        await finish(fake, first_child, first_worker, first_ends)
        assert names(groups) == []
        zygote.detach()
        fake.close()

    play(scene)


def test_a_spare_that_is_not_wanted_any_more_is_told_to_go():
    async def scene():
        zygote = unlimited()
        fake = FakeZygote(zygote)
        zygote.keep_spare(is_wanted=True)
        spare = zygote._spare
        message, worker = await fake.receive()
        assert message == Spawn(spare.name, "spare", spare.uid, False)
        zygote.keep_spare(is_wanted=False)
        zygote.keep_spare(is_wanted=False)
        fake.send(Spawned(spare.name, NO_PROCESS))
        assert await heard(worker) == (Drain(), [])
        worker.close()
        fake.send(Exited(NO_PROCESS, exited(0), 0))
        await until(lambda: not spare.send(Drain()))
        process, _ = take(zygote)
        assert process is not spare
        message, worker = await fake.receive()
        assert message.role == "app"
        worker.close()
        zygote.detach()
        fake.close()

    play(scene)


def test_a_spare_that_has_ended_is_not_given_to_anybody():
    async def scene():
        zygote = unlimited()
        fake = FakeZygote(zygote)
        zygote.keep_spare(is_wanted=True)
        child, worker = await place(fake, zygote._spare)
        child.stdin.close()
        await child.wait()
        worker.close()
        fake.send(Exited(child.pid, exited(0), 0))
        await until(lambda: zygote._spare is None)
        _, ends = take(zygote)
        message, worker = await fake.receive()
        assert message.role == "app"
        fake.send(SpawnFailed(message.worker, "no memory"))
        await ends.info
        worker.close()
        zygote.detach()
        fake.close()

    play(scene)


# Zygotes of other engines, which are started when they are needed

READY = EngineReady("wasmedge", "0.14.1", "key", ())


class Launcher:
    """Takes note of the zygotes that are asked for."""

    def __init__(self):
        self.asked = []

    async def asked_for(self, count):
        await until(lambda: len(self.asked) == count)


def on_demand():
    """The launcher, all zygotes, and that of an engine which nobody has needed yet."""
    launcher = Launcher()
    zygotes = Zygotes(Groups("limpet-test"), UIDS, start=launcher.asked.append)
    return launcher, zygotes, zygotes.of("wasmedge")


async def turns(count=5):
    for _ in range(count):
        await asyncio.sleep(0)


def test_another_zygote_is_asked_for_once_and_gets_what_waits():
    async def scene():
        launcher, zygotes, zygote = on_demand()
        assert [each.name for each in zygotes] == ["wasmtime", "wasmedge"]
        assert zygotes.of("wasmedge") is zygote
        await turns()
        assert launcher.asked == []
        waiting = asyncio.ensure_future(zygote.engine())
        (_, first), (_, second) = spawn(zygote, name="a#1"), spawn(zygote, name="b#1")
        await turns()
        assert launcher.asked == ["wasmedge"]
        fake = FakeZygote(zygote)
        fake.send(READY)
        assert await waiting == READY
        assert zygote.engine_name == "wasmedge 0.14.1"
        for ends, name in ((first, "a#1"), (second, "b#1")):
            message, worker = await fake.receive()
            assert message.worker == name
            fake.send(SpawnFailed(name, "no memory"))
            assert (await ends.info).reason == "SpawnFailed"
            worker.close()
        assert launcher.asked == ["wasmedge"]
        zygote.detach()
        fake.close()

    play(scene)


def test_the_default_engine_s_zygote_comes_unasked():
    async def scene():
        launcher, zygotes, _ = on_demand()
        waiting = asyncio.ensure_future(zygotes.default.engine())
        await turns()
        assert launcher.asked == []
        died, fake = FakeZygote(zygotes.default), FakeZygote(zygotes.default)
        died.close()
        fake.send(EngineReady("wasmtime", "1", "key", ()))
        assert (await waiting).name == "wasmtime"
        zygotes.default.detach()
        fake.close()

    play(scene)


def test_the_default_engine_s_zygote_is_replaced_when_it_was_let_go():
    """It ends well then: the launcher by itself would take it for one that has seen its agent die."""

    async def scene():
        launcher, zygotes, _ = on_demand()
        fake = FakeZygote(zygotes.default)
        os.write(fake._channel.fileno(), b"rubbish")
        await launcher.asked_for(1)
        assert launcher.asked == ["wasmtime"]
        fake.close()
        successor = FakeZygote(zygotes.default)
        await turns()
        assert launcher.asked == ["wasmtime"]
        zygotes.default.detach()
        successor.close()

    play(scene)


def test_an_engine_that_is_missing_is_asked_for_again_by_who_needs_it():
    async def scene():
        launcher, _, zygote = on_demand()
        for count in (1, 2):
            waiting = asyncio.ensure_future(zygote.engine())
            await launcher.asked_for(count)
            fake = FakeZygote(zygote)
            fake.send(EngineMissing(f"there is none, {count}"))
            fake.close()
            with pytest.raises(EngineMissingError, match=f"there is none, {count}"):
                await waiting
            await until(lambda: zygote.pid is None)
            assert zygote.engine_name == ""
            await turns()
            assert len(launcher.asked) == count, "nobody needs it"
        waiting = asyncio.ensure_future(zygote.engine())
        await launcher.asked_for(3)
        fake = FakeZygote(zygote)
        fake.send(READY)
        assert await waiting == READY
        zygote.detach()
        fake.close()

    play(scene)


def test_what_waits_for_an_engine_that_is_missing_fails():
    async def scene():
        _, _, zygote = on_demand()
        _, ends = spawn(zygote)
        zygote._fail_engine("there is none")
        assert (await ends.info).message == "there is none"

    play(scene)


def test_nobody_waits_for_a_zygote_that_died_before_it_was_ready():
    async def scene():
        launcher, _, zygote = on_demand()
        waiting = [asyncio.ensure_future(zygote.engine()) for _ in range(2)]
        await launcher.asked_for(1)
        FakeZygote(zygote).close()
        for each in waiting:
            with pytest.raises(EngineMissingError, match="wasmedge ended before the engine"):
                await each

    play(scene)


def test_one_that_keeps_dying_is_started_ever_more_slowly(monkeypatch):
    async def scene():
        launcher, _, zygote = on_demand()
        loop = asyncio.get_running_loop()
        pauses = []
        real = loop.call_later

        def call_later(pause, call, *arguments):
            if call == launcher.asked.append:
                pauses.append(pause)
                pause = 0
            return real(pause, call, *arguments)

        monkeypatch.setattr(loop, "call_later", call_later)
        for count in range(1, 9):
            waiting = asyncio.ensure_future(zygote.engine())
            await launcher.asked_for(count)
            FakeZygote(zygote).close()
            with pytest.raises(EngineMissingError):
                await waiting
        assert pauses == [0, 0, 0.4, 0.8, 1.6, 3.2, 5, 5]
        monkeypatch.setattr(supervisor, "_STABLE_SECONDS", -1.0)
        FakeZygote(zygote).close()
        await until(lambda: zygote.pid is None)
        waiting = asyncio.ensure_future(zygote.engine())
        await launcher.asked_for(9)
        assert pauses[-1] == 0, "the last one had lasted"
        waiting.cancel()

    play(scene)


def test_a_zygote_without_work_is_let_go_and_asked_for_again(monkeypatch):
    async def scene():
        launcher, zygotes, zygote = on_demand()
        default = FakeZygote(zygotes.default)
        fake = FakeZygote(zygote)
        fake.send(READY)
        process, ends = spawn(zygote)
        for each in zygotes:
            each.end_when_idle()
        assert not fake.is_let_go(), "it was started just now"
        monkeypatch.setattr(supervisor, "_IDLE_SECONDS", -1.0)
        zygote.end_when_idle()
        assert not fake.is_let_go(), "it has work"
        child, worker = await place(fake, process)
        zygote.end_when_idle()
        assert not fake.is_let_go(), "its process lives"
        await finish(fake, child, worker, ends)
        for each in zygotes:
            each.end_when_idle()
        assert fake.is_let_go()
        assert not default.is_let_go(), "the default engine's stays"
        assert zygote.engine_name == "wasmedge 0.14.1"
        zygote.end_when_idle()
        assert launcher.asked == []
        assert await zygote.engine() == READY
        await launcher.asked_for(1)
        fake.close()
        zygotes.default.detach()
        default.close()

    play(scene)
