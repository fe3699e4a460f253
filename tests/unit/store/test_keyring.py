import os
import random
import signal
import stat
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limpet.store import files as files_module
from limpet.store.encryption import open_encrypted
from limpet.store.keyring import Keyring, KeyringError, LockedError, copy_path, hkdf, keyring_path

FIRST = bytes(range(32))
SECOND = bytes(reversed(range(32)))
VECTORS = {
    # RFC 5869, appendix A: key, salt, info, length, output
    "A.1": (
        "0b" * 22,
        "000102030405060708090a0b0c",
        "f0f1f2f3f4f5f6f7f8f9",
        42,
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
    ),
    "A.2": (
        bytes(range(0x50)).hex(),
        bytes(range(0x60, 0xB0)).hex(),
        bytes(range(0xB0, 0x100)).hex(),
        82,
        "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c6"
        "5e590e09da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87",
    ),
    "A.3": (
        "0b" * 22,
        "",
        "",
        42,
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
    ),
}


@pytest.mark.parametrize("name", VECTORS)
def test_the_rfcs_vectors(name):
    key, salt, info, length, expected = VECTORS[name]
    made = hkdf(
        bytes.fromhex(key), salt=bytes.fromhex(salt), info=bytes.fromhex(info), length=length
    )
    assert made.hex() == expected


@pytest.mark.parametrize("length", [0, -1, 8161])
def test_what_hkdf_cannot_make_is_refused(length):
    with pytest.raises(ValueError, match="8160"):
        hkdf(b"k", info=b"", length=length)


@given(st.binary(max_size=64), st.integers(1, 300))
def test_a_longer_key_begins_like_a_shorter_one(info, length):
    assert hkdf(b"k" * 32, info=info, length=301)[:length] == hkdf(
        b"k" * 32, info=info, length=length
    )


def opened(directory, *unlock_keys):
    return Keyring.open(directory, unlock_keys)


def test_the_first_start_makes_a_key_that_stays(tmp_path):
    keyring, index = opened(tmp_path, FIRST)
    assert (keyring.generation, index) == (1, 0)
    again, _ = opened(tmp_path, FIRST)
    assert again.derive("state", 32) == keyring.derive("state", 32)
    assert stat.S_IMODE(keyring_path(tmp_path).stat().st_mode) == 0o600
    assert sorted(os.listdir(tmp_path)) == ["keyring.db", "keyring.db.copy"]


def test_no_two_nodes_have_the_same_key(tmp_path):
    one, _ = opened(tmp_path / "a", FIRST)
    other, _ = opened(tmp_path / "b", FIRST)
    assert one.derive("state", 32) != other.derive("state", 32)


def test_each_purpose_has_its_own_key(tmp_path):
    keyring, _ = opened(tmp_path, FIRST)
    purposes = ["state", "logs", "artifacts", "volume/default/a/1", "volume/default/a/2"]
    made = {keyring.derive(purpose, 64) for purpose in purposes}
    assert len(made) == len(purposes)
    assert all(len(key) == 64 for key in made)


def test_the_file_tells_nothing_of_the_keys(tmp_path):
    keyring, _ = opened(tmp_path, FIRST)
    data = keyring_path(tmp_path).read_bytes()
    assert FIRST not in data
    assert keyring.generations[0].key not in data
    assert b"node_keys" not in data
    assert keyring.generations[0].key.hex() not in repr(keyring.generations)


def test_a_wrong_unlock_key_changes_nothing(tmp_path):
    opened(tmp_path, FIRST)
    before = keyring_path(tmp_path).read_bytes()
    with pytest.raises(LockedError, match="Nothing was changed") as caught:
        opened(tmp_path, SECOND)
    assert caught.value.exit_code == 2
    assert keyring_path(tmp_path).read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["keyring.db", "keyring.db.copy"]


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("at", [0, 20, 200, 5000])
def test_a_damaged_file_is_no_keyring(tmp_path, at):
    opened(tmp_path, FIRST)
    for path in (keyring_path(tmp_path), copy_path(tmp_path)):
        flip(path, at)
    with pytest.raises((LockedError, KeyringError), match=r"keyring\.db"):
        opened(tmp_path, FIRST)
    assert sorted(os.listdir(tmp_path)) == ["keyring.db", "keyring.db.copy"]


@pytest.mark.parametrize("how", [0, 20, 200, 5000, "missing", "empty", "cut"])
def test_a_damaged_keyring_is_restored_from_its_copy(tmp_path, how):
    keyring, _ = opened(tmp_path, FIRST)
    keyring.rotate(SECOND)
    path = keyring_path(tmp_path)
    if how == "missing":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:5000])
    else:
        flip(path, how)
    damaged = path.read_bytes() if path.exists() else None
    again, _ = opened(tmp_path, SECOND)
    assert again.derive_all("state", 32) == keyring.derive_all("state", 32)
    ((reason, message),) = again.problems
    assert reason == "KeyringRestored"
    assert "2 generations" in message
    if damaged is not None:
        assert (tmp_path / "keyring.db.damaged-1").read_bytes() == damaged
    assert opened(tmp_path, SECOND)[0].problems == []


