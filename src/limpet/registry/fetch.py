"""Download one module, in a process of its own: bounded, hashed while it streams, never trusted.

The process is given its work and files by the agent (`limpet.worker.config.FetchConfig`): a partial download
to go on with, the notes on it, an empty file for a module that has to be taken out of an archive, and one for
what the registry says of its signatures. A scheme is a function here.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from limpet.errors import LimpetError, UnavailableError
from limpet.registry.client import Registry
from limpet.registry.credentials import CredentialsError, Keychain, parse_keychain
from limpet.registry.errors import FetchError, MissingError, UnauthorizedError
from limpet.registry.evidence import encode_evidence
from limpet.registry.exchange import Line, make_trust, own_proxy, request, trust_also
from limpet.registry.formats import ModuleLayer
from limpet.registry.pace import Rates
from limpet.registry.pull import pull_module, read_image, resolve_digest
from limpet.registry.reference import parse_reference
from limpet.registry.sink import Sink
from limpet.registry.transfer import Patience, Wanted, download
from limpet.worker.messages import Failed, Fetched, Fetching

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence

    from limpet.registry.pull import Image
    from limpet.worker.channel import Channel
    from limpet.worker.config import FetchConfig

_READABLE = ("/etc", "/usr", "/lib", "/lib64", "/run")
_REPORT_SECONDS = 0.5
_OF_THE_REGISTRY = (MissingError, UnauthorizedError, CredentialsError)


class SchemeError(UnavailableError):
    """A scheme that this version can't fetch."""

    reason = "UnsupportedSource"


@dataclass(frozen=True, slots=True)
class Equipment:
    """What a download takes along behind its walls: trusted certificates, read while that was possible,
    and the directories it reads later (resolver settings and libraries), opened.
    """

    trust: ssl.SSLContext
    directories: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Files:
    """What a download writes. `evidence` is a descriptor."""

    partial: Sink
    module: Sink
    evidence: int


def equip() -> Equipment:
    """Import and read what a download needs, while this process may still read it."""
    import encodings.idna
    import stringprep

    del encodings, stringprep
    found = [path for path in _READABLE if os.path.exists(path)]
    directories = tuple(os.open(path, os.O_PATH | os.O_CLOEXEC) for path in found)
    return Equipment(make_trust(), directories)


def fetch_module(
    channel: Channel, config: FetchConfig, descriptors: Sequence[int], equipment: Equipment
) -> int:
    """Fetch as configured, tell the agent, return the exit code.

    Descriptors: partial download, notes on it, module, evidence.
    """
    partial, notes, module, evidence = descriptors
    files = Files(
        Sink(partial, config.max_bytes, notes=notes), Sink(module, config.max_bytes), evidence
    )
    report = _reporter(channel)
    keychain = Keychain()
    try:
        keychain = parse_keychain(config.credentials)
        trust = trust_also(equipment.trust, config.authority)
        if config.scheme == "https":
            fetched = fetch_https(config, files.partial, trust, report)
        elif config.scheme == "oci":
            fetched = fetch_oci(config, files, trust, report, keychain)
        else:
            raise SchemeError(f"{config.scheme}:// sources can't be fetched by this version")
    except LimpetError as error:
        # Somebody may push it, or change credentials, without a word to this node.
        may_pass = error.is_retryable or isinstance(error, _OF_THE_REGISTRY)
        channel.send(Failed(error.reason, keychain.redact(str(error))[:2000], may_pass))
        return 1
    except OSError as error:
        text = keychain.redact(f"{config.location}: {error}")
        channel.send(Failed("FetchFailed", text[:2000], True))
        return 1
    channel.send(fetched)
    return 0


def fetch_https(
    config: FetchConfig,
    sink: Sink,
    trust: ssl.SSLContext,
    report: Callable[[int, int | None], None],
) -> Fetched:
    """GET over TLS, verified against the system's certificates (or `SSL_CERT_FILE`'s)."""
    line = _line(config, trust)
    wanted = Wanted(what=config.location, key=config.location, digest=config.digest)
    if not config.location.startswith("https://"):
        raise FetchError(f"{config.location}: not an https:// address")
    download(
        lambda headers: request(
            line, "GET", config.location, {"Accept": "application/wasm, */*", **headers}
        ),
        sink,
        wanted,
        patience=Patience(attempts=config.attempts),
        report=report,
    )
    return Fetched(sink.digest, sink.size, "", "partial")


def fetch_oci(
    config: FetchConfig,
    files: Files,
    trust: ssl.SSLContext,
    report: Callable[[int, int | None], None],
    keychain: Keychain,
) -> Fetched:
    """Pull from a registry, unless what the reference names is what the node knows already."""
    reference = parse_reference(config.location)
    # A mirror gets its own credentials, never those of the registry that it stands in for.
    mirror = config.endpoint.partition("://")[2]
    asked = f"{mirror}/{reference.repository}" if mirror else reference.name
    credentials = keychain.find(asked)
    registry = Registry(
        _line(config, trust), reference, credentials, endpoint=config.endpoint, actions="pull"
    )
    patience = Patience(attempts=config.attempts)
    manifest, digest = resolve_digest(registry, config.digest or reference.version, patience)
    is_known = digest == config.known_manifest
    if is_known and not config.wants_signatures:
        return Fetched(config.known_module, 0, digest, "store")
    image = read_image(
        registry, manifest, digest, patience=patience, wants_signatures=config.wants_signatures
    )
    if config.wants_signatures:
        os.pwrite(files.evidence, encode_evidence(image.evidence).encode(), 0)
    if is_known and _is_of(image, config):
        return Fetched(config.known_module, 0, digest, "store")
    sink = pull_module(
        registry, image.content, files.partial, files.module, patience=patience, report=report
    )
    if sink is files.partial:
        return Fetched(sink.digest, sink.size, digest, "partial")
    return Fetched(sink.digest, sink.size, digest, "module", extracted_from=image.digests[-1])


def _is_of(image: Image, config: FetchConfig) -> bool:
    """Whether the image is known to have the known module: a bundle may have said so."""
    if isinstance(image.content, ModuleLayer):
        return image.content.layer.digest == config.known_module
    return image.digests[-1] == config.extracted_from


def _line(config: FetchConfig, trust: ssl.SSLContext) -> Line:
    proxy, excepted = own_proxy()
    rates = Rates(least=config.least_bytes_per_second, most=config.most_bytes_per_second)
    return Line(trust=trust, rates=rates, proxy=proxy, no_proxy=excepted)


def _reporter(channel: Channel) -> Callable[[int, int | None], None]:
    last = 0.0

    def report(done: int, total: int | None) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _REPORT_SECONDS:
            last = now
            channel.send(Fetching(done, total or 0))

    return report
