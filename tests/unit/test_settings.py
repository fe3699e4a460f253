import json
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limpet import settings as settings_module
from limpet.settings import Settings, SettingsError, load_settings


@pytest.fixture
def file(tmp_path):
    """Write a settings file."""

    def write(text):
        path = tmp_path / "limpet.toml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write


def test_without_a_word_there_are_defaults():
    assert load_settings() == Settings()
    assert load_settings(environment={"PATH": "/bin", "LIMPET_SOCKET": "/x"}) == Settings()
    assert load_settings(environment={"LIMPET_WASMEDGE_ROOT": "/x"}) == Settings()


def test_flags_win_over_the_environment_and_that_over_the_file(file):
    path = file('[node]\nname = "file"\nresync_seconds = 1\nbackoff_seconds = 1\n')
    environment = {"LIMPET_NODE_NAME": "environment", "LIMPET_NODE_RESYNC_SECONDS": "2"}
    found = load_settings(file=path, environment=environment, overrides={"node.name": "flag"})
    assert found.node.name == "flag"
    assert found.node.resync_seconds == 2.0
    assert found.node.backoff_seconds == 1.0
    assert found.http == Settings().http


def test_a_flag_that_was_not_given_changes_nothing(file):
    path = file('[node]\nname = "file"\n')
    assert load_settings(file=path, overrides={"node.name": None}).node.name == "file"


def test_every_setting_can_be_set_in_every_way(file):
    lines, environment = [], {}
    for group in fields(Settings):
        lines.append(f"[{group.name}]")
        for entry in fields(getattr(Settings(), group.name)):
            kinds = {
                "Path": "/x/y",
                "str": "text",
                "int": 7,
                "float": 7.5,
                "KeySource": "passphrase",
                "bool": True,
            }
            value = kinds[entry.type]
            lines.append(f"{entry.name} = {json.dumps(value)}")
            environment[f"LIMPET_{group.name}_{entry.name}".upper()] = str(value).lower()
    from_file = load_settings(file=file("\n".join(lines)))
    assert from_file == load_settings(environment=environment)
    assert from_file.http.connections == 7
    assert type(from_file.http.connections) is int
    assert from_file.node.data_directory == Path("/x/y")


def test_a_key_source_is_one_of_those_there_are():
    for name in ("file", "passphrase", "credential"):
        assert load_settings(overrides={"keys.source": name}).keys.source == name
    for name in ("", "File", "tpm", 1):
        with pytest.raises(SettingsError, match="one of file, passphrase, credential"):
            load_settings(overrides={"keys.source": name})


@pytest.mark.parametrize(
    ("data", "file", "expected"),
    [
        ("/var/lib/limpet", "", "/etc/limpet/node.key"),
        ("/srv/node", "", "/srv/node.key"),
        ("/srv/node.d", "", "/srv/node.d.key"),
        ("/srv/node", "/media/stick/key", "/media/stick/key"),
    ],
)
def test_the_key_file_is_never_inside_the_data_directory(data, file, expected):
    settings = load_settings(overrides={"node.data_directory": data, "keys.file": file})
    assert settings.key_file == Path(expected)


def test_every_setting_is_documented():
    source = Path(settings_module.__file__).read_text()
    for group in fields(Settings):
        for entry in fields(getattr(Settings(), group.name)):
            assert f"\n    {entry.name}: " in source
            assert source.partition(f"\n    {entry.name}: ")[2].partition('"""')[0].count("\n") == 1


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("node.nme", "did you mean node.name?"),
        ("http.head_byte", "did you mean http.head_bytes?"),
        ("htp.connections", "did you mean http.connections?"),
        ("zzz.zzz", "known: bundles.keys, "),
    ],
)
def test_an_unknown_setting_is_refused_with_the_nearest_one(file, key, hint):
    group, _, name = key.partition(".")
    for options in (
        {"file": file(f"[{group}]\n{name} = 1\n")},
        {"environment": {f"LIMPET_{group}_{name}".upper(): "1"}},
        {"overrides": {key: "1"}},
    ):
        with pytest.raises(SettingsError) as caught:
            load_settings(**options)
        assert f"unknown setting {key}" in str(caught.value)
        assert hint in str(caught.value)


