import contextlib
import hashlib
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limpet.engine.protocol import ModuleInfo
from limpet.store.downloads import Downloads
from limpet.store.modules import DigestError, ModuleStore

WASM = b"\0asm\1\0\0\0"
KEY = b"k" * 32
NAME = "a" * 64 + "-key.cwasm"
INFO = ModuleInfo(imports=("wasi.fd_write",), exports=("_start", "memory"), memory_bytes=65536)


def digest_of(data):
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@pytest.fixture
def store(tmp_path):
    store = ModuleStore(tmp_path)
    store.open(KEY)
    return store


@pytest.fixture(autouse=True)
def _no_descriptor_is_lost():
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) == before


def files(tmp_path):
    return sorted(
        str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if not path.is_dir()
    )


def read_all(descriptor):
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


def seal(store, data=b"machine code", name=NAME, info=INFO):
    staged, descriptor = store.stage_artifact(name)
    os.write(descriptor, data)
    artifact = store.seal_artifact(name, staged, descriptor, info)
    os.close(descriptor)
    os.close(artifact.descriptor)


# Modules


def test_a_module_is_found_by_its_digest(store, tmp_path):
    staged = store.create_module()
    for piece in (WASM[:3], b"", WASM[3:]):
        staged.write(piece)
    digest = digest_of(WASM)
    assert not store.has_module(digest)
    staged.finish(digest)
    assert store.has_module(digest)
    assert read_all(store.open_module(digest)) == WASM
    assert files(tmp_path) == [f"modules/{digest[7:]}.wasm"]


def test_a_module_that_is_not_there_is_not_opened(store):
    with pytest.raises(FileNotFoundError):
        store.open_module(digest_of(b""))


def test_a_module_can_come_twice(store):
    for _ in range(2):
        staged = store.create_module()
        staged.write(WASM)
        staged.finish(digest_of(WASM))
    assert store.has_module(digest_of(WASM))


def test_what_another_process_hashed_replaces_no_module(store, tmp_path):
    """Whoever took a download over says that it is a neighbour's module."""
    digest = digest_of(WASM)

    def bring_extracted(data):
        staged = store.create_module()
        os.write(staged.descriptor, data)
        staged.finish_written(digest)

    def bring_downloaded(data):
        download = Downloads(tmp_path).open("oci://r.example/a:1")
        os.write(download.partial, data)
        store.adopt(download, digest)
        download.close()

    for bring in (bring_extracted, bring_downloaded):
        bring(WASM)
        for again in (bring_extracted, bring_downloaded):
            again(b"other")
            assert read_all(store.open_module(digest)) == WASM
            assert files(tmp_path) == [f"modules/{digest[7:]}.wasm"]
        store.remove_module(digest)
    with pytest.raises(DigestError):
        store.create_module().finish_written("other")
    assert files(tmp_path) == []


@pytest.mark.parametrize("digest", [digest_of(b"other"), digest_of(WASM).upper(), "", "x" * 500])
def test_other_bytes_than_promised_leave_nothing(store, tmp_path, digest):
    staged = store.create_module()
    staged.write(WASM)
    with pytest.raises(DigestError, match=digest_of(WASM)) as caught:
        staged.finish(digest)
    assert len(str(caught.value)) < 250
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    "digest",
    [
        "",
        "sha256:",
        "sha256:" + "a" * 63,
        "sha256:" + "a" * 65,
        "sha256:" + "A" * 64,
        "sha256:" + "a" * 64 + "\n",
        "sha512:" + "a" * 64,
        "sha256:../../" + "a" * 58,
        "sha256:" + "\u0661" * 64,
    ],
)
def test_what_is_no_digest_is_no_path(store, tmp_path, digest):
    with pytest.raises(DigestError):
        store.has_module(digest)
    with pytest.raises(DigestError):
        store.open_module(digest)
    staged = store.create_module()
    with pytest.raises(DigestError):
        staged.finish_written(digest)
    assert files(tmp_path) == []


@given(st.text(max_size=80))
def test_any_text_is_a_digest_or_refused(text):
    with contextlib.suppress(DigestError):
        assert not ModuleStore(Path("/nowhere")).has_module(text)


def test_what_was_abandoned_leaves_nothing(store, tmp_path):
    staged = store.create_module()
    staged.write(WASM)
    staged.abandon()
    assert files(tmp_path) == []


def test_a_disk_that_fails_at_the_end_leaves_nothing(store, tmp_path, monkeypatch):
    staged = store.create_module()
    staged.write(WASM)

    def fail(_descriptor):
        raise OSError("full")

    monkeypatch.setattr("limpet.store.modules.os.fsync", fail)
    with pytest.raises(OSError, match="full"):
        staged.finish(digest_of(WASM))
    assert files(tmp_path) == []


