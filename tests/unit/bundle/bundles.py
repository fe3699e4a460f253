"""Bundles for tests: small ones that are whole, and archives that are put together by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limpet.bundle import layout
from limpet.bundle.layout import ObjectEntry
from limpet.bundle.reading import BundleFile
from limpet.bundle.tar import ENDING, encode_member
from limpet.bundle.writing import Plan, describe_file, write_bundle

if TYPE_CHECKING:
    from pathlib import Path

MODULE = b"\0asm\1\0\0\0" + b"module" * 300
COMPILED = b"machine code" * 100


def app(name="hello", image="./hello.wasm"):
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"containers": [{"name": "a", "image": image}]},
    }


def settings(name="conf"):
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "b"}}


def make_plan(folder: Path, *, module: bytes = MODULE) -> Plan:
    """One of everything."""
    (folder / "hello.wasm").write_bytes(module)
    (folder / "x.cwasm").write_bytes(COMPILED)
    (folder / "limpet-1-py3-none-any.whl").write_bytes(b"PK wheel")
    described = describe_file(folder / "hello.wasm", layout.MODULE_TYPE, title="hello.wasm")
    digest = described.blob.digest
    info = layout.encode_json({"imports": ["a.b"], "exports": ["_start"], "memory_bytes": 65536})
    compiled = {
        layout.COMPILED_NAME: f"{digest[7:]}-wasmtime-50.0.1-r4096g32-0a1b2c.cwasm",
        layout.COMPILED_INFO: info.decode(),
    }
    wheel = folder / "limpet-1-py3-none-any.whl"
    return Plan(
        objects=[
            ObjectEntry(object=settings(), digest=None),
            ObjectEntry(object=app(), digest=digest),
        ],
        modules=[described],
        compiled=[describe_file(folder / "x.cwasm", layout.COMPILED_TYPE, **compiled)],
        wheels=[describe_file(wheel, layout.WHEEL_TYPE, title=wheel.name)],
    )


def make_bundle(folder: Path) -> Path:
    path = folder / "site.bundle"
    write_bundle(path, make_plan(folder), sign=lambda index: f"c2lnbmVk{len(index)}")
    return path


def verify(path: Path):
    with BundleFile(path) as opened:
        return opened.verify()


def archive(members) -> bytes:
    """An archive of (name, content) pairs, whatever they are."""
    made = b"".join(
        piece
        for name, content in members
        for piece in encode_member(name, len(content), iter((content,)))
    )
    return made + ENDING


def blob_name(data: bytes) -> str:
    return f"blobs/sha256/{layout.digest_of(data)[7:]}"
