"""Open a bundle and verify all of it: nothing of it is used before that."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from limpet.bundle import layout
from limpet.bundle.errors import BundleError
from limpet.bundle.tar import Member, read_members
from limpet.manifest.model import App
from limpet.manifest.parse import parse_object

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from limpet.bundle.layout import Blob, Contents, ObjectEntry
    from limpet.manifest.model import Resource

_PIECE_BYTES = 1 << 20
_MAX_SIGNATURE_BYTES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A bundle that is whole: each blob has the digest and size that the index's one stands for.

    `index` and `manifest` are their bytes, `signature` is the text of the signature over the index, if
    there is one: nobody has looked at it yet. `made_by` is the version of Limpet.
    """

    index: bytes
    manifest: bytes
    signature: str | None
    made_by: str
    contents: Contents
    objects: tuple[ObjectEntry, ...]
    resources: tuple[Resource, ...]

    @property
    def digest(self) -> str:
        """The digest of the index."""
        return layout.digest_of(self.index)


class BundleFile:
    """An open bundle, inside of `with`. The file is read where it lies: memory holds its documents only."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = -1
        self._members: dict[str, Member] = {}
        self.size_bytes = 0

    def __enter__(self) -> Self:
        try:
            self._descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            state = os.fstat(self._descriptor)
            if not stat.S_ISREG(state.st_mode):
                raise BundleError(f"{self.path} is not a file")
            self.size_bytes = state.st_size
        except OSError as error:
            self.close()
            raise BundleError(f"can't open {self.path}: {error.strerror}") from error
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def verify(self, *, on_progress: Callable[[int], None] | None = None) -> Bundle:
        """Read everything and return what it is; `on_progress` hears how many bytes are verified.

        Raises `BundleError`, and `ManifestError` for objects that can't be used.
        """
        try:
            return self._verify(on_progress)
        except BundleError as error:
            raise BundleError(f"{self.path}: {error}") from error

    def _verify(self, on_progress: Callable[[int], None] | None) -> Bundle:
        self._members = read_members(self._read, self.size_bytes)
        layout.parse_layout(self._document(layout.LAYOUT))
        index = self._document(layout.INDEX)
        manifest_blob = layout.parse_index(index)
        manifest = self._small_blob(manifest_blob)
        contents = layout.parse_manifest(manifest)
        made_by = layout.parse_config(self._small_blob(contents.config))
        self._check_listed(manifest_blob, contents)
        done = 0
        for blob in {blob.digest: blob for blob in contents.layers}.values():
            for piece in self._checked_pieces(blob):
                done += len(piece)
                if on_progress is not None:
                    on_progress(done)
        objects = tuple(layout.parse_objects(self._small_blob(contents.objects)))
        return Bundle(
            index=index,
            manifest=manifest,
            signature=self._signature(),
            made_by=made_by,
            contents=contents,
            objects=objects,
            resources=tuple(_parse_resources(objects, contents)),
        )

    def open_blob(self, blob: Blob) -> BlobReader:
        """A reader of a verified blob's bytes; who gets them has to check the digest again."""
        return BlobReader(self._read, self._member(blob.name, blob.size))

    def copy_blob(self, blob: Blob, target: BinaryIO) -> None:
        """Write a blob's bytes. Raises `BundleError` when they are not what they were."""
        for piece in self._checked_pieces(blob):
            target.write(piece)

    def _signature(self) -> str | None:
        if layout.SIGNATURE not in self._members:
            return None
        text = self._document(layout.SIGNATURE, max_bytes=_MAX_SIGNATURE_BYTES)
        try:
            return text.decode("ascii").strip()
        except UnicodeDecodeError as error:
            raise BundleError(f"{layout.SIGNATURE} is not a signature") from error

    def _check_listed(self, manifest: Blob, contents: Contents) -> None:
        """Nothing is there that the index's digest does not stand for."""
        names = {blob.name for blob in (manifest, contents.config, *contents.layers)}
        names |= {layout.LAYOUT, layout.INDEX, layout.SIGNATURE}
        for name in self._members:
            if name not in names:
                raise BundleError(f"{name} is there, but not in the manifest")

    def _document(self, name: str, *, max_bytes: int = layout.MAX_DOCUMENT_BYTES) -> bytes:
        member = self._members.get(name)
        if member is None:
            raise BundleError(f"it has no {name}")
        if member.size > max_bytes:
            raise BundleError(f"{name} is larger than {max_bytes} bytes")
        return self._exactly(member.size, member.offset)

    def _small_blob(self, blob: Blob) -> bytes:
        return b"".join(self._checked_pieces(blob))

    def _checked_pieces(self, blob: Blob) -> Iterator[bytes]:
        """A blob's bytes; raises `BundleError` at the end when they are others."""
        member = self._member(blob.name, blob.size)
        state, done = hashlib.sha256(), 0
        while done < member.size:
            piece = self._exactly(min(_PIECE_BYTES, member.size - done), member.offset + done)
            state.update(piece)
            done += len(piece)
            yield piece
        if f"sha256:{state.hexdigest()}" != blob.digest:
            raise BundleError(f"{blob.name} is damaged: its digest is sha256:{state.hexdigest()}")

    def _member(self, name: str, size: int) -> Member:
        member = self._members.get(name)
        if member is None:
            raise BundleError(f"{name} is missing")
        if member.size != size:
            raise BundleError(f"{name} has {member.size} bytes, not {size}")
        return member

    def _exactly(self, size: int, offset: int) -> bytes:
        data = self._read(size, offset)
        if len(data) < size:
            raise BundleError("it became shorter while it was read")
        return data

    def _read(self, size: int, offset: int) -> bytes:
        try:
            return os.pread(self._descriptor, size, offset)
        except OSError as error:
            raise BundleError(f"can't read it: {error.strerror}") from error


class BlobReader:
    """A blob as a file that is read forwards."""

    def __init__(self, read: Callable[[int, int], bytes], member: Member) -> None:
        self._read = read
        self._offset = member.offset
        self._end = member.offset + member.size

    def read(self, size: int = -1) -> bytes:
        """Up to that many bytes; none at the end."""
        left = self._end - self._offset
        data = self._read(left if size < 0 else min(size, left), self._offset)
        self._offset += len(data)
        return data


def _parse_resources(objects: tuple[ObjectEntry, ...], contents: Contents) -> Iterator[Resource]:
    """Judge the objects, and see that each app's module is there. Raises `BundleError`, `ManifestError`."""
    modules = {blob.digest for blob in contents.modules}
    seen: set[tuple[str, str, str]] = set()
    for entry in objects:
        resource = parse_object(entry.object)
        key = (resource.kind, resource.namespace, resource.name)
        name = f"{key[0]} {key[1]}/{key[2]}"
        if key in seen:
            raise BundleError(f"it has {name} twice")
        seen.add(key)
        if isinstance(resource, App) != (entry.digest is not None):
            raise BundleError(f"{name}: an app has a module, and nothing else has")
        if entry.digest is not None and entry.digest not in modules:
            raise BundleError(f"{name}: its module {entry.digest} is missing")
        yield resource
