import os
import stat
import tempfile
from dataclasses import replace
from pathlib import Path

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limpet.store import database as database_module
from limpet.store.database import (
    _MIGRATIONS,
    SCHEMA_VERSION,
    Database,
    StoreError,
    StoreFullError,
    encode_body,
)
from limpet.store.encryption import open_encrypted

from .state_rows import COMPLETION, KEY, OBJECT, OTHER, event, noise


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data" / "state.db"


@pytest.fixture
def database(path):
    database = Database(path)
    database.open([KEY])
    yield database
    database.close()


def reopened(path):
    """What another process would find."""
    again = Database(path)
    again.open([KEY])
    return again


def test_the_file_is_for_its_owner_only(database, path):
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_what_was_written_is_there_after_a_crash(database, path):
    database.write_objects([OBJECT, replace(OBJECT, name="b", digest="sha256:00")])
    database.write_completion(COMPLETION)
    database.write_events([event("one"), event("two", count=7)])
    again = reopened(path)
    assert again.load_objects() == [OBJECT, replace(OBJECT, name="b", digest="sha256:00")]
    assert again.load_completions() == [COMPLETION]
    assert again.load_events() == [event("one"), event("two", count=7)]
    again.close()


def test_objects_come_oldest_first(database):
    later = replace(OBJECT, name="0", created_at=2000.0)
    database.write_objects([later, OBJECT, replace(OBJECT, kind="Service")])
    found = [(stored.kind, stored.name) for stored in database.load_objects()]
    assert found == [("Deployment", "a"), ("Service", "a"), ("Deployment", "0")]


def test_an_object_is_replaced_by_its_next_generation(database):
    database.write_objects([OBJECT])
    changed = replace(OBJECT, generation=2, body="{}", digest="sha256:11")
    database.write_objects([changed])
    assert database.load_objects() == [changed]


def test_all_objects_or_none(database):
    with pytest.raises(StoreFullError, match="nothing was changed"):
        database.write_objects([OBJECT, replace(OBJECT, name="b", generation=None)])
    assert database.load_objects() == []


def test_deleting_takes_the_completion_along(database, path):
    job = replace(OBJECT, kind="Job")
    database.write_objects([OBJECT, job])
    database.write_completion(COMPLETION)
    database.write_completion(replace(COMPLETION, kind="Pod"))
    database.delete_object("Job", "default", "a")
    database.delete_object("Job", "default", "never there")
    again = reopened(path)
    assert again.load_objects() == [OBJECT]
    assert again.load_completions() == [replace(COMPLETION, kind="Pod")]
    again.close()


def test_the_last_completion_counts(database):
    database.write_completion(COMPLETION)
    latest = replace(COMPLETION, generation=3, exit_code=None, reason="Signal")
    database.write_completion(latest)
    assert database.load_completions() == [latest]


def test_only_so_many_events_are_kept(database):
    database.write_events(event(str(number)) for number in range(1500))
    database.write_events([])
    database.write_events(event(str(number)) for number in range(1500, 3000))
    assert [e.message for e in database.load_events()] == [str(n) for n in range(1000, 3000)]


def test_a_file_of_a_newer_limpet_is_left_alone(database, path):
    database.write_objects([OBJECT])
    database.close()
    connection, _ = open_encrypted(path, [KEY])
    connection.pragma("user_version", SCHEMA_VERSION + 1)
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match="run the newer Limpet"):
        Database(path).open([KEY])
    assert path.read_bytes() == before


def test_a_file_that_is_none_of_ours_is_refused(path):
    path.parent.mkdir()
    path.write_bytes(b"something else entirely " * 100)
    with pytest.raises(StoreError, match=str(path)):
        Database(path).open([KEY])


def test_a_wrong_key_is_said_and_changes_nothing(database, path):
    database.write_objects([OBJECT])
    database.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match="the node's key does not open it"):
        Database(path).open([OTHER])
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["state.db"]


def test_nothing_of_it_can_be_read(database, path):
    database.write_objects([replace(OBJECT, name="planted-name", body="planted-body")])
    database.write_events([event("planted-message")])
    for found in path.parent.iterdir():
        assert b"planted" not in found.read_bytes()


def test_a_plain_file_of_an_earlier_version_is_encrypted(path):
    path.parent.mkdir()
    plain = apsw.Connection(str(path))
    plain.pragma("journal_mode", "wal")
    plain.execute(_MIGRATIONS[0])
    plain.pragma("user_version", 1)
    plain.execute(
        "INSERT INTO objects VALUES ('Deployment', 'default', 'a', 1, 1000.5, ?, NULL)",
        (OBJECT.body,),
    )
    plain.close()
    database = reopened(path)
    assert database.load_objects() == [OBJECT]
    database.write_objects([replace(OBJECT, name="b")])
    database.close()
    assert b"Deployment" not in path.read_bytes()
    assert sorted(os.listdir(path.parent)) == ["backups", "state.db"]
    assert os.listdir(path.parent / "backups") == ["before-schema-2.db"]
    assert b"Deployment" not in (path.parent / "backups" / "before-schema-2.db").read_bytes()


