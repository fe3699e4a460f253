"""The folder's loop where a real one can't be made to fail: a parser that dies, a store that is full."""

from __future__ import annotations

import asyncio

import pytest

from limpet.node.manifests.folder import ManifestFolder
from limpet.node.manifests.managed import ManagedObjects
from limpet.node.manifests.parsing import ParseFailedError
from limpet.store.database import Database, StoredObject, StoreFullError
from limpet.store.manifest_files import load_held

KEY = ("ConfigMap", "default", "one")
TEXT = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: one}\n"


class FragileParser:
    """Parses as the real one does, but dies of what says `bomb`."""

    def __init__(self):
        self.batches = []

    async def parse(self, files):
        import json

        from limpet.worker.manifests import parse_file

        self.batches.append(sorted(files))
        if any(b"bomb" in content for content in files.values()):
            raise ParseFailedError("killed by SIGKILL")
        return [json.dumps(parse_file(*each)).encode() for each in files.items()]


class Objects:
    def __init__(self):
        self.stored = {}


class World:
    """A folder with everything around it that is not the folder."""

    def __init__(self, path, database):
        self.path = path
        self.objects = Objects()
        self.database = database
        self.parser = FragileParser()
        self.failures = []
        self.changes = []
        self.told = []
        self.managed = ManagedObjects(database)
        self.folder = ManifestFolder(
            path,
            rescan_seconds=3600,
            retry_seconds=0.01,
            managed=self.managed,
            objects=self.objects,
            modules=None,
            parser=self.parser,
            change=self.change,
            record=lambda reason, message, _is_warning: self.told.append((reason, message)),
            record_object=lambda *_: None,
        )

    def change(self, requested, *, removed, alongside, dry_run):
        if self.failures:
            raise self.failures.pop(0)
        self.changes.append([item["metadata"]["name"] for item, _ in requested])
        if not dry_run:
            self.database.transact(alongside)
            for item, _ in requested:
                key = (item["kind"], "default", item["metadata"]["name"])
                self.objects.stored[key] = StoredObject(
                    kind=key[0],
                    namespace=key[1],
                    name=key[2],
                    generation=1,
                    created_at=1.0,
                    body="{}",
                    digest=None,
                )
        return [{"action": "created"} for _ in requested]

    def reasons(self):
        return [reason for reason, _ in self.told]

    async def until(self, condition):
        for _ in range(2000):
            if condition():
                return
            await asyncio.sleep(0.005)
        raise AssertionError(self.told)


@pytest.fixture
def world(tmp_path):
    database = Database(tmp_path / "state.db")
    database.open([b"k" * 32])
    (tmp_path / "manifests").mkdir()
    yield World(tmp_path / "manifests", database)
    database.close()


def run(world, test):
    async def main():
        world.managed.load()
        world.folder.start()
        try:
            await test()
        finally:
            world.folder.stop()

    asyncio.run(main())


def test_what_the_parser_dies_of_is_found(world):
    (world.path / "a.yaml").write_text(TEXT)
    (world.path / "b.yaml").write_text("bomb")
    (world.path / "c.yaml").write_text(TEXT.replace("one", "two"))

    async def test():
        await world.until(lambda: world.changes)

    run(world, test)
    assert world.changes[0] == ["one", "two"]
    assert world.parser.batches[:2] == [["a.yaml", "b.yaml", "c.yaml"], ["a.yaml"]]
    assert (
        "ManifestInvalid",
        "b.yaml:1: killed by SIGKILL; what it had before stays as it was",
    ) in (world.told)


def test_a_full_disk_is_told_once_and_tried_again(world):
    (world.path / "a.yaml").write_text(TEXT)
    world.failures = [StoreFullError("no room") for _ in range(3)]

    async def test():
        await world.until(lambda: world.managed.file_of(KEY) == "a.yaml")
        await world.until(lambda: "ManifestsBack" in world.reasons())

    run(world, test)
    assert world.reasons() == ["ManifestsNotApplied", "ManifestsApplied", "ManifestsBack"]
    assert load_held(world.database).keys() == {KEY}


def test_a_defect_does_not_end_the_loop(world, capsys):
    (world.path / "a.yaml").write_text(TEXT)
    world.failures = [KeyError("a defect")]

    async def test():
        await world.until(lambda: world.managed.file_of(KEY) == "a.yaml")

    run(world, test)
    assert world.reasons()[0] == "ManifestsNotApplied"
    assert "KeyError: 'a defect'" in capsys.readouterr().err
