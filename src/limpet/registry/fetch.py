"""Download one module, in a process of its own: bounded, hashed while it streams, never trusted.

The schemes share one shape: a function that writes to a sink. `oci` will be the second.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from limpet.errors import InvalidInputError, LimpetError, TemporaryError, UnavailableError
from limpet.worker.messages import Failed, Fetched

if TYPE_CHECKING:
    import ssl

    from limpet.worker.channel import Channel
    from limpet.worker.config import FetchConfig

_CHUNK = 64 << 10
_READABLE = ("/etc", "/usr", "/lib", "/lib64", "/run")
_TIMEOUT_SECONDS = 30.0


class FetchError(InvalidInputError):
    """A source that will not give the module, however often it is asked."""

    reason = "FetchRefused"


class FetchFailedError(TemporaryError):
    """A source that did not give the module this time."""

    reason = "FetchFailed"


class SchemeError(UnavailableError):
    """A scheme that this version can't fetch."""

    reason = "UnsupportedSource"


class Sink:
    """The file that the module is written to; bounds and hashes it."""

    def __init__(self, descriptor: int, max_bytes: int) -> None:
        self._descriptor = descriptor
        self._max_bytes = max_bytes
        self._hash = hashlib.sha256()
        self.size = 0

    @property
    def digest(self) -> str:
        """The digest of what was written."""
        return f"sha256:{self._hash.hexdigest()}"

    def write(self, data: bytes) -> None:
        """Append; raises `FetchError` over the bound."""
        self.size += len(data)
        if self.size > self._max_bytes:
            raise FetchError(f"the module is over {self._max_bytes >> 20} MiB")
        self._hash.update(data)
        view = memoryview(data)
        while view:
            view = view[os.write(self._descriptor, view) :]


@dataclass(frozen=True, slots=True)
class Equipment:
    """What a download takes along behind its walls: trusted certificates, read while that was possible,
    and the directories it reads later (resolver settings and libraries), opened.
    """

    trust: ssl.SSLContext
    directories: tuple[int, ...]


def equip() -> Equipment:
    """Import and read what a download needs, while this process may still read it."""
    import encodings.idna
    import http.client
    import ssl
    import urllib.request

    del encodings, http, urllib
    found = [path for path in _READABLE if os.path.exists(path)]
    directories = tuple(os.open(path, os.O_PATH | os.O_CLOEXEC) for path in found)
    return Equipment(ssl.create_default_context(), directories)


def fetch_module(
    channel: Channel, config: FetchConfig, descriptor: int, equipment: Equipment
) -> int:
    """Fetch as configured, tell the agent, return the exit code."""
    try:
        sink = Sink(descriptor, config.max_bytes)
        if config.scheme == "https":
            fetch_https(config.location, sink, equipment.trust)
        else:
            raise SchemeError(
                f"{config.scheme}:// sources can't be pulled by this version; "
                f"download {config.location} and use a file or an https:// address"
            )
        if config.digest is not None and sink.digest != config.digest:
            raise FetchError(
                f"{config.location} is {sink.digest}, but the manifest pins {config.digest}"
            )
        os.fsync(descriptor)
    except LimpetError as error:
        channel.send(Failed(error.reason, str(error)[:2000], error.is_retryable))
        return 1
    except OSError as error:
        channel.send(Failed("FetchFailed", f"{config.location}: {error}"[:2000], True))
        return 1
    channel.send(Fetched(sink.digest, sink.size))
    return 0


def fetch_https(location: str, sink: Sink, trust: ssl.SSLContext) -> None:
    """GET over TLS, verified against the system's certificates (or `SSL_CERT_FILE`'s)."""
    import http.client
    import urllib.error
    import urllib.request

    if not location.startswith("https://"):
        raise FetchError(f"{location}: not an https:// address")
    request = urllib.request.Request(location, headers={"Accept": "application/wasm, */*"})  # noqa: S310
    opener = urllib.request.build_opener(
        urllib.request.HTTPSHandler(context=trust), _redirect_handler()
    )
    try:
        with opener.open(request, timeout=_TIMEOUT_SECONDS) as response:
            while chunk := response.read(_CHUNK):
                sink.write(chunk)
            announced = response.headers.get("Content-Length")
    except urllib.error.HTTPError as error:
        text = f"{location}: the server answered {error.code} {error.reason}"
        if error.code in (408, 425, 429) or error.code >= 500:
            raise FetchFailedError(text) from error
        raise FetchError(text) from error
    except (http.client.InvalidURL, ValueError) as error:
        raise FetchError(f"{location}: not an address that can be asked: {error}") from error
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError) as error:
        reason = getattr(error, "reason", None) or error
        raise FetchFailedError(f"{location}: {reason}") from error
    if announced is not None and announced.isdigit() and int(announced) != sink.size:
        raise FetchFailedError(f"{location}: the download ended after {sink.size} bytes")


def _redirect_handler() -> type:
    import urllib.error
    import urllib.request

    class HttpsOnlyRedirects(urllib.request.HTTPRedirectHandler):
        """Follows redirects to https only: nothing may take the download off TLS."""

        def redirect_request(self, req, fp, code, msg, headers, newurl):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
            if not newurl.startswith("https://"):
                raise urllib.error.HTTPError(newurl, code, "redirect away from https", headers, fp)
            return super().redirect_request(req, fp, code, msg, headers, newurl)

    return HttpsOnlyRedirects
