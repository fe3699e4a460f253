"""The API's calls about an app's log (docs/api.md): what was printed, and what is being printed."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING

from limpet.api.queries import read_number, read_seconds
from limpet.api.streaming import LogStreamResponse
from limpet.node.status import format_time

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping

    from limpet.node.apps import AppRuntime
    from limpet.store.logs import Record

_LAST_LINES = 10
_FOLLOW_QUEUE = 10_000
_FOLLOW_CHECK_SECONDS = 0.25


def stream_logs(runtime: AppRuntime, query: Mapping[str, str]) -> LogStreamResponse:
    """Return the lines that a query asks for, and those to come if it does. Raises `InvalidInputError`."""
    tail = read_number(query, "tail", default=None)
    ago = read_seconds(query, "since")
    as_json = query.get("format") == "json"
    with_time = query.get("timestamps") == "true"

    def encode(record: Record) -> bytes:
        return _encode_record(record, as_json=as_json, with_time=with_time)

    return LogStreamResponse(
        b"application/x-ndjson" if as_json else b"text/plain; charset=utf-8",
        _log_chunks(
            runtime,
            encode,
            tail=tail,
            since=None if ago is None else time.time() - ago,
            previous=query.get("previous") == "true",
            follow=query.get("follow") == "true",
        ),
    )


def describe_last_output(runtime: AppRuntime) -> list[dict[str, object]]:
    """Return the last lines of each worker that has failed, as it ended."""
    return [_describe_record(record) for record in runtime.last_output(_LAST_LINES)]


async def _log_chunks(
    runtime: AppRuntime,
    encode: Callable[[Record], bytes],
    *,
    tail: int | None,
    since: float | None,
    previous: bool,
    follow: bool,
) -> AsyncGenerator[bytes, None]:
    queue: asyncio.Queue[Record] = asyncio.Queue(_FOLLOW_QUEUE)

    def offer(record: Record) -> None:
        if not queue.full():  # a reader that can't keep up misses lines, the app waits for nobody
            queue.put_nowait(record)

    stop_following = runtime.log.follow(offer) if follow else None
    try:
        batch: list[bytes] = []
        for record in runtime.log.read(tail=tail, since=since, previous=previous):
            batch.append(encode(record))
            if len(batch) >= 500:
                yield b"".join(batch)
                batch.clear()
        if batch:
            yield b"".join(batch)
        while follow:
            try:
                async with asyncio.timeout(_FOLLOW_CHECK_SECONDS):
                    first = await queue.get()
            except TimeoutError:
                if runtime.is_over:
                    return
                continue
            batch = [encode(first)]
            while not queue.empty() and len(batch) < 500:
                batch.append(encode(queue.get_nowait()))
            yield b"".join(batch)
    finally:
        if stop_following is not None:
            stop_following()


def _describe_record(record: Record) -> dict[str, object]:
    return {
        "time": format_time(record.time, with_micros=True),
        "stream": record.stream,
        "worker": record.worker,
        "line": record.line,
    }


def _encode_record(record: Record, *, as_json: bool, with_time: bool) -> bytes:
    if as_json:
        return json.dumps(_describe_record(record)).encode() + b"\n"
    when = format_time(record.time, with_micros=True)
    return (f"{when} {record.line}\n" if with_time else f"{record.line}\n").encode()
