"""Mutates the golden manifests and reads them: only ManifestError may come out.

    python tests/fuzz/fuzz_manifest.py --seconds 60 --seed 1

Exits with 1, after writing the input to standard error, on anything else or on a slow input.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fuzzing import check_inputs, run

from limpet.manifest import ManifestError, load_documents, parse_object

if TYPE_CHECKING:
    import random

CORPUS = Path(__file__).parent.parent / "golden" / "manifest"
TOKENS = (
    b"---\n", b"- ", b": ", b"? ", b"{", b"}", b"[", b"]", b"&a ", b"*a", b"!!", b"!", b"|\n",
    b">-\n", b"<<: ", b"\t", b"\n", b"  ", b"#", b"%YAML 1.1\n", b"'", b'"', b"\\u0000",
    b"\\ud83d", b"\0", b"\xff", b"\xef\xbb\xbf", b"null", b"~", b"true", b"yes", b"-1", b"0",
    b"0644", b"1e999", b".nan", b"99999999999999999999", b"1:30", b"2026-01-01", b"64Mi", b"500m",
    b"-", b".", b"..", b"/", b"=", b"kind: List\nitems:\n", b"limpet.dev/", b"status: {}", b"env",
    b"name", b"spec",
)  # fmt: skip


def mutate(rng: random.Random, corpus: list[bytes]) -> bytes:
    """A few edits of one file: bytes, tokens, lines, and pieces of another file."""
    data = bytearray(rng.choice(corpus))
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        at = rng.randrange(len(data) + 1)
        end = min(len(data), at + rng.choice((0, 1, 4, 16, 64)))
        kind = rng.randrange(6)
        if kind == 0:
            data[at:end] = rng.choice(TOKENS)
        elif kind == 1:
            data[at:at] = rng.choice(TOKENS) * rng.choice((1, 1, 2, 100))
        elif kind == 2:
            del data[at:end]
        elif kind == 3 and data:
            data[at % len(data)] = rng.randrange(256)
        elif kind == 4:
            other = rng.choice(corpus)
            start = rng.randrange(len(other) + 1)
            data[at:end] = other[start : start + rng.choice((8, 64, 512))]
        else:
            lines = bytes(data).split(b"\n")
            first, second = rng.randrange(len(lines)), rng.randrange(len(lines))
            lines[first] = lines[second]
            data = bytearray(b"\n".join(lines))
    return bytes(data[: 64 << 10])


def read(data: bytes) -> int:
    """How many resources the input holds; 0 when it is refused."""
    try:
        documents = load_documents(data, file="fuzz.yaml")
    except ManifestError:
        return 0
    accepted = 0
    for document in documents:
        try:
            parse_object(document.object, locate=document.locate)
        except ManifestError:
            continue
        accepted += 1
    return accepted


def fuzz(*, seed: int, seconds: float, inputs: int | None = None) -> tuple[int, int]:
    """Read mutated inputs until time or `inputs` are used up; how many, and resources accepted."""
    corpus = [path.read_bytes() for path in sorted(CORPUS.glob("*.yaml"))]
    return check_inputs(
        lambda rng: mutate(rng, corpus), read, seed=seed, seconds=seconds, inputs=inputs
    )


if __name__ == "__main__":
    run(
        fuzz,
        description=__doc__,
        summary=lambda found: (
            f"{found[0]} inputs, {found[1]} resources accepted, nothing but ManifestError"
        ),
    )
