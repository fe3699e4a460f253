"""Files of the folder -> entries to apply: bytes read, parsed by a process, modules taken into the store."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from limpet.node.background import in_thread
from limpet.node.manifests import scan
from limpet.node.manifests.decide import Entry
from limpet.node.manifests.parsing import (
    Document,
    InvalidManifestFileError,
    ParseFailedError,
    read_answer,
)
from limpet.store.database import encode_body

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from limpet.node.manifests.parsing import Parser
    from limpet.node.manifests.scan import Listing, Stamp
    from limpet.store.modules import ModuleStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A file as it was when it was read: its stamp and those of its modules."""

    stamp: Stamp
    modules: tuple[tuple[str, Stamp | None], ...] = ()
    is_refused: bool = False


@dataclass(slots=True)
class Reading:
    """What reading some files gave."""

    entries: dict[str, tuple[Entry, ...]] = field(default_factory=dict)
    seen: dict[str, Seen] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    is_unfinished: bool = False


class Reader:
    """Reads manifests of the folder at `path`. `is_stopping` ends the copying of large modules."""

    def __init__(self, path: Path, modules: ModuleStore, parser: Parser) -> None:
        self._path = path
        self._modules = modules
        self._parser = parser
        self.is_stopping = False

    async def read(self, paths: Sequence[str], listing: Listing) -> Reading:
        """Read, parse and store what these files and their modules hold."""
        reading = Reading()
        sizes = {path: listing.files[path][2] for path in paths}
        for batch in scan.batches(paths, sizes):
            contents = await in_thread(
                lambda batch=batch: self._read_bytes(batch, listing, reading),  # type: ignore[misc]
                name="manifests",
            )
            for path, line in (await self._parse(contents, reading)).items():
                await in_thread(
                    lambda path=path, line=line: self._interpret(path, line, listing, reading),  # type: ignore[misc]
                    name="manifests",
                )
        return reading

    def _read_bytes(
        self, batch: Iterable[str], listing: Listing, reading: Reading
    ) -> dict[str, bytes]:
        contents: dict[str, bytes] = {}
        root = scan.open_folder(self._path)
        try:
            for path in batch:
                try:
                    contents[path] = scan.read_manifest(root, path, listing.files[path])
                except scan.ChangingFileError:
                    reading.is_unfinished = True
                except scan.UnreadableFileError as error:
                    self._refuse(reading, path, listing, str(error))
        finally:
            os.close(root)
        return contents

    async def _parse(self, contents: Mapping[str, bytes], reading: Reading) -> dict[str, bytes]:
        """Return the parser's answers. What it dies of is found by parsing one file at a time."""
        if not contents:
            return {}
        try:
            lines = await self._parser.parse(contents)
        except ParseFailedError as error:
            if len(contents) == 1:
                [path] = contents
                reading.refused[path] = f"{path}:1: {error}"
                reading.is_unfinished = True
                return {}
            answers: dict[str, bytes] = {}
            for path, content in contents.items():
                answers |= await self._parse({path: content}, reading)
            return answers
        return dict(zip(contents, lines, strict=True))

    def _interpret(self, path: str, line: bytes, listing: Listing, reading: Reading) -> None:
        stamps: dict[str, Stamp | None] = {}
        root = scan.open_folder(self._path)
        try:
            documents = read_answer(path, line)
            entries = tuple(self._entry(root, path, each, stamps) for each in documents)
        except scan.ChangingFileError:
            reading.is_unfinished = True
            return
        except InvalidManifestFileError as error:
            self._refuse(reading, path, listing, str(error), stamps)
            return
        finally:
            os.close(root)
        reading.entries[path] = entries
        reading.seen[path] = Seen(stamp=listing.files[path], modules=tuple(stamps.items()))

    def _entry(
        self, root: int, path: str, document: Document, stamps: dict[str, Stamp | None]
    ) -> Entry:
        """Raises `InvalidManifestFileError` for a module that can't be had, `ChangingFileError`."""
        digest = None
        source = document.source
        if source is not None and source.scheme == "file":
            try:
                module = scan.module_path(path, source.location)
                stamps[module] = scan.stamp_module(root, module)
                digest = scan.store_module(root, module, self._modules, lambda: self.is_stopping)
            except scan.UnreadableFileError as error:
                raise InvalidManifestFileError(f"{document.image_at}: image: {error}") from error
            if source.digest not in (None, digest):
                raise InvalidManifestFileError(
                    f"{document.image_at}: image: {module} is {digest}, but {source.digest} is pinned"
                )
        said = f"{encode_body(document.object)}\n{digest or ''}".encode()
        return Entry(
            key=document.key,
            object=document.object,
            digest=digest,
            mark=hashlib.blake2b(said, digest_size=16).hexdigest(),
            where=document.name_at,
        )

    def _refuse(
        self,
        reading: Reading,
        path: str,
        listing: Listing,
        why: str,
        stamps: Mapping[str, Stamp | None] | None = None,
    ) -> None:
        reading.refused[path] = why
        modules = tuple((stamps or {}).items())
        reading.seen[path] = Seen(stamp=listing.files[path], modules=modules, is_refused=True)
