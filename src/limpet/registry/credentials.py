"""Credentials in the format of docker's config.json and kubernetes.io/dockerconfigjson. Pure.

No message of this module shows a value. Helpers (`credsStore`, `credHelpers`) are programs that a node
would have to run with a registry's name as their input: they are refused where they are the only answer.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from limpet.errors import InvalidInputError
from limpet.registry.reference import normalise_registry

if TYPE_CHECKING:
    from collections.abc import Iterable

_MOST_BYTES = 1 << 20


class CredentialsError(InvalidInputError):
    """A credentials file that can't be used."""

    reason = "InvalidCredentials"


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user's name and password, or an identity token (OAuth2's refresh token) in the latter's place."""

    username: str = field(repr=False)
    password: str = field(repr=False)
    identity_token: str = field(default="", repr=False)

    def basic(self) -> str:
        """The Authorization header's value (RFC 7617)."""
        pair = f"{self.username}:{self.password}".encode()
        return f"Basic {base64.b64encode(pair).decode()}"


@dataclass(frozen=True, slots=True)
class Keychain:
    """Whose credentials are for what: (host pattern, path prefix, credentials), and refused helpers."""

    entries: tuple[tuple[str, str, Credentials], ...] = field(default=(), repr=False)
    helpers: tuple[str, ...] = ()

    def find(self, name: str) -> Credentials | None:
        """The credentials for `host/repository`: of those that fit, the longest path's, then the first.

        Raises `CredentialsError` where only a helper would know.
        """
        host, _, repository = name.partition("/")
        fitting = [
            (len(path), credentials)
            for pattern, path, credentials in self.entries
            if _fits(pattern, host) and _is_below(path, repository)
        ]
        if fitting:
            return max(fitting, key=lambda each: each[0])[1]
        if "*" in self.helpers or host in self.helpers:
            raise CredentialsError(
                f"the credentials for {host} are kept by a helper program, and a node runs none; "
                f"write them under auths, as `docker login` does without credsStore"
            )
        return None

    def redact(self, text: str) -> str:
        """The text without any of the secrets: a server may echo what it was sent."""
        for _, _, credentials in self.entries:
            pair = credentials.basic().removeprefix("Basic ")
            for secret in (credentials.password, credentials.identity_token, pair):
                if secret:
                    text = text.replace(secret, "***")
        return text


def parse_keychain(texts: Iterable[str]) -> Keychain:
    """What config.json files say, the first first. Raises `CredentialsError`."""
    entries: list[tuple[str, str, Credentials]] = []
    helpers: list[str] = []
    for text in texts:
        document = _parse_document(text)
        auths = document.get("auths", {})
        if not isinstance(auths, dict):
            raise CredentialsError("auths is not an object of registries")
        for key, value in auths.items():
            found = _parse_entry(key, value)
            if found is not None:
                host, path = _split_key(key)
                entries.append((host, path, found))
        stored = document.get("credHelpers", {})
        if isinstance(stored, dict):
            helpers += [_split_key(str(key))[0] for key in stored]
        if document.get("credsStore"):
            helpers.append("*")
    return Keychain(tuple(entries), tuple(helpers))


def _parse_document(text: str) -> dict[str, object]:
    if len(text) > _MOST_BYTES:
        raise CredentialsError("a credentials file is larger than 1 MiB")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        document = None  # whatever the parser says may quote a secret
    if not isinstance(document, dict):
        raise CredentialsError(
            'a credentials file is JSON like {"auths": {"ghcr.io": {"auth": ...}}}'
        )
    return document


def _parse_entry(key: str, value: object) -> Credentials | None:
    """The credentials of one registry; None for the empty entry that helpers leave behind."""
    if not isinstance(value, dict):
        raise CredentialsError(f"auths: {key[:255]}: not an object")
    values = {
        name: value.get(name, "") for name in ("auth", "username", "password", "identitytoken")
    }
    if not all(isinstance(each, str) for each in values.values()):
        raise CredentialsError(f"auths: {key[:255]}: a value is not text")
    username, password = values["username"], values["password"]
    if values["auth"]:
        try:
            pair = base64.b64decode(values["auth"], validate=True).decode().rstrip("\0")
        except (binascii.Error, ValueError):
            pair = ""
        username, colon, password = pair.partition(":")
        if not colon:
            raise CredentialsError(f"auths: {key[:255]}: auth is not base64 of user:password")
    if "\n" in username + password or "\r" in username + password:
        raise CredentialsError(f"auths: {key[:255]}: a line break is in it")
    if not (username or password or values["identitytoken"]):
        return None
    return Credentials(username, password, values["identitytoken"])


def _split_key(key: str) -> tuple[str, str]:
    """Host and path of an entry's key: `ghcr.io`, `ghcr.io/acme`, `https://index.docker.io/v1/`."""
    host, _, path = key.partition("://")[2].partition("/") if "://" in key else key.partition("/")
    path = path.strip("/")
    if path in ("v1", "v2"):
        path = ""
    return normalise_registry(host), path


def _fits(pattern: str, host: str) -> bool:
    """Whether a host is meant: a `*` in a pattern stands for (a part of) one label, as in the kubelet."""
    if "*" not in pattern:
        return pattern == host
    labels, wanted = host.split("."), pattern.split(".")
    return len(labels) == len(wanted) and all(map(fnmatchcase, labels, wanted))


def _is_below(path: str, repository: str) -> bool:
    return not path or repository == path or repository.startswith(f"{path}/")
