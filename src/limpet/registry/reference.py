"""Image references: where a registry is, and what to ask it for. Pure.

`limpet.manifest.module_source` has checked the spelling; this is what it means, in the words of Docker's
reference grammar: a first part without dot, colon and `localhost` is a repository on Docker Hub.
"""

from __future__ import annotations

import ipaddress
import posixpath
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from limpet.manifest.model import ModuleSource

DOCKER_HUB = "docker.io"
_DOCKER_HUB_ENDPOINT = "registry-1.docker.io"
_DOCKER_HUB_NAMES = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """An image: `host` is `name[:port]`, normalised; either `tag` or `digest` is there."""

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
        host = _DOCKER_HUB_ENDPOINT if self.host == DOCKER_HUB else self.host
        return f"{'http' if is_loopback(host) else 'https'}://{host}"

    def __str__(self) -> str:
        return f"{self.name}{'@' if self.digest else ':'}{self.version}"


def parse_reference(location: str) -> Reference:
    """A `ModuleSource`'s location as what to ask which registry for."""
    name, at, digest = location.partition("@")
    head, slash, tail = name.rpartition("/")
    tail, _, tag = tail.partition(":")
    host, slash, repository = f"{head}{slash}{tail}".partition("/")
    if not slash or not is_registry(host):
        host, repository = DOCKER_HUB, f"{host}{slash}{repository}"
    host = normalise_registry(host)
    if host == DOCKER_HUB:
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


def name_place(source: ModuleSource) -> str:
    """What policies are written for: `registry/repository`, or a URL's host and path, in one spelling."""
    if source.scheme == "oci":
        return parse_reference(source.location).name
    from urllib.parse import unquote

    address = source.location.partition("://")[2].partition("?")[0]
    host, _, path = address.partition("/")
    path = posixpath.normpath(f"/{unquote(path).lstrip('/')}")
    return f"{normalise_registry(host)}{path}".rstrip("/")


def is_registry(part: str) -> bool:
    """Whether a reference's first part is a registry, and not a repository on Docker Hub."""
    return "." in part or ":" in part or part == "localhost"


def normalise_registry(authority: str) -> str:
    """A registry in the one spelling that names, rules and credentials are compared in."""
    host = normalise_host(authority)
    return DOCKER_HUB if host in _DOCKER_HUB_NAMES else host


def normalise_host(authority: str) -> str:
    """`host[:port]` without case (RFC 4343), and without the port that its scheme stands for."""
    authority = authority.lower()
    if authority.startswith("["):
        host, _, port = authority[1:].partition("]")
        try:
            host = f"[{ipaddress.IPv6Address(host).compressed}]"
        except ValueError:
            host = f"[{host}]"
        port = port.removeprefix(":")
    else:
        host, _, port = authority.partition(":")
    port = port.lstrip("0")
    return f"{host}:{port}" if port and port != ("80" if is_loopback(host) else "443") else host


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
