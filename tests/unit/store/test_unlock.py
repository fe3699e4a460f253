import os
import stat

import pytest

from limpet.settings import load_settings
from limpet.store.unlock import (
    Credential,
    KeyFile,
    KeyFileError,
    KeyFileModeError,
    Passphrase,
    PassphraseError,
    Stretching,
    choose_source,
    load_stretchings,
    make_key_descriptor,
    save_stretchings,
    stretching_path,
)

KEY, NEXT = b"k" * 32, b"n" * 32
OLD_WAY, NEW_WAY = Stretching(salt="aa" * 16), Stretching(salt="bb" * 16)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "etc" / "node.key"


# A file


def test_a_key_file_is_made_once_and_is_the_nodes_alone(path):
    [made] = KeyFile(path).read(is_first=True)
    assert len(made) == 32
    assert KeyFile(path).read(is_first=True) == KeyFile(path).read(is_first=False) == [made]
    assert path.read_text() == made.hex() + "\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_missing_key_is_never_made_anew(path):
    with pytest.raises(KeyFileError, match="without it nobody can read") as caught:
        KeyFile(path).read(is_first=False)
    assert str(path) in str(caught.value)
    assert not path.exists()


@pytest.mark.parametrize("text", ["", "zz" * 32, "00" * 31, "00" * 33, "\xe9" * 20])
def test_a_damaged_key_is_never_replaced(path, text):
    path.parent.mkdir()
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(KeyFileError, match="is damaged"):
        KeyFile(path).read(is_first=True)
    assert path.read_text() == text


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644])
def test_a_key_that_others_reach_is_refused(path, mode):
    KeyFile(path).read(is_first=True)
    path.chmod(mode)
    with pytest.raises(KeyFileModeError, match="chmod 600"):
        KeyFile(path).read(is_first=False)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a file away")
def test_a_key_of_somebody_else_is_refused(path):
    KeyFile(path).read(is_first=True)
    os.chown(path, 12345, -1)
    with pytest.raises(KeyFileModeError, match="belongs to user 12345"):
        KeyFile(path).read(is_first=False)


def test_a_folder_is_no_key(path):
    path.mkdir(parents=True, mode=0o700)
    with pytest.raises(KeyFileError, match=str(path)):
        KeyFile(path).read(is_first=False)


def test_a_place_that_can_not_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(KeyFileError, match=r"keys\.file"):
        KeyFile(tmp_path / "file" / "node.key").read(is_first=True)


def test_a_rotation_replaces_the_file(path):
    source = KeyFile(path)
    [old] = source.read(is_first=True)
    new = source.stage(None, None)
    assert KeyFile(path).read(is_first=False) == [old, new]
    source.settle(new)
    source.settle(new)
    assert KeyFile(path).read(is_first=False) == [new]
    assert os.listdir(path.parent) == ["node.key"]


def test_a_rotation_that_did_not_happen_leaves_the_old_key(path):
    source = KeyFile(path)
    [old] = source.read(is_first=True)
    source.stage(None, None)
    KeyFile(path).settle(old)
    assert KeyFile(path).read(is_first=False) == [old]
    assert os.listdir(path.parent) == ["node.key"]


# A credential


def test_a_credential_is_read_as_text_or_bytes(tmp_path):
    source = Credential({"CREDENTIALS_DIRECTORY": str(tmp_path)})
    for content in (KEY, KEY.hex().encode(), KEY.hex().encode() + b"\n"):
        (tmp_path / "limpet.key").write_bytes(content)
        assert source.read(is_first=True) == [KEY]
    assert source.stage(None, None) is None
    with pytest.raises(PassphraseError):
        source.stage(KEY, NEW_WAY)


@pytest.mark.parametrize("has_directory", [True, False])
def test_a_missing_credential_says_which_line_the_unit_needs(tmp_path, has_directory):
    environment = {"CREDENTIALS_DIRECTORY": str(tmp_path)} if has_directory else {}
    with pytest.raises(KeyFileError, match=r"LoadCredentialEncrypted=limpet\.key"):
        Credential(environment).read(is_first=True)


# A passphrase


@pytest.fixture
def descriptor():
    made = make_key_descriptor([KEY])
    yield made
    os.close(made)


@pytest.fixture
def source(tmp_path, descriptor):
    save_stretchings(stretching_path(tmp_path), [OLD_WAY])
    return Passphrase(tmp_path, descriptor)


def test_keys_are_handed_over_by_descriptor(source, descriptor):
    assert source.read(is_first=True) == [KEY]
    assert not os.get_inheritable(descriptor)
    with pytest.raises(PermissionError):
        os.truncate(descriptor, 0)


def test_a_new_passphrase_is_known_to_whoever_comes_next(source, tmp_path, descriptor):
    assert source.stage(NEXT, NEW_WAY) == NEXT
    assert Passphrase(tmp_path, descriptor).read(is_first=False) == [KEY, NEXT]
    assert load_stretchings(stretching_path(tmp_path)) == [OLD_WAY, NEW_WAY]
    source.settle(NEXT)
    source.settle(NEXT)
    assert Passphrase(tmp_path, descriptor).read(is_first=False) == [NEXT]
    assert load_stretchings(stretching_path(tmp_path)) == [NEW_WAY]


def test_a_new_passphrase_that_came_to_nothing_is_forgotten(source, tmp_path):
    source.stage(NEXT, NEW_WAY)
    source.settle(KEY)
    assert source.read(is_first=False) == [KEY]
    assert load_stretchings(stretching_path(tmp_path)) == [OLD_WAY]


def test_without_a_new_passphrase_nothing_is_staged(source):
    with pytest.raises(PassphraseError, match="limpet key rotate"):
        source.stage(None, None)


def test_a_node_that_was_started_otherwise_says_so(tmp_path):
    with pytest.raises(PassphraseError, match="--passphrase-fd"):
        Passphrase(tmp_path, None).read(is_first=True)


def test_how_a_passphrase_is_stretched_can_be_lost_or_damaged(tmp_path):
    path = stretching_path(tmp_path)
    with pytest.raises(PassphraseError, match="is missing"):
        load_stretchings(path)
    for text in ("", "{}", '{"scrypt": []}', '{"scrypt": [{"salt": 1}]}', '{"scrypt": 1}', "[]"):
        path.write_text(text)
        with pytest.raises(KeyFileError, match=r"keyring\.json"):
            load_stretchings(path)


# Choosing


def chosen(tmp_path, **keys):
    overrides = {f"keys.{name}": value for name, value in keys.items()}
    settings = load_settings(overrides={"node.data_directory": tmp_path / "data", **overrides})
    return choose_source(settings, environment={}, descriptor=None)


def test_the_key_is_never_inside_the_data_directory(tmp_path):
    assert chosen(tmp_path).where == str(tmp_path / "data.key")
    assert chosen(tmp_path, file="/x/y").where == "/x/y"
    default = load_settings(overrides={"node.data_directory": "/var/lib/limpet"})
    assert str(default.key_file) == "/etc/limpet/node.key"


def test_the_settings_choose(tmp_path):
    for name in ("file", "credential", "passphrase"):
        assert chosen(tmp_path, source=name).name == name
