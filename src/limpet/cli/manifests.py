"""Manifests from files, folders and stdin, with every problem of all of them told at once."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limpet.errors import InvalidInputError
from limpet.manifest.documents import load_documents
from limpet.manifest.parse import parse_object
from limpet.manifest.problems import ManifestError, Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from limpet.manifest.documents import Document
    from limpet.manifest.model import Resource

_SUFFIXES = (".yaml", ".yml", ".json")


class ManifestFileError(InvalidInputError):
    """A manifest's file or folder can't be read or holds nothing."""

    reason = "InvalidManifestFile"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A validated object. `folder` is what its module file is relative to."""

    resource: Resource
    object: dict[str, Any]
    folder: Path
    locate: Callable[[tuple[str | int, ...]], str]


def read_manifests(sources: Sequence[str], *, namespace: str | None) -> list[Manifest]:
    """The objects of files, folders and `-` (stdin), in the order given.

    `namespace` is for objects that name none; others must agree with it. Raises `ManifestError`
    with the problems of all files, `ManifestFileError` for one that can't be read.
    """
    manifests: list[Manifest] = []
    problems: list[Problem] = []
    for name, content, folder in (part for source in sources for part in _contents(source)):
        try:
            documents = load_documents(content, file=name)
        except ManifestError as error:
            problems += error.problems
            continue
        if not documents:
            problems.append(Problem(f"{name}:1", "", "has no object in it"))
        for document in documents:
            try:
                manifests.append(_parse(document, folder, namespace))
            except ManifestError as error:
                problems += error.problems
    problems += _duplicates(manifests)
    if problems:
        raise ManifestError(problems)
    return manifests


def _contents(source: str) -> Iterable[tuple[str, bytes, Path]]:
    """Name, bytes and folder of each file that the source stands for."""
    if source == "-":
        return [("stdin", sys.stdin.buffer.read(), Path.cwd())]
    path = Path(source)
    if not path.is_dir():
        return [(source, _read(path), path.parent.absolute())]
    try:
        names = sorted(name for name in os.listdir(path) if name.endswith(_SUFFIXES))
    except OSError as error:
        raise ManifestFileError(f"{path}: can't list the folder: {error.strerror}") from error
    files = [path / name for name in names if (path / name).is_file()]
    if not files:
        raise ManifestFileError(f"{path}: no .yaml, .yml or .json file in this folder")
    return [(str(file), _read(file), path.absolute()) for file in files]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ManifestFileError(f"{path}: can't read it: {error.strerror}") from error


def _parse(document: Document, folder: Path, namespace: str | None) -> Manifest:
    plain: dict[str, Any] = document.object
    metadata = plain.get("metadata")
    if namespace is not None and isinstance(metadata, dict):
        named = metadata.setdefault("namespace", namespace)
        if named != namespace:
            why = f"is {named}, but --namespace says {namespace}"
            where = document.locate(("metadata", "namespace"))
            raise ManifestError([Problem(where, "metadata.namespace", why)])
    resource = parse_object(plain, locate=document.locate)
    return Manifest(resource=resource, object=plain, folder=folder, locate=document.locate)


def _duplicates(manifests: Sequence[Manifest]) -> list[Problem]:
    seen: dict[tuple[str, str, str], str] = {}
    found: list[Problem] = []
    for manifest in manifests:
        resource, where = manifest.resource, manifest.locate(("metadata", "name"))
        key = (resource.kind, resource.namespace, resource.name)
        if key in seen:
            why = f"{resource.kind} {resource.namespace}/{resource.name} is already in {seen[key]}"
            found.append(Problem(where, "metadata.name", why))
        seen.setdefault(key, where)
    return found
