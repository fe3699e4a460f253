from dataclasses import replace

import pytest

from limpet.store.database import Database, StoredObject, StoreFullError
from limpet.store.releases import (
    Release,
    delete_releases,
    load_body,
    load_releases,
    write_decisions,
    write_release,
)

KEY = b"k" * 32
FIRST = Release(
    kind="Deployment",
    namespace="default",
    name="a",
    number=1,
    created_at=1.5,
    digest=None,
    status="progressing",
)
SECOND = replace(FIRST, number=2, digest="sha256:2")
OBJECT = StoredObject(
    kind="Deployment",
    namespace="default",
    name="a",
    generation=1,
    created_at=1.5,
    body="{}",
    digest=None,
)


@pytest.fixture
def database(tmp_path):
    database = Database(tmp_path / "state.db")
    database.open([KEY])
    yield database
    database.close()


def test_what_was_written_is_there_again(database, tmp_path):
    write_release(database, SECOND, "second")
    write_release(database, FIRST, "first")
    decided = replace(FIRST, status="failed", message="why", decided_at=2.5, digest="sha256:1")
    write_decisions(database, [decided])
    database.close()
    database.open([KEY])
    assert load_releases(database) == [decided, SECOND]
    assert load_body(database, FIRST.object_key, 1) == "first"
    assert load_body(database, FIRST.object_key, 3) is None


def test_what_is_forgotten_is_gone_and_nothing_else(database):
    other = replace(FIRST, name="b")
    for release in (FIRST, SECOND, other):
        write_release(database, release, "")
    delete_releases(database, [FIRST])
    assert load_releases(database) == [SECOND, other]


def test_releases_go_with_their_object(database):
    database.write_objects([OBJECT])
    write_release(database, FIRST, "")
    write_release(database, replace(FIRST, name="b"), "")
    database.delete_object(*OBJECT.key)
    assert [release.name for release in load_releases(database)] == ["b"]


def test_object_and_release_are_written_both_or_not(database):
    def write(release):
        def change():
            database.write_objects([OBJECT])
            write_release(database, release, "")

        database.transact(change)

    with pytest.raises(StoreFullError):
        write(replace(FIRST, status=None))  # a column that must be text
    assert database.load_objects() == []
    assert load_releases(database) == []
    write(FIRST)
    assert (len(database.load_objects()), load_releases(database)) == (1, [FIRST])
