"""From a reference to a module: manifest, signatures, layers. The node and `limpet pull` do it alike."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from limpet.registry.documents import parse_object
from limpet.registry.errors import FetchFailedError, FormatError
from limpet.registry.evidence import Evidence
from limpet.registry.formats import (
    Content,
    ModuleLayer,
    RootFiles,
    choose_content,
    choose_manifest,
    read_config,
)
from limpet.registry.layers import Found, extract_file
from limpet.registry.signatures import collect_signatures
from limpet.registry.transfer import Patience, Wanted, download

if TYPE_CHECKING:
    from collections.abc import Callable

    from limpet.registry.client import Registry
    from limpet.registry.documents import Descriptor
    from limpet.registry.sink import Sink

_Result = TypeVar("_Result")
_MOST_NESTED_INDEXES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image whose module is known: `digests` leads from what the reference names to its manifest."""

    digests: tuple[str, ...]
    content: Content
    evidence: Evidence = field(default_factory=Evidence)


def resolve_digest(registry: Registry, version: str, patience: Patience) -> tuple[bytes, str]:
    """What the reference names now: a manifest or an index, and its digest."""
    return persist(lambda: registry.manifest(version), patience)


def read_image(
    registry: Registry, manifest: bytes, digest: str, *, patience: Patience, wants_signatures: bool
) -> Image:
    """Find an image's module, and the signatures that were asked for. Raises `FormatError`."""
    digests, manifests = [digest], [manifest]
    document = parse_object(manifest, f"the manifest of {registry.reference}")
    while "manifests" in document:
        if len(digests) > _MOST_NESTED_INDEXES:
            raise FormatError(f"{registry.reference}: its index leads to index after index")
        chosen = choose_manifest(document)
        data, _ = persist(lambda: registry.manifest(chosen.digest), patience)  # noqa: B023 - called at once
        digests.append(chosen.digest)
        manifests.append(data)
        document = parse_object(data, f"the manifest of {registry.reference}")
    wanted = read_config(document)
    config: dict[str, object] = {}
    if wanted is not None:
        config = persist(lambda: registry.document(wanted, "the configuration"), patience)
    content = choose_content(document, config)
    evidence = Evidence()
    if wants_signatures:
        found = persist(lambda: collect_signatures(registry, digests), patience)
        evidence = Evidence(manifests=tuple(manifests), signatures=found)
    return Image(digests=tuple(digests), content=content, evidence=evidence)


def pull_module(
    registry: Registry,
    content: Content,
    partial: Sink,
    module: Sink,
    *,
    patience: Patience,
    report: Callable[[int, int | None], None],
) -> Sink:
    """Download what holds the module; return the sink that it is in.

    That is `partial` where a layer is the module, and `module` where it is a file in one.
    """
    if isinstance(content, ModuleLayer):
        _download_layer(registry, content.layer, partial, patience, report)
        return partial
    _extract(registry, content, partial, module, patience, report)
    module.finish()
    return module


def persist(act: Callable[[], _Result], patience: Patience) -> _Result:
    """Do it, again if it fails for now. Raises what it raised last."""
    failures = 0
    while True:
        try:
            return act()
        except FetchFailedError as error:
            failures += 1
            if failures >= patience.attempts:
                raise
            patience.wait(failures, error)


def _extract(
    registry: Registry,
    content: RootFiles,
    partial: Sink,
    module: Sink,
    patience: Patience,
    report: Callable[[int, int | None], None],
) -> None:
    """Look for the file from the uppermost layer down, as a union of them would show it."""
    for layer, compression in reversed(content.layers):
        _download_layer(registry, layer, partial, patience, report)
        module.clear()
        with os.fdopen(os.dup(partial.descriptor), "rb") as file:
            file.seek(0)
            found = extract_file(file, compression, content.path, module.write)
        if found is Found.FILE:
            return
        if found is Found.WHITEOUT:
            break
    raise FormatError(f"{registry.reference} starts {content.path}, which none of its layers has")


def _download_layer(
    registry: Registry,
    layer: Descriptor,
    sink: Sink,
    patience: Patience,
    report: Callable[[int, int | None], None],
) -> None:
    wanted = Wanted(
        what=f"{registry.reference.name} layer {layer.digest[:19]}",
        key=layer.digest,
        size=layer.size,
        digest=layer.digest,
        is_fixed=True,
    )
    download(
        lambda headers: registry.blob(layer.digest, headers),
        sink,
        wanted,
        patience=patience,
        report=report,
    )
