import apsw
import pytest

from limpet.store.database import Database, StoredObject, StoreFullError
from limpet.store.manifest_files import Held, load_held, write_held

KEY = b"k" * 32
ONE, TWO = ("ConfigMap", "default", "one"), ("ConfigMap", "default", "two")


def stored(key):
    kind, namespace, name = key
    return StoredObject(
        kind=kind,
        namespace=namespace,
        name=name,
        generation=1,
        created_at=1.0,
        body="{}",
        digest=None,
    )


@pytest.fixture
def database(tmp_path):
    made = Database(tmp_path / "state.db")
    made.open([KEY])
    yield made
    made.close()


def test_there_and_back(database):
    assert load_held(database) == {}
    write_held(database, put={ONE: Held("a.yaml", "1"), TWO: Held("b.yaml", "2")}, drop=[])
    write_held(database, put={ONE: Held("b.yaml", "1")}, drop=[TWO])
    assert load_held(database) == {ONE: Held("b.yaml", "1")}


def test_moved_and_dropped_in_one(database):
    write_held(database, put={ONE: Held("a.yaml", "1")}, drop=[ONE])
    assert load_held(database) == {ONE: Held("a.yaml", "1")}


def test_rows_and_objects_are_written_together_or_not_at_all(database):
    def change():
        database.write_objects([stored(ONE)])
        write_held(database, put={ONE: Held("a.yaml", "1")}, drop=[])
        database.delete_object(*TWO)
        raise RuntimeError("a defect")

    database.write_objects([stored(TWO)])
    with pytest.raises(RuntimeError, match="a defect"):
        database.transact(change)
    assert [each.name for each in database.load_objects()] == ["two"]
    assert load_held(database) == {}


def test_a_disk_that_is_full(database):
    pages = next(iter(database.connection.execute("PRAGMA page_count")))[0]
    database.connection.execute(f"PRAGMA max_page_count = {pages}")

    def fill():
        for number in range(200):
            key = ("ConfigMap", "default", f"{number}" * 50)
            database.write_objects([stored(key)])
            write_held(database, put={key: Held("x" * 2000, "1")}, drop=[])

    with pytest.raises(StoreFullError):
        database.transact(fill)
    assert database.load_objects() == []
    assert load_held(database) == {}


def test_what_sqlite_says_is_translated(database):
    def refuse():
        raise apsw.FullError("no room")

    with pytest.raises(StoreFullError):
        database.transact(refuse)
