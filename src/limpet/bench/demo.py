"""`limpet demo`: deploy the examples, send them real requests, measure what a user would feel.

Every app is scaled to zero first, so that its first request is a real cold start. The fetched examples
(QuickJS, Python) take part when their modules have been built beside their manifests.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from limpet.bench.requests import Answer, RequestFailedError, Session
from limpet.errors import TemporaryError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from limpet.api.answers import AppStatus
    from limpet.api.client import Client

_WARM_SECONDS = 1.5
_MAX_WARM_REQUESTS = 2000
_READY_SECONDS = 120.0
_COLD_STARTS = 5
_REST_SECONDS = 0.2
_IDLE_TIMEOUT = "300ms"

Deploy: TypeAlias = "Callable[[Path, Callable[[dict[str, object]], None]], None]"


class DemoError(TemporaryError):
    """An example did not do what it is there for."""

    reason = "DemoFailed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One example: its folder, its app, and the requests that show it works."""

    folder: str
    app: str
    what: str
    requests: tuple[tuple[str, str, bytes, int, bytes], ...] = ()
    """(method, target, body, expected status, text expected in the answer)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the demo's table. Times in milliseconds; None where there is nothing to measure."""

    app: str
    what: str
    cold_start: float | None
    warm_p50: float | None
    warm_p99: float | None
    memory_bytes: int | None
    result: str
    is_good: bool


EXAMPLES = (
    Example(
        folder="hello",
        app="hello",
        what="C, 2 KB",
        requests=(("GET", "/?name=Limpet", b"", 200, b"Hello, Limpet!"),),
    ),
    Example(
        folder="sensor",
        app="sensor",
        what="C, JSON on a volume",
        requests=(
            ("GET", "/stats", b"", 200, b'"count":'),
            ("POST", "/readings", b'{"sensor":"t1","value":21.5}', 201, b'"stored":1'),
            ("POST", "/readings", b"{", 400, b"error"),
            ("GET", "/stats", b"", 200, b'"count":'),
        ),
    ),
    Example(folder="report", app="report", what="C, Job reading that volume"),
    Example(
        folder="quickjs",
        app="quickjs",
        what="JavaScript, QuickJS",
        requests=(
            ("POST", "/", b"[1, 2, 39]", 200, b"42"),
            ("GET", "/?name=Limpet", b"", 200, b"Hello, Limpet!"),
        ),
    ),
    Example(
        folder="python",
        app="python",
        what="Python 3.12, CPython",
        requests=(("GET", "/?name=Limpet", b"", 200, b"Limpet"),),
    ),
)


def find_examples() -> Path:
    """Return the folder of the examples: the installed package's, or the checkout's."""
    here = Path(__file__).resolve().parent
    for folder in (here / "examples", here.parents[2] / "examples"):
        if (folder / "hello" / "app.yaml").exists():
            return folder
    raise UnavailableError("this installation of Limpet has no examples; install it again with pip")


def is_available(folder: Path, example: Example) -> bool:
    """Whether the example's module is there."""
    return (folder / example.folder / f"{example.folder}.wasm").exists()


def run_demo(client: Client, deploy: Deploy, *, on_step: Callable[[str], None]) -> Iterator[Row]:
    """Deploy and measure each example on a running node; one row as each is done.

    `deploy(manifest file, edit)` applies a manifest, each object passed through `edit` first.
    """
    folder = find_examples()
    for example in EXAMPLES:
        if not is_available(folder, example):
            continue
        on_step(f"{example.app}: deploying and compiling")
        deploy(folder / example.folder / "app.yaml", _scale_to_zero)
        try:
            yield (
                _run_service(client, example, on_step)
                if example.requests
                else _run_job(client, example)
            )
        except (DemoError, RequestFailedError) as error:
            yield Row(
                app=example.app,
                what=example.what,
                cold_start=None,
                warm_p50=None,
                warm_p99=None,
                memory_bytes=None,
                result=str(error),
                is_good=False,
            )


