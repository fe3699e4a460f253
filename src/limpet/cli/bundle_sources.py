"""Where the modules and the compiled code of a bundle come from."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from limpet.bundle import layout
from limpet.bundle.writing import describe_file
from limpet.errors import LimpetError, NotFoundError, UnavailableError
from limpet.manifest.model import App
from limpet.store.modules import MAX_MODULE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from limpet.api.client import Client
    from limpet.bundle.writing import FileBlob
    from limpet.cli.manifests import Manifest
    from limpet.manifest.model import ModuleSource

_DEFAULT_ENGINE = "wasmtime"


class ModuleNotAtHandError(UnavailableError):
    """A module that is neither here nor on a node that can be asked."""

    reason = "ModuleNotAtHand"


def gather_modules(
    manifests: Sequence[Manifest], client: Client, folder: Path
) -> list[FileBlob | None]:
    """The module of each manifest, None for what is no app; what had to be fetched lies in `folder`.

    Raises `ManifestError` for files that can't be read, `ModuleNotAtHandError`.
    """
    from limpet.cli.modules import hash_modules

    gathered: list[FileBlob | None] = []
    fetched: dict[str, FileBlob] = {}
    for manifest, file in zip(manifests, hash_modules(manifests), strict=True):
        app = manifest.resource
        if not isinstance(app, App):
            gathered.append(None)
        elif file is not None:
            name = file.path.name
            gathered.append(describe_file(file.path, layout.MODULE_TYPE, title=name))
        else:
            location = app.source.location
            if location not in fetched:
                fetched[location] = _fetch(app, client, folder / f"{len(fetched)}.wasm")
            gathered.append(fetched[location])
    return gathered


def _fetch(app: App, client: Client, path: Path) -> FileBlob:
    """Get a module from the node that has it already, else from where it comes."""
    source = app.source
    digest = _find_on_node(app, client)
    if digest is not None:
        _save(client.download_module(digest), path)
    elif source.scheme == "https":
        _fetch_https(source, path)
    else:
        _pull(source, path)
    found = describe_file(path, layout.MODULE_TYPE, title=source.location)
    if source.scheme == "https" and source.digest not in (None, found.blob.digest):
        raise ModuleNotAtHandError(
            f"{source.location} is {found.blob.digest}, but the manifest pins {source.digest}"
        )
    return found


def _find_on_node(app: App, client: Client) -> str | None:
    """The digest of an app's module when the node runs an app of the same source."""
    source = app.source
    image = f"oci://{source.location}" if source.scheme == "oci" else source.location
    try:
        if source.scheme == "https" and source.digest and client.has_module(source.digest):
            return source.digest
        return next((found["digest"] for found in client.apps() if found["image"] == image), None)
    except UnavailableError:  # no node here: the source itself has to do
        return None


def _fetch_https(source: ModuleSource, path: Path) -> None:
    from limpet.registry.exchange import make_trust
    from limpet.registry.fetch import fetch_https
    from limpet.registry.sink import Sink
    from limpet.worker.config import FetchConfig

    config = FetchConfig(
        scheme=source.scheme,
        location=source.location,
        digest=source.digest,
        max_bytes=MAX_MODULE_BYTES,
    )
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        sink = Sink(descriptor, config.max_bytes)
        fetch_https(config, sink, make_trust(), lambda _done, _total: None)
    finally:
        os.close(descriptor)


def _pull(source: ModuleSource, path: Path) -> None:
    from limpet.cli.pull import download_image
    from limpet.cli.registry_access import open_registry

    download_image(open_registry(source.location, actions="pull", authority=None), path)


def compile_modules(
    manifests: Sequence[Manifest],
    modules: Sequence[FileBlob | None],
    client: Client,
    folder: Path,
) -> list[FileBlob]:
    """Have the node compile each app's module as it would to run it, and take the result along."""
    compiled: dict[str, FileBlob] = {}
    for manifest, module in zip(manifests, modules, strict=True):
        app = manifest.resource
        if module is None or not isinstance(app, App) or app.execution:
            continue
        digest = module.blob.digest
        if not client.has_module(digest):
            with module.path.open("rb") as file:
                client.upload_module(digest, file, size_bytes=module.blob.size)
        engine = app.engine if app.engine in ("wasmtime", "wasmedge") else _DEFAULT_ENGINE
        told = client.compile_module(digest, engine=engine, is_metered=app.cost_limit is not None)
        name = str(told["name"])
        if name in compiled:
            continue
        path = folder / f"{len(compiled)}.cwasm"
        _save(client.download_compiled(name), path)
        info = {key: told[key] for key in ("imports", "exports", "memory_bytes")}
        annotations = {
            layout.COMPILED_NAME: name,
            layout.COMPILED_INFO: layout.encode_json(info).decode(),
        }
        compiled[name] = describe_file(path, layout.COMPILED_TYPE, **annotations)
    return list(compiled.values())


def gather_wheels(folder: Path) -> list[FileBlob]:
    """The wheels in a folder. Raises `NotFoundError` when there is none."""
    found = sorted(folder.glob("*.whl"))
    if not found:
        raise NotFoundError(f"{folder}: no .whl file in this folder")
    return [describe_file(path, layout.WHEEL_TYPE, title=path.name) for path in found]


def _save(pieces: Iterator[bytes], path: Path) -> None:
    try:
        with path.open("wb") as file:
            for piece in pieces:
                file.write(piece)
    except OSError as error:
        raise LimpetError(f"can't write {path}: {error.strerror}") from error
