"""How `limpet push` and `limpet pull` reach a registry: with the user's own docker credentials."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from limpet.errors import InvalidInputError

if TYPE_CHECKING:
    from limpet.registry.client import Registry


class ImageNameError(InvalidInputError):
    """What was named is no image."""

    reason = "InvalidReference"


def open_registry(text: str, *, actions: str, authority: str | None) -> Registry:
    """The repository that a reference names. Raises LimpetError."""
    from limpet.manifest.module_source import ModuleSourceError, parse_module_source
    from limpet.registry.client import Registry
    from limpet.registry.credentials import parse_keychain
    from limpet.registry.exchange import Line, make_trust, own_proxy, trust_also
    from limpet.registry.reference import parse_reference

    try:
        source = parse_module_source(text if "://" in text else f"oci://{text}")
    except ModuleSourceError as error:
        raise ImageNameError(f"{text}: {error}") from error
    if source.scheme != "oci":
        raise ImageNameError(f"{text} is not an image like ghcr.io/you/app:1")
    reference = parse_reference(source.location)
    keychain = parse_keychain(_docker_config())
    proxy, excepted = own_proxy()
    trust = trust_also(make_trust(), _read(authority))
    line = Line(trust=trust, proxy=proxy, no_proxy=excepted)
    return Registry(line, reference, keychain.find(reference.name), actions=actions)


def _docker_config() -> tuple[str, ...]:
    folder = os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker"
    path = Path(folder) / "config.json"
    return (_read(str(path)),) if path.is_file() else ()


def _read(path: str | None) -> str:
    if path is None:
        return ""
    try:
        return Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise InvalidInputError(f"can't read {path}: {reason}") from error
