"""A state file that the disk has damaged, in each way that this can happen."""

import os
import random
import shutil
from dataclasses import replace

import pytest

from limpet.store import restoring
from limpet.store.backups import BackupError, Backups
from limpet.store.database import Database, StoreDamagedError, StoreError
from limpet.store.encryption import open_encrypted
from limpet.store.restoring import Loss, describe_loss

from .state_rows import COMPLETION, KEY, OBJECT, OTHER, event, noise

PAGE = 4096
LARGE = noise(6 * PAGE)
NAMES = [f"a{number:03}" for number in range(120)]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data" / "state.db"


def opened(path, *keys):
    database = Database(path, node="rock")
    database.open(list(keys) or [KEY])
    return database


def fill(database, names=NAMES):
    """Objects of which every tenth needs pages of its own."""
    database.write_objects(
        [
            replace(OBJECT, name=name, body=LARGE if number % 10 == 0 else "small" * 100)
            for number, name in enumerate(names)
        ]
    )


def damage(path, *pages):
    data = bytearray(path.read_bytes())
    for page in pages:
        data[page * PAGE + 100] ^= 1
    path.write_bytes(data)


def restored_names(path):
    database = opened(path)
    found = {stored.name for stored in database.load_objects()}
    message = database.restored
    events = [e for e in database.load_events() if e.reason == "StateRestored"]
    database.close()
    return found, message, events


def pages(path):
    return path.stat().st_size // PAGE


def test_a_whole_file_is_left_alone(path):
    database = opened(path)
    fill(database)
    database.close()
    assert restored_names(path) == (set(NAMES), None, [])


@pytest.mark.parametrize("seed", range(12))
def test_any_page_may_be_damaged(path, seed):
    chance = random.Random(seed)
    database = opened(path)
    fill(database, NAMES[:100])
    database.back_up()
    fill(database, NAMES[100:])
    database.delete_object("Deployment", "default", NAMES[0])
    database.close()
    wal = path.with_name("state.db-wal")
    assert not wal.exists()
    chosen = chance.sample(range(1, pages(path)), 2)
    damage(path, *chosen)
    broken = path.read_bytes()
    found, message, events = restored_names(path)
    assert set(NAMES[1:100]) <= found <= set(NAMES)
    if message is None:  # pages that nothing is on
        assert found == set(NAMES[1:])
        return
    assert path.with_name("state.db.damaged-1").read_bytes() == broken
    assert [e.message for e in events] == [message]
    assert (events[0].kind, events[0].name, events[0].type) == ("Node", "rock", "Warning")
    if "nothing was lost" in message:
        assert found == set(NAMES[1:])
    if NAMES[0] in found:  # it had been deleted, and only the backup knows it
        assert f"Deployment default/{NAMES[0]}" in message or " more could not" in message
    again, message, _ = restored_names(path)
    assert (again, message) == (found, None)


def test_without_a_backup_what_can_be_read_is_kept_and_the_rest_is_named(path):
    database = opened(path)
    fill(database)
    tree = database.connection.execute(
        "SELECT name, pageno FROM dbstat WHERE pagetype = 'overflow' AND name = 'objects'"
    )
    page = min(int(number) for _, number in tree) if _has_dbstat(database) else 5
    database.close()
    damage(path, page - 1)
    found, message, _ = restored_names(path)
    lost = set(NAMES) - found
    assert len(found) > len(NAMES) - 12
    assert "no good backup" in message
    for name in lost:
        assert f"Deployment default/{name}" in message


def _has_dbstat(database):
    rows = database.connection.execute("SELECT 1 FROM pragma_module_list WHERE name = 'dbstat'")
    return bool(rows.fetchall())


@pytest.mark.parametrize("how", ["flipped", "zeroed", "cut", "noise", "empty", "missing"])
def test_a_beginning_that_can_not_be_read(path, how):
    database = opened(path)
    fill(database, NAMES[:50])
    database.write_completion(COMPLETION)
    database.back_up()
    fill(database, NAMES[50:])
    database.close()
    whole = path.read_bytes()
    changed = {
        "flipped": bytes([whole[0] ^ 1]) + whole[1:],
        "zeroed": bytes(PAGE) + whole[PAGE:],
        "cut": whole[:100],
        "noise": random.Random(1).randbytes(PAGE) + whole[PAGE:],
        "empty": b"",
    }
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes(changed[how])
    found, message, events = restored_names(path)
    assert found == set(NAMES[:50])
    assert "state-000001.db" in message
    assert "apply it again" in message
    assert len(events) == 1
    if how != "missing":
        assert path.with_name("state.db.damaged-1").read_bytes() == changed[how]


def test_another_nodes_file_is_refused_where_no_backup_shows_that_it_is_damaged(path):
    database = opened(path, OTHER)
    fill(database)
    database.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match="another node's, or damaged"):
        opened(path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["state.db"]


def test_backups_of_another_node_are_no_reason_either(path):
    database = opened(path, OTHER)
    fill(database)
    database.back_up()
    database.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match="another node's, or damaged"):
        opened(path)
    assert path.read_bytes() == before


def test_a_backup_that_is_damaged_too_gives_way_to_the_one_before(path):
    database = opened(path)
    fill(database, NAMES[:10])
    database.back_up()
    fill(database, NAMES[10:20])
    newest = database.back_up()
    fill(database, NAMES[20:])
    database.close()
    damage(path, 0)
    damage(newest, 2)
    found, message, _ = restored_names(path)
    assert found == set(NAMES[:10])
    assert "state-000001.db" in message


