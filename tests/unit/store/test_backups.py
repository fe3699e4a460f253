import os
import shutil
from dataclasses import replace

import apsw
import pytest

from limpet.store.backups import BackupError, Backups
from limpet.store.database import _MIGRATIONS, SCHEMA_VERSION, Database, StoreError
from limpet.store.encryption import open_encrypted

from .state_rows import COMPLETION, KEY, OBJECT, OTHER, event


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data" / "state.db"


@pytest.fixture
def database(path):
    database = Database(path, kept_backups=2)
    database.open([KEY])
    yield database
    database.close()


def names(database):
    return [each.name for each in database.backups.paths()]


def objects_of(backup, key=KEY):
    connection, _ = open_encrypted(backup, [key])
    try:
        return [name for (name,) in connection.execute("SELECT name FROM objects ORDER BY name")]
    finally:
        connection.close()


def test_a_backup_holds_what_was_acknowledged(database):
    database.write_objects([OBJECT])
    backup = database.back_up()
    assert objects_of(backup) == ["a"]
    assert oct(backup.stat().st_mode & 0o777) == "0o600"
    with pytest.raises(Exception, match="key"):
        open_encrypted(backup, [OTHER])


def test_nothing_new_makes_no_backup(database):
    database.write_objects([OBJECT])
    assert database.back_up() is not None
    assert database.back_up() is None
    database.write_events([event("one more")])  # history
    assert database.back_up() is None
    database.write_completion(COMPLETION)
    assert database.back_up() is not None


def test_only_promises_count_as_changes(database):
    assert database.take_changes()  # nobody knows what an earlier run has written
    assert not database.take_changes()
    database.write_events([event("history")])
    assert not database.take_changes()
    database.write_objects([OBJECT])
    assert database.take_changes()
    assert not database.take_changes()
    database.delete_object("Deployment", "default", "a")
    assert database.take_changes()
    database.expect_changes()
    assert database.take_changes()


def test_the_newest_are_kept(database):
    for generation in range(1, 6):
        database.write_objects([replace(OBJECT, generation=generation)])
        database.back_up()
    assert names(database) == ["state-000005.db", "state-000004.db"]


def test_an_older_one_goes_only_when_the_new_one_can_be_read(database, path, monkeypatch):
    database.write_objects([OBJECT])
    database.back_up()
    database.write_objects([replace(OBJECT, name="b")])
    monkeypatch.setattr("limpet.store.backups.find_damage", lambda _: "page 7")
    with pytest.raises(BackupError, match="page 7"):
        database.back_up()
    assert names(database) == ["state-000001.db"]
    assert os.listdir(path.parent / "backups") == ["state-000001.db"]


def test_a_full_disk_leaves_the_backups_that_are_there(database, monkeypatch):
    database.write_objects([OBJECT])
    database.back_up()
    database.write_objects([replace(OBJECT, name="b")])

    def fail(*_):
        raise apsw.FullError("full")

    monkeypatch.setattr("limpet.store.backups.write_copy", fail)
    with pytest.raises(BackupError, match="full"):
        database.back_up()
    assert names(database) == ["state-000001.db"]


def test_they_stay_readable_when_the_key_changes(database):
    database.write_objects([OBJECT])
    database.back_up()
    database.rekey([OTHER, KEY])
    assert [objects_of(each, KEY) for each in database.backups.paths()] == [["a"]]
    assert database.backups.rekey([OTHER, KEY]) == []
    assert [objects_of(each, OTHER) for each in database.backups.paths()] == [["a"]]
    assert database.backups.rekey([OTHER, KEY]) == []


def test_one_that_can_not_be_read_keeps_its_key_and_is_named(database):
    database.write_objects([OBJECT])
    backup = database.back_up()
    backup.write_bytes(b"x" * 4096)
    (problem,) = database.backups.rekey([OTHER, KEY])
    assert str(backup) in problem


def test_giving_room_up_leaves_the_newest(database):
    for generation in (1, 2):
        database.write_objects([replace(OBJECT, generation=generation)])
        database.back_up()
    assert database.backups.drop_all_but_newest() == 1
    assert names(database) == ["state-000002.db"]
    assert database.backups.drop_all_but_newest() == 0


def test_foreign_files_are_left_alone(database, path):
    database.write_objects([OBJECT])
    database.back_up()
    mine = path.parent / "backups" / "state-of-my-own.db"
    mine.write_text("mine")
    database.write_objects([replace(OBJECT, name="b")])
    database.back_up()
    assert mine.read_text() == "mine"
    assert names(database) == ["state-000002.db", "state-000001.db"]


