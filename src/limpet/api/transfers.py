"""The calls that move modules and compiled code out of the node, and judge bundles (docs/api.md)."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from limpet.api.streaming import LogStreamResponse
from limpet.engine.protocol import CompileOptions
from limpet.errors import InvalidInputError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from limpet.node.agent import Agent

_PIECE_BYTES = 256 << 10
_OCTETS = b"application/octet-stream"
_ENGINES = ("wasmtime", "wasmedge")


def send_module(agent: Agent, digest: str) -> LogStreamResponse:
    """A module's bytes. Raises `NotFoundError`."""
    try:
        descriptor = agent.store.open_module(digest)
    except FileNotFoundError as error:
        raise NotFoundError(f"the node has no module {digest}") from error
    return LogStreamResponse(_OCTETS, _pieces(descriptor))


def send_compiled(agent: Agent, name: str) -> LogStreamResponse:
    """Compiled code's bytes. Raises `NotFoundError`."""
    found = None
    if "/" not in name and not name.startswith("."):
        found = agent.store.open_artifact(name)
    if found is None:
        raise NotFoundError(f"the node has no compiled code {name[:100]}")
    return LogStreamResponse(_OCTETS, _pieces(found.descriptor))


async def compile_module(agent: Agent, digest: str, query: Mapping[str, str]) -> dict[str, object]:
    """Compile a module that is here, as for an app, and describe the result. Raises LimpetError."""
    engine = query.get("engine", _ENGINES[0])
    if engine not in _ENGINES:
        raise InvalidInputError(f"engine={engine!r:.40}: known are {', '.join(_ENGINES)}")
    if not agent.store.has_module(digest):
        raise NotFoundError(f"the node has no module {digest}; upload it first")
    options = CompileOptions(is_metered=query.get("metered") == "true")
    artifact = await agent.modules.artifact(digest, engine, options)
    return {
        "name": await agent.modules.artifact_name(digest, engine, options),
        "imports": list(artifact.info.imports),
        "exports": list(artifact.info.exports),
        "memory_bytes": artifact.info.memory_bytes,
    }


def show_evidence(agent: Agent, digest: str, query: Mapping[str, str]) -> dict[str, object]:
    """What came with a module when it was pulled from `source`; `evidence` is null when nothing did."""
    pull = agent.pulls.of_module(query.get("source", ""), digest)
    return {"evidence": json.loads(pull.evidence) if pull is not None and pull.evidence else None}


async def judge_bundle(agent: Agent, document: Mapping[str, object]) -> dict[str, object]:
    """Say whose a bundle is and which of its compiled code the node takes. Raises LimpetError."""
    index, manifest = document.get("index"), document.get("manifest")
    signature = document.get("signature")
    if (
        not isinstance(index, str)
        or not isinstance(manifest, str)
        or not isinstance(signature, str | None)
    ):
        raise InvalidInputError("expected `index`, `manifest` and maybe `signature` as texts")
    offer = await agent.bundles.judge(index.encode(), manifest.encode(), signature)
    return {"signed_by": offer.signed_by, "wanted": list(offer.wanted)}


async def _pieces(descriptor: int) -> AsyncGenerator[bytes, None]:
    """A file's bytes; closes it."""
    try:
        offset = 0
        while piece := os.pread(descriptor, _PIECE_BYTES, offset):
            offset += len(piece)
            yield piece
    finally:
        os.close(descriptor)