def test_the_source_of_a_mistake_is_named(file):
    path = file('[http]\nconnections = "many"\n')
    with pytest.raises(SettingsError, match=f"{path}: http.connections: expected a whole number"):
        load_settings(file=path)
    with pytest.raises(SettingsError, match=r"LIMPET_HTTP_CONNECTIONS: http.connections: expected"):
        load_settings(environment={"LIMPET_HTTP_CONNECTIONS": "many"})
    with pytest.raises(SettingsError, match=r"--data-directory: node.data_directory: expected"):
        load_settings(overrides={"node.data_directory": 1})


@pytest.mark.parametrize(
    "value",
    ["0", "-1", "1.5", "", "x", "true", "false", "inf", "nan", "[1]", "1e3", "1979-05-27", '"0"'],
)
def test_a_whole_number_is_one_above_zero(file, value):
    with pytest.raises(SettingsError, match=r"http.connections: expected|can't read"):
        load_settings(file=file(f"[http]\nconnections = {value}\n"))


@pytest.mark.parametrize(
    "value", ["0", "-0.1", "inf", "-inf", "nan", "true", '"x"', "[]", "1" + "0" * 400]
)
def test_a_number_is_one_above_zero(file, value):
    with pytest.raises(SettingsError, match=r"node.resync_seconds: expected a number above zero"):
        load_settings(file=file(f"[node]\nresync_seconds = {value}\n"))


@pytest.mark.parametrize("value", ["1", "true", "[]", '""', '"~nobody-has-this-name/x"'])
def test_a_path_is_text(file, value):
    with pytest.raises(SettingsError, match=r"node.data_directory: expected a path"):
        load_settings(file=file(f"[node]\ndata_directory = {value}\n"))


def test_a_path_is_made_absolute(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    found = load_settings(overrides={"node.data_directory": "x", "node.socket_path": "~/y"})
    assert found.node.data_directory == tmp_path / "x"
    assert found.node.socket_path == Path("/home/me/y")


@pytest.mark.parametrize(
    "text", ["[node", "node = 1", 'name = "x"', b"\xff", "[node]\nname = 'a'\nname = 'b'"]
)
def test_a_file_that_is_none_is_refused(file, text):
    path = file(text)
    with pytest.raises(SettingsError, match=str(path)):
        load_settings(file=path)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(SettingsError, match=r"can't read the settings"):
        load_settings(file=tmp_path / "none.toml")


@given(st.sampled_from(["LIMPET_NODE_NAME", "LIMPET_HTTP_CONNECTIONS"]), st.text(max_size=20))
def test_any_text_of_the_environment_is_a_value_or_refused(name, text):
    try:
        found = load_settings(environment={name: text})
    except SettingsError:
        return
    assert found.node.name == text or found.http.connections == int(text)


@pytest.mark.parametrize(
    ("uid", "environment", "data", "socket"),
    [
        (0, {}, "/var/lib/limpet", "/run/limpet/limpet.sock"),
        (0, {"XDG_DATA_HOME": "/d"}, "/var/lib/limpet", "/run/limpet/limpet.sock"),
        (1, {}, "/h/.local/share/limpet", "/h/.local/share/limpet/limpet.sock"),
        (1, {"XDG_DATA_HOME": "/d"}, "/d/limpet", "/d/limpet/limpet.sock"),
        (1, {"XDG_RUNTIME_DIR": "/r"}, "/h/.local/share/limpet", "/r/limpet.sock"),
    ],
)
def test_where_things_are_depends_on_who_asks(monkeypatch, uid, environment, data, socket):
    for name in ("XDG_DATA_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (environment | {"HOME": "/h"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(settings_module.os, "geteuid", lambda: uid)
    node = load_settings().node
    assert (str(node.data_directory), str(node.socket_path)) == (data, socket)
