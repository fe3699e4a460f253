"""What was pulled, and what is not finished: remembered, superseded, forgotten."""

import os
from dataclasses import replace

import pytest

from limpet.store.database import Database, StoreDamagedError
from limpet.store.downloads import Downloads
from limpet.store.pulls import Pull, Pulls

KEY = bytes(32)
SOURCE = "oci://r.example/a:1"
OLD, NEW = "sha256:" + "a" * 64, "sha256:" + "b" * 64


@pytest.fixture
def database(tmp_path):
    opened = Database(tmp_path / "state.db")
    opened.open([KEY])
    yield opened
    opened.close()


def test_the_last_pull_counts_whatever_the_clock_says(database):
    pulls = Pulls(database, lambda _: True)
    pulls.write(Pull(source=SOURCE, module=OLD, manifest="m1", evidence="e", pulled_at=2e9))
    pulls.write(Pull(source=SOURCE, module=NEW, manifest="m2", pulled_at=1e9))
    assert pulls.latest(SOURCE).module == NEW
    assert pulls.of_module(SOURCE, OLD).evidence == "e"
    pulls.write(Pull(source=SOURCE, module=OLD, manifest="m3", pulled_at=1.0))
    assert pulls.latest(SOURCE).manifest == "m3"
    assert pulls.latest("oci://r.example/other:1") is None


def test_what_is_learned_of_an_older_pull_does_not_make_it_the_last(database):
    pulls = Pulls(database, lambda _: True)
    older = Pull(source=SOURCE, module=OLD, manifest="m1")
    pulls.write(older)
    pulls.write(Pull(source=SOURCE, module=NEW, manifest="m2"))
    pulls.amend(replace(older, evidence="e", extracted_from="m1"))
    assert pulls.latest(SOURCE).module == NEW
    kept = pulls.of_module(SOURCE, OLD)
    assert (kept.manifest, kept.evidence, kept.extracted_from) == ("m1", "e", "m1")


def test_a_module_that_is_gone_is_not_here_and_is_forgotten(database):
    here = {OLD}
    pulls = Pulls(database, here.__contains__)
    pulls.write(Pull(source=SOURCE, module=OLD))
    here.clear()
    assert pulls.latest(SOURCE) is None
    here.add(NEW)
    pulls.write(Pull(source=SOURCE, module=NEW))
    assert pulls.latest(SOURCE).module == NEW
    pulls.drop_missing(kept=[OLD])
    assert pulls.of_module(SOURCE, OLD) is not None, (
        "a release needs it: that is how it is had again"
    )
    pulls.drop_missing()
    assert pulls.of_module(SOURCE, OLD) is None
    assert pulls.latest(SOURCE).module == NEW


@pytest.mark.parametrize("use", [lambda pulls: pulls.named([SOURCE]), Pulls.drop_missing])
def test_damage_is_told(tmp_path, use):
    path, told = tmp_path / "state.db", []
    database = Database(path, on_damage=told.append)
    database.open([KEY])
    pulls = Pulls(database, lambda _: True)
    for number in range(200):
        pulls.write(Pull(source=f"oci://r.example/{number}:1", module=OLD, evidence="e" * 900))
    database.close()
    database.open([KEY])
    damaged = bytearray(path.read_bytes())
    for page in range(1, len(damaged) // 4096):
        damaged[page * 4096 + 100] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(StoreDamagedError, match="restores"):
        use(pulls)
    assert told
    database.leave()


def test_pulls_survive_a_restart(database, tmp_path):
    Pulls(database, lambda _: True).write(Pull(source=SOURCE, module=OLD, evidence='{"a": 1}'))
    database.close()
    again = Database(tmp_path / "state.db")
    again.open([KEY])
    assert Pulls(again, lambda _: True).latest(SOURCE).evidence == '{"a": 1}'
    again.close()


def test_a_download_keeps_what_came_and_nothing_that_did_not(tmp_path):
    downloads = Downloads(tmp_path)
    empty = downloads.open("oci://r.example/empty:1")
    empty.close()
    begun = downloads.open(SOURCE)
    os.write(begun.partial, b"part")
    os.write(begun.notes, b"note")
    begun.close()
    assert sorted(path.suffix for path in (tmp_path / "downloads").iterdir()) == [".note", ".part"]
    again = downloads.open(SOURCE)
    assert os.pread(again.partial, 10, 0) == b"part"
    again.publish(tmp_path / "module")
    again.close()
    assert (tmp_path / "module").read_bytes() == b"part"
    assert list((tmp_path / "downloads").iterdir()) == []


def test_downloads_that_nobody_waits_for_are_swept(tmp_path):
    downloads = Downloads(tmp_path)
    downloads.sweep([SOURCE])
    for source in (SOURCE, "oci://r.example/other:1"):
        begun = downloads.open(source)
        os.write(begun.partial, b"part")
        begun.close()
    downloads.sweep([SOURCE])
    assert len(list((tmp_path / "downloads").glob("*.part"))) == 1
    again = downloads.open(SOURCE)
    assert os.pread(again.partial, 10, 0) == b"part"
    again.close()


def test_a_symbolic_link_is_not_written_through(tmp_path):
    downloads = Downloads(tmp_path)
    begun = downloads.open(SOURCE)
    path = begun.path
    begun.close()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        downloads.open(SOURCE)
