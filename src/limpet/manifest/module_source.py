"""Where a module comes from: what `image:` and a command line may say.

A name that ends in `.wasm` is a file, a URL is a URL, everything else is an image reference of the
OCI distribution specification.
"""

from __future__ import annotations

import re

from limpet.errors import InvalidInputError
from limpet.manifest.model import ModuleSource
from limpet.manifest.names import is_subdomain
from limpet.manifest.problems import shown

_LENGTH = 2048
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_URL = re.compile(r"https://([^/?#]+)([^#]*)(?:#(.*))?")
_REPOSITORY_PART = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


class ModuleSourceError(InvalidInputError):
    """A module's source can't be read; the message says what would do."""

    reason = "InvalidModuleSource"


def parse_module_source(text: str) -> ModuleSource:
    """A file, URL or image reference as a source; nothing is opened or resolved."""
    if not text:
        raise ModuleSourceError("is empty; name a .wasm file, an https:// URL or an OCI image")
    if len(text) > _LENGTH:
        raise ModuleSourceError(f"is longer than {_LENGTH} characters")
    if any(c.isspace() or not c.isprintable() for c in text):
        raise ModuleSourceError(f"{shown(text)} contains spaces or control characters")
    scheme, separator, rest = text.partition("://")
    if separator:
        return _parse_url(text, scheme.lower(), rest)
    if text.endswith(".wasm"):
        return ModuleSource(scheme="file", location=text)
    if text.startswith((".", "/", "~")) or text.endswith((".wat", ".cwasm")):
        raise ModuleSourceError(f"{shown(text)} is not a module: its name must end in .wasm")
    return _parse_reference(text)


def is_digest(text: str) -> bool:
    """Whether the text is `sha256:` and 64 lower-case hexadecimal digits."""
    return _DIGEST.fullmatch(text) is not None


def _parse_url(text: str, scheme: str, rest: str) -> ModuleSource:
    if scheme == "oci":
        return _parse_reference(rest)
    if scheme == "file":
        return _parse_file_url(text, rest)
    if scheme == "http":
        raise ModuleSourceError(
            "plain http:// lets anybody on the way replace the module; use https:// or oci://"
        )
    if scheme != "https":
        raise ModuleSourceError(f"{shown(scheme)} is not one of file, https and oci")
    match = _URL.fullmatch("https://" + rest)
    if match is None:
        raise ModuleSourceError(f"{shown(text)} is not a URL like https://host/app.wasm")
    authority, path, fragment = match.groups()
    if "@" in authority:
        raise ModuleSourceError("a URL with a password would end up in logs; remove it")
    _check_authority(authority)
    return ModuleSource(
        scheme="https",
        location=f"https://{authority}{path}",
        digest=_fragment_digest(fragment),
    )


def _fragment_digest(fragment: str | None) -> str | None:
    if fragment is None:
        return None
    digest = fragment.replace("sha256=", "sha256:", 1).lower()
    if not fragment.startswith("sha256=") or not is_digest(digest):
        raise ModuleSourceError("after '#' only sha256=<64 hexadecimal digits> is understood")
    return digest


def _parse_file_url(text: str, rest: str) -> ModuleSource:
    from urllib.parse import unquote

    path = unquote(rest)
    if not path.startswith("/"):
        raise ModuleSourceError(
            f"{shown(text)} names a host; a file is file:/// and an absolute path"
        )
    if not path.endswith(".wasm") or not path.isprintable():
        raise ModuleSourceError(f"{shown(text)} is not a module: its name must end in .wasm")
    return ModuleSource(scheme="file", location=path)


def _parse_reference(text: str) -> ModuleSource:
    """`[registry/]repository[:tag][@sha256:...]`; without either, the tag is `latest`.

    With a digest the tag says nothing more and is dropped.
    """
    name, at, digest = text.partition("@")
    if at and not is_digest(digest):
        raise ModuleSourceError(
            f"{shown(text)}: a digest is @sha256: and 64 lower-case hexadecimal digits"
        )
    head, slash, tail = name.rpartition("/")
    tail, colon, tag = tail.partition(":")
    repository = head + slash + tail
    if colon and not _TAG.fullmatch(tag):
        raise ModuleSourceError(
            f"{shown(text)}: a tag is letters, digits, '_', '.', '-', at most 128"
        )
    _check_repository(repository, text)
    if at:
        return ModuleSource(scheme="oci", location=f"{repository}@{digest}", digest=digest)
    return ModuleSource(scheme="oci", location=f"{repository}:{tag or 'latest'}")


def _check_repository(repository: str, text: str) -> None:
    parts = repository.split("/")
    registry = parts[0]
    if len(parts) > 1 and ("." in registry or ":" in registry or registry == "localhost"):
        _check_authority(registry)
        parts = parts[1:]
    if len(repository) > 255 or not all(_REPOSITORY_PART.fullmatch(part) for part in parts):
        hint = "; names are lower case" if repository != repository.lower() else ""
        raise ModuleSourceError(
            f"{shown(text)} is not a .wasm file, an https:// URL "
            f"or an OCI image like ghcr.io/you/app:1{hint}"
        )


def _check_authority(authority: str) -> None:
    """`host` or `host:port`; the host is a name or an IP address."""
    host, port = authority, ""
    if authority.startswith("["):
        host, _, port = authority.partition("]")
        is_good = bool(re.fullmatch(r"\[[0-9A-Fa-f:.]{2,45}", host)) and port[:1] in {"", ":"}
        port = port[1:]
    else:
        host, colon, port = authority.partition(":")
        is_good = is_subdomain(host.lower()) and bool(port or not colon)
    if port:
        is_good = is_good and port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536
    if not is_good:
        raise ModuleSourceError(f"{shown(authority)} is not a host or host:port")