def test_what_an_interrupted_write_left_is_removed(store, tmp_path):
    os.close(store.create_module().descriptor)
    os.close(store.stage_artifact(NAME)[1])
    assert len(files(tmp_path)) == 2
    again = ModuleStore(tmp_path)
    again.open(KEY)
    assert files(tmp_path) == []


# Artifacts


def test_an_artifact_comes_back_with_what_compiling_learned(store, tmp_path):
    assert store.open_artifact(NAME) is None
    seal(store)
    again = ModuleStore(tmp_path)
    again.open(KEY)
    artifact = again.open_artifact(NAME)
    assert artifact.info == INFO
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.write(artifact.descriptor, b"x")
    assert not os.get_inheritable(artifact.descriptor)
    assert read_all(artifact.descriptor) == b"machine code"


def test_a_new_artifact_replaces_the_old(store):
    seal(store, b"one")
    seal(store, b"two")
    assert read_all(store.open_artifact(NAME).descriptor) == b"two"


def test_another_key_makes_artifacts_void(store, tmp_path):
    """One of before a rotation, or of another node."""
    seal(store)
    os.close(store.open_artifact(NAME).descriptor)
    store.set_key(b"n" * 32)
    assert store.open_artifact(NAME) is None
    assert files(tmp_path) == []
    seal(store)
    again = ModuleStore(tmp_path)
    again.open(KEY)
    assert again.open_artifact(NAME) is None


def test_the_key_file_of_an_earlier_version_goes(tmp_path):
    (tmp_path / "artifact.key").write_bytes(b"k" * 32)
    ModuleStore(tmp_path).open(KEY)
    assert files(tmp_path) == []


def flip_code(artifacts):
    path = artifacts / NAME
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def edit_seal(**changes):
    def edit(artifacts):
        path = artifacts / f"{NAME}.json"
        document = json.loads(path.read_bytes())
        for key, value in changes.items():
            target = document if key in document else document["description"]
            target[key] = value
        path.write_text(json.dumps(document))

    return edit


def write_seal(data):
    return lambda artifacts: (artifacts / f"{NAME}.json").write_bytes(data)


TAMPERING = {
    "a flipped bit": flip_code,
    "a byte more": lambda a: (a / NAME).write_bytes((a / NAME).read_bytes() + b"x"),
    "empty": lambda a: (a / NAME).write_bytes(b""),
    "no seal": lambda a: (a / f"{NAME}.json").unlink(),
    "an empty seal": write_seal(b""),
    "a seal of junk": write_seal(b"\xff"),
    "a seal of another shape": write_seal(b"[1]"),
    "a seal without code": write_seal(b'{"description": {}}'),
    "another description": edit_seal(memory_bytes=1),
    "other imports": edit_seal(imports=[]),
    "another code": edit_seal(mac="0" * 64),
    "a code that is a number": edit_seal(mac=0),
    "a code that is not ASCII": edit_seal(mac="\u00e9" * 64),
}


@pytest.mark.parametrize("tamper", TAMPERING.values(), ids=TAMPERING)
def test_an_artifact_that_this_node_did_not_write_is_removed(store, tmp_path, tamper):
    seal(store)
    tamper(tmp_path / "artifacts")
    again = ModuleStore(tmp_path)
    again.open(KEY)
    assert again.open_artifact(NAME) is None
    assert files(tmp_path) == []
    seal(again)
    os.close(again.open_artifact(NAME).descriptor)


def test_an_artifact_under_another_name_is_removed(store, tmp_path):
    seal(store)
    other = "b" * 64 + "-key.cwasm"
    for suffix in ("", ".json"):
        (tmp_path / "artifacts" / f"{NAME}{suffix}").rename(
            tmp_path / "artifacts" / f"{other}{suffix}"
        )
    assert store.open_artifact(other) is None
    assert files(tmp_path) == []


def test_a_symbolic_link_is_not_followed(store, tmp_path):
    seal(store)
    path = tmp_path / "artifacts" / NAME
    elsewhere = tmp_path / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    assert store.open_artifact(NAME) is None
    assert files(tmp_path) == ["elsewhere"]


def test_an_artifact_that_changes_while_it_is_published_is_not_used(store, tmp_path, monkeypatch):
    staged, descriptor = store.stage_artifact(NAME)
    os.write(descriptor, b"machine code")
    real = ModuleStore._mac

    def mac(self, *of):
        code = real(self, *of)
        os.write(descriptor, b"and more")
        return code

    monkeypatch.setattr(ModuleStore, "_mac", mac)
    with pytest.raises(OSError, match="changed while it was published"):
        store.seal_artifact(NAME, staged, descriptor, INFO)
    os.close(descriptor)
    assert files(tmp_path) == []
