"""One repository of one registry: the distribution specification's API, and the ways in.

The ways in are HTTP's Basic (RFC 7617) and the distribution project's token flow. Credentials go to the
registry they are for, and to the token service that it names, over TLS; nowhere else.
"""

from __future__ import annotations

import http.client
from typing import IO, TYPE_CHECKING
from urllib.parse import urlencode, urlsplit

from limpet.registry.challenge import Challenge, parse_challenges
from limpet.registry.documents import MAX_DOCUMENT_BYTES, digest_of, parse_object
from limpet.registry.errors import FetchError, FetchFailedError, MissingError, UnauthorizedError
from limpet.registry.exchange import failed, is_same_host, request, resolve
from limpet.registry.formats import INDEX_TYPES, MANIFEST_TYPES
from limpet.registry.reference import is_digest, is_loopback

if TYPE_CHECKING:
    import io
    from collections.abc import Mapping

    from limpet.registry.credentials import Credentials
    from limpet.registry.documents import Descriptor
    from limpet.registry.exchange import Line, Response
    from limpet.registry.reference import Reference

_ACCEPTED = ", ".join(sorted(MANIFEST_TYPES | INDEX_TYPES))
_MOST_TOKEN_BYTES = 64 << 10
_PLAIN_TO_TLS = 400  # what Go's servers answer to it; others end the connection
_DOES_NOT_EXIST = frozenset({404, 410})