@pytest.mark.parametrize("how", [0, 5000, "missing", "empty"])
def test_a_damaged_copy_is_made_anew(tmp_path, how):
    keyring, _ = opened(tmp_path, FIRST)
    copy = copy_path(tmp_path)
    if how == "missing":
        copy.unlink()
    elif how == "empty":
        copy.write_bytes(b"")
    else:
        flip(copy, how)
    assert opened(tmp_path, FIRST)[0].problems == []
    keyring_path(tmp_path).unlink()
    again, _ = opened(tmp_path, FIRST)
    assert again.derive("state", 32) == keyring.derive("state", 32)


def test_an_older_unlock_key_brings_no_older_keyring_back(tmp_path, monkeypatch):
    """A kill in the middle of a rotation leaves no copy that the old key opens."""
    keyring, _ = opened(tmp_path, FIRST)
    monkeypatch.setattr(keyring, "write_copy", lambda: None)
    keyring.rotate(SECOND)
    with pytest.raises(LockedError):
        opened(tmp_path, FIRST)
    assert opened(tmp_path, SECOND)[0].generation == 2


def test_a_copy_that_can_not_be_written_is_told_and_keeps_nobody_from_working(
    tmp_path, monkeypatch
):
    opened(tmp_path, FIRST)
    copy_path(tmp_path).unlink()

    def fail(_descriptor):
        raise OSError("the disk is full")

    monkeypatch.setattr(files_module.os, "fsync", fail)
    keyring, _ = opened(tmp_path, FIRST)
    ((reason, message),) = keyring.problems
    assert reason == "KeyringNotCopied"
    assert "the disk is full" in message


def test_rotating_keeps_the_older_generations(tmp_path):
    keyring, _ = opened(tmp_path, FIRST)
    old = keyring.derive("state", 32)
    keyring.rotate(SECOND)
    assert keyring.generation == 2
    assert keyring.derive("state", 32) != old
    again, index = opened(tmp_path, FIRST, SECOND)
    assert index == 1
    assert again.derive_all("state", 32) == [keyring.derive("state", 32), old]
    assert again.derive("state", 32, generation=1) == old
    with pytest.raises(LockedError):
        opened(tmp_path, FIRST)


def test_rotating_may_keep_the_unlock_key(tmp_path):
    keyring, _ = opened(tmp_path, FIRST)
    keyring.rotate()
    assert opened(tmp_path, FIRST)[0].generation == 2


def test_a_generation_that_is_not_there_is_named(tmp_path):
    keyring, _ = opened(tmp_path, FIRST)
    with pytest.raises(KeyringError, match="generation 7"):
        keyring.derive("state", 32, generation=7)


def test_a_rotation_that_fails_changes_nothing(tmp_path, monkeypatch):
    keyring, _ = opened(tmp_path, FIRST)
    old = keyring.derive("state", 32)

    def fail(_descriptor):
        raise OSError("the disk is full")

    monkeypatch.setattr(files_module.os, "fsync", fail)
    with pytest.raises(KeyringError, match="full"):
        keyring.rotate(SECOND)
    monkeypatch.undo()
    assert (keyring.generation, keyring.derive("state", 32)) == (1, old)
    assert opened(tmp_path, FIRST)[0].derive("state", 32) == old
    assert sorted(os.listdir(tmp_path)) == ["keyring.db", "keyring.db.copy"]


def test_no_new_key_is_made_beside_data_of_a_lost_one(tmp_path):
    connection, _ = open_encrypted(tmp_path / "state.db", [FIRST])
    connection.execute("CREATE TABLE t (a)")
    connection.close()
    with pytest.raises(KeyringError, match="restore it from a backup"):
        opened(tmp_path, FIRST)
    assert os.listdir(tmp_path) == ["state.db"]


def test_leftovers_of_a_kill_are_removed(tmp_path):
    (tmp_path / ".keyring.db.123.part").write_bytes(b"x")
    (tmp_path / ".keyring.db.123.part-journal").write_bytes(b"x")
    opened(tmp_path, FIRST)
    assert sorted(os.listdir(tmp_path)) == ["keyring.db", "keyring.db.copy"]


def test_openssl_is_not_needed(tmp_path):
    """The agent runs without it."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            for name in [
                n for n in sys.modules if n in ("hashlib", "hmac", "limpet.store.keyring")
            ]:
                del sys.modules[name]
            sys.modules["_hashlib"] = None
            from limpet.store.keyring import hkdf as without

            key, salt, info, length, expected = VECTORS["A.2"]
            made = without(
                bytes.fromhex(key),
                salt=bytes.fromhex(salt),
                info=bytes.fromhex(info),
                length=length,
            )
            code = int(made.hex() != expected)
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0


def test_a_kill_at_any_moment_leaves_a_keyring_that_opens(tmp_path):
    chance = random.Random(1)
    keyring, _ = opened(tmp_path, FIRST)
    first = keyring.derive("volume/default/a/1", 64)
    generations = set()
    for _ in range(40):
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.write(writer, b"x")
            while True:
                for key in (SECOND, FIRST):
                    keyring.rotate(key)
        os.read(reader, 1)
        time.sleep(chance.random() * 0.02)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reader)
        os.close(writer)
        keyring, _ = opened(tmp_path, FIRST, SECOND)
        assert keyring.derive("volume/default/a/1", 64, generation=1) == first
        generations.add(keyring.generation)
        assert sorted(os.listdir(tmp_path)) == ["keyring.db", "keyring.db.copy"]
    assert len(generations) > 1
