"""Downloading one thing to its end over links that break: resumed, retried, checked.

Ranges are RFC 9110's (section 14). A server that ignores them, or has something else meanwhile, is
answered by starting over: what counts is the digest at the end.
"""

from __future__ import annotations

import random
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from limpet.registry.errors import FetchError, FetchFailedError, UnendedError
from limpet.registry.exchange import failed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from limpet.registry.exchange import Response
    from limpet.registry.sink import Sink

_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")
_LONGEST_PAUSE_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is to come: `key` names it in the notes, `what` in messages; the rest as far as known.

    `is_fixed` means that the same address never has other content, so that any part can be gone on with.
    """

    what: str
    key: str
    size: int | None = None
    digest: str | None = None
    is_fixed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How often to try again without a byte of progress, and the first pause; it doubles, with jitter."""

    attempts: int = 4
    pause_seconds: float = 0.5
    sleep: Callable[[float], None] = time.sleep

    def wait(self, failures: int, error: FetchFailedError) -> None:
        """Pause after so many failures in a row, at least as long as the server asked for."""
        longest = min(_LONGEST_PAUSE_SECONDS, self.pause_seconds * 2 ** (failures - 1))
        share = random.random()  # noqa: S311 - spreads load, hides nothing
        asked = error.retry_after_seconds
        self.sleep(max(longest * (1 + share) / 2, asked * (1 + share / 10)))


def download(
    open_at: Callable[[Mapping[str, str]], Response],
    sink: Sink,
    wanted: Wanted,
    *,
    patience: Patience,
    report: Callable[[int, int | None], None],
) -> None:
    """Fill the sink; `open_at` asks for it with these headers, `report` is told bytes and their total.

    Raises `FetchError` when the content is not what was wanted, `FetchFailedError` when it did not come,
    `DiskFullError` when there is no room for it.
    """
    sink.take_up(wanted.key)
    was_resumed = sink.size > 0
    if wanted.size is not None and wanted.size > sink.max_bytes:
        raise FetchError(
            f"{wanted.what} has {wanted.size >> 20} MiB; the module is over {sink.max_bytes >> 20} MiB"
        )
    while True:
        _complete(open_at, sink, wanted, patience=patience, report=report)
        if wanted.digest in (None, sink.digest):
            sink.finish()
            return
        if not was_resumed:
            found = sink.digest
            sink.clear()
            raise FetchError(f"{wanted.what} is {found}, but the manifest pins {wanted.digest}")
        was_resumed = False  # a part that a power cut tore, or of another version
        sink.clear()


def _complete(
    open_at: Callable[[Mapping[str, str]], Response],
    sink: Sink,
    wanted: Wanted,
    *,
    patience: Patience,
    report: Callable[[int, int | None], None],
) -> None:
    failures = 0
    while sink.size != wanted.size:
        before = sink.size
        try:
            _continue(open_at, sink, wanted, report)
        except FetchFailedError as error:
            failures = 1 if sink.size > before else failures + 1
            if failures >= patience.attempts:
                raise
            patience.wait(failures, error)
        else:
            return


def _continue(
    open_at: Callable[[Mapping[str, str]], Response],
    sink: Sink,
    wanted: Wanted,
    report: Callable[[int, int | None], None],
) -> None:
    headers = {}
    if sink.size and sink.size != wanted.size:
        if wanted.is_fixed or wanted.digest is not None:
            headers = {"Range": f"bytes={sink.size}-"}
        elif sink.validator:
            headers = {"Range": f"bytes={sink.size}-", "If-Range": sink.validator}
        else:
            sink.clear()
    with open_at(headers) as response:
        total = _begin(response, sink, wanted)
        try:
            for piece in response.pieces():
                if total is not None and sink.size + len(piece) > total:
                    raise FetchError(f"{wanted.what}: more than the {total} bytes that it has came")
                sink.write(piece)
                report(sink.size, total)
        except UnendedError as error:
            if wanted.digest is None:
                raise
            if sink.digest != wanted.digest:
                raise FetchFailedError(
                    f"{wanted.what}: the download ended after {sink.size} bytes, which are not "
                    f"{wanted.digest}"
                ) from error
    if total is not None and sink.size < total:
        raise FetchFailedError(f"{wanted.what}: the download ended after {sink.size} bytes")


def _begin(response: Response, sink: Sink, wanted: Wanted) -> int | None:
    """Find out what the answer's body is; return how large the whole is, if that was said."""
    if response.status == 416 and sink.size:
        sink.clear()
        raise FetchFailedError(f"{wanted.what}: the server has no more of it; starting over")
    if response.status not in (200, 206):
        raise failed(response, wanted.what)
    if response.status == 206:
        total = _ranged(response, sink, wanted)
    else:
        sink.clear()
        total = response.length
        validator = response.header("ETag")
        is_strong = validator.startswith('"')
        sink.note(wanted.key, validator if is_strong else "")
    if wanted.size is not None and total is not None and total != wanted.size:
        raise FetchError(f"{wanted.what} has {total} bytes, but {wanted.size} were announced")
    total = total if wanted.size is None else wanted.size
    if total is not None:
        if total > sink.max_bytes:
            raise FetchError(f"{wanted.what}: the module is over {sink.max_bytes >> 20} MiB")
        sink.require_room(total - sink.size)
    return total


def _ranged(response: Response, sink: Sink, wanted: Wanted) -> int | None:
    match = _CONTENT_RANGE.fullmatch(response.header("Content-Range"))
    if match is None or int(match.group(1)) != sink.size:
        sink.clear()
        raise FetchFailedError(
            f"{wanted.what}: another part came than was asked for; starting over"
        )
    return None if match.group(3) == "*" else int(match.group(3))
