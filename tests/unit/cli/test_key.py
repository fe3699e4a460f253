from __future__ import annotations

import json
import os

import pytest

from limpet.cli import key, passphrase
from limpet.cli.passphrase import new_stretching, obtain_new, stretch, unlock_descriptor
from limpet.errors import InvalidInputError
from limpet.store.unlock import (
    PassphraseError,
    Stretching,
    load_stretchings,
    save_stretchings,
    stretching_path,
)

SHOWN = {
    "source": "file",
    "where": "/etc/limpet/node.key",
    "cipher": "chacha20-poly1305",
    "generation": 2,
    "created_at": "2026-01-02T03:04:05Z",
    "generations": [
        {"generation": 2, "created_at": "2026-01-02T03:04:05Z"},
        {"generation": 1, "created_at": "2026-01-01T03:04:05Z"},
    ],
    "protects_against": ["a lost disk"],
    "does_not_protect_against": ["root"],
}


class FakeClient:
    def __init__(self, source):
        self.source = source
        self.calls = []

    def keys(self):
        return SHOWN | {"source": self.source}

    def rotate_keys(self, **given):
        self.calls.append(given)
        return {
            "dry_run": given.get("dry_run", False),
            "generation": 3,
            "source": self.source,
            "where": "/etc/limpet/node.key",
            "new_unlock_key": self.source != "credential",
            "encrypted_anew": ["state", "logs"],
            "made_again_when_needed": ["artifacts"],
            "encrypted_anew_at_next_start": ["volumes"],
            "problems": ["the logs are busy"],
        }


@pytest.fixture
def connected(monkeypatch):
    def use(source):
        client = FakeClient(source)
        monkeypatch.setattr(key, "connect", lambda *_, **__: client)
        return client

    return use


def pipe(data):
    reader, writer = os.pipe()
    os.write(writer, data)
    os.close(writer)
    return reader


def test_what_there_is_is_shown(connected, limpet_):
    connected("file")
    result = limpet_("key", "show")
    assert result.exit_code == 0
    for words in ("file: /etc/limpet/node.key", "generation 2", "a lost disk", "root"):
        assert words in result.stdout
    assert json.loads(limpet_("key", "show", "-o", "json").stdout) == SHOWN


def test_a_rotation_says_what_it_did(connected, limpet_):
    client = connected("file")
    result = limpet_("key", "rotate")
    assert client.calls == [{"dry_run": False}]
    assert "the node key has generation 3" in result.stdout
    assert "volumes are encrypted anew when the node starts next" in result.stdout
    assert "back up /etc/limpet/node.key" in result.stdout
    assert "the logs are busy" in result.stderr
    assert json.loads(limpet_("key", "rotate", "-o", "json").stdout)["generation"] == 3


@pytest.mark.parametrize("source", ["file", "credential", "passphrase"])
def test_a_dry_run_asks_for_nothing_and_changes_nothing(connected, limpet_, source):
    client = connected(source)
    result = limpet_("key", "rotate", "--dry-run")
    assert client.calls == [{"dry_run": True}]
    assert "would get generation 3" in result.stdout
    assert ("is a credential" in result.stdout) == (source == "credential")


def test_a_new_passphrase_is_stretched_before_it_leaves(connected, limpet_):
    client = connected("passphrase")
    result = limpet_("key", "rotate", "--passphrase-fd", pipe(b"a new passphrase\n"))
    assert result.exit_code == 0, result.stderr
    [call] = client.calls
    assert call["unlock_key"] == stretch(b"a new passphrase", Stretching(**call["scrypt"]))


def test_a_passphrase_is_of_no_use_to_other_sources(connected, limpet_):
    client = connected("file")
    reader = pipe(b"a new passphrase\n")
    result = limpet_("key", "rotate", "--passphrase-fd", reader)
    os.close(reader)
    assert (result.exit_code, client.calls) == (2, [])
    assert "keys.source is file" in result.stderr


# Passphrases


@pytest.fixture
def typed(monkeypatch):
    """What somebody types at the terminal."""

    def answers(*words):
        left = list(words)
        monkeypatch.setattr(passphrase, "_ask", lambda _prompt: left.pop(0))
        return left

    return answers


def held(descriptor):
    try:
        assert os.get_inheritable(descriptor)
        return os.pread(descriptor, 100, 0)
    finally:
        os.close(descriptor)


def test_stretching_is_scrypt():
    # RFC 7914, section 12; the vector's length is cut to that of a key.
    how = Stretching(salt=b"SodiumChloride".hex(), n=16384, r=8, p=1)
    assert stretch(b"pleaseletmein", how).hex() == (
        "7023bdcb3afd7348461c06cd81fd38ebfda8fbba904f8e3ea9b543f6545da1f2"
    )
    assert len(stretch(b"x", new_stretching())) == 32
    assert new_stretching() != new_stretching()
    with pytest.raises(PassphraseError, match="can't stretch"):
        stretch(b"x", Stretching(salt="", n=3))


def test_the_first_start_asks_twice_and_remembers_the_salt(tmp_path, typed):
    left = typed(b"long enough", b"long enough")
    found = held(unlock_descriptor(tmp_path / "data", passphrase_fd=None))
    [how] = load_stretchings(stretching_path(tmp_path / "data"))
    assert found == stretch(b"long enough", how).ljust(64, b"\0")
    assert left == []


def test_later_starts_ask_once(tmp_path, typed):
    (tmp_path / "keyring.db").write_bytes(b"")
    ways = [new_stretching(), new_stretching()]
    save_stretchings(stretching_path(tmp_path), ways)
    typed(b"long enough")
    found = held(unlock_descriptor(tmp_path, passphrase_fd=None))
    assert found == b"".join(stretch(b"long enough", how) for how in ways)


def test_a_keyring_without_a_salt_is_none_of_a_passphrase(tmp_path, typed):
    (tmp_path / "keyring.db").write_bytes(b"")
    typed(b"long enough")
    with pytest.raises(PassphraseError, match="made without a passphrase"):
        unlock_descriptor(tmp_path, passphrase_fd=None)


def test_two_that_differ_change_nothing(tmp_path, typed):
    typed(b"long enough", b"long enouhg")
    with pytest.raises(PassphraseError, match="differ"):
        unlock_descriptor(tmp_path / "data", passphrase_fd=None)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("data", "words"),
    [(b"", "no passphrase"), (b"\nx", "no passphrase"), (b"short\n", "shorter than 8")],
)
def test_a_descriptor_must_bring_a_passphrase(data, words):
    with pytest.raises(PassphraseError, match=words):
        obtain_new(pipe(data))


def test_only_the_first_line_counts():
    assert obtain_new(pipe(b"long enough\r\nnot this\n")) == b"long enough"


def test_a_descriptor_that_is_closed_is_said():
    reader = pipe(b"")
    os.close(reader)
    with pytest.raises(InvalidInputError, match="--passphrase-fd"):
        obtain_new(reader)


def test_without_a_terminal_nothing_is_read_aloud(monkeypatch):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setsid()  # no controlling terminal
            obtain_new(None)
        except PassphraseError as error:
            code = int("--passphrase-fd" not in str(error))
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
