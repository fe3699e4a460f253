"""Write a bundle: the same contents make the same bytes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from limpet import __version__
from limpet.bundle import layout
from limpet.bundle.errors import BundleError
from limpet.bundle.layout import Blob, Contents, ObjectEntry
from limpet.bundle.tar import ENDING, encode_member
from limpet.store.files import replacing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

_PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class FileBlob:
    """A blob whose bytes are in a file."""

    blob: Blob
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What goes into a bundle."""

    objects: Sequence[ObjectEntry]
    modules: Sequence[FileBlob] = ()
    compiled: Sequence[FileBlob] = ()
    wheels: Sequence[FileBlob] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A bundle that was written; `digest` is the index's."""

    digest: str
    contents: Contents
    size_bytes: int


def describe_file(path: Path, media_type: str, *, title: str = "", **annotations: str) -> FileBlob:
    """Hash a file. Raises `BundleError` when it can't be read."""
    state, size = hashlib.sha256(), 0
    try:
        with path.open("rb") as file:
            while piece := file.read(_PIECE_BYTES):
                state.update(piece)
                size += len(piece)
    except OSError as error:
        raise BundleError(f"can't read {path}: {error.strerror}") from error
    found = ({layout.TITLE: title} if title else {}) | annotations
    digest = f"sha256:{state.hexdigest()}"
    blob = Blob(media_type=media_type, digest=digest, size=size, annotations=found)
    return FileBlob(blob=blob, path=path)


def write_bundle(path: Path, plan: Plan, *, sign: Callable[[bytes], str] | None = None) -> Written:
    """Write a bundle, whole or not at all. `sign` returns the text of a signature over the index.

    Raises `BundleError` for a file that changed meanwhile, or a disk that is full.
    """
    config = layout.encode_config(__version__)
    objects = layout.encode_objects(plan.objects)
    files = [*_sorted(plan.modules), *_sorted(plan.compiled), *_sorted(plan.wheels)]
    contents = Contents(
        config=layout.config_blob(config),
        objects=Blob(
            media_type=layout.OBJECTS_TYPE, digest=layout.digest_of(objects), size=len(objects)
        ),
        modules=tuple(each.blob for each in _sorted(plan.modules)),
        compiled=tuple(each.blob for each in _sorted(plan.compiled)),
        wheels=tuple(each.blob for each in _sorted(plan.wheels)),
    )
    manifest = layout.encode_manifest(contents)
    layout.parse_manifest(manifest)  # the bounds that its readers have
    index = layout.encode_index(manifest)
    documents = {layout.LAYOUT: layout.LAYOUT_BYTES, layout.INDEX: index}
    if sign is not None:
        documents[layout.SIGNATURE] = sign(index).encode() + b"\n"
    blobs: dict[str, bytes | FileBlob] = {each.blob.name: each for each in files}
    for data in (config, objects, manifest):
        blobs[f"blobs/sha256/{layout.digest_of(data)[7:]}"] = data
    try:
        size = _write(path, [*documents.items(), *sorted(blobs.items(), key=lambda item: item[0])])
    except OSError as error:
        raise BundleError(f"can't write {path}: {error.strerror}") from error
    return Written(digest=layout.digest_of(index), contents=contents, size_bytes=size)


def _sorted(files: Sequence[FileBlob]) -> list[FileBlob]:
    """Each blob once, by title and digest."""
    distinct = {(each.blob.media_type, each.blob.digest, each.blob.title): each for each in files}
    return sorted(distinct.values(), key=lambda each: (each.blob.title, each.blob.digest))


def _write(path: Path, members: Sequence[tuple[str, bytes | FileBlob]]) -> int:
    size = 0
    with replacing(path, mode=0o666) as file:  # less the umask: a bundle is for others, too
        for name, source in members:
            for piece in _member(name, source):
                size += file.write(piece)
        size += file.write(ENDING)
    return size


def _member(name: str, source: bytes | FileBlob) -> Iterator[bytes]:
    if isinstance(source, bytes):
        return encode_member(name, len(source), iter((source,)))
    return encode_member(name, source.blob.size, _pieces(source))


def _pieces(source: FileBlob) -> Iterator[bytes]:
    """A file's bytes; raises `BundleError` when they are not those that were hashed."""
    state, left = hashlib.sha256(), source.blob.size
    with source.path.open("rb") as file:
        while piece := file.read(min(_PIECE_BYTES, left)):
            state.update(piece)
            left -= len(piece)
            yield piece
    if left or f"sha256:{state.hexdigest()}" != source.blob.digest:
        raise BundleError(f"{source.path} changed while it was read; try again")
