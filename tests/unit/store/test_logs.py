import os
import random
import signal
import tempfile
import time
from pathlib import Path

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limpet.settings import LogSettings
from limpet.store.logs import (
    MAX_LINE_BYTES,
    MAX_PENDING_BYTES,
    LogFullError,
    LogStore,
    Record,
    app_log,
)
from limpet.store.plain_logs import adopt_plain_logs

KEY, OTHER = b"k" * 32, b"o" * 32


class Clock:
    def __init__(self):
        self.now = 1000.0

    def time(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(app_log, "time", clock)
    return clock


@pytest.fixture
def problems():
    return []


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data" / "logs.db"


@pytest.fixture
def make(path, clock, problems):
    """Open the logs, as one run of the agent after the other would."""
    made = []

    def open_logs(*, keys=(KEY,), **changes):
        while made:
            made.pop().close()
        logs = LogStore(path, LogSettings(**changes), on_problem=problems.append)
        logs.open(keys)
        made.append(logs)
        return logs

    yield open_logs
    for logs in made:
        logs.close()


@pytest.fixture
def logs(make):
    return make()


@pytest.fixture
def log(logs):
    return logs.app("default", "a")


def append(log, data, *, stream=b"o", worker="a-0", incarnation=1):
    log.append(data, stream=stream, worker=worker, incarnation=incarnation)


def end(log, *, stream=b"o", worker="a-0", incarnation=1):
    log.end(stream=stream, worker=worker, incarnation=incarnation)


def lines(log, **options):
    return [record.line for record in log.read(**options)]


def test_a_record_says_when_where_from_and_what(log, clock):
    append(log, b"hello world\n")
    clock.now = 1001.25
    append(log, b" \n", stream=b"e", worker="a-1", incarnation=1700000000000)
    assert list(log.read()) == [
        Record(1000.0, "stdout", "a-0", 1, "hello world"),
        Record(1001.25, "stderr", "a-1", 1700000000000, " "),
    ]


def test_nothing_is_there_before_the_first_line(log, logs):
    assert lines(log) == []
    append(log, b"unfinished")
    assert lines(log) == []
    assert logs.app_id("default", "a") is None


def test_lines_of_different_streams_are_not_mixed(log):
    append(log, b"out")
    append(log, b"err", stream=b"e")
    append(log, b"other", worker="a-1")
    append(log, b"next", incarnation=2)
    append(log, b"!\n", stream=b"e")
    append(log, b"!\n")
    end(log, worker="a-1")
    end(log, incarnation=2)
    end(log, incarnation=2)
    end(log)
    assert lines(log) == ["err!", "out!", "other", "next"]


def test_bytes_that_are_no_text_are_shown_somehow(log):
    append(log, b"\xff\0\r\x1b[31m\n")
    assert lines(log) == ["\ufffd\0\r\x1b[31m"]


def test_a_very_long_line_becomes_several_records(log):
    append(log, b"a" * MAX_LINE_BYTES + b"b" * MAX_LINE_BYTES + b"c\nnext\n")
    assert lines(log) == ["a" * MAX_LINE_BYTES, "b" * MAX_LINE_BYTES, "c", "next"]


def test_a_line_without_end_does_not_fill_memory(log):
    for _ in range(100):
        append(log, b"x" * 10_000)
        assert sum(map(len, log._partial.values())) <= MAX_LINE_BYTES
    end(log)
    assert "".join(lines(log)) == "x" * 1_000_000


PIECES = st.lists(st.text("ab\n", max_size=30).map(str.encode), max_size=12)


@settings(max_examples=50)
@given(PIECES)
def test_lines_do_not_depend_on_how_they_were_written(pieces):
    found = []
    for parts in (pieces, [b"".join(pieces)], [bytes([b]) for b in b"".join(pieces)]):
        with tempfile.TemporaryDirectory() as folder:
            logs = LogStore(Path(folder) / "logs.db", LogSettings())
            logs.open([KEY])
            log = logs.app("default", "a")
            for part in parts:
                append(log, part)
            end(log)
            found.append(lines(log))
            logs.close()
    whole = b"".join(pieces).decode().split("\n")
    assert found == [whole if whole[-1] else whole[:-1]] * 3


def test_the_log_goes_on_after_a_restart(make):
    append(make().app("default", "a"), b"one\n")
    append(make().app("default", "a"), b"two\n")
    assert lines(make().app("default", "a")) == ["one", "two"]


def test_apps_have_their_own(logs):
    for name in ("a", "b", "a"):
        for namespace in ("default", "other"):
            append(logs.app(namespace, name), f"{namespace} {name}\n".encode())
    assert lines(logs.app("default", "a")) == ["default a"] * 2
    assert lines(logs.app("other", "b")) == ["other b"]
    assert lines(logs.app("other", "c")) == []


def test_the_oldest_lines_go_and_the_newest_are_kept(make, path):
    log = make(file_bytes=64 << 10, files=2).app("default", "a")
    for number in range(5000):
        append(log, b"line %04d\n" % number)
    found = lines(log)
    assert found == [f"line {number:04d}" for number in range(5000 - len(found), 5000)]
    assert (96 << 10) < len(found) * (48 + 9) <= (160 << 10)
    assert path.stat().st_size < 300 << 10
    assert lines(make(file_bytes=64 << 10, files=2).app("default", "a")) == found


def test_an_app_that_writes_much_costs_no_other_its_lines(make):
    logs = make(file_bytes=64 << 10, files=1)
    quiet, loud = logs.app("default", "quiet"), logs.app("default", "loud")
    append(quiet, b"once\n")
    for number in range(3000):
        append(loud, b"line %04d\n" % number)
    assert lines(quiet) == ["once"]
    assert lines(loud)[0] > "line 0000"


def test_a_tiny_budget_still_keeps_something(make):
    log = make(file_bytes=1, files=1).app("default", "a")
    for number in range(100):
        append(log, b"%04d\n" % number)
    assert lines(log)[-1] == "0099"


def test_the_newest_lines_can_be_asked_for(log, clock):
    for number in range(10):
        clock.now = 1000.0 + number
        append(log, b"%d\n" % number)
    assert lines(log, tail=3) == ["7", "8", "9"]
    assert lines(log, tail=0) == []
    assert lines(log, tail=99) == [str(number) for number in range(10)]
    assert lines(log, since=1007.0) == ["7", "8", "9"]
    assert lines(log, since=1007.0, tail=1) == ["9"]
    assert lines(log, since=2000.0) == []


def test_the_run_before_can_be_asked_for(log):
    assert lines(log, previous=True) == []
    append(log, b"first\n", incarnation=1)
    assert lines(log, previous=True) == []
    append(log, b"second\n", incarnation=5)
    append(log, b"late\n", incarnation=1)
    append(log, b"third\n", incarnation=9)
    assert lines(log, previous=True) == ["second"]
    assert lines(log, previous=True, tail=0) == []


def test_each_worker_has_a_run_before(log):
    append(log, b"a-0 first\n", incarnation=1)
    append(log, b"a-1 only\n", worker="a-1", incarnation=2)
    assert lines(log, previous=True) == []
    append(log, b"a-0 second\n", incarnation=3)
    assert lines(log, previous=True) == ["a-0 first"]


def test_all_ways_to_ask_agree_wherever_the_lines_are(make, clock):
    """In memory, among the recent ones, in their own place, and all mixed."""
    logs = make(file_bytes=128 << 10, files=1)
    log = logs.app("default", "a")
    for number in range(1500):
        clock.now = 1000.0 + number
        append(log, b"%04d\n" % number, worker=f"a-{number % 2}", incarnation=number // 500)
        append(logs.app("default", "b"), b"b\n")
        if number % 97 == 0:
            logs.flush()
    everything = lines(log)
    assert len(everything) > 1000
    assert lines(log, tail=700) == everything[-700:]
    assert lines(log, since=2000.0) == [line for line in everything if int(line) >= 1000]
    assert lines(log, since=2000.0, tail=3) == everything[-3:]
    before = [line for line in everything if 500 <= int(line) < 1000]
    assert lines(log, previous=True) == before
    assert lines(log, previous=True, tail=600) == before[-600:]
    assert lines(log, previous=True, since=1900.0) == [x for x in before if int(x) >= 900]


def test_what_is_written_while_reading_comes_to_followers_alone(log):
    for number in range(1200):
        append(log, b"%d\n" % number)
    reading = log.read()
    found = [next(reading).line]
    append(log, b"later\n" * 20_000)
    found += [record.line for record in reading]
    assert found == [str(number) for number in range(1200)]


def test_nothing_of_it_can_be_read(logs, path):
    log = logs.app("planted-namespace", "planted-app")
    append(log, b"planted line\n" * 5000)
    logs.flush()
    append(log, b"planted line\n")
    logs.flush()
    assert len(os.listdir(path.parent)) == 3
    for found in path.parent.iterdir():
        assert b"planted" not in found.read_bytes()


def test_lines_are_written_together(logs, log, path):
    append(log, b"first\n")
    logs.flush()
    size = path.with_name("logs.db-wal").stat().st_size
    for number in range(1000):
        append(log, b"%d\n" % number)
    assert path.with_name("logs.db-wal").stat().st_size == size
    logs.flush()
    assert path.with_name("logs.db-wal").stat().st_size > size


def test_what_waits_is_bounded(logs, log, monkeypatch):
    for _ in range(100):
        append(log, b"x" * 10_000 + b"\n")
        assert logs._pending_bytes < 300 << 10
    connection = logs._open_connection
    connection.pragma("max_page_count", connection.pragma("page_count"))
    large = b"x" * 10_000 + b"\n"
    with pytest.raises(LogFullError, match="can't write the logs"):
        append(log, large * 1000)
    with pytest.raises(LogFullError):
        logs.flush()
    refused = 0
    for _ in range(500):
        try:
            append(log, b"x" * 10_000 + b"\n")
        except LogFullError:
            refused += 1
    assert refused
    assert logs._pending_bytes <= MAX_PENDING_BYTES + len(large) * 1001
    assert lines(log), "what is written can be read"
    connection.pragma("max_page_count", 1 << 20)
    logs.flush()
    append(log, b"last\n")
    assert lines(log)[-1] == "last"


def test_a_kill_loses_only_what_was_not_flushed(path, clock):
    chance = random.Random(3)
    for number in range(10):
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            logs = LogStore(path, LogSettings(file_bytes=64 << 10, files=1))
            logs.open([KEY])
            log = logs.app("default", "a")
            for line in range(1_000_000):
                append(log, b"%d %07d\n" % (number, line))
                if line % 50 == 0:
                    logs.flush()
                    os.write(writer, b"%07d" % line)
        os.close(writer)
        told = b""
        until = time.monotonic() + 0.02 + chance.random() * 0.1
        while time.monotonic() < until:
            told = os.read(reader, 7)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        while rest := os.read(reader, 7):
            told = rest
        os.close(reader)
        logs = LogStore(path, LogSettings(file_bytes=64 << 10, files=1), on_problem=pytest.fail)
        logs.open([KEY])
        found = lines(logs.app("default", "a"))
        logs.close()
        own = [int(line.split()[1]) for line in found if line.startswith(f"{number} ")]
        assert own == list(range(own[0], own[-1] + 1))
        assert own[-1] >= int(told)


@pytest.mark.parametrize("what", ["junk", "cut", "page", "key", "newer"])
def test_logs_that_can_not_be_used_are_set_aside(make, path, problems, what):
    logs = make()
    append(logs.app("default", "a"), b"before\n" * 20_000)
    logs.close()
    keys = (KEY,)
    if what == "junk":
        path.write_bytes(b"this is no database" * 1000)
    elif what == "cut":
        os.truncate(path, 100)
    elif what == "page":
        data = bytearray(path.read_bytes())
        for at in range(4096 + 50, len(data), 4096):
            data[at] ^= 1
        path.write_bytes(data)
    elif what == "key":
        keys = (OTHER,)
    elif what == "newer":
        logs.open([KEY])
        logs._open_connection.pragma("user_version", 2)
        logs.close()
    logs = make(keys=keys)
    log = logs.app("default", "a")
    append(log, b"after\n")
    assert lines(log)[-1] == "after"
    append(log, b"again\n")
    assert lines(log)[-1] == "again"
    [problem] = problems
    assert "logs.db.unusable" in problem
    assert path.with_name("logs.db.unusable").exists()


def test_logs_that_break_while_they_are_used_begin_anew(logs, log, path, problems):
    append(log, b"before\n")
    logs.flush()

    def fail(*_):
        raise apsw.CorruptError("malformed")

    logs._account = fail
    append(log, b"y\n" * 200_000)
    del logs._account
    assert "malformed" in problems[0]
    append(log, b"after\n")
    assert lines(log)[-1] == "after"


def test_a_new_key_is_taken_while_logs_are_written(make, logs, log, path):
    append(log, b"before\n" * 30_000)
    logs.rekey([OTHER, KEY])
    append(log, b"after\n")
    assert len(lines(log)) > 10_000
    assert lines(log)[-1] == "after"
    assert lines(make(keys=(OTHER,)).app("default", "a"))[-1] == "after"


def test_a_change_of_keys_that_was_interrupted_is_finished(make, problems):
    append(make().app("default", "a"), b"before\n")
    assert lines(make(keys=(OTHER, KEY)).app("default", "a")) == ["before"]
    assert lines(make(keys=(OTHER,)).app("default", "a")) == ["before"]
    assert problems == []


def test_space_comes_back(make, path):
    logs = make()
    log = logs.app("default", "a")
    for number in range(40_000):
        append(log, b"%0100d\n" % number)
    logs.flush()
    logs._open_connection.pragma("wal_checkpoint", "truncate")
    large = path.stat().st_size
    log.remove()
    logs._open_connection.pragma("wal_checkpoint", "truncate")
    assert path.stat().st_size < large / 10


def test_plain_logs_of_an_earlier_version_are_taken_over(logs, tmp_path):
    folder = tmp_path / "logs" / "default" / "a"
    folder.mkdir(parents=True)
    (folder / "log.1").write_bytes(b"1.5 o a-0 7 one\njunk\nx o a-0 7 junk\n")
    (folder / "log").write_bytes(b"2.5 e a-0 7 two \xff\n3.5 o a-0 7 cut sho")
    adopt_plain_logs(tmp_path / "logs", logs)
    assert list(logs.app("default", "a").read()) == [
        Record(1.5, "stdout", "a-0", 7, "one"),
        Record(2.5, "stderr", "a-0", 7, "two \ufffd"),
        Record(3.5, "stdout", "a-0", 7, "cut sho"),
    ]
    assert not (tmp_path / "logs").exists()


def test_followers_hear_every_record_from_then_on(log, clock):
    append(log, b"before\n")
    heard, others = [], []
    stop = log.follow(heard.append)
    log.follow(others.append)
    append(log, b"one\ntw")
    append(log, b"o\n")
    stop()
    append(log, b"after\n")
    assert heard == list(log.read())[1:3]
    assert [record.line for record in others] == ["one", "two", "after"]


def test_a_log_can_be_removed(logs, log):
    append(log, b"gone\n" * 30_000)
    append(log, b"gone, too\n")
    append(logs.app("default", "b"), b"stays\n")
    log.remove()
    log.remove()
    assert lines(log) == []
    append(log, b"new\n")
    assert lines(log) == ["new"]
    assert lines(logs.app("default", "b")) == ["stays"]


def test_logs_are_for_the_node_only(log, path):
    append(log, b"secret\n")
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert path.stat().st_mode & 0o777 == 0o600
