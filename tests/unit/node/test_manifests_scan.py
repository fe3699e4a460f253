"""Looking at the manifests folder: what is found, what is out of reach, and how much is too much."""

from __future__ import annotations

import os

import pytest

from limpet.node.manifests import scan
from limpet.node.manifests.parsing import InvalidManifestFileError, read_answer
from limpet.worker.manifests import parse_file


@pytest.fixture
def root(tmp_path):
    descriptor = os.open(tmp_path, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def look(root):
    watched = []
    listing = scan.list_manifests(root, watch=lambda _descriptor, path: watched.append(path))
    return listing, watched


def test_manifests_in_folders(root, tmp_path):
    for name in ("a.yaml", "b/c.yml", "b/d/e.json", ".git/f.yaml", "b/.g.yaml", "h.txt", "i.yaml~"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    listing, watched = look(root)
    assert sorted(listing.files) == ["a.yaml", "b/c.yml", "b/d/e.json"]
    assert watched == ["", "b", "b/d"]
    assert listing.unreadable == {}


def test_what_is_no_file_is_told(root, tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "out.yaml").symlink_to("/etc/passwd")
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    (tmp_path / "nothing.yaml").symlink_to("absent")
    (tmp_path / os.fsdecode(b"\xff.yaml")).touch()
    listing, _ = look(root)
    assert listing.files == {}
    assert listing.unreadable == {
        "pipe.yaml": "it is not a regular file",
        "out.yaml": "it leads out of the manifests folder",
        "loop.yaml": "Too many levels of symbolic links",
        "\\xff.yaml": "its name is not UTF-8; rename it",
    }


def test_what_is_known_to_be_gone():
    listing = scan.Listing(identity=(), unreadable={"a.yaml": "why", "b/": "why"})
    assert not listing.knows("a.yaml")
    assert not listing.knows("b/c/d.yaml")
    assert listing.knows("bc.yaml")


@pytest.mark.parametrize(
    ("bound", "value", "names", "why"),
    [
        ("MAX_FILES", 1, ("a.yaml", "b.yaml"), "over 1 manifests"),
        ("MAX_FOLDERS", 2, ("a/x", "b/x"), "over 2 folders"),
        ("MAX_DEPTH", 1, ("a/b/x",), "over 1 deep"),
    ],
)
def test_too_much(root, tmp_path, monkeypatch, bound, value, names, why):
    monkeypatch.setattr(scan, bound, value)
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(scan.FolderError, match=why):
        look(root)


def test_a_folder_that_is_not_there(tmp_path):
    (tmp_path / "file").touch()
    for name in ("absent", "file"):
        with pytest.raises(scan.FolderGoneError, match=f"{name} is not there"):
            scan.open_folder(tmp_path / name)


def test_reading(root, tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("x")
    stamp = scan.stamp_file(root, "a.yaml")
    assert scan.read_manifest(root, "a.yaml", stamp) == b"x"
    file.write_text("xy")
    with pytest.raises(scan.ChangingFileError):
        scan.read_manifest(root, "a.yaml", stamp)
    file.unlink()
    with pytest.raises(scan.UnreadableFileError, match=r"a\.yaml:1: No such file"):
        scan.read_manifest(root, "a.yaml", stamp)


@pytest.mark.parametrize(
    ("manifest", "location", "path"),
    [
        ("a.yaml", "./x.wasm", "x.wasm"),
        ("shop/a.yaml", "x.wasm", "shop/x.wasm"),
        ("shop/a.yaml", "../x.wasm", "x.wasm"),
        ("a.yaml", "../x.wasm", "../x.wasm"),
    ],
)
def test_where_a_module_is(manifest, location, path):
    assert scan.module_path(manifest, location) == path


@pytest.mark.parametrize("location", ["/etc/x.wasm", "~/x.wasm"])
def test_where_no_module_is(location):
    with pytest.raises(scan.UnreadableFileError, match="relative to the manifest"):
        scan.module_path("a.yaml", location)


def test_batches_have_a_bound(monkeypatch):
    monkeypatch.setattr(scan, "MAX_BATCH_BYTES", 10)
    sizes = {"a": 4, "b": 6, "c": 1, "d": 30, "e": 1}
    assert scan.batches(list(sizes), sizes) == [["a", "b"], ["c"], ["d"], ["e"]]
    assert scan.batches([], {}) == []


def test_the_parsers_answer_is_read():
    import json

    text = b"apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\nspec:\n  containers:\n  - name: a\n"
    answer = parse_file("f.yaml", text + b"    image: ./a.wasm\n")
    [document] = read_answer("f.yaml", json.dumps(answer).encode())
    assert document.key == ("Pod", "default", "a")
    assert (document.name_at, document.image_at) == ("f.yaml:4", "f.yaml:8")
    assert document.source.location == "./a.wasm"


@pytest.mark.parametrize(
    "line",
    [b"", b"[]", b"{}", b'{"documents": 1}', b'{"documents": [{"object": 1}]}', b"\xff",
     b'{"documents": [{"object": {}, "name_at": "x"}]}', b"[" * 100_000],
)  # fmt: skip
def test_an_answer_of_a_parser_that_was_taken_over(line):
    with pytest.raises(InvalidManifestFileError):
        read_answer("f.yaml", line)