def test_damage_to_history_alone_loses_nothing_that_was_promised(path):
    database = opened(path)
    fill(database)
    database.write_events([event("x" * 1900) for _ in range(40)])
    rows = database.connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'events'")
    page = rows.get
    database.close()
    damage(path, page - 1)
    found, message, _ = restored_names(path)
    assert found == set(NAMES)
    assert f"nothing was lost: all {len(NAMES)} objects" in message


def test_what_waits_in_the_log_is_salvaged_with_the_file(path, tmp_path):
    """A power cut that also tore a page: the write-ahead log holds the newest changes."""
    database = opened(path)
    fill(database, NAMES[:60])
    database.close()
    database = opened(path)
    database.write_objects([replace(OBJECT, name="newest")])
    rows = database.connection.execute("SELECT rootpage - 1 FROM sqlite_schema")
    tables = {page for (page,) in rows}
    cut = tmp_path / "cut"
    shutil.copytree(path.parent, cut)
    database.close()
    state = cut / "state.db"
    size = pages(state)
    damage(state, *[page for page in range(size - 3, size) if page not in tables])
    found, message, _ = restored_names(state)
    assert message is not None
    assert "newest" in found
    assert (cut / "state.db.damaged-1-wal").exists()


@pytest.mark.parametrize("left", ["", "-wal"])
def test_what_is_left_of_an_earlier_time_is_not_written_over(path, left):
    database = opened(path)
    fill(database)
    database.back_up()
    database.close()
    damage(path, 3)
    path.with_name("state.db-wal").write_bytes(b"")
    old = path.with_name(f"state.db.damaged-1{left}")
    old.write_bytes(b"of an earlier time")
    found, message, _ = restored_names(path)
    assert (found, old.read_bytes()) == (set(NAMES), b"of an earlier time")
    assert "state.db.damaged-2" in message


def test_no_room_for_it_changes_nothing(path, monkeypatch):
    database = opened(path)
    fill(database)
    database.back_up()
    database.close()
    damage(path, 3)
    before = path.read_bytes()

    def fail(_path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(restoring, "_sync", fail)
    with pytest.raises(StoreError, match="No space"):
        opened(path)
    monkeypatch.undo()
    assert path.read_bytes() == before
    found, message, _ = restored_names(path)
    assert found == set(NAMES)
    assert message


@pytest.mark.parametrize("at", ["_set_aside", "publish", "finish_restoring"])
def test_a_kill_on_the_way_is_made_good(path, at, monkeypatch):
    database = opened(path)
    fill(database, NAMES[:60])
    database.back_up()
    fill(database, NAMES[60:])
    database.close()
    damage(path, 0)

    class Killed(BaseException):
        pass

    def die(*_):
        raise Killed

    database = Database(path, node="rock")
    with monkeypatch.context() as patch:
        if at == "finish_restoring":
            patch.setattr(restoring, at, die)  # the database's own is another name
        else:
            patch.setattr(restoring, at, die)
        with pytest.raises(Killed):
            database.open([KEY])
    found, _, events = restored_names(path)
    assert found == set(NAMES[:60])
    assert len(events) == 1
    left = {name for name in os.listdir(path.parent) if "restor" in name}
    assert left == set()


@pytest.mark.parametrize("by", ["reading", "writing", "backing up"])
def test_damage_that_is_met_later_is_told_and_mended_by_opening_again(path, by):
    database = opened(path)
    many = [
        replace(OBJECT, name=f"b{number:04}", body=noise(1800, number)) for number in range(800)
    ]
    database.write_objects(many)
    database.back_up()
    database.close()
    told = []
    database = Database(path, node="rock", on_damage=told.append)
    database.open([KEY])
    damage(path, *range(1, pages(path)))
    damaged = path.read_bytes()
    if by == "reading":
        with pytest.raises(StoreDamagedError, match="try again in a few seconds"):
            database.read("SELECT * FROM objects")
    elif by == "writing":
        with pytest.raises(StoreDamagedError, match="nothing was changed"):
            database.write_objects([replace(each, body="changed") for each in many])
    else:
        with pytest.raises(BackupError):
            database.back_up()
    assert len(told) == 1
    database.leave()
    assert path.read_bytes() == damaged
    database.open([KEY])
    assert database.restored is not None
    assert len(database.load_objects()) == 800
    database.close()


def test_the_state_of_an_earlier_schema_is_restored_and_then_migrated(path):
    database = opened(path)
    fill(database)
    database.close()
    connection, _ = open_encrypted(path, [KEY])
    connection.execute("DROP TABLE releases; DROP TABLE manifest_files; DROP TABLE pulls")
    connection.pragma("user_version", 1)
    connection.close()
    Backups(path.parent / "backups", kept=1).make(path, [KEY])
    damage(path, 0)
    database = opened(path)
    assert database.connection.pragma("user_version") == 2
    assert len(database.load_objects()) == len(NAMES)
    assert database.restored
    database.close()


def test_a_loss_is_told_in_whole_sentences():
    told = describe_loss(
        Loss(
            why="page 7",
            aside="state.db.damaged-1",
            backup="state-000003.db",
            backup_time=0.0,
            restored=tuple(f"Job n/{number}" for number in range(25)),
            lost=("Pod n/b",),
            kept=9,
            has_gap=True,
        )
    )
    assert "1970-01-01 00:00:00 UTC" in told
    assert "Job n/19 and 5 more could not be read and come from the backup" in told
    assert "Pod n/b could not be read and are lost" in told