def _scale_to_zero(manifest: dict[str, object]) -> None:
    """Let the app stop when idle, answer on a free port, and keep out of the way of others."""
    if manifest.get("kind") == "Service":
        manifest["spec"] = {**_table(manifest, "spec"), "selector": {"app": "nobody"}}
    if manifest.get("kind") != "Deployment":
        return
    template = _table(_table(manifest, "spec"), "template")
    metadata = _table(template, "metadata")
    annotations = {
        **_table(metadata, "annotations"),
        "limpet.dev/idle-timeout": _IDLE_TIMEOUT,
        "limpet.dev/listen": "127.0.0.1:0",
    }
    metadata["annotations"] = annotations


def _table(document: dict[str, object], key: str) -> dict[str, object]:
    value = document.get(key)
    return value if isinstance(value, dict) else {}


def _run_service(client: Client, example: Example, on_step: Callable[[str], None]) -> Row:
    status = _wait(client, example, {"Idle"})
    session = Session(status["endpoints"][0])
    try:
        first, *others = example.requests
        on_step(f"{example.app}: cold starts")
        cold = sorted(_measure_cold(client, example, session) for _ in range(_COLD_STARTS))
        _check(session.request(*first[:3]), first)
        for request in others:
            _check(session.request(*request[:3]), request)
        on_step(f"{example.app}: warm requests")
        times = _measure_warm(session, example)
        status = client.app(namespace="default", name=example.app)
    finally:
        session.close()
    usage = status.get("usage") or {}
    count = len(times)
    return Row(
        app=example.app,
        what=example.what,
        cold_start=cold[len(cold) // 2],
        warm_p50=times[count // 2],
        warm_p99=times[min(int(count * 0.99), count - 1)],
        memory_bytes=usage.get("pss_bytes"),
        result=f"{count + len(example.requests)} requests answered right",
        is_good=True,
    )


def _measure_cold(client: Client, example: Example, session: Session) -> float:
    """Wait until the app is stopped and the node at rest; return a first request's time."""
    session.close()
    _wait(client, example, {"Idle"})
    time.sleep(_REST_SECONDS)
    first = example.requests[0]
    return _check(session.request(*first[:3]), first).first_byte_milliseconds


def _measure_warm(session: Session, example: Example) -> list[float]:
    """Repeat the last request; return its sorted times."""
    request = example.requests[-1]
    times: list[float] = []
    until = time.monotonic() + _WARM_SECONDS
    while not times or (time.monotonic() < until and len(times) < _MAX_WARM_REQUESTS):
        times.append(_check(session.request(*request[:3]), request).milliseconds)
    return sorted(times)


def _check(answer: Answer, request: tuple[str, str, bytes, int, bytes]) -> Answer:
    method, target, _, status, text = request
    if answer.status != status or text not in answer.body:
        raise DemoError(
            f"{method} {target} answered {answer.status} {answer.body[:80]!r}, "
            f"not {status} with {text.decode()!r}"
        )
    return answer


def _run_job(client: Client, example: Example) -> Row:
    _wait(client, example, {"Succeeded"})
    lines = [
        line
        for line in client.log_lines(namespace="default", name=example.app, query={})
        if line.strip()
    ]
    return Row(
        app=example.app,
        what=example.what,
        cold_start=None,
        warm_p50=None,
        warm_p99=None,
        memory_bytes=None,
        result=f"succeeded, printed {len(lines)} lines",
        is_good=True,
    )


def _wait(client: Client, example: Example, phases: set[str]) -> AppStatus:
    until = time.monotonic() + _READY_SECONDS
    while True:
        status = client.app(namespace="default", name=example.app)
        if status["phase"] in phases:
            return status
        if status["phase"] == "Failed" or status.get("is_final"):
            raise DemoError(f"{status['reason']}: {status['message']}")
        if time.monotonic() > until:
            raise DemoError(f"still {status['phase']} after {_READY_SECONDS:.0f} s")
        with suppress(InterruptedError):
            time.sleep(0.02)
