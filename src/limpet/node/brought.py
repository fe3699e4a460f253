"""Modules that came along with their apps, as from a bundle, instead of from where the apps say they are.

Each is remembered as if it had been pulled, with the signatures that came along: the signature policy judges
it like any other (`limpet.node.pulling`), and imagePullPolicy finds it here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from limpet.errors import InvalidInputError
from limpet.manifest.model import App
from limpet.manifest.parse import parse_object
from limpet.registry.reference import name_source
from limpet.store.pulls import Pull

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from limpet.store.pulls import Pulls


@dataclass(frozen=True, slots=True)
class Brought:
    """An app's object, its module's digest, and maybe `evidence` (`limpet.registry.signatures`)."""

    document: Mapping[str, object]
    digest: str
    evidence: object = None


def plan_pulls(brought: Sequence[Brought]) -> list[Pull]:
    """What is to be remembered of it. Raises LimpetError."""
    pulls = []
    for each in brought:
        app = parse_object(each.document)
        if not isinstance(app, App) or app.source.scheme == "file":
            if each.evidence is not None:
                raise InvalidInputError("`evidence` is for apps whose image is in a registry")
            continue
        source, pinned = name_source(app.source), app.source.digest
        manifest, evidence = _read_evidence(each)
        if app.source.scheme == "oci" and pinned is not None and pinned != manifest:
            if manifest:
                raise InvalidInputError(f"the evidence is of {manifest}, but {source} is wanted")
            continue  # nothing shows that it is this module: other apps must not get it for that
        pulls.append(Pull(source=source, module=each.digest, manifest=manifest, evidence=evidence))
    return pulls


def remember(pulls: Pulls, brought: Sequence[Brought]) -> Callable[[], None] | None:
    """Return what writes it down, within the transaction of the objects; None when there is nothing to.

    Raises LimpetError.
    """
    planned = plan_pulls(brought)
    if not planned:
        return None

    def write() -> None:
        for pull in planned:
            known = pulls.of_module(pull.source, pull.module)
            kept = pull if known is None else _join(known, pull)
            pulls.write(replace(kept, pulled_at=0.0))

    return write


def _join(known: Pull, brought: Pull) -> Pull:
    """What is known of a module's source, with the signatures that came along for the same manifest.

    A bundle of somebody else's takes nothing away that this node can prove offline.
    """
    from limpet.registry.evidence import join_evidence

    if known.manifest and known.manifest != brought.manifest:
        return known
    evidence = join_evidence(known.evidence, brought.evidence)
    return replace(known, manifest=brought.manifest, evidence=evidence)


def _read_evidence(brought: Brought) -> tuple[str, str]:
    """The digest of what the source names, and the evidence as it is kept.

    Raises `FormatError` for evidence that is of another module, or of a container image: that a file is the
    one in a layer is only this node's to say. Whose signatures count is judged later.
    """
    if brought.evidence is None:
        return "", ""
    from limpet.registry.documents import digest_of
    from limpet.registry.evidence import encode_evidence, parse_evidence
    from limpet.registry.signatures import trace_digests

    evidence = parse_evidence(brought.evidence)
    trace_digests(evidence, brought.digest)
    manifest = digest_of(evidence.manifests[0]) if evidence.manifests else ""
    return manifest, encode_evidence(evidence)
