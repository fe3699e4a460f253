"""What the `manifests` role does: YAML that anybody may have written becomes plain objects, or problems.

The parser is C code and its input is hostile: it runs where there is nothing to gain. What comes out is
validated again by the agent, which believes nothing but the lines that problems are said to be in.
"""

from __future__ import annotations

import difflib
import encodings.unicode_escape
import ipaddress
import json
import os
import urllib.parse
from typing import TYPE_CHECKING

from limpet.manifest.documents import load_documents
from limpet.manifest.model import App
from limpet.manifest.parse import parse_object
from limpet.manifest.problems import ManifestError, Problem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from limpet.manifest.documents import Document
    from limpet.worker.config import ManifestsConfig


# Imported late where they are used, which is behind the walls here.
_NEEDED = (difflib, encodings.unicode_escape, ipaddress, urllib.parse)


def parse_manifests(config: ManifestsConfig, descriptors: Sequence[int]) -> int:
    """Parse each file and write the answers as JSON, one a line, in order; return the exit code."""
    source, answer = descriptors
    offset = 0
    for name, size in config.files:
        content = os.pread(source, size, offset)
        offset += size
        line = memoryview(json.dumps(parse_file(name, content)).encode() + b"\n")
        while line:
            line = line[os.write(answer, line) :]
    return 0


def parse_file(name: str, content: bytes) -> dict[str, object]:
    """`{"documents": [...]}`, or `{"problems": [...]}` with every problem of the file."""
    try:
        documents = load_documents(content, file=name)
    except ManifestError as error:
        return _refuse(error.problems)
    problems: list[Problem] = []
    found: list[dict[str, object]] = []
    for document in documents:
        try:
            found.append(_describe(document))
        except ManifestError as error:
            problems += error.problems
    if not documents:
        problems.append(Problem(f"{name}:1", "", "has no object in it"))
    return _refuse(problems) if problems else {"documents": found}


def _describe(document: Document) -> dict[str, object]:
    resource = parse_object(document.object, locate=document.locate)
    steps: tuple[str, ...] = ()
    if isinstance(resource, App):
        steps = ("spec",) if resource.kind == "Pod" else ("spec", "template", "spec")
    return {
        "object": document.object,
        "name_at": document.locate(("metadata", "name")),
        "image_at": document.locate((*steps, "containers", 0, "image")),
    }


def _refuse(problems: Sequence[Problem]) -> dict[str, object]:
    return {"problems": [str(problem) for problem in problems]}
