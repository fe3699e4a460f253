"""Bytes of manifests -> objects that can be applied, by way of a walled process."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from limpet.errors import InvalidInputError, TemporaryError
from limpet.manifest.model import App
from limpet.manifest.parse import parse_object
from limpet.manifest.problems import ManifestError
from limpet.node.tasks import RetryableError, memory_file, refusal, run_task
from limpet.worker.config import ManifestsConfig, write_config

if TYPE_CHECKING:
    from collections.abc import Mapping

    from limpet.manifest.model import ModuleSource
    from limpet.store.database import ObjectKey
    from limpet.worker.supervisor import Zygotes

_PARSE_SECONDS = 300.0
_MAX_ANSWER_BYTES = 64 << 20
_MAX_SHOWN_PROBLEMS = 20


class ParseFailedError(TemporaryError):
    """The process that parses ended without an answer."""

    reason = "ManifestsNotParsed"


class InvalidManifestFileError(InvalidInputError):
    """A file that can't be applied; its problems carry `file:line`."""

    reason = "ManifestInvalid"


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """An object of a file. `source` is an app's module, `name_at` and `image_at` are `file:line`."""

    key: ObjectKey
    object: dict[str, object]
    source: ModuleSource | None
    name_at: str
    image_at: str


class Parser:
    """Has manifests parsed, one process for any number of them."""

    def __init__(self, zygotes: Zygotes) -> None:
        self._zygotes = zygotes

    async def parse(self, files: Mapping[str, bytes]) -> list[bytes]:
        """Return an answer for each file, for `read_answer`. Raises `ParseFailedError`."""
        source, answer = memory_file(b"".join(files.values())), memory_file()
        try:
            sizes = tuple((name, len(content)) for name, content in files.items())
            ended = await run_task(
                self._zygotes.default,
                "manifests",
                write_config(ManifestsConfig(files=sizes)),
                [source, answer],
                seconds=_PARSE_SECONDS,
            )
            if os.fstat(answer).st_size > _MAX_ANSWER_BYTES:
                raise ParseFailedError("the manifests are too large together; make them fewer")
            lines = os.pread(answer, _MAX_ANSWER_BYTES, 0).split(b"\n")[:-1]
        except RetryableError as error:
            raise ParseFailedError(f"the manifests could not be parsed: {error}") from error
        finally:
            os.close(source)
            os.close(answer)
        if len(lines) < len(files):
            problem = refusal(ended, "ManifestsNotParsed", "the manifests could not be parsed")
            raise ParseFailedError(str(problem))
        return lines


def read_answer(name: str, line: bytes) -> list[Document]:
    """Return a file's objects. Raises `InvalidManifestFileError` with its problems."""
    try:
        answer = json.loads(line)
        problems = answer.get("problems")
        if problems is not None:
            shown = [str(problem) for problem in problems[:_MAX_SHOWN_PROBLEMS]]
            raise InvalidManifestFileError("\n".join(shown))
        return [_document(each) for each in answer["documents"]]
    except ManifestError as error:
        raise InvalidManifestFileError(f"{name}:1: {error}") from error
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidManifestFileError(f"{name}:1: its parser's answer makes no sense") from error


def _document(told: Mapping[str, object]) -> Document:
    plain = told["object"]
    if not isinstance(plain, dict):
        raise TypeError("an object is a mapping")
    resource = parse_object(plain)
    return Document(
        key=(resource.kind, resource.namespace, resource.name),
        object=plain,
        source=resource.source if isinstance(resource, App) else None,
        name_at=str(told["name_at"]),
        image_at=str(told["image_at"]),
    )
