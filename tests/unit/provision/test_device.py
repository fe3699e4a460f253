from __future__ import annotations

from pathlib import Path

import pytest

from limpet.provision import device
from limpet.provision.finding import Level
from limpet.settings import KeysSettings, NodeSettings, Settings


def settings(tmp_path, **keys):
    node = NodeSettings(data_directory=tmp_path / "data")
    return Settings(node=node, keys=KeysSettings(**keys))


@pytest.mark.parametrize(
    ("source", "level"),
    [("file", Level.HINT), ("credential", Level.OK), ("passphrase", Level.OK)],
)
def test_a_key_beside_its_data_is_a_hint(tmp_path, source, level):
    assert device._key(settings(tmp_path, source=source)).level is level


def test_a_tpm_that_is_not_used_is_a_hint(tmp_path, monkeypatch):
    monkeypatch.setattr(device, "_TPM", Path("/dev/null"))
    assert device._tpm(settings(tmp_path)).level is Level.HINT
    assert device._tpm(settings(tmp_path, source="credential")).level is Level.OK
    monkeypatch.setattr(device, "_TPM", tmp_path / "none")
    assert device._tpm(settings(tmp_path)).level is Level.OK


def test_swap_on_a_disk_is_a_hint(monkeypatch):
    monkeypatch.setattr(device, "_read_swaps", lambda: ["/dev/zram0"])
    assert device._swap().level is Level.OK
    monkeypatch.setattr(device, "_read_swaps", lambda: ["/dev/zram0", "/var/swap"])
    assert device._swap().level is Level.HINT
    assert device._swap().details == {"plain": ["/var/swap"]}


def test_room_is_that_of_the_folder_to_come(tmp_path):
    found = device._disk(tmp_path / "not" / "there")
    assert 0 < found.details["free_bytes"] <= found.details["total_bytes"]


def test_little_room_is_a_hint():
    def level(free):
        return device._room("disk", 100, free, low=50, fix="").level

    assert level(50) is Level.OK
    assert level(49) is Level.HINT
