import asyncio
import os

import pytest

from limpet.node import streams as streams_module
from limpet.node.streams import LogStream
from limpet.settings import LogSettings
from limpet.store.logs import AppLog, LogFullError, LogStore


class Pipe:
    """A worker's end of its log."""

    def __init__(self, log, settings):
        reader, self.writer = os.pipe()
        self.registry = set()
        self.stream = LogStream(
            reader, log, settings, stream=b"o", worker="a-0", incarnation=1, registry=self.registry
        )

    def write(self, data):
        os.write(self.writer, data)

    def end(self):
        os.close(self.writer)

    async def is_over(self):
        await until(lambda: not self.registry)


async def until(condition):
    while not condition():  # noqa: ASYNC110 - what is waited for has no event
        await asyncio.sleep(0.001)


@pytest.fixture
def play(tmp_path):
    """Run a scene with a log and settings."""

    def run(scene, **changes):
        settings = LogSettings(**changes)
        logs = LogStore(tmp_path / "logs.db", settings)
        logs.open([b"k" * 32])
        log = logs.app("default", "a")
        before = len(os.listdir("/proc/self/fd"))

        async def main():
            async with asyncio.timeout(20):
                await scene(log, settings)

        asyncio.run(main())
        assert len(os.listdir("/proc/self/fd")) == before
        logs.close()

    return run


def lines(log):
    return [record.line for record in log.read()]


def test_what_is_written_is_logged_line_by_line(play):
    async def scene(log, settings):
        pipe = Pipe(log, settings)
        pipe.write(b"one\ntw")
        await until(lambda: lines(log) == ["one"])
        pipe.write(b"o\nthree")
        await until(lambda: lines(log) == ["one", "two"])
        pipe.end()
        await pipe.is_over()
        assert lines(log) == ["one", "two", "three"]
        [record, *_] = log.read()
        assert (record.stream, record.worker, record.incarnation) == ("stdout", "a-0", 1)

    play(scene)


def test_a_flood_is_slowed_down_and_nothing_is_lost(play, monkeypatch):
    pauses = []
    real = LogStream._pause

    def pause(self, seconds):
        pauses.append(seconds)
        real(self, seconds / 1000)
        self._filled_at -= seconds

    monkeypatch.setattr(LogStream, "_pause", pause)

    async def scene(log, settings):
        pipe = Pipe(log, settings)
        writer = asyncio.get_running_loop().run_in_executor(None, write_all, pipe)
        await writer
        await pipe.is_over()
        assert len(lines(log)) == 20_000
        assert 9 <= sum(pauses) + 1 <= 11, "200 kB at 20 kB a second"

    def write_all(pipe):
        for number in range(20_000):
            pipe.write(b"%09d\n" % number)
        pipe.end()

    play(scene, bytes_per_second=20_000, file_bytes=1 << 30)


def test_a_slow_writer_is_never_paused(play, monkeypatch):
    monkeypatch.setattr(LogStream, "_pause", lambda *_: pytest.fail("nobody is too fast"))

    async def scene(log, settings):
        pipe = Pipe(log, settings)
        for number in range(100):
            pipe.write(b"x\n")
            await until(lambda number=number: len(lines(log)) > number)
        pipe.end()
        await pipe.is_over()

    play(scene, bytes_per_second=1 << 20)


class FullLog(AppLog):
    """A log on a disk that is full for a while."""

    def __init__(self, log):
        self.__dict__ = log.__dict__
        self.is_full = True
        self.refused = 0

    def append(self, data, **of):
        if self.is_full:
            self.refused += 1
            raise LogFullError("full")
        super().append(data, **of)

    def end(self, **of):
        if self.is_full:
            raise LogFullError("full")
        super().end(**of)


def test_a_full_disk_loses_lines_and_nothing_else(play, monkeypatch):
    monkeypatch.setattr(streams_module, "_RETRY_SECONDS", 0.001)

    async def scene(log, settings):
        full = FullLog(log)
        pipe = Pipe(full, settings)
        pipe.write(b"lost\n")
        await until(lambda: full.refused)
        full.is_full = False
        pipe.write(b"kept\n")
        await until(lambda: lines(log) == ["kept"])
        full.is_full = True
        pipe.end()
        await pipe.is_over()

    play(scene)


def test_closing_ends_a_stream_that_is_paused(play):
    async def scene(log, settings):
        pipe = Pipe(log, settings)
        pipe.write(b"x" * 100 + b"\nrest")
        await until(lambda: pipe.stream._timer is not None)
        pipe.stream.close()
        pipe.stream.close()
        assert lines(log)[-1] == "rest"
        with pytest.raises(BrokenPipeError):
            pipe.write(b"x")
        pipe.end()

    play(scene, bytes_per_second=10)
