import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limpet.settings import LogSettings
from limpet.store import logs as logs_module
from limpet.store.logs import MAX_LINE_BYTES, AppLog, Record


class Clock:
    def __init__(self):
        self.now = 1000.0

    def time(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(logs_module, "time", clock)
    return clock


@pytest.fixture
def make(tmp_path, clock):
    """Open the log, as one run of the agent after the other would."""
    made = []

    def open_log(**changes):
        log = AppLog(tmp_path / "logs" / "a", LogSettings(**changes))
        made.append(log)
        return log

    yield open_log
    for log in made:
        log.close()


@pytest.fixture
def log(make):
    return make()


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


def test_nothing_is_there_before_the_first_line(log, tmp_path):
    assert lines(log) == []
    append(log, b"unfinished")
    assert lines(log) == []
    assert not (tmp_path / "logs").exists()


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


@given(PIECES)
def test_lines_do_not_depend_on_how_they_were_written(pieces):
    found = []
    for parts in (pieces, [b"".join(pieces)], [bytes([b]) for b in b"".join(pieces)]):
        with tempfile.TemporaryDirectory() as folder:
            log = AppLog(Path(folder), LogSettings(file_bytes=1 << 30))
            for part in parts:
                append(log, part)
            end(log)
            found.append(lines(log))
            log.close()
    whole = b"".join(pieces).decode().split("\n")
    assert found == [whole if whole[-1] else whole[:-1]] * 3


def test_the_log_goes_on_after_a_restart(make):
    append(make(), b"one\n")
    append(make(), b"two\n")
    assert lines(make()) == ["one", "two"]


def test_files_are_rotated_and_the_newest_kept(make, tmp_path):
    log = make(file_bytes=1000, files=3)
    for number in range(500):
        append(log, b"line %04d\n" % number)
    found = lines(log)
    assert found == [f"line {number:04d}" for number in range(500 - len(found), 500)]
    assert 40 < len(found) < 120
    folder = tmp_path / "logs" / "a"
    assert sorted(os.listdir(folder)) == ["log", "log.1", "log.2"]
    assert all(path.stat().st_size <= 1000 for path in folder.iterdir())
    assert lines(make(file_bytes=1000, files=3)) == found


def test_one_file_may_be_all(make, tmp_path):
    log = make(file_bytes=200, files=1)
    for number in range(50):
        append(log, b"%04d\n" % number)
    assert os.listdir(tmp_path / "logs" / "a") == ["log"]
    assert lines(log)[-1] == "0049"


def test_a_file_takes_at_least_one_write(make):
    log = make(file_bytes=1, files=2)
    append(log, b"long line\nanother\n")
    append(log, b"last\n")
    assert lines(log) == ["long line", "another", "last"]


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


@pytest.mark.parametrize("cut", range(1, 30))
def test_a_line_that_a_crash_cut_short_spoils_no_other(make, tmp_path, cut):
    first = make()
    append(first, b"before\ncut short\n")
    first.close()
    path = tmp_path / "logs" / "a" / "log"
    os.truncate(path, path.stat().st_size - cut)
    append(make(), b"after\n")
    found = lines(make())
    assert (found[0], found[-1]) == ("before", "after")
    assert all("cut short".startswith(line) for line in found[1:-1])


@pytest.mark.parametrize(
    "junk",
    [
        b"\n",
        b"x\n",
        b"1.0 o a-0 1\n",
        b"1.0 x a-0 1 text\n",
        b"x o a-0 1 text\n",
        b"1.0 o a-0 x text\n",
        b"1.0 o \xff 1 text\n",
        b"\0" * 100,
    ],
)
def test_what_is_no_record_is_passed_over(make, tmp_path, junk):
    append(make(), b"one\n")
    with open(tmp_path / "logs" / "a" / "log", "ab") as file:
        file.write(junk)
    append(make(), b"two\n")
    assert lines(make()) == ["one", "two"]


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


def test_a_log_can_be_removed(make, tmp_path):
    log = make(file_bytes=100, files=5)
    for number in range(50):
        append(log, b"%d\n" % number)
    make(files=2).remove()
    assert os.listdir(tmp_path / "logs") == []
    make().remove()
    append(log, b"")
    assert os.listdir(tmp_path / "logs") == []


def test_logs_are_for_the_node_only(log, tmp_path):
    append(log, b"secret\n")
    folder = tmp_path / "logs" / "a"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "log").stat().st_mode & 0o777 == 0o600
