"""Mutates bundles and reads them: a refusal that says why, or contents that agree with every digest.

    python tests/fuzz/fuzz_bundle.py --seconds 60 --seed 1

Exits with 1, after writing the input to standard error, on anything else.
"""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from fuzzing import check_inputs, run

from limpet.bundle import layout
from limpet.bundle.errors import BundleError
from limpet.bundle.layout import ObjectEntry
from limpet.bundle.reading import Bundle, BundleFile
from limpet.bundle.tar import BLOCK, encode_header
from limpet.bundle.writing import Plan, describe_file, write_bundle
from limpet.manifest.problems import ManifestError

if TYPE_CHECKING:
    import random

_POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "hello"},
    "spec": {"containers": [{"name": "a", "image": "./hello.wasm"}]},
}
_CONFIG = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "conf"}, "data": {}}
TOKENS = (
    b"\0" * BLOCK, b"ustar\x0000", b"ustar  \0", b"../", b"/etc/passwd", b"77777777777\0", b"\x80",
    b"index.json", b"oci-layout", b"blobs/sha256/", b"blobs/", b'"size":', b'"size":1e9', b"{", b"]",
    b'"digest":"sha256:', b"[" * 2000, b'"a":' * 50, b"\xff\xfe", b"99999999999999999999", b"null",
    layout.COMPILED_TYPE.encode(), layout.WHEEL_TYPE.encode(), layout.OBJECTS_TYPE.encode(),
)  # fmt: skip
KINDS = b"0123456789xgLKSDMVA\0"


def make_seed(folder: Path) -> bytes:
    """A whole, signed bundle with one of everything."""
    (folder / "hello.wasm").write_bytes(b"\0asm\1\0\0\0" + b"x" * 600)
    (folder / "code").write_bytes(b"code" * 200)
    (folder / "a-1-py3-none-any.whl").write_bytes(b"PK")
    module = describe_file(folder / "hello.wasm", layout.MODULE_TYPE, title="hello.wasm")
    digest = module.blob.digest
    info = layout.encode_json({"imports": [], "exports": ["_start"], "memory_bytes": 65536})
    compiled = {
        layout.COMPILED_NAME: f"{digest[7:]}-wasmtime-1-x.cwasm",
        layout.COMPILED_INFO: info.decode(),
    }
    wheel = folder / "a-1-py3-none-any.whl"
    plan = Plan(
        objects=[
            ObjectEntry(object=_POD, digest=digest),
            ObjectEntry(object=_CONFIG, digest=None),
        ],
        modules=[module],
        compiled=[describe_file(folder / "code", layout.COMPILED_TYPE, **compiled)],
        wheels=[describe_file(wheel, layout.WHEEL_TYPE, title=wheel.name)],
    )
    write_bundle(folder / "seed.bundle", plan, sign=lambda index: "c2lnbmF0dXJl")
    return (folder / "seed.bundle").read_bytes()


def mutate(rng: random.Random, seed: bytes) -> bytes:
    data = bytearray(seed)
    for _ in range(rng.choice((1, 1, 2, 3, 10))):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(8)
        if kind == 0:
            token = rng.choice(TOKENS)
            data[at : at + len(token)] = token
        elif kind == 1:
            del data[at : at + rng.choice((1, 8, BLOCK, 2 * BLOCK))]
        elif kind == 2 and data:
            data[at % len(data)] ^= 1 << rng.randrange(8)
        elif kind == 3:
            block = at // BLOCK * BLOCK
            data[block:block] = data[block : block + rng.choice((1, 2, 4)) * BLOCK]
        elif kind == 4:
            del data[at:]
        elif kind == 5:
            name = rng.choice((layout.INDEX, layout.SIGNATURE, f"blobs/sha256/{'0' * 64}"))
            block = at // BLOCK * BLOCK
            data[block:block] = encode_header(name, rng.choice((0, 1, BLOCK, 1 << 30)))
        elif kind == 6:
            _change_header(rng, data)
        else:
            _reseal(rng, data)
    return bytes(data)


def _change_header(rng: random.Random, data: bytearray) -> None:
    """Change a field of some header and make its checksum right again."""
    starts = [at for at in range(0, len(data), BLOCK) if data[at + 257 : at + 262] == b"ustar"]
    if not starts:
        return
    at = rng.choice(starts)
    place = rng.choice((156, *range(124, 136), *range(100), *range(157, 260), *range(345, 500)))
    if at + BLOCK > len(data):
        return
    data[at + place] = rng.choice(KINDS) if place == 156 else rng.randrange(256)
    data[at + 148 : at + 156] = b" " * 8
    data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + BLOCK])


def _reseal(rng: random.Random, data: bytearray) -> None:
    """Change a blob and name it by its digest, wherever the old one stands."""
    at = data.find(b"blobs/sha256/", rng.randrange(len(data) + 1))
    if at < 0 or at % BLOCK:
        return
    old = bytes(data[at + 13 : at + 77])
    try:
        size = int(data[at + 124 : at + 135], 8)
    except ValueError:
        return
    content = data[at + BLOCK : at + BLOCK + size]
    if not content:
        return
    content[rng.randrange(len(content))] = rng.choice(b'09az"{}[]:,')
    data[at + BLOCK : at + BLOCK + size] = content
    new = hashlib.sha256(content).hexdigest().encode()
    start = 0
    while (found := data.find(old, start)) >= 0:
        data[found : found + 64] = new
        start = found + 64


def check(path: Path, data: bytes) -> Bundle | None:
    """The bundle, once everything in it has its digest; None for one that is refused."""
    path.write_bytes(data)
    found = None
    with BundleFile(path) as opened:
        with contextlib.suppress(BundleError, ManifestError):
            found = opened.verify()
        if found is not None:
            for blob in found.contents.layers:
                content = opened.open_blob(blob).read()
                assert layout.digest_of(content) == blob.digest
            assert len(found.objects) == len(found.resources)
    return found


def fuzz(*, seed: int, seconds: float, inputs: int | None = None) -> tuple[int, int]:
    """How many files were read, and how many of them were bundles."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "x"
        whole = make_seed(path.parent)
        assert check(path, whole) is not None
        return check_inputs(
            lambda rng: mutate(rng, whole),
            lambda data: check(path, data) is not None,
            seed=seed,
            seconds=seconds,
            inputs=inputs,
        )


if __name__ == "__main__":
    run(
        fuzz,
        description=__doc__,
        summary=lambda found: f"{found[0]} files, {found[1]} of them bundles, none that lied",
    )
