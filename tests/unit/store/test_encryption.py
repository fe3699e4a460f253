import os
import random
import signal
import time

import apsw
import pytest

from limpet.store import encryption
from limpet.store.encryption import (
    WrongKeyError,
    encrypt_plain,
    finish_encrypting,
    is_plain,
    open_encrypted,
    rewrite,
    set_aside,
    wipe,
)

A, B = b"a" * 32, b"b" * 32
MARK = b"a marker that must not be found"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data ?#%.db"  # names that a URI would take apart


def fill(connection, rows=200):
    connection.pragma("journal_mode", "wal")
    connection.execute("CREATE TABLE t (a)")
    connection.pragma("user_version", 7)
    with connection:
        connection.executemany("INSERT INTO t VALUES (?)", [(MARK,)] * rows)


def count(path, *keys):
    connection, index = open_encrypted(path, keys)
    found = connection.execute("SELECT count(*) FROM t").get
    assert connection.pragma("user_version") == 7
    connection.close()
    return found, index


def make_plain(path):
    connection = apsw.Connection(str(path))
    fill(connection)
    return connection


def contains_mark(folder):
    return [path.name for path in folder.iterdir() if MARK in path.read_bytes()]


def test_nothing_of_it_can_be_read(tmp_path, path):
    connection, _ = open_encrypted(path, [A])
    fill(connection)
    assert len(os.listdir(tmp_path)) == 3
    assert contains_mark(tmp_path) == []
    connection.close()
    assert contains_mark(tmp_path) == []
    assert not is_plain(path)


def test_the_key_that_fits_is_found(path):
    connection, index = open_encrypted(path, [A, B])
    fill(connection)
    connection.close()
    assert index == 0
    assert count(path, A) == (200, 0)
    assert count(path, B, A) == (200, 1)
    with pytest.raises(WrongKeyError):
        open_encrypted(path, [B])


def test_a_wrong_key_does_not_touch_what_a_kill_left(tmp_path, path):
    pid = os.fork()
    if pid == 0:
        connection, _ = open_encrypted(path, [A])
        fill(connection)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    write_ahead = path.with_name(path.name + "-wal")
    before = (path.read_bytes(), write_ahead.read_bytes())
    with pytest.raises(WrongKeyError):
        open_encrypted(path, [B])
    assert (path.read_bytes(), write_ahead.read_bytes()) == before
    assert count(path, B, A) == (200, 1)


def test_a_changed_page_is_noticed(path):
    connection, _ = open_encrypted(path, [A])
    fill(connection)
    connection.close()
    data = bytearray(path.read_bytes())
    data[2 * 4096 + 100] ^= 1
    path.write_bytes(data)
    connection, _ = open_encrypted(path, [A])
    with pytest.raises(apsw.Error):
        connection.execute("SELECT a FROM t").fetchall()
    connection.close()


def test_a_key_is_changed_by_a_copy(tmp_path, path):
    connection, _ = open_encrypted(path, [A])
    fill(connection)
    rewrite(connection, path, B)
    assert os.listdir(tmp_path) == [path.name]
    assert count(path, B) == (200, 0)
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(WrongKeyError):
        open_encrypted(path, [A])


def test_a_copy_that_fails_leaves_the_file_and_tells_no_key(tmp_path, path, monkeypatch):
    connection, _ = open_encrypted(path, [A])
    fill(connection)
    monkeypatch.setattr(encryption, "_staged", lambda path: path.parent / "absent" / "x")
    with pytest.raises(apsw.Error) as caught:
        rewrite(connection, path, B)
    told = repr(caught.value) + str(caught.value.__context__) * caught.value.__suppress_context__
    assert "absent" in told
    assert B.hex() not in repr(caught.value)
    assert B.hex().encode().hex() not in repr(caught.value)
    connection.close()
    assert count(path, A) == (200, 0)


def test_a_database_that_is_open_elsewhere_is_left_alone(path):
    connection, _ = open_encrypted(path, [A])
    fill(connection)
    other, _ = open_encrypted(path, [A])
    with other:
        other.execute("SELECT count(*) FROM t").fetchall()
        connection.set_busy_timeout(1)
        with pytest.raises(apsw.Error):
            rewrite(connection, path, B)
    other.close()
    connection.close()
    assert count(path, A) == (200, 0)


def test_a_plain_database_is_encrypted_and_overwritten(tmp_path, path):
    make_plain(path).close()
    keeping = path.open("rb")  # what a forensic look at the blocks would find
    assert is_plain(path)
    encrypt_plain(path, A)
    assert not is_plain(path)
    assert count(path, A) == (200, 0)
    assert os.listdir(tmp_path) == [path.name]
    with keeping:
        assert keeping.read().strip(b"\0") == b""


def test_what_is_still_in_the_plain_ones_log_comes_along(path):
    pid = os.fork()
    if pid == 0:
        connection = make_plain(path)  # noqa: F841 - stays open
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    encrypt_plain(path, A)
    assert count(path, A) == (200, 0)
    assert not path.with_name(path.name + "-wal").exists()


def test_a_kill_while_encrypting_loses_and_leaves_nothing(tmp_path):
    chance = random.Random(2)
    ends = set()
    for number in range(40):
        folder = tmp_path / str(number)
        folder.mkdir()
        path = folder / "state.db"
        make_plain(path).close()
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.write(writer, b"x")
            encrypt_plain(path, A)
            os._exit(0)
        os.read(reader, 1)
        time.sleep(chance.random() * 0.012)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reader)
        os.close(writer)
        ends.add(is_plain(path))
        finish_encrypting(path)
        if is_plain(path):
            encrypt_plain(path, A)
        assert count(path, A) == (200, 0)
        assert os.listdir(folder) == ["state.db"]
    assert ends, "each of them ended somehow"


def test_each_point_of_an_interrupted_encryption_is_mended(tmp_path, path):
    leftover = path.with_name(f".{path.name}.plain")
    make_plain(path).close()
    os.link(path, leftover)  # killed before the rename: the plain file is the database
    path.with_name(f".{path.name}.part").write_bytes(b"half")
    finish_encrypting(path)
    assert os.listdir(tmp_path) == [path.name]
    os.link(path, leftover)
    connection = encryption._connect(path)
    rewrite(connection, path, A)  # killed after the rename: the plain one is to be overwritten
    finish_encrypting(path)
    assert os.listdir(tmp_path) == [path.name]
    assert count(path, A) == (200, 0)


def test_wiping_overwrites(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(MARK * 100_000)
    with path.open("rb") as keeping:
        wipe(path)
        assert keeping.read() == bytes(len(MARK) * 100_000)
    assert not path.exists()


def test_only_one_unusable_file_is_kept(tmp_path, path):
    aside = tmp_path / "aside"
    for content in (b"first", b"second"):
        path.write_bytes(content)
        path.with_name(path.name + "-wal").write_bytes(b"x")
        set_aside(path, aside)
    assert os.listdir(tmp_path) == ["aside"]
    assert aside.read_bytes() == b"second"