def test_a_new_key_is_taken_while_the_file_is_in_use(database, path):
    database.write_objects([OBJECT])
    database.rekey([OTHER, KEY])
    assert database.load_objects() == [OBJECT]
    database.write_objects([replace(OBJECT, name="b")])
    assert database.connection.pragma("journal_mode") == "wal"
    database.close()
    with pytest.raises(StoreError):
        Database(path).open([KEY])
    database.open([OTHER])
    assert len(database.load_objects()) == 2


def test_a_change_of_keys_that_was_interrupted_is_finished(database, path):
    database.write_objects([OBJECT])
    database.close()
    database.open([OTHER, KEY])
    assert database.load_objects() == [OBJECT]
    database.close()
    database.open([OTHER])


def test_a_new_key_that_can_not_be_taken_leaves_the_old_one(database, path, monkeypatch):
    database.write_objects([OBJECT])

    def fail(*_):
        raise apsw.FullError("full")

    monkeypatch.setattr(database_module, "rewrite", fail)
    with pytest.raises(StoreError, match="anew"):
        database.rekey([KEY, OTHER])
    monkeypatch.undo()
    assert database.load_objects() == [OBJECT]


def test_a_folder_that_can_not_be_made_is_said(tmp_path):
    (tmp_path / "data").write_text("in the way")
    with pytest.raises((StoreError, OSError), match="data"):
        Database(tmp_path / "data" / "state.db").open([KEY])


def test_a_full_disk_is_temporary_and_changes_nothing(database, path):
    database.write_objects([OBJECT])
    connection = database.connection
    used = connection.pragma("page_count")
    connection.pragma("max_page_count", used)
    large = replace(OBJECT, name="b", body=noise(1 << 21))
    for write in (
        lambda: database.write_objects([replace(OBJECT, generation=2), large]),
        lambda: database.write_events([event("x" * (1 << 20))]),
        lambda: database.write_completion(replace(COMPLETION, message="x" * (1 << 20))),
    ):
        with pytest.raises(StoreFullError, match="Free some space") as caught:
            write()
        assert caught.value.is_retryable
    assert database.load_objects() == [OBJECT]
    assert database.load_events() == []
    connection.pragma("max_page_count", used + 10_000)
    database.write_objects([large])
    again = reopened(path)
    assert len(again.load_objects()) == 2
    again.close()


def test_room_is_made_for_promises_and_not_for_history(path):
    asked = []

    def make_room():
        asked.append(True)
        database.connection.pragma("max_page_count", 10_000)
        return True

    database = Database(path, make_room=make_room)
    database.open([KEY])
    database.write_objects([OBJECT])
    large = noise(1 << 21)
    for write, count in (
        (lambda: database.write_objects([replace(OBJECT, body=large)]), 1),
        (lambda: database.write_completion(replace(COMPLETION, message=large)), 2),
    ):
        database.connection.pragma("max_page_count", database.connection.pragma("page_count"))
        with pytest.raises(StoreFullError):
            database.write_events([event(large)])
        write()
        assert len(asked) == count
    again = reopened(path)
    assert again.load_objects()[0].body == large
    assert again.load_completions()[0].message == large
    again.close()
    database.close()


def test_the_state_has_a_budget(path):
    database = Database(path, max_bytes=1 << 20)
    database.open([KEY])
    with pytest.raises(StoreFullError, match=r"state\.max_bytes"):
        database.write_objects([replace(OBJECT, body=noise(3 << 20))])
    database.write_objects([OBJECT])
    database.close()


def test_the_log_has_blocks_for_some_changes(database, path):
    log = path.with_name("state.db-wal")
    assert log.stat().st_blocks * 512 >= 512 << 10


def test_modules_of_objects_and_of_releases_are_needed(database):
    database.write_objects([replace(OBJECT, digest="sha256:aa"), replace(OBJECT, name="b")])
    database.write(
        "INSERT INTO releases VALUES ('Deployment', 'n', 'a', ?, 1.0, x'01', ?, 'x', '', NULL)",
        [(1, "sha256:bb"), (2, "sha256:aa"), (3, None)],
    )
    assert database.load_needed_digests() == {"sha256:aa", "sha256:bb"}


def test_changes_are_synced_before_they_are_acknowledged(database):
    connection = database.connection
    assert connection.pragma("journal_mode") == "wal"
    assert connection.pragma("synchronous") == 2


def test_closing_twice_and_opening_again_is_fine(database):
    database.write_objects([OBJECT])
    before = len(os.listdir("/proc/self/fd"))
    database.close()
    database.close()
    database.open([KEY])
    assert database.load_objects() == [OBJECT]
    assert len(os.listdir("/proc/self/fd")) == before


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@settings(max_examples=50)
@given(TEXT.filter(lambda text: "\0" not in text), TEXT)
def test_any_text_can_be_stored(name, body):
    with tempfile.TemporaryDirectory() as folder:
        database = Database(Path(folder) / "state.db")
        database.open([KEY])
        stored = replace(OBJECT, name=name, body=body)
        database.write_objects([stored])
        assert database.load_objects() == [stored]
        database.close()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(TEXT, JSON, max_size=4))
def test_equal_objects_have_equal_text(document):
    backwards = dict(reversed(document.items()))
    assert encode_body(document) == encode_body(backwards)
