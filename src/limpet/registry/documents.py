"""JSON from registries: bounded, and of the shape that the image specification gives it. Pure."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from limpet.registry.errors import FormatError
from limpet.registry.reference import is_digest

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_DOCUMENT_BYTES = 4 << 20
"""The distribution specification's limit for manifests, taken for configurations too."""
_MOST_BYTES_OF_A_BLOB = 1 << 40
_MOST_ENTRIES = 1000
_MOST_NESTING = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """What points at content (image specification 1.1, descriptor.md); `size` is in bytes."""

    media_type: str
    digest: str
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict)
    platform: tuple[str, str] = ("", "")
    """Operating system and architecture."""


def digest_of(data: bytes) -> str:
    """The digest that names these bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def parse_object(data: bytes, what: str) -> dict[str, object]:
    """A JSON object of at most 4 MiB. Raises `FormatError` naming `what`."""
    if len(data) > MAX_DOCUMENT_BYTES:
        raise FormatError(f"{what} is larger than {MAX_DOCUMENT_BYTES >> 20} MiB")
    try:
        _check_nesting(data)
        document = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{what} is not JSON") from error
    if not isinstance(document, dict):
        raise FormatError(f"{what} is not a JSON object")
    return document


def read_descriptor(value: object, what: str) -> Descriptor:
    """A descriptor. Raises `FormatError` for one that points at nothing that could be fetched."""
    if not isinstance(value, dict):
        raise FormatError(f"{what} is not a descriptor")
    media_type, digest, size = value.get("mediaType"), value.get("digest"), value.get("size")
    if not isinstance(media_type, str) or len(media_type) > 255 or not media_type.isprintable():
        raise FormatError(f"{what}: mediaType is not a media type")
    if not is_digest(digest):
        raise FormatError(f"{what}: digest is not sha256: and 64 hexadecimal digits")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < _MOST_BYTES_OF_A_BLOB:
        raise FormatError(f"{what}: size is not a number of bytes")
    platform = value.get("platform")
    found = platform if isinstance(platform, dict) else {}
    return Descriptor(
        media_type=media_type,
        digest=str(digest),
        size=size,
        annotations=read_texts(value.get("annotations")),
        platform=(read_text(found.get("os")), read_text(found.get("architecture"))),
    )


def read_descriptors(value: object, what: str) -> tuple[Descriptor, ...]:
    """A list of descriptors. Raises `FormatError`."""
    if not isinstance(value, list) or len(value) > _MOST_ENTRIES:
        raise FormatError(f"{what} is not a list of at most {_MOST_ENTRIES} descriptors")
    return tuple(read_descriptor(each, f"{what}[{index}]") for index, each in enumerate(value))


def read_texts(value: object) -> dict[str, str]:
    """The entries of a mapping that are texts; what is none is left out."""
    if not isinstance(value, dict):
        return {}
    return {key: text for key, text in list(value.items())[:_MOST_ENTRIES] if isinstance(text, str)}


def read_text(value: object) -> str:
    """A short printable text; what is none is empty."""
    is_good = isinstance(value, str) and len(value) <= 255 and value.isprintable()
    return str(value) if is_good else ""


def _check_nesting(data: bytes) -> None:
    """Refuse depth bombs before the parser goes as deep: brackets within texts count too, rarely."""
    depth = deepest = 0
    for byte in data.translate(None, _ALL_BUT_BRACKETS):
        depth += 1 if byte in b"[{" else -1
        deepest = max(deepest, depth)
        if deepest > _MOST_NESTING:
            raise ValueError("nested too deeply")


_ALL_BUT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
