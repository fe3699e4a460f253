"""Kubernetes YAML -> frozen model. Pure; every field that is not honoured is refused.

Names are loaded on first use, so that who parses plain dicts never pays for a YAML library.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from limpet.manifest.documents import Document, load_documents
    from limpet.manifest.parse import parse_object
    from limpet.manifest.problems import ManifestError, Problem

__all__ = ["Document", "ManifestError", "Problem", "load_documents", "parse_object"]

_HOMES = {
    "Document": "documents",
    "ManifestError": "problems",
    "Problem": "problems",
    "load_documents": "documents",
    "parse_object": "parse",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), name)