class Registry:
    """A repository; `endpoint` is where its API is, the reference's own unless a mirror serves it."""

    def __init__(
        self,
        line: Line,
        reference: Reference,
        credentials: Credentials | None,
        *,
        endpoint: str = "",
        actions: str = "pull",
    ) -> None:
        self.reference = reference
        self._line = line
        self._credentials = credentials
        self._endpoint = endpoint or reference.endpoint
        self._actions = actions
        self._authorization = ""
        self._is_settled = False

    def manifest(self, version: str) -> tuple[bytes, str]:
        """A manifest or index, by tag or digest, and its digest.

        Raises `MissingError`, and `FetchError` when it is not what its digest says.
        """
        what = f"{self.reference.name}{'@' if is_digest(version) else ':'}{version}"
        with self.ask("GET", f"manifests/{version}", {"Accept": _ACCEPTED}) as response:
            _require(response, what)
            data = response.body(MAX_DOCUMENT_BYTES)
        digest = digest_of(data)
        if is_digest(version) and digest != version:
            raise FetchError(f"{what} is {digest}")
        return data, digest

    def document(self, descriptor: Descriptor, what: str) -> dict[str, object]:
        """A small JSON blob, checked."""
        return parse_object(self.small_blob(descriptor, what, MAX_DOCUMENT_BYTES), what)

    def small_blob(self, descriptor: Descriptor, what: str, most_bytes: int) -> bytes:
        """A blob in memory. Raises `FetchError` when it is larger, or not what its digest says."""
        if descriptor.size > most_bytes:
            raise FetchError(f"{what} of {self.reference} has over {most_bytes >> 10} KiB")
        with self.blob(descriptor.digest, {}) as response:
            _require(response, f"{what} of {self.reference}")
            data = response.body(descriptor.size)
        if digest_of(data) != descriptor.digest:
            raise FetchError(f"{what} of {self.reference} is not {descriptor.digest}")
        return data

    def blob(self, digest: str, headers: Mapping[str, str]) -> Response:
        """Ask for a blob; the answer may have any status."""
        return self.ask("GET", f"blobs/{digest}", headers)

    def ask(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        *,
        body: IO[bytes] | io.BufferedIOBase | bytes | None = None,
    ) -> Response:
        """Ask for something of the repository, getting permission once if that is wanted."""
        self._settle_scheme()
        return self.ask_url(method, self._url(path), headers, body=body)

    def ask_url(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        *,
        body: IO[bytes] | io.BufferedIOBase | bytes | None = None,
    ) -> Response:
        """Ask an address that the registry gave; it gets the permission only if it is its own."""
        sent = dict(headers)
        is_own = is_same_host(url, self._endpoint)
        if self._authorization and is_own:
            sent["Authorization"] = self._authorization
        response = request(self._line, method, url, sent, body=body)
        # A redirect may have led elsewhere, where nobody is to say who gets the credentials.
        if response.status != 401 or not (is_own and is_same_host(response.url, self._endpoint)):
            return response
        header = response.header("WWW-Authenticate")
        response.close()
        self._authorization = self._enter(parse_challenges(header))
        sent["Authorization"] = self._authorization
        if body is not None and not isinstance(body, bytes):
            body.seek(0)
        response = request(self._line, method, url, sent, body=body)
        if response.status in (401, 403):
            response.close()
            raise self._unauthorized()
        return response

    def follow(self, location: str) -> str:
        """The address that the Location header of an upload means."""
        return resolve(self._url("blobs/uploads/"), location)

    def _settle_scheme(self) -> None:
        """On this very device, find out whether the registry has TLS: many have none there."""
        if self._is_settled or not self._endpoint.startswith("http://"):
            return
        try:
            with request(self._line, "GET", f"{self._endpoint}/v2/", {}) as response:
                has_tls = response.status == _PLAIN_TO_TLS
        except FetchFailedError as error:
            if not isinstance(error.__cause__, (http.client.HTTPException, ConnectionResetError)):
                raise
            has_tls = True  # it answers, and not in HTTP
        if has_tls:
            self._endpoint = self._endpoint.replace("http://", "https://", 1)
        self._is_settled = True

    def _url(self, path: str) -> str:
        return f"{self._endpoint}/v2/{self.reference.repository}/{path}"

    def _enter(self, challenges: tuple[Challenge, ...]) -> str:
        """Get what goes into the Authorization header."""
        for challenge in challenges:
            if challenge.scheme == "bearer" and challenge.parameters.get("realm"):
                return f"Bearer {self._token(challenge)}"
            if challenge.scheme == "basic" and self._credentials is not None:
                return self._credentials.basic()
        raise self._unauthorized()

    def _token(self, challenge: Challenge) -> str:
        realm = challenge.parameters["realm"]
        self._check_realm(realm)
        asked = {
            "service": challenge.parameters.get("service", ""),
            "scope": challenge.parameters.get("scope")
            or f"repository:{self.reference.repository}:{self._actions}",
        }
        asked = {name: value for name, value in asked.items() if value}
        credentials = self._credentials
        if credentials is not None and credentials.identity_token:
            response = self._exchange_token(realm, asked, credentials.identity_token)
        else:
            headers = {"Authorization": credentials.basic()} if credentials is not None else {}
            separator = "&" if urlsplit(realm).query else "?"
            url = f"{realm}{separator}{urlencode(asked)}"
            response = request(self._line, "GET", url, headers)
        with response:
            if response.status in (400, 401, 403):
                raise self._unauthorized()
            if response.status != 200:
                raise failed(response, f"the token service of {self.reference.host}")
            document = parse_object(response.body(_MOST_TOKEN_BYTES), "the token service's answer")
        token = document.get("token") or document.get("access_token")
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise FetchError(f"the token service of {self.reference.host} gave no token")
        return token

    def _exchange_token(self, realm: str, asked: Mapping[str, str], refresh: str) -> Response:
        form = {
            **asked,
            "grant_type": "refresh_token",
            "client_id": "limpet",
            "refresh_token": refresh,
        }
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        return request(self._line, "POST", realm, headers, body=urlencode(form).encode())

    def _check_realm(self, realm: str) -> None:
        """Credentials go out over TLS, or stay on this device."""
        try:
            parts = urlsplit(realm)
            is_local = is_loopback(parts.netloc) and is_loopback(urlsplit(self._endpoint).netloc)
            is_good = parts.scheme == "https" or (parts.scheme == "http" and is_local)
        except ValueError:
            is_good = False
        if not is_good or "@" in realm:
            raise FetchError(f"{self.reference.host} names a token service that is not https")

    def _unauthorized(self) -> UnauthorizedError:
        why = (
            "none were given: set registry.credentials_file, or imagePullSecrets of the app"
            if self._credentials is None
            else "it does not accept those that it was given"
        )
        return UnauthorizedError(
            f"{self.reference.host} wants credentials for {self.reference.repository}, and {why}"
        )


def _require(response: Response, what: str) -> None:
    if response.status in _DOES_NOT_EXIST:
        raise MissingError(f"{what} does not exist, or not for these credentials")
    if response.status in (401, 403):
        raise UnauthorizedError(f"{what}: the registry does not allow it")
    if response.status != 200:
        raise failed(response, what)
