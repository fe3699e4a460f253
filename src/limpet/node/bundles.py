"""The node's side of bundles: whose signature one has, and which of its compiled code may run here.

Compiled code is machine code that workers run as it is. It is taken from a bundle only when the index is
signed by a key of the setting `bundles.keys`, and then exactly what that index stands for, by digest, and
only for the engine, settings and processor that this node has. Everything else is compiled here.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from limpet.bundle import layout
from limpet.bundle.errors import UntrustedBundleError
from limpet.engine.protocol import ModuleInfo
from limpet.errors import DeniedError, InvalidInputError, LimpetError, UnavailableError
from limpet.node.operator_files import MAX_KEYS_BYTES, SettingsFileError, read_operator_file
from limpet.plan import PlanError
from limpet.registry.evidence import Evidence, Signature, encode_evidence
from limpet.store.modules import DigestError

if TYPE_CHECKING:
    from pathlib import Path

    from limpet.bundle.layout import Blob
    from limpet.node.verifying import Verifier
    from limpet.settings import Settings
    from limpet.store.modules import ModuleStore
    from limpet.worker.supervisor import Zygotes

MAX_COMPILED_BYTES = 1 << 30


class TrustedKeysError(UnavailableError):
    """The keys of the setting `bundles.keys` can't be used."""

    reason = "BundleKeysUnusable"


class CompiledCodeError(DeniedError):
    """Compiled code that no trusted bundle vouches for."""

    reason = "CompiledCodeDenied"


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What the node makes of a bundle. `signed_by` is a trusted key's fingerprint, None without one;
    `wanted` are the digests of compiled code that it would take.
    """

    signed_by: str | None
    wanted: tuple[str, ...]


class Bundles:
    """Judges bundles and takes compiled code; what was judged last is what is taken."""

    def __init__(
        self, settings: Settings, *, zygotes: Zygotes, store: ModuleStore, verifier: Verifier
    ) -> None:
        self._settings = settings
        self._zygotes = zygotes
        self._store = store
        self._verifier = verifier
        self._vouched: dict[str, Blob] = {}

    async def judge(self, index: bytes, manifest: bytes, signature: str | None) -> Offer:
        """Say whose a bundle is and which of its compiled code is wanted.

        Raises `UntrustedBundleError` when the operator wants signed ones only, and other LimpetErrors.
        """
        if layout.digest_of(manifest) != layout.parse_index(index).digest:
            raise DigestError("the manifest is not the one that the index names")
        contents = layout.parse_manifest(manifest)
        signed_by = await self._verify(index, signature) if signature is not None else None
        if signed_by is None and self._settings.bundles.require_signature:
            raise UntrustedBundleError(
                "no key of bundles.keys has signed the bundle, and bundles.require_signature refuses "
                "others; nothing was changed"
            )
        self._vouched = {}
        if signed_by is not None:
            keys = await self._artifact_keys({_engine_of(blob) for blob in contents.compiled})
            self._vouched = {
                blob.digest: blob for blob in contents.compiled if self._is_wanted(blob, keys)
            }
        return Offer(signed_by=signed_by, wanted=tuple(self._vouched))

    def _is_wanted(self, blob: Blob, keys: set[str]) -> bool:
        name = blob.annotations[layout.COMPILED_NAME]
        target = name[65:].removesuffix(".cwasm").removesuffix("-metered")
        if target not in keys:
            return False
        found = self._store.open_artifact(name)
        if found is not None:
            os.close(found.descriptor)
        return found is None

    async def _artifact_keys(self, engines: set[str]) -> set[str]:
        """What compiled code has to be for; an engine that is not here is for nothing."""
        keys = set()
        for engine in sorted(engines & {"wasmtime", "wasmedge"}):
            try:
                keys.add((await self._zygotes.of(engine).engine()).artifact_key)
            except UnavailableError:
                continue
        return keys

    async def _verify(self, index: bytes, signature: str) -> str | None:
        try:
            keys = self._read_keys()
        except SettingsFileError as error:
            raise TrustedKeysError(str(error)) from error
        if not keys:
            return None
        try:
            raw = base64.b64decode(signature, validate=True)
        except (binascii.Error, ValueError) as error:
            raise InvalidInputError("the bundle's signature is not base64") from error
        evidence = encode_evidence(Evidence(signatures=(Signature(index, raw),)))
        try:
            verified = await self._verifier.verify(evidence, keys, module=None)
        except PlanError as error:
            raise TrustedKeysError(f"bundles.keys: {error}") from error
        return verified.signed_by or None

    def _read_keys(self) -> tuple[str, ...]:
        names = (part.strip() for part in self._settings.bundles.keys.split(","))
        return tuple(
            read_operator_file(name, "bundles.keys", most_bytes=MAX_KEYS_BYTES)
            for name in names
            if name
        )

    def stage(self, digest: str) -> CompiledUpload:
        """Begin to take compiled code."""
        return CompiledUpload(self._store, self._vouched.get(digest), digest)


class CompiledUpload:
    """Compiled code on its way in: written in pieces, sealed when the digest is right."""

    max_bytes = MAX_COMPILED_BYTES

    def __init__(self, store: ModuleStore, blob: Blob | None, digest: str) -> None:
        self._store = store
        self._blob = blob
        self._digest = digest
        self._state = hashlib.sha256()
        self._staged: tuple[Path, int] | None = None
        if blob is not None:
            self._staged = store.stage_artifact(os.urandom(8).hex())

    def write(self, data: bytes) -> None:
        """Take the next piece; what nobody vouches for is written nowhere, and `finish` says so."""
        if self._staged is None:
            return
        self._state.update(data)
        view = memoryview(data)
        while view:
            view = view[os.write(self._staged[1], view) :]

    def finish(self) -> None:
        """Seal it. Raises `DigestError`, `CompiledCodeError`."""
        if self._staged is None or self._blob is None:
            raise self._refusal()
        found = f"sha256:{self._state.hexdigest()}"
        if found != self._digest:
            raise DigestError(f"the bytes are {found}, not {self._digest}")
        path, descriptor = self._staged
        imports, exports, memory_bytes = layout.parse_info(self._blob)
        info = ModuleInfo(imports=imports, exports=exports, memory_bytes=memory_bytes)
        os.fsync(descriptor)
        name = self._blob.annotations[layout.COMPILED_NAME]
        sealed = self._store.seal_artifact(name, path, descriptor, info)
        os.close(sealed.descriptor)
        self.abandon()

    def abandon(self) -> None:
        """Forget what was written."""
        if self._staged is not None:
            path, descriptor = self._staged
            self._staged = None
            os.close(descriptor)
            path.unlink(missing_ok=True)

    def _refusal(self) -> LimpetError:
        return CompiledCodeError(
            f"no bundle with a trusted signature has compiled code {self._digest[:80]} for this node; "
            "the node compiles it by itself"
        )


def _engine_of(blob: Blob) -> str:
    """The engine in `HEX-ENGINE-VERSION-...cwasm`."""
    return blob.annotations[layout.COMPILED_NAME][65:].partition("-")[0]
