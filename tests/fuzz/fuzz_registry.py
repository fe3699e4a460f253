"""Mutates what registries send: challenges, manifests, indexes, configurations, layers, signatures, dates.

    python tests/fuzz/fuzz_registry.py --seconds 60 --seed 1

Exits with 1, after writing the input to standard error, on anything but a decision or a refusal.
"""

from __future__ import annotations

import gzip
import io
import json
import random
import tarfile

from fuzzing import check_inputs, run

from limpet.registry.challenge import parse_challenges
from limpet.registry.documents import parse_object
from limpet.registry.errors import FetchError, FormatError
from limpet.registry.evidence import decode_evidence
from limpet.registry.formats import choose_content, choose_manifest, read_config
from limpet.registry.layers import extract_file
from limpet.registry.signatures import is_signed, signed_digest
from limpet.registry.times import LONGEST_WAIT_SECONDS, parse_retry_after

_DIGEST = "sha256:" + "a" * 64
_IMAGE = "application/vnd.oci.image.config.v1+json"
_SPIN = "application/vnd.fermyon.spin.application.v1+config"


def _manifest(config: str, *layers: str) -> bytes:
    described = [{"mediaType": kind, "digest": _DIGEST, "size": 5} for kind in layers]
    return json.dumps(
        {"config": {"mediaType": config, "digest": _DIGEST, "size": 2}, "layers": described}
    ).encode()


def _layer() -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in ("d" * 150, "app.wasm"):
            info = tarfile.TarInfo(name)
            info.size = 700
            archive.addfile(info, io.BytesIO(bytes(700)))
    return made.getvalue()


CHALLENGES = (b'Bearer realm="https://a/t",service="r",scope="repository:x:pull"', b"Basic realm=x")
MANIFESTS = (
    _manifest("application/vnd.wasm.config.v0+json", "application/wasm"),
    _manifest(_IMAGE, "application/vnd.oci.image.layer.v1.tar+gzip"),
    _manifest(_SPIN, "application/vnd.wasm.content.layer.v1+wasm"),
)
CONFIGS = (
    b'{"os": "wasip1", "architecture": "wasm", "config": {"Entrypoint": ["/app.wasm"]}}',
    json.dumps(
        {
            "components": [{"id": "a", "source": {"digest": _DIGEST}}],
            "triggers": [
                {"trigger_type": "http", "trigger_config": {"executor": {"type": "wagi"}}}
            ],
        }
    ).encode(),
)
INDEX = json.dumps(
    {
        "manifests": [
            {
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": _DIGEST,
                "size": 1,
                "platform": {"os": "wasip1", "architecture": "wasm"},
            }
        ]
    }
).encode()
LAYERS = (_layer(), gzip.compress(_layer(), mtime=0))
PAYLOAD = json.dumps(
    {
        "critical": {
            "identity": {"docker-reference": "a/b"},
            "image": {"docker-manifest-digest": _DIGEST},
            "type": "cosign container image signature",
        }
    }
).encode()
RETRY_AFTER = b"Mon, 23 Nov 2026 12:00:30 GMT"
EVIDENCE = json.dumps({"manifests": ["AAAA"], "signatures": [["AAAA", "AAAA"]]}).encode()
TOKENS = (
    b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"null", b"1e999", b"-1", b'"\\ud800"', b"true",
    b"[" * 80, b'{"a":' * 80, b"\xff", b"\0" * 512, b"path", b"17 path=aaaaaaaa\n", b"\x1f\x8b\x08",
    b"99999999999999999999", _DIGEST.encode(), b"Bearer ", b'realm="', b"..", b".wh.app.wasm",
)  # fmt: skip


def mutate(rng: random.Random, seed: bytes) -> bytes:
    data = bytearray(seed)
    for _ in range(rng.choice((0, 1, 1, 2, 5))):
        at = rng.randrange(len(data) + 1)
        end = min(len(data), at + rng.choice((0, 1, 2, 8, 30)))
        kind = rng.randrange(4)
        if kind == 0:
            data[at:end] = rng.choice(TOKENS)
        elif kind == 1:
            del data[at:end]
        elif kind == 2 and data:
            data[at % len(data)] ^= 1 << rng.randrange(8)
        else:
            del data[rng.randrange(len(data) + 1) :]
    return bytes(data)


def check(rng: random.Random) -> tuple[bytes, bool]:
    """Try one mutated input: what it was, and whether something was decided."""
    kind = rng.randrange(7)
    if kind == 0:
        data = mutate(rng, rng.choice(CHALLENGES))
        found = parse_challenges(data.decode("latin-1"))
        assert len(found) <= 8
        return data, bool(found)
    if kind == 1:
        data, config = mutate(rng, rng.choice(MANIFESTS)), mutate(rng, rng.choice(CONFIGS))
        try:
            manifest = parse_object(data, "x")
            wanted = parse_object(config, "y") if read_config(manifest) is not None else {}
            choose_content(manifest, wanted)
        except FormatError:
            return data, False
        return data, True
    if kind == 2:
        data = mutate(rng, INDEX)
        try:
            choose_manifest(parse_object(data, "x"))
        except FormatError:
            return data, False
        return data, True
    if kind == 3:
        return _check_layer(rng)
    if kind == 4:
        data = mutate(rng, PAYLOAD)
        return data, bool(signed_digest(data))
    if kind == 5:
        data = mutate(rng, RETRY_AFTER)
        pause = parse_retry_after(data.decode("latin-1"), "Mon, 23 Nov 2026 12:00:00 GMT")
        assert 0 <= pause <= LONGEST_WAIT_SECONDS
        return data, pause > 0
    data = mutate(rng, EVIDENCE)
    assert not is_signed(decode_evidence(data.decode("latin-1")), _DIGEST, lambda *_: True)
    return data, False


def _check_layer(rng: random.Random) -> tuple[bytes, bool]:
    compression = rng.choice(("", "gzip"))
    data = mutate(rng, LAYERS[compression == "gzip"])
    size = 0

    def write(piece: bytes) -> None:
        nonlocal size
        size += len(piece)
        if size > 1 << 20:
            raise FetchError("over the bound")

    try:
        extract_file(io.BytesIO(data), compression, "app.wasm", write)
    except (FormatError, FetchError):
        return data, False
    return data, True


def fuzz(*, seed: int, seconds: float, inputs: int | None = None) -> tuple[int, int]:
    """How many inputs were tried, and how many of them were good for something."""
    return check_inputs(
        lambda rng: rng.getrandbits(64),
        lambda number: check(random.Random(number))[1],
        seed=seed,
        seconds=seconds,
        inputs=inputs,
    )


if __name__ == "__main__":
    run(
        fuzz,
        description=__doc__,
        summary=lambda found: f"{found[0]} inputs, {found[1]} of them good for something",
    )
