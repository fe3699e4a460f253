"""Module files: read and hashed here, sent to the node once."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from limpet.manifest.model import App
from limpet.manifest.problems import ManifestError, Problem

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from limpet.api.answers import ApplyItem
    from limpet.api.client import Client
    from limpet.cli.manifests import Manifest
    from limpet.cli.terminal import StatusLine

_PIECE_BYTES = 1 << 20
_PROGRESS_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleFile:
    """A module on this side of the socket."""

    path: Path
    digest: str
    size_bytes: int


def hash_modules(manifests: Sequence[Manifest]) -> list[ModuleFile | None]:
    """The file of each manifest whose module is one, in order.

    Raises `ManifestError` naming every file that can't be read or isn't the one that was pinned.
    """
    modules: list[ModuleFile | None] = []
    problems: list[Problem] = []
    for manifest in manifests:
        try:
            modules.append(_hash_module(manifest))
        except ManifestError as error:
            problems += error.problems
    if problems:
        raise ManifestError(problems)
    return modules


def upload_modules(
    client: Client, modules: Sequence[ModuleFile | None], *, status: StatusLine
) -> None:
    """Send the modules that the node doesn't hold yet."""
    distinct = {module.digest: module for module in modules if module is not None}
    for module in distinct.values():
        if client.has_module(module.digest):
            continue

        def show(done: int, module: ModuleFile = module) -> None:
            if module.size_bytes > _PROGRESS_BYTES:
                status.show_progress(
                    f"uploading {module.path.name}", done=done, total=module.size_bytes
                )

        with module.path.open("rb") as file:
            client.upload_module(
                module.digest, file, size_bytes=module.size_bytes, on_progress=show
            )


def apply_items(
    manifests: Sequence[Manifest], modules: Sequence[ModuleFile | None]
) -> list[ApplyItem]:
    """What `POST /v1/apply` takes."""
    items: list[ApplyItem] = []
    for manifest, module in zip(manifests, modules, strict=True):
        item: ApplyItem = {"object": manifest.object}
        if module is not None:
            item["digest"] = module.digest
        items.append(item)
    return items


def _hash_module(manifest: Manifest) -> ModuleFile | None:
    app = manifest.resource
    if not isinstance(app, App) or app.source.scheme != "file":
        return None
    path = manifest.folder / os.path.expanduser(app.source.location)
    try:
        with path.open("rb") as file:
            state, size = hashlib.sha256(), 0
            while piece := file.read(_PIECE_BYTES):
                state.update(piece)
                size += len(piece)
    except OSError as error:
        raise _image_error(manifest, f"can't read {path}: {error.strerror}") from error
    digest = f"sha256:{state.hexdigest()}"
    if app.source.digest not in (None, digest):
        raise _image_error(manifest, f"{path} is {digest}, but {app.source.digest} is pinned")
    return ModuleFile(path=path, digest=digest, size_bytes=size)


def _image_error(manifest: Manifest, why: str) -> ManifestError:
    steps = ("spec",) if manifest.resource.kind == "Pod" else ("spec", "template", "spec")
    path = (*steps, "containers", 0, "image")
    text = f"{'.'.join(steps)}.containers[0].image"
    return ManifestError([Problem(manifest.locate(path), text, why)])
