"""The signatures that a bundle takes along for modules of registries: who trusts them judges them there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limpet.cli.terminal import warning
from limpet.errors import LimpetError, UnavailableError
from limpet.manifest.model import App

if TYPE_CHECKING:
    from collections.abc import Sequence

    from limpet.api.answers import Json
    from limpet.api.client import Client
    from limpet.bundle.writing import FileBlob
    from limpet.cli.manifests import Manifest
    from limpet.manifest.model import ModuleSource


def gather_evidence(
    manifests: Sequence[Manifest], modules: Sequence[FileBlob | None], client: Client
) -> list[Json | None]:
    """What each app's module is signed by, None where that is not known; the node's knowledge comes first.

    Warns where there are none to take along: without them the module is good for nodes without a policy.
    """
    known: dict[tuple[str, str], Json | None] = {}
    gathered: list[Json | None] = []
    for manifest, module in zip(manifests, modules, strict=True):
        app = manifest.resource
        if module is None or not isinstance(app, App) or app.source.scheme != "oci":
            gathered.append(None)
            continue
        key = (f"{app.source.location} {app.source.digest}", module.blob.digest)
        if key not in known:
            known[key] = _find(app.source, module.blob.digest, client)
        gathered.append(known[key])
    return gathered


def count_signatures(evidence: Json | None) -> int | None:
    """How many signatures there are; None when nothing is known of them."""
    from limpet.registry.errors import FormatError
    from limpet.registry.evidence import parse_evidence

    if evidence is None:
        return None
    try:
        return len(parse_evidence(evidence).signatures)
    except FormatError:
        return 0  # the node refuses it, and says so


def _find(source: ModuleSource, digest: str, client: Client) -> Json | None:
    from limpet.registry.evidence import parse_evidence
    from limpet.registry.reference import name_source
    from limpet.registry.signatures import trace_digests

    try:
        found = client.evidence(digest, source=name_source(source))
    except UnavailableError:  # no node here: the registry has to do
        found = None
    try:
        found = found or _ask_registry(source)
        trace_digests(parse_evidence(found), digest)
    except LimpetError as error:
        warning(
            f"{name_source(source)}: its signatures can't be taken along ({error}); a node whose policy "
            "wants one will refuse it"
        )
        return None
    return found


def _ask_registry(source: ModuleSource) -> Json:
    """Collect what the registry has. Raises LimpetError."""
    import json

    from limpet.cli.registry_access import open_registry
    from limpet.registry.evidence import encode_evidence
    from limpet.registry.pull import read_image, resolve_digest
    from limpet.registry.transfer import Patience

    registry = open_registry(f"oci://{source.location}", actions="pull", authority=None)
    patience = Patience(attempts=1)
    version = source.digest or registry.reference.version
    manifest, named = resolve_digest(registry, version, patience)
    image = read_image(registry, manifest, named, patience=patience, wants_signatures=True)
    found: Json = json.loads(encode_evidence(image.evidence))
    return found