def schema_1(path):
    path.parent.mkdir()
    connection, _ = open_encrypted(path, [KEY])
    connection.pragma("journal_mode", "wal")
    connection.execute(_MIGRATIONS[0])
    connection.pragma("user_version", 1)
    connection.execute(
        "INSERT INTO objects VALUES ('Deployment', 'default', 'a', 1, 1000.5, ?, NULL)",
        (OBJECT.body,),
    )
    connection.close()


def test_a_backup_comes_before_each_step_of_the_schema(path):
    schema_1(path)
    before = path.read_bytes()
    database = Database(path)
    database.open([KEY])
    assert database.load_objects() == [OBJECT]
    database.close()
    assert names(database) == ["before-schema-2.db"]
    backup = path.parent / "backups" / "before-schema-2.db"
    connection, _ = open_encrypted(backup, [KEY])
    assert connection.pragma("user_version") == 1
    connection.close()
    assert objects_of(backup) == ["a"]
    assert before != path.read_bytes()


def newer_schema(path, key=KEY):
    """Leave a state file as a newer Limpet that was killed in the middle of it."""
    database = Database(path)
    database.open([key])
    database.backups.make_before(database.connection, key, schema=SCHEMA_VERSION + 1)
    database.connection.execute("CREATE TABLE later (x TEXT) STRICT")
    database.connection.pragma("user_version", SCHEMA_VERSION + 1)
    killed = {each: each.read_bytes() for each in path.parent.glob("state.db*")}
    database.close()
    for each, data in killed.items():
        each.write_bytes(data)


def test_going_back_puts_the_state_of_before_a_newer_schema_in_its_place(database, path):
    database.write_objects([OBJECT])
    database.close()
    newer_schema(path)
    with pytest.raises(StoreError, match="run the newer Limpet"):
        Database(path).open([KEY])
    older = Database(path)
    older.may_go_back = True
    older.open([KEY])
    assert older.load_objects() == [OBJECT]
    assert older.connection.pragma("user_version") == SCHEMA_VERSION
    assert "before-schema-3.db" in older.went_back
    older.write_objects([replace(OBJECT, name="b")])
    older.close()
    assert (path.parent / "state.db.schema-3").exists()
    again = Database(path)
    again.may_go_back = True
    again.open([KEY])
    assert again.went_back is None
    assert [each.name for each in again.load_objects()] == ["a", "b"]
    again.close()


def test_going_back_without_that_backup_changes_nothing(database, path):
    database.write_objects([OBJECT])
    database.close()
    newer_schema(path)
    (path.parent / "backups" / "before-schema-3.db").write_bytes(b"damaged")
    before = path.read_bytes()
    older = Database(path)
    older.may_go_back = True
    with pytest.raises(StoreError, match="can't be put back"):
        older.open([KEY])
    assert path.read_bytes() == before


def test_no_step_without_a_backup(path, monkeypatch):
    schema_1(path)
    before = path.read_bytes()

    def fail(*_):
        raise apsw.FullError("full")

    monkeypatch.setattr("limpet.store.backups.write_copy", fail)
    with pytest.raises(StoreError, match="not changed without a backup"):
        Database(path).open([KEY])
    connection, _ = open_encrypted(path, [KEY])
    assert connection.pragma("user_version") == 1
    connection.close()
    assert path.read_bytes() == before


def test_a_newer_schema_is_refused_with_what_waits_in_its_log(database, path, tmp_path):
    """As a newer Limpet that was killed has left it."""
    database.write_objects([OBJECT])
    database.close()
    newer, _ = open_encrypted(path, [KEY])
    newer.pragma("user_version", 99)
    newer.execute("DELETE FROM objects")
    killed = tmp_path / "killed"
    shutil.copytree(path.parent, killed)
    newer.close()
    assert (killed / "state.db-wal").stat().st_size
    before = {each.name: each.read_bytes() for each in killed.glob("state.db*")}
    with pytest.raises(StoreError, match=r"schema 99.*Nothing was changed"):
        Database(killed / "state.db").open([KEY])
    before.pop("state.db-shm", None)  # an index of the log that each process may make anew
    after = {each.name: each.read_bytes() for each in killed.glob("state.db*")}
    after.pop("state.db-shm", None)
    assert after == before


def test_what_a_kill_left_unfinished_is_removed_with_the_next(database, path):
    database.write_objects([OBJECT])
    folder = path.parent / "backups"
    folder.mkdir()
    (folder / ".state-000001.db.part").write_bytes(b"x")
    (folder / ".state-000001.db.part-journal").write_bytes(b"x")
    database.back_up()
    assert os.listdir(folder) == ["state-000001.db"]


def test_there_may_be_none(tmp_path):
    backups = Backups(tmp_path / "none", kept=3)
    assert backups.paths() == []
    assert backups.open_newest([KEY]) is None
    with pytest.raises(BackupError, match="can't read"):
        backups.make(tmp_path / "state.db", [KEY])
