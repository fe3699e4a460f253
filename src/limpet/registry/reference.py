"""Image references: where a registry is, and what to ask it for. Pure.

`limpet.manifest.module_source` has checked the spelling; this is what it means, in the words of Docker's
reference grammar: a first part without dot, colon and `localhost` is a repository on Docker Hub.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from limpet.manifest.model import ModuleSource

_DOCKER_HUB = "docker.io"
_DOCKER_HUB_ENDPOINT = "registry-1.docker.io"
_DOCKER_HUB_NAMES = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """An image: `host` is `name[:port]`; either `tag` or `digest` is there."""

    host: str
    repository: str
    tag: str = ""
    digest: str = ""

    @property
    def name(self) -> str:
        """The registry and the repository, which policies and credentials are written for."""
        return f"{self.host}/{self.repository}"

    @property
    def version(self) -> str:
        """What the manifests API calls `<reference>`: the digest or the tag."""
        return self.digest or self.tag

    @property
    def endpoint(self) -> str:
        """The API's root (distribution specification 1.1): perhaps without TLS on loopback only."""
        host = _DOCKER_HUB_ENDPOINT if self.host == _DOCKER_HUB else self.host
        return f"{'http' if is_loopback(host) else 'https'}://{host}"

    def __str__(self) -> str:
        return f"{self.name}{'@' if self.digest else ':'}{self.version}"


def parse_reference(location: str) -> Reference:
    """A `ModuleSource`'s location as what to ask which registry for."""
    name, at, digest = location.partition("@")
    head, slash, tail = name.rpartition("/")
    tail, _, tag = tail.partition(":")
    host, slash, repository = f"{head}{slash}{tail}".partition("/")
    if not slash or not ("." in host or ":" in host or host == "localhost"):
        host, repository = _DOCKER_HUB, f"{host}{slash}{repository}"
    if host in _DOCKER_HUB_NAMES:
        host = _DOCKER_HUB
        repository = repository if "/" in repository else f"library/{repository}"
    if at:
        return Reference(host=host, repository=repository, digest=digest)
    return Reference(host=host, repository=repository, tag=tag or "latest")


def name_source(source: ModuleSource) -> str:
    """A source as people write it; what is pinned has its digest in it."""
    if source.scheme != "oci":
        return f"{source.location}#{source.digest}" if source.digest else source.location
    reference = parse_reference(source.location)
    return f"oci://{reference.name}@{source.digest}" if source.digest else f"oci://{reference}"


def is_digest(text: object) -> bool:
    """Whether it is `sha256:` and 64 lower-case hexadecimal digits."""
    return isinstance(text, str) and _DIGEST.fullmatch(text) is not None


def is_loopback(authority: str) -> bool:
    """Whether `host[:port]` is this very device: `localhost`, 127.0.0.0/8 or ::1."""
    is_bracketed = authority.startswith("[")
    host = authority[1:].partition("]")[0] if is_bracketed else authority.partition(":")[0]
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
